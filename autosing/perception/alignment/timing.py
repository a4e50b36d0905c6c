"""How long sung words last: lyrics as a left-to-right chain with explicit durations, and the word times it gives.

The model joins three kinds of knowledge, each in its place. Durations: every phone has an expected length (consonants short and firm, vowels
what remains of the word's share of its line by letters) and a gamma distribution around it, so that without any evidence the words of a line
spread by letters between its stamps. Stamps: a line begins near its stamp. Sounds: the recogniser's posteriors over their mean, tempered
and floored, so that many frames must agree before they move a word. Forward-backward gives the distribution of every begin; its median is the
time, its width the doubt.

Letters: F frames (50 a second), C classes of the recogniser, W words, P phones of all words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from autosing.models.recogniser import CLASS_OF, SILENCE, Recogniser
from autosing.perception.alignment.viterbi import Chain, arrivals
from autosing.tokens.pronounce import VOWELS
from autosing.tokens.specs import Seconds
from autosing.tokens.text import expected_seconds

FRAME_RATE = Recogniser.frame_rate
GAP = "<gap>"
"""Name of the sound between words: silence, or singing that the lyrics do not have."""


@dataclass(frozen=True)
class TimingModel:
    """The numbers of the model; tuned on rendered songs over real bands and on read speech, never on the songs it is judged by.

    Attributes:
        sharpness: exponent on the ratio of posterior and prior of a frame.
        floor: least ratio of a frame, before the exponent: bounds what one frame can say against a sound.
        prior_mix: share of the even distribution in the prior of the classes (the rest is the song's own mean posterior).
        filler: likelihood ratio of a gap where nothing in the lyrics is sung but silence is improbable.
        vowel_shape, consonant_shape: shape of the gamma distribution of a length (1 = exponential, large = firm).
        consonant_stretch: expected length of a sung consonant / that of a spoken one.
        hold: probability that a vowel is held on beyond its length; hold_final: the same for a word's last syllable at a line's end.
        hold_seconds, hold_final_seconds: mean of what is added.
        pause, pause_seconds: probability and mean length of a gap between words of a line.
        rest, rest_seconds: the same between lines.
        stamp_seconds: scale of the Laplace distribution of a begin around its stamp.
        until_seconds: the same for an end.
        stamp_reach: beginnings further away than this are as improbable as a stamp that is wrong.
        stamp_wrong: how improbable that is, beside a begin at its stamp.
    """

    sharpness: float = 0.33
    floor: float = 0.02
    prior_mix: float = 0.5
    filler: float = 0.3
    vowel_shape: int = 2
    consonant_shape: int = 2
    consonant_stretch: float = 1.3
    hold: float = 0.06
    hold_final: float = 0.15
    hold_seconds: Seconds = 0.8
    hold_final_seconds: Seconds = 2.0
    pause: float = 0.08
    pause_seconds: Seconds = 0.25
    rest: float = 0.6
    rest_seconds: Seconds = 4.0
    stamp_seconds: Seconds = 0.06
    until_seconds: Seconds = 0.15
    stamp_reach: Seconds = 1.5
    stamp_wrong: float = 1e-12


class SpokenWord(NamedTuple):
    """A word to be timed.

    `phones` are names of sounds (see `Sounds`), `letters` its length in writing, `line` the line it is in, `stamp` the time at which it is said to
    begin, `until` the time at which it is said to end; None = nobody says.
    """

    phones: tuple[str, ...]
    letters: int
    line: int
    stamp: Seconds | None = None
    until: Seconds | None = None


class Sounds:
    """What the recogniser heard, by the name of a sound: a phone ("AA"), one of several ("AA|AE"), `GAP`, or any other name for a sound
    that nobody can read, which every frame with a voice fits alike.

    Args:
        log_posteriors: (F, C) of the recogniser.
        model: gives prior, floor and sharpness.
    """

    def __init__(self, log_posteriors: np.ndarray, model: TimingModel):
        self.model = model
        self._posteriors = np.exp(log_posteriors)
        mean, classes = self._posteriors.mean(0), self._posteriors.shape[1]
        self._prior = (1 - model.prior_mix) * mean + model.prior_mix / classes

    def __len__(self) -> int:
        return len(self._posteriors)

    def _share(self, name: str) -> tuple[np.ndarray, float]:
        """(F,) posterior of a sound, and its prior."""
        classes = [CLASS_OF[part] for part in name.split("|") if part in CLASS_OF]
        if classes:
            return self._posteriors[:, classes].sum(1), float(self._prior[classes].sum())
        return 1 - self._posteriors[:, SILENCE], float(1 - self._prior[SILENCE])

    def likelihood(self, name: str) -> np.ndarray:
        """(F,) tempered likelihood of a sound."""
        if name == GAP:
            ratio = np.maximum(self._posteriors[:, SILENCE] / self._prior[SILENCE], self.model.filler)
        else:
            share, prior = self._share(name)
            ratio = share / prior
        return np.power(ratio + self.model.floor, self.model.sharpness)

    def evidence(self, name: str) -> np.ndarray:
        """(F,) log of posterior / prior of a sound, kept from going to minus infinity: what speaks for it, untempered."""
        share, prior = self._share(name)
        return np.log((share + 0.02) / (prior + 0.02))


def is_vowel(name: str) -> bool:
    """Whether a sound can be held: a vowel, or one that nobody can read."""
    first = name.split("|")[0]
    return first in VOWELS or first not in CLASS_OF


@dataclass(frozen=True)
class Timing:
    """Times of P phones and W words, in seconds.

    Attributes:
        starts, ends: (W,).
        phone_starts, phone_ends: lists of (phones of the word,) arrays.
        certainty: (W,) probability that the word begins within 0.3 s of `starts`.
        log_likelihood: of all frames under the chain, per frame.
    """

    starts: np.ndarray
    ends: np.ndarray
    phone_starts: list[np.ndarray]
    phone_ends: list[np.ndarray]
    certainty: np.ndarray
    log_likelihood: float


def find_times(sounds: Sounds, words: Sequence[SpokenWord], pace: np.ndarray, model: TimingModel) -> Timing:
    """The times of all words.

    Args:
        sounds: what was heard.
        words: in singing order; every word has at least one phone.
        pace: (lines,) expected seconds a letter of each line.

    Raises:
        ValueError: more sounds than frames.
    """
    builder = _ChainBuilder(model)
    gates: list[tuple[int, Seconds, Seconds]] = []  # state, time, scale
    phone_parts: list[list[int]] = []
    end_parts: list[int] = []
    frames = len(sounds)
    builder.gap(model.rest, model.rest_seconds)
    for index, word in enumerate(words):
        closes = index + 1 == len(words) or words[index + 1].line != word.line
        if word.stamp is not None:
            gates.append((builder.next_state, word.stamp, model.stamp_seconds))
        phone_parts.append(builder.word(word, word.letters * pace[word.line], closes))
        end_parts.append(builder.next_state)
        if word.until is not None:
            gates.append((builder.next_state, word.until, model.until_seconds))
            builder.gap(1.0, model.rest_seconds)
        elif closes:
            builder.gap(model.rest, model.rest_seconds)
        else:
            builder.gap(model.pause, model.pause_seconds)
    parts = np.array(sorted({p for word_parts in phone_parts for p in word_parts} | set(end_parts)))
    chain = builder.chain(parts, np.array([state for state, _, _ in gates], dtype=np.int64))
    weights = _gate_weights([gate[1:] for gate in gates], frames, model)
    likelihood = np.stack([sounds.likelihood(name) for name in builder.names], axis=1)
    found = arrivals(likelihood, chain, weights)
    row_of = {int(state): row for row, state in enumerate(parts)}
    medians = _quantile(found.begun, 0.5)
    first_rows = np.array([row_of[p[0]] for p in phone_parts])
    starts = medians[first_rows]
    phone_starts = [medians[[row_of[s] for s in p]] for p in phone_parts]
    ends = np.maximum(medians[[row_of[e] for e in end_parts]], starts)
    phone_ends = [np.append(s[1:], e) for s, e in zip(phone_starts, ends, strict=True)]
    certainty = _mass_near(found.begun[first_rows], starts, 0.3)
    return Timing(starts, ends, phone_starts, phone_ends, certainty, found.log_likelihood / frames)


class _ChainBuilder:
    """Collects states in order; a gap or a held vowel may be passed over."""

    def __init__(self, model: TimingModel):
        self.model = model
        self.names: dict[str, int] = {}  # sound -> column of the likelihood
        self.emits: list[int] = []
        self.stay: list[float] = []
        self.enter: list[float] = []  # probability of not passing over the state

    @property
    def next_state(self) -> int:
        return len(self.emits)

    def gap(self, probability: float, mean_seconds: Seconds) -> None:
        self._add(GAP, 1 - 1 / (mean_seconds * FRAME_RATE), probability)

    def word(self, word: SpokenWord, seconds: Seconds, closes: bool) -> list[int]:
        """Add a word that is expected to last `seconds`; the first state of each phone."""
        model = self.model
        vowel = np.array([is_vowel(p) for p in word.phones])
        lengths = np.array([expected_seconds(p.split("|")[0]) for p in word.phones]) * model.consonant_stretch
        if vowel.any():
            rest = seconds - lengths[~vowel].sum()
            lengths[vowel] = max(rest, 0.3 * seconds, 0.05 * vowel.sum()) / vowel.sum()
        lengths *= max(seconds / lengths.sum(), 0.2)
        last_vowel = int(np.flatnonzero(vowel)[-1]) if vowel.any() else -1
        begins = []
        for position, (phone, length) in enumerate(zip(word.phones, lengths, strict=True)):
            begins.append(self.next_state)
            mean = max(1.0, length * FRAME_RATE)
            shape = model.vowel_shape if vowel[position] else model.consonant_shape
            states = max(1, min(shape, int(mean)))
            for _ in range(states):
                self._add(phone, 1 - states / max(mean, states + 1e-3), 1.0)
            if vowel[position]:
                final = closes and position == last_vowel
                seconds_held = model.hold_final_seconds if final else model.hold_seconds
                self._add(phone, 1 - 1 / (seconds_held * FRAME_RATE), model.hold_final if final else model.hold)
        return begins

    def _add(self, name: str, stay: float, enter: float) -> None:
        self.emits.append(self.names.setdefault(name, len(self.names)))
        self.stay.append(stay)
        self.enter.append(enter)

    def chain(self, parts: np.ndarray, gates: np.ndarray) -> Chain:
        stay, enter = np.array(self.stay), np.array(self.enter)
        count = len(stay)
        step = np.zeros((3, count))
        leave, padded = 1 - stay, np.append(enter, [1.0, 1.0, 1.0])
        passed = np.ones(count)
        for k in range(3):
            target = padded[k + 1 : k + 1 + count]
            step[k] = leave * passed * target
            passed = passed * (1 - target)
        start = [self.enter[0], 1 - self.enter[0]]
        return Chain(np.array(self.emits), stay, step, np.array(start), parts, gates)


def _gate_weights(gates: Sequence[tuple[Seconds, Seconds]], frames: int, model: TimingModel) -> np.ndarray:
    """Gates (time, scale) -> (G, F): Laplace around the time; further than `stamp_reach` all alike."""
    if not gates:
        return np.ones((0, frames))
    times = np.arange(frames) / FRAME_RATE
    centre, scale = np.array(gates).T[:, :, None]
    away = np.abs(times[None] - centre)
    return np.where(away < model.stamp_reach, np.exp(-away / scale), 0.0) + model.stamp_wrong


def _quantile(begun: np.ndarray, level: float) -> np.ndarray:
    """(A, F) rising probabilities -> (A,) seconds at which each passes `level`, interpolated inside the frame."""
    frames = begun.shape[1]
    at = np.minimum((begun < level).sum(1), frames - 1)
    rows = np.arange(len(begun))
    high = begun[rows, at]
    low = np.where(at > 0, begun[rows, np.maximum(at - 1, 0)], 0.0)
    part = np.clip((level - low) / np.maximum(high - low, 1e-6), 0.0, 1.0)
    return (at + part - 0.5).clip(min=0) / FRAME_RATE


def _mass_near(begun: np.ndarray, times: np.ndarray, reach: Seconds) -> np.ndarray:
    frames = begun.shape[1]
    rows = np.arange(len(begun))
    late = np.clip(np.round((times + reach) * FRAME_RATE).astype(int), 0, frames - 1)
    early = np.round((times - reach) * FRAME_RATE).astype(int)
    before = np.where(early >= 0, begun[rows, np.clip(early, 0, frames - 1)], 0.0)
    return begun[rows, late] - before
