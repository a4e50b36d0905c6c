"""Promises T1, T2, T3 and T15 of training, with the shipped tasks t2s and sm2a: whatever ends a run, its resumed rest is what it would have been.

Kills fall on the n-th arrival of the loop at a point (a batch in hand, an update, a record, before and after each file), never on a moment. Each
run is `train.py` in a process of its own, forked from this one; the long test starts the interpreter anew with the shipped tokenizer.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autosing.models.t2s import SIZES, Size
from autosing.training.finite import NotFiniteError
from autosing.training.log import read_metrics
from autosing.training.loop import Trainer
from tests.sequence_rows import BAND, CODEC, write_token_set
from tests.train_runs import ROOT, Runs, ended, environments, signalled

KILLS = 20
COMMON = {
    "batch_size": 2, "accumulate_grad_batches": 2, "steps": 16, "ema": 0.9, "validate_every_n_steps": 3, "log_every_n_steps": 1, "keep_last": 1, "keep_best": 1,
    "workers": 0, "device": "cpu", "tunables": {"warmup_steps": 4}, "resume_from": "auto",
}  # fmt: skip
MODES: dict[str, dict[str, Any]] = {
    "t2s": {"task_args": {"size": "nano", "dropout": 0.1}, "precision": "bf16-mixed"},
    "sm2a": {"task_args": {"size": "nano", "codebooks": False, "multiscale": True, "dropout": 0.1}, "precision": "16-mixed"},
}
"""Both with dropout, corruption and accumulation over epochs' ends (12 rows, 4 a step); one of each kind of mixed precision."""
WARM: dict[str, int] = {}
SPY = {"ids": None, "weights": None}
"""Set in a child alone: files that it writes what it saw to."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller size, codebooks that need no tokenizer, and no waiting for the disk: a killed process loses nothing that the kernel has."""
    monkeypatch.setitem(SIZES, "nano", Size(2, 1, cross_layers=0, music_depth=0))
    for task in ("t2s", "sm2a"):
        monkeypatch.setattr(f"tasks.{task}.load_codebook", codebook)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("autosing.training.log.draw_losses", lambda *args: None)


def codebook(spec: Any) -> torch.Tensor:
    return torch.randn(spec.num_codes, spec.width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_token_set(tmp_path_factory.mktemp("tokens") / "set", seconds=2.4)


def runs_of(folder: Path, tokens: Path, task: str) -> Runs:
    return Runs(folder, task, {"path": str(tokens)}, **COMMON, **MODES[task])


@pytest.fixture(autouse=True)
def warm(quick: None, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One step of each task here, so that the processes forked from this one find everything imported."""
    if not WARM:
        folder = tmp_path_factory.mktemp("warm")
        WARM.update({task: runs_of(folder, tokens, task)("a", steps=1) for task in MODES})
    assert set(WARM.values()) == {0}


@pytest.fixture
def task() -> str:
    """Of tests that do not choose."""
    return "t2s"


@pytest.fixture
def runs(tmp_path: Path, tokens: Path, task: str) -> Runs:
    return runs_of(tmp_path, tokens, task)


@pytest.fixture(scope="module")
def uninterrupted_ones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def uninterrupted(uninterrupted_ones: Path, tokens: Path, task: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The outcome of a run that nothing stopped."""
    runs = runs_of(uninterrupted_ones, tokens, task)
    if not runs.path("whole").is_dir():
        assert runs.apart("whole") == 0, runs.said("whole")
    return runs.outcome("whole")


# ---- T1


@pytest.mark.parametrize("task", MODES)
def test_killed_at_random_points(runs: Runs, uninterrupted: tuple, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("AUTOSING_KILL_SEED", random.SystemRandom().randrange(10_000)))
    rng, kills, count = random.Random(seed), [], 0
    while len(kills) < KILLS // 2:  # both tasks together: at least KILLS
        count += 1
        while True:
            nth = rng.randint(1, 40)
            code = runs.apart(f"killed{count}", fault=f"train:*:{nth}:kill" if len(kills) < KILLS // 2 else "")
            assert code in (0, -signal.SIGKILL), runs.said(f"killed{count}")
            if code == 0:
                break
            kills.append(nth)
        assert runs.outcome(f"killed{count}") == uninterrupted, f"AUTOSING_KILL_SEED={seed}: killed at {kills}"
        assert not list(runs.path(f"killed{count}").rglob("*.tmp"))
    with capsys.disabled():
        print(f"\n{task}: AUTOSING_KILL_SEED={seed}, killed at arrivals {kills} of {count} run(s)")


def test_killed_before_and_after_each_file_of_a_save(runs: Runs, uninterrupted: tuple) -> None:
    """Best, numbered and last weights, then the state; each time the run goes on from what the kill before it left."""
    for point, nth in [("weights", nth) for nth in range(1, 7)] + [("state", 1), ("state", 2), ("weights", 4)]:
        assert runs.apart("a", fault=f"train:{point}:{nth}:kill") == -signal.SIGKILL
    assert runs.apart("a") == 0, runs.said("a")
    assert runs.outcome("a") == uninterrupted


@pytest.mark.parametrize("task", MODES)
def test_deterministic_runs_repeat_to_the_bit(runs: Runs, task: str) -> None:
    for name in ("a", "b"):
        assert runs.apart(name, deterministic=True, steps=6) == 0, runs.said(name)
    assert runs.outcome("a") == runs.outcome("b")
    saved = json.loads((runs.path("a") / "state" / "state.json").read_text())["identity"]["deterministic"]
    assert saved == {"device": "cpu", "threads": 1}
    assert runs.apart("a", deterministic=True, steps=6, threads=2) == 2
    assert "deterministic.threads = 1, now it is 2" in runs.said("a")


def test_what_cannot_repeat_is_refused_in_one_line(runs: Runs) -> None:
    def hopeless() -> None:
        from tasks.t2s import TASK

        def losses(self: Any, model: Any, batch: Any) -> Any:
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set ...\nmore")

        TASK.losses = losses  # type: ignore[method-assign]

    assert runs.apart("a", before=hopeless, deterministic=True) == 2
    assert runs.said("a").strip().splitlines()[-1].startswith("error: --deterministic: 'cumsum_cuda_kernel' has no deterministic")
    assert runs.apart("b", deterministic=True, minutes=1.0, steps=None) == 2
    assert "--deterministic: a run bounded by --minutes follows the clock" in runs.said("b")


# ---- T2


def spy(path: Path) -> Callable[[], None]:
    """Let a child note which rows each step trains on."""

    def install() -> None:
        plain = Trainer._forward_backward

        def noting(self: Trainer, batch: Any, micro: int, last: bool) -> None:
            with open(path, "a") as file:
                file.write(json.dumps([micro, self.ranks.rank, batch.ids]) + "\n")
            plain(self, batch, micro, last)

        Trainer._forward_backward = noting  # type: ignore[method-assign]

    return install


def ids_by_step(*paths: Path) -> list[tuple[str, ...]]:
    """Rows of every micro-batch over all ranks; what a resumed run repeats must be the same again."""
    seen: dict[int, dict[int, tuple[str, ...]]] = {}
    for path in paths:
        worlds: dict[int, dict[int, tuple[str, ...]]] = {}
        for line in path.read_text().splitlines():
            micro, rank, ids = json.loads(line)
            worlds.setdefault(micro, {})[rank] = tuple(ids)
        for micro, ranks in worlds.items():
            joined = {0: tuple(name for rank in sorted(ranks) for name in ranks[rank])}
            assert seen.setdefault(micro, joined) == joined, f"micro-batch {micro} was {seen[micro]} and is {joined}"
    return [seen[micro][0] for micro in range(len(seen))]


def test_the_same_rows_whatever_the_stops_the_workers_and_the_ranks(runs: Runs) -> None:
    """Stopped three times within an epoch and at its very end (step 9 is position 36 = 3 epochs of 12 rows), one step after a resume, with 0, 1 and 4
    workers, with one rank, two, and one again."""
    values = {"keep_last": 0, "keep_best": 0, "steps": 14}
    whole = runs.folder / "whole.ids"
    assert runs.apart("whole", before=spy(whole), **values) == 0, runs.said("whole")
    expected = ids_by_step(whole)
    assert len(expected) == 28 and len({name for batch in expected[:6] for name in batch}) == 12
    stops = [(1, 0, 1), (2, 1, 1), (3, 4, 1), (6, 0, 2), (9, 1, 2), (10, 0, 1), (14, 4, 1)]  # (end at this step, workers, ranks)
    noted = []
    for index, (stop, workers, world) in enumerate(stops):
        noted.append(runs.folder / f"{index}.ids")
        processes = [
            runs.start("a", environment=environment, before=both(spy(noted[-1]), stopping_at(stop)), workers=workers, **values)
            for environment in environments(world)
        ]
        assert {ended(process) for process in processes} == {143 if stop < 14 else 0}, runs.said("a")
    assert ids_by_step(*noted) == expected


def both(*actions: Callable[[], None]) -> Callable[[], None]:
    return lambda: [action() for action in actions] and None


def stopping_at(step: int) -> Callable[[], None]:
    """A scheduler's signal that arrives in step `step`."""
    return lambda: setattr(Trainer, "_update", signalled(step))


@pytest.mark.parametrize("task", MODES)
def test_stopped_within_and_at_the_end_of_an_epoch_and_one_step_on(runs: Runs, uninterrupted: tuple, task: str) -> None:
    for stop, workers in ((2, 0), (3, 1), (9, 2), (10, 0)):
        assert runs.apart("a", before=stopping_at(stop), workers=workers) == 143, runs.said("a")
    assert runs.apart("a", workers=1) == 0, runs.said("a")
    records, weights = runs.outcome("a")
    assert records == uninterrupted[0]
    for name in ("best", "last"):  # numbered checkpoints lie where it stopped, too
        assert weights[name] == uninterrupted[1][name]


# ---- T3


@pytest.mark.parametrize(
    "changed, of_the_dataset, field",
    [
        ({}, {"accompaniment_codec": {**vars(BAND), "num_codes": 50}}, "accompaniment_codec.num_codes = 48"),
        ({}, {"codec": {**vars(CODEC), "name": "other"}}, "codec.name = 'toy'"),
        ({}, {"source_hash": "another"}, "dataset = "),
        ({"task_args": {"size": "nano", "dropout": 0.2}}, {}, "args.dropout = 0.1"),
        ({"precision": "32"}, {}, "precision = 'bf16-mixed'"),
    ],
)
def test_something_else_is_refused_by_name(runs: Runs, tmp_path: Path, changed: dict, of_the_dataset: dict, field: str) -> None:
    values = {"steps": 2}
    assert runs.apart("a", **values) == 0, runs.said("a")
    if of_the_dataset:
        changed = {"dataset_config": {"path": str(write_token_set(tmp_path / "other", **of_the_dataset))}}
    assert runs.apart("a", **{**values, **changed}) == 2
    assert f"was trained with {field}" in runs.said("a").strip().splitlines()[-1]
    fits = "num_codes" not in field  # where the model has another shape no flag helps
    assert runs.apart("a", **{**values, **changed, "allow_changed": True}) == (0 if fits else 2)


# ---- T15


def poisoned(row: str, folder: Path) -> Callable[[], None]:
    """A NaN in the loss of one row; weights are noted before every step and where the run ends."""

    def install() -> None:
        from tasks.t2s import TASK

        plain, fit, step, update = TASK.losses, Trainer.fit, Trainer._forward_backward, Trainer._update

        def losses(self: Any, model: Any, batch: Any) -> Any:
            found = plain(self, model, batch)
            if not SPY["ids"] or row not in SPY["ids"]:
                return found
            bad = float("nan")
            return found._replace(total=found.total * bad, terms=tuple((addend * bad, count) for addend, count in found.terms))

        def noting(self: Trainer, batch: Any, micro: int, last: bool) -> None:
            SPY["ids"] = batch.ids
            if micro % self.settings.accumulate == 0:
                save_file(self.model.state_dict(), folder / f"{self.ranks.rank}-{self.step}.safetensors")
            step(self, batch, micro, last)
            SPY["ids"] = None

        def note_end(self: Trainer) -> None:
            save_file(self.model.state_dict(), folder / f"{self.ranks.rank}-end.safetensors")

        def updating(self: Trainer) -> None:
            update(self)
            note_end(self)  # a rank that hears of the other's NaN may be ended before it comes to its own

        def ending(self: Trainer, *args: Any, **values: Any) -> Any:
            try:
                return fit(self, *args, **values)
            except NotFiniteError:
                note_end(self)
                raise

        TASK.losses, Trainer.fit = losses, ending  # type: ignore[method-assign]
        Trainer._forward_backward, Trainer._update = noting, updating  # type: ignore[method-assign]

    return install


@pytest.mark.parametrize("world, precision, log_every", [(1, "32", 1), (1, "16-mixed", 1), (2, "32", 4), (2, "16-mixed", 4)])
def test_a_nan_stops_every_rank_before_the_update(runs: Runs, tmp_path: Path, world: int, precision: str, log_every: int) -> None:
    """It lies in one rank's rows; the ranks look at the next line of the log, and have passed over every update since."""
    values = {"precision": precision, "log_every_n_steps": log_every, "ema": 0.0, "validate_every_n_steps": 100}
    rows = runs.folder / "rows.ids"
    assert runs.apart("clean", before=spy(rows), **values, steps=4) == 0, runs.said("clean")
    batches = ids_by_step(rows)
    row = batches[5][1]  # the second micro-batch of step 2 (from 0), of the second rank where there are two
    first = next(index for index, batch in enumerate(batches) if row in batch) // 2
    processes = [
        runs.start("bad", environment=environment, before=poisoned(row, tmp_path), **values) for environment in environments(world)
    ]
    assert [ended(process) for process in processes] == [2] * world, runs.said("bad")
    for rank in range(world):
        before, after = (load_file(tmp_path / f"{rank}-{step}.safetensors") for step in (first, "end"))
        assert all(torch.equal(before[name], after[name]) for name in before)
    record = read_metrics(runs.path("bad") / "metrics.jsonl")[-1]
    assert record["step"] == first and record["not_finite"] and row in record["ids"]
    assert runs.said("bad").count(f"not finite at step {first}") == world and row in runs.said("bad")


# ---- the real thing


@pytest.mark.long
@pytest.mark.parametrize("task", MODES)
def test_the_real_command_killed_at_random_points(tmp_path: Path, task: str) -> None:
    """A new interpreter, the shipped semantic tokenizer, size micro, 20 kills a task."""
    from autosing.perception import load_semantic

    runs = runs_of(tmp_path, write_token_set(tmp_path / "tokens", semantic=load_semantic("builtin").spec), task)
    seed = int(os.environ.get("AUTOSING_KILL_SEED", random.SystemRandom().randrange(10_000)))
    rng, kills = random.Random(seed), []
    args = {**MODES[task]["task_args"], "size": "micro"}

    def run(name: str, fault: str = "") -> int:
        argv = ["train.py", *runs.argv(name, task_args=args, precision="32", steps=30)]
        environment = {**os.environ, "AUTOSING_FAULT": fault, "PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, *argv], cwd=ROOT, env=environment, capture_output=True, timeout=3600, check=False).returncode

    assert run("whole") == 0
    while len(kills) < KILLS:
        nth = rng.randint(1, 24)  # so that the run outlasts them
        code = run("killed", f"train:*:{nth}:kill")
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            break
        kills.append(nth)
    print(f"{task}: AUTOSING_KILL_SEED={seed}, killed at arrivals {kills}")
    assert run("killed") == 0
    assert runs.outcome("killed") == runs.outcome("whole")
    assert len(kills) >= KILLS
