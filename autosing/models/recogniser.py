"""The recogniser: which phone is sung when. One small network for alignment, singing activity and semantic features.

Log spectra at 100 frames a second -> a small 2-D convolution stem that halves time and folds frequency -> ConvNeXt blocks at 50 frames a
second -> two read-outs: phones a frame (silence first) and CTC (blank last). Frame f is the 20 ms that start at f / 50 s.

A stereo one also hears how much of each band the two channels do not share: a voice mostly stands in the middle, much of a band does not.

Letters: B batch, n samples, F frames (n // 480), D width, C classes (silence and the phones), K kinds of spectra (1, or 2 for a stereo one).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from autosing.nn.convnext import ConvNeXtBlock
from autosing.nn.spectra import FRONT_ENDS
from autosing.tokens.text import PHONES

SILENCE = 0
CLASSES: tuple[str, ...] = ("", *PHONES)
"""Class names by index; class 0, silence or no singing, is the empty string."""
CLASS_OF: dict[str, int] = {phone: index for index, phone in enumerate(CLASSES)}
BLANK = len(CLASSES)
"""Index of the CTC blank, the last of C + 1."""


def phone_begins(classes: np.ndarray) -> np.ndarray:
    """(F,) classes, frame by frame -> the frames at which a phone begins; silence and blanks are none, and a held phone is one."""
    return np.flatnonzero((np.diff(classes, prepend=BLANK) != 0) & (classes != SILENCE) & (classes != BLANK))


@dataclass(frozen=True)
class RecogniserConfig:
    """
    Attributes:
        features: a row of `autosing.nn.spectra.FRONT_ENDS`.
        bands: rows of the front end.
        stem: channels of the 2-D stem (doubled after its first layer).
        width: D.
        dilations: one block each.
        kernel: taps of each block.
        expansion: hidden width of a block / D.
        dropout: in the blocks, in training.
        stereo: hear the sides too.
    """

    features: str = "mel"
    bands: int = 80
    stem: int = 16
    width: int = 224
    dilations: tuple[int, ...] = (1, 1, 2, 1, 4, 1)
    kernel: int = 15
    expansion: int = 3
    dropout: float = 0.0
    stereo: bool = False


SIZES: dict[str, RecogniserConfig] = {
    "micro": RecogniserConfig(bands=40, stem=4, width=48, dilations=(1, 2)),
    "base": RecogniserConfig(),
    "judge": RecogniserConfig(features="cepstrum", bands=64, stem=12, width=176, dilations=(1, 2, 1, 4, 1)),
}


class RecogniserOutput(NamedTuple):
    """`frames` (B, F, C) and `ctc` (B, F, C + 1) are logits, `features` (B, F, D) is what both are read from."""

    frames: Tensor
    ctc: Tensor
    features: Tensor


class Recogniser(nn.Module):
    """(B, n), or (B, 2, n) in stereo, at 24 kHz -> `RecogniserOutput` at 50 frames a second. The level of the recording does not matter down to
    a peak of about -35 dB re full scale; below, more and more is heard as silence.

    One that is not stereo hears the mean of the channels; a stereo one takes one channel for two that are the same.
    """

    kind: ClassVar[str] = "recogniser"
    added_later: ClassVar[tuple[str, ...]] = ("sides.",)
    Config = RecogniserConfig
    sample_rate: ClassVar[int] = 24000
    frame_rate: ClassVar[int] = 50
    hop: ClassVar[int] = 480

    def __init__(self, config: RecogniserConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.spectra = FRONT_ENDS[config.features](config.bands)
        self.stem = nn.ModuleList(
            [
                nn.Conv2d(1, config.stem, (5, 4), stride=(2, 2), padding=(2, 1)),
                nn.Conv2d(config.stem, 2 * config.stem, (3, 3), stride=(2, 1), padding=(1, 1)),
            ]
        )
        if config.stereo:
            self.sides = nn.Conv2d(1, config.stem, (5, 4), stride=(2, 2), padding=(2, 1), bias=False)
            nn.init.zeros_(self.sides.weight)
        self.project = nn.Linear(2 * config.stem * -(-config.bands // 4), width)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, config.kernel, dilation, config.expansion, config.dropout) for dilation in config.dilations
        )
        self.norm = nn.LayerNorm(width)
        self.frame_head = nn.Linear(width, len(CLASSES))
        self.ctc_head = nn.Linear(width, len(CLASSES) + 1)

    @property
    def width(self) -> int:
        """D of `features`."""
        return self.config.width

    @staticmethod
    def num_frames(samples: int) -> int:
        return samples // Recogniser.hop

    def heard(self, wav: Tensor) -> Tensor:
        """(B, n) or (B, C, n) -> front-end frames (B, K, bands, 2 F): of what the channels share, and of a stereo recogniser of half their difference."""
        wav = wav[..., : self.num_frames(wav.shape[-1]) * self.hop]
        middle = wav if wav.ndim == 2 else wav.mean(1)
        if not self.config.stereo:
            return self.spectra(middle)[:, None]
        sides = torch.zeros_like(middle) if wav.ndim == 2 else (wav[:, 0] - wav[:, -1]) / 2
        return self.spectra(torch.stack([middle, sides], 1))

    def features(self, wav: Tensor) -> Tensor:
        """(B, n) or (B, 2, n) -> (B, F, D)."""
        return self.trunk(self.heard(wav))

    def trunk(self, spectra: Tensor) -> Tensor:
        """Front-end frames (B, K, bands, 2 F) -> (B, F, D)."""
        x = spectra
        for x in self.layers(spectra):  # noqa: B007 - the last counts
            pass
        return x

    def layers(self, spectra: Tensor) -> Iterator[Tensor]:
        """What each layer makes of front-end frames (B, K, bands, 2 F), (B, ..., F or 2 F, ...); the last is what `trunk` gives."""
        middle, *sides = (spectra / 3.0).split(1, 1)
        first, second = self.stem
        x = first(middle)
        if sides:
            x = x + self.sides(sides[0])
        x = nnf.gelu(x)
        yield x
        x = nnf.gelu(second(x))
        yield x
        x = self.project(x.flatten(1, 2).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
            yield x
        yield self.norm(x)

    def read(self, features: Tensor) -> RecogniserOutput:
        """Both read-outs of (B, F, D)."""
        return RecogniserOutput(self.frame_head(features), self.ctc_head(features), features)

    def forward(self, wav: Tensor) -> RecogniserOutput:
        return self.read(self.features(wav))
