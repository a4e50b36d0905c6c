"""Training songs heard again at other speeds: everything in a row goes the same way."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from autosing.rendering.tokens import SPEEDS, Tokeniser, altered_speed, true_alignment, write_tokens


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


def test_a_token_set_has_the_songs_their_copies_and_the_validation_songs(tmp_path: Path) -> None:
    for folder in ("train", "held"):
        (tmp_path / folder / "0").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([{**song(), "kind": "song"}]), tmp_path / folder / "0" / "songs.parquet")
    told = list(write_tokens(tmp_path / "train", tmp_path / "both", tmp_path / "held", altered=1))
    assert len(told) == 4 and json.loads((tmp_path / "both" / "dataset.json").read_text())["rows"] == {"train": 2, "validation": 1}
    rows = [pq.read_table(tmp_path / "both" / str(number) / "main.parquet").to_pylist()[0] for number in range(3)]
    assert rows[0] == rows[2] and rows[1]["id"] == f"a_x{altered_speed('a', 1):g}_at_0.00"
    list(write_tokens(None, tmp_path / "held-alone", tmp_path / "held"))
    assert json.loads((tmp_path / "held-alone" / "dataset.json").read_text())["rows"] == {"train": 0, "validation": 1}


def test_times_scale_with_speed() -> None:
    slow = true_alignment(song(), 0.5)
    assert [t.start for t in slow.tokens] == [4.0, 12.0] and [t.end for t in slow.tokens] == [6.0, 17.6]
