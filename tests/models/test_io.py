"""Checkpoints: round trips in every stored precision, and refusals that name the file."""

import json
from dataclasses import replace

import pytest
import torch

from autosing.errors import MismatchError, WeightsError
from autosing.models.io import load_model, load_weights, read_config, save_model
from autosing.models.recogniser import SIZES, Recogniser


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Recogniser(SIZES["micro"]).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.0), (torch.float16, 1e-3), (torch.int8, 5e-3)])
def test_round_trip(model, tmp_path, dtype, tolerance):
    save_model(model, tmp_path, {"steps": 3}, "card", dtype)
    again, meta = load_model(tmp_path, "recogniser")
    assert meta == {"steps": 3} and again.config == model.config and (tmp_path / "README.md").read_text() == "card"
    for (key, a), (_, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert a.dtype == b.dtype, key
        bound = tolerance * max(1e-6, float(a.abs().max())) if a.is_floating_point() else 0.0
        torch.testing.assert_close(a, b, atol=bound, rtol=0)


def test_int8_is_a_quarter(model, tmp_path):
    sizes = {}
    for dtype in (torch.float32, torch.int8):
        save_model(model, tmp_path / str(dtype), {}, "", dtype)
        sizes[dtype] = (tmp_path / str(dtype) / "model.safetensors").stat().st_size
    assert sizes[torch.int8] < 0.45 * sizes[torch.float32]


def test_refusals_name_the_file(model, tmp_path):
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        load_model(tmp_path, "recogniser")
    save_model(model, tmp_path, {})
    with pytest.raises(MismatchError, match="holds a recogniser model where a t2s model is needed"):
        load_model(tmp_path, "t2s")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="is damaged"):
        load_model(tmp_path, "recogniser")
    (tmp_path / "model.safetensors").write_bytes(whole)
    values = read_config(tmp_path, "recogniser")
    values["config"]["width"] = 64
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="does not fit its config"):
        load_model(tmp_path, "recogniser")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="is damaged"):
        load_model(tmp_path, "recogniser")


def test_a_part_that_was_added_later_does_nothing_where_the_checkpoint_has_none(model, tmp_path):
    save_model(model, tmp_path, {})
    grown = Recogniser(replace(SIZES["micro"], stereo=True))
    load_weights(grown, tmp_path)
    assert not grown.sides.weight.any() and torch.equal(grown.project.weight, model.project.weight)
    torch.nn.init.ones_(grown.sides.weight)
    save_model(grown, tmp_path, {})
    again, _ = load_model(tmp_path, "recogniser")
    assert again.config.stereo and again.sides.weight.all()
    with pytest.raises(WeightsError, match="sides"):  # nobody throws away what was learnt
        load_weights(model, tmp_path)
