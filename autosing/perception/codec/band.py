"""The embedded codec of accompaniments, made to be a condition: same hop, strides and number of codes as `builtin`, other meanings.

| level | stride | a code says                                                                                        |
|-------|--------|----------------------------------------------------------------------------------------------------|
| 0     | 8      | harmony: which pitch classes sound (12), and which of them in the bass (12); 0 = none               |
| 1     | 4      | loudness and timbre: log-mel spectrum of four frames. Codes rise with loudness                      |
| 2     | 2      | what is left of the log-mel spectrum of two frames                                                   |
| 3     | 1      | what is left of a frame, and how much of an onset it is                                               |

`decode` gives real but rough audio (levels 1-3 -> mel -> Griffin and Lim, "Signal estimation from modified short-time Fourier transform",
1984); nobody sings from it. Letters: B batch, n samples, K levels, T frames of 288 samples at 24 kHz, P mel bands.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autosing.nn.spectra import mel_filterbank
from autosing.perception.codec.builtin import STRIDES, check_wave, join_levels, load_books, split_levels, whole_grains
from autosing.perception.codec.quantise import nearest
from autosing.perception.codec.vocoder import frames_of
from autosing.tokens.specs import CodecSpec

FRAMES_A_BLOCK = 256
CLASSES = 12
NO_HARMONY = 0  # the code of level 0 for silence and for what has no pitch
_FLOOR = 1e-4


@dataclass(frozen=True)
class BandBooksConfig:
    """Attributes:
    sample_rate: Hz. hop: samples a frame.
    fft_size: samples of a frame of the mel spectrum. mel_bands: P.
    chroma_sizes: windows of the harmony in samples: upper register, bass.
    chroma_hz, bass_hz: ranges that pitch classes are read from.
    bass_weight: of the bass against the upper register in level 0.
    onset_weight: of the onset against the spectrum in level 3.
    num_codes: codes a level.
    """

    sample_rate: int = 24_000
    hop: int = 288
    fft_size: int = 1024
    mel_bands: int = 64
    chroma_sizes: tuple[int, int] = (8192, 16384)
    chroma_hz: tuple[float, float] = (125.0, 2100.0)
    bass_hz: tuple[float, float] = (38.0, 190.0)
    bass_weight: float = 0.7
    onset_weight: float = 4.0
    num_codes: int = 1024


class BandBooks(nn.Module):
    """The codebooks; everything is a buffer, filled by `fit_band`."""

    kind: ClassVar[str] = "codec_band"
    Config = BandBooksConfig
    book0: Tensor
    book1: Tensor
    book2: Tensor
    book3: Tensor

    def __init__(self, config: BandBooksConfig):
        super().__init__()
        self.config = config
        k, p = config.num_codes, config.mel_bands
        self.register_buffer("book0", torch.zeros(k, 2 * CLASSES))
        self.register_buffer("book1", torch.zeros(k, p))
        self.register_buffer("book2", torch.zeros(k, p))
        self.register_buffer("book3", torch.zeros(k, p + 1))

    def harmony_code(self, harmony: Tensor) -> Tensor:
        """(T/8, 24) -> (T/8,)"""
        code = 1 + nearest(harmony, self.book0[1:])
        return torch.where(harmony.abs().sum(1) > 0, code, torch.full_like(code, NO_HARMONY))

    def encode(self, harmony: Tensor, mel: Tensor) -> list[Tensor]:
        """(T/8, 24), (T, P) -> four tensors (T / stride,)."""
        code1 = nearest(pooled(mel, 4), self.book1)
        rest = mel - self.book1[code1].repeat_interleave(4, 0)
        code2 = nearest(pooled(rest, 2), self.book2)
        rest = rest - self.book2[code2].repeat_interleave(2, 0)
        code3 = nearest(torch.cat([rest, self.onset(mel)], 1), self.book3)
        return [self.harmony_code(harmony), code1, code2, code3]

    def onset(self, mel: Tensor) -> Tensor:
        """(T, P) -> (T, 1): mean rise of the bands since the frame before, weighted."""
        before = torch.cat([mel[:1], mel[:-1]])
        return (mel - before).clamp(min=0).mean(1, keepdim=True) * self.config.onset_weight

    def decode(self, codes: list[Tensor]) -> Tensor:
        """Four tensors -> (T, P) log-mel."""
        wide = self.book1[codes[1]].repeat_interleave(4, 0) + self.book2[codes[2]].repeat_interleave(2, 0)
        return wide + self.book3[codes[3]][:, : self.config.mel_bands]


def pooled(x: Tensor, frames: int) -> Tensor:
    """(T, D) -> (T / frames, D), means."""
    return x.reshape(-1, frames, x.shape[1]).mean(1)


class BandEars:
    """Waveform -> harmony and log-mel; constant tables only."""

    def __init__(self, config: BandBooksConfig, device: torch.device | str = "cpu"):
        self.config = config
        self.device = torch.device(device)

    @cached_property
    def mel_matrix(self) -> Tensor:
        """(F, P): the triangles of `mel_filterbank` from 30 Hz to 11.5 kHz."""
        c = self.config
        return mel_filterbank(c.sample_rate, c.fft_size, c.mel_bands, 30.0, 11_500.0).T.contiguous().to(self.device)

    @cached_property
    def class_matrices(self) -> tuple[Tensor, Tensor]:
        """For each register (F, 12): bins -> pitch classes, a raised cosine two semitones wide, so that a mistuned note stays in its class."""
        c = self.config
        matrices = []
        for size, (low, high) in zip(c.chroma_sizes, (c.chroma_hz, c.bass_hz), strict=True):
            hz = torch.arange(size // 2 + 1, dtype=torch.float64) * c.sample_rate / size
            semitone = 12 * torch.log2(hz.clamp(min=1) / 440.0) + 9  # C = 0
            distance = (semitone[:, None] - torch.arange(CLASSES) + 6) % 12 - 6
            weight = torch.cos(distance.clamp(-1, 1) * math.pi / 2).square()
            edge = ((hz - low) / (0.1 * low)).clamp(0, 1) * ((high - hz) / (0.1 * high)).clamp(0, 1)
            matrices.append((weight * edge[:, None] / hz.clamp(min=1)[:, None].sqrt()).float().to(self.device))
        return matrices[0], matrices[1]

    def __call__(self, wav: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """(n,) -> harmony (T/8, 24) and log-mel (T, P), T = `frames`, a multiple of 8."""
        c = self.config
        blocks = -(-frames // FRAMES_A_BLOCK)
        most = max(c.chroma_sizes)
        samples = blocks * FRAMES_A_BLOCK * c.hop
        padded = F.pad(wav, (most, max(0, samples - wav.shape[0]) + most))
        window = torch.hann_window(c.fft_size, device=wav.device)
        mels, harmonies = [], []
        for block in range(blocks):
            first = block * FRAMES_A_BLOCK
            part = padded[first * c.hop : (first + FRAMES_A_BLOCK) * c.hop + 2 * most]
            centres = torch.arange(FRAMES_A_BLOCK, device=wav.device) * c.hop + c.hop // 2 + most
            cut = frames_of(part, centres - c.fft_size, c.fft_size) * window
            power = torch.fft.rfft(cut).abs().square() / window.square().sum()
            mels.append(0.5 * torch.log(power @ self.mel_matrix + _FLOOR**2))
            harmonies.append(self._harmony(part, centres.reshape(-1, 8).float().mean(1).long()))
        return torch.cat(harmonies)[: frames // 8], torch.cat(mels)[:frames]

    def _harmony(self, padded: Tensor, centres: Tensor) -> Tensor:
        """(T/8, 24): pitch classes of both registers, each with Euclidean norm 1, or 0 where there is no tone."""
        parts = []
        weights = (1.0, self.config.bass_weight)
        for size, matrix, weight in zip(self.config.chroma_sizes, self.class_matrices, weights, strict=True):
            window = torch.hann_window(size, device=padded.device)
            cut = frames_of(padded, centres - size, size) * window
            magnitude = torch.fft.rfft(cut).abs() / window.sum()
            # tones stand out of their neighbourhood, drums and noise do not
            around = F.avg_pool1d(F.pad(magnitude[:, None], (16, 16), mode="reflect"), 33, 1)[:, 0]
            tones = torch.log1p((magnitude - 1.5 * around).clamp(min=0) * 1000)
            classes = tones @ matrix
            classes = classes - classes.median(1, keepdim=True).values
            classes = classes.clamp(min=0)
            norm = classes.norm(dim=1, keepdim=True)
            parts.append(torch.where(norm > 0.02, classes / norm.clamp(min=1e-6), torch.zeros_like(classes)) * weight)
        return torch.cat(parts, 1)


class BandCodec:
    """See the module; implements `Codec`."""

    accompaniment = "builtin_band"

    def __init__(self, device: torch.device | str = "cpu", weights: str | Path = "builtin"):
        """
        Args:
            device: where to run.
            weights: `builtin` or a folder written by `python -m autosing.perception.codec.fit --what band`.

        Raises:
            WeightsError: missing or damaged files.
        """
        self.device = torch.device(device)
        self.books: BandBooks = load_books(BandBooks, weights, "codec_band").to(self.device)
        config = self.books.config
        self._ears = BandEars(config, self.device)
        self.spec = CodecSpec("builtin_band", config.sample_rate, config.hop, STRIDES, config.num_codes, max(STRIDES))

    def codebooks(self) -> tuple[Tensor, ...]:
        books = self.books
        return books.book0, books.book1, books.book2, books.book3

    def harmony(self) -> Tensor:
        """(1024, 24) what each code of level 0 says: 12 pitch classes from C (norm <= 1), then 12 of the bass, at equal weights."""
        weights = torch.cat([torch.ones(CLASSES), torch.full((CLASSES,), 1 / self.books.config.bass_weight)])
        return self.books.book0 * weights.to(self.device)

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        """(B, 1, n) float32 -> (B, 4, T) int64, `spec.HOLE` off stride.

        Raises:
            ConfigError: `wav` is not (B, 1, n).
        """
        check_wave(wav)
        frames = whole_grains(wav.shape[2], self.spec)
        if not len(wav) or not frames:
            return torch.full((len(wav), self.spec.levels, frames), self.spec.HOLE, dtype=torch.long, device=self.device)
        rows = wav[:, 0].to(self.device, torch.float32)
        return torch.stack([join_levels(self.books.encode(*self._ears(row, frames)), self.spec) for row in rows])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(B, 4, T) -> (B, 1, T * hop) float32, rough.

        Raises:
            ConfigError: another shape, or a value that is no code.
        """
        levels = split_levels(codes.to(self.device), self.spec)
        samples = codes.shape[2] * self.spec.hop
        if not codes.shape[0] or not samples:
            return torch.zeros(codes.shape[0], 1, samples, device=self.device)
        return torch.stack([self._sound(self.books.decode(list(row)))[None] for row in zip(*levels, strict=True)])

    def _sound(self, log_mel: Tensor) -> Tensor:
        """(T, P) -> (T * hop,), in blocks that fade into each other."""
        frames, hop, fade = len(log_mel), self.spec.hop, 16
        out = torch.zeros((frames + 2 * fade) * hop, device=self.device)
        ramp = ((torch.arange(fade * hop, device=self.device) + 0.5) / (fade * hop)).float()
        for first in range(0, frames, FRAMES_A_BLOCK):
            start, end = max(0, first - fade), min(frames, first + FRAMES_A_BLOCK)
            wave = self._griffin_lim(log_mel[start:end])
            if start < first:
                span = (first - start) * hop
                out[start * hop : first * hop] *= 1 - ramp[:span]
                wave[:span] *= ramp[:span]
            out[start * hop : end * hop] += wave
        return out[: frames * hop]

    def _griffin_lim(self, log_mel: Tensor, iterations: int = 24) -> Tensor:
        """(T, P) -> (T * hop,): phases found by iteration from a seeded start."""
        c = self.books.config
        samples = len(log_mel) * c.hop
        power = torch.exp(2 * log_mel) - _FLOOR**2
        spread = self._ears.mel_matrix / self._ears.mel_matrix.sum(1, keepdim=True).clamp(min=1e-8)
        window = torch.hann_window(c.fft_size, device=log_mel.device)
        magnitude = ((power.clamp(min=0) @ spread.T) * window.square().sum()).sqrt().T
        magnitude = torch.cat([magnitude, magnitude[:, -1:]], 1)
        generator = torch.Generator().manual_seed(0)
        angle = torch.rand(magnitude.shape, generator=generator).to(log_mel.device) * (2 * math.pi)
        spectrum = torch.polar(magnitude, angle)
        for _ in range(iterations):
            wave = torch.istft(spectrum, c.fft_size, c.hop, window=window, length=samples)
            rebuilt = torch.stft(wave, c.fft_size, c.hop, window=window, return_complex=True, pad_mode="constant")
            spectrum = magnitude * rebuilt / rebuilt.abs().clamp(min=1e-8)
        return torch.istft(spectrum, c.fft_size, c.hop, window=window, length=samples)
