"""Means that need no synchronisation, the metrics file, the progress lines, the curve."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest
import torch

from autosing.errors import ConfigError
from autosing.training.log import Meter, MetricsFile, Progress, TensorBoard, Wandb, draw_losses, read_metrics

CPU = torch.device("cpu")


def test_meter_takes_weighted_means_and_passes_over_what_is_not_finite():
    meter = Meter(CPU)
    meter.add({"loss": torch.tensor(1.0), "accuracy": torch.tensor(float("nan"))}, 1)
    meter.add({"loss": torch.tensor(4.0), "accuracy": torch.tensor(0.5)}, 2)
    meter.add({"other": torch.tensor(7.0)})
    assert meter.take() == {"loss": 3.0, "accuracy": 0.5, "other": 7.0}
    assert meter.take() == {}


def test_meter_state_round_trip_is_exact():
    a, b = Meter(CPU), Meter(CPU)
    for value in torch.rand(7, generator=torch.Generator().manual_seed(0)):
        a.add({"x": value})
    b.load(json.loads(json.dumps(a.state())))
    for meter in (a, b):
        meter.add({"x": torch.tensor(1 / 3)})
    assert a.take() == b.take()


def test_metrics_file_continues_and_drops_what_will_be_repeated(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    for step in range(1, 6):
        first.write({"step": step, "loss": float("inf") if step == 2 else 1 / step})
    first.close()
    with open(path, "a") as file:
        file.write('{"step": 6, "lo')  # cut short by a kill
    assert len(read_metrics(path)) == 5 and read_metrics(path)[1]["loss"] is None
    second = MetricsFile(path, keep_steps=3)
    second.write({"step": 4, "loss": 9.0})
    second.close()
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3, 4]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_now_and_then():
    out = io.StringIO()
    progress = Progress(100, out, interval_seconds=1000)
    for done in range(100):
        progress.update(done, f"step {done}")
    progress.line("a line of its own")
    assert out.getvalue() == "[  0 %] step 0\na line of its own\n"


def test_a_terminal_gets_a_bar(capsys):
    progress = Progress(100, Terminal())
    progress.update(100, "loss 1.0")
    assert "loss 1.0" in capsys.readouterr().out


@pytest.mark.parametrize("records", [[], [{"step": 1, "loss": 100.0}, {"step": 2, "loss": 0.1, "val_loss": None}, {"step": 2, "val_loss": 3.0}]])
def test_curve_is_a_picture(tmp_path, records):
    draw_losses(records, tmp_path / "loss.png", r"a run called $\no formula$")
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_curve_leaves_the_backend_of_a_notebook_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    draw_losses([], tmp_path / "loss.png", "a run")
    assert matplotlib.get_backend() == "svg"


class UsageError(Exception):
    """As wandb's own errors: not one of Python's."""


def fail(*args: object, **kwargs: object) -> None:
    raise UsageError("api_key not configured\n (no-tty)")


def test_what_wandb_refuses_at_the_start_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Error=UsageError, init=fail))
    with pytest.raises(ConfigError, match=r"^--wandb online cannot start \(api_key not configured \(no-tty\)\); .*--wandb offline$"):
        Wandb("online", tmp_path, "a", "toy", {})


@pytest.mark.parametrize("failing", ["log", "finish"])
def test_a_run_outlives_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], failing: str) -> None:
    run = SimpleNamespace(**{"log": lambda *a, **k: None, "finish": lambda: None, failing: fail})
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Error=UsageError, init=lambda **k: run))
    log = Wandb("offline", tmp_path, "a", "toy", {})
    for step in (1, 2):
        log.write({"step": step, "loss": 1.0})
    log.close()
    assert capsys.readouterr().err.splitlines() == [
        "Weights & Biases failed (api_key not configured (no-tty)); going on without it, metrics.jsonl has everything"
    ]


def test_tensorboard_gets_every_number_and_a_resumed_run_starts_where_it_stood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int | None):
            seen.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            seen.append((name, value, step))

        def close(self) -> None:
            seen.append(("closed",))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    earlier = tmp_path / "events.out.tfevents.1"
    earlier.write_bytes(b"of another run")
    board = TensorBoard(tmp_path, 7)
    assert earlier.exists()
    board.write({"step": 8, "loss": 1.5, "ids": ["a"], "skipped": True, "lr": float("nan"), "unfit": 0})
    board.close()
    assert seen == [(str(tmp_path), 8), ("loss", 1.5, 8), ("unfit", 0, 8), ("closed",)]
    TensorBoard(tmp_path)  # a run that starts anew in the same folder
    assert not earlier.exists() and seen[-1] == (str(tmp_path), None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'autosing\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_tensorboard_files_are_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resumed_at, steps in ((None, (1, 2, 3)), (1, (2,))):
        board = TensorBoard(tmp_path, resumed_at)
        for step in steps:
            board.write({"step": step, "loss": 10.0 * step + len(steps)})
        board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 13.0), (2, 21.0)]


def test_a_notebook_gets_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastprogress import fastprogress

    shown: list[str] = []
    out = SimpleNamespace(update=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    monkeypatch.setattr(fastprogress, "IN_NOTEBOOK", True)
    monkeypatch.setattr(fastprogress, "HTML", str, raising=False)
    monkeypatch.setattr(fastprogress, "display", lambda html, display_id=False: out, raising=False)
    text = io.StringIO()
    progress = Progress(100, text)
    progress.update(50, "loss 1.0")
    progress.line("a line")
    assert "loss 1.0" in shown[-1] and text.getvalue() == "a line\n"
