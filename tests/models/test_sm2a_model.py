"""sm2a as a network: both patterns, cached decoding, conditions at the right time, checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autosing.models.io import load_model, save_model
from autosing.models.sm2a import SM2A, SM2AConfig
from autosing.nn.decode import Stepper
from autosing.nn.mup import Mup
from autosing.training.lora import LoraSettings, attach
from tests.sequence_rows import BAND, CODEC, SEMANTIC, VOICE, wake

CONFIG = SM2AConfig(
    heads=1,
    encoder_depth=1,
    music_depth=1,
    decoder_depth=2,
    semantic=SEMANTIC,
    codec=CODEC,
    voice=VOICE,
    accompaniment=BAND,
    patterns=("bricks", "bricks_unrolled"),
    cross_layers=1,
)
FRAMES = 96


def inputs(batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda high, *shape: torch.randint(0, high, shape, generator=generator)  # noqa: E731
    codes = draw(CODEC.num_codes, batch, 4, FRAMES)
    for level, stride in enumerate(CODEC.strides):
        codes[:, level] = torch.where(torch.arange(FRAMES) % stride == 0, codes[:, level], -1)
    return {
        "semantic": draw(SEMANTIC.num_codes, batch, 29),
        "music": draw(BAND.num_codes, batch, 4, FRAMES),
        "voice": torch.randn(batch, 1, VOICE.width, generator=generator),
        "codes": codes,
    }


@torch.no_grad()
def run(model: SM2A, x: dict[str, torch.Tensor], pattern_name: str = "bricks", cached: bool = False) -> torch.Tensor:
    pattern = model.pattern(pattern_name)
    grid = torch.nn.functional.pad(pattern.apply(x["codes"], CODEC)[..., :-1], (1, 0), value=-1)
    steps = grid.shape[-1]
    music = model.music_grid(x["music"], len(grid), FRAMES, torch.device("cpu"))
    source = model.encode(x["semantic"], music, x["voice"], pattern, steps)
    if not cached:
        return model.decode(grid, source)
    stepper, rows = Stepper(model.decoder, source.sources, source.rotary, len(grid), steps), model.ends().rows
    assert source.added is not None
    embedded = [model.codes_embedding.embed(grid[..., i : i + 1], rows)[:, 0] + source.added[:, i] for i in range(steps)]
    return torch.stack([stepper(x) for x in embedded], 1)


def make(config: SM2AConfig) -> SM2A:
    """Random weights, and features of codes where the config has any."""
    torch.manual_seed(0)
    model = wake(SM2A(config))
    if model.geometry is not None:
        model.geometry.load([torch.randn(CODEC.num_codes, width) for width in config.code_widths])
    return model


VARIANTS = {
    "tables": CONFIG,
    "span": replace(CONFIG, span=12),
    "geometry": replace(CONFIG, code_widths=(5, 6, 7, 8)),
    "plain lanes": replace(CONFIG, lane_projections=False, cross_layers=0),
    "linear heads": replace(CONFIG, code_widths=(5, 6, 7, 8), mup=Mup(linear_heads=True, output_mult=3.0)),
    "no positions": replace(CONFIG, mup=Mup(rope=False)),
    "fewer key heads": replace(CONFIG, heads=2, kv_heads=1),
}


@pytest.mark.parametrize("pattern", ["bricks", "bricks_unrolled"])
@pytest.mark.parametrize("name", VARIANTS)
def test_step_by_step_equals_all_at_once(pattern: str, name: str) -> None:
    model = make(VARIANTS[name])
    torch.testing.assert_close(run(model, inputs(), pattern, cached=True), run(model, inputs(), pattern), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_heads_put_together_equal_the_parts(name: str) -> None:
    model = make(VARIANTS[name])
    hidden, ends = torch.randn(3, model.config.width), model.ends()
    for lane, head in enumerate(ends.heads):
        torch.testing.assert_close(head(hidden), model.lane_logits(hidden, lane), atol=1e-4, rtol=1e-4)


def test_an_adapted_model_sings_as_it_learned() -> None:
    pytest.importorskip("peft", reason="training adapters needs peft (pip install 'autosing[lora]')")
    model = make(VARIANTS["geometry"])
    assert "geometry.into" in attach(model, LoraSettings(r=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    torch.testing.assert_close(run(model, inputs(), cached=True), run(model, inputs()), atol=1e-4, rtol=1e-3)
    ends = model.ends()
    hidden = torch.randn(3, model.config.width)
    for lane, head in enumerate(ends.heads):
        torch.testing.assert_close(head(hidden), model.lane_logits(hidden, lane), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("key", ["semantic", "music", "voice", "codes"])
def test_every_condition_is_heard(key: str) -> None:
    torch.manual_seed(0)
    model = wake(SM2A(CONFIG))
    x = inputs()
    changed = x[key].flip(0)
    assert not torch.allclose(run(model, x), run(model, {**x, key: changed}), atol=1e-3)


def test_aligned_states_arrive_at_the_time_of_their_code() -> None:
    """Without encoder layers and cross-attention a semantic token can only be heard where its own codes are predicted."""
    torch.manual_seed(0)
    model = wake(SM2A(replace(CONFIG, encoder_depth=0, cross_layers=0, decoder_depth=1, accompaniment=None)))
    x = inputs(1)
    changed = {**x, "semantic": x["semantic"].clone()}
    changed["semantic"][0, 14] = (x["semantic"][0, 14] + 1) % SEMANTIC.num_codes
    pattern = model.pattern("bricks")
    added = [
        model.encode(y["semantic"], None, y["voice"], pattern, pattern.steps(FRAMES)).added[0] for y in (x, changed)
    ]  # 14.5 / 25 s = 0.58 s = frame 48: steps 13 (level 0, 4 frames late) to 17
    differing = (added[0] - added[1]).abs().sum(-1).nonzero()[:, 0]
    assert differing.min() >= 11 and differing.max() <= 18


def test_no_singer_and_no_music_are_conditions_of_their_own() -> None:
    torch.manual_seed(0)
    model = wake(SM2A(CONFIG))
    pattern = model.pattern("bricks")
    x = inputs()
    music = model.music_grid(None, 1, FRAMES, torch.device("cpu"))
    without = model.encode(x["semantic"], music, None, pattern, 32).added
    absent = model.encode(x["semantic"], music, x["voice"], pattern, 32, absent_voice=torch.tensor([True, True])).added
    torch.testing.assert_close(without, absent)


def test_lane_tables_are_shared_when_both_codecs_are_the_same() -> None:
    shared, own = SM2A(replace(CONFIG, accompaniment=CODEC)), SM2A(CONFIG)
    assert not hasattr(shared, "music_codes_embedding") and hasattr(own, "music_codes_embedding")
    assert run(wake(shared), inputs()).shape == (2, 32, 64)


def test_a_checkpoint_brings_back_the_same_model(tmp_path: Path) -> None:
    model = wake(SM2A(CONFIG))
    save_model(model, tmp_path, {})
    loaded, _ = load_model(tmp_path, "sm2a")
    assert loaded.config == CONFIG
    torch.testing.assert_close(run(loaded, inputs()), run(model, inputs()))


def test_compiled_parts_are_used_and_change_nothing() -> None:
    torch.manual_seed(0)
    model = wake(SM2A(CONFIG))
    plain, graphs = run(model, inputs()), []
    for part in model.compiled_parts():
        part.compile(backend=lambda graph, example: (graphs.append(graph), graph.forward)[1], fullgraph=True)
    torch.testing.assert_close(run(model, inputs()), plain)
    assert len(graphs) >= len(model.compiled_parts()) == 3
