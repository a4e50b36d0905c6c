"""--plan: what a run will take, measured against what it then took; and what it says where it does not fit.

The default test sets the clock itself; the long one takes CPU seconds of the thread that trains, which neither other work on the machine nor
the thread that saves changes.
"""

import json
import os
import re
import subprocess
import sys
import time
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from autosing.cli.train import main
from autosing.models.t2s import SIZES, Size
from autosing.training.log import read_metrics
from autosing.training.loop import Trainer
from tasks import TASKS
from tests.sequence_rows import write_token_set

ROOT = Path(__file__).resolve().parents[2]


def seconds_of(said: str) -> float:
    value, unit = re.search(r"it up .* s: ([\d.]+) (\w+)", said).groups()
    return float(value) * {"seconds": 1, "minutes": 60}[unit]


def test_a_plan_is_told_and_nothing_is_written(runs, capsys):
    assert runs("a", "--plan", steps=100, validate_every_n_steps=30, batch_size=8) == 0
    said = capsys.readouterr().out
    for line in ("parameters  29 (+ 1 frozen)", "data        27 rows\n", "steps       100 of 8 rows, 29.6 epochs", "4 validations of", "nothing was written"):
        assert line in said
    assert not runs.path("a").exists()
    assert runs("a") == 0 and runs("a", "--plan", "--resume-from", "auto") == 0


def test_a_run_from_a_checkpoint_validates_once_more(runs, capsys):
    assert runs("base", steps=1) == 0
    assert runs("a", "--plan", load_from=runs.path("base") / "last", steps=100, validate_every_n_steps=30, save_steps=50) == 0
    said = capsys.readouterr().out
    assert ", 5 validations of" in said and ", 3 saves that" in said


def test_a_run_that_goes_on_is_planned_from_where_it_stands(runs, capsys):
    assert runs("a", steps=6) == 0
    assert runs("a", "--plan", "--resume-from", "auto", steps=100) == 2
    assert "was trained with steps = 6, now it is 100" in capsys.readouterr().err
    assert runs("a", "--plan", "--resume-from", "auto", "--allow-changed", steps=100, save_steps=10) == 0
    said = capsys.readouterr().out
    assert "steps       94 left of 100, of 4 rows, 13.9 epochs" in said and ", 19 validations of" in said and ", 10 saves that" in said


@pytest.mark.parametrize(
    "gib, said",
    [
        (0.0, "no batch is small enough: take a smaller \"size\""),
        (3.1, "this run needs 5 GiB a rank, cpu has 3.1 GiB; take --batch-size 2 --accumulate-grad-batches 2, which trains on as many rows a step"),
        (1.1, "take a smaller \"size\" or shorter rows"),
    ],
)
def test_what_does_not_fit_says_what_to_change(runs, capsys, monkeypatch, gib, said):
    """1 GiB that the batch does not change, and 1 GiB a row."""
    peaks = iter([1 << 30, 5 << 30])
    monkeypatch.setattr("autosing.training.estimate.capacity_of", lambda device: int(gib * (1 << 30)))
    monkeypatch.setattr("autosing.training.estimate.peak_memory", lambda device: next(peaks))
    assert runs("a", "--plan") == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_device_that_runs_out_of_memory_says_so_too(runs, capsys, monkeypatch):
    def full(self, stream):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(Trainer, "train_step", full)
    assert runs("a", "--plan") == 2
    assert "this run needs more memory" in capsys.readouterr().err and not runs.path("a").exists()


def plan_and_run(folder: Path, size: str, seconds: float, steps: int, clock, capsys, monkeypatch) -> tuple[str, float]:
    """What the plan says of a t2s run, and the seconds that the run took, by this clock."""
    monkeypatch.setattr("tasks.t2s.load_codebook", lambda spec: torch.randn(spec.num_codes, spec.width))
    monkeypatch.setattr("autosing.training.log.draw_losses", lambda *args: None)
    for module in ("loop", "clock", "estimate"):
        monkeypatch.setattr(f"autosing.training.{module}.time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr("autosing.cli.train.TASKS", TASKS)
    dataset = json.dumps({"path": str(write_token_set(folder / "tokens", rows=30, seconds=seconds))})
    argv = ["--task-name", "t2s", "--task-args", json.dumps({"size": size}), "--dataset-config", dataset, "--output-dir", str(folder), "--name", "a"]
    argv += ["--batch-size", "4", "--steps", str(steps), "--validate-every-n-steps", str(steps // 3), "--workers", "0", "--device", "cpu"]
    assert main([*argv, "--steps", "1", "--name", "warm"]) == 0  # what is imported at first use
    capsys.readouterr()
    assert main([*argv, "--plan"]) == 0
    said = capsys.readouterr().out
    assert main(argv) == 0
    return said, read_metrics(folder / "t2s" / "a" / "metrics.jsonl")[-2]["seconds"]


class Clock:
    """Goes on by what a part of the trainer is said to take, whenever that part runs."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def time(self, monkeypatch, part: str, seconds) -> None:
        real = getattr(Trainer, part)

        def timed(trainer, *args, **kwargs):
            self.now += next(seconds)
            return real(trainer, *args, **kwargs)

        monkeypatch.setattr(Trainer, part, timed)


def test_a_plan_is_what_then_happens(tmp_path, capsys, monkeypatch):
    """On a machine whose steps take .25 s each, a hiccup in the plan's own aside: what is counted, without the noise of real seconds."""
    clock = Clock()
    clock.time(monkeypatch, "train_step", chain([0.25], [9.0] * 3, [9.0, 0.25, 0.25], repeat(0.25)))  # warm run, warm steps, measured ones, the run
    clock.time(monkeypatch, "validate", repeat(0.5))
    clock.time(monkeypatch, "snapshot", repeat(0.125))
    monkeypatch.setitem(SIZES, "nano", Size(2, 1, cross_layers=0, music_depth=0))
    said, took = plan_and_run(tmp_path, "nano", 4.0, 30, clock, capsys, monkeypatch)
    assert "0.25 s a step, 3 validations of 0.5 s, 3 saves that hold it up 0.12 s" in said
    assert seconds_of(said) == pytest.approx(30 * 0.25 + 3 * 0.5 + 3 * 0.125, abs=0.06)
    assert took == pytest.approx(30 * 0.25 + 2 * (0.5 + 0.125))  # the last step's line is written before the last validation and save
    assert "2,700 tokens an epoch" in said  # 27 rows of 4 s, 25 a second
    memory, capacity = map(float, re.search(r"memory +([\d.]+) GiB a rank of ([\d.]+) GiB", said).groups())
    assert 0.05 < memory < capacity


@pytest.mark.long
def test_a_plan_is_within_a_tenth_of_the_time(tmp_path, capsys, monkeypatch):
    said, took = plan_and_run(tmp_path, "micro", 10.0, 60, time.thread_time, capsys, monkeypatch)
    print(said, took)
    assert abs(seconds_of(said) / took - 1) < 0.1


@pytest.mark.long
def test_a_plan_is_within_a_tenth_of_the_memory(tmp_path):
    from autosing.perception import load_semantic

    tokens = write_token_set(tmp_path / "tokens", rows=30, seconds=30.0, semantic=load_semantic("builtin").spec)
    argv = ["train.py", "--task-name", "t2s", "--task-args", '{"size": "micro"}', "--dataset-config", json.dumps({"path": str(tokens)})]
    argv += ["--output-dir", str(tmp_path), "--batch-size", "8", "--steps", "12", "--workers", "0", "--device", "cpu", "--name", "a"]
    said = subprocess.run([sys.executable, *argv, "--plan"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    process = subprocess.Popen([sys.executable, *argv], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    planned = float(re.search(r"memory +([\d.]+) GiB", said).group(1)) * (1 << 30)
    print(said, usage.ru_maxrss * 1024)
    assert status == 0 and abs(planned / (usage.ru_maxrss * 1024) - 1) < 0.1
