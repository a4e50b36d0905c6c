"""Lyric lines and the stamps of an LRC, for aligners that hear letters: words in order, the vote on the stamps' offset, and trust.

An aligner finds the lines once without looking at the stamps. The offset on which most of them then agree is the stamps'; the share of lines within a
second of their stamps is the song's trust. Words that nobody sings (a dash, a note sign) stand where the word before them ends.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autosing.errors import AlignmentError
from autosing.song.alignment import Alignment, Token, Word
from autosing.song.lyrics import Lyrics
from autosing.tokens.specs import Seconds

AGREE_SECONDS: Seconds = 1.0
VOTE_SECONDS: Seconds = 0.5
NEAR_OFFSET: Seconds = 8.0
"""So far away two lines that agree move the stamps."""
MAX_OFFSET: Seconds = 60.0
"""Farther than this the stamps of a whole song are not moved."""
FAR_LINES, FAR_SHARE = 4, 0.4
"""Beyond `NEAR_OFFSET`, so many lines, and this share of those with stamps, must agree: stamps of another edit of the song."""
SLACK: Seconds = 0.5
"""How far a line may begin before its stamp, and end behind that of the next line."""


class FoundWord(NamedTuple):
    """When a word is sung; `letters` are its parts in order."""

    start: Seconds
    end: Seconds
    score: float
    letters: tuple[tuple[str, Seconds, Seconds, float], ...] = ()


class Span(NamedTuple):
    """Where a line must lie."""

    start: Seconds
    end: Seconds


def require_words(lyrics: Lyrics) -> list[list[str]]:
    """The words of each line.

    Raises:
        AlignmentError: code `no_lyrics`.
    """
    lines = [line.text.split() for line in lyrics.lines]
    if not any(c.isalnum() for line in lines for word in line for c in word):
        raise AlignmentError("no_lyrics", "the lyrics hold no sung word; add the words or leave the song out")
    return lines


def vote(starts: Sequence[Seconds | None], stamps: Sequence[Seconds | None]) -> tuple[Seconds, float | None]:
    """When lines were heard to begin, and their stamps -> seconds to add to the stamps; share of stamped lines that then agree, None without stamps."""
    stamped = [(heard, stamp) for heard, stamp in zip(starts, stamps, strict=True) if stamp is not None]
    if not stamped:
        return 0.0, None
    away = np.array([heard - stamp for heard, stamp in stamped if heard is not None])
    votes = (np.abs(away[:, None] - away) <= VOTE_SECONDS).sum(1)
    near = np.abs(away) <= NEAR_OFFSET
    needed = np.where(near, 2, max(FAR_LINES, FAR_SHARE * len(stamped)))
    agreed = np.flatnonzero((votes >= needed) & (np.abs(away) <= MAX_OFFSET))
    most = max(agreed, key=lambda i: (votes[i], near[i]), default=None)
    offset = 0.0 if most is None else float(away[np.abs(away - away[most]) <= VOTE_SECONDS].mean())
    return offset, float((np.abs(away - offset) <= AGREE_SECONDS).sum() / len(stamped))


def spans(lyrics: Lyrics, offset: Seconds, seconds: Seconds) -> list[Span | None]:
    """Where each stamped line lies: from its stamp to its end, or to the next line's stamp, with slack on both sides; None where that is outside the
    recording."""
    stamps = [line.start for line in lyrics.lines]
    found: list[Span | None] = []
    for number, line in enumerate(lyrics.lines):
        if line.start is None:
            found.append(None)
            continue
        following = next((stamp for stamp in stamps[number + 1 :] if stamp is not None and stamp > line.start), seconds)
        until = following if line.end is None else min(following, line.end)
        span = Span(max(0.0, line.start + offset - SLACK), min(seconds, until + offset + SLACK))
        found.append(span if span.end > span.start else None)
    return found


def to_alignment(lines: Sequence[Sequence[str]], heard: Sequence[Sequence[FoundWord | None]], trust: float | None, offset: Seconds) -> Alignment:
    """Words with times, starts never decreasing; None = a word that is not sung."""
    words: list[Word] = []
    tokens: list[Token] = []
    last_start = last_end = 0.0
    for number, (line, times) in enumerate(zip(lines, heard, strict=True)):
        for text, time in zip(line, times, strict=True):
            start = max(last_start, time.start) if time else max(last_start, last_end)
            end = max(start, time.end) if time else start
            last_start, last_end = start, end
            for letter, begin, until, score in time.letters if time else ():
                begin = min(max(begin, start), end)
                tokens.append(Token(letter, begin, min(max(until, begin), end), score, len(words)))
            words.append(Word(text, start, end, time.score if time else 0.0, number))
    return Alignment(tuple(words), tuple(tokens), trust, offset)
