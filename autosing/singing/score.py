"""How well a song was sung: phone error by the recogniser, which words are wrong, how sure they are, and when lines are heard.

The recogniser is the aligner's own, not the judge of `autosing.evaluation`: what chooses among candidates must not measure them as well.
Letters: n samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autosing.errors import AlignmentError
from autosing.models.recogniser import CLASSES, Recogniser, phone_begins
from autosing.perception.alignment.base import Aligner
from autosing.perception.alignment.builtin import BuiltinAligner, Heard, Reading
from autosing.song import audio
from autosing.song.alignment import Alignment, Word
from autosing.song.lyrics import Line, Lyrics
from autosing.tokens.edits import edit_distance, edit_pairs
from autosing.tokens.specs import Seconds

IN_TIME: Seconds = 0.3


@dataclass(frozen=True)
class Score:
    """Of one candidate: `phone_error` against the written words (None without words), `words` the mean word score (None: none found)."""

    phone_error: float | None
    words: float | None

    @property
    def badness(self) -> tuple[float, float]:
        """Sorts candidates, best first: by phone error, then by words."""
        missing = float("inf")
        return (missing if self.phone_error is None else self.phone_error, missing if self.words is None else -self.words)


class HeardPhone(NamedTuple):
    """A phone and when it is heard to begin."""

    phone: str
    at: Seconds


class Take(NamedTuple):
    """Sung audio as it is heard: the lyrics' `words` where they are found, all `phones` that are heard, and what it is worth."""

    words: Alignment
    phones: tuple[HeardPhone, ...]
    score: Score


class Listener:
    """Hears words and phones in sung audio: by one pass of one recogniser where the aligner is the embedded one and stays as it is."""

    def __init__(self, aligner: Aligner, device: torch.device | str = "cpu"):
        """`aligner` finds the words; one that gets used to them first would find them in anything."""
        self.aligner = aligner
        self._ears = aligner if isinstance(aligner, BuiltinAligner) else BuiltinAligner(device)

    def take(self, vocals: Tensor, rate: int, lyrics: Lyrics, pronounce: Callable[[str], Sequence[str]]) -> Take:
        """Listen to (n,) `vocals` at `rate` Hz, in which `lyrics` should be sung; `pronounce`: word -> phones."""
        heard = self._ears.listen(audio.resample(vocals, rate, self._ears.sample_rate))
        words, phones = self._words(heard, vocals, rate, lyrics), _phones(heard.path)
        error = phone_error([phone.phone for phone in phones], [line.text for line in lyrics.lines], pronounce)
        return Take(words, phones, Score(None if error is None else round(error, 4), word_score(words) if words.words else None))

    def _words(self, heard: Reading, vocals: Tensor, rate: int, lyrics: Lyrics) -> Alignment:
        """Where the words are, stamps or not; none where there are none, or nothing that could be them was sung."""
        if not lyrics.lines:
            return Alignment(())
        plain = Lyrics(tuple(Line(line.text) for line in lyrics.lines))  # where they should be must not decide where they are found
        try:
            if self.aligner is self._ears and not self._ears.adapt_steps:
                return self._ears.align_heard(Heard(heard.log_posteriors), plain)
            return self.aligner.align(audio.resample(vocals, rate, self.aligner.sample_rate), plain)
        except AlignmentError:
            return Alignment(())


def _phones(path: np.ndarray) -> tuple[HeardPhone, ...]:
    """(F,) likeliest CTC classes -> the phones and when each begins."""
    return tuple(HeardPhone(CLASSES[path[f]], float(f / Recogniser.frame_rate)) for f in phone_begins(path))


def phone_error(heard: Sequence[str], lines: Sequence[str], pronounce: Callable[[str], Sequence[str]]) -> float | None:
    """Edit distance of the phones heard to those of the written lines, over the number of the latter; None where nothing is written."""
    written = [phone for line in lines for word in line.split() for phone in pronounce(word)]
    return edit_distance(written, list(heard)) / len(written) if written else None


def word_edits(words: Sequence[Word], heard: Sequence[HeardPhone], pronounce: Callable[[str], Sequence[str]]) -> list[int]:
    """How many edits of `phone_error` fall on each of all the lyrics' `words`; a phone too many falls on the word in whose time it is."""
    owner = [number for number, word in enumerate(words) for _ in pronounce(word.text)]
    written = [phone for word in words for phone in pronounce(word.text)]
    edits = [0] * len(words)
    last = 0
    for mine, theirs in edit_pairs(written, [phone.phone for phone in heard]) if words else ():
        if mine is None:
            assert theirs is not None
            following = min(last + 1, len(words) - 1)
            edits[following if heard[theirs].at >= words[following].start else last] += 1
            continue
        last = owner[mine]
        edits[last] += theirs is None or heard[theirs].phone != written[mine]
    return edits


class Fault(NamedTuple):
    """How badly a word is sung, best first: the edits that fall on it, and how unsure the recogniser is of it, 0 to 1."""

    edits: int
    doubt: float


def word_faults(take: Take, pronounce: Callable[[str], Sequence[str]]) -> list[Fault]:
    """What is wrong with each of all the lyrics' words."""
    words = take.words.words
    return [Fault(edits, 1 - word.score) for edits, word in zip(word_edits(words, take.phones, pronounce), words, strict=True)]


def phones_right(take: Take, pronounce: Callable[[str], Sequence[str]]) -> list[float]:
    """Share of each word's phones that is heard as it is written, of 1; a phone too many counts as one wrong. Unlike a word's score it does not
    know what should be heard."""
    words = take.words.words
    edits = word_edits(words, take.phones, pronounce)
    return [round(max(0.0, 1 - wrong / max(1, len(pronounce(word.text)))), 3) for word, wrong in zip(words, edits, strict=True)]


def word_score(alignment: Alignment) -> float:
    """Mean word score, weighted by nothing: how sure the recogniser is that these words are sung. -inf without words."""
    return sum(w.score for w in alignment.words) / len(alignment.words) if alignment.words else float("-inf")


def with_scores(lyrics: Lyrics, alignment: Alignment) -> Lyrics:
    """Lyrics made of `alignment` with a tag a line, `#scores 1`, `#scores 2`, ..., that holds how sure each of its words is."""
    lines = {word.line: [w.score for w in alignment.words if w.line == word.line] for word in alignment.words}
    tags = tuple((f"#scores {number}", " ".join(f"{score:.2f}" for score in scores)) for number, scores in enumerate(lines.values(), start=1))
    return Lyrics(lyrics.lines, (*lyrics.tags, *tags))


def line_starts(alignment: Alignment) -> dict[int, Seconds]:
    """Line -> when the first of its words that makes a sound is heard."""
    starts: dict[int, Seconds] = {}
    for word in alignment.words:
        if word.end > word.start:
            starts.setdefault(word.line, word.start)
    return starts


def timing(alignment: Alignment, planned: Sequence[Seconds]) -> dict[str, float | int | None]:
    """How far the lines that are heard begin from where they were planned: share within 0.3 s, median distance in seconds."""
    starts = line_starts(alignment)
    off = sorted(abs(starts[line] - begin) if line in starts else float("inf") for line, begin in enumerate(planned))
    if not off:
        return {"lines": 0, "in_time": None, "median_seconds": None}
    share = sum(distance <= IN_TIME for distance in off) / len(off)
    return {"lines": len(off), "in_time": round(share, 4), "median_seconds": round(off[len(off) // 2], 3)}
