"""Files that cannot be read, or not as they seem: named, and no hindrance to the others."""

import os
import unicodedata
from pathlib import Path

import pytest
from small_songs import audio_bytes, read, tone

from autosing.cli.process import main
from processing.formats import folder
from processing.formats.base import Entry, Options
from processing.formats.files import decode_text

FLAC, OTHER, MORE = (audio_bytes(tone(1, frequency)) for frequency in (220, 330, 440))


@pytest.fixture
def music(tmp_path: Path) -> Path:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "good.flac").write_bytes(FLAC)
    return tmp_path / "music"


def imported(music: Path, *flags: str) -> dict[str, dict]:
    dataset = music.parent / "ds"
    assert main(["import", str(music), str(dataset), *flags]) == 0
    return {row["source"]: row for path in sorted(dataset.glob("*/index.parquet")) for row in read(path)}


def test_what_cannot_be_read_is_left_out(music: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (music / "gone.flac").symlink_to(music / "nowhere.flac")
    (music / "good.lrc").symlink_to(music / "nowhere.lrc")
    os.mkfifo(music / "pipe.flac")
    other = music.parent / "other"
    other.mkdir()
    (other / "far.flac").write_bytes(FLAC)
    (music / "linked").symlink_to(other)
    assert list(imported(music)) == ["music/good.flac"]
    out = capsys.readouterr().out
    assert "left out gone.flac: cannot be read (No such file or directory)" in out
    assert "left out good.lrc: cannot be read (No such file or directory)" in out
    assert "left out pipe.flac: cannot be read (not a file)" in out
    assert "left out linked: a link to a folder is not followed" in out and "4 files left out" in out


def test_audio_that_cannot_be_opened(music: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (music / "closed.flac").write_bytes(OTHER)
    read_bytes = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == "closed.flac":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert list(imported(music)) == ["music/good.flac"]
    assert "left out closed.flac: cannot be read (Permission denied)" in capsys.readouterr().out
    monkeypatch.undo()
    assert list(imported(music)) == ["music/good.flac", "music/closed.flac"]


def test_lyrics_that_cannot_be_read_for_once_are_not_lost(music: Path) -> None:
    lyrics = music / "good.txt"
    lyrics.write_text("la la")
    imported(music)
    lyrics.unlink()
    lyrics.symlink_to(music / "nowhere")
    assert imported(music)["music/good.flac"]["raw_lyrics"] == "la la"


@pytest.mark.parametrize("broken", [b"", OTHER[: len(OTHER) // 2], b"<html>404</html>"])
def test_a_broken_copy_does_not_replace_a_song(music: Path, capsys: pytest.CaptureFixture[str], broken: bytes) -> None:
    imported(music)
    (music / "good.flac").write_bytes(broken)
    (music / "new.flac").write_bytes(OTHER)
    assert imported(music)["music/good.flac"]["audio"] == FLAC
    out = capsys.readouterr().out
    assert "left out good.flac: " in out and "0 changed" in out and "1 files left out" in out
    (music / "good.flac").write_bytes(MORE)
    assert imported(music)["music/good.flac"]["audio"] == MORE


def test_a_file_without_bytes_is_no_song(music: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.mp3", "b.flac"):
        (music / name).touch()
    assert list(imported(music)) == ["music/good.flac"]
    assert "left out b.flac: holds no bytes; copy or fetch it again" in capsys.readouterr().out


def test_other_recordings_and_videos_are_named(music: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a.ape", "b.wv", "c.mkv", "d.MOV", "e.avi", "f.m4b")
    for name in names:
        (music / name).write_bytes(b"..")
    assert list(imported(music)) == ["music/good.flac"]
    out = capsys.readouterr().out
    assert all(f"left out {name}: {name[1:]} cannot be read; convert it to flac, ogg or mp3" in out for name in names)


def test_file_names_that_are_not_utf8(music: Path) -> None:
    with open(os.fsencode(music) + b"/caf\xe9.flac", "wb") as file:
        file.write(OTHER)
    assert "music/caf\\xe9.flac" in imported(music)


def test_names_composed_in_two_ways_are_one(music: Path) -> None:
    (music / unicodedata.normalize("NFC", "é.flac")).write_bytes(OTHER)
    (music / unicodedata.normalize("NFD", "é.txt")).write_text("la la")
    assert [row["raw_lyrics"] for row in imported(music).values() if row["title"] != "good"] == ["la la"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("text", ["[00:01.00]hello\n[00:02.00]you", "[00:01.00]夜空ノムコウ\n[00:12.00]あの頃の未来に"])
def test_unicode_is_known_without_its_mark(encoding: str, text: str) -> None:
    assert decode_text(text.encode(encoding)) == (text, True)


def test_lyrics_of_other_encodings_are_reported_and_can_be_named(music: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (music / "good.txt").write_bytes("夜空".encode("gbk"))
    assert imported(music)["music/good.flac"]["raw_lyrics"] != "夜空"
    assert "note: good.txt is not UTF-8 and was read as Windows-1252; say --lyrics-encoding" in capsys.readouterr().out
    assert imported(music, "--lyrics-encoding", "gbk")["music/good.flac"]["raw_lyrics"] == "夜空"
    assert imported(music)["music/good.flac"]["raw_lyrics"] == "夜空"  # remembered
    assert "note:" not in capsys.readouterr().out.splitlines()[-1]
    assert imported(music, "--lyrics-encoding", "ascii")["music/good.flac"]["raw_lyrics"] == "夜空"
    assert "left out good.txt: cannot be read (neither UTF-8 nor ascii)" in capsys.readouterr().out


def test_unknown_encodings_are_one_line(music: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("gkb", "hex"):
        assert main(["import", str(music), str(music.parent / "ds"), "--lyrics-encoding", name]) == 2
        assert f"no text encoding is called '{name}'" in capsys.readouterr().err


def test_a_folder_of_files_that_cannot_be_read_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "song.m4a").write_bytes(b"....")
    assert main(["import", str(tmp_path / "m"), str(tmp_path / "ds")]) == 2
    assert "(1 left out, such as 'song.m4a': .m4a cannot be read; convert it to flac, ogg or mp3)" in capsys.readouterr().err


def test_a_large_folder_is_not_searched_again_for_each_song(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        (tmp_path / f"{number}.flac").write_bytes(FLAC)
        (tmp_path / f"{number}.txt").write_text(f"la {number}")
    looks = 0
    stem = folder._stem

    def counted(path: Path) -> str:
        nonlocal looks
        looks += 1
        return stem(path)

    monkeypatch.setattr(folder, "_stem", counted)
    songs = [entry.load() for entry in folder.READER.entries(tmp_path, Options()) if isinstance(entry, Entry)]
    assert {song.columns["raw_lyrics"] for song in songs} == {f"la {number}" for number in range(200)}
    assert looks < 10 * len(songs)
