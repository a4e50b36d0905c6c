"""What a run tells: metrics as JSON lines, a progress bar or plain lines, the loss curve as PNG, optionally TensorBoard and Weights & Biases.

Records are flat JSON objects; training ones have `loss`, validation ones `val_loss`, both `step` (optimiser steps done). Nothing here
touches a tensor on a device: `Meter` alone gathers values there, and reads them when asked.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from autosing.errors import ConfigError, one_line
from autosing.store import atomic_path
from autosing.training.saving import saving

PICTURE_SECONDS = 30.0  # the loss curve is drawn at most this often


class Meter:
    """Weighted means of named scalars, summed on their device in one vector a set of names, so that adding needs no synchronisation.

    A value that is not finite (a metric without a case in this batch) does not count.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, values: Mapping[str, Tensor], weight: float = 1.0) -> None:
        names = tuple(values)
        row = torch.stack([v.detach().reshape(()).to(self._device, self._dtype) for v in values.values()])
        finite = torch.isfinite(row)
        both = torch.stack([torch.where(finite, row, torch.zeros_like(row)), finite.to(self._dtype)]) * weight
        self._sums[names] = self._sums[names].add_(both) if names in self._sums else both

    def totals(self, names: tuple[str, ...]) -> Tensor:
        """(2, n) sums and weights of `names`, zero where nothing was added; for summing over ranks."""
        return self._sums.setdefault(names, torch.zeros(2, len(names), dtype=self._dtype, device=self._device))

    def names(self) -> list[tuple[str, ...]]:
        return list(self._sums)

    def take(self) -> dict[str, float]:
        """The means, and start over. Waits for the device."""
        sums: dict[str, list[float]] = {}
        for names, both in self._sums.items():
            for name, value, weight in zip(names, *both.tolist(), strict=True):
                total = sums.setdefault(name, [0.0, 0.0])
                total[0] += value
                total[1] += weight
        self._sums = {}
        return {name: value / weight for name, (value, weight) in sums.items() if weight}

    def state(self) -> list[Any]:
        return [[list(names), both.tolist()] for names, both in self._sums.items()]

    def load(self, state: list[Any]) -> None:
        """Start from a `state`, or from those of several meters one behind the other, which are added up."""
        self._sums = {}
        for names, both in state:
            self.totals(tuple(names)).add_(torch.tensor(both, dtype=self._dtype, device=self._device))


class MetricsFile:
    """`metrics.jsonl`: one record a line, appended and flushed."""

    def __init__(self, path: Path, keep_steps: int | None = None):
        """
        Args:
            keep_steps: continue a file, dropping records after this step (a run killed after its last saved state repeats them);
                None starts a new one.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records = [] if keep_steps is None else [r for r in read_metrics(path) if r.get("step", 0) <= keep_steps]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in self.records), encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for the length of the run

    def write(self, record: Mapping[str, Any]) -> None:
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self.records.append(clean)
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # `write` has told of it
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Records of a `metrics.jsonl`; a last line cut short by a kill is passed over."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class Progress:
    """A fastprogress bar on a terminal and in a notebook; elsewhere a line every `interval_seconds`."""

    def __init__(self, total: int, out: TextIO | None = None, interval_seconds: float = 10.0, quiet: bool = False):
        self._total, self._out, self._interval, self._quiet = max(1, total), out or sys.stderr, interval_seconds, quiet
        self._bar = None
        self._last = -math.inf
        self._erase = ""
        if quiet:
            return
        if "IPython" in sys.modules:  # else this is no notebook, and fastprogress need not be asked
            from fastprogress import fastprogress

            if fastprogress.IN_NOTEBOOK:
                self._bar = fastprogress.NBProgressBar(range(self._total))
        if self._bar is None and self._out.isatty():
            from fastprogress.fastprogress import ConsoleProgressBar

            self._bar, self._erase = ConsoleProgressBar(range(self._total)), "\r\x1b[K"
        if self._bar is not None:
            self._bar.update(0)

    def update(self, done: int, text: str) -> None:
        """`done` of `total`, with a short text beside it."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.comment = text
            self._bar.update(min(done, self._total))
        elif time.monotonic() - self._last >= self._interval:
            self._last = time.monotonic()
            self.line(f"[{100 * done / self._total:3.0f} %] {text}")

    def line(self, text: str) -> None:
        """A line of its own."""
        if self._quiet:
            return
        self._out.write(self._erase + text + "\n")
        self._out.flush()


def progress_of(text: str) -> Callable[[int, int], None]:
    """A `Progress` for whoever tells (done, total): made when the total is first told, with `text` beside it."""
    bars: list[Progress] = []

    def seen(done: int, total: int) -> None:
        if not bars:
            bars.append(Progress(total))
        bars[0].update(done, text)

    return seen


def draw_losses(records: list[dict[str, Any]], path: Path, title: str) -> None:
    """The training and validation loss over steps as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for key, style in (("loss", {"lw": 1, "alpha": 0.8}), ("val_loss", {"lw": 2, "marker": "o", "ms": 3})):
        points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=key, **style)
    values = [r[k] for r in records for k in ("loss", "val_loss") if r.get(k) is not None]
    if values and min(values) > 0 and max(values) / min(values) > 20:
        axes.set_yscale("log")
    axes.set(xlabel="optimiser step", ylabel="loss")
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    if values:
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


class TensorBoard:
    """Every number of a record as a curve for TensorBoard; the package is imported only here."""

    def __init__(self, folder: Path, resumed_at: int | None = None):
        """
        Args:
            folder: of its event files; those of another run, which this one does not go on with, are removed.
            resumed_at: what an earlier process wrote after this step is hidden, since it is repeated.

        Raises:
            ConfigError: the package is missing.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("--tensorboard needs the package tensorboard; pip install 'autosing[tensorboard]', or leave it out") from error
        if resumed_at is None:
            for left in Path(folder).glob("events.out.tfevents.*"):
                left.unlink()
        self._writer = SummaryWriter(str(folder), purge_step=None if resumed_at is None else resumed_at + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Weights & Biases, imported only when asked for; `mode` "off" does nothing."""

    def __init__(self, mode: str, folder: Path, name: str, group: str, config: Mapping[str, Any], identifier: str = ""):
        """
        Args:
            identifier: of the run there, in which steps of an earlier process are not logged again; a run that goes on has its own, one that starts
                anew another, since what it says of steps that are there already would be passed over.

        Raises:
            ConfigError: the package is missing, or it cannot start a run (no login, no network, ...).
        """
        self._run: Any = None
        self._errors: tuple[type[Exception], ...] = ()
        if mode == "off":
            return
        try:
            import wandb  # type: ignore[import-not-found] - an optional extra
        except ImportError as error:
            raise ConfigError(f"--wandb {mode} needs the package wandb; pip install 'autosing[wandb]', or leave it off") from error
        self._errors = (wandb.Error, OSError, ValueError)
        try:
            self._run = wandb.init(
                project="autosing", mode=mode, dir=str(folder), name=name, group=group, config=dict(config), resume="allow",
                id=identifier or hashed_name(folder),
            )
        except self._errors as error:
            raise ConfigError(f"--wandb {mode} cannot start ({one_line(error)}); run 'wandb login', or use --wandb offline") from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Log a record; where that fails the run goes on without Weights & Biases, and says so once."""
        if self._run is None:
            return
        try:
            self._run.log({k: v for k, v in record.items() if k != "step"}, step=int(record["step"]))
        except self._errors as error:
            self._give_up(error)

    def close(self) -> None:
        if self._run is None:
            return
        try:
            self._run.finish()
        except self._errors as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        sys.stderr.write(f"Weights & Biases failed ({one_line(error)}); going on without it, metrics.jsonl has everything\n")


class RunLog:
    """What a run tells of its course: `metrics.jsonl` and `loss.png` in its folder, TensorBoard, Weights & Biases. Only a run's first rank writes the former.

    Attributes:
        records: what metrics.jsonl holds.
    """

    def __init__(self, folder: Path, title: str, wandb: Wandb | None, tensorboard: TensorBoard | None):
        self._folder, self._title, self._tensorboard = folder, title, tensorboard
        self._wandb = wandb or Wandb("off", folder, "", "", {})
        self._file: MetricsFile | None = None
        self._drawn = -math.inf

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        return self._file.records if self._file is not None else ()

    def open(self, resumed_at: int | None) -> None:
        """Begin metrics.jsonl, or go on with it behind step `resumed_at`."""
        self._file = MetricsFile(self._folder / "metrics.jsonl", resumed_at)

    def write(self, record: Mapping[str, Any]) -> None:
        """
        Raises:
            SaveError: the disk is full, ...
        """
        with saving(record["step"], self._folder):
            if self._file is not None:
                self._file.write(record)
            if self._tensorboard is not None:
                self._tensorboard.write(record)
        self._wandb.write(record)

    def draw(self, step: int, force: bool = False) -> None:
        """Draw the losses anew if that is long ago.

        Raises:
            SaveError: as of `write`.
        """
        if self._file is not None and (force or time.monotonic() - self._drawn > PICTURE_SECONDS):
            with saving(step, self._folder):
                draw_losses(self._file.records, self._folder / "loss.png", self._title)
            self._drawn = time.monotonic()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._wandb.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def hashed_name(folder: Path) -> str:
    """A short identifier that stays the same when a run is resumed in its folder."""
    import hashlib

    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
