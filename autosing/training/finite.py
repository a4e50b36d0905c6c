"""Whether losses and gradients were finite: noted on the device, so that watching waits for nothing, and read when the loop asks.

Several ranks read at the same step. Each names the rows, wherever they were, so all can stop with the same words. What follows is the loop's affair.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from autosing.errors import AutoSingError
from autosing.training import dist


class NotFiniteError(AutoSingError):
    """A loss or gradient is NaN or infinite; training stopped before the update."""


class Check(NamedTuple):
    """Whether a loss (of these rows), or a whole step's gradient, was finite; still on the device."""

    step: int
    of_loss: bool
    ids: tuple[str, ...]
    finite: Tensor


class FiniteWatch:
    """What was seen since somebody read last.

    Attributes:
        bad: 1 from the first value that was not finite, else 0; a scalar on the device.
    """

    def __init__(self, device: torch.device):
        self.bad = torch.zeros((), device=device)
        self._unread: list[Check] = []

    def see(self, check: Check) -> None:
        self._unread.append(check)
        self.bad = torch.maximum(self.bad, (~check.finite).to(self.bad.dtype))

    def read(self, ranks: dist.Ranks) -> tuple[int, tuple[str, ...]] | None:
        """(step, ids of its rows) of the first that was not finite on any rank, None where all were; waits for the device."""
        unread, self._unread = self._unread, []
        if not unread:
            return None
        flags = torch.stack([check.finite for check in unread]).tolist()
        own = [(check.step, not check.of_loss, check.ids) for check, finite in zip(unread, flags, strict=True) if not finite]
        bad = [(step, of_gradient, ids) for members in dist.gather(own, ranks) for step, of_gradient, ids in members]
        if not bad:
            return None
        first = min(bad)[:2]  # of the step's checks a loss says more than the gradient that it spoiled
        return first[0], tuple(name for *which, ids in bad if tuple(which) == first for name in ids)
