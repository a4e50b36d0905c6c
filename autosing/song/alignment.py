"""Words and phones with times.

`Alignment` is what an aligner returns and what the column `alignment` stores (the original's struct: starts, ends, scores, tokens,
words, lines, tokens_per_word, words_per_line, inlier_ratio, lrclib_offset). Times are seconds from the start of the audio the
alignment belongs to; a window's alignment is `clip`ped and shifted so that it starts at 0.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa

from autosing.tokens.specs import Seconds


class Word(NamedTuple):
    """A sung word as written (`text` keeps its case and punctuation); `line` counts the lyric lines from 0."""

    text: str
    start: Seconds
    end: Seconds
    score: float
    line: int


class Token(NamedTuple):
    """A part of a word (a phone or a character) and when it is sung; `word` indexes `Alignment.words`."""

    text: str
    start: Seconds
    end: Seconds
    score: float
    word: int


@dataclass(frozen=True)
class Alignment:
    """Words in order of time.

    Attributes:
        words: the words, starts not decreasing.
        tokens: parts of the words in order; may be empty where an aligner gives words alone.
        trust: share of lines that agree with the LRC stamps, or that the acoustics support; None = nothing to compare with.
        offset: seconds that the LRC stamps were shifted by to fit the recording.
    """

    words: tuple[Word, ...]
    tokens: tuple[Token, ...] = ()
    trust: float | None = None
    offset: Seconds = 0.0

    def clip(self, start: Seconds, end: Seconds, slack: Seconds = 1e-6) -> "Alignment":
        """The words that lie inside [start, end], give or take `slack` seconds, times relative to `start` and within the piece."""
        kept = [i for i, w in enumerate(self.words) if w.start >= start - slack and w.end <= end + slack]
        length = end - start

        def inside(time: Seconds) -> Seconds:
            return min(max(time - start, 0.0), length)

        renumber = {old: new for new, old in enumerate(kept)}
        words = tuple(w._replace(start=inside(w.start), end=inside(w.end)) for w in (self.words[i] for i in kept))
        tokens = tuple(
            t._replace(start=inside(t.start), end=inside(t.end), word=renumber[t.word]) for t in self.tokens if t.word in renumber
        )
        return replace(self, words=words, tokens=tokens)

    def to_struct(self) -> dict[str, Any]:
        """The value of a Parquet `alignment` cell (`ALIGNMENT_TYPE`)."""
        per_word = [0] * len(self.words)
        for token in self.tokens:
            per_word[token.word] += 1
        lines = [word.line for word in self.words]
        return {
            "starts": [w.start for w in self.words],
            "ends": [w.end for w in self.words],
            "scores": [w.score for w in self.words],
            "words": [w.text for w in self.words],
            "lines": lines,
            "tokens": [t.text for t in self.tokens],
            "token_starts": [t.start for t in self.tokens],
            "token_ends": [t.end for t in self.tokens],
            "token_scores": [t.score for t in self.tokens],
            "tokens_per_word": per_word,
            "words_per_line": [lines.count(line) for line in sorted(set(lines))],
            "inlier_ratio": self.trust,
            "lrclib_offset": self.offset,
        }

    @staticmethod
    def from_struct(value: dict[str, Any]) -> "Alignment":
        words = tuple(
            Word(*cells) for cells in zip(*(value[k] for k in ("words", "starts", "ends", "scores", "lines")), strict=True)
        )
        owner = [i for i, count in enumerate(value["tokens_per_word"]) for _ in range(count)]
        cells = zip(*(value[k] for k in ("tokens", "token_starts", "token_ends", "token_scores")), owner, strict=True)
        return Alignment(words, tuple(Token(*c) for c in cells), value["inlier_ratio"], value["lrclib_offset"] or 0.0)


ALIGNMENT_TYPE = pa.struct(
    [
        ("starts", pa.list_(pa.float32())),
        ("ends", pa.list_(pa.float32())),
        ("scores", pa.list_(pa.float32())),
        ("words", pa.list_(pa.string())),
        ("lines", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.string())),
        ("token_starts", pa.list_(pa.float32())),
        ("token_ends", pa.list_(pa.float32())),
        ("token_scores", pa.list_(pa.float32())),
        ("tokens_per_word", pa.list_(pa.int32())),
        ("words_per_line", pa.list_(pa.int32())),
        ("inlier_ratio", pa.float32()),
        ("lrclib_offset", pa.float32()),
    ]
)
