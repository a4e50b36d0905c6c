"""Parallel decoding: what was learnt by heart is sung back exactly, given codes stay, lengths and seeds are kept, passes are shared out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import autosing.device
import tasks.sm2a_parallel
from autosing.errors import ConfigError, MismatchError
from autosing.models.io import load_model, save_model
from autosing.models.sm2a import SM2A
from autosing.models.sm2a_parallel import SM2AParallel, SM2AParallelConfig
from autosing.models.t2s import SIZES, Size
from autosing.singing.codes import find_code_singer, sing_codes
from autosing.singing.parallel import generate_codes_parallel, passes_per_level
from autosing.tokens.specs import CodecSpec
from autosing.training.optim import build_optimizer, set_learning_rate
from tests.sequence_rows import BAND, CODEC, SEMANTIC, VOICE, toy_meta, toy_row, wake
from tests.singing.test_generate import SM2A_CONFIG

CONFIG = SM2AParallelConfig(heads=1, encoder_depth=1, decoder_depth=1, semantic=SEMANTIC, codec=CODEC, voice=VOICE, accompaniment=BAND, learned_width=16)
FRAMES = CODEC.frames(4.0)
FLAT = CodecSpec("flat", 24000, 320, (1, 1, 1), 32, 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def awake(config: SM2AParallelConfig = CONFIG) -> SM2AParallel:
    torch.manual_seed(0)
    return wake(SM2AParallel(config))


def conditions(batch: int = 2, frames: int = FRAMES) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    semantic = torch.randint(0, SEMANTIC.num_codes, (batch, 100), generator=seeded())
    voice = torch.nn.functional.normalize(torch.randn(1, 1, VOICE.width, generator=seeded()), dim=-1)
    return semantic, torch.zeros(1, 4, frames, dtype=torch.long), voice


def test_what_was_learnt_by_heart_is_sung_back_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and decoding must mean the same by every mask, level and position, or a model with no loss left sings something else."""
    monkeypatch.setitem(SIZES, "micro", Size(2, 2))
    monkeypatch.setattr(tasks.sm2a_parallel, "load_codebook", lambda spec: torch.randn(spec.num_codes, spec.width, generator=seeded(1)))
    none = dict.fromkeys(("p_no_cond", "p_around", "corrupt", "corrupt_semantic", "dropout"), 0.0)
    args = tasks.sm2a_parallel.SM2AParallelArgs(size="micro", codebooks=False, p_no_semantic=0.0, semantic_guidance=1.0, **none)
    task = tasks.sm2a_parallel.TASK(args, tasks.sm2a_parallel.SM2AParallelTunables(), toy_meta(4.0))
    torch.manual_seed(0)
    model = task.build_model()
    examples = [task.example(toy_row(number, 4.0), np.random.default_rng(0)) for number in range(2)]
    batch = {key: torch.stack([example[key] for example in examples if example is not None]) for key in ("semantic", "codes", "music", "voice")}
    optimizer = build_optimizer(model, task.param_rules(model), task.tunables)
    for step in range(160):
        set_learning_rate(optimizer, 4e-3 * min(1.0, (step + 1) / 10, (160 - step) / 80))
        optimizer.zero_grad()
        torch.manual_seed(step)
        task.losses(model.train(), batch).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
    sung = generate_codes_parallel(
        model.eval(), batch["semantic"], batch["music"], batch["voice"], frames=task.frames, temperature=0.0, generator=seeded()
    )
    assert torch.equal(sung, batch["codes"])


def test_the_same_seed_sings_the_same_codes_where_the_codec_has_them() -> None:
    model = awake()
    sing = lambda seed: generate_codes_parallel(model, *conditions(), frames=FRAMES, generator=seeded(seed))  # noqa: E731
    codes = sing(1)
    assert torch.equal(codes, sing(1)) and not torch.equal(codes, sing(2)) and not torch.equal(codes[0], codes[1])
    for level, stride in enumerate(CODEC.strides):
        there = torch.arange(FRAMES) % stride == 0
        assert (codes[:, level, there] >= 0).all() and (codes[:, level, ~there] == CodecSpec.HOLE).all()


def test_a_flat_codec_and_no_conditions_do_as_well() -> None:
    model = awake(replace(CONFIG, codec=FLAT, voice=None, accompaniment=None))
    codes = generate_codes_parallel(model, conditions()[0], None, None, frames=FLAT.frames(4.0), generator=seeded(), steps=3)
    assert codes.shape == (2, 3, 300) and codes.min() >= 0 and model.pattern.hop == 1


def test_given_codes_stay_and_steer_what_is_sung_beside_them() -> None:
    model, template = awake(), torch.full((1, 4, FRAMES), CodecSpec.HOLE)
    for level, stride in enumerate(CODEC.strides):
        template[:, level, : FRAMES // 2 : stride] = 7
    sing = lambda given: generate_codes_parallel(model, *conditions(), frames=FRAMES, generator=seeded(), temperature=0.0, template=given)  # noqa: E731
    prompted, other = sing(template), sing(torch.where(template == 7, 9, template))
    kept = (template >= 0).expand(2, -1, -1)
    assert torch.equal(prompted[kept], template.expand(2, -1, -1)[kept])
    assert not torch.equal(prompted[~kept], other[~kept]) and (prompted[:, 3] >= 0).all()


def test_each_candidate_has_its_own_length_and_padding_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short song beside a long one is sung as it is alone."""
    monkeypatch.setattr(autosing.device, "has_matrix_units", lambda _: False)  # which round by the shape of a batch
    model, lengths = awake(replace(CONFIG, span=8)), torch.tensor([FRAMES, 96])
    semantic, music, voice = conditions()
    sing = lambda tokens, frames, **more: generate_codes_parallel(model, tokens, music[..., :frames], voice, frames=frames, generator=seeded(), temperature=0.0, choice_temperature=0.0, **more)  # noqa: E731
    together = sing(semantic, FRAMES, lengths=lengths)
    assert (together[1, :, 96:] == CodecSpec.HOLE).all() and (together[0, 3] >= 0).all()
    assert torch.equal(together[1:, :, :96], sing(semantic[1:], 96))


def test_guidance_towards_the_words_changes_what_is_sung() -> None:
    model = awake()
    sing = lambda **lean: generate_codes_parallel(model, *conditions(), frames=FRAMES, generator=seeded(), **lean)  # noqa: E731
    assert not torch.equal(sing(), sing(semantic_guidance=3.0)) and not torch.equal(sing(), sing(guidance=2.0))
    same = sing(guidance=1.0, semantic_guidance=1.0)
    assert torch.equal(sing(), same)


def test_progress_counts_passes() -> None:
    told: list[tuple[int, int]] = []
    generate_codes_parallel(awake(), *conditions(), frames=FRAMES, generator=seeded(), steps=6, progress=lambda *at: told.append(at))
    assert told == [(number, 6) for number in range(1, 7)]


@pytest.mark.parametrize(
    ("passes", "levels", "shares", "counts"),
    [
        (16, 4, (), (9, 4, 2, 1)),
        (4, 4, (), (1, 1, 1, 1)),
        (5, 4, (), (2, 1, 1, 1)),
        (10, 1, (), (10,)),
        (16, 4, (1.0, 1.0, 1.0, 1.0), (4, 4, 4, 4)),
        (8, 4, (100.0, 1.0, 1.0, 1.0), (5, 1, 1, 1)),
    ],
)
def test_passes_are_shared_out_coarse_first(passes: int, levels: int, shares: tuple[float, ...], counts: tuple[int, ...]) -> None:
    assert passes_per_level(passes, levels, shares) == counts


def test_fewer_passes_than_levels_are_refused() -> None:
    with pytest.raises(ConfigError, match="--steps 3 is less than one pass for each of the codec's 4 levels"):
        passes_per_level(3, 4)


def test_a_checkpoint_of_either_kind_is_found_and_sings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for model in (SM2A(SM2A_CONFIG), SM2AParallel(CONFIG)):
        save_model(model, tmp_path / model.kind, {})
        assert find_code_singer(str(tmp_path / model.kind)) == (tmp_path / model.kind, model.kind)
        codes = sing_codes(wake(model), *conditions(1), frames=96, generator=seeded())
        assert codes.shape == (1, 4, 96)
    with pytest.raises(ConfigError, match="--steps is for a parallel sm2a model"):
        sing_codes(wake(SM2A(SM2A_CONFIG)), *conditions(1), frames=96, generator=seeded(), steps=16)
    assert find_code_singer("builtin") == ("builtin", "sm2a_parallel") and find_code_singer("builtin_sm2a") == ("builtin", "sm2a")


def test_the_shipped_parallel_model_sings_what_the_shipped_one_by_one_model_does() -> None:
    (one, told), (model, meta) = (load_model(*find_code_singer(name)) for name in ("builtin_sm2a", "builtin"))
    for part in ("codec", "accompaniment_codec", "semantic", "voice"):
        assert meta["dataset"][part] == told["dataset"][part]
    generator, frames = seeded(), one.config.codec.frames(4.0)
    semantic = torch.randint(0, one.config.semantic.num_codes, (2, 100), generator=generator)
    codes = sing_codes(model, semantic, None, None, frames=frames, generator=generator)
    live = torch.stack([torch.arange(frames) % stride == 0 for stride in one.config.codec.strides])
    assert codes.shape == (2, 4, frames) and torch.equal(codes[0] >= 0, live) and not torch.equal(codes[0], codes[1])


def test_matrix_units_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(*find_code_singer("builtin"))[0]
    frames = model.config.codec.frames(4.0)
    semantic = torch.randint(0, model.config.semantic.num_codes, (1, 100), generator=seeded())
    sung = []
    for there in (True, False):  # where a processor has none they are imitated
        monkeypatch.setattr(autosing.device, "has_matrix_units", lambda _, there=there: there)
        sung.append(generate_codes_parallel(model, semantic, None, None, frames=frames, generator=seeded(), temperature=0.0, choice_temperature=0.0, steps=4))
    level = sung[0][0, 0] >= 0  # the finer ones follow from it
    assert float((sung[0][0, 0] == sung[1][0, 0])[level].float().mean()) > 0.9 and not torch.equal(*sung)


def test_another_kind_of_model_is_refused_by_name(tmp_path: Path) -> None:
    save_model(SM2AParallel(CONFIG), tmp_path, {})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "kind": "t2s"}))
    with pytest.raises(MismatchError, match="holds a t2s model where a sm2a model is needed"):
        load_model(*find_code_singer(str(tmp_path)))
