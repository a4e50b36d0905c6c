"""Tar archives as others make and break them: nothing is extracted or followed, what is whole is kept, memory stays bounded."""

import gzip
import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from small_songs import audio_bytes, read, tone

from autosing.store import Dataset
from processing.formats import webdataset
from processing.importing import Imported, import_songs

FLAC, OTHER = audio_bytes(tone(1)), audio_bytes(tone(1, 330))


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def imported(source: Path) -> tuple[Imported, list[dict]]:
    dataset = source.parent / "ds"
    report = import_songs(source, Dataset(dataset))
    return report, [row for path in sorted(dataset.glob("*/index.parquet")) for row in read(path)]


def codes(report: Imported) -> Counter[str]:
    return Counter(report.codes)


def test_names_are_keys_and_never_paths(tmp_path: Path) -> None:
    evil = archive(
        tmp_path / "in" / "x.tar",
        member("../../canary.flac", FLAC),
        member("/abs/ok.flac", FLAC),
        member("dir", kind=tarfile.DIRTYPE),
        member("link.flac", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member("hard.flac", kind=tarfile.LNKTYPE, link="/abs/ok.flac"),
        member("device.flac", kind=tarfile.CHRTYPE),
        member("noending", b"x"),
        member("a/._b.flac", OTHER),
        member("__meta__", b"x"),
        member("b\tc.mp3", OTHER),
        member("b\tc.lrc", b"[00:01.00]la"),
    )
    report, rows = imported(evil)
    assert [row["source"] for row in rows] == ["in/x.tar/abs/ok", "in/x.tar/b\ufffdc"] and rows[1]["lrc_lyrics"]
    assert codes(report) == {"link": 3, "bad_name": 2}
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in (".tar", ".parquet", ".json", ".jsonl")) == []


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_an_archive_that_breaks_off_loses_no_whole_song(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "in" / name, *(member(f"{i}.flac", audio_bytes(tone(1, 200 + i))) for i in range(5)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5])
    report, rows = imported(path)
    assert [row["source"][-1] for row in rows] == ["0", "1", "2"][: len(rows)] and len(rows) >= 2
    assert codes(report)["damaged_archive"] == 1
    path.write_bytes(data)
    report, rows = imported(path)
    assert len(rows) == 5 and (report.unchanged, report.changed) == (5 - report.added, 0)


def test_headers_and_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 8 << 30  # says that 8 GB of attributes follow
    path = tmp_path / "in" / "b.tar.gz"
    path.parent.mkdir()
    with gzip.open(path, "wb") as file:
        info, data = member("good.flac", FLAC)
        file.write(info.tobuf() + data + bytes(-len(data) % 512) + header.tobuf() + bytes(1 << 20))
    report, rows = imported(path)
    assert len(rows) == 1 and codes(report) == {"damaged_archive": 1}
    monkeypatch.setattr(webdataset, "MAX_FILE_BYTES", len(OTHER) - 1)
    monkeypatch.setattr(webdataset, "MAX_TEXT_BYTES", 10)
    archive(tmp_path / "in" / "c.tar", member("a.flac", OTHER + b"more"), member("b.flac", FLAC[:50]), member("b.txt", b"la " * 10))
    report, rows = imported(tmp_path / "in" / "c.tar")
    assert codes(report) == {"too_large": 2} and rows[-1]["source"] == "in/c.tar/b" and rows[-1]["raw_lyrics"] is None


def test_members_of_one_song(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "in" / "x.tar",
        member("a.vocals.flac", FLAC), member("a.flac", OTHER), member("a.cls", b"7"), member("a.json", b'{"lyrics": "[verse] One. Two ; [chorus] Three", "n": 1}'),
        member("b.json", b"{broken"), member("b.wav", FLAC), member("b.wav", OTHER),
        member("c.txt", b"words alone"), member("d.m4a", b"...."),
    )  # fmt: skip
    report, rows = imported(path)
    assert rows[0]["audio"] == OTHER and rows[0]["raw_lyrics"] == "[verse]\nOne\nTwo\n[chorus]\nThree" and rows[0]["n"] == 1
    assert rows[1]["audio"] == FLAC and "lyrics" not in rows[0]
    assert codes(report) == {"bad_json": 1, "bad_name": 1, "missing_audio": 1, "format": 1}


def test_names_with_dots_are_one_song_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "in" / "x.tar",
        member("Mr. Ann.flac", FLAC), member("Mr. Bo.flac", OTHER), member("Mr. Bo.txt", b"of Bo"), member("Mr. Ann.txt", b"of Ann"),
        member("s.left.flac", FLAC + b"1"), member("s.right.flac", FLAC + b"2"),
    )  # fmt: skip
    report, rows = imported(path)
    assert [(row["source"], row["audio"]) for row in rows] == [("in/x.tar/Mr", OTHER), ("in/x.tar/s", FLAC + b"1")]
    assert rows[0]["raw_lyrics"] == "of Bo" and codes(report) == {"extra_audio": 2}


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(b"no tar at all" * 99)
    (tmp_path / "in" / "b.tar").write_bytes(b"")
    archive(tmp_path / "in" / "c.tar", member("a.flac", FLAC))
    report, rows = imported(tmp_path / "in")
    assert len(rows) == 1 and codes(report) == {"damaged_archive": 2}
