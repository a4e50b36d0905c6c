"""What every aligner promises (autosing/perception/alignment/base.py). A new backend is one more row of `BACKENDS`. Others' have random weights here."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autosing.errors import AlignmentError
from autosing.perception import load_aligner
from autosing.perception.alignment.base import Aligner, ears_of
from autosing.song.alignment import Alignment
from autosing.song.lyrics import parse_lrc, parse_raw
from tests.outside_models import small_bundle, write_bundle, write_wav2vec2
from tests.pretend_device import tensors_of


def builtin(folder: Path, device: torch.device | str = "cpu", **options: int) -> Aligner:
    return load_aligner("builtin", device, **options)


def ctc(folder: Path, device: torch.device | str = "cpu") -> Aligner:
    with pytest.MonkeyPatch.context() as patch:
        write_bundle(folder, small_bundle(patch))
        return load_aligner(f"ctc:{folder}", device)


def ctc_huggingface(folder: Path, device: torch.device | str = "cpu") -> Aligner:
    write_wav2vec2(folder)
    return load_aligner(f"ctc:{folder}", device)


def whisperx(folder: Path, device: torch.device | str = "cpu") -> Aligner:
    pytest.importorskip("whisperx", reason="needs whisperx (pip install 'autosing[whisperx]')")
    with pytest.MonkeyPatch.context() as patch:
        write_bundle(folder, small_bundle(patch))
        return load_aligner(f"whisperx:{folder}", device)


BACKENDS: dict[str, Callable[..., Aligner]] = {
    "builtin": builtin,
    "ctc": ctc,
    "ctc-huggingface": ctc_huggingface,
    "whisperx": whisperx,
}
LRC = "[00:00.50]Corazón, let it be\n[00:03.00]la la - 99 times\n[00:06.00]you & me\n"
WORDS = ["Corazón,", "let", "it", "be", "la", "la", "-", "99", "times", "you", "&", "me"]
SECONDS = 9


@pytest.fixture(scope="module", params=BACKENDS)
def aligner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Aligner:
    return BACKENDS[request.param](tmp_path_factory.mktemp("aligner"))


def sound(aligner: Aligner, seconds: float = SECONDS) -> torch.Tensor:
    """A buzz in bursts of half a second: (n,)."""
    time = torch.arange(int(seconds * aligner.sample_rate)) / aligner.sample_rate
    tone = torch.sign(torch.sin(6.28 * (150 + 50 * torch.sin(time)) * time)) * (torch.sin(6.28 * time) > 0)
    return 0.2 * tone + 0.01 * torch.randn(len(time), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stamped", [True, False])
def test_every_word_has_a_time_in_order(aligner: Aligner, stamped: bool) -> None:
    lyrics = parse_lrc(LRC) if stamped else parse_raw("\n".join(line.partition("]")[2] for line in LRC.splitlines()))
    found = aligner.align(sound(aligner), lyrics)
    assert [word.text for word in found.words] == WORDS
    assert [word.line for word in found.words] == [0] * 4 + [1] * 5 + [2] * 3
    last = 0.0
    for word in found.words:
        assert last <= word.start <= word.end <= SECONDS + 0.1 and 0 <= word.score <= 1
        last = word.start
    for token in found.tokens:
        word = found.words[token.word]
        assert word.start - 1e-6 <= token.start <= token.end <= word.end + 1e-6
    assert found.trust is None if found.trust is None else 0 <= found.trust <= 1
    if stamped:
        assert found.trust is not None
    again = Alignment.from_struct(found.to_struct())
    assert [word.text for word in again.words] == WORDS and again.trust == found.trust


def test_the_same_song_gives_the_same_times_and_is_left_as_it_was(aligner: Aligner) -> None:
    wav = sound(aligner)
    before, lyrics = wav.clone(), parse_lrc(LRC)
    first = aligner.align(wav, lyrics)
    aligner.align(sound(aligner, 4) * 3, parse_raw("let it be"))  # whatever it heard in between
    assert aligner.align(wav, lyrics) == first
    assert torch.equal(wav, before)


def test_a_recording_comes_in_one_channel_unless_two_tell_more(aligner: Aligner) -> None:
    sides = torch.stack([sound(aligner), torch.zeros(len(sound(aligner)))])
    assert ears_of(aligner, sides, aligner.sample_rate).shape == (sides.shape if aligner.stereo else sides[0].shape)
    torch.testing.assert_close(ears_of(aligner, sides[:1], aligner.sample_rate), sides[0])
    assert len(ears_of(aligner, sides.mean(0, keepdim=True), 2 * aligner.sample_rate)) == len(sides[0]) // 2
    if aligner.stereo:
        one, two = aligner.align(sides[0], parse_lrc(LRC)), aligner.align(sides[:1].expand(2, -1), parse_lrc(LRC))
        assert [word.start for word in two.words] == pytest.approx([word.start for word in one.words], abs=0.02)


@pytest.mark.parametrize("name", BACKENDS)
def test_it_works_on_another_device(name: str, tmp_path: Path, other_device: torch.device) -> None:
    make = functools.partial(BACKENDS[name], **({"adapt_steps": 1} if name == "builtin" else {}))  # its steps are slow on a pretended device
    here, there = make(tmp_path), make(tmp_path, other_device)
    assert {tensor.device.type for tensor in tensors_of(there)} == {other_device.type}
    wav = sound(here)
    expected, activity = here.align(wav, parse_lrc(LRC)), here.activity(wav)
    for given in wav, wav.to(other_device):
        found = there.align(given, parse_lrc(LRC))
        assert [word.text for word in found.words] == WORDS
        off = [abs(word.start - other.start) for word, other in zip(found.words, expected.words, strict=True)]
        assert sorted(off)[len(off) // 2] < 0.05  # arithmetic differs a little
        torch.testing.assert_close(there.activity(given).cpu(), activity, atol=1e-2, rtol=1e-2)


def test_lyrics_that_cannot_be_sung_are_refused_with_a_code(aligner: Aligner) -> None:
    for text in ("", "...\n- -"):
        with pytest.raises(AlignmentError) as error:
            aligner.align(sound(aligner), parse_raw(text) if text else parse_raw(""))
        assert error.value.code == "no_lyrics"
    with pytest.raises(AlignmentError) as error:
        aligner.align(sound(aligner, 1.0), parse_raw("many words that never end\n" * 30))
    assert error.value.code == "too_many_words" and "\n" not in str(error.value)


@pytest.mark.parametrize("seconds", [0, 0.5, 9])
def test_activity_is_fifty_probabilities_a_second(aligner: Aligner, seconds: float) -> None:
    found = aligner.activity(sound(aligner, seconds))
    assert found.ndim == 1 and abs(len(found) - 50 * seconds) <= 1
    assert bool(((found >= 0) & (found <= 1)).all())
