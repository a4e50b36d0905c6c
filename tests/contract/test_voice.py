"""What every voice embedder promises (autosing/perception/voice/base.py). A new backend is one more row of `BACKENDS`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autosing.models.io import save_model
from autosing.models.voice import SIZES, VoiceNet
from autosing.perception import load_voice
from autosing.perception.voice.base import VoiceEmbedder
from tests.outside_models import write_artist, write_ecapa
from tests.pretend_device import tensors_of


def builtin(folder: Path, device: torch.device | str = "cpu") -> VoiceEmbedder:
    return load_voice("builtin", device)


def untrained(folder: Path, device: torch.device | str = "cpu") -> VoiceEmbedder:
    torch.manual_seed(0)
    save_model(VoiceNet(SIZES["tiny"]), folder, {})
    return load_voice("builtin", device, weights=str(folder))


def artist(folder: Path, device: torch.device | str = "cpu") -> VoiceEmbedder:
    write_artist(folder)
    return load_voice(f"artist:{folder}", device)


def ecapa(folder: Path, device: torch.device | str = "cpu") -> VoiceEmbedder:
    write_ecapa(folder)
    return load_voice(f"ecapa:{folder}", device)


BACKENDS: dict[str, Callable[..., VoiceEmbedder]] = {
    "builtin": builtin,
    "builtin-untrained": untrained,
    "artist": artist,
    "ecapa": ecapa,
}


@pytest.fixture(scope="module", params=BACKENDS)
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VoiceEmbedder:
    return BACKENDS[request.param](tmp_path_factory.mktemp("voice"))


def voices(batch: int, samples: int, sample_rate: int) -> torch.Tensor:
    time = torch.arange(samples) / sample_rate
    pitch = 150 * (1 + torch.arange(batch)[:, None])
    return 0.2 * torch.sign(torch.sin(6.28 * pitch * time + 3 * torch.sin(5 * time)))


@pytest.mark.parametrize("seconds", [0.05, 1.0, 3.3, 10.0])
def test_embeddings_are_unit_vectors_of_the_spec(embedder: VoiceEmbedder, seconds: float) -> None:
    spec = embedder.spec
    found = embedder.embed(voices(2, int(seconds * spec.sample_rate), spec.sample_rate))
    assert found.shape == (2, spec.width) and found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-4)


def test_the_same_vocals_give_the_same_embedding_and_are_left_as_they_were(embedder: VoiceEmbedder) -> None:
    wav = voices(2, 2 * embedder.spec.sample_rate, embedder.spec.sample_rate).requires_grad_()
    before, state, first = wav.detach().clone(), torch.random.get_rng_state(), embedder.embed(wav)
    embedder.embed(voices(1, 5_000, embedder.spec.sample_rate))  # whatever it heard in between
    assert torch.equal(embedder.embed(wav), first) and not first.requires_grad
    assert torch.equal(wav.detach(), before) and torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", BACKENDS)
def test_it_works_on_another_device_and_gives_embeddings_on_the_cpu(name: str, tmp_path: Path, other_device: torch.device) -> None:
    here, there = BACKENDS[name](tmp_path), BACKENDS[name](tmp_path, other_device)
    assert {tensor.device.type for tensor in tensors_of(there)} == {other_device.type}
    wav = voices(2, here.spec.sample_rate, here.spec.sample_rate)
    expected = here.embed(wav)
    for found in there.embed(wav), there.embed(wav.to(other_device)):
        assert found.device.type == "cpu"
        assert float((found * expected).sum(1).min()) > 0.9  # arithmetic differs a little, which changes some codes that `artist` hears


def test_level_does_not_matter(embedder: VoiceEmbedder) -> None:
    wav = voices(1, 2 * embedder.spec.sample_rate, embedder.spec.sample_rate)
    assert float(embedder.embed(wav)[0] @ embedder.embed(wav * 0.01)[0]) > 0.999


def test_rows_do_not_touch_each_other(embedder: VoiceEmbedder) -> None:
    wav = voices(3, embedder.spec.sample_rate, embedder.spec.sample_rate)
    assert torch.allclose(embedder.embed(wav)[1], embedder.embed(wav[1:2])[0], atol=1e-4)


def test_silence_gives_a_finite_unit_vector(embedder: VoiceEmbedder) -> None:
    found = embedder.embed(torch.zeros(1, embedder.spec.sample_rate))
    assert torch.isfinite(found).all() and abs(float(found.norm()) - 1) < 1e-4


def test_other_shapes_are_refused(embedder: VoiceEmbedder) -> None:
    with pytest.raises(ValueError, match="must be"):
        embedder.embed(torch.zeros(24_000))
