"""What every semantic tokenizer promises (autosing/perception/semantic/base.py). A new backend is one more row of `BACKENDS`."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autosing.models.io import save_model
from autosing.models.recogniser import CLASSES, SIZES, Recogniser
from autosing.models.semantic import SemanticCodebook, SemanticConfig
from autosing.perception import load_semantic
from autosing.perception.semantic.base import SemanticTokenizer
from autosing.perception.semantic.builtin import checksum
from tests.outside_models import write_whisper_vq
from tests.pretend_device import tensors_of


def builtin(folder: Path, device: torch.device | str = "cpu") -> SemanticTokenizer:
    return load_semantic("builtin", device)


def untrained(folder: Path, device: torch.device | str = "cpu") -> SemanticTokenizer:
    """The builtin tokenizer with a small random recogniser and random codes."""
    torch.manual_seed(0)
    recogniser = Recogniser(SIZES["micro"])
    save_model(recogniser, folder / "recogniser", {})
    book = SemanticCodebook(SemanticConfig(features=recogniser.width, classes=len(CLASSES)))
    for name in ("projection", "codes", "read_out"):
        getattr(book, name).normal_()
    book.codes[:, : 2 * len(CLASSES)].abs_().mul_(0.2)
    save_model(book, folder, {"recogniser": checksum(folder / "recogniser")})
    return load_semantic("builtin", device, weights=folder)


def whisper_vq(folder: Path, device: torch.device | str = "cpu") -> SemanticTokenizer:
    """The tokenizer of WhisperSpeech with a small random Whisper."""
    write_whisper_vq(folder)
    return load_semantic(f"whisper_vq:{folder}", device)


BACKENDS: dict[str, Callable[..., SemanticTokenizer]] = {
    "builtin": builtin,
    "builtin-untrained": untrained,
    "whisper_vq": whisper_vq,
}


@pytest.fixture(scope="module", params=BACKENDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SemanticTokenizer:
    return BACKENDS[request.param](tmp_path_factory.mktemp("semantic"))


@functools.cache
def sound(samples: int, sample_rate: int) -> torch.Tensor:
    """A sliding buzz with bursts: (n,) float32."""
    time = torch.arange(samples) / sample_rate
    tone = torch.sin(6.28 * (150 + 60 * torch.sin(2 * time)) * time) * (torch.sin(9 * time) > -0.3)
    return 0.3 * tone + 0.02 * torch.randn(samples, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("samples", [1, 959, 960, 961, 24000, 31337])
def test_length_is_the_floor_of_seconds_times_rate(tokenizer: SemanticTokenizer, samples: int) -> None:
    spec = tokenizer.spec
    tokens = tokenizer.encode(sound(40000, spec.sample_rate)[None, :samples])
    assert tokens.shape == (1, samples * spec.token_rate // spec.sample_rate)
    assert tokens.dtype == torch.int64


def test_no_audio_and_no_rows_give_no_tokens(tokenizer: SemanticTokenizer) -> None:
    assert tokenizer.encode(torch.zeros(2, 0)).shape == (2, 0)
    assert tokenizer.encode(torch.zeros(0, 9600)).shape == (0, 9600 * tokenizer.spec.token_rate // tokenizer.spec.sample_rate)


def test_tokens_index_the_codebook(tokenizer: SemanticTokenizer) -> None:
    spec = tokenizer.spec
    codes = tokenizer.codebook()
    assert tuple(codes.shape) == (spec.num_codes, spec.width) and codes.dtype == torch.float32
    assert codes.isfinite().all() and not codes.requires_grad
    assert len(torch.unique(codes, dim=0)) > 0.9 * spec.num_codes
    tokens = tokenizer.encode(sound(40000, spec.sample_rate)[None])
    assert int(tokens.min()) >= 0 and int(tokens.max()) < spec.num_codes


def test_same_audio_same_tokens(tokenizer: SemanticTokenizer) -> None:
    wav = sound(40000, tokenizer.spec.sample_rate)[None]
    assert torch.equal(tokenizer.encode(wav), tokenizer.encode(wav.clone()))


def test_a_row_does_not_depend_on_its_neighbours(tokenizer: SemanticTokenizer) -> None:
    rows = torch.stack([sound(40000, tokenizer.spec.sample_rate), torch.zeros(40000), sound(40000, 8000)])
    together = tokenizer.encode(rows)
    assert torch.equal(together, torch.cat([tokenizer.encode(row[None]) for row in rows]))
    assert torch.equal(together.flip(0), tokenizer.encode(rows.flip(0)))


def test_silence_noise_and_clipping_are_tokenised(tokenizer: SemanticTokenizer) -> None:
    for wav in (torch.zeros(24000), 10 * sound(24000, 24000), 1e-6 * sound(24000, 24000)):
        assert tokenizer.encode(wav[None]).shape[1] == 24000 * tokenizer.spec.token_rate // tokenizer.spec.sample_rate


def test_encoding_leaves_no_graph_and_no_change(tokenizer: SemanticTokenizer) -> None:
    wav = sound(24000, tokenizer.spec.sample_rate)[None].clone().requires_grad_()
    before = wav.detach().clone()
    assert not tokenizer.encode(wav).requires_grad
    assert torch.equal(wav.detach(), before)
    state = torch.random.get_rng_state()
    tokenizer.encode(before)
    assert torch.equal(state, torch.random.get_rng_state())


def test_long_audio_has_no_seams(tokenizer: SemanticTokenizer) -> None:
    """Tokens of the middle do not depend on how much audio lies around them (beyond what a tokenizer may look at)."""
    if tokenizer.spec.name == "whisper_vq":
        pytest.skip("Whisper hears 30 s as a whole: its tokens depend on all that lies in them")
    rate = tokenizer.spec.sample_rate
    wav = sound(70 * rate, rate)
    whole = tokenizer.encode(wav[None])[0]
    first, last = 20, 50
    part = tokenizer.encode(wav[None, first * rate : last * rate])[0]
    margin = 8 * tokenizer.spec.token_rate
    inside = whole[first * tokenizer.spec.token_rate : last * tokenizer.spec.token_rate]
    assert (inside == part)[margin:-margin].float().mean() > 0.99


@pytest.mark.parametrize("name", BACKENDS)
def test_it_works_on_another_device_and_gives_tokens_there(name: str, tmp_path: Path, other_device: torch.device) -> None:
    here, there = BACKENDS[name](tmp_path), BACKENDS[name](tmp_path, other_device)
    assert {tensor.device.type for tensor in tensors_of(there)} == {other_device.type}
    wav = sound(16000, here.spec.sample_rate)[None]
    expected = here.encode(wav)
    for found in there.encode(wav), there.encode(wav.to(other_device)):
        assert found.device.type == there.codebook().device.type == other_device.type
        assert float((found.cpu() == expected).float().mean()) > 0.95  # arithmetic differs a little, and codes lie close together
