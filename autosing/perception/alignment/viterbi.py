"""Left-to-right chains of sounds against frames: the best path, and the times at which each part begins.

A chain is the sounds of known lyrics in order, as states: a phone is one or more states, silences and held vowels are states that may be
passed over. `best_path` (Viterbi, int8 back pointers) gives one path; `Chain` + `arrivals` give, for every part, the whole distribution of its
begin (forward-backward in the linear domain, scaled a frame), so that a time can be chosen that is right on average and its doubt is known.

Letters: F frames, C classes, S states, A parts.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_FLOOR = 1e-280
_BLOCK = 128
_TILTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


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
        step: (3, S) probability of going on to the next state, the one after it, the third.
        start: (K,) probability of beginning in each of the first K states.
        parts: (A,) first state of each part whose begin is asked for, increasing; a part has begun once the path is there or beyond.
        gates: (G,) states, increasing, that are entered through a gate: entering one at a frame is weighted.
    """

    emits: np.ndarray
    stay: np.ndarray
    step: np.ndarray
    start: np.ndarray
    parts: np.ndarray
    gates: np.ndarray


class Arrivals(NamedTuple):
    """`begun` (A, F) float32: probability that a part has begun by the end of a frame, not decreasing over frames; `log_likelihood` of
    all frames together."""

    begun: np.ndarray
    log_likelihood: float


def arrivals(likelihood: np.ndarray, chain: Chain, gate_weights: np.ndarray) -> Arrivals:
    """When each part begins, given all frames, by the forward-backward recursions.

    The path ends in the last state or one of the two before it. A path gains a factor e^tilt with every state it goes forward, which
    changes nothing in the result since all paths go equally far, but lets those that will arrive in time be seen from the begin: states less
    probable than 1e-280 of a frame's sum are dropped.

    Args:
        likelihood: (F, C) positive likelihood of each frame under each class, any scale a frame.
        chain: the sounds in order.
        gate_weights: (G, F) positive weights of entering the gated states.

    Raises:
        ValueError: fewer frames than the chain needs.
    """
    for tilt in _TILTS:
        walk = _Walk(likelihood, chain, gate_weights, tilt)
        marks = walk.forward()
        if marks is not None:
            return walk.backward(marks)
    raise ValueError(f"the chain of {len(chain.emits)} states needs more than {len(likelihood)} frames")


class _Front(NamedTuple):
    """The forward recursion at a frame: probabilities of the states low, low + 1, ... that are alive; log of all scales up to here."""

    alive: np.ndarray
    low: int
    log_scale: float


class _Walk:
    """Both recursions over one chain with one tilt. The forward one is kept at every `_BLOCK`th frame and walked again when needed."""

    def __init__(self, likelihood: np.ndarray, chain: Chain, gate_weights: np.ndarray, tilt: float):
        self.likelihood, self.chain, self.gate_weights, self.tilt = likelihood, chain, gate_weights, tilt
        self.frames, self.count = len(likelihood), len(chain.emits)
        self.stay = chain.stay.astype(np.float64)
        self.step = chain.step * np.exp(tilt * np.arange(1, 4))[:, None]
        self.start = chain.start * np.exp(tilt * np.arange(len(chain.start)))

    def forward(self) -> list[_Front] | None:
        """The front at frames 0, _BLOCK, 2 _BLOCK, ... and at the last; None when no path gets to the last three states."""
        marks: list[_Front] = []
        front: _Front | None = None
        for t in range(self.frames):
            front = self._advance(front, t)
            if front is None:
                return None
            if t % _BLOCK == 0:
                marks.append(front)
        if front is None or front.low + len(front.alive) < self.count - 2:
            return None
        return [*marks, front]

    def backward(self, marks: list[_Front]) -> Arrivals:
        """The distribution of every part's begin, given `marks` of `forward`."""
        chain, count = self.chain, self.count
        last = marks[-1]
        to_go = count - 1 - last.low - np.arange(len(last.alive))
        behind = np.where(to_go < 3, np.exp(self.tilt * np.minimum(to_go, 3)), 0.0)
        total = last.log_scale + float(np.log((last.alive * behind).sum())) - self.tilt * (count - 1)
        begun = np.zeros((len(chain.parts), self.frames), dtype=np.float32)
        ahead_low = last.low
        for block in range(len(marks) - 2, -1, -1):
            begin = block * _BLOCK
            fronts = [marks[block]]
            for t in range(begin + 1, min(begin + _BLOCK, self.frames)):
                front = self._advance(fronts[-1], t)
                assert front is not None  # the same walk came through
                fronts.append(front)
            for t in range(begin + len(fronts) - 1, begin - 1, -1):
                alive, low, _ = fronts[t - begin]
                if t < self.frames - 1:
                    behind = self._behind(behind, ahead_low, low, len(alive), t)
                ahead_low = low
                here = alive * behind
                beyond = np.cumsum(here[::-1])[::-1]
                beyond /= beyond[0]
                at = chain.parts - low
                passed = int(np.searchsorted(at, 0, side="right"))
                reachable = int(np.searchsorted(at, len(here)))
                begun[:passed, t] = 1.0
                begun[passed:reachable, t] = beyond[at[passed:reachable]]
        return Arrivals(begun, total)

    def _advance(self, front: _Front | None, t: int) -> _Front | None:
        """One frame on; None when nothing is left alive."""
        low, log_scale = (0, 0.0) if front is None else (front.low, front.log_scale)
        if front is None:
            entering = self.start.copy()
        else:
            now = front.alive
            entering = np.zeros(len(now) + 3)
            for k in range(3):
                entering[k + 1 : k + 1 + len(now)] += now * self.step[k, low : low + len(now)]
            entering = entering[: self.count - low]
        self._pass_gates(entering, low, t)
        if front is not None:
            entering[: len(front.alive)] += front.alive * self.stay[low : low + len(front.alive)]
        entering *= self.likelihood[t, self.chain.emits[low : low + len(entering)]]
        scale = entering.sum()
        if not scale > 0:
            return None
        entering /= scale
        alive = np.flatnonzero(entering > _FLOOR)
        first, last = int(alive[0]), int(alive[-1]) + 1
        return _Front(entering[first:last], low + first, log_scale + float(np.log(scale)))

    def _behind(self, behind: np.ndarray, ahead_low: int, low: int, width: int, t: int) -> np.ndarray:
        """The backward recursion from frame t + 1, whose states begin at `ahead_low`, to the `width` states from `low` at frame t."""
        ahead = behind * self.likelihood[t + 1, self.chain.emits[ahead_low : ahead_low + len(behind)]]
        offset = ahead_low - low
        padded = np.zeros(max(width + 3, offset + len(ahead)))
        padded[offset : offset + len(ahead)] = ahead
        here = padded[:width] * self.stay[low : low + width]
        self._pass_gates(padded, low, t + 1)
        for k in range(3):
            here += padded[k + 1 : k + 1 + width] * self.step[k, low : low + width]
        return here / here.max()

    def _pass_gates(self, entering: np.ndarray, low: int, t: int) -> None:
        """Weight, in place, what enters the gated ones of the states low, low + 1, ..."""
        gates = self.chain.gates
        first, last = np.searchsorted(gates, (low, low + len(entering)))
        if last > first:
            entering[gates[first:last] - low] *= self.gate_weights[first:last, t]
