"""`.model` files become checkpoints with the same logits and the same greedy tokens; what cannot is refused by name, and no pickle runs here."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import whisper_reference as reference
from torch import Tensor, nn

from autosing.cli import unpickle
from autosing.cli.checkpoints import read_apart
from autosing.cli.train import main
from autosing.errors import MismatchError, WeightsError
from autosing.models.convert import convert
from autosing.models.io import load_model, read_kind, save_model

T2S_TUNABLES = {"query_mult": 1.0, "output_mult": 0.35, "causal_encoder": True, "lr0": 1e-3}
S2A_TUNABLES = {"query_mult": 0.3, "output_mult": 5.6, "causal_encoder": False, "rope": True}


def woken(model: nn.Module) -> nn.Module:
    """Random weights everywhere, large enough that a wrong term shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5))
    return model.eval()


def converted(folder: Path, state: dict[str, Any], config: dict[str, Any], tunables: dict[str, Any]) -> Any:
    """Through our format, without the pickle."""
    model: Any = convert(config, tunables, {k: v for k, v in state.items() if isinstance(v, Tensor)}, "it").model
    save_model(model, folder / "out", {})
    return load_model(folder / "out", model.kind)[0]


def close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("music", [False, True])
def test_t2s(tmp_path: Path, music: bool) -> None:
    theirs = woken(reference.T2S(music))
    ours = converted(tmp_path, theirs.state_dict(), {"n_head": 2, "head_width": 64}, T2S_TUNABLES)
    torch.manual_seed(0)
    text, rate, language = torch.randint(0, 256, (2, 20)), torch.tensor([3.0, 90.0]), torch.tensor([0, 4])
    grid = torch.randint(0, 13, (2, 3, 9)) if music else None
    previous = torch.randint(0, 41, (2, 30))
    close(ours(text, rate, language, previous, grid), theirs(text, rate, language, previous, grid))
    sung = [previous[:, :10], previous[:, :10]]
    for index, model in enumerate((ours, theirs)):
        for _ in range(12):
            sung[index] = torch.cat([sung[index], model(text, rate, language, sung[index], grid)[:, -1:].argmax(-1)], 1)
    assert torch.equal(*sung)


@torch.no_grad()
@pytest.mark.parametrize("music, own_tables", [(False, False), (True, False), (True, True)])
def test_s2a(tmp_path: Path, music: bool, own_tables: bool) -> None:
    theirs = woken(reference.S2A(music, own_tables, stride=1 if music else 3))
    tunables = {**S2A_TUNABLES, "causal_music_encoder": own_tables}
    ours = converted(tmp_path, theirs.state_dict(), {"n_head": 2, "stoks_len": 10, "ctx_n": 30}, tunables)
    torch.manual_seed(0)
    semantic, speaker, grid = torch.randint(0, 41, (2, 10)), torch.randn(2, 24), torch.randint(0, 13, (2, 3, 9)) if music else None
    previous, positions = torch.randint(0, 13, (2, 3, 30)), torch.arange(30) * (4 if music else 1)
    close(ours(semantic, speaker, previous, grid, positions), theirs(semantic, speaker, previous, grid, positions))


def test_the_command_reads_the_file_apart_and_says_what_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {**reference.T2S(False).state_dict(), "_extra_state": {"speaker_map": {}}}
    torch.save({"config": {"n_head": 2}, "tunables": T2S_TUNABLES, "state_dict": state}, tmp_path / "a.model")
    assert main(["convert", str(tmp_path / "a.model"), str(tmp_path / "out")]) == 0
    assert read_kind(tmp_path / "out") == "whisperspeech_t2s"
    meta = load_model(tmp_path / "out", "whisperspeech_t2s")[1]["converted"]
    assert meta["class"] == "TSARTransformer" and meta["tunables"] == T2S_TUNABLES and len(meta["sha256"]) == 64
    assert "TSARTransformer" in (tmp_path / "out" / "README.md").read_text()
    assert main(["convert", str(tmp_path / "a.model"), "/dev/null/out"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write '/dev/null/out' (")
    assert main(["convert", str(tmp_path / "a.model"), str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, config, tunables, said",
    [
        ({"class_head.weight": torch.zeros(2, 2)}, {}, S2A_TUNABLES, "an artist embedding"),
        ({"cond_embeddings.snr.embed.weight": torch.zeros(1)}, {}, S2A_TUNABLES, "conditioning tables"),
        ({}, {}, {**S2A_TUNABLES, "rope": False}, "positions are sinusoidal"),
        ({}, {"stoks_len": 1500}, S2A_TUNABLES, "50 semantic tokens a second"),
        ({}, {"head_width": 32}, S2A_TUNABLES, "heads are 32 wide"),
        ({"embds.extra": torch.zeros(1)}, {}, S2A_TUNABLES, "tensor 'embds.extra' is not as a SADelARTransformer has it"),
        ({"semantic_embedding.weight": None}, {}, S2A_TUNABLES, "neither a t2s nor an s2a model"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(change, config, tunables, said) -> None:
    state = {k: v for k, v in {**reference.S2A(False).state_dict(), **change}.items() if v is not None}
    with pytest.raises(MismatchError, match=f"^it cannot be converted: .*{said}"):
        convert(config, tunables, state, "it")


class Canary:
    """Unpickled it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_does_more_than_hold_values_needs_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, canary = tmp_path / "a.model", tmp_path / "canary"
    torch.save({"config": {"made": Canary(canary)}, "tunables": {}, "state_dict": {"x": torch.ones(2)}}, file)
    assert unpickle.main([str(file), str(tmp_path / "out")]) == 2
    assert "holds more than tensors and plain values" in capsys.readouterr().err and not canary.exists()
    values, tensors = read_apart(file, trusted=True)
    assert canary.exists() and values["config"] == {"made": None} and torch.equal(tensors["x"], torch.ones(2))


def test_what_the_reading_process_says_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "a.model").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"a\.model' cannot be read: it is no checkpoint of torch"):
        read_apart(tmp_path / "a.model", trusted=False)


@pytest.mark.parametrize("content", [b"", b"no pickle at all", b"\x80\x04}."])
def test_what_is_no_checkpoint_is_told_in_one_line(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.model").write_bytes(content)
    assert unpickle.main([str(tmp_path / "a.model"), str(tmp_path / "out"), "--trusted"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("it is no") and said.count("\n") == 1


@pytest.fixture
def whisperspeech():
    return pytest.importorskip("whisperspeech", reason="compares with WhisperSpeech itself (pip install whisperspeech==0.8.9)")


@torch.no_grad()
def test_whisperspeechs_own_t2s(tmp_path: Path, whisperspeech) -> None:
    from whisperspeech.t2s_up_wds_mlang_enclm import TSARTransformer, Tunables

    config = {"depth": 4, "n_head": 6, "ttoks_len": 60, "stoks_len": 50, "stoks_codes": 2049, "stoks_width": 64}
    theirs = woken(TSARTransformer(**config, tunables=Tunables()))
    ours = converted(tmp_path, theirs.state_dict(), config, asdict(theirs.tunables))
    torch.manual_seed(0)
    text, rate, language = torch.randint(0, 256, (2, 60)), torch.tensor([15.0, 4.0]), torch.tensor([0, 3])

    def expected(previous: Tensor) -> Tensor:
        return theirs(text, text, language, rate, previous, in_stoks_positions=torch.arange(previous.shape[1]), loss=None)[0]

    previous = torch.randint(0, 2050, (2, 50))
    close(ours(text, rate, language, previous), expected(previous))
    sung = torch.full((2, 1), 2048)
    for _ in range(10):
        logits = ours(text, rate, language, sung)[:, -1]
        assert torch.equal(logits.argmax(-1), expected(sung)[:, -1].argmax(-1))
        sung = torch.cat([sung, logits.argmax(-1, keepdim=True)], 1)


@torch.no_grad()
def test_whisperspeechs_own_s2a(tmp_path: Path, whisperspeech) -> None:
    from whisperspeech.s2a_delar_mup_wds_mlang import SADelARTransformer, Tunables

    config = {"depth": 4, "n_head": 6, "ctx_n": 90, "stoks_len": 30, "stoks_codes": 2049, "stoks_width": 64, "spk_width": 256, "quantizers": 4}
    theirs = woken(SADelARTransformer(**config, tunables=Tunables()))
    ours = converted(tmp_path, theirs.state_dict(), config, asdict(theirs.tunables))
    torch.manual_seed(0)
    semantic, speaker = torch.randint(0, 2049, (2, 30)), torch.randn(2, 256)
    previous = torch.randint(0, 1026, (2, 4, 90))
    close(ours(semantic, speaker, previous), theirs(semantic, previous, speaker, noloss=True))
    sung = torch.full((2, 4, 1), 1025)
    for _ in range(10):
        logits = ours(semantic, speaker, sung)[:, :, -1]
        assert torch.equal(logits.argmax(-1), theirs(semantic, sung, speaker, noloss=True)[:, :, -1].argmax(-1))
        sung = torch.cat([sung, logits.argmax(-1, keepdim=True)], 2)
