"""Sound makers: notes of pitched instruments and strokes of drums, as (n,) arrays at `SAMPLE_RATE`, not level-matched.

An instrument is called with (hz, n, tone, rng): the pitch, how many samples, its timbre from 0 (dark) to 1 (bright), and where its noise and phases
are drawn from. Which of them play together is said in `styles.py`.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import signal

from autosing.rendering.voices import SAMPLE_RATE

_NYQUIST = SAMPLE_RATE / 2


def _envelope(n: int, attack: float, decay: float, release: float = 0.03) -> np.ndarray:
    """Linear attack, exponential decay (seconds to fall by e; 0 = none), linear release at the end."""
    time = np.arange(n) / SAMPLE_RATE
    shape = np.exp(-time / decay) if decay else np.ones(n)
    a, r = min(n, max(1, int(attack * SAMPLE_RATE))), min(n, max(1, int(release * SAMPLE_RATE)))
    shape[:a] *= np.linspace(0, 1, a)
    shape[-r:] *= np.linspace(1, 0, r)
    return shape


def _harmonics(
    hz: float, n: int, slope: float, count: int, rng: np.random.Generator, damping: float = 0.0, stretch: float = 0.0
) -> np.ndarray:
    """Sum of sines k hz with amplitude k^-slope, each dying `damping` k faster, made slightly sharp by `stretch` (strings)."""
    time = np.arange(n, dtype=np.float32) / SAMPLE_RATE
    wave = np.zeros(n, np.float32)
    for k in range(1, count + 1):
        partial = hz * k * np.sqrt(1 + stretch * k * k)
        if partial > 0.95 * _NYQUIST:
            break
        sine = np.sin(np.float32(2 * np.pi * partial) * time + np.float32(rng.uniform(0, 6.28)))
        wave += (sine * np.exp(-damping * k * time) if damping else sine) * np.float32(k**-slope)
    return wave


def _saw(hz: float, n: int, detune_cents: tuple[float, ...], rng: np.random.Generator, cutoff_hz: float) -> np.ndarray:
    """Detuned sawtooths through a one-pole low-pass."""
    wave = np.zeros(n)
    for cents in detune_cents:
        phase = (np.arange(n) * hz * 2 ** (cents / 1200) / SAMPLE_RATE + rng.random()) % 1
        wave += 2 * phase - 1
    pole = np.exp(-2 * np.pi * min(cutoff_hz, 0.45 * SAMPLE_RATE) / SAMPLE_RATE)
    return signal.lfilter([1 - pole], [1, -pole], signal.lfilter([1 - pole], [1, -pole], wave)) / len(detune_cents)


def _pluck(hz: float, n: int, brightness: float, sustain: float, rng: np.random.Generator) -> np.ndarray:
    """Karplus-Strong string: a noise burst in a damped delay loop."""
    period = SAMPLE_RATE / hz
    delay = int(period - 0.5)
    burst = rng.standard_normal(delay)
    burst = signal.lfilter([brightness], [1, brightness - 1], burst)
    burst -= burst.mean()
    x = np.zeros(n)
    x[: min(n, delay)] = burst[: min(n, delay)]
    loss = 0.001 ** (1 / (hz * sustain))
    fraction = period - 0.5 - delay
    denominator = np.zeros(delay + 2)
    denominator[0] = 1
    denominator[delay] = -loss * (1 - (0.5 * fraction + 0.25))
    denominator[delay + 1] = -loss * (0.5 * fraction + 0.25)
    return signal.lfilter([1.0], denominator, x)


def _piano(hz, n, tone, rng):
    return _harmonics(hz, n, 1.1 - 0.3 * tone, 14, rng, 0.45 + 0.0012 * hz, 3e-4) * _envelope(n, 0.003, 2.2, 0.06)


def _electric_piano(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    index = (1.0 + 2.0 * tone) * np.exp(-time * 4)
    return np.sin(2 * np.pi * hz * time + index * np.sin(2 * np.pi * hz * time) + 0.3 * index * np.sin(2 * np.pi * 14 * hz * time) * np.exp(-time * 20)) * _envelope(n, 0.004, 1.2, 0.05)  # fmt: skip


def _organ(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    wave = sum(a * np.sin(2 * np.pi * hz * r * time) for r, a in ((0.5, 0.6), (1, 1), (1.5, 0.5 * tone), (2, 0.6), (3, 0.4), (4, 0.4 * tone), (6, 0.2)) if hz * r < _NYQUIST)  # fmt: skip
    return wave * (1 + 0.15 * np.sin(2 * np.pi * 6.1 * time)) * _envelope(n, 0.008, 0, 0.03)


def _guitar(hz, n, tone, rng):
    return _pluck(hz, n, 0.35 + 0.5 * tone, 1.8, rng) * _envelope(n, 0.001, 0, 0.03)


def _muted(hz, n, tone, rng):
    return _pluck(hz, n, 0.4 + 0.4 * tone, 0.25, rng) * _envelope(n, 0.001, 0.15, 0.02)


def _distorted(hz, n, tone, rng):
    wave = _pluck(hz, n, 0.7, 4, rng) + _pluck(hz * 1.4983, n, 0.7, 4, rng)
    wave = np.tanh(wave * (6 + 10 * tone))
    return signal.lfilter(*_lowpass(3200 + 1800 * tone), wave) * _envelope(n, 0.002, 0, 0.03) * 0.6


@functools.cache
def _lowpass(hz: float):
    return signal.butter(2, hz / _NYQUIST)


def _pad(hz, n, tone, rng):
    return _saw(hz, n, (-9, 0, 8), rng, 500 + 1800 * tone) * _envelope(n, 0.18, 0, 0.2)


def _strings(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    wave = _saw(hz, n, (-6, 1, 5), rng, 1500 + 2500 * tone)
    return wave * (1 + 0.08 * np.sin(2 * np.pi * 5.3 * time)) * _envelope(n, 0.09, 0, 0.12)


def _supersaw(hz, n, tone, rng):
    return _saw(hz, n, (-14, -6, 0, 7, 13), rng, 2500 + 5000 * tone) * _envelope(n, 0.01, 0, 0.04)


def _bell(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    return np.sin(2 * np.pi * hz * time + 2.5 * np.exp(-time * 3) * np.sin(2 * np.pi * hz * 3.51 * time)) * _envelope(
        n, 0.002, 0.8, 0.05
    )


def _flute(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    bend = 0.006 * np.sin(2 * np.pi * 5 * time) * np.clip(time - 0.15, 0, 0.2) * 5
    phase = 2 * np.pi * np.cumsum(hz * (1 + bend)) / SAMPLE_RATE
    wave = np.sin(phase) + 0.35 * np.sin(2 * phase) + 0.12 * tone * np.sin(3 * phase)
    return (wave + 0.04 * rng.standard_normal(n)) * _envelope(n, 0.05, 0, 0.06)


def _lead(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    bend = 0.008 * np.sin(2 * np.pi * 5.5 * time) * np.clip(time - 0.15, 0, 0.2) * 5
    phase = np.cumsum(hz * (1 + bend)) / SAMPLE_RATE % 1
    return signal.lfilter(*_lowpass(1500 + 2500 * tone), np.where(phase < 0.5 - 0.3 * tone, 1.0, -1.0)) * _envelope(
        n, 0.01, 0, 0.04
    )


def _round_bass(hz, n, tone, rng):
    return _harmonics(hz, n, 1.6 - 0.5 * tone, 8, rng, 0.8) * _envelope(n, 0.006, 1.5, 0.02)


def _saw_bass(hz, n, tone, rng):
    return _saw(hz, n, (0, 4), rng, 250 + 700 * tone) * _envelope(n, 0.004, 1.0, 0.02) * 1.6


def _slap_bass(hz, n, tone, rng):
    return np.tanh(_pluck(hz, n, 0.8, 1.2, rng) * 2) * _envelope(n, 0.001, 0.6, 0.02)


def _sub_bass(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    return np.tanh(1.8 * np.sin(2 * np.pi * hz * time + 3 * np.exp(-time * 30))) * _envelope(n, 0.004, 1.2, 0.05)


INSTRUMENTS = {
    "piano": _piano, "epiano": _electric_piano, "organ": _organ, "guitar": _guitar, "muted": _muted, "distorted": _distorted, "pad": _pad,
    "strings": _strings, "supersaw": _supersaw, "bell": _bell, "flute": _flute, "lead": _lead, "round_bass": _round_bass,
    "saw_bass": _saw_bass, "slap_bass": _slap_bass, "sub_bass": _sub_bass,
}  # fmt: skip


def drum(kind: str, rng: np.random.Generator) -> np.ndarray:
    """One drum stroke with a drawn tuning."""
    lengths = {"kick": 0.3, "snare": 0.22, "hat": 0.07, "open": 0.3, "clap": 0.2, "rim": 0.06, "shaker": 0.09, "tom": 0.35, "ride": 0.6, "brush": 0.2, "timpani": 1.0}  # fmt: skip
    n = int(lengths[kind] * SAMPLE_RATE)
    time = np.arange(n) / SAMPLE_RATE
    noise = rng.standard_normal(n)
    bright = np.diff(noise, prepend=0.0)
    if kind in ("kick", "tom", "timpani"):
        base, sweep, decay = {"kick": (rng.uniform(42, 60), rng.uniform(50, 140), 9), "tom": (rng.uniform(80, 140), 40, 9), "timpani": (rng.uniform(70, 100), 6, 3.5)}[kind]  # fmt: skip
        body = np.sin(2 * np.pi * (base * time + sweep * (1 - np.exp(-time * 35)) / 35)) * np.exp(-time * decay)
        return body + 0.25 * noise * np.exp(-time * 180)
    if kind in ("snare", "rim"):
        tone = np.sin(2 * np.pi * rng.uniform(170, 240) * (4 if kind == "rim" else 1) * time) * np.exp(
            -time * (60 if kind == "rim" else 28)
        )
        return 0.5 * tone + 0.6 * noise * np.exp(-time * rng.uniform(16, 30)) * (0.3 if kind == "rim" else 1)
    if kind == "clap":
        bursts = sum(np.where(time > d, np.exp(-(time - d) * 120), 0) for d in (0, 0.011, 0.022)) + np.exp(-time * 22) * 0.5
        return signal.lfilter(*signal.butter(2, [900 / _NYQUIST, 4500 / _NYQUIST], "band"), noise) * bursts
    if kind == "brush":
        return 0.35 * bright * np.exp(-time * 14) * np.clip(time * 40, 0, 1)
    decay = {"hat": rng.uniform(55, 110), "open": 10, "shaker": 45, "ride": 6}[kind]
    ring = 0.25 * np.sin(2 * np.pi * 3417 * time) if kind == "ride" else 0
    rise = np.clip(time * 60, 0, 1) if kind == "shaker" else 1
    return 0.3 * (np.diff(bright, prepend=0.0) * 0.5 + ring) * np.exp(-time * decay) * rise
