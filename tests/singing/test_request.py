"""What a sing request refuses, how lines are shared out, and the mix."""

import pytest
import torch

from autosing.errors import ConfigError
from autosing.singing.desk import Desk, Stream
from autosing.singing.mix import PEAK, Mixed, active_level, choose_gains, fade_edges, held, mix_with, sounding
from autosing.singing.request import SingRequest, halves


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "song.wav"
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"reference": None}, "--reference"),
        ({"lyrics": " \n [verse] \n"}, "--lyrics"),
        ({"length_seconds": 1.0}, "--length"),
        ({"temperature": 0.0}, "--temp"),
        ({"candidates": 0}, "--candidates"),
        ({"speaker_alpha": 1.5}, "--spk-alpha"),
        ({"start_seconds": -1.0}, "--start-time"),
        ({"music_volume": float("nan")}, "--music-volume"),
        ({"seed": 99999999999999999999}, "--seed must lie between .* and 18446744073709551615, found 99999999999999999999"),
        ({"seed": -(2**63) - 1}, "--seed"),
    ],
)
def test_bad_requests_name_their_flag(song, settings, named):
    with pytest.raises(ConfigError, match=named):
        SingRequest(**{"lyrics": "la la", "reference": song, **settings})


def test_every_seed_that_is_allowed_is_one(song):
    for seed in (-(2**63), -1, 0, 2**64 - 1):
        torch.Generator().manual_seed(SingRequest("la", song, seed=seed).seed)


def test_missing_files_are_named(song, tmp_path):
    for settings in ({"reference": tmp_path / "no.mp3"}, {"semantic_file": tmp_path / "no.mp3"}, {"speaker_files": (tmp_path / "no.mp3",)}):
        with pytest.raises(ConfigError, match=r"no\.mp3"):
            SingRequest(**{"lyrics": "la la", "reference": song, **settings})


def test_recordings_may_be_named_by_texts(song):
    texts = SingRequest("la la", str(song), semantic_file=str(song), speaker_files=[str(song)])
    assert texts == SingRequest("la la", song, semantic_file=song, speaker_files=(song,))


def test_one_or_two_plain_lines_govern_halves(song):
    assert halves(["one"]) == (("one",), ()) and halves(["one", "two"]) == (("one",), ("two",))
    assert SingRequest("one", song).in_halves and SingRequest("[verse]\none\\ntwo", song).in_halves
    assert not SingRequest("one\ntwo\nthree", song).in_halves and not SingRequest("[00:01.00]one\n[00:04.00]two", song).in_halves
    assert SingRequest("one\ntwo", song).most_seconds == 30.0 < SingRequest("one\ntwo\nthree", song).most_seconds


def mix_tracks(vocals: torch.Tensor, accompaniment: torch.Tensor, vocal_level: float, music_volume: float) -> Mixed:
    return mix_with(vocals, accompaniment, choose_gains(vocals, accompaniment, 48000, vocal_level, music_volume), 48000)


def test_mix_is_the_sum_and_never_clips():
    generator = torch.Generator().manual_seed(0)
    vocals, band = torch.randn(1, 48000, generator=generator), torch.randn(2, 48000, generator=generator) * 3
    mixed = mix_tracks(vocals, band, vocal_level=0.2, music_volume=0.8)
    torch.testing.assert_close(mixed.mix, mixed.vocals + mixed.accompaniment)
    assert float(mixed.mix.abs().max()) <= PEAK + 1e-6 and mixed.vocals.shape == (2, 48000)


def test_vocals_take_the_level_they_are_asked_for():
    tone = torch.sin(torch.arange(48000) * 0.05)[None] * 0.01
    mixed = mix_tracks(tone, torch.zeros(2, 48000), vocal_level=0.1, music_volume=1.0)
    assert active_level(mixed.vocals) == pytest.approx(0.1, rel=1e-3)
    silent = mix_tracks(torch.zeros(1, 48000), torch.zeros(2, 48000), 0.1, 1.0)
    assert torch.isfinite(silent.mix).all() and float(silent.mix.abs().max()) == 0
    assert float(mix_tracks(tone * 1e-4, torch.zeros(2, 48000), 0.1, 1.0).vocals.abs().max()) < 1e-5  # nobody sings: no noise is made a voice of


@pytest.mark.parametrize("begin", [10.0, 6.9], ids=["late", "at the first seam"])
def test_a_stream_whose_words_begin_late_neither_hisses_nor_shouts(begin: float) -> None:
    """Its first piece holds no more than noise far under a voice, or the quiet beginning of a word."""
    rate, pieces = 8000, []
    vocals = 1e-6 * torch.randn(16 * rate, generator=torch.Generator().manual_seed(0))
    vocals[int(begin * rate) :] = 0.1 * torch.sin(torch.arange(int((16 - begin) * rate)) * 0.5)
    vocals[int(begin * rate) : int((begin + 0.6) * rate)] *= 0.1
    request = SingRequest("la", tts=True, stream=True)
    stream = Stream(Desk(rate, request, None, 16.0), lambda piece, _: pieces.append(piece))
    for seconds in (8, 12, 16):
        stream.feed(vocals[: seconds * rate], last=seconds == 16)
    mix = torch.cat(pieces, 1)
    assert torch.equal(mix, stream.mixed.mix) and mix.shape[1] == 16 * rate
    assert float(mix[:, : int(begin * rate)].abs().max()) < 1e-4
    assert active_level(mix[:, 12 * rate :]) == pytest.approx(0.1, rel=0.1) and float(mix.abs().max()) < 0.3
    assert float(mix.diff().abs().max()) < 0.15 and stream.mixed.gains.vocals == pytest.approx(1.42, rel=0.1)


def test_a_tick_turns_no_song_down() -> None:
    tone = 0.1 * torch.sin(torch.arange(48000) * 0.05)[None]
    ticked = tone.clone()
    ticked[:, 24000:24100] *= 20
    plain, mixed = (mix_tracks(vocals, tone.expand(2, -1), vocal_level=0.1, music_volume=0.8) for vocals in (tone, ticked))
    assert mixed.gains.accompaniment == plain.gains.accompaniment == 0.8
    assert float(mixed.vocals.abs().max()) == pytest.approx(0.1 * 10**0.75, rel=1e-3) and active_level(mixed.vocals[:, :20000]) > 0.07
    noise = torch.randn(1, 48000, generator=torch.Generator().manual_seed(0))
    assert float(held(noise, 1.0, 8000).abs().max()) <= 1 + 1e-6 and torch.equal(held(tone, 0.3, 48000), tone)
    quieter = held(ticked, 0.3, 48000)
    assert torch.equal(quieter[:, :23700], ticked[:, :23700]) and torch.equal(quieter[:, 24400:], ticked[:, 24400:])


def test_pauses_do_not_count_for_the_level():
    wav = torch.zeros(1, 96000)
    wav[:, :24000] = 0.5
    assert active_level(wav) == pytest.approx(0.5, rel=1e-3)


def test_edges_are_faded():
    faded = fade_edges(torch.ones(2, 1000), 100)
    assert float(faded[0, 0]) == 0 and float(faded[1, -1]) == 0 and float(faded[0, 500]) == 1


def test_a_voice_is_not_lost_under_the_band() -> None:
    """What the separator leaves of an instrumental is no level to sing at."""
    generator = torch.Generator().manual_seed(0)
    vocals, band = (0.1 * torch.randn(1, 48000, generator=generator) for _ in range(2))
    mixed = mix_tracks(vocals, band, vocal_level=0.001, music_volume=1.0)
    assert active_level(mixed.vocals) == pytest.approx(0.4 * active_level(mixed.accompaniment), rel=0.02)


def test_pauses_are_told_from_singing():
    """Half a second of a tone, half a second 40 dB under it, 0.15 s of the tone again, whose last block is not whole."""
    wav = 0.5 * torch.sin(torch.arange(27600) * 0.3)
    wav[12000:24000] *= 0.01
    loud = sounding(wav)
    assert loud.shape == wav.shape and loud[:12000].all() and loud[24000:].all() and not loud[12000:24000].any()
    assert not sounding(torch.zeros(5000)).any()
