"""Notes out of an F0 track, keys, and shares: known tunes."""

import numpy as np
import pytest

from autosing.evaluation.melody import SCALES, Note, fitting_scales, notes_of, share_in_key

RATE = 100.0


def track(*midis: float, seconds: float = 0.5, vibrato: float = 0.0) -> np.ndarray:
    steps = np.repeat(midis, round(seconds * RATE)) + vibrato * np.sin(2 * np.pi * 5.5 * np.arange(len(midis) * round(seconds * RATE)) / RATE)
    return 440 * 2 ** ((steps - 69) / 12)


def test_notes_are_found_under_vibrato_and_not_through_rests() -> None:
    f0 = track(60, 64, 67, vibrato=0.6)
    voiced = np.ones(len(f0), dtype=bool)
    found = notes_of(f0, voiced, RATE)
    assert [note.midi for note in found if note.seconds > 0.2] == [60, 64, 67]
    voiced[:] = False
    assert notes_of(f0, voiced, RATE) == []


def test_a_slide_is_no_note() -> None:
    f0 = 440 * 2 ** ((np.linspace(60, 72, 50) - 69) / 12)  # an octave in half a second
    assert notes_of(f0, np.ones(50, dtype=bool), RATE) == []


def test_a_scale_fits_itself_alone_and_a_fifth_fits_several() -> None:
    c_major = [Note(1.0, midi) for midi in (60, 62, 64, 65, 67, 69, 71)]
    assert fitting_scales(c_major) == [SCALES[0]]
    several = fitting_scales([Note(1.0, 60), Note(1.0, 67)])
    assert len(several) == 6 and all({0, 7} <= scale for scale in several)


def test_shares() -> None:
    c_major = [SCALES[0]]
    assert share_in_key([Note(3.0, 60), Note(1.0, 61)], c_major) == pytest.approx(0.75)
    assert share_in_key([Note(1.0, midi) for midi in range(60, 72)], c_major) == pytest.approx(7 / 12)
    assert share_in_key([Note(1.0, 66)], [SCALES[0], SCALES[7]]) == pytest.approx(0.5)
    assert share_in_key([], c_major) is None
