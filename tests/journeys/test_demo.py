"""When the demo does a stage again: its commands are noted instead of run, and write what their last line would."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from autosing.cli import demo

STAGES = ["import", "run", "construct_dataset.py", "t2s", "sm2a", "sing.py"]


class Commands:
    """Stands in for `subprocess.run`: keeps every command and pretends to have done it."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.fails: str | None = None
        self.found: dict[str, bool] = {}  # was anything of an earlier run of this stage left when it began

    def __call__(self, command: list[str], cwd: Path, **_: object) -> SimpleNamespace:
        assert cwd == demo.ROOT
        words = command[1:]
        self.commands.append(words)
        stage = name(words)
        if stage == "import":
            dataset, songs = Path(words[4]), [p for p in Path(words[3]).iterdir() if p.suffix.lower() in (".wav", ".ogg")]
            for partition in range(-(-len(songs) // int(words[words.index("--partition-size") + 1]))):
                write(dataset / str(partition) / "index.parquet", "")
        elif stage == "construct_dataset.py":
            write(Path(words[3]) / "dataset.json", json.dumps({"rows": {"train": 1, "validation": 1}, "window_seconds": 30}))
        elif stage in ("t2s", "sm2a"):
            run = Path(words[words.index("--output-dir") + 1]) / stage / "demo"
            self.found[stage] = run.exists()
            write(run / "state", "")
            if self.fails != stage:
                write(run / "last" / "model.safetensors", "")
                write(run / "metrics.jsonl", json.dumps({"step": 1, "val_loss": 1.0}) + "\n")
                write(run / "loss.png", "")
        elif stage == "sing.py":
            sung = Path(words[words.index("--output-dir") + 1])
            report = {"words": [["la", 0.0, 1.0, 0.5], ["la", 1.0, 2.0, None]], "stage_seconds": {}, "voice_from": "reference"}
            for file in ("mix.wav", "vocals.wav", "accompaniment.wav", "lyrics.lrc", "picture.png"):
                write(sung / file, "")
            write(sung / "request.json", json.dumps(report))
        return SimpleNamespace(returncode=int(self.fails == stage))

    def take(self) -> list[str]:
        """The stages run since the last time."""
        names = [name(words) for words in self.commands]
        self.commands = []
        return names


def name(words: list[str]) -> str:
    return words[2] if words[0] == "-m" or words[0] == "train.py" else words[0]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(subprocess, "run", commands)
    monkeypatch.setattr(demo, "_weights", lambda: [("t2s/model.safetensors", "first")])
    return commands


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    for number in range(7):
        write(tmp_path / "songs" / f"{number}.WAV", "sound")
        write(tmp_path / "songs" / f"{number}.txt", "words")
    return tmp_path / "songs"


def test_what_is_done_is_not_done_again(commands: Commands, songs: Path, tmp_path: Path) -> None:
    arguments = ["--songs", str(songs), "--work", str(tmp_path / "work")]
    assert demo.main(arguments) == 0 and commands.take() == STAGES
    assert demo.main(arguments) == 0 and commands.take() == ["run"]
    assert demo.main([*arguments, "--lyrics", "other words"]) == 0 and commands.take() == ["run", "sing.py"]
    assert demo.main([*arguments, "--steps", "5"]) == 0 and commands.take() == ["run", "t2s", "sm2a", "sing.py"]


def test_every_partition_is_read_and_upper_case_names_are_sung(commands: Commands, songs: Path, tmp_path: Path) -> None:
    assert demo.main(["--songs", str(songs), "--work", str(tmp_path / "work")]) == 0
    by_name = {name(words): words for words in commands.commands}
    assert by_name["construct_dataset.py"][2] == "3"  # seven songs, three a partition
    assert by_name["sing.py"][2] == str(songs.resolve() / "0.WAV")


def test_another_song_makes_all_that_comes_after_it_due(commands: Commands, songs: Path, tmp_path: Path) -> None:
    arguments = ["--songs", str(songs), "--work", str(tmp_path / "work")]
    assert demo.main(arguments) == 0 and commands.take() == STAGES
    write(songs / "3.WAV", "another sound")
    assert demo.main(arguments) == 0 and commands.take() == STAGES
    assert commands.found == {"t2s": False, "sm2a": False}  # trained anew, not on from a model of other songs
    (songs / "6.txt").unlink()
    assert demo.main(arguments) == 0 and commands.take() == STAGES


def test_other_weights_make_all_but_the_import_due(commands: Commands, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--songs", str(songs), "--work", str(tmp_path / "work")]
    assert demo.main(arguments) == 0 and commands.take() == STAGES
    monkeypatch.setattr(demo, "_weights", lambda: [("t2s/model.safetensors", "second")])
    assert demo.main(arguments) == 0 and commands.take() == STAGES[1:]
    monkeypatch.setattr("autosing.__version__", "999")
    assert demo.main(arguments) == 0 and commands.take() == STAGES


def test_a_stopped_training_goes_on_where_it_was(commands: Commands, songs: Path, tmp_path: Path) -> None:
    arguments = ["--songs", str(songs), "--work", str(tmp_path / "work")]
    commands.fails = "t2s"
    assert demo.main(arguments) == 2 and commands.take() == STAGES[:4]
    commands.fails = None
    assert demo.main(arguments) == 0 and commands.take() == ["run", *STAGES[3:]]
    assert commands.found == {"t2s": True, "sm2a": False}


def test_relative_folders_mean_those_of_the_caller(commands: Commands, songs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(songs.parent)
    assert demo.main(["--songs", "songs", "--work", "work"]) == 0
    assert (songs.parent / "work" / "report.html").exists()
    folders = [word for words in commands.commands for word in words if "songs" in word or "work" in word]
    assert folders and all(os.path.isabs(word) or json.loads(word)["path"].startswith("/") for word in folders)


def test_what_others_made_is_not_removed(commands: Commands, songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "work" / "dataset" / "0" / "index.parquet", "mine")
    assert demo.main(["--songs", str(songs), "--work", str(tmp_path / "work")]) == 2
    assert "was not made by this demo" in capsys.readouterr().err and not commands.commands
    assert (tmp_path / "work" / "dataset" / "0" / "index.parquet").read_text() == "mine"


def test_folders_that_cannot_be_are_one_line(commands: Commands, songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "file", "")
    for arguments, told in (
        (["--songs", str(tmp_path / "empty")], "no audio file under"),
        (["--songs", str(songs), "--work", str(songs / "work")], "lies in the folder of songs"),
        (["--songs", str(songs), "--work", str(tmp_path / "file")], "cannot be written"),
    ):
        assert demo.main(arguments) == 2
        error = capsys.readouterr().err
        assert told in error and len(error.splitlines()) == 1
    assert not commands.commands
