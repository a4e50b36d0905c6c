"""The timing model: evenly spread without evidence, at the sounds with it, near stamps."""

import numpy as np
import pytest

from autosing.models.recogniser import CLASS_OF, CLASSES
from autosing.perception.alignment.timing import Sounds, SpokenWord, TimingModel, find_times

MODEL = TimingModel()
LINE = (SpokenWord(("HH", "AY"), 4, 0), SpokenWord(("W", "ER", "L", "D"), 4, 0), SpokenWord(("S", "IH", "NG", "Z"), 4, 0))


def _posteriors(frames: int, sounds: list[tuple[str, int, int]], sure: float = 0.9) -> np.ndarray:
    """(F, C) log posteriors: `sounds` at their frames, silence elsewhere."""
    even = (1 - sure) / (len(CLASSES) - 1)
    out = np.full((frames, len(CLASSES)), even)
    out[:, 0] = sure
    for phone, begin, end in sounds:
        out[begin:end, 0] = even
        out[begin:end, CLASS_OF[phone]] = sure
    return np.log(out)


def _times(log_posteriors, words=LINE, pace=0.08):
    return find_times(Sounds(log_posteriors, MODEL), words, np.full(words[-1].line + 1, pace), MODEL)


def test_words_begin_where_their_sounds_do():
    sounds = [("HH", 50, 54), ("AY", 54, 80), ("W", 80, 84), ("ER", 84, 100), ("L", 100, 104), ("D", 104, 108),
              ("S", 130, 140), ("IH", 140, 150), ("NG", 150, 158), ("Z", 158, 165)]  # fmt: skip
    found = _times(_posteriors(250, sounds))
    np.testing.assert_allclose(found.starts, [1.0, 1.6, 2.6], atol=0.03)
    np.testing.assert_allclose(found.phone_starts[1], [1.6, 1.68, 2.0, 2.08], atol=0.03)
    assert (found.certainty > 0.95).all()
    assert found.ends[1] == pytest.approx(2.16, abs=0.05)


def test_without_evidence_words_spread_by_letters_from_the_stamp():
    flat = np.full((200, len(CLASSES)), -np.log(len(CLASSES)))
    words = (LINE[0]._replace(stamp=1.0), *LINE[1:], SpokenWord(("G", "OW"), 2, 1, 2.2))
    found = _times(flat, words, 0.1)
    np.testing.assert_allclose(found.starts, [1.0, 1.4, 1.8, 2.2], atol=0.12)


def test_a_known_end_draws_the_last_word_to_it():
    flat = np.full((400, len(CLASSES)), -np.log(len(CLASSES)))
    words = (LINE[0]._replace(stamp=1.0), LINE[1], LINE[2]._replace(until=4.0))
    found = _times(flat, words, 0.25)
    assert found.ends[2] == pytest.approx(4.0, abs=0.15)
    np.testing.assert_allclose(found.starts, [1.0, 2.0, 3.0], atol=0.35)


def test_times_never_go_back():
    rng = np.random.default_rng(0)
    log_posteriors = np.log(rng.dirichlet(np.ones(len(CLASSES)), 200))
    found = _times(log_posteriors)
    begins = np.concatenate(found.phone_starts)
    assert (np.diff(begins) >= 0).all() and (found.ends >= found.starts).all()
    assert (found.certainty >= 0).all() and (found.certainty <= 1 + 1e-6).all()


def test_unreadable_sounds_take_part():
    words = (SpokenWord(("<unknown>",), 3, 0), LINE[2])
    sounds = [("AY", 40, 60), ("S", 60, 70), ("IH", 70, 80), ("NG", 80, 88), ("Z", 88, 95)]
    found = _times(_posteriors(150, sounds), words)
    np.testing.assert_allclose(found.starts, [0.8, 1.2], atol=0.05)


def test_one_of_several_sounds():
    words = (SpokenWord(("OW|AY", "K|S"), 3, 0), LINE[2])
    sounds = [("AY", 40, 54), ("S", 54, 60), ("S", 75, 85), ("IH", 85, 95), ("NG", 95, 103), ("Z", 103, 110)]
    found = _times(_posteriors(150, sounds), words)
    np.testing.assert_allclose(found.phone_starts[0], [0.8, 1.08], atol=0.05)
    np.testing.assert_allclose(found.starts[1], 1.5, atol=0.05)


def test_too_few_frames_are_refused():
    with pytest.raises(ValueError):
        _times(_posteriors(6, []))
