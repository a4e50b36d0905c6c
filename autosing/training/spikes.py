"""Which gradient norms are out of the ordinary: a running threshold that a few outliers cannot move.

The threshold lies above the median of the last `WINDOW` norms, on a logarithmic scale, by `DEVIATIONS` of their spread (median absolute deviation,
scaled to a normal distribution's standard deviation), and by a factor of `LEAST_FACTOR` at least. All of it stays on the device, so that
watching waits for nothing. What follows from a spike is the loop's affair.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

WINDOW = 128
WARM_STEPS = 32  # nothing is a spike before so many norms are known
DEVIATIONS = 6.0
LEAST_FACTOR = 2.0
_NORMAL = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


class Spike(NamedTuple):
    """Of one update: its number from 1, the rows of its batch, the norm, what it may be at most, and whether it is over; scalars on the device."""

    step: int
    ids: tuple[str, ...]
    norm: Tensor
    threshold: Tensor
    over: Tensor


class SpikeWatch:
    """The last norms, and the threshold they make."""

    def __init__(self, device: torch.device):
        self.log_norms = torch.full((WINDOW,), math.nan, device=device)
        self.seen = 0

    def see(self, norm: Tensor) -> tuple[Tensor, Tensor]:
        """Compare a norm with those before it, and add it to them; one that is not finite is no spike, and is not added.

        Returns:
            (threshold, over): scalars; the threshold is infinite while too few are known.
        """
        norm = norm.detach().float()
        median = self.log_norms.nanmedian()
        spread = (self.log_norms - median).abs().nanmedian()
        threshold = torch.exp(median + (DEVIATIONS * _NORMAL * spread).clamp(min=math.log(LEAST_FACTOR)))
        if self.seen < WARM_STEPS:
            threshold = torch.full_like(norm, math.inf)
        self.log_norms[self.seen % WINDOW] = torch.where(torch.isfinite(norm), norm.clamp(min=1e-30).log(), math.nan)
        self.seen += 1
        return threshold, torch.isfinite(norm) & (norm > threshold)

    def load(self, log_norms: Tensor, seen: int) -> None:
        self.log_norms.copy_(log_norms)
        self.seen = seen
