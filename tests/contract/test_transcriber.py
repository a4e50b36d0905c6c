"""What every transcriber promises (autosing/perception/alignment/base.py). A new backend is one more row of `BACKENDS`.

Weights are random, so the words are anything; who sings when is heard by the embedded recogniser in a demo song.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autosing.perception import load_transcriber
from autosing.perception.alignment.base import Transcriber
from autosing.song.audio import load
from autosing.song.lyrics import Lyrics
from autosing.tokens.specs import Seconds
from tests.outside_models import write_faster_whisper
from tests.pretend_device import AWAY, tensors_of

SONGS = Path(__file__).parents[2] / "demo" / "songs"


def whisperx(folder: Path, device: torch.device | str = "cpu", batch_size: int = 4) -> Transcriber:
    package = pytest.importorskip("whisperx", reason="needs whisperx (pip install 'autosing[whisperx]')")
    if not (folder / "model.bin").exists():
        write_faster_whisper(folder)
    with pytest.MonkeyPatch.context() as patch:
        if torch.device(device).type == AWAY.type:  # CTranslate2 is not PyTorch's: it runs on the CPU where the device is only pretended
            load = package.load_model
            patch.setattr(package, "load_model", lambda folder, kind, **options: load(folder, {AWAY.type: "cpu"}[kind], **options))
        return load_transcriber(f'whisperx:{{"weights": "{folder}", "model": "tiny.en", "batch_size": {batch_size}}}', device)


BACKENDS: dict[str, Callable[..., Transcriber]] = {"whisperx": whisperx}


@pytest.fixture(scope="module", params=BACKENDS)
def folder_and_name(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return tmp_path_factory.mktemp("transcriber"), request.param


@pytest.fixture(scope="module")
def transcriber(folder_and_name: tuple[Path, str]) -> Transcriber:
    folder, name = folder_and_name
    return BACKENDS[name](folder)


@functools.cache
def song(sample_rate: int) -> torch.Tensor:
    """(n,) a demo song, sung from its second bar on."""
    return load(sorted(SONGS.glob("*.ogg"))[0].read_bytes(), sample_rate).mean(0)


def starts(lyrics: Lyrics) -> list[Seconds]:
    return [line.start for line in lyrics.lines if line.start is not None]


@pytest.mark.parametrize("seconds", [0, 0.05, 1, 20, 70])
def test_lines_have_words_and_stamps_in_order_within_the_recording(transcriber: Transcriber, seconds: float) -> None:
    wav = song(transcriber.sample_rate)
    wav = wav.repeat(1 + int(seconds * transcriber.sample_rate) // len(wav))[: int(seconds * transcriber.sample_rate)]
    found = transcriber.transcribe(wav)
    assert all(any(letter.isalnum() for letter in line.text) for line in found.lines)
    assert starts(found) == sorted(set(starts(found))) and all(0 <= start < seconds for start in starts(found))
    assert all(line.end is None or (line.start is not None and line.start < line.end <= seconds + 0.1) for line in found.lines)
    assert not found.lines or found.lines[0].start is not None
    if seconds >= 20:
        assert found.lines and starts(found)[-1] > seconds - 35  # nothing of a long song is left out


def test_nothing_is_heard_in_silence(transcriber: Transcriber) -> None:
    assert transcriber.transcribe(torch.zeros(10 * transcriber.sample_rate)).lines == ()


def test_the_same_song_gives_the_same_lines_and_is_left_as_it_was(transcriber: Transcriber) -> None:
    wav = song(transcriber.sample_rate)
    before, state, first = wav.clone(), torch.random.get_rng_state(), transcriber.transcribe(wav)
    transcriber.transcribe(wav[: 9 * transcriber.sample_rate].flip(0))  # whatever it heard in between
    assert transcriber.transcribe(wav) == first
    assert torch.equal(wav, before) and torch.equal(torch.random.get_rng_state(), state)


def test_what_is_heard_together_changes_nothing(folder_and_name: tuple[Path, str], transcriber: Transcriber) -> None:
    folder, name = folder_and_name
    wav = song(transcriber.sample_rate).repeat(2)
    assert BACKENDS[name](folder, batch_size=1).transcribe(wav) == transcriber.transcribe(wav)


@pytest.mark.parametrize("name", BACKENDS)
def test_it_works_on_another_device(name: str, tmp_path: Path, other_device: torch.device) -> None:
    here, there = BACKENDS[name](tmp_path), BACKENDS[name](tmp_path, other_device)
    assert {tensor.device.type for tensor in tensors_of(there)} == {other_device.type}
    wav = song(here.sample_rate)
    expected = here.transcribe(wav)
    for given in wav, wav.to(other_device):
        found = there.transcribe(given)
        assert len(starts(found)) == len(starts(expected)) > 0
        assert max(abs(a - b) for a, b in zip(starts(found), starts(expected), strict=True)) < 0.1  # arithmetic differs a little
