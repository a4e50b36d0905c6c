"""How near an alignment lies to the truth: begins of words, lines, and singing activity; no model is run here.

Conventions: times are seconds; an estimate and its reference have the same number of words in the same order. `aae` is the mean and `mae` the
median absolute error of the begins, `pco` the share within 0.3 s (mir_eval.alignment: percentage_correct, absolute_error). `even_spread` is
the baseline: each line's words by letters from its stamp to its end. `activity_f1` compares an aligner's singing activity with the reference:
frames of 20 ms inside a word, or in a gap under 0.5 s between words, against frames above one half; gaps under 0.5 s are closed in both.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autosing.errors import DataError
from autosing.evaluation.known_songs import KnownSong, TimedWord
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Lyrics
from autosing.tokens.specs import Seconds

PCO_WINDOW: Seconds = 0.3
ACTIVITY_RATE = 50  # Hz, of `Aligner.activity`
LEAST_GAP: Seconds = 0.5
"""Shorter gaps between words belong to the singing."""


class Errors(NamedTuple):
    """`aae` mean, `mae` median absolute error in seconds; `pco` share of begins within 0.3 s."""

    aae: float
    mae: float
    pco: float


def validate(reference: np.ndarray, estimate: np.ndarray) -> None:
    """Refuse begins that cannot be compared.

    Raises:
        DataError: empty, unequal in number, not finite, negative, or a reference that goes back in time.
    """
    if len(reference) == 0 or len(reference) != len(estimate):
        raise DataError(f"{len(reference)} reference and {len(estimate)} estimated begins cannot be compared; align the same words")
    if not (np.isfinite(reference).all() and np.isfinite(estimate).all()):
        raise DataError("begins must be finite; some are not a number")
    if min(reference.min(), estimate.min()) < 0:
        raise DataError("begins must not be negative")
    if (np.diff(reference) < 0).any():
        raise DataError("reference begins must not go back in time; sort them")


def errors(reference: Sequence[Seconds] | np.ndarray, estimate: Sequence[Seconds] | np.ndarray) -> Errors:
    """How far estimated begins lie from the reference.

    Raises:
        DataError: see `validate`.
    """
    reference, estimate = np.asarray(reference, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    validate(reference, estimate)
    away = np.abs(estimate - reference)
    return Errors(float(away.mean()), float(np.median(away)), float((away <= PCO_WINDOW).mean()))


def even_spread(lyrics: Lyrics, song_seconds: Seconds) -> np.ndarray:
    """(words,) begins: each line's words by their letters, from its start to its end where known, else to the next line's start.

    Raises:
        DataError: a line without a stamp.
    """
    starts = [line.start for line in lyrics.lines]
    out: list[float] = []
    for number, line in enumerate(lyrics.lines):
        if line.start is None:
            raise DataError(f"line {number} has no stamp to spread its words from; give stamped lyrics")
        following = starts[number + 1] if number + 1 < len(starts) else song_seconds
        end = line.end if line.end is not None else following
        letters = np.array([len(word) for word in line.text.split()], dtype=np.float64)
        before = np.concatenate([[0.0], np.cumsum(letters)[:-1]]) / letters.sum()
        out += (line.start + before * max(0.0, (end or 0.0) - line.start)).tolist()
    return np.array(out)


class LineJudgement(NamedTuple):
    """Trust in a line and whether its words were right: their mean error at most 0.3 s."""

    trust: float
    good: bool


def judge_lines(alignment: Alignment, song: KnownSong) -> list[LineJudgement]:
    """Every line's trust (mean score of its words) beside the truth."""
    out = []
    for line in sorted({w.line for w in song.words}):
        pairs = [(w, r) for w, r in zip(alignment.words, song.words, strict=True) if r.line == line]
        away = np.mean([abs(w.start - r.start) for w, r in pairs])
        out.append(LineJudgement(float(np.mean([w.score for w, _ in pairs])), bool(away <= PCO_WINDOW)))
    return out


def activity_f1(activity: Sequence[float] | np.ndarray, words: Sequence[TimedWord]) -> float:
    """F1 of (F,) activity in [0, 1], `ACTIVITY_RATE` a second, against the words of the reference; see the module."""
    activity = np.asarray(activity)
    centres = (np.arange(len(activity)) + 0.5) / ACTIVITY_RATE
    sung = np.zeros(len(activity), dtype=bool)
    for word in words:
        sung |= (centres >= word.start) & (centres < word.end)
    least = round(LEAST_GAP * ACTIVITY_RATE)
    sung, heard = without_short_gaps(sung, least), without_short_gaps(activity > 0.5, least)
    both = float((sung & heard).sum())
    return 2 * both / max(1.0, float(sung.sum() + heard.sum()))


def without_short_gaps(flags: np.ndarray, least: int) -> np.ndarray:
    """(F,) flags with gaps of fewer than `least` frames between two runs closed."""
    flags = flags.copy()
    inside = np.flatnonzero(flags)
    for first, last in itertools.pairwise(inside):
        if last - first - 1 < least:
            flags[first:last] = True
    return flags
