"""Token patterns against a slow reference: lane by lane, code by code."""

import pytest
import torch
from torch import Tensor

from autosing.errors import ConfigError, DataError
from autosing.tokens.patterns import Lane, TokenPattern, blocks, brick_lanes, load_pattern
from autosing.tokens.specs import CodecSpec

SNAC = CodecSpec("snac_32khz", 32000, 384, (8, 4, 2, 1), 4096, 32)
STRIDES = [(8, 4, 2, 1), (4, 2, 1), (1, 1, 1, 1), (2, 1), (3,), (8, 2, 1)]


def codes_of(spec: CodecSpec, frames: int, batch: int = 2) -> Tensor:
    """Every code of a batch row is its own number, holes off stride."""
    codes = torch.full((batch, spec.levels, frames), spec.HOLE)
    for level, stride in enumerate(spec.strides):
        on = codes[:, level, ::stride]
        on.copy_(torch.arange(on.numel()).view_as(on) * 10 + level)
    return codes


def slow_apply(pattern: TokenPattern, codes: Tensor, spec: CodecSpec) -> Tensor:
    batch, _levels, frames = codes.shape
    grid = torch.full((batch, len(pattern.lanes), pattern.steps(frames)), spec.HOLE)
    for row, lane in enumerate(pattern.lanes):
        for frame in range(frames):
            if codes[0, lane.level, frame] != spec.HOLE and frame % pattern.group == lane.offset:
                grid[:, row, (frame + lane.delay) // pattern.hop] = codes[:, lane.level, frame]
    return grid


def test_the_lane_table_of_snac_is_the_originals() -> None:
    assert brick_lanes((8, 4, 2, 1)) == (
        Lane(0, 0, 4), Lane(1, 0, 8), Lane(2, 0, 12), Lane(2, 2, 12),
        Lane(3, 0, 16), Lane(3, 1, 16), Lane(3, 2, 16), Lane(3, 3, 16),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "steps"), [("bricks", 632), ("bricks_unrolled", 2528)])
def test_thirty_seconds_take_the_originals_steps(name: str, steps: int) -> None:
    pattern = load_pattern(name, SNAC.strides)
    assert SNAC.frames(30) == 2496
    assert pattern.steps(2496) == steps
    assert pattern.frames(steps, SNAC) == 2496


@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("name", ["bricks", "bricks_unrolled"])
def test_apply_agrees_with_the_slow_reference_and_invert_undoes_it(strides: tuple[int, ...], name: str) -> None:
    pattern = load_pattern(name, strides)
    spec = CodecSpec("some", 24000, 288, strides, 9999, pattern.block)
    for count in (1, 3):
        codes = codes_of(spec, count * pattern.block)
        grid = pattern.apply(codes, spec)
        assert torch.equal(grid, slow_apply(pattern, codes, spec))
        assert torch.equal(pattern.invert(grid, spec, codes.shape[-1]), codes)


@pytest.mark.parametrize("name", ["bricks", "bricks_unrolled"])
def test_invert_knows_the_frames_when_the_grain_is_a_block(name: str) -> None:
    pattern = load_pattern(name, SNAC.strides)
    codes = codes_of(SNAC, 320)
    assert torch.equal(pattern.invert(pattern.apply(codes, SNAC), SNAC), codes)


def test_every_code_sees_the_coarser_codes_of_its_own_time() -> None:
    pattern = load_pattern("bricks", SNAC.strides)
    for lane in pattern.lanes:
        for coarser in (other for other in pattern.lanes if other.level < lane.level):
            for frame in range(lane.offset, 64, pattern.period(lane, SNAC)):
                above = frame // SNAC.strides[coarser.level] * SNAC.strides[coarser.level]
                if above % pattern.group == coarser.offset:
                    assert (above + coarser.delay) // pattern.hop < (frame + lane.delay) // pattern.hop


def test_unrolled_has_a_code_a_step_on_average_as_often_as_the_codec() -> None:
    pattern = load_pattern("bricks_unrolled", SNAC.strides)
    live = pattern.live(2528, SNAC)
    assert live.sum() == 2496 * (1 / 8 + 1 / 4 + 1 / 2 + 1)
    assert live[4:].sum(0).max() == 1  # of the four lanes of the finest level one at a time


def test_undelayed_puts_every_code_into_the_step_of_its_frame() -> None:
    pattern = load_pattern("bricks", SNAC.strides).undelayed()
    grid = pattern.apply(codes_of(SNAC, 64), SNAC)
    assert grid.shape[-1] == 64 // 4
    assert (grid[:, 1:] >= 0).all()


def test_codes_of_another_codec_and_too_short_grids_are_refused() -> None:
    pattern = load_pattern("bricks", SNAC.strides)
    with pytest.raises(DataError, match="3 levels"):
        pattern.apply(torch.zeros(1, 3, 32, dtype=torch.long), SNAC)
    with pytest.raises(DataError, match="cannot hold"):
        pattern.invert(torch.zeros(1, 8, 8, dtype=torch.long), SNAC, 320)
    with pytest.raises(ConfigError, match="bricks"):
        load_pattern("brick", SNAC.strides)


@pytest.mark.parametrize("strides", [*STRIDES, (6, 4, 1)])
def test_blocks_hold_every_code_at_the_step_in_which_it_begins(strides: tuple[int, ...]) -> None:
    spec, pattern = CodecSpec("some", 24000, 100, strides, 64, 24), blocks(strides)
    codes = codes_of(spec, 72)
    grid = pattern.apply(codes, spec)
    assert grid.shape[-1] * pattern.hop == 72 and (grid >= 0).all()
    assert torch.equal(grid, slow_apply(pattern, codes, spec)) and torch.equal(pattern.invert(grid, spec, 72), codes)


def test_blocks_of_snac_are_eight_frames_with_fifteen_lanes() -> None:
    pattern = blocks(SNAC.strides)
    assert (pattern.hop, pattern.steps(2496)) == (8, 312)
    assert [lane.level for lane in pattern.lanes] == [0] + [1] * 2 + [2] * 4 + [3] * 8
