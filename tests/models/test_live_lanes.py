"""Lanes are scored at their slots alone: equal to the dense way, which scores every lane at every step and leaves the holes out."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tasks.sm2a
from autosing.models.sm2a import SM2A
from autosing.models.t2s import SIZES, Size
from autosing.tokens.patterns import TokenPattern, load_pattern
from autosing.tokens.specs import CodecSpec
from autosing.training.task import Losses
from tasks.sm2a import TASK, SM2AArgs, SM2ATunables
from tests.sequence_rows import CODEC, SEMANTIC, VOICE, toy_meta

FLAT = CodecSpec("flat", 24_000, 320, (1, 1, 1), 32, 1)
SECONDS = 4.0


def dense_embedding(model: SM2A, grid: Tensor) -> Tensor:
    """One lookup a lane and step, added up."""
    table, codes = model.codes_embedding, model.config.codec.num_codes
    rows = [table.embedding[lane * (codes + 1) : (lane + 1) * (codes + 1)] for lane in range(table.lanes)]
    return sum(F.embedding(torch.where(grid[:, lane] < 0, codes, grid[:, lane]), own) for lane, own in enumerate(rows))  # type: ignore[return-value]


def dense_loss(model: SM2A, pattern: TokenPattern, hidden: Tensor, grid: Tensor) -> Tensor:
    """(B, R, S, V) logits, cross-entropy with holes ignored, each lane's mean over its codes, mean over lanes."""
    logits = torch.stack([model.lane_logits(hidden, lane) for lane in range(len(pattern.lanes))], 1)
    losses = [F.cross_entropy(logits[:, lane].transpose(1, 2), grid[:, lane], ignore_index=-1) for lane in range(len(pattern.lanes))]
    return torch.stack(losses).mean()


def batch_for(codec: CodecSpec) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, codec.num_codes, (2, codec.levels, codec.frames(SECONDS)), generator=generator)
    for level, stride in enumerate(codec.strides):
        codes[:, level] = torch.where(torch.arange(codes.shape[-1]) % stride == 0, codes[:, level], codec.HOLE)
    codes[1, :, -64:] = codec.HOLE  # a shorter row
    semantic = torch.randint(0, SEMANTIC.num_codes, (2, SEMANTIC.tokens(SECONDS)), generator=generator)
    return {"codes": codes, "music": codes.clone(), "semantic": semantic, "voice": torch.randn(2, 1, VOICE.width, generator=generator)}


@pytest.mark.parametrize("codec", [CODEC, FLAT], ids=["snac-like", "flat"])
@pytest.mark.parametrize("settings", [{}, {"multiscale": True, "p_coarse": 0.0}], ids=["bricks", "pieces of bricks_unrolled"])
def test_losses_and_gradients_equal_the_dense_way(codec: CodecSpec, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The total within 1e-6, gradients within 1e-4 of their largest; pieces begin anywhere."""
    monkeypatch.setitem(SIZES, "micro", Size(2, 1, cross_layers=0))
    args = SM2AArgs(size="micro", codebooks=False, semantic_guidance=1.0, p_no_semantic=0.0, dropout=0.0, **settings)
    task = TASK(args, SM2ATunables(), toy_meta(SECONDS, codec, codec))
    torch.manual_seed(0)
    model, batch, begun = SM2A(task.config()).train(), batch_for(codec), set()
    named = [(name, p) for name, p in model.named_parameters() if name != "semantic.codebook"]

    def score(model: SM2A, pattern: TokenPattern, hidden: Tensor, grid: Tensor, first: int) -> Losses:
        begun.add(first)
        return Losses(dense_loss(model, pattern, hidden, grid), {}, {})

    def step(seed: int) -> tuple[Tensor, Sequence[Tensor | None]]:
        torch.manual_seed(seed)
        total = task.losses(model, batch).total
        return total, torch.autograd.grad(total, [p for _, p in named], allow_unused=True)

    for seed in range(3):
        with monkeypatch.context() as dense:
            dense.setattr(task, "_score", score)
            dense.setattr(model.codes_embedding, "embed", lambda grid: dense_embedding(model, grid))
            expected, slopes = step(seed)
        total, ours = step(seed)
        torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-6)
        for (name, _), one, other in zip(named, ours, slopes, strict=True):
            assert (one is None) == (other is None), name
            if one is not None and other is not None:
                assert (one - other).abs().max() <= 1e-4 * max(1e-3, float(other.abs().max())), name
    assert len(begun) > 1 or not settings or codec is FLAT  # whose window is one piece


@pytest.mark.parametrize("name", ["bricks", "bricks_unrolled"])
@pytest.mark.parametrize("first", [0, 32, 96])
def test_slots_name_every_cell_that_holds_a_code(name: str, first: int) -> None:
    pattern, frames = load_pattern(name, CODEC.strides), CODEC.frames(SECONDS)
    first //= pattern.hop
    grid = pattern.apply(torch.zeros(1, CODEC.levels, frames, dtype=torch.long), CODEC)[0, :, first:]
    for lane, slot in enumerate(pattern.live_slots(grid.shape[-1], CODEC, first)):
        inside = torch.zeros(grid.shape[-1], dtype=torch.bool)
        inside[slot] = True
        assert not ((grid[lane] >= 0) & ~inside).any()
        assert (grid[lane, slot] < 0).sum() <= pattern.max_delay // pattern.hop + pattern.block // pattern.hop  # padding alone


def test_of_an_unrolled_pattern_an_eighth_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "micro", Size(2, 1, cross_layers=0))
    monkeypatch.setattr(tasks.sm2a, "load_codebook", lambda spec: torch.randn(spec.num_codes, spec.width))
    args = SM2AArgs(size="micro", codebooks=False, semantic_guidance=1.0, p_no_semantic=0.0, pattern="bricks_unrolled")
    task = TASK(args, SM2ATunables(), toy_meta(SECONDS, CODEC, CODEC))
    model, pattern = task.build_model(), load_pattern("bricks_unrolled", CODEC.strides)
    steps = pattern.steps(task.frames)
    logits = model.live_logits(torch.zeros(1, steps, model.config.width), pattern.live_slots(steps, CODEC))
    assert sum(lane.shape[1] for lane in logits) <= 2 * steps < 8 * steps
