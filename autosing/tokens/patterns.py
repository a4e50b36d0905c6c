"""How the K levels of a codec become the R lanes of a sequence model's grid, and back.

A lane carries the codes of one level at one offset inside a group of frames; a code at finest frame f sits at step
(f + delay) // hop of its lane. "bricks" and "bricks_unrolled" are one lane table read with two hops: a step of bricks is a whole
group (for strides 8/4/2/1: 4 frames, 8 lanes), a step of bricks_unrolled is one frame, so only the lanes whose turn it is are live.
The delays let a finer level see the coarser levels of its own group. Grid cells without a code hold `CodecSpec.HOLE`.

Letters: B batch, K levels, T finest frames, R lanes, S steps. Pure index work: no model and no codec lives here.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import lcm
from typing import NamedTuple

import torch
from torch import Tensor

from autosing.errors import DataError
from autosing.registry import Registry
from autosing.tokens.specs import CodecSpec


class Lane(NamedTuple):
    """The codes of `level` at frames f with f % group == `offset`, `delay` frames late; both in finest frames."""

    level: int
    offset: int
    delay: int


@dataclass(frozen=True)
class TokenPattern:
    """A lane table and the frames a step covers.

    Attributes:
        name: registry name.
        lanes: the R lanes, coarse to fine.
        hop: finest frames a step.
        group: finest frames after which the lanes' offsets repeat (never under the stride of a lane's own level).
        block: the padded length is a multiple of this many finest frames.
    """

    name: str
    lanes: tuple[Lane, ...]
    hop: int
    group: int
    block: int

    @property
    def max_delay(self) -> int:
        return max(lane.delay for lane in self.lanes)

    def period(self, lane: Lane, spec: CodecSpec) -> int:
        """Finest frames between two codes of `lane`."""
        return max(self.group, spec.strides[lane.level])

    def steps(self, frames: int) -> int:
        """S of `frames` finest frames: the codes and the longest delay, padded to whole blocks; bricks of 2496: 632."""
        return -(-(frames + self.max_delay) // self.block) * self.block // self.hop

    def frames(self, steps: int, spec: CodecSpec) -> int:
        """The most whole grains of frames that fit in `steps`; the inverse of `steps` where the grain is a multiple of `block`."""
        return max(0, steps * self.hop - self.max_delay) // spec.grain * spec.grain

    def undelayed(self) -> "TokenPattern":
        """The same lanes without delays: for codes that are a condition, where step s is the frames [s * hop, (s + 1) * hop)."""
        return replace(self, lanes=tuple(lane._replace(delay=0) for lane in self.lanes))

    def apply(self, codes: Tensor, spec: CodecSpec) -> Tensor:
        """(B, K, T) codes -> (B, R, S) grid of the same dtype, HOLE where a lane has no code.

        Raises:
            DataError: the codes do not have the spec's levels.
        """
        batch, levels, frames = codes.shape
        if levels != spec.levels:
            raise DataError(f"codes have {levels} levels, codec '{spec.name}' has {spec.levels}; give codes of that codec")
        grid = codes.new_full((batch, len(self.lanes), self.steps(frames)), spec.HOLE)
        for row, lane in enumerate(self.lanes):
            period = self.period(lane, spec)
            source = codes[:, lane.level, lane.offset :: period]
            grid[:, row, self._slots(lane, period, source.shape[-1])] = source
        return grid

    def invert(self, grid: Tensor, spec: CodecSpec, frames: int | None = None) -> Tensor:
        """(B, R, S) grid -> (B, K, T) codes, HOLE off stride; exactly undoes `apply`.

        Args:
            frames: T; None = all frames that fit in S steps (`TokenPattern.frames`).

        Raises:
            DataError: S steps hold fewer than `frames`.
        """
        frames = self.frames(grid.shape[-1], spec) if frames is None else frames
        if self.steps(frames) > grid.shape[-1]:
            raise DataError(f"a grid of {grid.shape[-1]} steps cannot hold {frames} frames; that takes {self.steps(frames)} steps")
        codes = grid.new_full((grid.shape[0], spec.levels, frames), spec.HOLE)
        for row, lane in enumerate(self.lanes):
            period = self.period(lane, spec)
            target = codes[:, lane.level, lane.offset :: period]
            target.copy_(grid[:, row, self._slots(lane, period, target.shape[-1])])
        return codes

    def live(self, steps: int, spec: CodecSpec, frames: int | None = None) -> Tensor:
        """(R, S) bool: the cells that hold a code of `frames` frames (None = as many as fit)."""
        frames = self.frames(steps, spec) if frames is None else frames
        marked = torch.zeros(1, spec.levels, frames, dtype=torch.long)
        grid = self.apply(marked, spec)[0] != spec.HOLE
        out = torch.zeros(len(self.lanes), steps, dtype=torch.bool)
        width = min(steps, grid.shape[-1])
        out[:, :width] = grid[:, :width]
        return out

    def live_slots(self, steps: int, spec: CodecSpec, first: int = 0) -> tuple[slice, ...]:
        """Where each lane's codes stand among the `steps` from step `first`, counted from there; past the end of a passage they are holes."""
        slots = []
        for lane in self.lanes:
            period, begin = self.period(lane, spec) // self.hop, (lane.offset + lane.delay) // self.hop - first
            slots.append(slice(begin if begin >= 0 else begin % period, steps, period))
        return tuple(slots)

    def _slots(self, lane: Lane, period: int, count: int) -> slice:
        first = (lane.offset + lane.delay) // self.hop
        return slice(first, first + count * (period // self.hop), period // self.hop)


def brick_group(strides: tuple[int, ...]) -> int:
    """Frames of a brick: the stride of the second level (SNAC 8/4/2/1: 4; a flat codec: 1; a single level: its stride)."""
    return strides[min(1, len(strides) - 1)]


def brick_lanes(strides: tuple[int, ...]) -> tuple[Lane, ...]:
    """The lane table for `strides`: one lane a code of each level in a group, each level one group later than the coarser one.

    8/4/2/1 -> (0,0,4) (1,0,8) (2,0,12) (2,2,12) (3,0,16) (3,1,16) (3,2,16) (3,3,16).
    """
    group = brick_group(strides)
    return tuple(
        Lane(level, offset, (level + 1) * group)
        for level, stride in enumerate(strides)
        for offset in range(0, group, min(stride, group))
    )


def bricks(strides: tuple[int, ...]) -> TokenPattern:
    group = brick_group(strides)
    return TokenPattern("bricks", brick_lanes(strides), group, group, group * max(strides))


def bricks_unrolled(strides: tuple[int, ...]) -> TokenPattern:
    return replace(bricks(strides), name="bricks_unrolled", hop=1)


def blocks(strides: tuple[int, ...]) -> TokenPattern:
    """All codes that begin in the same block of frames side by side in one step, none delayed: for models that need no order in time.

    8/4/2/1 -> steps of 8 frames with 1 + 2 + 4 + 8 lanes; a flat codec: steps of one frame with a lane a level.
    """
    group = lcm(*strides)
    lanes = tuple(Lane(level, offset, 0) for level, stride in enumerate(strides) for offset in range(0, group, stride))
    return TokenPattern("blocks", lanes, group, group, group)


PATTERNS = Registry(
    "token pattern",
    {"bricks": "autosing.tokens.patterns:bricks", "bricks_unrolled": "autosing.tokens.patterns:bricks_unrolled"},
)


@lru_cache(maxsize=64)
def load_pattern(name: str, strides: tuple[int, ...]) -> TokenPattern:
    """The pattern called `name` for a codec of these strides.

    Raises:
        ConfigError: no such pattern.
    """
    return PATTERNS.get(name)(strides)
