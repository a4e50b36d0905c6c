"""F0 and voicing of a voice that may carry leakage, reverb and noise: a small convolutional net on a log-frequency spectrum.

Letters: B batch, n samples, T frames, Q log-frequency bins of F0, W windows. Frame t is centred on sample (t + 0.5) * hop. The first
layer sees, for every candidate F0, its first harmonics side by side (the harmonic stacking of Bittner et al., "Deep salience
representations for F0 estimation in polyphonic music", ISMIR 2017), so all weights are shared along log-frequency. Decoding is a short
Viterbi over the bins, then a weighted mean around the chosen bin (as CREPE: Kim et al., ICASSP 2018). Training is in tasks/pitch.py.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autosing.song.runs import spans_of


@dataclass(frozen=True)
class PitchConfig:
    """Layout of the net.

    Attributes:
        sample_rate: Hz.
        hop: samples a frame.
        window_sizes: samples of the analysis windows, long (fine in frequency) first.
        f0_min_hz: centre of the lowest F0 bin.
        octaves, bins_per_octave: the F0 axis has `octaves * bins_per_octave` bins.
        harmonics: multiples of a candidate's F0 whose spectrum it sees.
        channels: width of the convolutions.
        long: one more layer, which sees a quarter of a second: a voice goes on where it was, an instrument that leaks comes and goes.
    """

    sample_rate: int = 24_000
    hop: int = 288
    window_sizes: tuple[int, ...] = (2048, 1024)
    f0_min_hz: float = 55.0
    octaves: float = 4.3611
    bins_per_octave: int = 36
    harmonics: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    channels: int = 16
    long: bool = False

    @property
    def bins(self) -> int:
        """Q, bins of the F0 axis."""
        return round(self.octaves * self.bins_per_octave)

    @property
    def f0_max_hz(self) -> float:
        return self.f0_min_hz * 2 ** ((self.bins - 1) / self.bins_per_octave)


FRAMES_A_BLOCK = 256
CONTEXT_FRAMES, LONG_CONTEXT_FRAMES = 16, 28  # more than the net sees each way


class PitchNet(nn.Module):
    """(B, n) waveform -> (B, T, Q) F0 logits and (B, T) voicing logits, T = n // hop."""

    kind: ClassVar[str] = "pitch"
    Config = PitchConfig
    added_later: ClassVar[tuple[str, ...]] = ("span",)

    def __init__(self, config: PitchConfig):
        super().__init__()
        self.config = config
        c = config.channels
        self._shifts = [round(config.bins_per_octave * math.log2(h)) for h in config.harmonics]
        self._below = -min(self._shifts)
        self._axis = config.bins + self._below + max(self._shifts)
        for size in config.window_sizes:
            self.register_buffer(f"_window_{size}", torch.hann_window(size), persistent=False)
            self.register_buffer(f"_bins_{size}", self._log_frequency(size), persistent=False)
        self.stack = nn.Conv2d(len(config.window_sizes) * len(config.harmonics), c, (1, 3), padding=(0, 1))
        self.local = nn.Conv2d(c, c, (3, 5), padding=(1, 2))
        octave = config.bins_per_octave
        self.octave = nn.Conv2d(c, c, (1, 3), padding=(0, octave), dilation=(1, octave))
        self.wide = nn.Conv2d(c, c, (5, 5), padding=(2, 2))
        self.salience = nn.Conv2d(c, 1, (3, 3), padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(1, c) for _ in range(4))
        if config.long:
            self.span = nn.Conv2d(c, c, (7, 3), padding=(12, 1), dilation=(4, 1))
            self.span_norm, self.span_gate = nn.GroupNorm(1, c), nn.Parameter(torch.zeros(c, 1, 1))
        self.timbre = nn.Conv1d(self._axis, 24, 1)
        self.voicing = nn.Sequential(nn.Conv1d(24 + 2 * c + 3, 32, 5, padding=2), nn.GELU(), nn.Conv1d(32, 1, 5, padding=2))

    def _log_frequency(self, size: int) -> Tensor:
        """(size // 2 + 1, axis) triangular weights: FFT power -> log-spaced bins, at least one FFT bin wide."""
        config = self.config
        step = config.sample_rate / (2 * size)  # the frames are zero-padded to twice their length
        centres = config.f0_min_hz * 2 ** ((np.arange(self._axis) - self._below) / config.bins_per_octave)
        width = np.maximum(centres * (2 ** (1 / config.bins_per_octave) - 1), step)
        hz = np.arange(size + 1) * step
        weights = np.maximum(1 - np.abs(hz[:, None] - centres[None]) / width[None], 0)
        return torch.from_numpy(weights / np.maximum(weights.sum(0), 1e-9)).float()

    def spectra(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n) -> log-frequency log power whitened over an octave, (B, W, T, axis), and the plain one of the short window (B, T, axis)."""
        hop = self.config.hop
        frames = wav.shape[1] // hop
        plain = []
        for size in self.config.window_sizes:
            window = getattr(self, f"_window_{size}")
            cut = F.pad(wav, (size // 2 - hop // 2, size)).unfold(1, size, hop)[:, :frames] * window
            spectrum = torch.fft.rfft(cut.contiguous(), n=2 * size)
            power = (spectrum.real.square() + spectrum.imag.square()) / window.square().sum()
            plain.append(torch.log(power @ getattr(self, f"_bins_{size}") + 1e-8))
        both = torch.stack(plain, 1)
        around = self.config.bins_per_octave
        flat = both.flatten(0, 2)[:, None]
        local = F.avg_pool1d(F.pad(flat, (around // 2, around // 2), mode="replicate"), around + 1, 1)
        return ((flat - local) / 2).view_as(both), (plain[-1] + 10) / 5

    def forward(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        white, plain = self.spectra(wav)
        q = self.config.bins
        shifted = [white[..., self._below + s : self._below + s + q] for s in self._shifts]
        x = self.stack(torch.cat(shifted, 1))
        x = F.gelu(_normed(self.norms[0], x))
        x = x + F.gelu(_normed(self.norms[1], self.local(x)))
        x = x + F.gelu(_normed(self.norms[2], self.octave(x)))
        x = x + F.gelu(_normed(self.norms[3], self.wide(x)))
        if self.config.long:
            x = x + self.span_gate * F.gelu(_normed(self.span_norm, self.span(x)))
        logits = self.salience(x)[:, 0]
        peaks = torch.stack([logits.amax(2), logits.logsumexp(2), plain.mean(2)], 1)
        seen = torch.cat([self.timbre(plain.transpose(1, 2)), x.amax(3), x.mean(3), peaks], 1)
        return logits, self.voicing(seen)[:, 0]

    @torch.no_grad()
    def posteriors(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of one row of any length, worked off in blocks of a fixed shape.

        Args:
            wav: (n,) float32.

        Returns:
            (T, Q) and (T,), T = n // hop, the same bits whatever the length of the row.
        """
        hop = self.config.hop
        frames = wav.shape[0] // hop
        context = LONG_CONTEXT_FRAMES if self.config.long else CONTEXT_FRAMES
        size = FRAMES_A_BLOCK + 2 * context
        blocks = max(1, -(-frames // FRAMES_A_BLOCK))
        skip = -(-max(self.config.window_sizes) // hop)  # frames whose windows reach past the block's own samples
        around = (context + skip) * hop
        padded = F.pad(wav, (around, blocks * FRAMES_A_BLOCK * hop + around - wav.shape[0]))
        inner = slice(context + skip, context + skip + FRAMES_A_BLOCK)
        pitch, voicing = [], []
        for block in range(blocks):
            first = block * FRAMES_A_BLOCK * hop
            logits, voiced = self(padded[None, first : first + (size + 2 * skip) * hop])
            pitch.append(logits[0, inner])
            voicing.append(voiced[0, inner])
        return torch.cat(pitch)[:frames], torch.cat(voicing)[:frames]

    @torch.no_grad()
    def track(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """F0 of every frame of one voice.

        Args:
            wav: (n,) float32.

        Returns:
            (T,) F0 in Hz, interpolated through what is unvoiced (a constant where nothing is voiced), and (T,) bool voicing.
        """
        logits, voicing = self.posteriors(wav)
        bins, voiced = decode(logits.cpu().numpy(), voicing.cpu().numpy())
        hz = self.config.f0_min_hz * 2 ** (bridge(bins, voiced) / self.config.bins_per_octave)
        return torch.from_numpy(hz).float().to(wav.device), torch.from_numpy(voiced).to(wav.device)


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise each frame over channels and bins, so that a frame never depends on how many others there are."""
    batch, channels, frames, bins = x.shape
    rows = x.permute(0, 2, 1, 3).reshape(batch * frames, channels, bins)
    return norm(rows).view(batch, frames, channels, bins).permute(0, 2, 1, 3)


SHORTEST_RUN = 3  # frames; shorter voiced or unvoiced runs are taken for errors
VOICED_LOGIT = 0.6  # above which a frame is voiced: leakage in the gaps costs more than a soft edge
_JUMP_BINS = 12  # farthest step the Viterbi prices one by one; beyond it every step costs the same
_JUMP_COST = 0.1  # nats a bin of step
_LEAP_COST = 4.0  # nats for any step


def decode(logits: np.ndarray, voicing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Path of F0 bins and voicing. (T, Q), (T,) logits -> (T,) fractional bins float64, (T,) bool."""
    voiced = without_short_runs(voicing > VOICED_LOGIT, SHORTEST_RUN)
    scores = logits - logits.max(1, keepdims=True)
    scores = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    path = np.zeros(len(voiced))
    for first, last in spans_of(voiced):
        best = best_path(scores[first:last])
        for frame, centre in zip(range(first, last), best, strict=True):
            low, high = max(0, centre - 2), min(scores.shape[1], centre + 3)
            weight = np.exp(scores[frame, low:high] - scores[frame, low:high].max())
            path[frame] = (weight * np.arange(low, high)).sum() / weight.sum()
    return path, voiced


def best_path(scores: np.ndarray) -> np.ndarray:
    """Viterbi over (T, Q) log scores: small steps cost by their size, any leap costs the same. -> (T,) int."""
    frames, bins = scores.shape
    step = np.arange(-_JUMP_BINS, _JUMP_BINS + 1)
    cost = _JUMP_COST * np.abs(step)
    total = scores[0].copy()
    back = np.zeros((frames, bins), np.int32)
    columns = np.arange(bins)
    padded = np.full(bins + 2 * _JUMP_BINS, -np.inf)
    for frame in range(1, frames):
        padded[_JUMP_BINS:-_JUMP_BINS] = total
        near = np.lib.stride_tricks.sliding_window_view(padded, len(step)) - cost
        choice = near.argmax(1)
        value = near[columns, choice]
        far = int(total.argmax())
        leap = total[far] - _LEAP_COST
        leaps = leap > value
        back[frame] = np.where(leaps, far, columns + choice - _JUMP_BINS)
        total = scores[frame] + np.where(leaps, leap, value)
    path = np.zeros(frames, np.int64)
    path[-1] = total.argmax()
    for frame in range(frames - 1, 0, -1):
        path[frame - 1] = back[frame, path[frame]]
    return path


def without_short_runs(flags: np.ndarray, shortest: int) -> np.ndarray:
    """Fill gaps, then drop runs, that are shorter than `shortest` frames (a gap at either end is kept)."""
    flags = flags.copy()
    for first, last in spans_of(~flags):
        if last - first < shortest and first > 0 and last < len(flags):
            flags[first:last] = True
    for first, last in spans_of(flags):
        if last - first < shortest:
            flags[first:last] = False
    return flags


def bridge(values: np.ndarray, known: np.ndarray, otherwise: float = 54.0) -> np.ndarray:
    """(T,) `values` with what is not known interpolated between its neighbours, the ends held; `otherwise` where nothing is known."""
    if not known.any():
        return np.full(len(values), otherwise)
    where = np.flatnonzero(known)
    return np.interp(np.arange(len(values)), where, values[where])
