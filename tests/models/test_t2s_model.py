"""t2s as a network: cached decoding, conditions, checkpoints."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autosing.models.io import load_model, save_model
from autosing.models.t2s import SIZES, T2S, T2SConfig, layer_counts
from autosing.nn.decode import Stepper
from autosing.tokens.pointer import pace_track, steps_since_advance
from tests.sequence_rows import BAND, SEMANTIC, wake

CONFIG = T2SConfig(
    heads=1, encoder_depth=1, music_depth=1, decoder_depth=2, text="phones", text_vocab=43, semantic=SEMANTIC, accompaniment=BAND
)


def inputs(steps: int = 50, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(4, 43, (batch, 12), generator=generator)
    text[1:, 9:] = 0
    track = np.minimum(np.arange(steps) // 4, 8)
    rows = {"pointer": track, "since": steps_since_advance(track), "pace": pace_track(text[0].numpy(), track)}
    return {
        "text": text,
        "rate": torch.tensor([6.0, 4.5])[:batch],
        "language": torch.zeros(batch, dtype=torch.long),
        "codes": torch.randint(0, BAND.num_codes, (batch, 4, BAND.frames(steps / 25)), generator=generator),
        "previous": torch.randint(-1, SEMANTIC.num_codes, (batch, steps), generator=generator),
        **{key: torch.from_numpy(value).expand(batch, -1) for key, value in rows.items()},
    }


@torch.no_grad()
def run(model: T2S, x: dict[str, torch.Tensor], cached: bool) -> torch.Tensor:
    steps = x["previous"].shape[1]
    music = model.music_grid(x["codes"], len(x["text"]), x["codes"].shape[-1], torch.device("cpu"))
    source = model.encode(x["text"], x["rate"], x["language"], music, steps)
    track = [x["pointer"], x["since"], x["pace"]]
    if not cached:
        return model.semantic_logits(model.decode(x["previous"], source, *track))
    stepper, rows = Stepper(model.decoder, source.sources, source.rotary, len(x["text"]), steps), model.semantic.rows()
    at = lambda tensor, i: tensor[:, i : i + 1]  # noqa: E731
    hidden = [stepper(model.inputs(at(x["previous"], i), i, source, *(at(t, i) for t in track), rows=rows)[:, 0]) for i in range(steps)]
    return model.semantic_logits(torch.stack(hidden, 1))


@pytest.mark.parametrize("pointer", [True, False])
def test_step_by_step_equals_all_at_once(pointer: bool) -> None:
    torch.manual_seed(0)
    model = wake(T2S(replace(CONFIG, pointer=pointer)))
    x = inputs()
    torch.testing.assert_close(run(model, x, cached=True), run(model, x, cached=False), atol=1e-4, rtol=1e-3)


def test_every_condition_is_heard() -> None:
    torch.manual_seed(0)
    model = wake(T2S(CONFIG))
    x = inputs()
    before = run(model, x, cached=False)
    changes = {
        "text": x["text"].flip(1).clamp(min=4),
        "rate": x["rate"] + 5,
        "codes": x["codes"].flip(-1),
        "pointer": (x["pointer"] + 1).clamp(max=11),
        "pace": x["pace"] * 0,
    }
    for key, value in changes.items():
        assert not torch.allclose(run(model, {**x, key: value}, cached=False), before, atol=1e-3), key


def test_padding_of_the_text_is_not_heard() -> None:
    torch.manual_seed(0)
    x = inputs(batch=1)
    wide = {**x, "text": torch.nn.functional.pad(x["text"], (0, 5))}
    model = wake(T2S(CONFIG))
    torch.testing.assert_close(run(model, wide, cached=False), run(model, x, cached=False), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_a_row_is_the_same_alone_and_beside_longer_texts() -> None:
    """Also at its last tokens, ahead of which there is nothing: a row's end is its own, not that of the batch."""
    torch.manual_seed(0)
    model, alone = wake(T2S(CONFIG)), inputs(batch=1)
    alone["pointer"] = torch.arange(50).clamp(max=11)[None]
    beside = {key: torch.cat([value, value]) for key, value in alone.items()}
    beside["text"] = torch.nn.functional.pad(beside["text"], (0, 9))
    beside["text"][1, 12:] = 5
    beside["pointer"] = torch.stack([alone["pointer"][0], torch.arange(50).clamp(max=20)])
    torch.testing.assert_close(run(model, beside, cached=False)[:1], run(model, alone, cached=False), atol=1e-5, rtol=1e-5)


def test_a_model_without_music_needs_none() -> None:
    model = wake(T2S(replace(CONFIG, accompaniment=None)))
    assert run(model, inputs(), cached=False).shape == (2, 50, SEMANTIC.num_codes)


def test_a_checkpoint_brings_back_the_same_model(tmp_path: Path) -> None:
    model = wake(T2S(CONFIG))
    save_model(model, tmp_path, {"steps": 1})
    loaded, meta = load_model(tmp_path, "t2s")
    assert loaded.config == CONFIG and meta == {"steps": 1}
    torch.testing.assert_close(run(loaded, inputs(), cached=False), run(model, inputs(), cached=False))


def test_sizes_share_their_layers_as_the_original() -> None:
    table = {"micro": (2, 3), "tiny": (4, 6), "base": (6, 8), "small": (12, 12), "small+": (12, 16), "baseline": (20, 16), "medium": (24, 16), "large": (33, 20)}
    for name, (depth, heads) in table.items():
        assert SIZES[name][:2] == (depth, heads)
        encoder, decoder = layer_counts(SIZES[name], 0.25)
        assert encoder + decoder == 2 * depth and encoder == depth // 2
    assert layer_counts(SIZES["large"], 0.25) == (16, 50)
    assert layer_counts(SIZES["builtin"], 0.25) == (2, 4)  # what the shipped weights have


def test_compiled_parts_are_used_and_change_nothing() -> None:
    torch.manual_seed(0)
    model = wake(T2S(CONFIG))
    plain, graphs = run(model, inputs(), cached=False), []
    for part in model.compiled_parts():
        part.compile(backend=lambda graph, example: (graphs.append(graph), graph.forward)[1], fullgraph=True)
    torch.testing.assert_close(run(model, inputs(), cached=False), plain)
    assert len(graphs) >= len(model.compiled_parts()) == 3
