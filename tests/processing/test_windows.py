"""Which windows of a song are taken, and how windows are cut."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autosing.song.alignment import Alignment, Word
from processing.chunk import MIN_SUNG_SECONDS, pick_windows, sung_share
from processing.windows import cut

NONE = Alignment(())


def starts(share: list[float], duration: float | None = None, length: int = 30, occupancy: float = 0.5, words: Alignment = NONE) -> list[int]:
    return pick_windows(np.array(share), len(share) if duration is None else duration, length, occupancy, words)


def test_a_song_that_is_sung_throughout() -> None:
    assert starts([1.0] * 90) == [0, 30, 60]


def test_a_long_introduction_is_left_out() -> None:
    assert starts([0.0] * 40 + [1.0] * 60) == [40, 70]


def test_windows_are_moved_to_hold_the_most_singing() -> None:
    """Two phrases of 20 s with 25 s between: windows on a fixed grid would hold less."""
    found = starts([0.0] * 10 + [1.0] * 20 + [0.0] * 25 + [1.0] * 20 + [0.0] * 10)
    assert len(found) == 2 and found[0] <= 10 and found[0] + 30 <= found[1] <= 55


def test_a_window_with_pauses_passes_at_half_and_not_at_the_originals_share() -> None:
    share = ([1.0] * 6 + [0.0] * 4) * 3
    assert starts(share) == [0] and starts(share, occupancy=0.8) == []


def test_a_short_song_is_one_padded_window_if_enough_is_sung() -> None:
    assert starts([1.0] * 12) == [0]
    assert starts([1.0] * 7, 7) == []
    assert starts([1.0] * 8 + [0.0] * 4) == [0]


def test_an_instrumental_has_no_window() -> None:
    assert starts([0.0] * 200) == []


def test_words_are_not_cut_where_it_costs_nothing() -> None:
    """65 s sung throughout: borders may fall at several seconds; those inside words are avoided."""
    words = Alignment(tuple(Word("w", s + 0.2, s + 1.8, 1.0, 0) for s in range(0, 64, 2)))
    assert all(s % 2 == 0 for s in starts([1.0] * 65, words=words))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=130), st.integers(2, 31), st.floats(0.1, 1))
def test_windows_hold_what_they_promise(share: list[float], length: int, occupancy: float) -> None:
    found = starts(share, length=length, occupancy=occupancy)
    assert all(b - a >= length for a, b in itertools.pairwise(found))
    for start in found:
        assert 0 <= start < len(share)
        available = min(length, len(share) - start)
        sung = sum(share[start : start + length])
        assert sung >= occupancy * available - 1e-6
        assert available == length or sung >= min(MIN_SUNG_SECONDS, length / 2) - 1e-6


def test_words_count_as_singing_where_activity_is_missed() -> None:
    activity = np.zeros(100)
    activity[:25] = 0.9
    share = sung_share(activity, Alignment((Word("w", 1.0, 1.5, 1.0, 0), Word("late", 9.0, 12.0, 1.0, 0))), 2.5)
    assert np.allclose(share, [0.5, 0.5, 0.0])


def test_a_window_past_the_end_is_padded_with_silence() -> None:
    wave = torch.arange(1, 26.0)
    assert torch.equal(cut(wave, 10, 1.0, 1.0), torch.arange(11, 21.0))
    padded = cut(wave, 10, 2.0, 1.0)
    assert padded.shape == (10,) and torch.equal(padded[:5], torch.arange(21, 26.0)) and not padded[5:].any()
    assert not cut(wave, 10, 5.0, 1.0).any()
