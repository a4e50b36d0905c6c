"""Saves beside the training: one in flight, in order, errors told; which checkpoints are kept; what their card says."""

import json
import threading

import pytest
from toy_task import ToyTask

from autosing.training import state as state_module
from autosing.training.checkpoints import prune
from autosing.training.loop import Trainer
from autosing.training.saving import SaveError, Saver
from autosing.training.state import read_numbers
from tests.train_runs import signalled


def test_writes_come_in_order_one_save_at_a_time(tmp_path):
    saver, go, done = Saver(), threading.Event(), []
    saver.start(1, tmp_path, [lambda: done.append("a") if go.wait(10) else None, lambda: done.append("b")])
    saver.check()
    assert done == []  # it is being written
    go.set()
    saver.start(2, tmp_path, [lambda: done.append("c")])
    saver.finish()
    assert done == ["a", "b", "c"]


def test_what_fails_is_told_once_and_ends_its_save(tmp_path):
    def full() -> None:
        raise OSError(28, "No space left on device")

    saver, done = Saver(), []
    saver.start(7, tmp_path, [full, lambda: done.append("never")])
    saver.wait()
    with pytest.raises(SaveError, match=r"^step 7 could not be saved .*No space left on device"):
        saver.check()
    saver.check()
    assert done == []
    saver.start(8, tmp_path, [lambda: 1 / 0])
    with pytest.raises(ZeroDivisionError):
        saver.finish()


def test_training_goes_on_while_a_save_is_written(runs, monkeypatch):
    """The state of step 5 is written once step 7 is being trained; and is as of step 5."""
    later, steps = threading.Event(), iter(range(1, 1000))

    def losses(self, model, batch, plain=ToyTask.losses):
        if model.training and next(steps) == 7:
            later.set()
        return plain(self, model, batch)

    def slow(tensors, path, metadata=None, plain=state_module.save_file):
        assert later.wait(30), "the loop waits for its save"
        plain(tensors, path, metadata=metadata)

    assert runs("whole", steps=5) == 0
    monkeypatch.setattr(ToyTask, "losses", losses)
    monkeypatch.setattr(state_module, "save_file", slow)
    assert runs("a", steps=7, lr_schedule="const") == 0
    records = runs.records("a")
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 8))


def test_the_time_that_a_save_takes_from_the_training_is_recorded(runs):
    from autosing.training.log import read_metrics

    assert runs("a") == 0
    stalls = {r["step"]: r["save_stall_seconds"] for r in read_metrics(runs.path("a") / "metrics.jsonl") if "save_stall_seconds" in r}
    assert set(stalls) == {6, 11} and all(0 <= seconds < 10 for seconds in stalls.values())  # saved at 5 and 10


def test_the_best_and_the_newest_numbered_checkpoints_are_kept(runs):
    assert runs("a", steps=18, validate_every_n_steps=3, keep_best=2, keep_last=1, seed=3) == 0
    assert runs("b", steps=18, validate_every_n_steps=3, keep_best=2, monitored_mode="max") == 0
    for name, sign, newest in (("a", 1, {18}), ("b", -1, set())):
        values = {r["step"]: sign * r["val_loss"] for r in runs.records(name) if "val_loss" in r}
        kept = {*sorted(values, key=values.__getitem__)[:2], *newest}
        assert sorted(p.name for p in runs.path(name).glob("step-*")) == sorted(f"step-{step:07d}" for step in kept)


def test_what_is_best_survives_a_resume(runs, monkeypatch):
    values = {"steps": 18, "validate_every_n_steps": 3, "keep_best": 2}
    assert runs("whole", **values) == 0
    for stop in (5, 10):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_update", signalled(stop))
            assert runs("a", "--resume-from", "auto", **values) == 143
    assert runs("a", "--resume-from", "auto", **values) == 0
    runs.same("a", "whole")
    names = [sorted(p.name for p in runs.path(run).glob("step-*")) for run in ("a", "whole")]
    assert names[0] == names[1] and len(names[0]) == 2


def test_what_is_best_is_forgotten_where_a_resume_measures_otherwise(runs, capsys):
    assert runs("a", steps=9, validate_every_n_steps=3, keep_best=2) == 0
    other = {"monitored_metric": "val_absolute", "monitored_mode": "max"}
    assert runs("a", "--resume-from", "auto", "--allow-changed", steps=18, validate_every_n_steps=3, keep_best=2, **other) == 0
    assert "monitored_metric is val_absolute, was val_loss and monitored_mode is max, was min: the next validation" in capsys.readouterr().err
    values = {r["step"]: r["val_absolute"] for r in runs.records("a") if r["step"] > 9 and "val_absolute" in r}
    kept = sorted(values, key=values.__getitem__)[-2:]
    assert sorted(p.name for p in runs.path("a").glob("step-*")) == sorted(f"step-{step:07d}" for step in kept)
    config = json.loads((runs.path("a") / "best" / "config.json").read_text())
    assert config["meta"]["training"]["step"] == kept[-1]


def test_an_overwritten_run_leaves_no_numbered_checkpoint(runs):
    assert runs("a", steps=12, validate_every_n_steps=3, keep_last=2) == 0
    stray = runs.path("a") / "step-notes"
    stray.mkdir()
    (stray / "mine.txt").touch()
    assert runs("a", "--overwrite", steps=4, validate_every_n_steps=4, keep_last=2) == 0
    assert sorted(p.name for p in runs.path("a").glob("step-*")) == ["step-0000004", "step-notes"]


def test_an_overwritten_run_leaves_no_weights_and_samples(runs, monkeypatch):
    """Stopped before its first validation, the new run's folder holds nothing but the new run."""
    assert runs("a", steps=4) == 0
    folder = runs.path("a")
    sung = folder / "samples" / "step-0000004"
    sung.mkdir(parents=True)
    for name in ("0.wav", "0.png"):
        (sung / name).touch()
    (folder / "best" / "mine.txt").touch()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", signalled(2))
        assert runs("a", "--overwrite", task_args={"width": 8}) == 143
    assert json.loads((folder / "last" / "config.json").read_text())["config"]["width"] == 8
    assert [p.name for p in (folder / "best").iterdir()] == ["mine.txt"] and not (folder / "samples").exists()


def test_a_run_does_not_start_from_weights_that_it_would_remove(runs, capsys):
    assert runs("a", steps=4) == 0
    assert runs("a", "--overwrite", load_from=runs.path("a") / "best") == 2
    assert "lies in the folder of the run that it is to start" in capsys.readouterr().err
    assert (runs.path("a") / "best" / "model.safetensors").is_file()


def test_prune_leaves_fewer_than_asked_alone(tmp_path):
    for step in (1, 2, 3):
        (tmp_path / f"step-{step:07d}").mkdir()
    prune(tmp_path, [], 5)
    assert len(list(tmp_path.iterdir())) == 3
    prune(tmp_path, ["step-0000001"], 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000001", "step-0000003"]


def test_saves_and_validations_have_steps_of_their_own(runs, monkeypatch):
    """With the names that other trainers have for them."""
    saved = []
    monkeypatch.setattr("autosing.training.checkpoints.save_state", lambda folder, state: saved.append(state.numbers["step"]))
    argv = ["--eval-steps", "6", "--save-steps", "4", "--logging-steps", "2", "--save-total-limit", "2"]
    assert runs("a", *argv, steps=15, validate_every_n_steps=None, log_every_n_steps=None) == 0
    assert saved == [4, 8, 12, 15]
    assert [r["step"] for r in runs.records("a") if "val_loss" in r] == [6, 12, 15]
    assert [r["step"] for r in runs.records("a") if "loss" in r] == [2, 4, 6, 8, 10, 12, 14, 15]
    assert sorted(p.name for p in runs.path("a").glob("step-*")) == ["step-0000012", "step-0000015"]


def test_a_run_saved_between_validations_goes_on_the_same(runs, monkeypatch):
    values = {"save_steps": 4, "validate_every_n_steps": 5}
    assert runs("whole", **values) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", signalled(9))
        assert runs("a", **values) == 143
    assert read_numbers(runs.path("a") / "state")["step"] == 9
    assert runs("a", "--resume-from", "auto", **values) == 0
    runs.same("a", "whole")


def test_the_card_says_what_the_weights_are(runs):
    assert runs("a", ema=0.5, seed=7) == 0
    card = (runs.path("a") / "best" / "README.md").read_text()
    config = json.loads((runs.path("a") / "best" / "config.json").read_text())["meta"]["training"]
    for said in (
        f"# toy, step {config['step']}", "moving average 0.5", f"val_loss: {config['metrics']['val_loss']:.5g}", "seed 7", "batch 4",
        f"{config['rows']} rows of songs", config["identity"]["dataset"], "learning rate 0.01, cosine",
    ):  # fmt: skip
        assert said in card
