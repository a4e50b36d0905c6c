"""Task sm2a on rows with a rule: examples, crops, both scales, refusals, and that it learns (without codebooks: tests/contract/test_tasks.py)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks.sm2a
from autosing.config import from_mapping
from autosing.errors import ConfigError, MismatchError
from autosing.models.sm2a import SM2A
from autosing.models.t2s import SIZES, Size
from autosing.singing.picture import draw_sample
from autosing.tokens.patterns import load_pattern
from autosing.training.optim import build_optimizer, set_learning_rate
from tasks.sm2a import TASK, SM2AArgs, SM2ATunables, crop_starts
from tests.sequence_rows import CODEC, SEMANTIC, toy_meta, toy_row

ARGS = SM2AArgs(
    size="micro", codebooks=False, semantic_guidance=1.0, p_no_cond=0.0, p_no_semantic=0.0, dropout=0.0, corrupt=0.0, corrupt_semantic=0.0
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller micro, and a codebook that needs no tokenizer."""
    monkeypatch.setitem(SIZES, "micro", Size(2, 1, cross_layers=0))
    monkeypatch.setattr(tasks.sm2a, "load_codebook", lambda spec: torch.randn(spec.num_codes, spec.width))


def batch_of(task: TASK, rows: list[dict], seed: int = 0) -> dict[str, torch.Tensor]:
    examples = [task.example(row, np.random.default_rng(seed)) for row in rows]
    return {key: torch.stack([e[key] for e in examples if e is not None]) for key in examples[0]}


def test_an_example_has_the_windows_shapes_whatever_the_row() -> None:
    task = TASK(ARGS, SM2ATunables(), toy_meta(30.0))
    shapes = []
    for seconds in (30.0, 28.0, 15.0):
        example = task.example(toy_row(1, seconds), np.random.default_rng(0))
        assert example is not None
        shapes.append({key: tuple(value.shape) for key, value in example.items()})
    assert shapes[0] == shapes[1] == shapes[2]
    assert shapes[0] == {"semantic": (750,), "codes": (4, 2496), "music": (4, 2496), "voice": (3, 24)}


def test_a_crop_is_the_same_passage_of_every_stream() -> None:
    """In toy rows the voice's level 0 is a function of the semantic token sung at that time."""
    task = TASK(replace(ARGS, crop_seconds=6.0), SM2ATunables(), toy_meta(30.0))
    starts = set()
    for seed in range(8):
        example = task.example(toy_row(5), np.random.default_rng(seed))
        assert example is not None
        frames = torch.arange(0, task.frames, 8)
        tokens = example["semantic"][(frames / CODEC.frame_rate * SEMANTIC.token_rate).long()]
        agree = (example["codes"][0, ::8] == tokens * 3 % CODEC.num_codes).float().mean()
        assert agree > 0.95
        assert torch.equal((example["codes"][1, ::4] * 4 + 1) % 48, example["music"][1, ::4])
        starts.add(example["codes"].sum().item())
    assert len(starts) > 2


def test_crops_start_where_blocks_and_semantic_tokens_meet() -> None:
    starts = crop_starts(CODEC, SEMANTIC, 32, 30.0, CODEC.frames(12.0))
    assert starts.tolist()[:3] == [0, 160, 320] and starts.max() <= 2496 - CODEC.frames(12.0)


def test_both_scales_have_finite_losses_over_every_level() -> None:
    torch.manual_seed(0)
    task = TASK(replace(ARGS, multiscale=True, p_coarse=0.5), SM2ATunables(), toy_meta(15.0))
    model = task.build_model()
    assert model.config.patterns[0] == "bricks_unrolled"
    batch = batch_of(task, [toy_row(1, 15.0)])
    for _ in range(4):
        losses = task.losses(model, batch)
        assert losses.total.isfinite() and set(losses.parts) == {f"level{k}" for k in range(4)}


def test_multiscale_validates_what_it_sings_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first piece in "bricks_unrolled", as many steps as the whole passage has in "bricks", without any chance."""
    torch.manual_seed(0)
    task = TASK(replace(ARGS, multiscale=True), SM2ATunables(), toy_meta(15.0))
    model, batch, seen = task.build_model().eval(), batch_of(task, [toy_row(1, 15.0)]), []
    score = task._score
    monkeypatch.setattr(task, "_score", lambda *given: (seen.append((given[1], given[3])), score(*given))[1])
    totals = {task.losses(model, batch).total.item() for _ in range(2)}
    unrolled = model.pattern("bricks_unrolled")
    steps = model.pattern("bricks").steps(task.frames)
    assert len(totals) == 1
    for pattern, grid in seen:
        assert pattern == unrolled and torch.equal(grid, unrolled.apply(batch["codes"], CODEC)[..., :steps])


def test_a_share_of_examples_trains_without_semantic_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASK(replace(ARGS, p_no_semantic=0.5), SM2ATunables(), toy_meta(10.0))
    model, seen, encode = task.build_model(), [], SM2A.encode
    monkeypatch.setattr(SM2A, "encode", lambda self, semantic, *rest: (seen.append(semantic), encode(self, semantic, *rest))[1])
    batch = batch_of(task, [toy_row(number, 10.0) for number in range(16)])
    torch.manual_seed(0)
    task.losses(model.train(), batch)
    task.losses(model.eval(), batch)
    trained, validated = seen
    empty = (trained < 0).all(1)
    assert 2 < int(empty.sum()) < 14 and torch.equal(trained[~empty], batch["semantic"][~empty])
    assert torch.equal(validated, batch["semantic"])


def test_guidance_without_examples_to_learn_it_from_is_refused() -> None:
    with pytest.raises(ValueError, match="p_no_semantic"):
        replace(ARGS, semantic_guidance=2.0)


def test_level_temperatures_are_one_for_each_level_or_none() -> None:
    for count in (0, 4):
        TASK(replace(ARGS, level_temperatures=(0.9,) * count), SM2ATunables(), toy_meta())
    with pytest.raises(ConfigError, match="must have 4 values"):
        TASK(replace(ARGS, level_temperatures=(0.9,) * 3), SM2ATunables(), toy_meta())


def test_a_crop_without_a_single_code_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'crop_seconds' 0\.01 is shorter than a block"):
        TASK(replace(ARGS, crop_seconds=0.01), SM2ATunables(), toy_meta())


def test_codes_that_are_not_there_are_not_scored() -> None:
    task = TASK(ARGS, SM2ATunables(), toy_meta(30.0))
    model = task.build_model().eval()
    pattern = load_pattern("bricks", CODEC.strides)
    batch = batch_of(task, [toy_row(1, 15.0)])
    grid = pattern.apply(batch["codes"], CODEC)
    assert (grid >= 0).sum() == CODEC.frames(15.0) * (1 + 1 / 2 + 1 / 4 + 1 / 8)
    filler = batch["codes"].clone()
    filler[..., CODEC.frames(15.0) :] = CODEC.HOLE
    torch.testing.assert_close(task.losses(model, {**batch, "codes": filler}).total, task.losses(model, batch).total)


def test_q0_loss_mult_weighs_the_coarsest_level() -> None:
    torch.manual_seed(0)
    one, three = (TASK(ARGS, SM2ATunables(q0_loss_mult=m), toy_meta(15.0)) for m in (1.0, 3.0))
    model = one.build_model().eval()
    batch = batch_of(one, [toy_row(1, 15.0)])
    a, b = one.losses(model, batch), three.losses(model, batch)
    torch.testing.assert_close(b.total - a.total, 2 * a.parts["level0"] / 8)


def test_it_learns_four_rows_with_what_the_codec_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    told = lambda spec: tuple(torch.randn(spec.num_codes, 8 + level) for level in range(spec.levels))  # noqa: E731
    monkeypatch.setattr(tasks.sm2a, "load_code_features", told)
    task = TASK(replace(ARGS, crop_seconds=6.0, codebooks=True), SM2ATunables(lr0=6e-3), toy_meta(10.0))
    model = task.build_model()
    optimizer = build_optimizer(model, task.param_rules(model), task.tunables)
    batch = batch_of(task, [toy_row(seed, 10.0) for seed in range(4)])
    for step in range(70):
        losses = task.losses(model, batch)
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        set_learning_rate(optimizer, task.tunables.lr0 * min(1.0, (step + 1) / 10))
        optimizer.step()
    for level in range(4):
        assert losses.metrics[f"level{level}_accuracy"] > 0.75, losses.metrics


def test_what_the_codec_tells_of_its_codes_reaches_the_model() -> None:
    """Of the embedded codecs: widths and values."""
    from autosing.perception import load_codec

    specs = {name: load_codec(name).spec for name in ("builtin", "builtin_band")}
    meta = replace(toy_meta(10.0), codec=specs["builtin"], accompaniment_codec=specs["builtin_band"])
    task = TASK(replace(ARGS, codebooks=True), SM2ATunables(), meta)
    model = task.build_model()
    assert model.geometry.features(3).shape == (1024, model.config.code_widths[3])
    assert torch.equal(model.geometry.features(2), task.features[0][2]) and model.music_geometry.features(0).std() > 0.9


def test_an_accompaniment_in_the_voices_codec_is_heard_through_the_voices_features(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    told = lambda spec: tuple(torch.randn(spec.num_codes, 8) for _ in range(spec.levels))  # noqa: E731
    monkeypatch.setattr(tasks.sm2a, "load_code_features", told)
    model = TASK(replace(ARGS, codebooks=True), SM2ATunables(), toy_meta(10.0, band=None)).build_model().eval()
    assert model.geometry is not None and model.music_geometry is None
    pattern, semantic = model.pattern("bricks"), torch.zeros(1, 25, dtype=torch.long)
    music = model.music_grid(torch.ones(1, 4, 96, dtype=torch.long), 1, 96, torch.device("cpu"))

    def heard() -> torch.Tensor:
        return model.encode(semantic, music, None, pattern, 24).added

    before = heard()
    model.geometry.load([torch.randn_like(model.geometry.features(level)) for level in range(4)])
    assert not torch.allclose(heard(), before, atol=1e-3)


@pytest.mark.parametrize("widths, told", [([], False), ([3], True)])
def test_checkpoints_from_before_codebooks_say_by_their_shape_whether_they_have_them(widths: list[int], told: bool) -> None:
    old = {"config": {"code_widths": widths} if widths else {}, "meta": {"args": {"size": "micro"}}}
    assert TASK.args_of(old) == {"size": "micro", "codebooks": told}
    new = {"config": {"code_widths": widths}, "meta": {"args": {"codebooks": True}}}
    assert TASK.args_of(new) == {"codebooks": True}


def test_weights_made_with_another_codec_are_refused_by_name() -> None:
    task = TASK(ARGS, SM2ATunables(), toy_meta())
    meta = task.checkpoint_meta()
    task.check_loaded(meta, "checkpoint 'a'")
    other = TASK(ARGS, SM2ATunables(), replace(toy_meta(), codec=replace(CODEC, name="snac_32khz", num_codes=4096)))
    with pytest.raises(MismatchError, match=r"codec.*toy.*snac_32khz|codec.*snac_32khz.*toy"):
        other.check_loaded(meta, "checkpoint 'a'")


def test_samples_are_sung_from_true_semantic_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from autosing.perception import load_codec

    spec = load_codec("builtin").spec
    monkeypatch.setattr("autosing.perception.load_semantic", lambda name: object())  # a tokenizer without a read-out
    task = TASK(ARGS, SM2ATunables(), toy_meta(2.4, codec=spec))
    (sample,) = task.samples(task.build_model().eval(), batch_of(task, [toy_row(1, 2.4, codec=spec)]))
    assert sample.audio.shape == (1, task.frames * spec.hop) and sample.sample_rate == 24000 and torch.isfinite(sample.audio).all()
    assert sample.words.words == ()
    draw_sample(tmp_path / "a.png", sample)
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_model_that_hears_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is heard"):
        from_mapping(SM2AArgs, {"aligned": False, "cross_layers": 0}, "--task_args")
