"""Spectral front ends: waveform -> log spectra that do not depend on the recording's level.

A front end is an `nn.Module` with `bands` (rows it yields) and `forward`: (B, n) float32 -> (B, bands, frames), `frames = n // hop`; frame i
is centred on sample i * hop + hop / 2. Powers are divided by their mean over a few seconds around the frame, so that a frame depends
only on its neighbourhood: a song cut into overlapping pieces gives the same frames as the whole song. The level is the mean of
powers (not of logs): pauses do not raise it, and the loudest sounds set it.

Letters: B batch, C channels, n samples, F frames. The mel scale is HTK's: 2595 log10(1 + f / 700).
"""

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


def hz_to_mel(hz: Tensor) -> Tensor:
    return 2595.0 * torch.log10(1.0 + hz / 700.0)


def mel_to_hz(mel: Tensor) -> Tensor:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)


def mel_edges(bands: int, low_hz: float, high_hz: float) -> Tensor:
    """(bands + 2,) float64 Hz: where triangles even in mel begin, peak and end; each peaks where the one before ends."""
    low, high = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    return mel_to_hz(torch.linspace(low, high, bands + 2, dtype=torch.float64))


def mel_triangles(sample_rate: int, n_fft: int, bands: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangles of height 1, even in mel -> (bands, n_fft // 2 + 1)."""
    edges_hz = mel_edges(bands, low_hz, high_hz)[:, None]
    bins_hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft
    left, centre, right = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    return torch.minimum((bins_hz - left) / (centre - left), (right - bins_hz) / (right - centre)).clamp(min=0.0).float()


def mel_filterbank(sample_rate: int, n_fft: int, bands: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangles even in mel -> (bands, n_fft // 2 + 1), rows of unit sum.

    A triangle narrower than a bin is widened to reach the nearest bin on each side, so that no band is empty.
    """
    edges_hz = mel_edges(bands, low_hz, high_hz)
    bin_hz = sample_rate / n_fft
    bins_hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * bin_hz
    left, centre, right = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    left = torch.minimum(left, centre - bin_hz)
    right = torch.maximum(right, centre + bin_hz)
    rising = (bins_hz - left) / (centre - left)
    falling = (right - bins_hz) / (right - centre)
    weights = torch.minimum(rising, falling).clamp(min=0.0)
    return (weights / weights.sum(1, keepdim=True)).float()


def linear_filterbank(sample_rate: int, n_fft: int, bands: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangles spaced evenly in Hz -> (bands, n_fft // 2 + 1), rows of unit sum."""
    bins_hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft
    step = (high_hz - low_hz) / (bands + 1)
    centre = low_hz + step * torch.arange(1, bands + 1, dtype=torch.float64)[:, None]
    weights = (1.0 - (bins_hz - centre).abs() / max(step, sample_rate / n_fft)).clamp(min=0.0)
    return (weights / weights.sum(1, keepdim=True)).float()


def cosine_basis(bands: int) -> Tensor:
    """Orthonormal DCT-II matrix (bands, bands): log-mel rows -> cepstral rows."""
    k = torch.arange(bands, dtype=torch.float64)[:, None]
    i = torch.arange(bands, dtype=torch.float64)[None]
    basis = torch.cos(math.pi / bands * (i + 0.5) * k) * math.sqrt(2.0 / bands)
    basis[0] /= math.sqrt(2.0)
    return basis.float()


class LogSpectrum(nn.Module):
    """Filterbank powers, levelled against their surroundings, as logarithms.

    Args:
        sample_rate: Hz of the waveform.
        hop: samples a frame.
        n_fft: samples of the Hann window and of the transform.
        filterbank: (bands, n_fft // 2 + 1).
        level_seconds: width of the window that the level is averaged over.
        cepstral: rotate the bands by a cosine transform (cepstra: envelope first, then detail).
    """

    filterbank: Tensor
    window: Tensor
    basis: Tensor

    def __init__(
        self,
        sample_rate: int,
        hop: int,
        n_fft: int,
        filterbank: Tensor,
        level_seconds: float = 6.0,
        cepstral: bool = False,
    ):
        super().__init__()
        self.sample_rate, self.hop, self.n_fft = sample_rate, hop, n_fft
        self.bands = filterbank.shape[0]
        self.level_frames = round(level_seconds * sample_rate / hop) | 1
        self.register_buffer("filterbank", filterbank, persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("basis", cosine_basis(self.bands) if cepstral else torch.empty(0), persistent=False)

    def centres_hz(self) -> Tensor:
        """(bands,) centre frequency of each band."""
        return self.filterbank @ (torch.arange(self.filterbank.shape[1], device=self.filterbank.device) * (self.sample_rate / self.n_fft))

    def forward(self, wav: Tensor) -> Tensor:
        """(B, n) -> (B, bands, n // hop), about 0 at the local mean power, about -2.3 a 10 dB below; silence is about -7.

        (B, C, n), recordings made together, -> (B, C, bands, n // hop), all against the local mean power of the first.
        """
        if wav.ndim == 2:
            return self(wav[:, None])[:, 0]
        batch, channels, _ = wav.shape
        frames = wav.shape[-1] // self.hop
        if frames == 0:
            return wav.new_zeros(batch, channels, self.bands, 0)
        left = (self.n_fft - self.hop) // 2
        right = max(0, (frames - 1) * self.hop + self.n_fft - left - wav.shape[-1])
        padded = nnf.pad(wav.flatten(0, 1), (left, right))
        spectrum = torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        bands = (self.filterbank @ power[..., :frames]).unflatten(0, (batch, channels))
        half = self.level_frames // 2
        level = nnf.avg_pool1d(bands[:, 0].mean(1, keepdim=True), self.level_frames, stride=1, padding=half, count_include_pad=False)[:, None]
        levelled = torch.log(bands + 1e-6) - torch.log(level + 1e-3)
        levelled = levelled.clamp(min=-9.0)
        return self.basis @ levelled if self.basis.numel() else levelled


def _mel(bands: int) -> LogSpectrum:
    return LogSpectrum(24000, 240, 1024, mel_filterbank(24000, 1024, bands, 50.0, 11000.0))


def _linear(bands: int) -> LogSpectrum:
    return LogSpectrum(24000, 240, 768, linear_filterbank(24000, 768, bands, 60.0, 7800.0), level_seconds=4.0)


def _cepstrum(bands: int) -> LogSpectrum:
    return LogSpectrum(24000, 240, 640, mel_filterbank(24000, 640, bands, 80.0, 7600.0), level_seconds=4.0, cepstral=True)


FRONT_ENDS = {"mel": _mel, "linear": _linear, "cepstrum": _cepstrum}
"""Name -> maker of a front end at 24 kHz, 100 frames a second, with the given number of bands."""
