"""Which windows of a song are taken, and how windows are cut."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autosing.song.alignment import Alignment, Word
from processing.placement import (
    CUT_SINGING_SHARE,
    CUT_WORD_SHARE,
    EDGE_SECONDS,
    MIN_SUNG_SECONDS,
    NEAR_SECONDS,
    WINDOW_COST,
    pick_windows,
    sung_frames,
    window_id,
)
from processing.windows import cut

NONE = Alignment(())


def starts(share: list[float], duration: float | None = None, length: int = 30, occupancy: float = 0.5, words: Alignment = NONE) -> list[int]:
    return pick_windows(np.array(share), len(share) if duration is None else duration, length, occupancy, words, rate=1)


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


@settings(max_examples=40, deadline=None)
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


RATE = 4
"""Slots a second of the small cases: a border may lie inside a word, at its edge, or in a gap."""
phrases = st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=8)
spans = st.lists(st.tuples(st.floats(0, 8), st.floats(0.05, 2)), max_size=6)


def worth(plan: tuple[int, ...], sung: list[float], length: int, words: Alignment) -> float:
    """What a plan is worth by the definition in processing/placement.py, counted slot by slot and word by word."""
    total = 0.0
    span = length * RATE

    def border(slot: int) -> float:
        time = slot / RATE
        cut = sum(word.start + EDGE_SECONDS < time - 1e-9 and time + 1e-9 < word.end - EDGE_SECONDS for word in words.words)
        reach = round(NEAR_SECONDS * RATE)
        near = sum(sung[i] for i in range(slot - reach, slot + reach) if 0 <= i < len(sung)) / (2 * reach)
        return CUT_WORD_SHARE * length * cut + (CUT_SINGING_SHARE * length * near if slot <= len(sung) else 0.0)

    for start in plan:
        middle = (start + span // 2) / RATE
        cut = sum(word.start + EDGE_SECONDS < middle - 1e-9 and middle + 1e-9 < word.end - EDGE_SECONDS for word in words.words)
        held = sum(sung[start : start + span]) / RATE
        total += held - WINDOW_COST - border(start) - border(start + span) - 0.5 * CUT_WORD_SHARE * length * cut
    return total


def every_plan(sung: list[float], length: int, occupancy: float, begin: int = 0) -> Iterator[tuple[int, ...]]:
    """All sets of allowed windows that do not overlap."""
    yield ()
    for start in range(begin, len(sung)):
        available = min(length, len(sung) / RATE - start / RATE)
        held = sum(sung[start : start + length * RATE]) / RATE
        least = occupancy * available if available == length else max(occupancy * available, min(MIN_SUNG_SECONDS, length / 2))
        if held > WINDOW_COST and held >= least - 1e-9:
            for rest in every_plan(sung, length, occupancy, start + length * RATE):
                yield (start, *rest)


@settings(max_examples=100, deadline=None)
@given(phrases, st.integers(2, 4), st.sampled_from([0.2, 0.5, 0.8]), spans)
def test_no_other_plan_is_worth_more(pieces: list[tuple[int, bool]], length: int, occupancy: float, places: list[tuple[float, float]]) -> None:
    """The windows of the dynamic programme against every plan there is."""
    sung = [float(voiced) for slots, voiced in pieces for _ in range(slots)]
    words = Alignment(tuple(Word("w", start, start + seconds, 1.0, 0) for start, seconds in sorted(places)))
    found = tuple(pick_windows(np.array(sung), len(sung) / RATE, length, occupancy, words, RATE))
    plans = list(every_plan(sung, length, occupancy))
    assert found in plans
    assert worth(found, sung, length, words) >= max(worth(plan, sung, length, words) for plan in plans) - 1e-6


def test_borders_fall_between_words_that_leave_no_gap() -> None:
    """A song sung throughout, words of .375 s one after the other: a border at a whole second would cut nearly always."""
    count, seconds = 256, 0.375
    words = Alignment(tuple(Word("w", i * seconds, (i + 1) * seconds, 1.0, 0) for i in range(count)))
    duration = count * seconds
    found = pick_windows(sung_frames(np.ones(0), words, duration), duration, 30, 0.5, words)
    assert len(found) == 3
    for slot in found:
        for border in (slot / 50, slot / 50 + 30):
            nearest = min(abs(border - i * seconds) for i in range(count + 1))
            assert nearest <= EDGE_SECONDS + 1e-6 or border > duration
    kept = sum(len(words.clip(slot / 50, slot / 50 + 30, EDGE_SECONDS).words) for slot in found)
    held = sum(min(30, duration - slot / 50) for slot in found)
    assert kept == round(held / seconds)


def test_a_song_without_words_is_not_cut_in_its_phrases() -> None:
    """Phrases of 7 s with pauses of 3 s, nothing known of words."""
    sung = np.tile(np.repeat([False, True, False], [75, 350, 75]), 9)
    found = pick_windows(sung, 90.0, 30, 0.5, NONE)
    borders = [slot for start in found for slot in (start, start + 1500)]
    assert len(found) == 3 and not any(sung[max(0, slot - 10) : slot + 10].any() for slot in borders)


def test_windows_are_named_by_their_second() -> None:
    assert [window_id("a", second) for second in (0.0, 12.0, 120.5, 1799.98)] == ["a_at_0", "a_at_12", "a_at_120.5", "a_at_1799.98"]


def test_words_count_as_singing_where_activity_is_missed() -> None:
    activity = np.zeros(100)
    activity[:25] = 0.9
    sung = sung_frames(activity, Alignment((Word("w", 1.0, 1.5, 1.0, 0), Word("late", 9.0, 12.0, 1.0, 0))), 2.5)
    assert len(sung) == 125 and sung[:25].all() and not sung[25:50].any() and sung[50:75].all() and not sung[75:].any()


def test_a_window_past_the_end_is_padded_with_silence() -> None:
    wave = torch.arange(1, 26.0)
    assert torch.equal(cut(wave, 10, 1.0, 1.0), torch.arange(11, 21.0))
    padded = cut(wave, 10, 2.0, 1.0)
    assert padded.shape == (10,) and torch.equal(padded[:5], torch.arange(21, 26.0)) and not padded[5:].any()
    assert not cut(wave, 10, 5.0, 1.0).any()
