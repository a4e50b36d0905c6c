"""What the losses of validation batches come to, over all batches and ranks.

The batches do not depend on the number of ranks, and neither does the order in which they are added up. Which rows are validated, and with
which weights, is the loop's affair.
"""

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import torch

from autosing.training import dist
from autosing.training.log import Meter
from autosing.training.task import Losses


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
