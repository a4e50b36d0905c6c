"""Levels, equalisers, reverb and compression of the two stems; all of it is baked into the stems, so mix = vocals + accompaniment.

Arrays are float32 at 24 kHz, mono (n,) or stereo (2, n); functions return new arrays of the same shape.
"""

from __future__ import annotations

import numpy as np
from scipy import signal

from autosing.rendering.voices import SAMPLE_RATE


def peaking(hz: float, gain_db: float, quality: float) -> tuple[np.ndarray, np.ndarray]:
    """(b, a) of a peaking equaliser (R. Bristow-Johnson, Audio EQ Cookbook)."""
    amplitude, omega = 10 ** (gain_db / 40), 2 * np.pi * hz / SAMPLE_RATE
    alpha = np.sin(omega) / (2 * quality)
    b = np.array([1 + alpha * amplitude, -2 * np.cos(omega), 1 - alpha * amplitude])
    a = np.array([1 + alpha / amplitude, -2 * np.cos(omega), 1 - alpha / amplitude])
    return b / a[0], a / a[0]


def equalise(x: np.ndarray, rng: np.random.Generator, strength_db: float = 6.0) -> np.ndarray:
    """One to three random bells; sometimes a low cut."""
    for _ in range(int(rng.integers(1, 4))):
        b, a = peaking(
            float(np.exp(rng.uniform(np.log(120), np.log(9000)))),
            float(rng.uniform(-strength_db, strength_db)),
            float(rng.uniform(0.5, 2)),
        )
        x = signal.lfilter(b, a, x)
    if rng.random() < 0.5:
        b, a = signal.butter(2, float(rng.uniform(60, 160)) / (SAMPLE_RATE / 2), "high")
        x = signal.lfilter(b, a, x)
    return x.astype(np.float32)


def telephone(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A narrow band, as an effect."""
    edges = np.array([rng.uniform(200, 450), rng.uniform(2800, 4500)]) / (SAMPLE_RATE / 2)
    return signal.lfilter(*signal.butter(2, edges, "band"), x).astype(np.float32)


def reverberate(x: np.ndarray, rng: np.random.Generator, wet_db: float, seconds: float) -> np.ndarray:
    """Add a decaying diffuse tail (exponential noise, low-passed, independent for each channel), `wet_db` below the dry sound."""
    n = int(seconds * SAMPLE_RATE)
    predelay = int(rng.uniform(0.005, 0.03) * SAMPLE_RATE)
    time = np.arange(n) / SAMPLE_RATE
    wet = []
    for channel in np.atleast_2d(x):
        tail = rng.standard_normal(n) * np.exp(-6.9 * time / seconds)
        tail = signal.lfilter([0.4], [1, -0.6], tail)
        tail = np.concatenate([np.zeros(predelay), tail / np.sqrt(np.sum(tail**2))])
        wet.append(signal.oaconvolve(channel, tail)[: len(channel)])
    tail = np.stack(wet) if x.ndim == 2 else wet[0]
    return (x + 10 ** (wet_db / 20) * tail).astype(np.float32)


def compress(x: np.ndarray, ratio: float, above_db: float) -> np.ndarray:
    """Reduce what is over the RMS level + `above_db` by `ratio`; envelope of 10 ms steps, smoothed; channels linked."""
    hop = SAMPLE_RATE // 100
    mono = np.atleast_2d(x)
    n = mono.shape[1]
    padded = np.pad(mono, ((0, 0), (0, -n % hop)))
    level = 10 * np.log10((padded.reshape(len(mono), -1, hop) ** 2).mean((0, 2)) + 1e-9)
    level = np.maximum(level, signal.lfilter([0.1], [1, -0.9], level, zi=[0.9 * level[0]])[0])
    loud = level[level > level.max() - 40]
    threshold = (10 * np.log10(np.mean(10 ** (loud / 10))) if len(loud) else 0.0) + above_db
    gain_db = -np.maximum(level - threshold, 0) * (1 - 1 / ratio)
    gain = 10 ** (np.interp(np.arange(n) / hop, np.arange(len(gain_db)) + 0.5, gain_db) / 20)
    return (x * gain).astype(np.float32)


def dress_vocals(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Equaliser, compression, doubling, room, each for a part of the songs; keeps length and timing."""
    if rng.random() < 0.6:
        x = compress(x, float(rng.uniform(1.5, 5)), float(rng.uniform(-6, 2)))
    if rng.random() < 0.65:
        x = equalise(x, rng)
    if rng.random() < 0.04:
        x = telephone(x, rng)
    if rng.random() < 0.12:  # slap-back or doubling
        delay = int(rng.uniform(0.012, 0.09) * SAMPLE_RATE)
        x = x + float(rng.uniform(0.15, 0.5)) * np.concatenate([np.zeros(delay, np.float32), x[:-delay]])
    if rng.random() < 0.7:
        x = reverberate(x, rng, float(rng.uniform(-22, -7)), float(rng.uniform(0.25, 1.6)))
    return x.astype(np.float32)


def dress_band(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same for a synthesised band (2, n)."""
    x = equalise(x, rng, 5.0)
    if rng.random() < 0.8:
        x = reverberate(x, rng, float(rng.uniform(-20, -6)), float(rng.uniform(0.3, 1.8)))
    if rng.random() < 0.6:
        x = compress(x, float(rng.uniform(1.5, 4)), float(rng.uniform(-4, 3)))
    return x.astype(np.float32)


def balance(
    vocals: np.ndarray, band: np.ndarray, active: np.ndarray, ratio_db: float, peak: float
) -> tuple[np.ndarray, np.ndarray]:
    """Set the vocal-to-band ratio (RMS where the voice sounds) and scale both so that the mix peaks at `peak`.

    Args:
        vocals: (n,). band: (2, n). active: (n,) bool, where something is sung.
    """
    if not active.any():
        active = np.ones(len(vocals), bool)
    voice_rms = np.sqrt(np.mean(vocals[active] ** 2)) + 1e-9
    band_rms = np.sqrt(np.mean(band[:, active] ** 2)) + 1e-9
    band = band * (voice_rms / band_rms / 10 ** (ratio_db / 20))
    top = max(float(np.abs(vocals + band).max()), float(np.abs(vocals).max()), float(np.abs(band).max()))
    return (vocals * (peak / top)).astype(np.float32), (band * (peak / top)).astype(np.float32)
