"""When each line is sung: lyrics of any number of lines, laid over the time that is there. Pure values; no model, no audio.

Lines with stamps stay where their stamps say. One or two lines without govern a share of the time each. More are laid over the phrases that
are sung in the reference: a line takes one or several phrases in a row, such that their length fits what its sounds take, verses begin
after rests and are not torn apart, and a chorus goes where the music is loud. Where nothing is sung, lines follow each other at an easy
pace. Times are seconds from where the song that is sung begins.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from autosing.errors import ConfigError
from autosing.singing.words import SUNG_STRETCH, Need, short
from autosing.song.lyrics import Line, Lyrics
from autosing.tokens.specs import Seconds

ACTIVITY_RATE = 50  # frames a second of an aligner's activity
USUAL_PACE = 0.66  # of the time at an easy pace, what a line takes in songs people sing
LEAST_GAP: Seconds = 0.3  # a shorter silence does not part two phrases, a shorter sound is none
REST: Seconds = 1.5  # a silence from which a verse or chorus may begin
CLOSE: Seconds = 0.2  # lines stamped closer together are one line
TAIL: Seconds = 2.0  # that a song whose length nobody gave goes on after its last line
MOST_PHRASES = 8  # that one line takes
SKIPPED = 0.12  # cost of each second that is sung in the reference and not by us
SKIPPED_INSIDE = 0.3  # the same inside a verse or chorus, where the lyrics say what is one
SKIPPED_AT_ONCE = 0.01  # where they do not: of the square of the seconds between two lines, so that what is passed over lies in many places
LOUD_SECTIONS = re.compile(r"(chorus|hook|refrain|drop)", re.I)
SOFT_SECTIONS = re.compile(r"(verse|bridge|intro|outro)", re.I)


class LyricLine(NamedTuple):
    """A line to sing, without time. `opens`: it is the first of its verse or chorus."""

    text: str
    section: str | None
    opens: bool


class PlacedLine(NamedTuple):
    """A line with its time: it begins at `start`, its words should be sung by `end`; `word_starts`: as in `Line`."""

    text: str
    start: Seconds
    end: Seconds
    section: str | None = None
    word_starts: tuple[Seconds | None, ...] | None = None


@dataclass(frozen=True)
class Plan:
    """What is sung when. `lines` in order of time, `seconds` the length of the song, `notes` what a person should know about it."""

    lines: tuple[PlacedLine, ...]
    seconds: Seconds
    notes: tuple[str, ...] = ()


def place_stamped(lyrics: Lyrics, start: Seconds, seconds: Seconds | None, need: Need, instead: str = "--start-time or --length") -> Plan:
    """Lines with stamps, for a song that begins `start` seconds into the time of the stamps.

    Args:
        seconds: how much there is; None = up to the end of the last line and a little more.
        instead: what else than the stamps a person may change where none fits.

    Raises:
        ConfigError: no line begins in that time.
    """
    inside, outside = [], []
    for line in lyrics.lines:
        assert line.start is not None
        within = line.start - start >= -1e-6 and (seconds is None or line.start - start < seconds - CLOSE)
        (inside if within else outside).append(line)
    if not inside:
        raise ConfigError(
            f"--lyrics: no line begins between {start:g} and {'the end' if seconds is None else f'{start + seconds:g}'} s, the first at "
            f"{lyrics.lines[0].start:g} s; give other stamps, {instead}"
        )
    moved = _merge([_moved(line, -start) for line in inside])
    placed, notes, wrong = [], [], []
    for line, following in zip(moved, [*moved[1:], None], strict=True):
        assert line.start is not None
        until = following.start if following else seconds if seconds is not None else math.inf
        assert until is not None
        stated = line.end if line.end is not None and line.end > line.start else None
        end = min(until, line.start + 1.3 * need(line.text) if stated is None else stated)
        starts, unfit = _in_order(line, end if stated is not None else until if until < math.inf else end + TAIL)
        wrong += unfit
        if need(line.text) > SUNG_STRETCH * 2.2 * (until - line.start):
            notes.append(f"the line '{short(line.text)}' has {until - line.start:.2f} s, too little for all of its words")
        placed.append(PlacedLine(line.text, line.start, end, line.section, starts))
    if wrong:
        others = f" and of {len(wrong) - 1} more" if len(wrong) > 1 else ""
        notes.append(f"the stamp of the word '{short(wrong[0])}'{others} lies outside its line or among later ones, and is left out")
    if outside:
        notes.append(f"{len(outside)} of {len(lyrics.lines)} lines lie outside the time that is sung, such as '{short(outside[0].text)}'")
    return Plan(tuple(placed), seconds if seconds is not None else placed[-1].end + TAIL, tuple(notes))


def _moved(line: Line, by: Seconds) -> Line:
    move = lambda t: None if t is None else t + by  # noqa: E731
    starts = None if line.word_starts is None else tuple(move(t) for t in line.word_starts)
    return line._replace(start=max(0.0, (line.start or 0.0) + by), end=move(line.end), word_starts=starts)


def _in_order(line: Line, until: Seconds) -> tuple[tuple[Seconds | None, ...] | None, list[str]]:
    """The stamps of a line's words without those that lie before the line or after `until`, and without the fewest others such that none is earlier
    than the one before it; also the words that lose theirs."""
    if line.word_starts is None:
        return None, []
    begin = line.start or 0.0
    given = [(index, start) for index, start in enumerate(line.word_starts) if start is not None]
    tails: list[tuple[Seconds, int]] = []  # of the rows of stamps that could be kept, by their length: the earliest last stamp, and its word
    before: dict[int, int] = {}
    for index, start in given:
        if begin - 1e-6 <= start <= until + 1e-6:
            length = bisect_right(tails, (start, index))
            before[index] = tails[length - 1][1] if length else -1
            tails[length : length + 1] = [(start, index)]
    kept: set[int] = set()
    word = tails[-1][1] if tails else -1
    while word >= 0:
        kept.add(word)
        word = before[word]
    starts = tuple(start if index in kept else None for index, start in enumerate(line.word_starts))
    words = line.text.split()
    return (starts if kept else None), [words[index] for index, _ in given if index not in kept]


def _merge(lines: Sequence[Line]) -> list[Line]:
    """Lines that begin all but together, as two singers' do, become one."""
    merged: list[Line] = []
    for line in lines:
        if merged and (line.start or 0.0) - (merged[-1].start or 0.0) < CLOSE:
            before = merged[-1]
            merged[-1] = before._replace(text=f"{before.text} {line.text}", end=line.end, word_starts=None)
        else:
            merged.append(line)
    return merged


def phrases_of(activity: np.ndarray, rate: float = ACTIVITY_RATE) -> list[tuple[Seconds, Seconds]]:
    """(F,) probability of singing -> (start, end) of every sung phrase."""
    sung = np.concatenate([[False], np.asarray(activity) > 0.5, [False]])
    edges = np.flatnonzero(sung[1:] != sung[:-1]).reshape(-1, 2) / rate
    phrases: list[tuple[Seconds, Seconds]] = []
    for start, end in edges.tolist():
        if phrases and start - phrases[-1][1] < LEAST_GAP:
            phrases[-1] = (phrases[-1][0], end)
        else:
            phrases.append((start, end))
    return [(start, end) for start, end in phrases if end - start >= LEAST_GAP]


def place_on_phrases(
    lines: Sequence[LyricLine],
    phrases: Sequence[tuple[Seconds, Seconds]],
    seconds: Seconds,
    need: Need,
    loudness: Callable[[Seconds], float] = lambda _: 0.0,
    fill: bool = True,
) -> tuple[PlacedLine, ...]:
    """Lay lines over the phrases of a reference by dynamic programming.

    Args:
        phrases: what is sung in the reference; none = `place_evenly`.
        loudness: of the music after a time, in standard deviations.
        fill: spread the lines over all phrases; else they are sung as soon as they fit, and the song may end after the last.
    """
    needs = [USUAL_PACE * need(line.text) for line in lines]
    pieces = _cut(phrases, len(lines), float(np.median(needs)))
    if len(pieces) < len(lines):
        return place_evenly(lines, 0.0, seconds, need, spread=fill)
    spans = _cheapest(lines, pieces, needs, loudness, fill)
    following = [pieces[first][0] for first, _ in spans[1:]] + [seconds]
    return tuple(
        PlacedLine(line.text, pieces[first][0], float(min(until, max(pieces[last][1], pieces[first][0] + wanted / USUAL_PACE))), line.section)
        for line, (first, last), until, wanted in zip(lines, spans, following, needs, strict=True)
    )


def _cheapest(
    lines: Sequence[LyricLine],
    pieces: Sequence[tuple[Seconds, Seconds]],
    needs: Sequence[Seconds],
    loudness: Callable[[Seconds], float],
    fill: bool,
) -> list[tuple[int, int]]:
    """(first, last) of the pieces that each line takes, such that lines last about what they need and little is skipped; `fill`: at the end too."""
    n, m = len(lines), len(pieces)
    starts, ends = np.array(pieces).T
    rests = np.concatenate([[np.inf], starts[1:] - ends[:-1]])
    skipped = np.concatenate([[0.0], np.cumsum(ends - starts)])  # sung seconds before each piece
    best = np.full((n + 1, m + 1), np.inf)  # [i, j]: i lines laid over the first j pieces, the last of which is the i-th line's
    came = np.zeros((n + 1, m + 1, 2), dtype=np.int64)
    best[0, 0] = 0.0
    verses = any(line.opens for line in lines[1:])
    for i, line in enumerate(lines):
        for first in range(i, m):
            before = best[i, : first + 1] + _passing_over(skipped[first] - skipped[: first + 1], verses, line.opens)
            came_from = int(np.argmin(before))
            opening = _opening(line, float(rests[first]), loudness(float(starts[first])))
            longest_rest = 0.0
            for last in range(first, min(first + MOST_PHRASES, m)):
                ratio = math.log((ends[last] - starts[first]) / needs[i])
                longest_rest = max(longest_rest, float(rests[last]) if last > first else 0.0)
                fit = (ratio * ratio) * (2.0 if ratio < 0 else 0.6) + 2.0 * max(0.0, ratio - 1.0) ** 2 + 0.4 * max(0.0, longest_rest - 0.7)
                cost = before[came_from] + opening + fit
                if cost < best[i + 1, last + 1]:
                    best[i + 1, last + 1] = cost
                    came[i + 1, last + 1] = came_from, first
    tails = best[n] + (_passing_over(skipped[m] - skipped, verses, True) if fill else 0.0)
    upto = int(np.argmin(tails))
    spans: list[tuple[int, int]] = []
    for i in range(n, 0, -1):
        before_piece, first = came[i, upto]
        spans.append((int(first), upto - 1))
        upto = int(before_piece)
    return spans[::-1]


def place_in_halves(
    lines: Sequence[LyricLine],
    phrases: Sequence[tuple[Seconds, Seconds]],
    seconds: Seconds,
    need: Need,
    loudness: Callable[[Seconds], float] = lambda _: 0.0,
) -> tuple[PlacedLine, ...]:
    """Lay one or two lines, each in its share of the time: over the phrase there whose length fits it best, or where nothing is sung, over the
    loudest music. One that began before serves where none begins there.

    Args:
        phrases, loudness: as in `place_on_phrases`.
    """
    share = seconds / len(lines)
    placed = []
    for number, line in enumerate(lines):
        begin, end, needed = number * share, (number + 1) * share, min(share, need(line.text))
        begun = [(a, b) for a, b in phrases if begin <= a <= end - needed and b - a > 1.0]  # with room for the line behind their begin
        sung = begun or [(begin, b) for a, b in phrases if a < begin and b - begin > 1.3 * needed]
        if sung:
            start, until = min(sung, key=lambda phrase: abs(math.log((phrase[1] - phrase[0]) / needed)))
        else:
            first = min(begin + 0.3, end - needed)
            times = np.arange(first, max(first, end - 1.5 * needed) + 1e-6, 0.5).tolist()
            start = max(times, key=loudness)
            until = start
        placed.append(PlacedLine(line.text, start, min(end, max(start + 1.3 * needed, min(until, start + 2 * needed))), line.section))
    return tuple(placed)


def _passing_over(seconds: np.ndarray, verses: bool, opening: bool) -> np.ndarray:
    """Cost of so many sung seconds of the reference in which nothing is sung, before a line; `verses`: the lyrics say what is one."""
    if verses:
        return (SKIPPED if opening else SKIPPED_INSIDE) * seconds
    return SKIPPED * seconds + SKIPPED_AT_ONCE * seconds**2


def _opening(line: LyricLine, rest: Seconds, loud: float) -> float:
    """Cost of beginning `line` after `rest` where the music is `loud`."""
    if not line.opens:
        return 0.15 if REST < rest < math.inf else 0.0
    towards = 0.6 if LOUD_SECTIONS.match(line.section or "") else -0.3 if SOFT_SECTIONS.match(line.section or "") else 0.0
    return (0.0 if rest > REST else 0.3) - towards * max(-1.5, min(1.5, loud))


def _cut(phrases: Sequence[tuple[Seconds, Seconds]], least: int, usual: Seconds) -> list[tuple[Seconds, Seconds]]:
    """Phrases with the long ones cut into even parts: into those of a usual line, and further until there are `least`."""
    parts = [max(1, round((end - start) / (1.3 * usual))) for start, end in phrases]
    while phrases and sum(parts) < least:
        longest = max(range(len(parts)), key=lambda i: (phrases[i][1] - phrases[i][0]) / parts[i])
        if phrases[longest][1] - phrases[longest][0] < (parts[longest] + 1) * LEAST_GAP:
            break
        parts[longest] += 1
    pieces: list[tuple[Seconds, Seconds]] = []
    for (start, end), count in zip(phrases, parts, strict=True):
        pieces += pairwise(np.linspace(start, end, count + 1).tolist())
    return pieces


def place_evenly(lines: Sequence[LyricLine], start: Seconds, end: Seconds, need: Need, spread: bool = True) -> tuple[PlacedLine, ...]:
    """One line after the other from `start` to `end`, each with time in proportion to its sounds and a breath after it.

    Args:
        spread: take all of the time; else no more than an easy pace does.
    """
    breaths = [0.25 * need(line.text) + (0.8 if line.opens else 0.2) for line in lines]  # before each line
    breaths[0] *= 0.5
    wanted = sum(breaths) + sum(need(line.text) for line in lines)
    stretch = (end - start) / wanted
    if not spread:
        stretch = min(1.0, stretch)
    placed, now = [], start
    for line, breath in zip(lines, breaths, strict=True):
        begin = now + breath * stretch
        now = begin + need(line.text) * stretch
        placed.append(PlacedLine(line.text, begin, now, line.section))
    return tuple(placed)
