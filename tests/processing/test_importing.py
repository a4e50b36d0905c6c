"""A folder of songs -> index tables."""

import errno
import hashlib
import json
import threading
from pathlib import Path

import fake_ears
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_songs import audio_bytes, read, tone

from autosing.cli.process import main
from autosing.errors import DataError
from autosing.store import Dataset, TableWriter, files
from processing.importing import import_songs

FLAC, *MORE = (audio_bytes(tone(1, frequency)) for frequency in (220, 230, 240, 250, 260, 270))


@pytest.fixture
def music(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    files: dict[str, bytes] = {
        "Anna - First Song.flac": FLAC,
        "Anna - First Song.lrc": b"\xef\xbb\xbf[00:01.00]hello there\n[00:02.00]again",
        "Bea/one.flac": MORE[0],
        "Bea/one.txt": "caf\xe9 olé".encode("cp1252"),
        "Bea/two.wav": audio_bytes(tone(1), kind="WAV"),
        "Bea/two.txt": b"[00:01.00]stamped\n[00:02.00]although text",
        "Cleo - Song of Songs/audio.ogg": audio_bytes(tone(1), kind="OGG", subtype="VORBIS"),
        "Cleo - Song of Songs/lines.derived.lrc": b"[00:00.50]only lrc here",
        "Cleo - Song of Songs/license.txt": b"free",
        "Cleo - Song of Songs/song.txt": b"#TITLE:x\n#BPM:100\n: 0 1 2 la",
        "D\xfcrer/\u3042 b?.flac": MORE[1],
        "E/x.m4a": b"....",
        "E/ultra.flac": MORE[2],
        "E/ultra.txt": b"#TITLE:x\n#BPM:100\n: 0 1 2 la",
        ".hidden/no.flac": FLAC,
    }
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def rows(dataset: Path) -> dict[str, dict]:
    """By path below the imported folder."""
    return {row["source"].partition("/")[2]: row for path in sorted(dataset.glob("*/index.parquet")) for row in read(path)}


def test_songs_find_their_lyrics_artists_and_ids(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = tmp_path / "ds"
    assert main(["import", str(music), str(dataset), "--partition_size", "2"]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == (
        "imported 6 songs (4 with lyrics), partitions 0-2; 0 changed, 0 unchanged, 1 files left out"
    )
    found = rows(dataset)
    first = found["Anna - First Song.flac"]
    assert (first["artist"], first["title"], first["id"]) == ("Anna", "First Song", hashlib.sha256(FLAC).hexdigest()[:24])
    assert "hello there" in first["lrc_lyrics"] and first["raw_lyrics"] is None and first["audio"] == FLAC
    assert found["Bea/one.flac"]["raw_lyrics"] == "café olé" and found["Bea/one.flac"]["artist"] == "Bea"
    assert found["Bea/two.wav"]["lrc_lyrics"] and found["Bea/two.wav"]["raw_lyrics"] is None
    cleo = found["Cleo - Song of Songs/audio.ogg"]
    assert (cleo["artist"], cleo["title"], cleo["id"]) == ("Cleo", "Song of Songs", cleo["audio_hash"])
    assert "only lrc here" in cleo["lrc_lyrics"] and cleo["raw_lyrics"] is None
    assert found["E/ultra.flac"]["raw_lyrics"] is None and found["E/ultra.flac"]["lrc_lyrics"] is None
    assert len({row["id"] for row in found.values()}) == 6


def test_importing_again_changes_nothing(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = tmp_path / "ds"
    main(["import", str(music), str(dataset)])
    before = (dataset / "0" / "index.parquet").read_bytes()
    assert main(["import", str(music), str(dataset)]) == 0
    assert "imported 0 songs" in capsys.readouterr().out.splitlines()[-1]
    assert (dataset / "0" / "index.parquet").read_bytes() == before and not (dataset / "1").exists()


def test_new_and_changed_songs(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = tmp_path / "ds"
    main(["import", str(music), str(dataset), "--partition-size", "3"])
    before = rows(dataset)
    second = (dataset / "1" / "index.parquet").read_bytes()
    (music / "Anna - First Song.lrc").write_text("[00:01.00]other words")
    (music / "Anna - A New One.flac").write_bytes(MORE[3])
    assert main(["import", str(music), str(dataset), "--partition-size", "3"]) == 0
    assert "imported 1 songs (0 with lyrics), partitions 0,2; 1 changed, 5 unchanged" in capsys.readouterr().out
    after = rows(dataset)
    assert after["Anna - First Song.flac"]["lrc_lyrics"] == "[00:01.00]other words"
    assert {s: r["id"] for s, r in before.items()}.items() <= {s: r["id"] for s, r in after.items()}.items()
    assert (dataset / "1" / "index.parquet").read_bytes() == second


def test_the_same_audio_twice_is_reported_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("a.flac", "b.flac", "c.flac"):
        (folder / name).write_bytes(FLAC)
    (folder / "d.flac").write_bytes(MORE[0])
    assert main(["import", str(folder), str(tmp_path / "ds"), "--strict"]) == 1
    out = capsys.readouterr().out
    assert "left out b.flac: has the same audio as 'm/a.flac'" in out and "duplicate 2" in out
    assert set(rows(tmp_path / "ds")) == {"a.flac", "d.flac"}
    assert main(["import", str(folder), str(tmp_path / "ds"), "--keep-duplicates"]) == 0
    found = rows(tmp_path / "ds")
    assert [found[f"{n}.flac"]["id"].removeprefix(found["a.flac"]["id"]) for n in "abc"] == ["", "-2", "-3"]
    assert main(["import", str(folder), str(tmp_path / "ds")]) == 0
    assert "0 changed, 4 unchanged, 0 files left out" in capsys.readouterr().out


def test_lyrics_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "mp3").mkdir()
    (tmp_path / "lyrics" / "en").mkdir(parents=True)
    (tmp_path / "mp3" / "Song_-_Someone.flac").write_bytes(FLAC)
    (tmp_path / "mp3" / "Other.flac").write_bytes(MORE[0])
    (tmp_path / "lyrics" / "en" / "Song_-_Someone.txt").write_text("la la")
    main(["import", str(tmp_path / "mp3"), str(tmp_path / "ds"), "--lyrics-folder", str(tmp_path / "lyrics")])
    assert rows(tmp_path / "ds")["Song_-_Someone.flac"]["raw_lyrics"] == "la la"
    assert rows(tmp_path / "ds")["Other.flac"]["raw_lyrics"] is None


def test_a_folder_without_songs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(tmp_path), str(tmp_path / "ds")]) == 2
    assert "no audio file under" in capsys.readouterr().err


def test_broken_audio_is_imported_and_rejected_later(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "broken.mp3").write_bytes(b"nothing")
    assert main(["import", str(tmp_path / "m"), str(tmp_path / "ds"), "--strict"]) == 0
    assert main(["run", str(tmp_path / "ds"), "--separator", "fake", "--aligner", "fake", "--codec", "fake", "--semantic", "fake", "--voice", "fake"]) == 0
    assert read(tmp_path / "ds" / "0" / "rejected.parquet")[0]["code"] == "not_audio"


def test_two_folders_with_equal_names_inside(tmp_path: Path) -> None:
    for name, audio in (("one", FLAC), ("two", MORE[0])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "song.flac").write_bytes(audio)
        main(["import", str(tmp_path / name), str(tmp_path / "ds")])
    found = [row for path in sorted((tmp_path / "ds").glob("*/index.parquet")) for row in read(path)]
    assert [row["source"] for row in found] == ["one/song.flac", "two/song.flac"] and len({row["id"] for row in found}) == 2


def test_a_step_waits_for_a_partition_that_is_being_imported(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for number, audio in enumerate(MORE):
        (folder / f"{number}.flac").write_bytes(audio)
    dataset = tmp_path / "ds"
    flags = [*fake_ears.FLAGS, "--chunk-length", "4"]
    step = threading.Thread(target=lambda: codes.append(main(["src_sep", str(dataset), "0", *flags])))
    codes: list[int] = []

    def seen(done: int, total: int) -> None:
        if done == 3:
            step.start()
            step.join(2.0)

    assert import_songs(folder, Dataset(dataset), seen=seen).added == len(MORE)
    step.join()
    assert codes == [0] and len(read(dataset / "0" / "vocals.parquet")) == len(MORE)


def states(dataset: Path, name: str = "m") -> list[tuple[str, str]]:
    lines = map(json.loads, (dataset / f"import-{name}.jsonl").read_text().splitlines())
    return sorted((line["state"], line["path"]) for line in lines)


def test_songs_are_told_as_added_or_changed_once_they_are_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m").mkdir()
    for number in range(3):
        (tmp_path / "m" / f"{number}.flac").write_bytes(MORE[number])
    commit = TableWriter.commit

    def full(writer: TableWriter) -> None:
        if writer.path.parent.name == "1":
            raise DataError("cannot write: the disk is full")
        commit(writer)

    monkeypatch.setattr(TableWriter, "commit", full)
    assert main(["import", str(tmp_path / "m"), str(tmp_path / "ds"), "--partition-size", "2"]) == 2
    assert states(tmp_path / "ds") == [("added", "0.flac"), ("added", "1.flac")] and not (tmp_path / "ds" / "1").exists()
    monkeypatch.undo()
    assert main(["import", str(tmp_path / "m"), str(tmp_path / "ds"), "--partition-size", "2"]) == 0
    monkeypatch.setattr(TableWriter, "commit", full)
    for number in (0, 2):
        (tmp_path / "m" / f"{number}.txt").write_text("new words")
    assert main(["import", str(tmp_path / "m"), str(tmp_path / "ds")]) == 2
    assert states(tmp_path / "ds") == [("changed", "0.flac"), ("unchanged", "1.flac")]


def test_a_full_disk_is_one_line(music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "fsync", full)
    assert main(["import", str(music), str(tmp_path / "ds")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"error: cannot write '{tmp_path / 'ds' / 'sources.json'}'") and "No space left" in said[-1]


def test_columns_that_are_no_longer_said_of_a_song_are_emptied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Others, which the owner of the dataset added, stay."""
    folder, dataset = tmp_path / "m", tmp_path / "ds"
    folder.mkdir()
    for name, audio in (("a", FLAC), ("b", MORE[0])):
        (folder / f"{name}.flac").write_bytes(audio)
        (folder / f"{name}.json").write_text('{"bpm": 120, "mood": "glad"}')
    assert main(["import", str(folder), str(dataset)]) == 0
    table = pq.read_table(dataset / "0" / "index.parquet")
    pq.write_table(table.append_column("mine", pa.array([1, 2])), dataset / "0" / "index.parquet")
    (folder / "a.json").write_text('{"bpm": 120}')
    assert main(["import", str(folder), str(dataset)]) == 0
    assert "1 changed" in capsys.readouterr().out
    assert [(row["bpm"], row["mood"], row["mine"]) for row in rows(dataset).values()] == [(120, None, 1), (120, "glad", 2)]
    assert main(["import", str(folder), str(dataset)]) == 0
    assert "0 changed, 2 unchanged" in capsys.readouterr().out


@pytest.mark.parametrize("new", ["b", "y"])
def test_no_song_is_lost_when_the_content_of_files_moves(tmp_path: Path, capsys: pytest.CaptureFixture[str], new: str) -> None:
    folder, dataset = tmp_path / "m", tmp_path / "ds"
    folder.mkdir()
    (folder / "k.flac").write_bytes(FLAC)
    assert main(["import", str(folder), str(dataset)]) == 0
    (folder / f"{new}.flac").write_bytes(FLAC)
    (folder / "k.flac").write_bytes(MORE[0])
    assert main(["import", str(folder), str(dataset)]) == 0
    assert "imported 1 songs" in capsys.readouterr().out and ("added", f"{new}.flac") in states(dataset)
    assert {name: row["audio"] for name, row in rows(dataset).items()} == {f"{new}.flac": FLAC, "k.flac": MORE[0]}


@pytest.mark.parametrize("new", ["b", "y"])
def test_a_renamed_file_is_its_song(tmp_path: Path, capsys: pytest.CaptureFixture[str], new: str) -> None:
    folder, dataset = tmp_path / "m", tmp_path / "ds"
    folder.mkdir()
    for name, audio in (("k", FLAC), ("l", MORE[0]), ("m", MORE[1])):
        (folder / f"{name}.flac").write_bytes(audio)
        (folder / f"{name}.txt").write_text("wrong words")
    assert main(["import", str(folder), str(dataset)]) == 0
    before = rows(dataset)["k.flac"]
    (folder / "k.flac").rename(folder / f"{new}.flac")
    (folder / "k.txt").unlink()
    (folder / f"{new}.txt").write_text("right words")
    (folder / "m.flac").unlink()
    capsys.readouterr()
    assert main(["import", str(folder), str(dataset)]) == 0
    out = capsys.readouterr().out
    assert "1 changed, 1 unchanged, 0 files left out" in out
    assert f"note: m.flac is no longer in '{folder}'; the song stays in the dataset" in out
    found = rows(dataset)
    assert set(found) == {f"{new}.flac", "l.flac", "m.flac"}
    assert (found[f"{new}.flac"]["id"], found[f"{new}.flac"]["raw_lyrics"]) == (before["id"], "right words")
    assert states(dataset) == sorted([("changed", f"{new}.flac"), ("unchanged", "l.flac"), ("gone", "m.flac")])
    assert main(["import", str(folder), str(dataset)]) == 0
    assert "0 changed, 2 unchanged" in capsys.readouterr().out


def test_one_table_says_nothing_about_the_songs_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, dataset = tmp_path / "m", tmp_path / "ds"
    folder.mkdir()
    for name, audio in (("a", FLAC), ("b", MORE[0])):
        (folder / f"{name}.flac").write_bytes(audio)
        (folder / f"{name}.csv").write_text(f"file_name,lyrics\n{name}.flac,la\n")
        assert main(["import", str(folder / f"{name}.csv"), str(dataset)]) == 0
    assert "no longer" not in capsys.readouterr().out and len(rows(dataset)) == 2
    (folder / "a.flac").rename(folder / "c.flac")
    (folder / "a.csv").write_text("file_name,lyrics\nc.flac,la la\n")
    assert main(["import", str(folder / "a.csv"), str(dataset)]) == 0
    assert {name: row["raw_lyrics"] for name, row in rows(dataset).items()} == {"c.flac": "la la", "b.flac": "la"}
