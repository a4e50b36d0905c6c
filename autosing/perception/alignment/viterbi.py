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

_SUM, _FLOOR = 1e200, 1e-300
"""What the forward probabilities of a frame are scaled to sum to, and the least of them that is kept."""
_PRUNED = 16
"""Frames from one dropping of what is under the floor to the next."""
_BLOCK = 128
_KEPT_CELLS = 24_000_000
"""Frames x states of which the forward recursion is kept whole, 8 bytes each; of longer walks every `_BLOCK`th frame."""
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

    def note(t: int, low: int, here: np.ndarray) -> None:
        beyond = np.cumsum(here[::-1])[::-1]
        at = chain.parts - low
        passed = int(np.searchsorted(at, 0, side="right"))
        reachable = int(np.searchsorted(at, len(here)))
        begun[:passed, t] = 1.0
        begun[passed:reachable, t] = beyond[at[passed:reachable]]
        begun[reachable:, t] = 0.0

    return Arrivals(begun, _over_all_paths(likelihood, chain, gate_weights, note))


def occupancy(likelihood: np.ndarray, chain: Chain) -> Occupancy:
    """What is emitted at each frame, given all frames: the derivative of the log likelihood by the logarithm of `likelihood`.

    Raises:
        ValueError: see `arrivals`.
    """
    shares = np.zeros(likelihood.shape)

    def note(t: int, low: int, here: np.ndarray) -> None:
        shares[t] = np.bincount(chain.emits[low : low + len(here)], here, likelihood.shape[1])

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
        for t, low, here in walk.backward():
            note(t, low, here)
        if walk.log_likelihood is not None:
            return walk.log_likelihood
    raise ValueError(f"the chain of {len(chain.emits)} states needs more than {len(likelihood)} frames")


class _Front(NamedTuple):
    """The forward recursion at a frame: probabilities of the states low, low + 1, ... that are alive; log of all scales up to here."""

    alive: np.ndarray
    low: int
    log_scale: float


class _Walk:
    """Both recursions over one chain with one tilt. Of a long walk the forward one is kept at every `_BLOCK`th frame and walked again when needed.

    `log_likelihood` of all frames is known once `backward` came through; None before, and where some frame has no path that is not dropped.
    """

    def __init__(self, likelihood: np.ndarray, chain: Chain, gate_weights: np.ndarray, tilt: float):
        self.likelihood, self.chain, self.gate_weights, self.tilt = likelihood, chain, gate_weights, tilt
        self.frames, self.count, self.reach = len(likelihood), len(chain.emits), len(chain.step)
        self.stay = chain.stay.astype(np.float64)
        self.step = chain.step * np.exp(tilt * np.arange(1, self.reach + 1))[:, None]
        self.start = chain.start * np.exp(tilt * np.arange(len(chain.start)))
        self.block = max(1, min(_BLOCK, self.frames) if self.frames * self.count > _KEPT_CELLS else self.frames)
        self.log_likelihood: float | None = None
        self._kept: list[_Front] = []

    def backward(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """For every frame from the last to the first: the frame, the lowest state that is alive, and the probabilities of it and the states after it
        given all frames. Ends early, without a `log_likelihood`, when nothing is left alive."""
        marks = self._marks()
        if marks is None:
            return
        total: float | None = None
        behind, ahead_low = np.zeros(0), 0
        for block, mark in reversed(list(enumerate(marks))):
            begin = block * self.block
            fronts = self._kept or [mark]
            for t in range(begin + len(fronts), min(begin + self.block, self.frames)):
                front = self._advance(fronts[-1], t)
                assert front is not None  # the same walk came through
                fronts.append(front)
            for t in range(begin + len(fronts) - 1, begin - 1, -1):
                alive, low, log_scale = fronts[t - begin]
                if t == self.frames - 1:
                    to_go = self.count - 1 - low - np.arange(len(alive))
                    behind = np.where(to_go < self.chain.ends, np.exp(self.tilt * np.clip(to_go, 0, self.chain.ends)), 0.0)
                else:
                    behind = self._behind(behind, ahead_low, low, len(alive), t)
                ahead_low = low
                here = alive * behind
                alike = float(np.add.reduce(here))
                if not alike > 0:
                    return
                if total is None:
                    total = log_scale + float(np.log(alike)) - self.tilt * (self.count - 1)
                here /= alike
                yield t, low, here
        self.log_likelihood = total

    def _marks(self) -> list[_Front] | None:
        """The front at the begin of every block; None when no path gets to the end. Of one block alone all fronts are kept."""
        marks: list[_Front] = []
        front: _Front | None = None
        for t in range(self.frames):
            front = self._advance(front, t)
            if front is None:
                return None
            if t % self.block == 0:
                marks.append(front)
            if self.block == self.frames:
                self._kept.append(front)
        if front is None or front.low + len(front.alive) <= self.count - self.chain.ends:
            return None
        return marks

    def _advance(self, front: _Front | None, t: int) -> _Front | None:
        """One frame on; None when nothing is left alive."""
        low, log_scale = (0, 0.0) if front is None else (front.low, front.log_scale)
        if front is None:
            entering = self.start.copy()
        else:
            now = front.alive
            entering = np.zeros(min(len(now) + self.reach, self.count - low))
            for k in range(self.reach):
                come = min(len(now), len(entering) - k - 1)
                if come > 0:
                    entering[k + 1 : k + 1 + come] += now[:come] * self.step[k, low : low + come]
        if len(self.chain.gates):
            self._pass_gates(entering, low, t)
        if front is not None:
            entering[: len(front.alive)] += front.alive * self.stay[low : low + len(front.alive)]
        entering *= self.likelihood[t].take(self.chain.emits[low : low + len(entering)])
        scale = float(np.add.reduce(entering)) / _SUM
        if not scale > 0:
            return None
        entering /= scale
        if t % _PRUNED == 0:
            alive = np.flatnonzero(entering > _FLOOR)
            entering, low = entering[alive[0] : alive[-1] + 1], low + int(alive[0])
        return _Front(entering, low, log_scale + math.log(scale))

    def _behind(self, behind: np.ndarray, ahead_low: int, low: int, width: int, t: int) -> np.ndarray:
        """The backward recursion from frame t + 1, whose states begin at `ahead_low`, to the `width` states from `low` at frame t."""
        ahead = behind * self.likelihood[t + 1].take(self.chain.emits[ahead_low : ahead_low + len(behind)])
        offset = ahead_low - low
        padded = np.zeros(max(width + self.reach, offset + len(ahead)))
        padded[offset : offset + len(ahead)] = ahead
        here = padded[:width] * self.stay[low : low + width]
        if len(self.chain.gates):
            self._pass_gates(padded, low, t + 1)
        for k in range(self.reach):
            here += padded[k + 1 : k + 1 + width] * self.step[k, low : low + width]
        here /= np.maximum.reduce(here) or 1.0
        return here

    def _pass_gates(self, entering: np.ndarray, low: int, t: int) -> None:
        """Weight, in place, what enters the gated ones of the states low, low + 1, ..."""
        gates = self.chain.gates
        first, last = np.searchsorted(gates, (low, low + len(entering)))
        if last > first:
            entering[gates[first:last] - low] *= self.gate_weights[first:last, t]
