"""Training songs heard again at other speeds: everything in a row goes the same way."""

import io

import numpy as np
import pytest
import soundfile

from autosing.rendering.tokens import SPEEDS, Tokeniser, altered_speed, true_alignment


def song(seconds: float = 12.0) -> dict:
    rng = np.random.default_rng(0)
    time = np.arange(int(24000 * seconds)) / 24000

    def stem(wave: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, wave + 1e-4 * rng.standard_normal(len(wave)), 24000, format="WAV")
        return buffer.getvalue()

    sung = sum(np.sin(2 * np.pi * 220 * k * time) / k for k in range(1, 9)) * 0.1
    words = [{"text": "la", "start": 2.0, "end": 3.0, "line": 0}, {"text": "lo", "start": 6.0, "end": 8.8, "line": 0}]
    phones = [{"phone": "AA", "start": w["start"], "end": w["end"], "word": number} for number, w in enumerate(words)]
    return {
        "id": "a", "artist": "b", "vocals": stem(sung), "accompaniment": stem(0.1 * np.sin(2 * np.pi * 110 * time)),
        "words": words, "phones": phones,
    }  # fmt: skip


def test_copies_have_different_speeds_and_the_song_itself_has_none() -> None:
    for name in ("a", "b", "c"):
        speeds = [altered_speed(name, copy) for copy in range(len(SPEEDS) + 1)]
        assert speeds[0] == 1.0 and sorted(speeds[1:]) == sorted(SPEEDS)


def test_words_come_earlier_and_the_pitch_is_higher_in_a_faster_song() -> None:
    tokeniser = Tokeniser()
    (plain,), (fast,) = tokeniser.rows(song()), tokeniser.rows(song(), 1.1)
    assert fast["id"] != plain["id"] and fast["artist"] != plain["artist"] and fast["song"] == plain["song"]
    assert fast["alignment"]["starts"] == pytest.approx([2.0 / 1.1, 6.0 / 1.1])
    assert len(fast["stoks"]) == len(plain["stoks"]) == 750
    pitch = [np.median(np.array(row["atoks"]).reshape(4, -1)[1, : 10 * 83 : 4]) for row in (plain, fast)]
    assert pitch[1] > pitch[0]


def test_times_scale_with_speed() -> None:
    slow = true_alignment(song(), 0.5)
    assert [t.start for t in slow.tokens] == [4.0, 12.0] and [t.end for t in slow.tokens] == [6.0, 17.6]
