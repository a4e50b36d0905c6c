"""The losses of validation rows, and what they come to over all batches and ranks.

The batches do not depend on the number of ranks, and neither does the order in which they are added up. How many rows are validated, and when, is the
loop's affair.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import torch

from autosing.training import dist
from autosing.training.batches import MicroBatch, ValidationBatches, step_seed
from autosing.training.learner import Learner
from autosing.training.loader import prefetch
from autosing.training.log import Meter
from autosing.training.task import Losses, Row, Task

CACHE_BYTES = 256 << 20
_SEED = 1


class Interrupted(Exception):
    """Somebody asked a validation to end before its last batch."""


class Scored(NamedTuple):
    """A validation batch: its number, of how many rows, and its losses, still on the device."""

    number: int
    rows: int
    losses: Losses


class _Read(NamedTuple):
    """The same as JSON values."""

    number: int
    rows: int
    values: dict[str, float]
    terms: list[tuple[float, float]]


class Validator:
    """Scores validation rows, always in the same batches with the same random numbers."""

    def __init__(self, task: Task, rows: Sequence[Row], batch_size: int, workers: int, learner: Learner):
        self._task, self._rows, self._batch_size, self._workers, self._learner = task, rows, batch_size, workers, learner
        self._cache: list[MicroBatch] | None = None

    def score(self, count: int, interrupted: Callable[[], bool], before_fork: Callable[[], None]) -> tuple[dict[str, float], set[str]]:
        """Of the first `count` rows, what `combine` gives; with averaged weights when there are.

        Args:
            interrupted: asked after every batch.
            before_fork: called where worker processes will be begun.

        Raises:
            Interrupted: so it is.
        """
        scored: list[Scored] = []
        learner = self._learner
        with learner.at_rest() as losses_of:
            for index, batch in self._batches(count, before_fork):
                if not batch.ids:
                    continue
                torch.manual_seed(step_seed(_SEED, index, 0))
                scored.append(Scored(index, len(batch.ids), losses_of(batch.on(learner.device))))
                if interrupted():
                    raise Interrupted
        return combine(scored, learner.ranks)

    def _batches(self, count: int, before_fork: Callable[[], None]) -> Iterator[tuple[int, MicroBatch]]:
        """This rank's batches and their numbers; kept in memory after the first pass when they are small."""
        batches, ranks = ValidationBatches(self._task, self._rows, self._batch_size, count), self._learner.ranks
        numbers = range(ranks.rank, len(batches), ranks.world)
        if self._cache is not None:
            yield from zip(numbers, self._cache, strict=True)
            return
        if self._workers:
            before_fork()
        kept: list[MicroBatch] | None = []
        size = 0
        for number, batch in zip(numbers, prefetch(batches, numbers, min(self._workers, 2)), strict=True):
            if kept is not None:
                size += sum(t.nbytes for t in batch.tensors.values())
                kept = [*kept, batch.kept()] if size <= CACHE_BYTES else None
            yield number, batch
        self._cache = kept


def combine(scored: Sequence[Scored], ranks: dist.Ranks) -> tuple[dict[str, float], set[str]]:
    """The values of all ranks' batches put together, each name with `val_` before it, and the names of those that are not finite too.

    `val_loss` of losses with `terms` is that of all rows put together, however they lie in batches; other values are means of batches, by their
    rows. Batches in which a value is not finite do not count for it; one that no batch has finite is named alone.
    """
    everywhere = [_Read(*row) for members in dist.gather([_read(batch) for batch in scored], ranks) for row in members]
    meter, whole = Meter(torch.device("cpu")), Meter(torch.device("cpu"))
    for batch in sorted(everywhere, key=attrgetter("number")):
        meter.add({name: torch.tensor(value, dtype=torch.float64) for name, value in batch.values.items()}, batch.rows)
        if math.isfinite(batch.values["loss"]):
            for number, (addend, count) in enumerate(batch.terms):
                whole.add({str(number): torch.tensor(addend, dtype=torch.float64)}, count)
    names = {f"val_{name}" for together in meter.names() for name in together}
    metrics = {f"val_{name}": value for name, value in meter.take().items()}
    if addends := whole.take():
        metrics["val_loss"] = math.fsum(addends.values())
    return metrics, names


def _read(batch: Scored) -> _Read:
    losses = batch.losses
    values = {"loss": losses.total, **losses.parts, **losses.metrics}
    terms = [(float(addend), float(count)) for addend, count in losses.terms]
    return _Read(batch.number, batch.rows, {name: float(value) for name, value in values.items()}, terms)
