"""The task `artist`'s model and ECAPA-TDNN as voice embedders: what they say is what their own code says."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autosing.errors import ConfigError, WeightsError
from autosing.perception import load_codec, load_voice
from tests.outside_models import write_artist, write_ecapa


def voice(seconds: float, rate: int) -> torch.Tensor:
    time = torch.arange(int(seconds * rate)) / rate
    return 0.2 * torch.sign(torch.sin(6.28 * (180 * time + 5 * torch.sin(3 * time))))[None]


def test_ecapa_is_speechbrains_own(tmp_path: Path) -> None:
    net = write_ecapa(tmp_path)
    from speechbrain.lobes.features import Fbank
    from speechbrain.processing.features import InputNormalization

    embedder = load_voice(f"ecapa:{tmp_path}")
    assert embedder.spec.width == 24
    wav = voice(2.0, 16_000)
    wav = wav * 0.05 / wav.square().mean().sqrt()
    lengths = torch.ones(1)
    with torch.no_grad():
        theirs = net(InputNormalization(norm_type="sentence", std_norm=False)(Fbank(n_mels=80)(wav), lengths), lengths)[0, 0]
    torch.testing.assert_close(embedder.embed(wav * 3)[0], torch.nn.functional.normalize(theirs, dim=0), atol=1e-3, rtol=1e-2)


def test_other_tensors_and_pickles_are_no_ecapa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ecapa(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("fc.conv.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="holds no ECAPA-TDNN"):
        load_voice(f"ecapa:{tmp_path}")
    save_file({"other": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="holds no ECAPA-TDNN"):
        load_voice(f"ecapa:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(WeightsError, match=r"model.safetensors' is damaged or holds another model"):
        load_voice(f"ecapa:{tmp_path}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("AUTOSING_MODELS", raising=False)
    with pytest.raises(WeightsError, match=r"hf download speechbrain/spkrec-ecapa-voxceleb --local-dir FOLDER, then autosing-train convert FOLDER/embedding_model.ckpt"):
        load_voice("ecapa")


def test_the_artist_model_hears_the_tokens_of_its_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = write_artist(tmp_path)
    embedder = load_voice(f"artist:{tmp_path}")
    assert (embedder.spec.name, embedder.spec.sample_rate, embedder.spec.width) == ("artist", 24_000, 32)
    wav = voice(4.0, 24_000)
    level = 0.1 / wav.square().mean().sqrt()
    with torch.no_grad():
        expected = torch.nn.functional.normalize(net(load_codec("builtin").encode((wav * level)[None]))[0], dim=0)
    torch.testing.assert_close(embedder.embed(wav)[0], expected, atol=1e-4, rtol=1e-3)
    twice = embedder.embed(torch.cat([wav, wav], 1))[0]  # two passages of crop_seconds
    torch.testing.assert_close(twice, expected, atol=1e-4, rtol=1e-3)
    with pytest.raises(ConfigError, match="'codec' must be 'builtin', on whose tokens it was trained, found 'snac_32khz'"):
        load_voice(f'artist:{{"weights": "{tmp_path}", "codec": "snac_32khz"}}')
    monkeypatch.delenv("AUTOSING_MODELS", raising=False)
    with pytest.raises(WeightsError, match="train it"):
        load_voice("artist")
