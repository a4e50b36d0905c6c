"""Notes in what is sung, and the share of them that lie in the song's key.

A note is a stretch of voiced frames whose pitch, with vibrato smoothed away, rounds to one semitone (A4 = 440 Hz) for `LEAST_NOTE` or longer; slides
between notes are none. A key is one of the twelve diatonic scales (major, and minor of the same notes), found from the notes that were written: the
scale that holds most of their time. Where several hold the same, a share is the mean over them. Seven of twelve semitones lie in a key, so singing
without regard to it has a share of .583. Letters: T frames.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autosing.song.runs import runs_of, spans_of
from autosing.tokens.specs import Seconds

LEAST_NOTE: Seconds = 0.1
VIBRATO_PERIOD: Seconds = 0.18
_MAJOR = (0, 2, 4, 5, 7, 9, 11)
SCALES: tuple[frozenset[int], ...] = tuple(frozenset((tonic + step) % 12 for step in _MAJOR) for tonic in range(12))


class Note(NamedTuple):
    """A note of `seconds` on MIDI number `midi`."""

    seconds: Seconds
    midi: int


def notes_of(f0_hz: np.ndarray, voiced: np.ndarray, frame_rate: float) -> list[Note]:
    """Notes of a (T,) F0 track with (T,) voicing, in order."""
    least = max(1, round(LEAST_NOTE * frame_rate))
    notes: list[Note] = []
    for first, last in spans_of(voiced):
        semitones = np.round(_smoothed(69 + 12 * np.log2(f0_hz[first:last] / 440.0), frame_rate)).astype(int)
        notes += [Note((b - a) / frame_rate, midi) for a, b, midi in runs_of(semitones) if b - a >= least]
    return notes


def _smoothed(pitch: np.ndarray, frame_rate: float) -> np.ndarray:
    """Mean over one period of vibrato around each frame, less at the ends."""
    width = min(len(pitch), max(1, round(VIBRATO_PERIOD * frame_rate)))
    ones = np.ones(width)
    return np.convolve(pitch, ones, mode="same") / np.convolve(np.ones(len(pitch)), ones, mode="same")


def fitting_scales(notes: Sequence[Note]) -> list[frozenset[int]]:
    """The scales that hold most of the time of `notes`; all twelve of none."""
    held = [_held(notes, scale) for scale in SCALES]
    return [scale for scale, seconds in zip(SCALES, held, strict=True) if seconds >= max(held) - 1e-6]


def share_in_key(notes: Sequence[Note], scales: Sequence[frozenset[int]]) -> float | None:
    """Share of the time of `notes` on tones of a scale, mean over `scales`; None without notes."""
    whole = sum(note.seconds for note in notes)
    return float(np.mean([_held(notes, scale) / whole for scale in scales])) if whole > 0 else None


def _held(notes: Sequence[Note], scale: frozenset[int]) -> Seconds:
    return sum(note.seconds for note in notes if note.midi % 12 in scale)
