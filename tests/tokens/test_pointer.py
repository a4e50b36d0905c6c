"""The pointer track: monotonic, bounded, at the right token at the right time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autosing.tokens.pointer import (
    MAX_ADVANCE,
    PACE_BUCKETS,
    SINCE_BUCKETS,
    pace_bucket,
    pace_track,
    pointer_track,
    sections,
    steps_since_advance,
    with_opening_line,
)
from autosing.tokens.text import LINE, PAUSE, TimedText

RATE = 25.0


def text_of(*tokens: tuple[int, float, float]) -> TimedText:
    ids, starts, ends = zip(*tokens, strict=True)
    return TimedText(np.array(ids), np.array(starts), np.array(ends))


def test_a_track_is_at_the_token_that_is_sung() -> None:
    text = with_opening_line(text_of((7, 0.5, 0.7), (8, 0.7, 1.0), (PAUSE, 1.0, 2.0), (9, 2.0, 2.5), (PAUSE, 2.5, 2.5)))
    track = pointer_track(text, 100, RATE)
    for seconds, index in ((0.2, 0), (0.6, 1), (0.8, 2), (1.5, 3), (2.2, 4), (3.5, 5)):
        assert track[int(seconds * RATE)] == index


def test_words_without_a_gap_skip_the_pause_between_them() -> None:
    text = text_of((LINE, 0.0, 0.0), (7, 0.2, 0.4), (PAUSE, 0.4, 0.4), (8, 0.4, 0.8), (PAUSE, 0.8, 0.8))
    track = pointer_track(text, 30, RATE)
    assert 2 not in track
    assert {0, 1, 3, 4} == set(track.tolist())


def test_unknown_times_lie_between_known_ones() -> None:
    nan = float("nan")
    text = text_of((LINE, 0.0, 0.0), (7, 0.4, 0.8), (8, nan, nan), (9, 1.2, 1.6), (PAUSE, nan, nan))
    track = pointer_track(text, 60, RATE)
    assert track[int(0.9 * RATE)] == 2
    assert track[int(1.7 * RATE)] == 4


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([LINE, PAUSE, 5, 6]), st.floats(0, 0.4)), min_size=1, max_size=40))
def test_any_track_starts_at_zero_never_goes_back_and_never_leaps(tokens: list[tuple[int, float]]) -> None:
    starts = np.cumsum([length for _, length in tokens])
    text = with_opening_line(TimedText(np.array([i for i, _ in tokens]), starts, starts))
    track = pointer_track(text, 120, RATE)
    moves = np.diff(track)
    assert track[0] == 0 and track.max() < len(text)
    assert moves.min() >= 0 and moves.max() <= MAX_ADVANCE
    since = steps_since_advance(track)
    assert (since[1:][moves > 0] == 0).all() and since.max() < SINCE_BUCKETS
    pace = pace_track(text.ids, track)
    assert pace.min() >= 0 and pace.max() < PACE_BUCKETS


def test_two_lines_share_the_window_in_halves() -> None:
    ends, deadlines = sections(np.array([LINE, 5, PAUSE, LINE, 6, PAUSE]), 750)
    assert ends.tolist() == [3, 6] and deadlines.tolist() == [375, 750]


def test_pace_is_zero_when_nothing_is_left_and_grows_with_the_hurry() -> None:
    left, time = np.array([0, 5, 50, 200]), np.array([100, 100, 100, 100])
    buckets = pace_bucket(left, time)
    assert buckets[0] == 0 and (np.diff(buckets) > 0).all()
