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


def as_mix(mix: Tensor) -> Tensor:
    """(C, n), C 1 or 2 -> the same as float32 on the CPU, cut off from gradients: what a separator begins with.

    Raises:
        ValueError: another shape.
    """
    if mix.dim() != 2 or mix.shape[0] not in (1, 2):
        raise ValueError(f"the mix must be (1 or 2, n), found {tuple(mix.shape)}")
    return mix.detach().float().cpu()
