"""Left-to-right chains of sounds against frames: the best path, the times at which each part begins, the sounds of each frame.

A chain is the sounds of known lyrics in order, as states: a phone is one or more states, silences and held vowels are states that may be
passed over. `best_path` (Viterbi, int8 back pointers) gives one path. The forward-backward recursions, in the linear domain and scaled a frame,
sum over all paths: `arrivals` gives, for every part, the whole distribution of its begin, so that a time can be chosen that is right on average
and its doubt is known; `occupancy` gives the probability of every class at every frame, which is the gradient of the chain's log likelihood.

Letters: F frames, C classes, S states, A parts.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

_SUM, _FLOOR = 1e200, 1e-300
"""What the forward probabilities of a frame are scaled to sum to, and the least of them that is kept."""
_STRETCH = 16
"""Frames that are walked among the same states; before each stretch those under the floor are dropped."""
_NEGLIGIBLE = 1e-20
"""Probability, given all frames, of a state that is left out going backward: what lies before loses no more than that."""
_BLOCK = 8
_KEPT_CELLS = 36_000_000
"""Frames x states of which the forward recursion is kept whole, 8 bytes each at most; of longer walks the begin of every `_BLOCK`th stretch."""
_TILTS = (0.0, 0.3, 1.0, 3.0)


def best_path(log_probs: np.ndarray, states: np.ndarray, optional: np.ndarray) -> np.ndarray:
    """The most probable way through all states in order.

    Args:
        log_probs: (F, C) log probabilities of the classes.
        states: (S,) class of each state.
        optional: (S,) bool: the state may be passed over; no two in a row.

    Returns:
        (F,) int64 index of the state at each frame, not decreasing. With fewer frames than states that cannot be passed over, the
        path ends before the last state.
    """
    frames, count = len(log_probs), len(states)
    if not frames or not count:
        return np.zeros(frames, dtype=np.int64)
    emitted = log_probs[:, states].astype(np.float32)
    blocked = np.float32(-1e30)
    skip = np.full(count, blocked)
    skip[2:][optional[1:-1]] = 0.0
    score = np.full(count + 2, blocked)  # two cells of padding on the left
    score[2] = emitted[0, 0]
    if count > 1 and optional[0]:
        score[3] = emitted[0, 1]
    back = np.zeros((frames, count), dtype=np.int8)
    for t in range(1, frames):
        best = score[2:].copy()
        one = score[1:-1]
        better = one > best
        np.copyto(best, one, where=better)
        back[t] = better
        two = score[:-2] + skip
        better = two > best
        np.copyto(best, two, where=better)
        back[t][better] = 2
        score[2:] = best + emitted[t]
    ends = score[2:]
    state = count - 1 if count == 1 or not optional[-1] or ends[-1] >= ends[-2] else count - 2
    if ends[state] < blocked / 2:
        state = int(np.flatnonzero(ends > blocked / 2)[-1])
    path = np.empty(frames, dtype=np.int64)
    for t in range(frames - 1, -1, -1):
        path[t] = state
        state -= int(back[t, state])
    return path


@dataclass(frozen=True)
class Chain:
    """A left-to-right hidden Markov chain.

    Attributes:
        emits: (S,) class of each state.
        stay: (S,) probability of staying for a further frame.
        step: (K, S) probability of going on to the next state, the one after it, ... the Kth.
        start: probability of beginning in each of the first states.
        parts: (A,) first state of each part whose begin is asked for, increasing; a part has begun once the path is there or beyond.
        gates: (G,) states, increasing, that are entered through a gate: entering one at a frame is weighted.
        ends: in how many of the last states a path may end.
    """

    emits: np.ndarray
    stay: np.ndarray
    step: np.ndarray
    start: np.ndarray
    parts: np.ndarray
    gates: np.ndarray
    ends: int = 3


def ctc_chain(labels: Sequence[int], blank: int) -> Chain:
    """The chain of connectionist temporal classification (Graves et al. 2006): labels in order, a blank before, between and after them that may
    be passed over, except between two that are the same."""
    count = 2 * len(labels) + 1
    emits = np.full(count, blank)
    emits[1::2] = labels
    step = np.ones((2, count))
    step[1] = 0.0
    step[1, 1:-2:2] = emits[1:-2:2] != emits[3::2]
    none = np.zeros(0, dtype=np.int64)
    return Chain(emits, np.ones(count), step, np.ones(min(2, count)), none, none, 2)


class Arrivals(NamedTuple):
    """`begun` (A, F) float32: probability that a part has begun by the end of a frame, not decreasing over frames; `log_likelihood` of
    all frames together."""

    begun: np.ndarray
    log_likelihood: float


class Occupancy(NamedTuple):
    """`shares` (F, C): probability of each class at each frame, rows of sum 1; `log_likelihood` of all frames together."""

    shares: np.ndarray
    log_likelihood: float


def arrivals(likelihood: np.ndarray, chain: Chain, gate_weights: np.ndarray) -> Arrivals:
    """When each part begins, given all frames, by the forward-backward recursions.

    A path gains a factor e^tilt with every state it goes forward, which changes nothing in the result since all paths go equally far, but lets
    those that will arrive in time be seen from the begin: states less probable than 1e-500 of a frame's sum are dropped.

    Args:
        likelihood: (F, C) positive likelihood of each frame under each class, any scale a frame.
        chain: the sounds in order.
        gate_weights: (G, F) positive weights of entering the gated states.

    Raises:
        ValueError: fewer frames than the chain needs.
    """
    begun = np.zeros((len(chain.parts), len(likelihood)), dtype=np.float32)

    def note(begin: int, low: int, here: np.ndarray) -> None:
        beyond = np.cumsum(here[:, ::-1], axis=1)[:, ::-1]
        at = chain.parts - low
        passed = int(np.searchsorted(at, 0, side="right"))
        reachable = int(np.searchsorted(at, here.shape[1]))
        frames = slice(begin, begin + len(here))
        begun[:passed, frames] = 1.0
        begun[passed:reachable, frames] = beyond[:, at[passed:reachable]].T
        begun[reachable:, frames] = 0.0

    return Arrivals(begun, _over_all_paths(likelihood, chain, gate_weights, note))


def occupancy(likelihood: np.ndarray, chain: Chain) -> Occupancy:
    """What is emitted at each frame, given all frames: the derivative of the log likelihood by the logarithm of `likelihood`.

    Raises:
        ValueError: see `arrivals`.
    """
    shares, classes = np.zeros(likelihood.shape), likelihood.shape[1]

    def note(begin: int, low: int, here: np.ndarray) -> None:
        cells = chain.emits[low : low + here.shape[1]] + classes * np.arange(len(here))[:, None]
        shares[begin : begin + len(here)] = np.bincount(cells.ravel(), here.ravel(), here.shape[0] * classes).reshape(-1, classes)

    return Occupancy(shares, _over_all_paths(likelihood, chain, np.ones((0, len(likelihood))), note))


def _over_all_paths(
    likelihood: np.ndarray, chain: Chain, gate_weights: np.ndarray, note: Callable[[int, int, np.ndarray], None]
) -> float:
    """Log likelihood of all frames; `note` is told the states of each as `_Walk.backward` yields them, again from the last frame if a walk with a
    low tilt lost its way.

    Raises:
        ValueError: see `arrivals`.
    """
    likelihood = np.ascontiguousarray(likelihood, dtype=np.float64)
    for tilt in _TILTS:
        walk = _Walk(likelihood, chain, gate_weights, tilt)
        for begin, low, here in walk.backward():
            note(begin, low, here)
        if walk.log_likelihood is not None:
            return walk.log_likelihood
    raise ValueError(f"the chain of {len(chain.emits)} states needs more than {len(likelihood)} frames")


class _Front(NamedTuple):
    """The forward recursion at frame `begin`: probabilities of the states low, low + 1, ... that are alive, of sum `_SUM`."""

    begin: int
    low: int
    alive: np.ndarray


class _Stretch(NamedTuple):
    """The forward recursion at the frames begin, begin + 1, ...: (n, W) `probabilities` of the states low, low + 1, ..., rows of sum `_SUM`."""

    begin: int
    low: int
    probabilities: np.ndarray

    def among(self, first: int, end: int) -> "_Stretch":
        """The same of those states alone that lie in [first, end)."""
        skipped = max(0, first - self.low)
        return _Stretch(self.begin, self.low + skipped, self.probabilities[:, skipped : max(skipped, end - self.low)])


class _Walk:
    """Both recursions over one chain with one tilt. Of a long walk the forward one is kept at the begin of every `_BLOCK`th stretch and walked again
    when needed.

    A frame costs a dozen calls on all its states at once: those it can come from, or go to, are rows of one strided view.

    `log_likelihood` of all frames is known once `backward` came through; None before, and where some frame has no path that is not dropped.
    """

    def __init__(self, likelihood: np.ndarray, chain: Chain, gate_weights: np.ndarray, tilt: float):
        self.likelihood, self.chain, self.gate_weights, self.tilt = likelihood, chain, gate_weights, tilt
        self.frames, self.count, self.reach = len(likelihood), len(chain.emits), len(chain.step)
        steps = chain.step * np.exp(tilt * np.arange(1, self.reach + 1))[:, None]
        self.going = np.concatenate([chain.stay[None].astype(np.float64), steps])  # (K + 1, S) from each state to the kth after it
        self.coming = np.zeros_like(self.going)  # (K + 1, S) to each state from the kth before it
        for k, to in enumerate(self.going):
            self.coming[k, k:] = to[: max(0, self.count - k)]
        self.start = chain.start * np.exp(tilt * np.arange(len(chain.start)))
        self.block = _BLOCK if self.frames * self.count > _KEPT_CELLS else self.frames
        self.log_likelihood: float | None = None
        self._log_scale = 0.0

    def backward(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """For every stretch from the last to the first: its first frame, the lowest state that is not negligible there, and for each of its n frames the
        probabilities, (n, W), of that state and those after it given all frames. Ends early, without a `log_likelihood`, when nothing is left alive."""
        marks, kept = self._forward()
        total: float | None = None
        low, ahead = self.count - self.chain.ends, np.zeros(self.chain.ends)
        for mark in reversed(marks):
            for stretch in reversed(kept or self._block(mark)):
                stretch = stretch.among(low - len(stretch.probabilities) * self.reach, low + len(ahead))
                if not stretch.probabilities.size:
                    return
                behind, ahead = self._behind(stretch, ahead, low)
                here = stretch.probabilities * behind
                alike = np.add.reduce(here, axis=1)
                if not (alike > 0).all():
                    return
                if total is None:
                    total = self._log_scale + float(np.log(alike[-1])) - self.tilt * (self.count - 1)
                here /= alike[:, None]
                yield stretch.begin, stretch.low, here
                alive = np.flatnonzero(here[0] > _NEGLIGIBLE)
                low, ahead = stretch.low + int(alive[0]), ahead[alive[0] : alive[-1] + 1]
        self.log_likelihood = total

    def _forward(self) -> tuple[list[_Front], list[_Stretch]]:
        """The front at the begin of every block; none when no path gets to the end. All stretches where there is one block alone, else none."""
        front, marks, kept = self._first(), [], []
        number = 0
        while front is not None:
            if number % self.block == 0:
                marks.append(front)
            found = self._advance(front)
            if found is None:
                return [], []
            stretch, front, log_scale = found
            self._log_scale += log_scale
            if self.block == self.frames:
                kept.append(stretch)
            number += 1
        return marks, kept

    def _block(self, mark: _Front) -> list[_Stretch]:
        """The stretches of a block, walked again."""
        stretches: list[_Stretch] = []
        front: _Front | None = mark
        while front is not None and len(stretches) < self.block:
            found = self._advance(front)
            assert found is not None  # the same walk came through
            stretches.append(found[0])
            front = found[1]
        return stretches

    def _first(self) -> _Front | None:
        """The front at the first frame; None when nothing is alive."""
        entering = self.start.copy()
        at, gates = self._gates(0, len(entering))
        entering[at] *= self.gate_weights[gates, 0]
        entering *= self.likelihood[0].take(self.chain.emits[: len(entering)])
        scale = float(np.add.reduce(entering)) / _SUM
        if not scale > 0:
            return None
        self._log_scale = math.log(scale)
        return self._front(0, 0, entering / scale)

    @staticmethod
    def _front(begin: int, low: int, probabilities: np.ndarray) -> _Front:
        """Without what is under the floor at both ends."""
        alive = np.flatnonzero(probabilities > _FLOOR)
        return _Front(begin, low + int(alive[0]), probabilities[alive[0] : alive[-1] + 1].copy())

    def _advance(self, front: _Front) -> tuple[_Stretch, _Front | None, float] | None:
        """The stretch that begins at a front, the front of the next one (None after the last frame) and the log of the scales on the way; None when
        nothing is left alive."""
        begin, low, alive = front
        end = min(begin + _STRETCH, self.frames)
        last = min(end, self.frames - 1)  # the frame of the next front
        width = min(len(alive) + (last - begin) * self.reach, self.count - low)
        rows = np.zeros((last - begin + 1, self.reach + width))  # in front of the states room for those that none comes from
        rows[0, self.reach : self.reach + len(alive)] = alive
        across, along = rows.strides
        before = as_strided(rows[:, self.reach :], (len(rows), self.reach + 1, width), (across, -along, along))  # [t, k, s] = rows[t, s - k]
        coming, terms = self.coming[:, low : low + width], np.empty((self.reach + 1, width))
        emitted = self._emitted(begin + 1, last + 1, low, width)
        at, gates = self._gates(low, width)
        weights = self.gate_weights[gates, begin + 1 : last + 1].T
        scales = np.empty(last - begin)
        for t in range(last - begin):
            np.multiply(before[t], coming, out=terms)
            entering = rows[t + 1, self.reach :]
            if len(at):
                np.add.reduce(terms[1:], axis=0, out=entering)
                entering[at] *= weights[t]
                entering += terms[0]
            else:
                np.add.reduce(terms, axis=0, out=entering)
            entering *= emitted[t]
            scales[t] = scale = np.add.reduce(entering) / _SUM
            if not scale > 0:
                return None
            entering *= 1 / scale
        states = rows[:, self.reach :]
        following = self._front(end, low, states[-1]) if end < self.frames else None
        return _Stretch(begin, low, states[: end - begin]), following, float(np.log(scales).sum())

    def _behind(self, stretch: _Stretch, ahead: np.ndarray, ahead_low: int) -> tuple[np.ndarray, np.ndarray]:
        """The backward recursion through a stretch: (n, W), each frame to a scale of its own, and what the last frame of the stretch before sees `ahead`:
        (W,) the same at the first frame times what is emitted there. `ahead` is that of the next stretch, from the state `ahead_low` on."""
        begin, low, probabilities = stretch
        frames, width = probabilities.shape
        behind, padded = np.empty((frames, width)), np.zeros(width + self.reach)
        seen = padded[ahead_low - low :][: len(ahead)]
        seen[:] = ahead[: len(seen)]
        at, gates = self._gates(low, len(padded))
        entered = padded.copy() if len(at) else padded  # what is seen from outside, through the gates
        (step,) = padded.strides
        after = as_strided(entered, (self.reach + 1, width), (step, step))  # [k, s] = entered[s + k]
        going, terms = self.going[:, low : low + width], np.empty((self.reach + 1, width))
        emitted = self._emitted(begin, begin + frames, low, width)
        for t in range(begin + frames - 1, begin - 1, -1):
            here = behind[t - begin]
            if t == self.frames - 1:
                to_go = self.count - 1 - low - np.arange(width)
                here[:] = np.where(to_go < self.chain.ends, np.exp(self.tilt * np.clip(to_go, 0, self.chain.ends)), 0.0)
            else:
                if len(at):
                    entered[:] = padded
                    entered[at] *= self.gate_weights[gates, t + 1]
                np.multiply(after, going, out=terms)
                if len(at):
                    np.multiply(padded[:width], going[0], out=terms[0])
                np.add.reduce(terms, axis=0, out=here)
                here /= np.maximum.reduce(here) or 1.0
            padded[width:] = 0.0
            np.multiply(here, emitted[t - begin], out=padded[:width])
        return behind, padded[:width]

    def _emitted(self, begin: int, end: int, low: int, width: int) -> np.ndarray:
        """(end - begin, width) likelihoods of what the states low, low + 1, ... emit at the frames from `begin` to `end`."""
        return self.likelihood[begin:end].take(self.chain.emits[low : low + width], axis=1)

    def _gates(self, low: int, width: int) -> tuple[np.ndarray, slice]:
        """Of the states low, low + 1, ... those that are entered through a gate, counted from `low`, and which gates these are."""
        first, last = np.searchsorted(self.chain.gates, (low, low + width))
        return self.chain.gates[first:last] - low, slice(int(first), int(last))
