"""The built-in voice embedder: log-mels -> a small residual 2-D network -> attentive statistics pooling -> a unit vector.

Words and notes vary within a pooled window, the throat does not: what the pooling keeps is who sings. The head with a class a singer is
only for training (`classes` 0 = none, as shipped). Letters: B batch, n samples, M mel bands, T frames, D width.
Pooling: Okabe, Koshinaka, Shinoda, "Attentive Statistics Pooling for Deep Speaker Embedding" (2018), equations 3 to 6.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from autosing.nn.spectra import mel_triangles


@dataclass(frozen=True)
class VoiceConfig:
    """
    Attributes:
        sample_rate: Hz.
        window, hop: samples of the Hann window and between frames.
        mels, low_hz, high_hz: triangular bands even on the mel scale.
        widths: channels of the stages; each but the first halves bands and frames.
        blocks: residual blocks of each stage.
        width: D of the embedding.
        classes: rows of the training head.
    """

    sample_rate: int = 24_000
    window: int = 1024
    hop: int = 300
    mels: int = 64
    low_hz: float = 80.0
    high_hz: float = 10_000.0
    widths: tuple[int, ...] = (24, 32, 64, 96)
    blocks: tuple[int, ...] = (1, 2, 2, 1)
    width: int = 128
    classes: int = 0


SIZES = {"tiny": VoiceConfig(mels=32, widths=(8, 8, 16, 16), blocks=(1, 1, 1, 1)), "base": VoiceConfig()}


class _Block(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut."""

    def __init__(self, width_in: int, width: int, step: int):
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(width_in, width, 3, step, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        same = step == 1 and width_in == width
        self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv2d(width_in, width, 1, step, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.path(x) + self.shortcut(x))


class VoiceNet(nn.Module):
    """(B, n) waveforms -> (B, D) unit vectors."""

    kind: ClassVar[str] = "voice"
    Config: ClassVar[type] = VoiceConfig
    mels: Tensor
    window: Tensor

    def __init__(self, config: VoiceConfig):
        super().__init__()
        self.config = c = config
        self.register_buffer("mels", mel_triangles(c.sample_rate, c.window, c.mels, c.low_hz, c.high_hz), persistent=False)
        self.register_buffer("window", torch.hann_window(config.window), persistent=False)
        widths = config.widths
        self.stem = nn.Sequential(nn.Conv2d(1, widths[0], 3, (1, 2), 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        stages: list[nn.Module] = []
        for stage, (width, blocks) in enumerate(zip(widths, config.blocks, strict=True)):
            for block in range(blocks):
                first = block == 0
                width_in = widths[max(0, stage - 1)] if first else width
                stages.append(_Block(width_in, width, 2 if first and stage else 1))
        self.stages = nn.Sequential(*stages)
        rows = config.mels // 2 ** (len(widths) - 1)
        features = widths[-1] * rows
        self.attention = nn.Sequential(nn.Conv1d(features, 64, 1), nn.Tanh(), nn.Conv1d(64, features, 1))
        self.out = nn.Sequential(nn.Linear(2 * features, config.width, bias=False), nn.BatchNorm1d(config.width, affine=False))
        self.head = nn.Parameter(torch.randn(config.classes, config.width)) if config.classes else None
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, wav: Tensor) -> Tensor:
        """(B, n) -> (B, D), unit norm; the level of `wav` does not matter."""
        x = self.stages(self.stem(self.log_mels(wav)[:, None].contiguous(memory_format=torch.channels_last)))
        x = x.flatten(1, 2)
        share = torch.softmax(self.attention(x), -1)
        mean = (x * share).sum(-1)
        deviation = ((x.square() * share).sum(-1) - mean.square()).clamp_min(1e-4).sqrt()
        return functional.normalize(self.out(torch.cat([mean, deviation], -1)), dim=-1)

    def log_mels(self, wav: Tensor) -> Tensor:
        """(B, n) -> (B, M, T): natural-log mel powers relative to the mean of the loud frames, floored 50 dB below it, about -1..1."""
        config = self.config
        frames = torch.stft(wav.float(), config.window, config.hop, window=self.window, pad_mode="constant", return_complex=True)
        powers = self.mels @ (frames.real.square() + frames.imag.square())
        loudness = powers.mean(1)
        loud = loudness >= loudness.amax(-1, keepdim=True) * 1e-2
        level = (loudness * loud).sum(-1) / loud.sum(-1)
        relative = powers / level.clamp_min(1e-10)[:, None, None]
        return (relative.clamp_min(1e-5).log() + 4.0) / 4.0

    def shipped(self) -> "VoiceNet":
        """A copy that only embeds, without the training head."""
        copy = VoiceNet(replace(self.config, classes=0))
        copy.load_state_dict({key: value for key, value in self.state_dict().items() if key != "head"})
        return copy.train(self.training)
