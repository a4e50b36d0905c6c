"""The separator Protocol. Letters: C channels, n samples."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from autosing.song import audio


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


def vocals_of(separator: Separator, mix: Tensor, sample_rate: int) -> Tensor:
    """(C, n) at `sample_rate` -> what `separator` takes for its vocals, (C, n) at the same rate on the CPU, nothing above the separator's band."""
    stems = separator.separate(audio.resample(mix, sample_rate, separator.sample_rate))
    vocals = audio.resample(stems.vocals.cpu(), separator.sample_rate, sample_rate)
    missing = mix.shape[-1] - vocals.shape[-1]
    return torch.nn.functional.pad(vocals, (0, max(0, missing)))[:, : mix.shape[-1]]


def as_mix(mix: Tensor) -> Tensor:
    """(C, n), C 1 or 2 -> the same as float32 on the CPU, cut off from gradients: what a separator begins with.

    Raises:
        ValueError: another shape.
    """
    if mix.dim() != 2 or mix.shape[0] not in (1, 2):
        raise ValueError(f"the mix must be (1 or 2, n), found {tuple(mix.shape)}")
    return mix.detach().float().cpu()
