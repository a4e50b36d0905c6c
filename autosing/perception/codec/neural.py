"""What the codecs of other projects have in common behind our Protocol: rows, levels with holes, lengths, and the check that weights fit their name.

Every row goes through the network by itself: it is long enough to fill a GPU, and so its codes never depend on its neighbours, to the bit. Letters as in
`base.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autosing.errors import MismatchError
from autosing.perception.codec.builtin import check_wave, join_levels, split_levels, whole_grains
from autosing.tokens.specs import CodecSpec


class NeuralCodec(ABC):
    """Implements `Codec` from the two functions that code one row."""

    def __init__(self, spec: CodecSpec, device: torch.device | str):
        self.spec, self.device = spec, torch.device(device)
        self.accompaniment = spec.name

    @abstractmethod
    def _encode_row(self, wav: Tensor) -> list[Tensor]:
        """(1, 1, T * hop) -> K tensors (T / stride,); more codes than that are cut off."""

    @abstractmethod
    def _decode_row(self, levels: list[Tensor]) -> Tensor:
        """K tensors (1, T / stride) -> (samples,), at least T * hop."""

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        """(B, 1, n) float32 -> (B, K, T) int64, `spec.HOLE` off stride; T = n / hop, ceil to whole grains.

        Raises:
            ConfigError: `wav` is not (B, 1, n).
        """
        check_wave(wav)
        spec, frames = self.spec, whole_grains(wav.shape[2], self.spec)
        grids = torch.full((len(wav), spec.levels, frames), spec.HOLE, dtype=torch.long, device=self.device)
        wav = torch.nn.functional.pad(wav.to(self.device, torch.float32), (0, frames * spec.hop - wav.shape[2]))
        for number, row in enumerate(wav if frames else ()):
            codes = self._encode_row(row[None])
            grids[number] = join_levels([level[: frames // stride] for level, stride in zip(codes, spec.strides, strict=True)], spec)
        return grids

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(B, K, T) -> (B, 1, T * hop) float32.

        Raises:
            ConfigError: another shape, or a value that is no code.
        """
        levels = split_levels(codes.to(self.device), self.spec)
        samples = codes.shape[2] * self.spec.hop
        out = torch.zeros(len(codes), 1, samples, device=self.device)
        for number in range(len(codes) if samples else 0):
            out[number, 0] = self._decode_row([level[number : number + 1] for level in levels])[:samples]
        return out


def require_config(spec: CodecSpec, found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """
    Raises:
        MismatchError: the weights in `folder` are of another codec; names the first setting that differs.
    """
    for key, value in wanted.items():
        if found.get(key) != value:
            raise MismatchError(f"'{folder}' holds no codec '{spec.name}': its {key} is {found.get(key)!r} where {value!r} is needed; give other weights")
