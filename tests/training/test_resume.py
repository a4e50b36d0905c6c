"""A run that was stopped anywhere, by anything, ends as if it had not been."""

import os
import random
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from toy_task import ToyTask

from autosing.cli.train import main
from autosing.training import state as state_module
from autosing.training.log import MetricsFile
from autosing.training.loop import Trainer
from autosing.training.run_folder import held
from tests.train_runs import Runs, ended, environments, signalled


def ensure(reference: Runs, name: str, **values) -> None:
    if not (reference.path(name) / "state").is_dir():
        assert reference(name, **values) == 0


KILL_RUN = {"steps": 12, "validate_every_n_steps": 3, "ema": 0.9}


@pytest.mark.parametrize("at", range(1, 40, 6))
def test_killed_at_any_rename(runs, reference, at):
    """SIGKILL just before and just after the at-th file is put in its place; then the run goes on."""
    ensure(reference, "rename", **KILL_RUN)

    def kill_at(where: str):
        def arm() -> None:
            replace, count = os.replace, iter(range(1, 10_000))

            def deadly(a, b):
                now = next(count) == at
                if now and where == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(a, b)
                if now:
                    os.kill(os.getpid(), signal.SIGKILL)

            os.replace = deadly

        return arm

    for where in ("before", "after"):
        assert runs.apart(where, "--resume-from", "auto", before=kill_at(where), **KILL_RUN) in (-signal.SIGKILL, 0)
        assert runs(where, "--resume-from", "auto", **KILL_RUN) == 0
        runs.same(where, "rename", reference)
        assert not list(runs.path(where).rglob("*.tmp"))


def test_killed_again_and_again_at_random_times(runs, reference):
    """The kill falls some records after the last one plus a random moment, so it lands within the run on a machine of any speed."""
    values = {"steps": 100, "validate_every_n_steps": 4, "workers": 1}
    ensure(reference, "random", **values)
    metrics, rng, kills = runs.path("a") / "metrics.jsonl", random.Random(0), 0

    def records() -> int:
        return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0

    for _ in range(8):
        process = runs.start("a", "--resume-from", "auto", **values)
        goal = records() + rng.randint(0, 12)
        while process.exitcode is None and records() < goal:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.02))
        if process.exitcode is None:
            process.kill()
            kills += 1
        if ended(process) == 0:
            break
    assert runs("a", "--resume-from", "auto", **values) == 0
    assert kills >= 1
    runs.same("a", "random", reference)


@pytest.mark.parametrize("stops", [(4,), (9,), (3, 4, 7)])
def test_stopped_at_any_step_goes_on_the_same(runs, reference, stops, monkeypatch):
    """Also at an epoch's end (9 steps of 4 rows, 34 or so rows) and one step after a resume."""
    ensure(reference, "steps")
    for stop in stops:
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_update", signalled(stop))
            assert runs("a", "--resume-from", "auto") == 143
    assert runs("a", "--resume-from", "auto", workers=1) == 0
    runs.same("a", "steps", reference)


def test_a_signal_in_the_last_step_leaves_nothing_to_do(runs, reference, monkeypatch):
    """The run ends as it would have, its last validation too; nobody has to queue it again."""
    ensure(reference, "steps")
    monkeypatch.setattr(Trainer, "_update", signalled(12))
    assert runs("a") == 0
    runs.same("a", "steps", reference)


def test_killed_in_the_last_validation_after_a_signal_nothing_is_trained_again(runs, monkeypatch):
    """The signal comes with the last validation's first batch, the kill once the state is there."""
    values = {"ema": 0.9, "batch_size": 1}
    assert runs("whole", **values) == 0
    numbers, calls = runs.path("a") / "state" / "state.json", []

    def deadly() -> None:
        def last(self, plain=Trainer._validate_last):
            calls.append("begun")
            plain(self)

        def losses(self, model, batch, plain=ToyTask.losses):
            if calls:
                calls.append("batch")
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGUSR1)
            elif calls:
                while '"step": 12,' not in numbers.read_text():
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, model, batch)

        Trainer._validate_last, ToyTask.losses = last, losses

    assert runs.apart("a", before=deadly, **values) == -signal.SIGKILL
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", None)  # nothing is left to train
        assert runs("a", "--resume-from", "auto", **values) == 0
    runs.same("a", "whole")


def test_resume_needs_no_other_flag(runs, reference, monkeypatch):
    ensure(reference, "steps")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", signalled(6))
        assert runs("a") == 143
    assert main(["--resume-from", str(runs.path("a")), "--device", "cpu"]) == 0
    runs.same("a", "steps", reference)


def test_a_finished_run_stays_as_it_is(runs):
    assert runs("a") == 0
    before = (runs.path("a") / "metrics.jsonl").read_bytes()
    assert runs("a", "--resume-from", "auto") == 0
    assert (runs.path("a") / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "changed, field",
    [
        ({"seed": 5}, "seed"),
        ({"batch_size": 8}, "batch_size"),
        ({"steps": 30}, "steps"),
        ({"tunables": {"lr0": 0.5}}, "tunables.lr0"),
        ({"task_args": {"noise": 0.5}}, "args.noise"),
        ({"dataset": {"validation_share": 0.4}}, "dataset"),
    ],
)
def test_resume_with_something_else_is_refused_by_name(runs, capsys, changed, field):
    assert runs("a", steps=4) == 0
    values = {"steps": 4, **changed}
    assert runs("a", "--resume-from", "auto", **values) == 2
    assert f"was trained with {field} = " in capsys.readouterr().err
    assert runs("a", "--resume-from", "auto", "--allow-changed", **values) == 0


def test_a_moving_average_that_a_resume_adds_begins_at_the_loaded_weights(runs, monkeypatch):
    assert runs("a", steps=4) == 0
    equal = []

    def load(self, allow_changed, plain=Trainer._load):
        plain(self, allow_changed)
        live = self.model.state_dict()
        equal.extend(torch.equal(value, live[name]) for name, value in self.learner.ema.tensors().items())

    monkeypatch.setattr(Trainer, "_load", load)
    assert runs("a", "--resume-from", "auto", "--allow-changed", steps=5, ema=0.999) == 0
    assert equal and all(equal)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--task_name", "other"], "is a run of task toy, --task-name says other"),
        (["--load_from", "elsewhere"], "began from scratch, --load-from says 'elsewhere'"),
        (["--name", "b"], "--name says 'b'; leave --name out, or start a new run from its weights with --load-from"),
        (["--output_dir", "elsewhere"], "--output-dir says 'elsewhere'"),
    ],
)
def test_another_task_start_or_place_than_the_runs_own_is_refused(runs, capsys, flags, said):
    assert runs("a", steps=2) == 0
    assert runs("a", "--resume-from", str(runs.path("a")), "--allow-changed", *flags, steps=3) == 2
    assert said in capsys.readouterr().err


def test_a_run_goes_on_from_the_start_it_began_with_under_any_spelling(runs, capsys):
    for name in ("given", "other"):
        assert runs(name, steps=1) == 0
    begun = runs.path("given") / "best"
    assert runs("a", load_from=begun, steps=2) == 0
    assert runs("a", "--resume-from", "auto", load_from=begun.parent / ".." / "given" / "best", steps=2) == 0
    assert runs("a", "--resume-from", "auto", load_from=runs.path("other") / "best", steps=2) == 2
    assert f"began with the weights of '{begun}'" in capsys.readouterr().err
    assert f'load_from: "{begun}"' in (runs.path("a") / "config.yaml").read_text()


@pytest.mark.parametrize("before, after", [("32", "bf16"), ("bf16", "32")])
def test_a_run_goes_on_in_another_precision(runs, before, after):
    assert runs("a", steps=2, precision=before) == 0
    assert runs("a", "--resume-from", "auto", "--allow-changed", steps=4, precision=after) == 0
    kept = load_file(runs.path("a") / "state" / "state.safetensors")
    moments = {value.dtype for key, value in kept.items() if key.endswith(("/exp_avg", "/exp_avg_sq"))}
    assert moments == {torch.bfloat16 if after == "bf16" else torch.float32}


def test_settings_that_a_resume_changes_leave_the_others_as_they_were(runs):
    assert runs("a", steps=2, tunables={"output_mult": 2.0, "beta1": 0.5}, task_args={"width": 6}) == 0
    changed = {"tunables": {"lr0": 1e-3}, "task_args": {"noise": 0.5}}
    assert runs("a", "--resume-from", "auto", "--allow-changed", steps=4, **changed) == 0
    found = state_module.read_numbers(runs.path("a") / "state")["identity"]
    assert [found["tunables"][name] for name in ("output_mult", "beta1", "lr0")] == [2.0, 0.5, 1e-3]
    assert (found["args"]["width"], found["args"]["noise"]) == (6, 0.5)


def test_failed_save_keeps_the_last_state(runs, monkeypatch, capsys):
    """A disk that is full from the second save on: one line, exit 2, and the run goes on once there is room."""
    assert runs("whole") == 0
    saves = []

    def full(tensors, path, metadata=None, plain=state_module.save_file):
        saves.append(path)
        if len(saves) > 1:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        plain(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "save_file", full)
        assert runs("a") == 2
    assert "step 10 could not be saved" in capsys.readouterr().err
    assert state_module.read_numbers(runs.path("a") / "state")["step"] == 5
    assert not list(runs.path("a").rglob("*.tmp"))
    assert runs("a", "--resume-from", "auto") == 0
    runs.same("a", "whole")


def test_a_first_save_that_fails_tells_to_start_again(runs, monkeypatch, capsys):
    def full(tensors, path, metadata=None):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "save_file", full)
        assert runs("a") == 2
    assert capsys.readouterr().err.rstrip().endswith("make room, then start again")
    assert runs("a") == 0


@pytest.mark.parametrize("name, step", [("config.yaml", 0), ("metrics.jsonl", 6), ("loss.png", 5)])
def test_a_disk_that_is_full_for_anything_else_is_one_line_too(runs, monkeypatch, capsys, name, step):
    """Whatever is being written when the last room goes, the run ends in one line and goes on once there is room."""
    assert runs("whole") == 0

    def full(*anything: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if name == "config.yaml":
            patch.setattr("pathlib.Path.write_text", full)
        elif name == "metrics.jsonl":
            patch.setattr(MetricsFile, "write", lambda self, record, plain=MetricsFile.write: full() if record["step"] == step else plain(self, record))
        else:
            patch.setattr("autosing.training.log.draw_losses", full)
        assert runs("a") == 2
    assert f"step {step} could not be saved" in capsys.readouterr().err
    assert runs("a", "--resume-from", "auto") == 0
    runs.same("a", "whole")


def test_a_folder_in_which_another_process_trains_is_left_alone(runs, monkeypatch):
    """Neither a run that begins anew nor one that would go on disturbs the one at work."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=None))
    assert runs("a") == 0
    before = runs.outcome("a")
    curves = runs.path("a") / "tensorboard" / "events.out.tfevents.1"
    curves.parent.mkdir()
    curves.touch()
    with held(runs.path("a")):
        assert runs.apart("a", "--overwrite", "--tensorboard") == 2
        assert runs.apart("a", "--resume-from", "auto") == 2
    assert curves.exists()
    assert runs.said("a").count(f"error: another process trains in '{runs.path('a')}'") == 2
    assert runs.outcome("a") == before
    assert runs("a", "--resume-from", "auto") == 0


def test_damaged_state_is_named(runs, capsys):
    assert runs("a", steps=2) == 0
    path = runs.path("a") / "state" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert runs("a", "--resume-from", "auto", steps=2) == 2
    assert "state.safetensors' is damaged" in capsys.readouterr().err


def test_two_ranks_see_the_same_rows_and_learn_the_same(runs, reference):
    ensure(reference, "ranks", task_args={"noise": 0.0}, tunables={"lr0": 0.01})
    values = {"task_args": {"noise": 0.0}, "tunables": {"lr0": 0.01}}
    processes = [runs.start("a", environment=environment, **values) for environment in environments(2)]
    assert [ended(process) for process in processes] == [0, 0]
    losses = [[r["loss"] for r in x.records(n) if "loss" in r] for x, n in ((runs, "a"), (reference, "ranks"))]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.5)  # dropout differs by rank; the rows do not


@pytest.mark.parametrize("which", ["best", "step-0000004"])
def test_only_the_last_state_can_be_resumed(runs, capsys, which):
    assert runs("a", steps=4, keep_last=1) == 0
    folder = runs.path("a")
    assert (folder / which).is_dir()
    assert runs("a", resume_from=folder / which) == 2
    assert f"start a new run with --load-from '{folder / which}'" in capsys.readouterr().err
    assert runs("a", steps=4, keep_last=1, resume_from=folder / "last") == 0


def test_another_folder_than_the_resumed_one_is_refused(runs, tmp_path, capsys):
    assert runs("a", steps=2) == 0
    assert runs("a", steps=2, resume_from=runs.path("a"), checkpoint_dir=tmp_path / "elsewhere") == 2
    assert "elsewhere'; leave one of them out" in capsys.readouterr().err
    assert runs("a", steps=2, resume_from=runs.path("a"), checkpoint_dir=runs.path("a")) == 0
