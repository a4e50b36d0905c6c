"""The separator Protocol. Letters: C channels, n samples."""

from typing import NamedTuple, Protocol

from torch import Tensor


class Stems(NamedTuple):
    """Both (C, n), same n as the mix; vocals + accompaniment == mix up to rounding for mask-based backends."""

    vocals: Tensor
    accompaniment: Tensor


class Separator(Protocol):
    """Mix -> stems, at `sample_rate` Hz; any length, memory bounded by blocks."""

    name: str
    sample_rate: int

    def separate(self, mix: Tensor) -> Stems:
        """(C, n) float32, C 1 or 2 -> stems."""
        ...
