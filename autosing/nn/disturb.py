"""Random mixing and disturbing of voices over bands, for whole batches of waveforms: what microphones, rooms, mixers and codecs do.

Every item of a batch draws its own settings from torch's generator of the waveform's device (the train loop seeds it from (seed, step)).
All filters act in one product in the frequency domain: tone, band-stops, low-pass, and a room as the spectrum of a decaying noise.

Letters: N items, C channels, n samples. Levels are dB; "level" of a signal is that of its root mean square over the item.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor


@dataclass(frozen=True)
class Disturbance:
    """How much is disturbed.

    Attributes:
        amount: factor on the share of items that each disturbance happens to; 0 = plain sum of voice and own band.
        sample_rate: Hz.
        balance_db: voice level minus band level is uniform in (-balance_db, balance_db).
        voice_tone_db: mean spread of the voices' tone; an item's own is uniform from 0 to twice that.
        dark: share of the voices whose highs are cut (`_dark`), which a band then hides but for the first formant.
        muted: share of the items whose voice is left out, so that bands are learnt not to be voices.
    """

    amount: float = 1.0
    sample_rate: int = 24000
    balance_db: float = 12.0
    voice_tone_db: float = 5.0
    dark: float = 0.0
    muted: float = 0.04


def mix_batch(vocals: Tensor, band: Tensor, how: Disturbance) -> tuple[Tensor, Tensor]:
    """Voices over bands of any item of the batch.

    A quarter of the items keeps its voice alone, a quarter has the weak, coloured band that separators leave, a few have no voice at all. In stereo
    most voices stand in the middle, with rooms and doublings that do not, and a third of the items is narrowed to one channel in two.

    Args:
        vocals: (N, n) float32.
        band: (N, C, n), C 1 or 2; a silent one is allowed.

    Returns:
        Mixtures (N, C, n), and (N,) bool: items whose voice was left out.
    """
    if how.amount == 0:
        return vocals[:, None] + band, torch.zeros(len(vocals), dtype=torch.bool, device=vocals.device)
    items, channels, samples = band.shape
    chance = _Chance(items, vocals.device, how.amount)
    band = _turned(_other_bands(band, chance), chance)
    loud = _rms(band) > 1e-4
    muted = chance.happens(how.muted)

    tail = round(0.6 * how.sample_rate)
    length = _fast_length(samples + tail)
    frequencies = torch.fft.rfftfreq(length, 1 / how.sample_rate, device=vocals.device)
    voice_filter = _tone(frequencies, chance, chance.uniform(0.0, 2 * how.voice_tone_db)[:, None])
    if how.dark:
        voice_filter = voice_filter * _dark(frequencies, chance, how.dark)
    band_filter = _tone(frequencies, chance, 6.0) * _stops(frequencies, chance, 0.25, 4)
    voice = _filtered(vocals[:, None], voice_filter[:, None] * _room(length, how.sample_rate, chance, 0.45, tail, channels), length)
    other = _filtered(band, band_filter[:, None], length)

    voice = voice / _rms(voice).clamp(min=1e-4)
    choir = _panned(voice.roll(1, 0), chance, 1.0) * (_gain(chance.uniform(-20.0, -9.0)) * chance.happens(0.08)[:, None, None])
    voice = _panned(voice, chance, 0.2)
    kind = chance.uniform(0.0, 1.0)
    alone, leak = kind < 0.22, (kind >= 0.22) & (kind < 0.44)
    balance = torch.where(leak, chance.uniform(8.0, 28.0), chance.uniform(-how.balance_db, how.balance_db))
    other = other / _rms(other).clamp(min=1e-4) * _gain(-balance)
    other = other * (loud & ~(alone & ~muted)[:, None, None])
    mix = (voice * _slow_gain(samples, chance, 4.0) + choir) * ~muted[:, None, None] + other

    noise = torch.randn_like(mix) * _gain(chance.uniform(-70.0, -28.0)) * chance.happens(0.5)[:, None, None]
    mix = mix + noise
    if channels == 2:
        mix = torch.where(chance.happens(0.33)[:, None, None], mix.mean(1, keepdim=True), mix)
    colour = _tone(frequencies, chance, 4.0) * _low_pass(frequencies, chance, 0.4) * _stops(frequencies, chance, 0.4, 2)
    mix = _filtered(mix, colour[:, None], length)
    mix = mix / _rms(mix).clamp(min=1e-4)
    drive = _gain(chance.uniform(-12.0, 4.0))
    mix = torch.where(chance.happens(0.3)[:, None, None], torch.tanh(mix * drive * 0.5) / drive / 0.5, mix)
    mix = mix * _holes(samples, how.sample_rate, chance, 0.3)[:, None]
    return mix * _gain(chance.uniform(-45.0, -8.0)), muted


FORMANT_KNOTS_HZ = (300.0, 800.0, 1500.0, 2600.0, 4500.0)
"""Between the usual places of the formants, where voices differ by factors of their own."""


def warp_formants(spectra: Tensor, centres_hz: Tensor, spread: float) -> Tensor:
    """Another throat for every item: (N, K, bands, F) spectra whose frequency axis is stretched differently below, between and above the formants.

    Each knot draws a factor exp(spread * normal), within 1.28 each way; factors are straight between knots in log-frequency (vocal tract
    length perturbation, Jaitly & Hinton 2013, with five factors in place of one).

    Args:
        centres_hz: (bands,) rising.
    """
    factors = (spread * torch.randn(len(spectra), len(FORMANT_KNOTS_HZ), device=spectra.device)).clamp(-0.25, 0.25)
    knots = torch.tensor(FORMANT_KNOTS_HZ, device=spectra.device).log()
    at = centres_hz.log().clamp(knots[0], knots[-1] - 1e-4)
    left = (torch.searchsorted(knots, at, right=True) - 1).clamp(0, len(knots) - 2)
    share = (at - knots[left]) / (knots[left + 1] - knots[left])
    moved = centres_hz * (factors[:, left] * (1 - share) + factors[:, left + 1] * share).exp()  # (N, bands) Hz to read from
    low = (torch.searchsorted(centres_hz, moved.contiguous(), right=True) - 1).clamp(0, len(centres_hz) - 2)
    part = ((moved - centres_hz[low]) / (centres_hz[low + 1] - centres_hz[low])).clamp(0, 1)[..., None]
    low, part = low[:, None, :, None].expand_as(spectra), part[:, None]
    return spectra.gather(2, low) * (1 - part) + spectra.gather(2, low + 1) * part


class _Chance:
    """Draws of one setting an item."""

    def __init__(self, items: int, device: torch.device, amount: float):
        self.items, self.device, self.amount = items, device, amount

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self.items, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.items, *shape, device=self.device)

    def happens(self, share: float) -> Tensor:
        """(N,) bool."""
        return torch.rand(self.items, device=self.device) < share * self.amount


def _rms(x: Tensor) -> Tensor:
    """(N, C, n) -> (N, 1, 1)."""
    return x.square().mean((1, 2), keepdim=True).sqrt()


def _gain(decibels: Tensor) -> Tensor:
    """(N,) -> factors (N, 1, 1)."""
    return torch.pow(10.0, decibels / 20)[:, None, None]


def _other_bands(band: Tensor, chance: _Chance) -> Tensor:
    """Half of the items keep their band if they have one; the others get that of any item that has one."""
    has_one = _rms(band)[:, 0, 0] > 1e-4
    filled = has_one.nonzero()[:, 0]
    if not len(filled):
        return band
    drawn = filled[(torch.rand(chance.items, device=band.device) * len(filled)).long()]
    keep = has_one & ~chance.happens(0.5)
    return band[torch.where(keep, torch.arange(chance.items, device=band.device), drawn)]


def _turned(band: Tensor, chance: _Chance) -> Tensor:
    """Left and right of half of the bands exchanged, the width of a third reduced; one channel stays as it is."""
    if band.shape[1] == 1:
        return band
    band = torch.where(chance.happens(0.5)[:, None, None], band.flip(1), band)
    kept = torch.where(chance.happens(0.35), chance.uniform(0.0, 1.0), torch.ones(chance.items, device=band.device))[:, None, None]
    return band * kept + band.mean(1, keepdim=True) * (1 - kept)


def _panned(voice: Tensor, chance: _Chance, share: float) -> Tensor:
    """Some of the voices stand to one side, by up to 8 dB from left to right; in one channel none does."""
    if voice.shape[1] == 1:
        return voice
    side_db = chance.uniform(-4.0, 4.0) * chance.happens(share)
    return voice * torch.pow(10.0, torch.stack([side_db, -side_db], 1) / 20)[..., None]


def _filtered(x: Tensor, response: Tensor, length: int) -> Tensor:
    """(N, C or 1, n) by (N, C or 1, bins) -> (N, C, n)."""
    return torch.fft.irfft(torch.fft.rfft(x, length) * response, length)[..., : x.shape[-1]]


def _fast_length(at_least: int) -> int:
    """The smallest multiple of 4800 (2^6 3 5^2): quick to transform."""
    return -(-at_least // 4800) * 4800


def _curve(frequencies: Tensor, knots_db: Tensor) -> Tensor:
    """(N, knots) dB at frequencies evenly spaced in octaves over 50 Hz .. 12 kHz -> amplitude (N, bins)."""
    knots = knots_db.shape[1]
    position = (torch.log2(frequencies.clamp(min=50.0) / 50.0) / math.log2(12000 / 50) * (knots - 1)).clamp(max=knots - 1.001)
    low = position.long()
    part = position - low
    decibels = knots_db[:, low] * (1 - part) + knots_db[:, low + 1] * part
    return torch.pow(10.0, decibels / 20)


def _tone(frequencies: Tensor, chance: _Chance, spread_db: float | Tensor) -> Tensor:
    """A tilt and bumps over ten bands."""
    tilt = chance.normal(1) * torch.linspace(-1, 1, 10, device=frequencies.device) * spread_db
    bumps = chance.normal(10) * spread_db * 0.5
    used = chance.happens(0.8)[:, None]
    return _curve(frequencies, (tilt + bumps) * used)


def _dark(frequencies: Tensor, chance: _Chance, share: float) -> Tensor:
    """Falls from a corner between 350 Hz and 1.8 kHz by 6 to 24 dB an octave, down to a shelf at -12 to -38 dB: breathy and closed voices."""
    corner = torch.exp(chance.uniform(math.log(350.0), math.log(1800.0)))[:, None]
    slope_db, shelf_db = chance.uniform(6.0, 24.0)[:, None], chance.uniform(12.0, 38.0)[:, None]
    fall_db = torch.minimum(torch.log2((frequencies / corner).clamp(min=1.0)) * slope_db, shelf_db)
    return torch.pow(10.0, -fall_db / 20 * chance.happens(share)[:, None])


def _low_pass(frequencies: Tensor, chance: _Chance, share: float) -> Tensor:
    """Cut above 3 to 11 kHz, as low bit rates and old microphones do."""
    cut = torch.exp(chance.uniform(math.log(3000.0), math.log(11000.0)))
    cut = torch.where(chance.happens(share), cut, torch.full_like(cut, 1e6))
    return torch.sigmoid((cut[:, None] - frequencies) / 150.0)


def _stops(frequencies: Tensor, chance: _Chance, share: float, count: int) -> Tensor:
    """Up to `count` stopped bands of a fifth to one octave."""
    octave = torch.log2(frequencies.clamp(min=50.0))
    response = torch.ones(chance.items, len(frequencies), device=frequencies.device)
    for _ in range(count):
        centre, half = chance.uniform(math.log2(100), math.log2(11000)), chance.uniform(0.1, 0.5)
        inside = (octave - centre[:, None]).abs() < half[:, None]
        response = torch.where(inside & chance.happens(share)[:, None], response * 0.03, response)
    return response


def _room(length: int, sample_rate: int, chance: _Chance, share: float, tail: int, channels: int) -> Tensor:
    """Spectrum (N, C, bins) of: direct sound + a decaying noise (0.1 to 0.9 s to -60 dB) + sometimes an echo, as doubled voices have.

    Noise and echo differ between two channels, the direct sound does not.
    """
    items, device = chance.items, chance.device
    seconds = torch.arange(tail, device=device) / sample_rate
    decay = torch.exp(-6.9 * seconds / chance.uniform(0.1, 0.9)[:, None])[:, None]
    late = torch.randn(items, channels, tail, device=device) * decay
    late = late / late.square().sum(2, keepdim=True).sqrt() * _gain(chance.uniform(-24.0, -5.0))
    late = late * chance.happens(share)[:, None, None]
    late[..., 0] += 1.0
    echo_at = ((0.018 + 0.027 * torch.rand(items, channels, 1, device=device)) * sample_rate).long()
    echo = _gain(chance.uniform(-12.0, -3.0)) * chance.happens(0.15)[:, None, None]
    late.scatter_add_(2, echo_at, echo.expand(-1, channels, -1))
    return torch.fft.rfft(late, length)


def _slow_gain(samples: int, chance: _Chance, spread_db: float) -> Tensor:
    """(N, 1, n) gain that wanders over seconds."""
    decibels = nnf.interpolate(chance.normal(1, 5) * spread_db, samples, mode="linear", align_corners=True)
    return torch.pow(10.0, decibels / 20)


def _holes(samples: int, sample_rate: int, chance: _Chance, share: float) -> Tensor:
    """(N, n) of 1, with one gap of 40 to 140 ms in some items."""
    start = chance.uniform(0.0, 1.0) * samples
    width = chance.uniform(0.04, 0.14) * sample_rate
    at = torch.arange(samples, device=chance.device)
    inside = (at >= start[:, None]) & (at < (start + width)[:, None]) & chance.happens(share)[:, None]
    return (~inside).float()
