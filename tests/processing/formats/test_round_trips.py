"""Songs in every format give the same rows, and the rows of every format, exported in every way, come back as they were."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_songs import audio_bytes, read, tone

from autosing.store import Dataset
from processing.exporting import export_songs
from processing.formats import READERS, WRITERS
from processing.importing import import_songs

LRC = "[00:01.00]<00:01.00>one <00:01.50>two\n[00:03.00]three ñ"
SONGS: list[dict] = [
    {"id": "a/1", "audio": audio_bytes(tone(1)), "lrc_lyrics": LRC, "raw_lyrics": None, "artist": "Ä", "title": "First. Song", "bpm": 90, "tags": ["x", "y"]},
    {"id": "../b", "audio": audio_bytes(tone(1, 330), kind="WAV"), "lrc_lyrics": None, "raw_lyrics": "[verse]\nplain\nlines", "artist": None, "title": "B", "bpm": None, "tags": []},
    {"id": "003", "audio": audio_bytes(tone(1, 440), kind="OGG", subtype="VORBIS"), "lrc_lyrics": None, "raw_lyrics": None, "artist": "C", "title": None, "bpm": 120, "tags": None},
]  # fmt: skip
SUFFIXES = (".flac", ".wav", ".ogg")


def put(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def without(song: dict, *names: str) -> dict:
    return {name: value for name, value in song.items() if name not in ("audio", *names)}


def make_folder(folder: Path) -> Path:
    for number, (song, suffix) in enumerate(zip(SONGS, SUFFIXES, strict=True)):
        put(folder, f"{number}/song{suffix}", song["audio"])
        put(folder, f"{number}/song.json", json.dumps(without(song, "lrc_lyrics", "raw_lyrics")).encode())
        for name, ending in (("lrc_lyrics", ".lrc"), ("raw_lyrics", ".txt")):
            if song[name]:
                put(folder, f"{number}/song{ending}", song[name].encode())
    return folder


def with_audio(folder: Path, below: str = "sounds") -> list[tuple[dict, str]]:
    found = []
    for number, (song, suffix) in enumerate(zip(SONGS, SUFFIXES, strict=True)):
        put(folder, f"{below}/{number}{suffix}", song["audio"])
        found.append((song, f"{below}/{number}{suffix}"))
    return found


def make_jsonl(folder: Path) -> Path:
    rows = [{"file_name": name, **without(song)} for song, name in with_audio(folder)]
    put(folder, "songs.jsonl", lines(rows))
    return folder / "songs.jsonl"


def make_csv(folder: Path) -> Path:
    rows = [{"File Name": name, **without(song)} for song, name in with_audio(folder)]
    with io.StringIO(newline="") as text:
        writer = csv.DictWriter(text, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
        put(folder, "songs.csv", text.getvalue().encode("utf-8-sig"))
    return folder / "songs.csv"


def make_songgen(folder: Path) -> Path:
    rows = [{"audio_path": name, "lyrics": s["lrc_lyrics"] or s["raw_lyrics"], "text": "a song", "reference_audio": "x.wav", **without(s, "lrc_lyrics", "raw_lyrics")} for s, name in with_audio(folder)]  # fmt: skip
    put(folder, "train.json", json.dumps(rows, indent=2).encode())
    return folder


def make_songgeneration(folder: Path) -> Path:
    rows = [{"path": f"{folder.name}/{name}", "gt_lyric": s["lrc_lyrics"] or ("[verse] plain. lines" if s["raw_lyrics"] else ""), "descriptions": "sad", "idx": s["id"], **without(s, "lrc_lyrics", "raw_lyrics", "id")} for s, name in with_audio(folder, "wavs")]  # fmt: skip
    put(folder, "metadata.jsonl", lines(rows))
    return folder


def make_hf(folder: Path) -> Path:
    put(folder, "README.md", b"mine")
    rows = [{"file_name": name.removeprefix("train/"), **without(song)} for song, name in with_audio(folder, "train/data")]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train" / "metadata.parquet")
    return folder


def make_webdataset(folder: Path) -> Path:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "shard-0.tar", "w") as archive:
        for number, (song, suffix) in enumerate(zip(SONGS, SUFFIXES, strict=True)):
            files = {suffix: song["audio"], ".json": json.dumps(without(song, "lrc_lyrics", "raw_lyrics")).encode()}
            files |= {e: song[n].encode() for n, e in (("lrc_lyrics", ".lrc"), ("raw_lyrics", ".txt")) if song[n]}
            for ending, data in files.items():
                member = tarfile.TarInfo(f"x/{number}{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return folder


def make_ultrastar(folder: Path) -> Path:
    for (song, name), sheet in zip(with_audio(folder), ("#GAP:1000\n: 0 1 1 one\n: 2 1 1  two", "#GAP:0\n: 0 1 1 plain", "#GENRE:pop"), strict=True):
        head = f"#TITLE:{song['title'] or 'T'}\n#ARTIST:{song['artist'] or 'A'}\n#MP3:{Path(name).name}\n#BPM:60\n"
        put(folder, f"{Path(name).with_suffix('.txt')}", (head + sheet).encode("cp1252"))
    return folder


MAKERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "folder": ("folder", make_folder),
    "jsonl": ("table", make_jsonl),
    "csv": ("table", make_csv),
    "songgen": ("songgen", make_songgen),
    "songgeneration": ("songgeneration", make_songgeneration),
    "hf": ("hf", make_hf),
    "webdataset": ("webdataset", make_webdataset),
    "ultrastar": ("ultrastar", make_ultrastar),
}


def rows_of(dataset: Path) -> list[dict]:
    """Rows without what an import makes, and without columns that hold nothing in this row."""
    rows = [row for path in sorted(dataset.glob("*/index.parquet"), key=lambda p: int(p.parent.name)) for row in read(path)]
    return [{name: value for name, value in row.items() if name not in ("source", "audio_hash") and value is not None} for row in rows]


def test_every_format_has_a_maker_here() -> None:
    assert {name for name, _ in MAKERS.values()} == set(READERS.names())


@pytest.mark.parametrize("kind", MAKERS)
def test_songs_of_every_format_are_the_same_rows(kind: str, tmp_path: Path) -> None:
    name, make = MAKERS[kind]
    source = make(tmp_path / "my songs")
    assert next(n for n in READERS.names() if READERS.get(n).recognises(source)) == name
    report = import_songs(source, Dataset(tmp_path / "ds"), 2)
    assert (report.added, report.partitions, dict(report.codes)) == (3, (0, 1), {})
    found = rows_of(tmp_path / "ds")
    assert [row["audio"] for row in found] == [song["audio"] for song in SONGS]
    if kind == "ultrastar":  # no ids, no such columns
        assert found[0]["lrc_lyrics"] == "[00:01.00]<00:01.00>one <00:01.50>two\n[00:01.75]\n"
        assert found[2]["genre"] == "pop" and "lrc_lyrics" not in found[2] and found[0]["artist"] == "Ä"
        return
    wanted = [{name: value for name, value in song.items() if value is not None} for song in SONGS]
    for row, song in zip(found, wanted, strict=True):
        extra = {"text", "reference_audio", "descriptions"}
        song = song | ({"tags": str(song["tags"])} if kind == "csv" and "tags" in song else {})
        assert {name: value for name, value in row.items() if name not in extra} == song
    again = import_songs(source, Dataset(tmp_path / "ds"), 2)
    assert (again.added, again.changed, again.unchanged, again.partitions) == (0, 0, 3, ())


@pytest.mark.parametrize("kind", ["jsonl", "songgen", "songgeneration", "hf", "webdataset"])
def test_where_audio_is_stored_is_no_artist(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a table's path and the name of an archive tell nothing about who sings."""
    monkeypatch.setattr("test_round_trips.SONGS", [{name: value for name, value in song.items() if name != "artist"} for song in SONGS])
    import_songs(MAKERS[kind][1](tmp_path / "my songs"), Dataset(tmp_path / "ds"), 2)
    assert len(rows := rows_of(tmp_path / "ds")) == 3 and not any("artist" in row for row in rows)


@pytest.mark.parametrize("target", WRITERS.names())
@pytest.mark.parametrize("kind", MAKERS)
def test_rows_come_back_as_they_were(kind: str, target: str, tmp_path: Path) -> None:
    import_songs(MAKERS[kind][1](tmp_path / "my songs"), Dataset(tmp_path / "ds"), 2)
    report = export_songs(Dataset(tmp_path / "ds"), target, tmp_path / "out")
    assert (report.songs, report.dropped) == (3, ())
    assert next(n for n in READERS.names() if READERS.get(n).recognises(tmp_path / "out")) == target
    back = import_songs(tmp_path / "out", Dataset(tmp_path / "back"), 2)
    assert (back.added, dict(back.codes)) == (3, {})
    assert rows_of(tmp_path / "back") == rows_of(tmp_path / "ds")
    assert not list(tmp_path.rglob(".*.tmp"))
