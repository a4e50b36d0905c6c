"""Which text token is sung at each semantic step: the track that teaches t2s to follow its lyrics.

A track is (N,) indices into the text, starting at 0, never going back and advancing by at most `MAX_ADVANCE` a step. A text is a
sequence of sections, each opened by LINE (`with_opening_line` gives the first section its own); the sections share a window evenly
unless deadlines say otherwise. Letters: L text tokens, N semantic steps. Pure numpy; no model lives here.
"""

import numpy as np

from autosing.tokens.text import LINE, PAUSE, TimedText

MAX_ADVANCE = 3
PACE_BUCKETS, SINCE_BUCKETS = 32, 64


def with_opening_line(text: TimedText) -> TimedText:
    """The text with a LINE in front, which stands for the rest before the first word."""
    return TimedText(
        np.concatenate([[LINE], np.asarray(text.ids, dtype=np.int64)]),
        np.concatenate([[0.0], np.asarray(text.starts, dtype=np.float64)]),
        np.concatenate([[0.0], np.asarray(text.ends, dtype=np.float64)]),
    )


def known_starts(text: TimedText) -> np.ndarray:
    """(L,) starts in seconds, not decreasing; unknown ones lie evenly between their known neighbours (a PAUSE: at the end before it)."""
    starts = np.array(text.starts, dtype=np.float64)
    for index in np.flatnonzero(np.isnan(starts) & (np.asarray(text.ids) == PAUSE)):
        if index:
            starts[index] = text.ends[index - 1]
    known = np.flatnonzero(~np.isnan(starts))
    if len(known) == 0:
        return np.zeros(len(starts))
    starts = np.interp(np.arange(len(starts)), known, starts[known])
    return np.maximum.accumulate(starts)


def pointer_track(text: TimedText, steps: int, token_rate: float) -> np.ndarray:
    """(N,) int64: the last token begun at the middle of each step, reached by at most `MAX_ADVANCE` tokens a step."""
    middles = (np.arange(steps) + 0.5) / token_rate
    target = np.maximum(np.searchsorted(known_starts(text), middles, side="right") - 1, 0)
    track = np.zeros(steps, dtype=np.int64)
    for step in range(1, steps):
        track[step] = min(max(target[step], track[step - 1]), track[step - 1] + MAX_ADVANCE)
    return track


def steps_since_advance(track: np.ndarray) -> np.ndarray:
    """(N,) int64: steps the pointer has rested on its token, below `SINCE_BUCKETS`."""
    positions = np.arange(len(track))
    moved = np.concatenate([[True], np.diff(track) > 0])
    since = positions - np.maximum.accumulate(np.where(moved, positions, 0))
    return np.minimum(since, SINCE_BUCKETS - 1)


def sections(ids: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each section of the text ends, and by when it is to be sung: (first token after it, step) arrays of equal length.

    Sections are what the LINE tokens after the first open; they share the steps evenly.
    """
    lines = np.flatnonzero(np.asarray(ids)[1:] == LINE) + 1
    ends = np.concatenate([lines, [len(ids)]])
    deadlines = np.round(np.arange(1, len(ends) + 1) * steps / len(ends)).astype(np.int64)
    return ends, deadlines


def pace_bucket(tokens_left: np.ndarray, steps_left: np.ndarray) -> np.ndarray:
    """Sung tokens left a step left, on a logarithmic scale of `PACE_BUCKETS` (0: nothing left to sing)."""
    ratio = np.log2((tokens_left + 0.5) / (np.maximum(steps_left, 0) + 1.0))  # 1/256 .. 2 tokens a step
    bucket = 1 + np.clip(np.round((ratio + 8) * (PACE_BUCKETS - 2) / 9), 0, PACE_BUCKETS - 2)
    return np.where(tokens_left > 0, bucket, 0).astype(np.int64)


def sung_before(ids: np.ndarray) -> np.ndarray:
    """(L + 1,) int64: how many tokens that make a sound come before each index."""
    sound = (np.asarray(ids) != PAUSE) & (np.asarray(ids) != LINE)
    return np.concatenate([[0], np.cumsum(sound)])


def pace_track(ids: np.ndarray, track: np.ndarray) -> np.ndarray:
    """(N,) int64 pace buckets along a track: what is left of its section against the time left for it."""
    ends, deadlines = sections(ids, len(track))
    before = sung_before(ids)
    section = np.minimum(np.searchsorted(ends, track, side="right"), len(ends) - 1)
    left = before[ends[section]] - before[np.minimum(track + 1, len(ids))]
    return pace_bucket(np.maximum(left, 0), deadlines[section] - np.arange(len(track)))
