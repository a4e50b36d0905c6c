"""Bad rows become rejected rows with a code, and their neighbours are as if they had been alone."""

import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from small_songs import RATE, SMALL, audio_bytes, read, tone, write_index

from autosing.cli.process import main

FLAC = audio_bytes(tone(5))


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def wav_with(value: float) -> bytes:
    samples = tone(5).astype(np.float32)
    samples[1000] = value
    return audio_bytes(samples, kind="WAV", subtype="FLOAT")


def lying_header(frames: int, rate: int = RATE) -> bytes:
    """A FLAC whose STREAMINFO promises `frames` samples."""
    data = bytearray(FLAC)
    packed = int.from_bytes(data[18:26], "big")
    packed = (packed & ~((1 << 36) - 1) & ~(((1 << 20) - 1) << 44)) | (rate << 44) | frames
    data[18:26] = packed.to_bytes(8, "big")
    return bytes(data)


def empty_wav() -> bytes:
    head = b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return head + b"data" + struct.pack("<I", 0)


NOISE = np.random.default_rng(0).standard_normal((5 * RATE, 1)) * 0.1
BAD = {
    "null": (None, "missing_audio"),
    "empty": (b"", "empty"),
    "text": (b"these are not the bytes you are looking for" * 10, "not_audio"),
    "half_wav": (half(audio_bytes(tone(5), kind="WAV")), "truncated"),
    "half_flac": (half(audio_bytes(NOISE)), ("truncated", "not_audio")),
    "half_ogg": (half(audio_bytes(NOISE, kind="OGG", subtype="VORBIS")), "truncated"),
    "half_mp3": (half(audio_bytes(tone(5), kind="MP3", subtype="MPEG_LAYER_III")), "truncated"),
    "promises_much": (lying_header(20 * 60 * RATE), ("truncated", "not_audio")),
    "ten_hours": (lying_header(10 * 3600 * RATE), "too_long"),
    "fast_and_long": (lying_header(20 * 60 * 655_350, 655_350), "too_long"),
    "nan": (wav_with(float("nan")), "non_finite"),
    "inf": (wav_with(float("inf")), "non_finite"),
    "no_frames": (empty_wav(), ("no_samples", "not_audio")),
    "one_sample": (audio_bytes(tone(1 / RATE)), "too_short"),
    "silence": (audio_bytes(np.zeros((5 * RATE, 2))), "silent"),
    "too_little": (audio_bytes(np.concatenate([tone(1.5), np.zeros((6 * RATE, 2))])), "too_little_singing"),
    "too_many_words": (FLAC, "too_many_words"),
}
GOOD = {
    "eight_channels": audio_bytes(tone(5, channels=8), kind="WAV"),
    "slow": audio_bytes(tone(5, rate=4000), rate=4000),
    "fast": audio_bytes(tone(5, rate=192_000, channels=1), rate=192_000, kind="WAV"),
    "mp3": audio_bytes(tone(5), kind="MP3", subtype="MPEG_LAYER_III"),
    "opus": audio_bytes(tone(5), kind="OGG", subtype="OPUS"),
}


def test_every_bad_row_is_rejected_and_its_neighbours_untouched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "la " * 1000
    bad = [{"id": name, "audio": data, "raw_lyrics": words if name == "too_many_words" else None} for name, (data, _) in BAD.items()]
    good = [{"id": name, "audio": data, "raw_lyrics": "la la"} for name, data in GOOD.items()]
    mixed = [row for pair in zip(bad, [*good, *[None] * len(bad)], strict=False) for row in pair if row]
    write_index(tmp_path / "mixed" / "0", mixed)
    write_index(tmp_path / "good" / "0", good)
    assert main(["run", str(tmp_path / "good"), *SMALL, "--strict"]) == 0
    capsys.readouterr()
    assert main(["run", str(tmp_path / "mixed"), *SMALL]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith(f"accepted {len(GOOD)} songs (5 windows), rejected {len(BAD)} (") and "silent 1" in last
    rejected = {row["id"]: row for row in read(tmp_path / "mixed" / "0" / "rejected.parquet")}
    assert set(rejected) == set(BAD)
    for name, (_, code) in BAD.items():
        assert rejected[name]["code"] in ((code,) if isinstance(code, str) else code), rejected[name]
        assert rejected[name]["reason"] and rejected[name]["partition"] == 0
    for table in ("vocals", "no_vocals", "alignment", "chunked", "quality", "atoks_vocals_fake", "atoks_no_vocals_fake", "stoks", "artist_embs"):
        alone, among = (read(tmp_path / where / "0" / f"{table}.parquet") for where in ("good", "mixed"))
        kept = [row for row in among if row.get("song", row["id"]) in GOOD]
        assert kept == alone, table
    assert main(["run", str(tmp_path / "mixed"), *SMALL, "--strict"]) == 1


def test_songs_in_are_songs_out_and_rejected_at_every_step(tmp_path: Path) -> None:
    import json

    rows = [{"id": f"s{i}", "audio": FLAC if i % 2 else b"no"} for i in range(6)]
    write_index(tmp_path / "0", rows)
    assert main(["run", str(tmp_path), *SMALL]) == 0
    steps = json.loads((tmp_path / "0" / "manifest.json").read_text())["steps"]
    assert steps["src_sep"]["songs"] == 6 and steps["src_sep"]["rejected"] == 3 and steps["src_sep"]["tables"]["vocals"]["rows"] == 3
    assert steps["align"]["songs"] == 3 and steps["vad_extract"]["songs"] == 3


def test_all_rows_bad_leaves_empty_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_index(tmp_path / "0", [{"id": "a", "audio": b"x"}, {"id": "b", "audio": b""}])
    assert main(["run", str(tmp_path), *SMALL]) == 0
    assert read(tmp_path / "0" / "stoks.parquet") == []
    assert "accepted 0 songs (0 windows), rejected 2 (empty 1, not_audio 1)" in capsys.readouterr().out


def test_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of rows that share an id the first of the lowest partition stays; ids are never paths."""
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    odd = ["../../outside", "/abs", "..", "a/b", "日本", "with space", "a_at_0"]
    first = ["a", "a", None, "", "  ", "line\nbreak", "nul\0byte", "x" * 10_000, nfc, *odd]
    second = ["a", "b", nfd, "b", None]
    dataset = tmp_path / "deep" / "ds"
    for number, ids in enumerate((first, second)):
        write_index(dataset / str(number), [{"id": i, "audio": FLAC} for i in ids])
    assert main(["run", str(dataset), *SMALL]) == 0
    accepted = [{row["song"] for row in read(dataset / str(n) / "stoks.parquet")} for n in (0, 1)]
    assert accepted == [{"a", nfc, *odd}, {"b"}]
    codes = [[row["code"] for row in read(dataset / str(n) / "rejected.parquet")] for n in (0, 1)]
    assert codes[0] == ["duplicate_id", "null_id", "bad_id", "bad_id", "bad_id", "bad_id", "bad_id"]
    assert codes[1] == ["duplicate_id", "duplicate_id", "duplicate_id", "null_id"]
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith(f"accepted {len(odd) + 3} songs")
    assert [p.name for p in tmp_path.iterdir()] == ["deep"] and [p.name for p in (tmp_path / "deep").iterdir()] == ["ds"]
    assert {p.name for p in dataset.iterdir()} == {"0", "1"}


def test_audio_goes_with_the_first_of_two_rows_with_one_id(tmp_path: Path) -> None:
    write_index(
        tmp_path / "0",
        [{"id": "a", "audio": FLAC, "raw_lyrics": "first words"}, {"id": "a", "audio": audio_bytes(tone(9)), "raw_lyrics": "second"}],
    )
    assert main(["run", str(tmp_path), *SMALL]) == 0
    assert read(tmp_path / "0" / "alignment.parquet")[0]["alignment"]["words"] == ["first", "words"]
    assert len(read(tmp_path / "0" / "chunked.parquet")) == 1


def test_a_long_index_needs_little_memory_and_time(tmp_path: Path) -> None:
    """20,000 rows without audio: all rejected, quickly."""
    write_index(tmp_path / "0", [{"id": f"song {i}", "audio": None} for i in range(20_000)])
    assert main(["src_sep", str(tmp_path), *SMALL]) == 0
    assert len(read(tmp_path / "0" / "rejected.parquet")) == 20_000


@pytest.mark.parametrize(
    ("sung", "length", "advice"),
    [(6, "20", ["--chunk-length", "6"]), (1.5, "4", ["--min-occupancy", "0.3"]), (0.5, "4", None)],
)
def test_a_song_without_a_window_says_what_would_keep_it(tmp_path: Path, sung: float, length: str, advice: list[str] | None) -> None:
    write_index(tmp_path / "0", [{"id": "a", "audio": audio_bytes(np.concatenate([tone(sung), np.zeros((4 * RATE, 2))])[: 6 * RATE])}])
    assert main(["run", str(tmp_path), *SMALL, "--chunk-length", length]) == 0
    reason = read(tmp_path / "0" / "rejected.parquet")[0]["reason"]
    assert ("would keep it" in reason) == (advice is not None)
    if advice:
        assert advice[0] in reason
        assert main(["run", str(tmp_path), *SMALL, "--chunk-length", length, *advice]) == 0
        assert read(tmp_path / "0" / "rejected.parquet") == [] and len(read(tmp_path / "0" / "chunked.parquet")) == 1
