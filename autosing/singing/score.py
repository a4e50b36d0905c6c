"""How well a song was sung: phone error by the recogniser, sureness of the words, and what is heard of the plan's times.

The recogniser is the aligner's own, not the judge of `autosing.evaluation`: what chooses among candidates must not measure them as well.
Letters: n samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from autosing.models.io import load_model
from autosing.models.recogniser import BLANK, CLASSES, SILENCE, Recogniser
from autosing.song import audio
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Lyrics
from autosing.tokens.edits import edit_distance
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


class Listener:
    """Hears phones in sung audio."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self._recogniser: Recogniser
        self._recogniser, _ = load_model("builtin", Recogniser.kind, self.device)

    @torch.inference_mode()
    def phones(self, wav: Tensor, rate: int) -> tuple[str, ...]:
        """(n,) at `rate` Hz -> the phones that are heard (the likeliest CTC path)."""
        heard = audio.resample(wav, rate, self._recogniser.sample_rate).to(self.device)
        if heard.shape[-1] < self._recogniser.hop:
            return ()
        path = self._recogniser(heard[None]).ctc[0].argmax(-1).tolist()
        return tuple(CLASSES[c] for c, _ in groupby(path) if c not in (BLANK, SILENCE))


def phone_error(heard: Sequence[str], lines: Sequence[str], pronounce: Callable[[str], Sequence[str]]) -> float | None:
    """Edit distance of the phones heard to those of the written lines, over the number of the latter; None where nothing is written."""
    written = [phone for line in lines for word in line.split() for phone in pronounce(word)]
    return edit_distance(written, list(heard)) / len(written) if written else None


def word_score(alignment: Alignment) -> float:
    """Mean word score, weighted by nothing: how sure the recogniser is that these words are sung. -inf without words."""
    return sum(w.score for w in alignment.words) / len(alignment.words) if alignment.words else float("-inf")


def score_take(
    listener: Listener, vocals: Tensor, rate: int, heard: Alignment, lyrics: Lyrics, pronounce: Callable[[str], Sequence[str]]
) -> Score:
    """What the (n,) `vocals` at `rate` Hz are worth, in which the words of `lyrics` were `heard`."""
    error = phone_error(listener.phones(vocals, rate), [line.text for line in lyrics.lines], pronounce)
    return Score(None if error is None else round(error, 4), word_score(heard) if heard.words else None)


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
