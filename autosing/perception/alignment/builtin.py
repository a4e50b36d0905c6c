"""The embedded aligner: our recogniser, a chain of the lyrics' sounds with explicit durations, and line stamps as soft anchors.

Without stamps the chain runs over the whole song. With stamps it runs over the whole song once without them; the difference between both is a
vote on the offset of all stamps, on how exact they are, and on which lines can be trusted; then it runs again with the stamps, of which a few may
be wrong. Stamps that do not belong to the recording at all are left out. Before it, the recogniser gets used to the recording (`adaptation`); ears that have learnt the words find them in anything, so words are scored by what the
recogniser heard before, and by whether it found them at the same times.

A word's score is the estimated probability that it begins within 0.3 s of its time; a line's trust is the mean over its words
(`line_trust`), a song's trust the share of lines above one half. Letters: n samples (recordings are (n,), or (2, n)
in stereo), F frames (50 a second), C classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from autosing.errors import AlignmentError
from autosing.models.io import load_model
from autosing.models.recogniser import CLASS_OF, SILENCE, Recogniser
from autosing.perception.alignment import confidence
from autosing.perception.alignment.adaptation import STEPS, adapted, can_adapt
from autosing.perception.alignment.lines import MAX_OFFSET
from autosing.perception.alignment.spelling import pronouncer_for
from autosing.perception.alignment.timing import Sounds, SpokenWord, Timing, TimingModel, find_times
from autosing.song.alignment import Alignment, Token, Word
from autosing.song.lyrics import Lyrics
from autosing.tokens.specs import Seconds

_PIECE_FRAMES, _MARGIN_FRAMES = 3000, 200
_AGREE_SECONDS: Seconds = 0.5
"""A line agrees with its stamp when both, offset taken away, differ by less."""
_NATS_A_STAMP = 7.0
"""What stamps that belong to a recording cost at most, on the average, in the log likelihood of its words at the pace they give (real songs: 1 to 4)."""
_BEFORE = 0.2
"""Weight of the log probabilities heard before getting used to a recording in those that the words are timed by."""


@dataclass(frozen=True)
class Lines:
    """Lyrics as the chain wants them.

    `words[i]` is written word number `numbers[i]`; `texts` and `lines` hold every written word and its line of `count` lines.
    """

    texts: tuple[str, ...]
    lines: tuple[int, ...]
    words: tuple[SpokenWord, ...]
    numbers: tuple[int, ...]
    count: int

    @property
    def letters(self) -> np.ndarray:
        """(count,) letters of each line."""
        letters = np.zeros(self.count)
        for word in self.words:
            letters[word.line] += word.letters
        return letters

    @property
    def classes(self) -> list[int]:
        """What the recogniser should read, in order: of a sound that is one of several the first, and nothing where nobody can tell."""
        names = (phone.split("|")[0] for word in self.words for phone in word.phones)
        return [CLASS_OF[name] for name in names if name in CLASS_OF]

    def first_words(self) -> dict[int, int]:
        """Line -> index of its first sung word."""
        return {word.line: index for index, word in reversed(list(enumerate(self.words)))}

    def moved(self, by: Seconds | None) -> tuple[SpokenWord, ...]:
        """The words with their stamps moved; without stamps for None."""
        if by is None:
            return tuple(word._replace(stamp=None, until=None) for word in self.words)
        return tuple(word._replace(stamp=_plus(word.stamp, by), until=_plus(word.until, by)) for word in self.words)


def _plus(time: Seconds | None, by: Seconds) -> Seconds | None:
    return None if time is None else time + by


class Reading(NamedTuple):
    """Both read-outs of one pass of the recogniser.

    Attributes:
        log_posteriors: (F, C) log probabilities of the classes.
        ctc: (F, C + 1) those of the CTC read-out.
    """

    log_posteriors: np.ndarray
    ctc: Tensor

    @property
    def path(self) -> np.ndarray:
        """(F,) the likeliest class of the CTC read-out, BLANK where no phone begins."""
        return self.ctc.argmax(-1).numpy()


class _Piece(NamedTuple):
    """(1, K, bands, 2 f) spectra of f frames of a recording, of which those of `own` are wanted; the others lie around them."""

    spectra: Tensor
    own: slice


class BuiltinAligner:
    """Implements `autosing.perception.alignment.base.Aligner`.

    Args:
        device: where the recogniser runs.
        weights: "builtin" or the checkpoint of a recogniser.
        adapt_steps: how far the recogniser gets used to each recording; 0 hears all with the same ears, and the same recording alike
            whatever it is said to hold.
        model: the numbers of the timing model.
    """

    name = "builtin"
    sample_rate = Recogniser.sample_rate

    def __init__(
        self,
        device: torch.device | str = "cpu",
        weights: str | Path = "builtin",
        adapt_steps: int = STEPS,
        model: TimingModel | None = None,
    ):
        self.device = torch.device(device)
        self.model, self.adapt_steps = model or TimingModel(), adapt_steps
        self._recogniser: Recogniser
        self._recogniser, _ = load_model(weights, "recogniser", self.device)
        self.stereo = self._recogniser.config.stereo

    def listen(self, wav: Tensor) -> Reading:
        """A recording -> both read-outs, in pieces of a minute that overlap, whatever is known of the words."""
        return _read(self._recogniser, self._pieces(wav))

    def log_posteriors(self, wav: Tensor) -> np.ndarray:
        """A recording -> (F, C) log probabilities of the classes."""
        return self.listen(wav).log_posteriors

    def _pieces(self, wav: Tensor) -> Iterator[_Piece]:
        hop, frames = Recogniser.hop, Recogniser.num_frames(wav.shape[-1])
        for first in range(0, frames, _PIECE_FRAMES):
            begin = max(0, first - _MARGIN_FRAMES)
            end = min(frames, first + _PIECE_FRAMES + _MARGIN_FRAMES)
            with torch.inference_mode():
                spectra = self._recogniser.heard(wav[..., begin * hop : end * hop].to(self.device, torch.float32)[None])
            yield _Piece(spectra, slice(first - begin, min(first + _PIECE_FRAMES, frames) - begin))

    def activity(self, wav: Tensor) -> Tensor:
        """A recording -> (F,) probability of singing, averaged over 0.1 s."""
        return torch.from_numpy(_activity(self.log_posteriors(wav)))

    def align(self, wav: Tensor, lyrics: Lyrics) -> Alignment:
        """See `Aligner.align`.

        Raises:
            AlignmentError: code `no_lyrics` or `too_many_words`.
        """
        return _alignment(self.examine(wav, lyrics))

    def align_heard(self, heard: "Heard", lyrics: Lyrics) -> Alignment:
        """`align` from what was heard before (`hear`)."""
        lines = read_lines(lyrics)
        _check(lines, len(heard.plain))
        return _alignment(self.time(heard, lines))

    def examine(self, wav: Tensor, lyrics: Lyrics) -> "Examined":
        """Times and measurements of all sung words of a recording, not yet scored.

        Raises:
            AlignmentError: see `align`.
        """
        lines = read_lines(lyrics)
        _check(lines, Recogniser.num_frames(wav.shape[-1]))
        return self.time(self.hear(wav, lines), lines)

    def hear(self, wav: Tensor, lines: Lines) -> "Heard":
        """A recording -> what the recogniser hears, before and after it got used to the recording."""
        if not self.adapt_steps or not can_adapt(Recogniser.num_frames(wav.shape[-1]), lines.classes):
            return Heard(self.log_posteriors(wav))
        pieces = list(self._pieces(wav))
        plain = _read(self._recogniser, pieces)
        spectra = torch.cat([piece.spectra[..., 2 * piece.own.start : 2 * piece.own.stop] for piece in pieces], -1)
        student = adapted(self._recogniser, spectra, plain.ctc.to(self.device), lines.classes, self.adapt_steps)
        both = (1 - _BEFORE) * _read(student, pieces).log_posteriors + _BEFORE * plain.log_posteriors
        return Heard(plain.log_posteriors, both - np.logaddexp.reduce(both, axis=1, keepdims=True))

    def time(self, heard: "Heard", lines: Lines) -> "Examined":
        """Times and measurements of all sung words of what was heard.

        Raises:
            AlignmentError: code `too_many_words`.
        """
        try:
            return self._time(heard, lines)
        except ValueError as error:
            seconds = len(heard.plain) / Recogniser.frame_rate
            raise AlignmentError(
                "too_many_words", f"the words do not fit into the recording of {seconds:.1f} s ({error})"
            ) from error

    def _time(self, heard: "Heard", lines: Lines) -> "Examined":
        plain = Sounds(heard.plain, self.model)
        best = heard.plain if heard.adapted is None else heard.adapted
        sounds = plain if heard.adapted is None else Sounds(best, self.model)
        pace = np.full(lines.count, _song_pace(_activity(best), lines.letters))
        free = timing = find_times(sounds, lines.moved(None), pace, self.model)
        before = free if heard.adapted is None else find_times(plain, lines.moved(None), pace, self.model)
        offset, kind = 0.0, "free"
        stamps = sum(word.stamp is not None for word in lines.words)
        if stamps:
            moved = _vote(free, lines)
            words = lines.moved(moved)
            pace = _stamped_pace(words, lines.letters, float(pace[0]), len(best) / Recogniser.frame_rate)
            try:
                stamped = find_times(sounds, words, pace, self.model)
            except ValueError:  # stamps that no way through the words can follow
                stamped = None
            if stamped is not None:
                dear = stamped.log_likelihood + _NATS_A_STAMP * stamps / len(best)
                if dear >= free.log_likelihood or dear >= find_times(sounds, lines.moved(None), pace, self.model).log_likelihood:
                    timing, offset, kind = stamped, moved, "stamped"
        measurements = confidence.measure(timing, before, lines.words, plain)
        return Examined(timing, measurements, kind if heard.adapted is None else f"adapted {kind}", lines, offset)


class Heard(NamedTuple):
    """(F, C) log probabilities of the classes: `plain` by the recogniser as it is, `adapted` when it got used to the recording, with a little of
    `plain` (None: it did not get used to it)."""

    plain: np.ndarray
    adapted: np.ndarray | None = None


class Examined(NamedTuple):
    """What the aligner knows before it scores the words.

    Attributes:
        timing: of the sung words.
        measurements: (sung words, M) of `confidence.measure`.
        kind: which row of `confidence.WEIGHTS` judges them.
        lines: the lyrics; `lines.numbers` counts the sung words among all written ones.
        offset: by how much the stamps were moved.
    """

    timing: Timing
    measurements: np.ndarray
    kind: str
    lines: Lines
    offset: Seconds


def _read(recogniser: Recogniser, pieces: Iterable[_Piece]) -> Reading:
    """What a recogniser hears in consecutive pieces of a recording."""
    posteriors, ctc = [torch.zeros(0, len(CLASS_OF))], [torch.zeros(0, len(CLASS_OF) + 1)]
    with torch.inference_mode():
        for piece in pieces:
            heard = recogniser.read(recogniser.trunk(piece.spectra))
            posteriors.append(nnf.log_softmax(heard.frames[0, piece.own], dim=-1).cpu())
            ctc.append(nnf.log_softmax(heard.ctc[0, piece.own], dim=-1).cpu())
    return Reading(torch.cat(posteriors).numpy(), torch.cat(ctc))


def _check(lines: Lines, frames: int) -> None:
    """
    Raises:
        AlignmentError: no word, or more of them than a recording of so many frames can hold.
    """
    if not lines.words:
        raise AlignmentError("no_lyrics", "the lyrics hold no sung word; add the words or leave the song out")
    if 2 * sum(len(word.phones) for word in lines.words) > frames:
        seconds = frames / Recogniser.frame_rate
        raise AlignmentError(
            "too_many_words",
            f"{len(lines.words)} words do not fit into {seconds:.1f} s; check that the lyrics belong to the recording",
        )


def line_trust(words: Sequence[Word], sung: Iterable[int]) -> dict[int, float]:
    """Lyric line -> mean score of its words; `sung` are the indices of those that are sung."""
    by_line: dict[int, list[float]] = {}
    for index in sung:
        by_line.setdefault(words[index].line, []).append(words[index].score)
    return {line: float(np.mean(scores)) for line, scores in by_line.items()}


def read_lines(lyrics: Lyrics) -> Lines:
    """Lyrics -> words with phones; the language of the spelling is guessed from all lines together."""
    pronounce = pronouncer_for(lyrics.text)
    texts: list[str] = []
    line_of: list[int] = []
    words: list[SpokenWord] = []
    numbers: list[int] = []
    for number, line in enumerate(lyrics.lines):
        stamps: list[Seconds | None] = list(line.word_starts or ())
        stamp = line.start  # goes to the first word of the line that is sung
        for position, text in enumerate(line.text.split()):
            phones = pronounce(text)
            if position < len(stamps) and stamps[position] is not None:
                stamp = stamps[position]
            if phones:
                letters = max(1, sum(c.isalnum() for c in text))
                words.append(SpokenWord(tuple(phones), letters, number, stamp))
                numbers.append(len(texts))
                stamp = None
            texts.append(text)
            line_of.append(number)
        following = next((later.start for later in lyrics.lines[number + 1 :] if later.start is not None), None)
        ends_alone = line.end is not None and (following is None or line.end < following)
        if ends_alone and words and words[-1].line == number:  # an end that a next line overtakes says nothing
            words[-1] = words[-1]._replace(until=line.end)
    return Lines(tuple(texts), tuple(line_of), tuple(words), tuple(numbers), len(lyrics.lines))


def _activity(log_posteriors: np.ndarray) -> np.ndarray:
    singing = 1 - np.exp(log_posteriors[:, SILENCE])
    if len(singing) < 5:
        return singing.astype(np.float32)
    padded = np.pad(singing, 2, mode="edge")
    return np.convolve(padded, np.full(5, 0.2), mode="valid").astype(np.float32).clip(0, 1)


def _song_pace(activity: np.ndarray, letters: np.ndarray) -> Seconds:
    """Seconds a letter when the singing that is heard is shared by all letters, within what people sing."""
    heard = float(activity.sum()) / Recogniser.frame_rate
    return float(np.clip(heard / max(1.0, letters.sum()), 0.05, 0.16))


def _stamped_pace(words: Sequence[SpokenWord], letters: np.ndarray, fallback: Seconds, song_seconds: Seconds) -> np.ndarray:
    """(lines,) seconds a letter: to the line's end where it is known, else to the next stamp but not much slower than the song."""
    starts, ends = np.full(len(letters), np.nan), np.full(len(letters), np.nan)
    for word in reversed(words):
        starts[word.line] = np.nan if word.stamp is None else word.stamp
        if word.until is not None:
            ends[word.line] = word.until
    known = np.append(starts, song_seconds)
    following = np.array([next((t for t in known[i + 1 :] if np.isfinite(t)), song_seconds) for i in range(len(starts))])
    with np.errstate(invalid="ignore"):
        spans = np.fmin(ends, following) - starts
        pace = np.where(letters > 0, spans / np.maximum(letters, 1), np.nan)
        fits = np.isfinite(pace) & (pace > 0)
    usual = float(np.median(pace[fits])) if fits.sum() >= 4 else fallback
    limit = np.where(np.isfinite(ends), np.inf, 1.3 * usual)
    return np.clip(np.where(fits, np.fmin(pace, limit), usual), 0.02, 1.5)


def _vote(free: Timing, lines: Lines) -> Seconds:
    """How much later than their stamps the lines are heard: what most lines share, or 0 unless many certain lines say otherwise."""
    stamps = [(index, lines.words[index].stamp) for index in lines.first_words().values()]
    heard = [(free.starts[index] - stamp, free.certainty[index]) for index, stamp in stamps if stamp is not None]
    if len(heard) < 4:
        return 0.0
    late, weights = np.array(heard).T
    weights = weights / weights.sum()

    def support(offset: Seconds) -> float:
        return float((weights * np.exp(-np.abs(late - offset) / 0.15)).sum())

    best = max(late[np.abs(late) <= MAX_OFFSET], key=support, default=0.0)
    near = np.abs(late - best) < _AGREE_SECONDS
    offset = float(np.median(late[near])) if near.any() else 0.0
    trusted = weights[near].sum() >= 0.4 and near.sum() >= 4 and support(offset) > 1.5 * support(0.0)
    return offset if trusted and abs(offset) >= 0.12 else 0.0


def _alignment(found: Examined) -> Alignment:
    timing, lines, scores = found.timing, found.lines, confidence.score(found.measurements, found.kind)
    words: list[Word] = []
    tokens: list[Token] = []
    index_of = {number: i for i, number in enumerate(lines.numbers)}
    last = 0.0
    for number, (text, line) in enumerate(zip(lines.texts, lines.lines, strict=True)):
        i = index_of.get(number)
        if i is None:  # nothing of it is sung
            words.append(Word(text, last, last, 0.0, line))
            continue
        start, end, score = float(timing.starts[i]), float(timing.ends[i]), float(scores[i])
        words.append(Word(text, start, end, score, line))
        for phone, a, b in zip(lines.words[i].phones, timing.phone_starts[i], timing.phone_ends[i], strict=True):
            tokens.append(Token(phone.split("|")[0], float(a), float(b), score, number))
        last = end
    trust = float(np.mean([score >= 0.5 for score in line_trust(words, lines.numbers).values()]))
    return Alignment(tuple(words), tuple(tokens), trust, found.offset)
