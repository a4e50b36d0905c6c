"""Several ranks do what one does: on gloo and the CPU, each rank a forked process; one test goes through torchrun."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
import torch._dynamo  # optimisers import it: here once, not in every forked rank
import toy_task
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

import tasks.sm2a
import tasks.t2s
from autosing.models.io import load_model
from autosing.models.t2s import SIZES, Size
from autosing.registry import Registry
from autosing.song.alignment import Alignment
from autosing.training import dist, sharding
from autosing.training.alarm import Alarm
from autosing.training.log import read_metrics
from autosing.training.loop import Trainer
from autosing.training.state import read_numbers
from autosing.training.task import Sample
from tests.sequence_rows import toy_meta, toy_row
from tests.train_runs import ROOT, Runs, environments, free_port, signalled

STRATEGIES = list(sharding.STRATEGIES)
TOLERANCE = 1e-4  # relative, of losses and gradient norms after a dozen steps: sums are in another order, in float32


class Group:
    """Processes that are the ranks of one job; what each writes is kept."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, work: Callable[[], int | None], world: int = 2, seconds: float = 240.0) -> list[int]:
        """The exit codes of `world` ranks that do `work`."""
        context, told = multiprocessing.get_context("fork"), environments(world)

        def rank(number: int) -> None:
            os.environ.update(told[number])
            sys.stdout = sys.stderr = open(self.folder / f"rank{number}.err", "w", buffering=1)  # noqa: SIM115 - until the process ends
            sys.exit(work())

        processes = [context.Process(target=rank, args=(number,)) for number in range(world)]
        deadline = time.monotonic() + seconds
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [p.exitcode for p in processes]
        for process in processes:
            process.kill()
        assert None not in codes, f"still running after {seconds} s: {self.said(0)} {self.said(1)}"
        return codes  # type: ignore[return-value]

    def said(self, rank: int) -> str:
        return (self.folder / f"rank{rank}.err").read_text()


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return Group(tmp_path)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dropout, whose draws differ by rank; the sequence tasks on rows in memory that hold unequal numbers of tokens."""
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    monkeypatch.setitem(SIZES, "micro", Size(1, 1))
    monkeypatch.setattr(
        "autosing.cli.train.TASKS", Registry("task", {"toy": "toy_task:TASK", "t2s": "tasks.t2s:TASK", "sm2a": "tasks.sm2a:TASK"})
    )
    text = toy_row(0, 4.0)["alignment"]  # one for all: what t2s sees behind the end of a text depends on the longest of the batch
    rows = [{**toy_row(seed, 1.5 + seed % 3), "alignment": text} for seed in range(9)]
    for module in (tasks.t2s, tasks.sm2a):
        monkeypatch.setattr(module.TASK, "open_rows", classmethod(lambda cls, config: (rows[:6], rows[6:], toy_meta(4.0))), raising=False)
        monkeypatch.setattr(module, "load_codebook", lambda spec: torch.randn(spec.num_codes, spec.width))
    monkeypatch.setattr(toy_task.ToyTask, "losses", unequal_losses)


def unequal_losses(self, model, batch):
    """The toy's loss over rows whose number is no multiple of 3: as many as there happen to be, of ten or so in all."""
    error = (model(batch["x"]) - batch["y"]).square()[:, 0]
    used = batch["number"] % 3 > 0
    total = (error * used).sum() / used.sum().clamp(min=1)
    return toy_task.Losses(total, {"square": total.detach()}, {"absolute": error.mean()}, ((total, used.sum()),))


QUIET = {
    "toy": {},
    "t2s": {"task_args": {"size": "micro", "corrupt": 0.0, "p_no_text": 0.0, "p_no_cond": 0.0, "text_guidance": 1.0}},
    "sm2a": {
        "task_args": {
            "size": "micro", "codebooks": False, "corrupt": 0.0, "corrupt_semantic": 0.0, "p_no_cond": 0.0, "p_no_semantic": 0.0,
            "semantic_guidance": 1.0,
        }
    },
}  # fmt: skip
RUN = {"steps": 4, "validate_every_n_steps": 2, "accumulate_grad_batches": 2, "ema": 0.9, "batch_size": 4}


def run(runs: Runs, task: str, name: str, *flags: str, **values) -> int:
    return runs(name, *flags, **{**RUN, **QUIET[task], "task_name": task, "checkpoint_dir": runs.folder / name, **values})


def assert_close(folder: Path, other: Path, weights: str = "model.safetensors") -> None:
    """Equal losses, and checkpoints and states of the same names, shapes and values, within `TOLERANCE`."""
    one, two = (read_metrics(f / "metrics.jsonl") for f in (folder, other))
    assert [r["step"] for r in one] == [r["step"] for r in two]
    for name in ("loss", "val_loss", "grad_norm", "val_absolute"):
        expected = [r[name] for r in one if name in r]
        assert [r[name] for r in two if name in r] == pytest.approx(expected, rel=TOLERANCE)
    for file in (f"last/{weights}", f"best/{weights}", "state/state.safetensors"):
        whole, shared = load_file(folder / file), load_file(other / file)
        assert set(whole) == set(shared)
        for name, value in whole.items():
            torch.testing.assert_close(shared[name], value, rtol=1e-2, atol=2e-4, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "task, strategy",
    [
        ("toy", "ddp"),
        ("toy", "fsdp"),
        ("t2s", "fsdp"),
        ("sm2a", "ddp"),
        pytest.param("t2s", "ddp", marks=pytest.mark.long),
        pytest.param("sm2a", "fsdp", marks=pytest.mark.long),
    ],
)
def test_two_ranks_learn_what_one_does(runs, group, steady, task, strategy):
    """Same rows, twice the ranks: equal losses though each rank has other numbers of valid tokens, with accumulation and an average."""
    assert run(runs, task, "one") == 0
    assert group(lambda: run(runs, task, "two", strategy=strategy)) == [0, 0], group.said(0) + group.said(1)
    assert_close(runs.folder / "one", runs.folder / "two")
    assert not list((runs.folder / "two").rglob("*.tmp")) and "step" not in group.said(1)  # the first rank alone writes and tells


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_adapters_are_trained_and_saved_whole(runs, group, steady, strategy):
    """Every rank holds a part of each matrix; the folder has them all, of the last step, and loads as one process's does."""
    pytest.importorskip("peft", reason="training adapters needs peft (pip install 'autosing[lora]')")
    assert run(runs, "toy", "base", steps=2) == 0
    values = {"load_from": runs.folder / "base" / "last", "lora": {"r": 2, "alpha": 8}, "tunables": {"lr0": 0.1}}
    assert run(runs, "toy", "one", **values) == 0
    assert group(lambda: run(runs, "toy", "two", strategy=strategy, **values)) == [0, 0], group.said(0) + group.said(1)
    assert_close(runs.folder / "one", runs.folder / "two", "adapter.safetensors")
    folder = runs.folder / "two" / "last"
    assert {name: tuple(value.shape) for name, value in load_file(folder / "adapter.safetensors").items()} == {
        "hidden.lora_A.weight": (2, 3), "hidden.lora_B.weight": (4, 2), "out.lora_A.weight": (2, 4), "out.lora_B.weight": (1, 2)
    }  # fmt: skip
    assert json.loads((folder / "config.json").read_text())["meta"]["training"]["step"] == RUN["steps"]
    x = torch.randn(5, 3)
    one, two, base = (load_model(runs.folder / name / "last", "toy")[0].eval()(x) for name in ("one", "two", "base"))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(one, base, atol=1e-2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_samples_are_sung_by_the_whole_model(runs, group, steady, monkeypatch, strategy):
    """With the averaged weights, once, by the first rank; the training does not notice."""

    def samples(self, model, batch):
        assert not model.training
        return [Sample("toy", Alignment(()), audio=(value / 4).expand(1, 8000), sample_rate=8000) for value in model(batch["x"])]

    assert run(runs, "toy", "plain") == 0
    monkeypatch.setattr(toy_task.ToyTask, "samples", samples, raising=False)
    monkeypatch.setattr("autosing.cli.train.draw_sample", lambda path, sample: path.write_bytes(b"drawn"))
    assert run(runs, "toy", "one", samples=2) == 0
    assert group(lambda: run(runs, "toy", "two", strategy=strategy, samples=2)) == [0, 0], group.said(0) + group.said(1)
    assert_close(runs.folder / "plain", runs.folder / "two")
    for step in (2, 4):
        folders = [runs.folder / name / "samples" / f"step-{step:07d}" for name in ("one", "two")]
        assert [sorted(p.name for p in folder.iterdir()) for folder in folders] == [["0.png", "0.wav", "1.png", "1.wav"]] * 2
        one, two = (torch.tensor(soundfile.read(folder / "1.wav")[0]) for folder in folders)
        assert one.abs().max() > 0.01
        torch.testing.assert_close(two, one, rtol=0, atol=1e-3)


def test_a_plan_of_two_ranks_is_told_once_and_of_each(runs, group, steady, capsys):
    """Rows and tokens of the whole run, the batch and the memory of a rank."""
    values = {"steps": 30, "ema": 0.0}
    assert run(runs, "t2s", "one", "--plan", **values) == 0
    one = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert group(lambda: run(runs, "t2s", "two", "--plan", strategy="fsdp", **values)) == [0, 0], group.said(0) + group.said(1)
    two = dict(line.split(maxsplit=1) for line in group.said(0).splitlines() if not line.startswith("["))
    for name in ("parameters", "data", "steps"):
        assert two[name] == one[name]
    assert "tokens an epoch" in one["data"] and one["steps"].startswith("30 of 8 rows")
    memory = [float(re.match(r"([\d.]+) GiB a rank of ([\d.]+) GiB", told["memory"])[2]) for told in (one, two)]
    assert memory[1] == pytest.approx(memory[0] / 2, rel=0.02) and two["memory"].endswith("at 2 rows")
    assert "memory" not in group.said(1) and not (runs.folder / "two").exists()


@pytest.mark.parametrize(
    "number, told, strategy, precision",
    [(signal.SIGTERM, (1,), "ddp", "32"), (signal.SIGUSR1, (0,), "fsdp", "32"), (signal.SIGUSR1, (0, 1), "ddp", "16-mixed")],
)
def test_a_signal_to_any_rank_saves_and_stops_all_after_its_step(runs, group, steady, monkeypatch, number, told, strategy, precision):
    values = {"steps": 6, "log_every_n_steps": 100, "validate_every_n_steps": 100, "strategy": strategy, "precision": precision}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", signalled(3, number, told))
        assert group(lambda: run(runs, "toy", "a", **values)) == [128 + number] * 2, group.said(0) + group.said(1)
    assert read_numbers(runs.folder / "a" / "state")["step"] == 3
    assert "after step 3" in group.said(0)
    assert group(lambda: run(runs, "toy", "a", resume_from="auto", **values)) == [0, 0], group.said(0)
    if precision == "32":
        assert run(runs, "toy", "whole", **values) == 0
        assert_close(runs.folder / "whole", runs.folder / "a")


def test_killed_in_the_last_validation_no_rank_trains_again(runs, group, steady, monkeypatch):
    values = {"steps": 4, "log_every_n_steps": 3, "validate_every_n_steps": 100}
    numbers = runs.folder / "a" / "state" / "state.json"

    def deadly(self: Trainer, until_signal: bool = False) -> None:
        deadline = time.monotonic() + 5
        while not (numbers.exists() and '"step": 4,' in numbers.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", deadly)
        assert -signal.SIGKILL in group(lambda: run(runs, "toy", "a", **values))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", None)  # nothing is left to train
        assert group(lambda: run(runs, "toy", "a", resume_from="auto", **values)) == [0, 0], group.said(0)
    assert run(runs, "toy", "whole", **values) == 0
    assert_close(runs.folder / "whole", runs.folder / "a")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_half_precision_scales_alike_on_all_ranks(runs, group, steady, strategy):
    values = {"precision": "16-mixed", "clip_gradient_norm": 0.5}
    assert run(runs, "toy", "one", **values) == 0
    assert group(lambda: run(runs, "toy", "two", strategy=strategy, **values)) == [0, 0], group.said(0)
    last = [load_file(runs.folder / name / "last" / "model.safetensors") for name in ("one", "two")]
    for name, value in last[0].items():
        torch.testing.assert_close(last[1][name], value, rtol=0.05, atol=5e-3)


def test_a_run_goes_on_with_any_strategy_and_number_of_ranks(runs, group, steady, monkeypatch):
    """DDP, FSDP, one process, FSDP, DDP: the losses of a run that one process did in one go."""
    values = {"steps": 10, "validate_every_n_steps": 5}
    assert run(runs, "toy", "whole", **values) == 0
    for stop, world, strategy in ((2, 2, "ddp"), (4, 2, "fsdp"), (6, 1, "ddp"), (7, 2, "fsdp"), (99, 2, "ddp")):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_update", signalled(stop))
            codes = group(lambda strategy=strategy: run(runs, "toy", "parts", strategy=strategy, resume_from="auto", **values), world)
        assert codes == [0 if stop == 99 else 143] * world, group.said(0)
    assert_close(runs.folder / "whole", runs.folder / "parts")


def test_unfit_rows_are_counted_over_all_ranks(runs, group, steady):
    values = {"task_args": {"noise": 0.0, "unfit": list(range(12))}}
    assert run(runs, "toy", "one", steps=4, **values) == 0
    assert group(lambda: run(runs, "toy", "two", steps=2, **values)) == [0, 0], group.said(0)
    assert group(lambda: run(runs, "toy", "two", "--resume-from", "auto", "--allow-changed", steps=4, **values)) == [0, 0], group.said(0)
    counts = [[r["unfit"] for r in read_metrics(runs.folder / name / "metrics.jsonl") if "unfit" in r] for name in ("one", "two")]
    assert counts[0] == counts[1] and counts[0][-1] > counts[0][0] > 0


def test_validation_is_the_same_to_the_bit_whatever_the_ranks(runs, group, steady):
    """Metrics and losses over unequal numbers too; 3 validation batches for up to 4 ranks."""
    values = {"batch_size": 12, "tunables": {"lr0": 0.0}, "steps": 2, "dataset": {"validation_share": 0.8}, "accumulate_grad_batches": 1}
    assert run(runs, "toy", "1", **values) == 0
    for world, strategy in ((2, "fsdp"), (4, "ddp")):
        assert group(lambda world=world, s=strategy: run(runs, "toy", f"{world}", strategy=s, **values), world) == [0] * world, group.said(0)
    found = [[r for r in read_metrics(runs.folder / name / "metrics.jsonl") if "val_loss" in r] for name in "124"]
    assert len(found[0]) == 1 and found[0] == found[1] == found[2]


@pytest.mark.parametrize("strategy, precision", [("ddp", "32"), ("fsdp", "32"), ("ddp", "16-mixed")])
def test_a_nan_on_one_rank_stops_all_before_the_update(runs, group, monkeypatch, strategy, precision):
    """The flag is read at the next log line; until then no rank has changed its weights, and all name the row of the one."""
    seen: list[dict] = []
    forward, stop = Trainer._forward_backward, Trainer._stop_not_finite

    def weights(trainer) -> dict:
        held = {n: v.to_local() if isinstance(v, DTensor) else v for n, v in trainer.model.state_dict().items()}
        return {n: v.detach().clone() for n, v in held.items()}

    def noting(self, batch, micro, last):
        seen.append(weights(self))
        forward(self, batch, micro, last)

    def stopping(self, step, ids):
        now = weights(self)
        if step + 1 >= len(seen) or not all(torch.equal(now[n], v) for n, v in seen[step].items()):
            raise ArithmeticError(f"step {step} of {len(seen)}: the weights moved")
        stop(self, step, ids)

    monkeypatch.setattr(Trainer, "_forward_backward", noting)
    monkeypatch.setattr(Trainer, "_stop_not_finite", stopping)
    values = {"steps": 24, "log_every_n_steps": 12, "validate_every_n_steps": 24, "task_args": {"poison": [20]}}
    assert group(lambda: runs("bad", strategy=strategy, precision=precision, **values)) == [2, 2], group.said(0)
    for rank in (0, 1):
        assert "not finite at step" in group.said(rank) and "song20" in group.said(rank) and "song2," not in group.said(rank)


def test_a_rank_that_cannot_read_its_rows_ends_all_with_its_reason(runs, group):
    assert group(lambda: runs("a", steps=60, task_args={"broken": [20]})) == [2, 2]
    assert all("row 'song20' stops task toy" in group.said(rank) for rank in (0, 1))
    assert sum("stopped the run" in group.said(rank) for rank in (0, 1)) == 1


def test_a_rank_that_breaks_ends_all_with_its_reason(runs, group, monkeypatch):
    plain, calls = toy_task.ToyTask.losses, iter(range(1000))

    def losses(self, model, batch):
        if os.environ["RANK"] == "1" and next(calls) == 3:
            raise ValueError("no such thing")
        return plain(self, model, batch)

    monkeypatch.setattr(toy_task.ToyTask, "losses", losses)
    codes = group(lambda: runs("a", steps=60, log_every_n_steps=30))
    assert codes[0] == 2 and codes[1] != 0
    assert "error: rank 1 stopped the run: ValueError: no such thing" in group.said(0)


def test_the_alarm_ends_a_rank_that_would_wait_for_ever(group):
    """Nothing breaks the sleeper's connections: only the alarm can end it."""

    def work() -> None:
        ranks = dist.Ranks.from_environment()
        meeting = ranks.store("group", serve=True)
        meeting.set(f"{ranks.rank}", "here")
        with Alarm(ranks):
            if ranks.rank == 0:
                time.sleep(300)
            raise OSError("the disk is gone")

    codes = group(work, seconds=60)
    assert codes[0] == 2 and codes[1] != 0
    assert group.said(0) == "error: rank 1 stopped the run: OSError: the disk is gone\n"


def test_ranks_that_were_started_differently_are_refused(runs, group):
    def work() -> int:
        return runs("a", seed=int(os.environ["RANK"]))

    assert group(work) == [2, 2]
    assert any("rank 1 has seed = 1, rank 0 has 0" in group.said(rank) for rank in (0, 1))


def test_gradients_are_added_up_once_a_step(group):
    """Before the last micro-batch each rank has its own gradient only, or none yet; after it, the mean."""

    def work() -> None:
        ranks = dist.Ranks.from_environment()
        device = dist.start(ranks, torch.device("cpu"))
        for strategy in STRATEGIES:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(4, 4, bias=False))
            wrapped = model if strategy == "fsdp" else dist.parallel(model, ranks, device)
            if strategy == "fsdp":
                sharding.shard(model, ranks, device)
            for last in (False, False, True):
                with sharding.synchronise(wrapped, last):
                    wrapped(torch.full((1, 4), 1.0 + ranks.rank)).sum().backward()
                grad = model[0].weight.grad
                if not last:
                    assert grad is None or (float(grad[0, 0]) % (1 + ranks.rank) == 0 and strategy == "ddp")
            assert sharding.whole(grad).flatten().tolist() == [4.5] * 16
        dist.wait(ranks)
        dist.stop(ranks)

    assert group(work) == [0, 0], group.said(0) + group.said(1)


def test_a_scalar_parameter_cannot_be_shared_out(runs, group, monkeypatch):
    plain = toy_task.Toy.__init__

    def init(self, config):
        plain(self, config)
        self.gain = nn.Parameter(torch.ones(()))

    monkeypatch.setattr(toy_task.Toy, "__init__", init)
    assert group(lambda: runs("a", strategy="fsdp")) == [2, 2]
    assert "cannot share out the scalar parameter 'model.gain'" in group.said(0) + group.said(1)


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, dist.Ranks()),
        (
            {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "7", "TORCHELASTIC_USE_AGENT_STORE": "True"},
            dist.Ranks(3, 8, 1, "a", 7, agent=True),
        ),
        (
            {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[03-05,9],x", "SLURM_JOB_ID": "7"},
            dist.Ranks(5, 8, 1, "gpu03", 20_007),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, dist.Ranks()),  # a batch script without srun
        (
            {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1", "MASTER_ADDR": "here", "MASTER_PORT": "9"},
            dist.Ranks(1, 2, 1, "here", 9),
        ),
    ],
)
def test_who_is_which_rank(environment, expected):
    assert dist.Ranks.from_environment(environment) == expected


def test_ranks_that_srun_starts_find_each_other(runs, group):
    def work() -> int:
        number = os.environ.pop("RANK")
        del os.environ["MASTER_ADDR"]
        os.environ.update(SLURM_PROCID=number, SLURM_LOCALID=number, SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NODELIST="127.0.0.1")
        return runs("a", steps=2)

    assert group(work) == [0, 0], group.said(0) + group.said(1)
    assert len([r for r in runs.records("a") if "loss" in r]) == 2


@pytest.mark.parametrize("nodes, first", [("a", "a"), ("a,b", "a"), ("n[7]", "n7"), ("n[07-09,12],z", "n07"), ("n[1,2]", "n1")])
def test_the_first_host_of_a_list(nodes, first):
    assert dist.first_host(nodes) == first


def torchrun(runs: Runs, name: str, **values) -> subprocess.CompletedProcess:
    """The command as users start it, with the toy task given as a file."""
    argv = runs.argv(name, task_name=str(Path(toy_task.__file__)), checkpoint_dir=runs.folder / name, **values)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(toy_task.__file__).parent)])}
    return subprocess.run(
        [*command, "--master_port", str(free_port()), str(ROOT / "train.py"), *argv], capture_output=True, text=True, timeout=300, env=environment
    )


def test_torchrun(runs):
    done = torchrun(runs, "a", strategy="fsdp")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: 12 steps") == 1
    assert [r["step"] for r in read_metrics(runs.folder / "a" / "metrics.jsonl") if "loss" in r] == list(range(1, 13))


@pytest.mark.long
def test_torchrun_tells_why_a_rank_failed(runs):
    failed = torchrun(runs, "a", steps=60, task_args={"broken": [20]})
    assert failed.returncode != 0
    assert "row 'song20' stops task" in failed.stderr
