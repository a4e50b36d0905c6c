"""Real instrumentals as accompaniments: a stretch of a recording, and the key that a melody over it can at least share its scale with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import signal

from autosing.rendering.melody import Key
from autosing.rendering.voices import SAMPLE_RATE, resample

# Krumhansl and Kessler's key profiles (Krumhansl 1990, table 2.1)
_PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}  # fmt: skip


def estimate_key(music: np.ndarray) -> Key:
    """The key whose profile correlates best with the chroma of (2, n) audio at 24 kHz."""
    _, _, power = signal.stft(music.mean(0), SAMPLE_RATE, nperseg=8192, noverlap=4096)
    hz = np.arange(power.shape[0]) * SAMPLE_RATE / 8192
    use = (hz > 80) & (hz < 2000)
    pitch_class = np.round(69 + 12 * np.log2(hz[use] / 440)).astype(int) % 12
    magnitude = np.sqrt(np.abs(power[use])).mean(1)
    chroma = np.bincount(pitch_class, magnitude, 12) / np.maximum(np.bincount(pitch_class, minlength=12), 1)
    scores = {
        (tonic, mode): float(np.corrcoef(np.roll(profile, tonic), chroma)[0, 1])
        for mode, profile in _PROFILES.items()
        for tonic in range(12)
    }
    tonic, mode = max(scores, key=lambda key: scores[key])
    return Key(tonic, mode)


TRANSPOSITIONS = ((1, 1), (18, 17), (9, 8), (17, 18), (8, 9))  # speed ratios of 0, 1, 2, -1, -2 semitones within 5 cents


def real_stretch(path: Path, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """(2, n) float32: a random stretch of a recording at 24 kHz, transposed by up to 2 semitones with its tempo; short files loop.

    Raises:
        AudioError: code `not_audio`: it cannot be decoded; names it.
    """
    from autosing.song import audio  # which imports torch

    up, down = TRANSPOSITIONS[int(rng.integers(len(TRANSPOSITIONS)))]
    n = round(seconds * SAMPLE_RATE)
    with audio.opened(path) as file:
        wanted = int(seconds * up / down * file.samplerate) + file.samplerate
        if file.frames > wanted:
            file.seek(int(rng.integers(file.frames - wanted)))
        samples = file.read(wanted, dtype="float32", always_2d=True)
        rate = file.samplerate
    music = resample(samples[:, :2].T, rate, up, down)
    if len(music) == 1:
        music = np.repeat(music, 2, axis=0)
    if music.shape[1] < n:
        fade = SAMPLE_RATE // 4
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        piece, looped = music, music
        while looped.shape[1] < n:
            joined = looped[:, -fade:] * (1 - ramp) + piece[:, :fade] * ramp
            looped = np.concatenate([looped[:, :-fade], joined, piece[:, fade:]], axis=1)
        music = looped
    return np.ascontiguousarray(music[:, :n], np.float32)
