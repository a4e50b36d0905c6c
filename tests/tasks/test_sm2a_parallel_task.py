"""Task sm2a_parallel: what is masked and told at each level, passages between given codes, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tasks.sm2a_parallel
from autosing.errors import ConfigError
from autosing.models.sm2a_parallel import SM2AParallel
from autosing.models.t2s import SIZES, Size
from tasks.sm2a_parallel import TASK, SM2AParallelArgs, SM2AParallelTunables
from tests.sequence_rows import CODEC, toy_meta, toy_row

ARGS = SM2AParallelArgs(size="micro", codebooks=False, p_around=0.0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "micro", Size(2, 1, cross_layers=0))
    monkeypatch.setattr(tasks.sm2a_parallel, "load_codebook", lambda spec: torch.randn(spec.num_codes, spec.width))


def made(args: SM2AParallelArgs = ARGS, seconds: float = 8.0) -> tuple[TASK, SM2AParallel, dict[str, torch.Tensor]]:
    task = TASK(args, SM2AParallelTunables(), toy_meta(seconds))
    examples = [task.example(toy_row(number, seconds), np.random.default_rng(number)) for number in range(4)]
    batch = {key: torch.stack([e[key] for e in examples if e is not None]) for key in ("semantic", "codes", "music", "voice")}
    torch.manual_seed(0)
    model = task.build_model()
    assert isinstance(model, SM2AParallel)
    return task, model, batch


def test_finer_levels_are_masked_coarser_ones_given_and_a_share_of_its_own_is_told() -> None:
    task, model, batch = made()
    grid = model.pattern.apply(batch["codes"], CODEC)
    asked, masked = task._masks(model, grid, torch.Generator().manual_seed(0))
    assert asked.shape == masked.shape == (4, *grid.shape)
    shares = []
    for level in range(4):
        own = model.lanes(level)
        assert not masked[level, :, : own.start].any() and masked[level, :, own.stop :].all()
        assert torch.equal(asked[level, :, own], masked[level, :, own] & (grid[:, own] >= 0)) and not asked[level, :, own.stop :].any()
        shares += asked[level, :, own].float().mean((1, 2)).tolist()
    assert min(shares) < 0.4 and max(shares) > 0.9  # cosines of a uniform angle


def test_around_a_passage_everything_is_given() -> None:
    task, model, batch = made(replace(ARGS, p_around=1.0))
    grid = model.pattern.apply(batch["codes"], CODEC)
    _, masked = task._masks(model, grid, torch.Generator().manual_seed(1))
    finest = masked[0, :, -1]  # at level 0 the finest lane is masked throughout the passage and nowhere else
    for row in range(len(grid)):
        assert not masked[0, row][:, ~finest[row]].any()
    assert 0 < finest.float().mean() < 1


def test_validation_is_the_same_every_time_and_training_is_not() -> None:
    task, model, batch = made(replace(ARGS, dropout=0.0))
    validated = {task.losses(model.eval(), dict(batch)).total.item() for _ in range(2)}
    trained = {task.losses(model.train(), dict(batch)).total.item() for _ in range(2)}
    assert len(validated) == 1 and len(trained) == 2


def test_a_short_row_is_padded_and_its_padding_is_neither_heard_nor_told() -> None:
    task, model, batch = made(seconds=8.0)
    cut = {key: value.clone() for key, value in batch.items()}
    cut["codes"][..., 320:] = CODEC.HOLE
    before = task.losses(model.eval(), cut)
    cut["music"][..., 400:] = 5
    cut["semantic"][:, 150:] = 3
    after = task.losses(model, cut)
    torch.testing.assert_close(before.total, after.total)
    assert int(after.terms[3][1]) < 320 * 4 < int((batch["codes"][:, 3] >= 0).sum())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"semantic_guidance": 2.0, "p_no_semantic": 0.0}, "p_no_semantic"),
        ({"p_around": 1.5}, "p_around"),
        ({"size": "tinny"}, "tiny"),
        ({"pass_shares": (1.0, 0.0, 1.0, 1.0)}, "pass_shares"),
        ({"decoder_depth": 0}, "decoder_depth"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(ARGS, **changed)


def test_pass_shares_are_one_for_each_level() -> None:
    with pytest.raises(ConfigError, match="'pass_shares' must have 4 values"):
        TASK(replace(ARGS, pass_shares=(1.0, 1.0)), SM2AParallelTunables(), toy_meta())
