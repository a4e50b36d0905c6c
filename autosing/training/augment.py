"""Random changes to batches of waveforms that training asks for: rooms, doubling, tone, level, distortion.

Every function but `stretched` takes and returns float tensors on any device and draws from torch's global generator, which the train loop seeds from
(seed, step). Letters: B batch, n samples. Nothing here knows of songs, stems or tasks.
"""

import math

import numpy as np
import torch
from torch import Tensor


def uniform(shape: tuple[int, ...], low: float, high: float, device: torch.device) -> Tensor:
    """Values drawn evenly from [low, high)."""
    return torch.rand(shape, device=device) * (high - low) + low


def chance(batch: int, probability: float, device: torch.device) -> Tensor:
    """(B,) bool: True with `probability`."""
    return torch.rand(batch, device=device) < probability


def decibels(gain_db: Tensor) -> Tensor:
    """Amplitude factor of a gain in dB."""
    return torch.exp(gain_db * (math.log(10) / 20))


def tone_curve(batch: int, bins: int, sample_rate: int, depth_db: float, device: torch.device) -> Tensor:
    """Random smooth equaliser: (B, bins) amplitude factors on even frequencies from 0 to the Nyquist frequency.

    Eight control points, normally distributed with `depth_db`, even in log-frequency from 60 Hz up; straight between them.
    """
    points = 8
    control = torch.randn(batch, points, device=device) * depth_db
    frequency = torch.linspace(0, sample_rate / 2, bins, device=device).clamp_min(60.0)
    position = (frequency / 60).log() / math.log(sample_rate / 2 / 60) * (points - 1)
    left = position.long().clamp(0, points - 2)
    share = position - left
    return decibels(control[:, left] * (1 - share) + control[:, left + 1] * share)


def tilt(bins: int, sample_rate: int, slope_db: Tensor, low_hz: float = 200.0, high_hz: float = 5000.0) -> Tensor:
    """Brighter or darker: (B, bins) amplitude factors on even frequencies from 0 to the Nyquist frequency.

    They rise by (B,) `slope_db` an octave from `low_hz` to `high_hz`, and are even outside.
    """
    frequency = torch.linspace(0, sample_rate / 2, bins, device=slope_db.device).clamp(low_hz, high_hz)
    return decibels(slope_db[:, None] * (frequency / low_hz).log2())


def widen(wav: Tensor, sample_rate: int, amount: Tensor) -> Tensor:
    """Double tracking, chorus: (B, n) -> (B, 2, n), with a copy on each side whose pitch and delay (up to 30 ms) wander on their own.

    Args:
        amount: (B,) amplitude of the copies beside the voice in the middle.
    """
    sides = []
    for _ in range(2):
        semitones, rate_hz = uniform((len(wav),), 0.02, 0.25, wav.device), uniform((len(wav),), 0.2, 3.0, wav.device)
        copy = sway(wav, sample_rate, semitones, rate_hz)
        late = uniform((len(wav), 1), 0.0, 0.03 * sample_rate, wav.device).long()
        places = torch.arange(wav.shape[-1], device=wav.device) - late
        sides.append(copy.gather(-1, places.clamp_min(0)) * (places >= 0))
    return wav[:, None] + amount[:, None, None] * torch.stack(sides, 1)


def impulse(batch: int, sample_rate: int, device: torch.device, wet: Tensor, double: Tensor, pan: Tensor) -> Tensor:
    """Stereo impulse responses of 0.8 s: a panned direct sound, doubled voices, one echo and a decaying diffuse tail.

    Args:
        wet: (B,) amplitude of the tail and the echo, 0 = dry.
        double: (B,) amplitude of two copies 8 to 35 ms late, one to each side, 0 = none.
        pan: (B,) -1 left to 1 right; constant power.
    Returns: (B, 2, n).
    """
    samples = int(0.8 * sample_rate)
    out = torch.zeros(batch, 2, samples, device=device)
    angle = (pan + 1) * (math.pi / 4)
    out[:, 0, 0], out[:, 1, 0] = angle.cos() * math.sqrt(2), angle.sin() * math.sqrt(2)
    each = torch.arange(batch, device=device)
    late = uniform((batch, 2), 0.008 * sample_rate, 0.035 * sample_rate, device).long()
    echo = uniform((batch,), 0.15 * sample_rate, 0.5 * sample_rate, device).long()
    for side in (0, 1):
        out[each, side, late[:, side]] += double
        out[each, side, echo] += wet * chance(batch, 0.3, device)
    time = torch.arange(samples, device=device) / sample_rate
    decay = uniform((batch, 1, 1), 0.15, 1.2, device)  # seconds to fall by 60 dB
    tail = torch.randn(batch, 2, samples, device=device) * torch.exp(-6.9 * time / decay)
    start = uniform((batch, 1, 1), 0.0, 0.03, device)
    tail = tail * (time >= start)
    width = uniform((batch, 1, 1), 0.2, 1.0, device)
    tail = tail * width + tail.mean(1, keepdim=True) * (1 - width)
    tail = tail / tail.square().sum((1, 2), keepdim=True).sqrt().clamp_min(1e-6)
    return out + 1.4 * wet[:, None, None] * tail


def convolve(wav: Tensor, response: Tensor, tone: Tensor | None = None) -> Tensor:
    """FFT convolution, cut to the input's length: (B, 1 or 2, n) with (B, 2, m) -> (B, 2, n).

    Args:
        tone: (B, bins) amplitude factors on even frequencies, applied with zero phase.
    """
    size = fast_length(wav.shape[-1] + response.shape[-1])
    product = torch.fft.rfft(wav, size) * torch.fft.rfft(response, size)
    if tone is not None:
        product = product * _stretch(tone, product.shape[-1])[:, None]
    return torch.fft.irfft(product, size)[..., : wav.shape[-1]]


def equalise(wav: Tensor, tone: Tensor) -> Tensor:
    """Apply (B, bins) amplitude factors with zero phase to (B, C, n)."""
    size = fast_length(wav.shape[-1] + 1024)
    spectrum = torch.fft.rfft(wav, size)
    return torch.fft.irfft(spectrum * _stretch(tone, spectrum.shape[-1])[:, None], size)[..., : wav.shape[-1]]


def distort(wav: Tensor, drive: Tensor) -> Tensor:
    """Soft clipping of (B, n) with (B,) drive (0 = none); the level stays about the same."""
    driven = torch.tanh(wav * (1 + drive[:, None])) / (1 + drive[:, None] * 0.6)
    return torch.where(drive[:, None] > 0, driven, wav)


def whisper(wav: Tensor, sample_rate: int, share: Tensor) -> Tensor:
    """Noise in place of the voice's pitch: (B, n) with (B,) share of the amplitude, 0 = as it is, 1 = whispered.

    The noise has the short-time spectrum of the voice, smoothed over 300 Hz so that its harmonics are gone and its formants stay.
    """
    size = 1 << round(math.log2(0.04 * sample_rate))
    window = torch.hann_window(size, device=wav.device)
    spectrum = torch.stft(wav, size, size // 4, window=window, return_complex=True)
    bins = round(300 * size / sample_rate) | 1
    power = torch.nn.functional.avg_pool2d(spectrum.abs().square()[:, None], (bins, 1), 1, (bins // 2, 0), count_include_pad=False)[:, 0]
    noise = torch.stft(torch.randn_like(wav), size, size // 4, window=window, return_complex=True) / window.square().sum().sqrt()
    whispered = torch.istft(noise * power.sqrt(), size, size // 4, window=window, length=wav.shape[-1])
    return wav * (1 - share[:, None]) + whispered * share[:, None]


def sway(wav: Tensor, sample_rate: int, semitones: Tensor, rate_hz: Tensor) -> Tensor:
    """Pitch that rises and falls: (B, n) played at a speed that swings by (B,) `semitones` to both sides `rate_hz` times a second."""
    samples = wav.shape[-1]
    time = torch.arange(samples, device=wav.device) / sample_rate
    turn = 2 * math.pi * rate_hz[:, None]
    phase = uniform((len(wav), 1), 0.0, 2 * math.pi, wav.device)
    swing = torch.exp2(semitones / 12)[:, None] - 1  # speed is 1 + swing * cos(turn * t + phase)
    places = torch.arange(samples, device=wav.device) + swing / turn * sample_rate * ((turn * time + phase).sin() - phase.sin())
    places = places.clamp(0, samples - 1)
    left = places.long().clamp(max=samples - 2)
    share = places - left
    return wav.gather(-1, left) * (1 - share) + wav.gather(-1, left + 1) * share


def stretched(wav: np.ndarray, samples: int) -> np.ndarray:
    """(..., m) -> (..., n) float32 by linear interpolation, of arrays: played faster, and higher, where m > n."""
    length = wav.shape[-1]
    if length == samples:
        return wav
    positions = np.linspace(0, length - 1, samples)
    left = np.minimum(positions.astype(np.int64), max(0, length - 2))
    share = (positions - left).astype(np.float32)
    return wav[..., left] * (1 - share) + wav[..., np.minimum(left + 1, length - 1)] * share


def fast_length(samples: int) -> int:
    """The next length that is a power of two times 1, 3, 5 or 9."""
    best = 1 << (samples - 1).bit_length()
    for factor in (3, 5, 9):
        best = min(best, factor << max(0, (-(-samples // factor) - 1).bit_length()))
    return best


def _stretch(tone: Tensor, bins: int) -> Tensor:
    return torch.nn.functional.interpolate(tone[:, None], size=bins, mode="linear", align_corners=True)[:, 0]
