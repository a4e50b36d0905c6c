"""A plan as the windows that the models sing: none longer than they were trained on, each beginning with the end of the one before.

A window's text is what is sung in it, in the shape of training windows: words, PAUSEs, one LINE near the middle. Its schedule holds every
line to its time. A cut may lie anywhere, a word's middle included: the next window begins with `OVERLAP_SECONDS` of what was sung (tokens, codes,
and which text token was sung when), so that it goes on as if nothing had been cut. Pure values; no model lives here.

Letters: L tokens of the whole song's text, N semantic steps, T codec frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from autosing.singing.pace import Schedule
from autosing.singing.plan import PlacedLine
from autosing.tokens.specs import CodecSpec, Seconds, SemanticSpec
from autosing.tokens.text import LINE, PAUSE, TextFrontEnd, TimedText

OVERLAP_SECONDS: Seconds = 5.0
LEAST_SECONDS: Seconds = 8.0  # of a window that another follows, what it begins with apart
HALF_REACH: Seconds = 6.0  # the break of a window lies no further than this from its middle, else there is none
BREAK_FROM_SECONDS: Seconds = 20.0  # as in training, a shorter window has no break
REST = -1
"""In a track: nothing of the text has been sung yet."""


class Window(NamedTuple):
    """Semantic steps [start, end), of which those before `fresh` are given; `start` is a whole number of blocks, `end` too or the song's."""

    start: int
    fresh: int
    end: int


@dataclass(frozen=True)
class Grid:
    """Where all tokens of a song may be cut: every `block_steps` semantic steps, which are whole grains of every codec."""

    token_rate: int
    block_steps: int

    @staticmethod
    def of(semantic: SemanticSpec, *codecs: CodecSpec) -> "Grid":
        grains = [Fraction(c.sample_rate, c.hop * semantic.token_rate * c.grain) for c in codecs]  # a step
        return Grid(semantic.token_rate, math.lcm(*(g.denominator for g in grains)))

    def floor(self, seconds: Seconds) -> int:
        """Steps of the whole blocks in `seconds`."""
        return int(seconds * self.token_rate + 1e-6) // self.block_steps * self.block_steps

    def ceil(self, seconds: Seconds) -> int:
        """Steps of the fewest whole blocks that hold `seconds`."""
        return -(-int(seconds * self.token_rate - 1e-6) // self.block_steps) * self.block_steps


def plan_windows(
    lines: Sequence[PlacedLine], first: int, last: int, grid: Grid, longest: Seconds, first_seconds: Seconds | None = None
) -> tuple[Window, ...]:
    """Windows that sing the steps [first, last), cut in rests between lines where there are any.

    Args:
        first: steps before it have been sung.
        longest: of a window, with what it begins with.
        first_seconds: a shorter limit for the first window.
    """
    rate = grid.token_rate
    rests = [((before.end + after.start) / 2, after.start - before.end) for before, after in pairwise(lines)]
    windows: list[Window] = []
    fresh = first
    while fresh < last:
        start = max(0, (fresh - grid.floor(OVERLAP_SECONDS)) // grid.block_steps * grid.block_steps)
        limit = longest if windows or first_seconds is None else first_seconds
        end = min(last, start + grid.floor(limit)) if last - start > int(limit * rate) else last
        if end < last:
            least = min(LEAST_SECONDS, limit / 2)
            fits = [(min(rest, 1.0) + 1.5 * middle / limit, middle) for middle, rest in rests
                    if fresh / rate + least <= middle <= end / rate and rest > 0]  # fmt: skip
            if fits:
                end = max((fresh // grid.block_steps + 1) * grid.block_steps, grid.floor(max(fits)[1]))
        windows.append(Window(start, fresh, end))
        fresh = end
    return tuple(windows)


@dataclass(frozen=True)
class WindowText:
    """A window's text with its opening LINE.

    Attributes:
        text: the tokens after the opening LINE.
        schedule: of `text` with the opening LINE.
        of_song: (1 + tokens,) for each, the song's token that it stands for, or the one that was sung before it.
        known: what `Track` pointer of this text the given steps have.
    """

    text: TimedText
    schedule: Schedule
    of_song: np.ndarray
    known: np.ndarray


class SongText:
    """The tokens of a whole song, line after line, each word followed by PAUSE."""

    def __init__(self, front_end: TextFrontEnd, lines: Sequence[PlacedLine], token_rate: float):
        self.lines = tuple(lines)
        self.token_rate = token_rate
        self._ids = [front_end.ids_for([line.text]).ids for line in self.lines]
        self._words = [_stamped_words(front_end, line) for line in self.lines]
        self.firsts = np.concatenate([[0], np.cumsum([len(ids) for ids in self._ids])]).astype(np.int64)
        """(lines + 1,) first token of each line."""

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def ids(self) -> np.ndarray:
        """(L,) int64."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self._ids])

    def step(self, seconds: Seconds) -> int:
        return round(seconds * self.token_rate)

    def window(self, window: Window, track: np.ndarray) -> WindowText:
        """What is sung in `window`.

        Args:
            track: (at least window.fresh,) token sung at each step so far, REST before the first.
        """
        given = track[window.start : window.fresh]
        begin = self._word_begin(int(given[0])) if len(given) else 0
        line_at = int(np.searchsorted(self.firsts, begin, side="right")) - 1 if begin < len(self) else len(self.lines)
        ids, of_song = [LINE], [begin - 1]
        ends: list[int] = []
        opens: list[int] = []
        deadlines: list[int] = []

        def section(deadline: int, opens_at: int) -> None:
            ends.append(len(ids))
            opens.append(opens_at)
            deadlines.append(max(deadline, deadlines[-1] if deadlines else 0))

        steps = window.end - window.start
        inside = [i for i in range(line_at, len(self.lines)) if self.step(self.lines[i].start) < window.end or self.firsts[i] < begin]
        half = self._half(inside[1:], window)
        for i in inside:
            line, first = self.lines[i], int(self.firsts[i])
            at = self.step(line.start) - window.start
            if begin <= first:
                if i == half:
                    ids.append(LINE)
                    of_song.append(first - 1)
                section(max(at, 1), max(at, 1))
            tokens = self._ids[i]
            for index in range(max(0, begin - first), len(tokens)):
                stamped = self._words[i].get(index)
                if stamped is not None and first + index > begin and index > 0:
                    section(self.step(stamped) - window.start, self.step(stamped) - window.start)
                if index == len(tokens) - 1:  # the PAUSE: what is sung is sung by the line's end, then there is rest
                    section(self.step(line.end) - window.start, 0)
                ids.append(int(tokens[index]))
                of_song.append(first + index)
        section(steps, steps)
        ends[-1] = len(ids)
        unknown = np.full(len(ids) - 1, np.nan)
        schedule = Schedule(*(np.array(column, dtype=np.int64) for column in (ends, opens, deadlines)))
        positions = np.array(of_song)
        known = np.searchsorted(positions, np.maximum(given, begin - 1), side="right") - 1
        return WindowText(TimedText(np.array(ids[1:], dtype=np.int64), unknown, unknown), schedule, positions, known.astype(np.int64))

    def _word_begin(self, token: int) -> int:
        """Where a window's text begins whose first step sings `token`: with the word it is of, or after the PAUSE that it is."""
        if token == REST:
            return 0
        ids = self.ids
        if ids[token] == PAUSE:
            return token + 1
        while token > 0 and ids[token - 1] != PAUSE:
            token -= 1
        return token

    def _half(self, lines: Sequence[int], window: Window) -> int | None:
        """The line before which the window has its break: that which begins nearest to its middle."""
        if window.end - window.start <= BREAK_FROM_SECONDS * self.token_rate:
            return None
        middle = (window.start + window.end) / 2
        reach = HALF_REACH * self.token_rate
        near = [(abs(self.step(self.lines[i].start) - middle), i) for i in lines]
        distance, line = min(near, default=(reach + 1, -1))
        return line if distance <= reach else None


def _stamped_words(front_end: TextFrontEnd, line: PlacedLine) -> dict[int, Seconds]:
    """Token of the line at which a stamped word begins -> its stamp."""
    if line.word_starts is None:
        return {}
    stamps: dict[int, Seconds] = {}
    token = 0
    for word, start in zip(line.text.split(), line.word_starts, strict=True):
        sounds = len(front_end.pronounce(word))
        if sounds and start is not None:
            stamps[token] = start
        token += sounds + 1 if sounds else 0
    return stamps
