"""What a run's folder keeps: `last`, `best`, numbered checkpoints `step-<n>` and the state to resume from; which of them, and in what order.

A save is a snapshot in CPU memory, which the loop makes, written beside the training (`saving.py`): checkpoints first, then the state, then numbered
checkpoints that it no longer speaks of go. So a run killed before the state is written goes on from the state before. The first rank alone writes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from autosing.faults import Faults
from autosing.models.places import ADAPTER_FILE, CARD_FILE, CONFIG_FILE, MODEL_FILE
from autosing.store import remove_temporaries
from autosing.training.saving import Saver
from autosing.training.state import RunState, remove_state, save_state

NUMBERED, SAMPLES = "step-", "samples"


class Snapshot(NamedTuple):
    """What a save writes, in CPU memory; of several ranks the first one has the tensors.

    Attributes:
        weights, meta, card: of a checkpoint.
        state: None where checkpoints alone are written.
    """

    weights: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    card: str
    state: RunState | None


class Checkpoints:
    """Saves of one run.

    Attributes:
        best: the best monitored value so far.
        ranking: (monitored value, step) of the `keep_best` best, best first.
        stalled: seconds that saves have held up the loop; whoever reports them sets it back to 0.
        step, time: of the last save of the state, the second by the monotonic clock; as of the run's start where there was none.
    """

    def __init__(
        self, folder: Path, export: Callable[[Path, Snapshot], None], faults: Faults, *, keep_last: int, keep_best: int, mode: str, writes: bool
    ):
        """
        Args:
            export: writes the model of a snapshot into a checkpoint's folder.
            faults: reached as `train` at the points `weights` and `state`, before and after each file.
            mode: "min" or "max" of the monitored value is best.
            writes: False on every rank but the first.
        """
        self.folder, self._export, self._faults, self._writes = folder, export, faults, writes
        self._keep_last, self._keep_best, self._sign = keep_last, keep_best, 1.0 if mode == "min" else -1.0
        self._saver = Saver()
        self.best: float | None = None
        self.ranking: list[tuple[float, int]] = []
        self.stalled = 0.0
        self.step, self.time = 0, time.monotonic()

    def clear(self, resume: bool) -> None:
        """Remove what killed processes left half written and, of a run that starts anew, the state, checkpoints and samples of the one before it."""
        old = sorted(self.folder.glob(f"{NUMBERED}*"))
        for folder in (self.folder, *(self.folder / name for name in ("state", "last", "best")), *old):
            remove_temporaries(folder)
        if not resume:
            remove_state(self.folder / "state")
            for checkpoint in (*(self.folder / name for name in ("last", "best")), *old):
                remove_checkpoint(checkpoint)
            remove_samples(self.folder / SAMPLES)

    def begin(self, step: int) -> None:
        """The run starts, or goes on, at `step`, which may be its end: what a kill kept the last save from removing goes now."""
        self.step, self.time = step, time.monotonic()
        if self._writes:
            self._prune(self.ranking)

    def deserved(self, value: float | None, step: int) -> list[str]:
        """The checkpoints that weights of this monitored value are written to, besides `last`."""
        if value is None:
            return []
        names = []
        if self.best is None or self._sign * value < self._sign * self.best:
            self.best = value
            names.append("best")
        if self._keep_best:
            self.ranking = sorted([*self.ranking, (value, step)], key=lambda entry: (self._sign * entry[0], entry[1]))[: self._keep_best]
            names += [numbered(step)] if (value, step) in self.ranking else []
        return names

    def save(self, step: int, names: Sequence[str], snapshot: Callable[[bool], Snapshot], state: bool = True) -> None:
        """Hand a snapshot of now to the thread that writes it; the loop waits only for the snapshot, and for a save still in flight.

        Args:
            names: checkpoints to write; with `state` also `last` and what `keep_last` asks for.
            snapshot: takes one, given `state`; every rank calls it.
            state: write the state too.

        Raises:
            SaveError: the save before failed.
        """
        before = time.monotonic()
        self._saver.finish()  # before the snapshot, so that there is room for one
        taken = snapshot(state)
        if state:
            names = list(dict.fromkeys([*names, *([numbered(step)] if self._keep_last else []), "last"]))
        if self._writes:
            writes = [partial(self._checkpoint, name, taken) for name in names]
            self._saver.start(step, self.folder, writes if taken.state is None else [*writes, partial(self._commit, taken.state)])
        self.stalled += time.monotonic() - before
        if state:
            self.step, self.time = step, time.monotonic()

    def check(self) -> None:
        """Raise what a save has failed with, without waiting for one."""
        self._saver.check()

    def wait(self) -> None:
        """Until nothing is in flight."""
        self._saver.wait()

    def finish(self) -> None:
        """`wait` and `check`."""
        self._saver.finish()

    def _checkpoint(self, name: str, taken: Snapshot) -> None:
        self._faults.reach("train", "weights")
        self._export(self.folder / name, taken)
        self._faults.reach("train", "weights")

    def _commit(self, state: RunState) -> None:
        """Write the state, and remove numbered checkpoints that it no longer speaks of."""
        self._faults.reach("train", "state")
        save_state(self.folder / "state", state)
        self._faults.reach("train", "state")
        self._prune(state.numbers["ranking"])

    def _prune(self, ranking: Sequence[tuple[float, int]]) -> None:
        if self._keep_last or self._keep_best:
            prune(self.folder, [numbered(step) for _, step in ranking], self._keep_last)


def numbered(step: int) -> str:
    """Name of the checkpoint of a step."""
    return f"{NUMBERED}{step:07d}"


def prune(folder: Path, keep: Sequence[str], last: int) -> None:
    """Remove numbered checkpoints in `folder` but those named in `keep` and the `last` newest."""
    there = sorted(path for path in folder.glob(f"{NUMBERED}*") if path.is_dir())
    for path in there[: max(0, len(there) - last)]:
        if path.name not in keep:
            remove_checkpoint(path)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint's files, and its folder once that is empty."""
    for name in (CONFIG_FILE, MODEL_FILE, ADAPTER_FILE, CARD_FILE):
        (folder / name).unlink(missing_ok=True)
    _remove_empty(folder)


def remove_samples(folder: Path) -> None:
    """Remove what was sung at validations, and what is empty after it."""
    for of_step in sorted(folder.glob(f"{NUMBERED}*")):
        for file in (*of_step.glob("*.wav"), *of_step.glob("*.png")):
            file.unlink()
        _remove_empty(of_step)
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
