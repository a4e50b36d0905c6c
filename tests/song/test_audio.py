"""Audio: round trips, every kind of damage has its code, lengths and rates."""

import io
import math
import pickle
import re
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

from autosing.errors import AudioError
from autosing.song import audio
from autosing.song.mp3 import with_length


def tone(seconds=2.0, rate=24000, channels=1):
    t = torch.arange(int(seconds * rate)) / rate
    return (0.5 * torch.sin(2 * math.pi * 440 * t)).repeat(channels, 1)


@pytest.mark.parametrize("audio_format", ["wav", "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_round_trip(audio_format, channels):
    wav = tone(channels=channels)
    out = audio.decode(audio.encode(wav, 24000, audio_format))
    assert out.samples.shape[0] == channels and out.seconds == pytest.approx(2.0, abs=0.15)
    assert float(out.samples.square().mean().sqrt()) == pytest.approx(0.5 / 2**0.5, abs=0.04)
    if audio_format in ("wav", "flac"):
        torch.testing.assert_close(out.samples, wav, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("audio_format", "rate", "written"),
    [
        ("ogg", 250_000, 48_000),
        ("ogg", 192_000, 192_000),
        ("flac", 700_000, 48_000),
        ("mp3", 96_000, 48_000),
        ("mp3", 44_100, 44_100),
        ("opus", 44_100, 48_000),
        ("wav", 700_000, 700_000),
    ],
)
def test_rates_that_a_format_cannot_hold_are_resampled(audio_format, rate, written):
    out = audio.decode(audio.encode(tone(0.5, rate), rate, audio_format))
    assert out.sample_rate == written and out.seconds == pytest.approx(0.5, abs=0.15)


def code_of(data, **options):
    with pytest.raises(AudioError) as error:
        audio.require_sound(audio.decode(data, **options))
    return error.value.code


@pytest.mark.parametrize("audio_format", ["wav", "flac", "ogg", "mp3", "opus"])
def test_half_a_file_is_noticed(audio_format):
    data = audio.encode(tone(20.0), 24000, audio_format)
    assert code_of(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize("audio_format", ["AIFF", "FLAC"])
def test_a_file_cut_off_is_to_be_fetched_again(audio_format):
    file = io.BytesIO()
    soundfile.write(file, tone(2.0).T.numpy(), 24000, format=audio_format)
    data = file.getvalue()
    assert audio.decode(data).seconds == 2.0
    with pytest.raises(AudioError, match=r"the file (ends early|is damaged or cut off)") as error:
        audio.decode(data[: len(data) // 2])
    assert error.value.code == "truncated" and "convert it" not in str(error.value)


TAG = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)


def mp3_frames(bit_rate_share, wav):
    """An mp3 of one bit rate without the first frame, which says how many follow."""
    file = io.BytesIO()
    soundfile.write(file, wav.T.numpy(), 44100, format="MP3", bitrate_mode="CONSTANT", compression_level=bit_rate_share)
    data = file.getvalue()
    return data[data.index(data[:2], 2) :]


@pytest.mark.parametrize("begin", [0.1, 0.9], ids=["high", "low"])  # more compression is a lower bit rate
@pytest.mark.parametrize("tag", [b"", TAG], ids=["bare", "tagged"])
def test_an_mp3_of_variable_bit_rate_is_read_whole_whatever_its_first_frame_says(begin, tag):
    data = tag + mp3_frames(begin, tone(3.0, 44100)) + tag + mp3_frames(1 - begin, tone(3.0, 44100))
    assert audio.decode(data).seconds == pytest.approx(6.0, abs=0.2)


def test_an_mp3_of_constant_bit_rate_is_left_as_it_is():
    data = mp3_frames(0.5, tone(1.0, 44100))
    assert with_length(data) == data and with_length(b"ID3" + data) == b"ID3" + data and with_length(data[:100]) == data[:100]


def test_a_large_tag_at_the_end_of_an_mp3_is_no_missing_music():
    data = mp3_frames(0.5, tone(3.0, 44100))
    cover = b"APETAGEX" + (2000).to_bytes(4, "little") + (8000).to_bytes(4, "little") + bytes(8000)
    assert audio.decode(data + cover).seconds == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize(("audio_format", "tag"), [("ogg", b""), ("opus", b""), ("mp3", b""), ("mp3", TAG), ("flac", b""), ("flac", TAG)])
def test_files_joined_end_to_end_are_read_whole(audio_format, tag):
    first, second = audio.encode(tone(0.5, 48000), 48000, audio_format), audio.encode(0.5 * tone(1.0, 24000, 2), 24000, audio_format)
    joined = audio.decode(tag + first + tag + second + first)
    apart = [audio.decode(data) for data in (first, second, first)]
    assert joined.sample_rate == apart[0].sample_rate and joined.seconds == pytest.approx(sum(part.seconds for part in apart), abs=0.001)
    at = apart[0].samples.shape[-1] + 4800
    assert joined.samples.shape[0] == 2 and float(joined.samples[:, at : at + 24000].abs().max()) == pytest.approx(0.25, abs=0.02)
    assert code_of(first + second, max_seconds=1.2) == "too_long"
    assert code_of(first + second[: len(second) // 2]) in ("truncated", "not_audio")


@pytest.mark.parametrize("tag", [b"", TAG, b"TAG" + bytes(125)], ids=["bare", "tagged", "tagged at the end"])
def test_an_mp3_is_read_beyond_the_frames_that_its_first_one_promises(tag):
    first, rest = audio.encode(tone(2.0, 44100), 44100, "mp3"), mp3_frames(0.5, 0.5 * tone(3.0, 44100))
    joined = audio.decode(first + tag + rest + first)
    assert joined.seconds == pytest.approx(7.0, abs=0.2)
    assert float(joined.samples[:, 3 * 44100 : 4 * 44100].abs().max()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(("begin", "end"), [(0.0, 1.0), (1.2, 2.7), (2.5, 9.0), (5.0, 6.0)])
def test_a_stretch_is_what_the_whole_recording_has_there(begin, end):
    data = audio.encode(tone(2.0, 44100, 2), 44100, "flac") + audio.encode(0.5 * tone(2.0, 44100), 44100, "flac")
    whole, stretch = audio.decode(data), audio.decode_stretch(data, begin, end)
    assert (stretch.start, stretch.whole, stretch.sample_rate) == (math.floor(begin), 4.0, 44100)
    assert torch.equal(stretch.samples, whole.samples[:, math.floor(begin) * 44100 : math.ceil(end) * 44100])


def test_a_stretch_takes_memory_for_itself_alone():
    data = audio.encode(tone(120.0, 44100), 44100, "flac")
    tracemalloc.start()
    audio.decode_stretch(data, 100.0, 101.0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 120 * 44100 * 4 / 2  # bytes: half of what all samples take


@pytest.mark.parametrize(("data", "code"), [
    (lambda: audio.encode(tone(4.0), 24000, "wav")[:-48000], "truncated"), (lambda: audio.encode(torch.zeros(1, 96000), 24000, "wav"), "silent")
])  # fmt: skip
def test_all_of_a_recording_is_checked_for_a_stretch_of_it(data, code):
    with pytest.raises(AudioError) as caught:
        audio.decode_stretch(data(), 0.0, 1.0)
    assert caught.value.code == code


@pytest.mark.parametrize("rate", [1, 11, 999])
def test_a_rate_that_no_voice_was_recorded_at_is_a_damaged_header(rate):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(4000, 0.5), rate, format="WAV")
    assert code_of(buffer.getvalue()) == "not_audio"


def test_codes():
    assert code_of(b"") == "empty"
    assert code_of(b"not audio at all, only text " * 50) == "not_audio"
    assert code_of(audio.encode(torch.zeros(1, 24000), 24000, "flac")) == "silent"
    assert code_of(audio.encode(tone(3.0), 24000, "flac"), max_seconds=2.0) == "too_long"
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array([0.0, np.nan, 0.5] * 100, np.float32), 24000, format="WAV", subtype="FLOAT")
    assert code_of(buffer.getvalue()) == "non_finite"
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(0, np.float32), 24000, format="WAV")
    assert code_of(buffer.getvalue()) == "no_samples"


def test_many_channels_and_odd_rates():
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(1.0, 192000, 8).numpy().T, 192000, format="WAV")
    out = audio.decode(buffer.getvalue())
    assert out.samples.shape == (1, 192000)
    assert audio.resample(out.samples, 192000, 24000).shape == (1, 24000)
    low = audio.resample(tone(1.0, 8000), 8000, 24000)
    assert low.shape == (1, 24000) and float(low.abs().max()) == pytest.approx(0.5, abs=0.05)


def test_a_recording_that_is_none_is_named_and_so_it_is_across_processes(tmp_path):
    (tmp_path / "a.mp3").write_bytes(bytes(range(256)) * 8)
    for source, said in ((tmp_path / "a.mp3", f"'{tmp_path / 'a.mp3'}' cannot be decoded"), (b"no audio", "the audio cannot be decoded")):
        with pytest.raises(AudioError, match=re.escape(said)) as raised, audio.opened(source):
            pass
        again = pickle.loads(pickle.dumps(raised.value))
        assert (type(again), again.code, str(again)) == (AudioError, "not_audio", str(raised.value))


def test_real_songs_decode(shared):
    for pattern in ("ultrastar_cc/*/audio.*", "e2e_cc0/*.ogg"):
        for path in shared.glob(pattern):
            assert audio.decode(path.read_bytes()).seconds > 30
