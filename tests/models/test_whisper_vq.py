"""WhisperSpeech's semantic tokenizer, converted: the same random weights give the tokens of the pip package; what does not fit is refused by name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from autosing.cli.train import main
from autosing.errors import MismatchError, WeightsError
from autosing.models.whisper_vq import convert
from autosing.perception import load_semantic


def originals(folder: Path, cosine: bool = True, **tunables: Any) -> Any:
    """A small bottleneck of the pip package on a small Whisper of OpenAI's, both saved as their makers do; returns the bottleneck."""
    pytest.importorskip("whisper", reason="needs openai-whisper, the reference")
    vq_stoks = pytest.importorskip("whisperspeech.vq_stoks", reason="needs whisperspeech and vector-quantize-pytorch, the reference")
    import whisper

    torch.set_float32_matmul_precision("highest")  # the package lowers it for the whole process when it is imported
    torch.manual_seed(0)
    dims = whisper.model.ModelDimensions(80, 1500, 32, 2, 2, 51864, 8, 32, 2, 1)
    ears = whisper.model.Whisper(dims).eval()
    config = {"vq_codes": 128, "q_depth": 1, "depth": 1, "n_head": 2, "head_width": 16, "codebook_dim": 8, "use_cosine_sim": cosine, "downsample": 2}
    model = vq_stoks.RQBottleneckTransformer(**config, threshold_ema_dead_code=0, tunables=vq_stoks.Tunables(**tunables)).eval()
    for name, parameter in [*model.named_parameters(), *ears.named_parameters()]:
        torch.nn.init.normal_(parameter, std=0.02 if "bias" in name else 0.15)
    model.whmodel = [ears]
    torch.save({"config": config, "tunables": dataclasses.asdict(model.tunables), "state_dict": model.state_dict()}, folder / "vq.model")
    torch.save({"dims": dataclasses.asdict(dims), "model_state_dict": ears.state_dict()}, folder / "whisper.pt")
    return model


@pytest.mark.parametrize(
    ("cosine", "tunables"),
    [(True, {}), (False, {}), (True, {"downsample_conv": True}), (True, {"downsample_mean": False, "mask_embs": False})],
)
def test_tokens_are_those_of_whisperspeech(tmp_path: Path, cosine: bool, tunables: dict[str, Any]) -> None:
    theirs = originals(tmp_path, cosine, **tunables)
    assert main(["convert", str(tmp_path / "vq.model"), str(tmp_path / "ours"), "--whisper", str(tmp_path / "whisper.pt")]) == 0
    ours = load_semantic(f"whisper_vq:{tmp_path / 'ours'}")
    assert ours.spec.num_codes == (128 if tunables.get("mask_embs") is False else 129) and (ours.spec.token_rate, ours.spec.width) == (25, 8)
    generator = torch.Generator().manual_seed(1)
    for seconds in (30.0, 7.3):
        time = torch.arange(int(16_000 * seconds)) / 16_000
        wav = (0.3 * torch.sin(6.28 * (200 + 80 * torch.sin(2 * time)) * time) + 0.05 * torch.randn(len(time), generator=generator))[None]
        with torch.no_grad():
            expected = theirs.encode_audio(wav)
        found = ours.encode(wav)
        assert len(expected.unique()) > 3
        assert torch.equal(found, expected[:, : found.shape[1]]) and found.shape[1] == int(25 * seconds)


def test_a_tokenizer_is_converted_with_its_whisper_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {"rq.project_in.weight": torch.zeros(8, 16), "mlp_ln.weight": torch.zeros(16), "rq.layers.0._codebook.embed": torch.zeros(1, 65, 8)}
    torch.save({"config": {"whisper_model_name": "medium"}, "tunables": {}, "state_dict": tensors}, tmp_path / "vq.model")
    assert main(["convert", str(tmp_path / "vq.model"), str(tmp_path / "out")]) == 2
    assert "a part of Whisper medium: add --whisper FILE.pt" in capsys.readouterr().err
    values: dict[str, Any] = {"config": {"whisper_model_name": "medium"}, "tunables": {}}
    with pytest.raises(MismatchError, match="is no Whisper of OpenAI's"):
        convert(values, tensors, {}, {}, "'vq.model'")
    with pytest.raises(MismatchError, match="was trained on Whisper 'medium' of width 16, the one given has 384"):
        convert(values, tensors, {"dims": {"n_audio_state": 384}}, {}, "'vq.model'")


def test_missing_weights_name_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOSING_MODELS", raising=False)
    with pytest.raises(WeightsError, match=r"'config.json' was looked for in no place.*hf download WhisperSpeech/WhisperSpeech .*autosing-train convert"):
        load_semantic("whisper_vq")


def test_tensors_of_others_become_safetensors_with_what_lies_beside_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `hf download` brings of SNAC or of a wav2vec 2.0: a pickle of tensors and JSON files."""
    from safetensors.torch import load_file

    place = tmp_path / "download"
    place.mkdir()
    state = {"a.weight": torch.randn(2, 3), "b": torch.arange(3)}
    torch.save(state, place / "pytorch_model.bin")
    (place / "config.json").write_text('{"sampling_rate": 1}')
    assert main(["convert", str(place / "pytorch_model.bin"), str(tmp_path / "out")]) == 0
    assert "2 tensors" in capsys.readouterr().out
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    assert (tmp_path / "out" / "config.json").read_text() == '{"sampling_rate": 1}'
    torch.save({"model": {}, "note": 1}, place / "empty.pth")
    assert main(["convert", str(place / "empty.pth"), str(tmp_path / "other")]) == 2
    assert "holds no tensors" in capsys.readouterr().err
