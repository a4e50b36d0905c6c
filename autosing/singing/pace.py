"""How fast a text is sung: when each of its sections is left, and where in it each candidate stands.

A pointer model says how far the pointer moves at every step; a `Pacer` bars and urges what it says, so that every token of a section is sung before the
section's time is over. Rests stay where the model puts them. Nothing random and no model lives here.

Letters: B candidates, L text tokens with the opening LINE, steps of semantic tokens.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autosing.tokens.pointer import MAX_ADVANCE, SINCE_BUCKETS, pace_bucket, sections, sung_before
from autosing.tokens.text import LINE, PAUSE

BRISK = 0.4  # text tokens a step (10 a second) from which the loop pushes the pointer on
LONGEST_STEPS = 50  # a sound held longer (2 s) is urged on
FADING_STEPS = 6  # of a rest (0.24 s), in which the sound before it may end; from then on it is silent


class Schedule(NamedTuple):
    """When each section of a text may be left and must be; arrays of equal length.

    Attributes:
        ends: first token after the section; the last is L.
        opens: first step at which the pointer may stand in the next section.
        deadlines: the step at which it does, sung or not; not decreasing.
    """

    ends: np.ndarray
    opens: np.ndarray
    deadlines: np.ndarray

    @staticmethod
    def even(ids: np.ndarray, steps: int) -> "Schedule":
        """The sections that the LINE tokens open share the steps evenly."""
        ends, deadlines = sections(ids, steps)
        return Schedule(ends, deadlines, deadlines)


class Pacer:
    """Moves the pointers of B candidates through a text, and makes sure that all of it is sung in time."""

    def __init__(self, ids: np.ndarray, steps: int, batch: int, schedule: Schedule | None = None):
        """`schedule` None = `Schedule.even`."""
        self.ids, self.steps = ids, steps
        self.ends, self.opens, self.deadlines = schedule or Schedule.even(ids, steps)
        self.before = sung_before(ids)
        self.sounds = (ids != PAUSE) & (ids != LINE)
        self.pointer = np.zeros(batch, dtype=np.int64)
        self.since = np.zeros(batch, dtype=np.int64)

    def _left(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(section, sung tokens left in it, steps left for it) of each candidate."""
        section = np.minimum(np.searchsorted(self.ends, self.pointer, side="right"), len(self.ends) - 1)
        left = self.before[self.ends[section]] - self.before[np.minimum(self.pointer + 1, len(self.ids))]
        return section, left, self.deadlines[section] - step

    def conditions(self, step: int, rows: int) -> np.ndarray:
        """(3, rows, 1) pointer, since, pace: of the B candidates, and then of rows that know no text, as `guidance` leans away from."""
        _, left, time = self._left(step)
        told = np.zeros((3, rows, 1), dtype=np.int64)
        told[1] = min(step, SINCE_BUCKETS - 1)
        told[:, : len(self.pointer), 0] = self.pointer, np.minimum(self.since, SINCE_BUCKETS - 1), pace_bucket(left, time)
        return told

    def steer(self, logits: Tensor, step: int) -> Tensor:
        """(B, MAX_ADVANCE + 1) logits of the model -> of what may and should happen before step + 1."""
        section, left, time = self._left(step)
        at, text = self.pointer, len(self.ids)
        end, late = self.ends[section], time <= 1
        limit = np.where((late | (step + 1 >= self.opens[section])) & (end < text), end, end - 1)
        rate = left / np.maximum(time - 2, 1)
        hurry = np.where((left > 0) & (rate > BRISK), 8.0 * (rate - BRISK), 0.0)
        hurry += np.where(self.sounds[at] & (self.since > LONGEST_STEPS), 0.2 * (self.since - LONGEST_STEPS), 0.0)
        least = np.where(left > 0, np.minimum((rate + 1e-6).astype(np.int64), MAX_ADVANCE), 0)
        least = np.where(late & (limit == end), 1, least)[:, None]
        advance = np.arange(MAX_ADVANCE + 1)
        target = at[:, None] + advance
        skipped = self.before[np.minimum(target, text)] > self.before[np.minimum(at + 1, text)][:, None]
        barred = (target > limit[:, None]) & (advance > 0)
        barred |= skipped & (advance > least)  # a sound is skipped only when there is no time for it
        barred |= advance < np.minimum(least, (limit - at)[:, None])
        told = np.where(barred, -np.inf, np.where(advance > 0, hurry[:, None], 0.0))
        return logits + torch.from_numpy(told.astype(np.float32)).to(logits.device)

    def move(self, advance: np.ndarray, step: int) -> None:
        """Take (B,) advances before step + 1; a section whose time is over is left for the next one, whatever is unsung."""
        section, _, time = self._left(step)
        target = self.pointer + advance
        over = (time <= 1) & (self.ends[section] < len(self.ids))
        target = np.where(over, np.maximum(target, self.ends[section]), target)
        self._stand(target)

    def resting(self) -> np.ndarray:
        """(B,) bool: nothing is to be heard here, and what was sung before has ended."""
        return ~self.sounds[self.pointer] & (self.since >= FADING_STEPS)

    def keep(self, rows: np.ndarray) -> None:
        """(B,) indices: candidate i goes on where candidate `rows[i]` is."""
        self.pointer, self.since = self.pointer[rows], self.since[rows]

    def follow(self, pointer: np.ndarray) -> None:
        """Stand where a prompt's (B,) `pointer` says, whatever the time."""
        self._stand(pointer)

    def _stand(self, target: np.ndarray) -> None:
        self.since = np.where(target > self.pointer, 0, self.since + 1)
        self.pointer = target
