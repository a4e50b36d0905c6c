"""Adapters without peft: loaded they are their base plus alpha / r * B A, merged they are whole models, and a wrong base is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autosing.cli.train import main
from autosing.errors import WeightsError
from autosing.models.adapters import Adapter, name_base
from autosing.models.io import load_model, save_model
from autosing.models.recogniser import SIZES, Recogniser
from autosing.store import sha256_of

KIND = "recogniser"
LAYERS = ("project", "frame_head")


def logits(model: Recogniser) -> torch.Tensor:
    wav = torch.randn(1, 24_000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.cat([part.flatten() for part in model(wav) if isinstance(part, torch.Tensor)])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(Recogniser(SIZES["micro"]), tmp_path / "base", {"steps": 3})
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    """Written by hand, as a run with --lora writes it."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    model, meta = load_model(base, KIND)
    tensors = {}
    for layer in LAYERS:
        rows, columns = model.get_submodule(layer).weight.shape
        tensors |= {f"{layer}.lora_A.weight": torch.randn(2, columns), f"{layer}.lora_B.weight": torch.randn(rows, 2)}
    save_file(tensors, folder / "adapter.safetensors")
    values = json.loads((base / "config.json").read_text())
    entry = Adapter(2, 4.0, 0.0, LAYERS, *name_base(str(base), KIND))
    (folder / "config.json").write_text(json.dumps({**values, "meta": {**meta, "mine": True}, "adapter": vars(entry)}))
    return folder


def test_loaded_it_is_its_base_plus_the_product(base: Path, adapter: Path) -> None:
    from safetensors.torch import load_file

    expected, tensors = load_model(base, KIND)[0], load_file(adapter / "adapter.safetensors")
    with torch.no_grad():
        for layer in LAYERS:
            expected.get_submodule(layer).weight += 4 / 2 * tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
    model, meta = load_model(adapter, KIND)
    torch.testing.assert_close(logits(model), logits(expected))
    assert meta["mine"] and not torch.allclose(logits(model), logits(load_model(base, KIND)[0]), atol=1e-2)


def test_singing_takes_an_adapter_of_the_shipped_weights_and_names_it(tmp_path: Path) -> None:
    from autosing.singing.loading import identity as _identity
    from autosing.weights import weights_folder

    shipped, _ = load_model("builtin", "t2s")
    layer = "decoder.layers.0.attention.out"
    tensors = {f"{layer}.lora_A.weight": torch.ones(1, shipped.config.width), f"{layer}.lora_B.weight": torch.ones(shipped.config.width, 1)}
    save_file(tensors, tmp_path / "adapter.safetensors")
    values = json.loads((weights_folder("t2s") / "config.json").read_text())
    entry = Adapter(1, 0.5, 0.0, (layer,), *name_base("builtin", "t2s"))
    (tmp_path / "config.json").write_text(json.dumps({**values, "adapter": vars(entry)}))
    model, meta = load_model(tmp_path, "t2s")
    torch.testing.assert_close(model.get_parameter(f"{layer}.weight"), shipped.get_parameter(f"{layer}.weight") + 0.5)
    assert entry.base == "builtin" and _identity(str(tmp_path), "t2s", meta)["sha256"] == sha256_of(tmp_path / "adapter.safetensors")


def test_merged_it_is_a_whole_model_with_the_same_logits(adapter: Path, base: Path, tmp_path: Path, capsys) -> None:
    assert main(["merge", str(adapter), "/dev/null/out"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write '/dev/null/out' (")
    assert main(["merge", str(adapter), str(tmp_path / "out")]) == 0
    adapted = logits(load_model(adapter, KIND)[0])
    shutil.rmtree(base)
    merged, meta = load_model(tmp_path / "out", KIND)
    torch.testing.assert_close(logits(merged), adapted, atol=1e-5, rtol=0)
    assert meta["merged"]["base"] == "base" and str(tmp_path) not in json.dumps(meta)
    assert main(["merge", str(adapter), str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "out"), str(tmp_path / "again")]) == 2
    assert "holds a whole recogniser model" in capsys.readouterr().err


def test_the_base_is_found_beside_an_adapter_that_was_carried_elsewhere(base: Path, adapter: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    before = logits(load_model(adapter, KIND)[0])
    shutil.move(adapter, elsewhere / "adapter")
    shutil.move(base, elsewhere / "base")
    torch.testing.assert_close(logits(load_model(elsewhere / "adapter", KIND)[0]), before)


def test_another_base_is_refused_by_the_hash_of_its_weights(base: Path, adapter: Path) -> None:
    known = name_base(str(base), KIND)[1][:12]
    save_model(Recogniser(SIZES["micro"]), base, {})
    with pytest.raises(WeightsError, match=rf"with weights {known}; found weights (?!{known})\w+ at"):
        load_model(adapter, KIND)
    shutil.rmtree(base)
    with pytest.raises(WeightsError, match=r"found nothing at .*put its base there"):
        load_model(adapter, KIND)


def test_an_adapter_that_does_not_fit_is_named(adapter: Path) -> None:
    save_file({"project.lora_A.weight": torch.zeros(2, 1), "project.lora_B.weight": torch.zeros(1, 2)}, adapter / "adapter.safetensors")
    with pytest.raises(WeightsError, match="does not fit its base at layer 'project'"):
        load_model(adapter, KIND)
    (adapter / "adapter.safetensors").write_bytes(b"half")
    with pytest.raises(WeightsError, match=r"adapter\.safetensors' is damaged"):
        load_model(adapter, KIND)
