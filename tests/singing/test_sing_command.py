"""What `sing.py` writes and says, with a singer that only pretends."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autosing.cli import sing as command
from autosing.errors import AudioError
from autosing.singing import pipeline
from autosing.singing.output import settle, together
from autosing.singing.picture import draw
from autosing.singing.request import SingRequest, Sung
from autosing.song.alignment import Alignment, Word
from autosing.song.lyrics import parse_lrc


class Pretender:
    """Sings a tone in no time; `made` counts how often the models would have been loaded."""

    made = 0

    def __init__(self, *_: object) -> None:
        type(self).made += 1

    def sing(self, request: SingRequest, progress=None, listening=None) -> Sung:
        if progress is not None:
            progress(0.25, "t2s")
            progress(1.0, "align")
        if request.reference is not None and request.reference.read_bytes() == b"broken":
            raise AudioError("not_audio", "cannot be decoded")
        tone = torch.sin(torch.arange(16000) * 0.1)[None] * 0.1
        if listening is not None:
            listening(tone[:, :10000], 16000)
            listening(tone[:, 10000:], 16000)
        report = {"seconds": 1.0, "stage_seconds": {"t2s": 0.0}, "word_scores": [0.5]}
        others = (tone,) * (request.candidates - 1)
        return Sung(tone, tone, tone * 0, 16000, Alignment((Word("la", 0.1, 0.5, 0.9, 0),)), others, report, {"codes": torch.zeros(4, 8)})


@pytest.fixture(autouse=True)
def pretender(monkeypatch: pytest.MonkeyPatch) -> type[Pretender]:
    monkeypatch.setattr(pipeline, "Singer", Pretender)
    monkeypatch.setattr(Pretender, "made", 0)
    return Pretender


def song(folder: Path, name: str, data: bytes = b"song") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def test_how_far_it_is_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "[ 25 %] t2s" in told.err and "sung" in told.err.splitlines() and "mix.wav" in told.out


def test_the_bar_ends_before_an_error_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = song(tmp_path / "songs", "a.wav", b"broken")
    assert command.main([str(broken), "--lyrics", "la", "--output-dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == ["not sung", "error: cannot be decoded"]


def test_an_output_that_is_no_folder_is_told_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pretender: type[Pretender]
) -> None:
    file = song(tmp_path, "out")
    for folder in (file, file / "below"):
        assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(folder)]) == 2
        error = capsys.readouterr().err
        assert f"'{file}' is a file, not a folder" in error and len(error.splitlines()) == 1
    assert pretender.made == 0


@pytest.mark.parametrize("name", ["mix.wav", "candidates/07.wav", "lyrics.lrc", "link.wav"])
def test_what_is_read_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], pretender: type[Pretender], name: str) -> None:
    out, other = tmp_path / "out", song(tmp_path, "other.wav")
    (out / "candidates").mkdir(parents=True)
    given = out / name
    if name == "link.wav":
        given = tmp_path / name
        given.symlink_to(out / "vocals.wav")
        (out / "vocals.wav").write_bytes(b"la")
    else:
        given.write_bytes(b"la")
    flags = ("--lyrics",) if name == "lyrics.lrc" else ("--reference", "--spkfile", "--semfile", "--stream")
    for flag in flags:
        assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "other" / ".." / "out"), flag, str(given)]) == 2
        error = capsys.readouterr().err
        assert f"{flag}: '{given}' would be written over" in error and len(error.splitlines()) == 1
    assert given.read_bytes() == b"la" and pretender.made == 0
    for unharmed in (other, song(out, "my song.wav"), song(out / "candidates", "favourite.wav")):
        assert command.main([str(unharmed), "--lyrics", "la", "--output-dir", str(out)]) == 0


def test_names_that_are_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str], pretender: type[Pretender]) -> None:
    name = str(tmp_path / ("a" * 300))
    for arguments in ([name], ["--tts", "--spkfile", name], ["--tts", "--semfile", name], ["--tts", "--output-dir", f"{name}/below"]):
        assert command.main(["--output-dir", str(tmp_path / "out"), *arguments, "--lyrics", "la"]) == 2
        error = capsys.readouterr().err
        assert name in error and len(error.splitlines()) == 1
    assert pretender.made == 0
    for text in ("la " * 300, "la " * 500 + "la.txt"):
        assert command.main(["--tts", "--lyrics", text, "--output-dir", str(tmp_path / "out")]) == 0


def test_candidates_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    sing = lambda count: command.main(["--tts", "--lyrics", "la", "--batch-size", str(count), "--output-dir", str(tmp_path)])  # noqa: E731
    candidates = tmp_path / "candidates"
    assert sing(4) == 0
    (candidates / "my favourite.wav").write_bytes(b"")
    assert sing(2) == 0
    assert sorted(p.name for p in candidates.iterdir()) == ["02.wav", "my favourite.wav"]
    assert sing(1) == 0
    assert [p.name for p in candidates.iterdir()] == ["my favourite.wav"]
    (candidates / "my favourite.wav").unlink()
    assert sing(2) == 0 and candidates.exists()
    assert sing(1) == 0 and not candidates.exists()


def test_songs_of_a_folder_never_share_an_output(tmp_path: Path) -> None:
    songs, out = tmp_path / "songs", tmp_path / "out"
    song(songs, "a.mp3")
    song(songs, "b.wav")
    assert command.main([str(songs), "--lyrics", "la", "--output-dir", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["a", "b"]
    song(songs, "A.wav")
    assert command.main([str(songs), "--lyrics", "la", "--output-dir", str(out / "more")]) == 0
    assert sorted(p.name for p in (out / "more").iterdir()) == ["A.wav", "a.mp3", "b.wav"]


def test_what_is_streamed_is_a_wav_of_the_mix(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    arguments = ["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out"), "--stream"]
    assert command.main([*arguments, str(tmp_path / "mix.wav")]) == 0
    whole = (tmp_path / "out" / "mix.wav").read_bytes()
    assert (tmp_path / "mix.wav").read_bytes() == whole
    capfdbinary.readouterr()
    assert command.main([*arguments, "-"]) == 0
    piped = capfdbinary.readouterr().out
    assert piped[44:] == whole[44:] and piped[4:8] == b"\xff\xff\xff\xff"


@pytest.mark.parametrize("flag", ["--reference", "--spkfile", "--semfile", "--lyrics"])
def test_what_is_read_is_not_streamed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pretender: type[Pretender], flag: str
) -> None:
    given = song(tmp_path, "words.txt" if flag == "--lyrics" else "a.wav", b"la")
    (tmp_path / "other name").symlink_to(given)
    arguments = ["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out"), flag, str(given), "--stream"]
    for name in (given, tmp_path / "other name"):
        assert command.main([*arguments, str(name)]) == 2
        error = capsys.readouterr().err
        assert f"'{name}' is read as {flag}" in error and len(error.splitlines()) == 1
    assert given.read_bytes() == b"la" and pretender.made == 0


def test_places_that_cannot_be_streamed_to_are_told_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pretender: type[Pretender]
) -> None:
    for place, told in ((tmp_path, "it is a folder"), (tmp_path / "none" / "a.wav", "no folder"), (tmp_path / ("a" * 300), "too long")):
        assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out"), "--stream", str(place)]) == 2
        error = capsys.readouterr().err
        assert "--stream: " in error and told in error and len(error.splitlines()) == 1
    assert pretender.made == 0


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_file_that_was_there_is_not_removed_by_a_run_that_fails(
    tmp_path: Path, pretender: type[Pretender], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It keeps what it held until the first sound is written, and a link or a pipe stays what it is."""

    def interrupted(_: Pretender, request: SingRequest, progress: object, listening: Callable[[torch.Tensor, int], None]) -> Sung:
        if moment == "after":
            listening(torch.zeros(1, 1000), 16000)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretender, "sing", interrupted)
    old, link = song(tmp_path, "old.wav", b"old"), tmp_path / "link.wav"
    link.symlink_to(old)
    for place in (old, link):
        assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out"), "--stream", str(place)]) == 130
        assert link.is_symlink() and (old.read_bytes() == b"old") == (moment == "before")


def test_a_named_pipe_may_be_streamed_to(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out"), "--stream", str(pipe)]) == 0
    reader.join()
    assert heard[0][44:] == (tmp_path / "out" / "mix.wav").read_bytes()[44:] and pipe.is_fifo()


def test_how_sure_each_word_is_stands_in_the_lrc(tmp_path: Path) -> None:
    assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(tmp_path)]) == 0
    text = (tmp_path / "lyrics.lrc").read_text()
    assert "[#scores 1:0.90]" in text and parse_lrc(text).lines[0].text == "la"


def test_a_damaged_file_does_not_stop_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    songs, out = tmp_path / "songs", tmp_path / "out"
    for name, data in (("a.wav", b"song"), ("b.wav", b"broken"), ("c.wav", b"song"), ("._c.wav", b"broken")):
        song(songs, name, data)
    (songs / "d.wav").mkdir()
    assert command.main([str(songs), "--lyrics", "la", "--output-dir", str(out)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert "error: cannot be decoded" in told and told[-1] == "1 of 3 recordings could not be sung over: b.wav"
    assert sorted(p.name for p in out.iterdir()) == ["a", "c"]


def test_no_recording_of_a_folder_is_passed_over_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    songs, out = tmp_path / "songs", tmp_path / "out"
    for name, data in (("a.aiff", b"song"), ("b.AIF", b"song"), ("c.m4a", b"broken"), ("cover.jpg", b"picture")):
        song(songs, name, data)
    assert command.main([str(songs), "--lyrics", "la", "--output-dir", str(out)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "1 of 3 recordings could not be sung over: c.m4a"
    assert sorted(p.name for p in out.iterdir()) == ["a", "b"]


def test_what_a_killed_run_left_goes_with_the_next_song(tmp_path: Path) -> None:
    song(tmp_path / "out" / ".sing.1.tmp" / "candidates", "02.wav")
    assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "mix.wav").exists() and not list((tmp_path / "out").glob(".sing.*"))


@pytest.mark.parametrize("moved", range(4))
@pytest.mark.parametrize("then", ["read", "sung"])
def test_a_song_is_whole_though_its_run_ended_while_its_files_were_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int, then: str
) -> None:
    def write(text: str, *names: str) -> None:
        with together(tmp_path) as draft:
            for name in names:
                song((draft / name).parent, Path(name).name, text.encode())

    replace, done = os.replace, []

    def killed(source: Path, target: Path) -> None:
        if len(done) == moved:
            raise KeyboardInterrupt
        done.append(target)
        replace(source, target)

    write("first", "a", "candidates/02.wav", "candidates/03.wav", "candidates/04.wav", "z")
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        write("second", "a", "candidates/02.wav", "candidates/03.wav", "z")
    if then == "read":
        settle(tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt), together(tmp_path):
            raise KeyboardInterrupt
    files = {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == dict.fromkeys(("a", "candidates/02.wav", "candidates/03.wav", "z"), "second") and not list(tmp_path.glob(".sing.*"))


def test_two_songs_are_written_one_after_the_other(tmp_path: Path) -> None:
    """Else the files of both would stand in one folder, or one would take the other's draft for a dead run's."""

    def write(text: str) -> None:
        with together(tmp_path) as draft:
            song(draft, "mix.wav", text.encode())
            song(draft, "lyrics.lrc", text.encode())

    second = threading.Thread(target=write, args=("second",))
    with together(tmp_path) as draft:
        second.start()
        second.join(0.2)
        assert second.is_alive() and draft.exists()
        song(draft, "mix.wav", b"first")
    second.join(10)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"mix.wav": "second", "lyrics.lrc": "second"}


@pytest.mark.parametrize(("given", "told"), [(("--semfile", "a.wav", "--gen-semantic"), "give one of the two"), (("--device", "meta"), "'meta'")])
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pretender: type[Pretender], given: tuple[str, ...], told: str
) -> None:
    assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out"), *given]) == 2
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1 and pretender.made == 0


@pytest.mark.parametrize("buffering", [1, -1])
def test_a_reader_that_has_gone_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffering: int) -> None:
    """Whether that is noticed with the line that tells of the song, or at the end."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", buffering=buffering) as gone, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", gone)
        assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "mix.wav").exists()


def test_a_standard_output_that_is_full_or_closed_costs_no_song_and_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out")]
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert command.main(arguments) == 2
    assert "standard output (No space left on device)" in capsys.readouterr().err.splitlines()[-1] and (tmp_path / "out" / "mix.wav").exists()
    monkeypatch.setattr(sys, "stdout", None)
    assert command.main(arguments) == 0
    assert command.main([*arguments, "--stream", "-"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --stream -: standard output is closed")


def test_a_closed_standard_error_costs_no_song_and_is_not_mixed_into_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with open(tmp_path / "heard.wav", "w+") as heard, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", heard)
        assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out"), "--stream", "-"]) == 0
    assert (tmp_path / "out" / "mix.wav").exists() and (tmp_path / "heard.wav").read_bytes()[:4] == b"RIFF"


def test_signs_of_money_are_no_formula(tmp_path: Path) -> None:
    """Neither in the name of the reference nor among the words."""
    assert command.main([str(song(tmp_path, r"for $1_ and $.wav")), "--lyrics", "la", "--output-dir", str(tmp_path / "out")]) == 0
    wav = torch.zeros(1, 16000)
    draw(tmp_path / "a.png", wav, wav, 16000, Alignment((Word(r"$\no$", 0.1, 0.5, 0.9, 0),)), "a song")
    assert (tmp_path / "out" / "picture.png").exists() and (tmp_path / "a.png").exists()


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    songs = song(tmp_path / name, f"{name}.wav").parent
    song(songs, "b.wav")
    assert command.main([str(songs), "--lyrics", "la", "--output-dir", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / name / "picture.png").exists() and (tmp_path / "out" / "b" / "picture.png").exists()


def test_lyrics_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.lrc").write_text("\ufeff[00:01.00]la", encoding="utf-8")
    (tmp_path / "b.txt").write_text("la\nla", encoding="utf-16")
    assert command.read_lyrics(str(tmp_path / "a.lrc")) == "[00:01.00]la" and command.read_lyrics(str(tmp_path / "b.txt")) == "la\nla"
    assert command.read_lyrics("la\nwords.txt") == "la\nwords.txt" and command.read_lyrics("la") == "la"


@pytest.mark.parametrize("name", ["words", "words.srt"])
def test_a_file_of_another_kind_is_no_text_to_sing(tmp_path: Path, capsys: pytest.CaptureFixture[str], pretender: type[Pretender], name: str) -> None:
    words = song(tmp_path, name, b"la la")
    assert command.main(["--tts", "--lyrics", str(words), "--output-dir", str(tmp_path / "out")]) == 2
    assert f"'{words}' is no .txt or .lrc" in capsys.readouterr().err and pretender.made == 0
