"""SNAC, EnCodec and DAC behind our Protocol: the codes are their own, the weights fit their name, sm2a learns from them, the original's tables are read."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from autosing.errors import MismatchError, WeightsError
from autosing.perception import load_codec
from autosing.tokens.patterns import load_pattern
from autosing.tokens.specs import CodecSpec, SemanticSpec, VoiceSpec
from tests.outside_models import write_codec

NAMES = ("snac_24khz", "snac_32khz", "snac_44khz", "encodec_24khz", "encodec_32khz", "dac_44khz")


def wave(samples: int) -> torch.Tensor:
    return 0.3 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(0)).cumsum(2).sin()


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_audio_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    net = write_codec(tmp_path, name)
    codec = load_codec(f"{name}:{tmp_path}")
    spec = codec.spec
    wav = wave(64 * spec.hop)
    with torch.no_grad():
        if name.startswith("snac"):
            theirs = net.encode(wav)
            torch.manual_seed(0)
            audio = net.decode(theirs)[0]
        elif name.startswith("encodec"):
            theirs = list(net.encode(wav, bandwidth={"encodec_24khz": 6.0, "encodec_32khz": 2.2}[name]).audio_codes[0].transpose(0, 1))
            audio = net.decode(torch.stack(theirs, 1)[None], [None]).audio_values[0]
        else:
            theirs = list(net.encode(wav).audio_codes.transpose(0, 1))
            audio = net.decode(audio_codes=torch.stack(theirs, 1)).audio_values
    codes = codec.encode(wav)
    assert len(theirs) == spec.levels
    for level, stride in enumerate(spec.strides):
        assert torch.equal(codes[0, level, ::stride], theirs[level][0]), level
    torch.testing.assert_close(codec.decode(codes)[0], audio[..., : codes.shape[2] * spec.hop], atol=1e-5, rtol=1e-4)


def test_missing_pickled_and_foreign_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("AUTOSING_MODELS", str(tmp_path / "models"))
    with pytest.raises(WeightsError, match=r"codec 'dac_44khz' lacks its weights: 'config.json' was looked for in .*/models/dac_44khz', .*hf download descript/dac_44khz"):
        load_codec("dac_44khz")
    with pytest.raises(WeightsError, match=r"hf download hubertsiuzdak/snac_32khz --local-dir FOLDER, then autosing-train convert FOLDER/pytorch_model.bin"):
        load_codec("snac_32khz")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=re.escape(f"autosing-train convert '{pickled / 'pytorch_model.bin'}' '{tmp_path / 'models' / 'snac_32khz'}'")):
        load_codec(f"snac_32khz:{pickled}")
    write_codec(tmp_path / "models" / "snac_32khz", "snac_24khz")
    with pytest.raises(MismatchError, match="holds no codec 'snac_32khz': its sampling_rate is 24000 where 32000 is needed"):
        load_codec("snac_32khz")


def test_the_command_that_converts_a_pickle_can_be_typed_and_leads_to_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("AUTOSING_MODELS", raising=False)
    with pytest.raises(WeightsError, match=r"convert FOLDER/pytorch_model.bin MODELS/snac_32khz  \(and set AUTOSING_MODELS=MODELS\)$"):
        load_codec("snac_32khz")  # a variable in quotes would name a folder '$AUTOSING_MODELS'
    monkeypatch.setenv("AUTOSING_MODELS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"snac_32khz', and give that folder in place of 'hubertsiuzdak/snac_32khz'$"):
        load_codec("snac_32khz:hubertsiuzdak/snac_32khz")  # for which AUTOSING_MODELS is not asked


def test_a_place_below_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for choice in ("snac_32khz:~/snac", 'snac_32khz:{"weights": "~/snac"}'):  # shells leave both as they are
        with pytest.raises(WeightsError, match=re.escape(f"was looked for in '{tmp_path / 'snac'}'")):
            load_codec(choice)


@pytest.mark.parametrize("name", ["snac_32khz", "encodec_32khz", "dac_44khz"])
def test_files_that_are_cut_off_or_of_other_networks_are_one_line(name: str, tmp_path: Path) -> None:
    """transformers draws tensors that a file lacks at random, and says so in a warning."""
    write_codec(tmp_path, name)
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    tensors, whole = load_file(file), file.read_bytes()
    for wrong in (whole[: len(whole) // 2], save({"other": torch.zeros(2)}), save({key: tensors[key] for key in sorted(tensors)[1:]})):
        file.write_bytes(wrong)
        with pytest.raises(WeightsError, match=re.escape(f"codec '{name}': '{tmp_path}")) as said:
            load_codec(f"{name}:{tmp_path}")
        assert "\n" not in str(said.value) and len(str(said.value)) < 500
    config.write_text(config.read_text()[:20])
    with pytest.raises(WeightsError, match=r"config.json' is damaged"):
        load_codec(f"{name}:{tmp_path}")


@pytest.mark.parametrize(("name", "lanes"), [("snac_24khz", 4), ("snac_32khz", 8), ("encodec_32khz", 4), ("dac_44khz", 9)])
def test_a_micro_sm2a_trains_a_step_on_its_tokens(name: str, lanes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tasks.sm2a
    from autosing.models.t2s import SIZES, Size
    from autosing.training.optim import build_optimizer
    from autosing.training.task import DatasetMeta

    monkeypatch.setenv("AUTOSING_MODELS", str(tmp_path))
    write_codec(tmp_path / name, name)
    codec = load_codec(name)
    spec, seconds = codec.spec, 2.4
    meta = DatasetMeta(codec=spec, accompaniment_codec=spec, semantic=SemanticSpec("builtin", 24_000, 25, 512, 64), voice=VoiceSpec("builtin", 24_000, 8), window_seconds=seconds)
    assert DatasetMeta.from_json(json.loads(json.dumps(meta.to_json()))).codec == spec
    monkeypatch.setitem(SIZES, "micro", Size(2, 1, cross_layers=0, music_depth=0))
    monkeypatch.setattr(tasks.sm2a, "load_codebook", lambda spec: torch.randn(spec.num_codes, spec.width, generator=torch.Generator().manual_seed(1)))
    for pattern in ("bricks", "bricks_unrolled"):
        assert len(load_pattern(pattern, spec.strides).lanes) == lanes
    codes = codec.encode(wave(round(seconds * spec.sample_rate)))[0, :, : spec.frames(seconds)]
    values = codes.reshape(-1).numpy()
    row = {"id": "a", "stoks": np.arange(60) % 512, "atoks": values, "mtoks": values, "embs": np.ones(8, np.float32)}
    task = tasks.sm2a.TASK(tasks.sm2a.SM2AArgs(size="micro", multiscale=True), tasks.sm2a.SM2ATunables(), meta)
    example = task.example(row, np.random.default_rng(0))
    batch = {key: value[None] for key, value in example.items()}
    model = task.build_model().train()
    optimizer = build_optimizer(model, task.param_rules(model), task.tunables)
    before = task.losses(model.eval(), dict(batch)).total
    model.train()
    torch.manual_seed(0)
    task.losses(model, dict(batch)).total.backward()
    optimizer.step()
    assert torch.isfinite(before) and task.losses(model.eval(), dict(batch)).total < before


def test_the_originals_flattened_codes_are_read(tmp_path: Path) -> None:
    """`atoks_vocals_snac_32khz` of the first AutoSing: levels x frames, flattened; whether -1 or the code again stands between codes is no matter."""
    from tasks.sequence import window_codes

    spec = CodecSpec("snac_32khz", 32_000, 384, (8, 4, 2, 1), 4096, 8)
    grid = np.full((4, spec.frames(30)), -1, np.int16)
    for level, stride in enumerate(spec.strides):
        grid[level, ::stride] = np.arange(2496 // stride) % 4096
    assert np.array_equal(window_codes(grid.reshape(-1), spec, 2496, "row"), grid)
    pattern = load_pattern("bricks", spec.strides)
    lanes = pattern.apply(torch.from_numpy(grid)[None].long(), spec)
    assert lanes.shape == (1, 8, 632)
    held = np.stack([grid[level, ::stride].repeat(stride) for level, stride in enumerate(spec.strides)])
    assert torch.equal(pattern.apply(torch.from_numpy(held)[None].long(), spec), lanes)
