"""Where an import writes: partitions without gaps, one folder a name, one line for a dataset that cannot be made."""

from pathlib import Path

import pytest
from small_songs import audio_bytes, read, tone

from autosing.cli.process import main
from processing import importing

FLACS = [audio_bytes(tone(1, frequency)) for frequency in (220, 230)]


def folder_of(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, audio in zip(names, FLACS, strict=False):
        (path / name).write_bytes(audio)
    return path


def partitions(dataset: Path) -> dict[str, list[str]]:
    return {p.name: [row["title"] for row in read(p / "index.parquet")] for p in sorted(dataset.iterdir()) if p.is_dir()}


def test_a_failed_import_leaves_no_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    music, dataset = folder_of(tmp_path / "m", "a.flac", "b.flac"), tmp_path / "ds"
    who = importing.who

    def fails_at_b(audio, relative, artist_folder):  # type: ignore[no-untyped-def]
        if relative.name == "b.flac":
            raise RuntimeError("a defect")
        return who(audio, relative, artist_folder)

    monkeypatch.setattr(importing, "who", fails_at_b)
    with pytest.raises(RuntimeError):
        main(["import", str(music), str(dataset), "--partition-size", "1"])
    assert partitions(dataset) == {"0": ["a"]}
    monkeypatch.setattr(importing, "who", who)
    assert main(["import", str(music), str(dataset), "--partition-size", "1"]) == 0
    assert partitions(dataset) == {"0": ["a"], "1": ["b"]}


def test_empty_folders_of_killed_imports_are_used_and_others_are_not(tmp_path: Path) -> None:
    music, dataset = folder_of(tmp_path / "m", "a.flac", "b.flac"), tmp_path / "ds"
    for name in ("0", "1", "2", "9"):
        (dataset / name).mkdir(parents=True)
    (dataset / "0" / ".index.parquet.7.tmp").write_bytes(b"half")
    (dataset / "1" / "notes.txt").write_text("mine")
    assert main(["import", str(music), str(dataset), "--partition-size", "1"]) == 0
    assert sorted(p.parent.name for p in dataset.glob("*/index.parquet")) == ["0", "2"]
    assert [p.name for p in (dataset / "1").iterdir()] == ["notes.txt"] and not (dataset / "9").exists()


def test_two_folders_of_one_name_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (folder_of(tmp_path / where / "music", "song.flac") for where in ("p", "q"))
    (second / "song.txt").write_text("other words")
    dataset = tmp_path / "ds"
    assert main(["import", str(first), str(dataset)]) == 0
    before = (dataset / "0" / "index.parquet").read_bytes()
    capsys.readouterr()
    assert main(["import", str(second), str(dataset)]) == 2
    err = capsys.readouterr().err
    assert f"'{first}'" in err and f"'{second}'" in err and "--moved" in err and len(err.splitlines()) == 1
    assert (dataset / "0" / "index.parquet").read_bytes() == before
    assert main(["import", str(second), str(dataset), "--moved"]) == 0
    assert read(dataset / "0" / "index.parquet")[0]["raw_lyrics"] == "other words"
    assert main(["import", str(second), str(dataset)]) == 0 and main(["import", str(first), str(dataset)]) == 2


def test_a_renamed_folder_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    music, dataset = folder_of(tmp_path / "music", "song.flac"), tmp_path / "ds"
    assert main(["import", str(music), str(dataset)]) == 0
    renamed = music.rename(tmp_path / "records")
    (renamed / "song.txt").write_text("other words")
    assert main(["import", str(renamed), str(dataset)]) == 2
    assert "--moved goes on with the songs of" in capsys.readouterr().err
    assert main(["import", str(renamed), str(dataset), "--moved"]) == 0
    rows = read(dataset / "0" / "index.parquet")
    assert [(row["source"], row["raw_lyrics"]) for row in rows] == [("music/song.flac", "other words")]
    (renamed / "song.txt").write_text("yet others")
    assert main(["import", str(renamed), str(dataset)]) == 0  # from now on it is known
    assert [row["raw_lyrics"] for row in read(dataset / "0" / "index.parquet")] == ["yet others"] and not (dataset / "1").exists()


@pytest.mark.parametrize("place", ["file", "file/sub"])
def test_a_dataset_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["import", str(folder_of(tmp_path / "m", "a.flac")), str(tmp_path / place)]) == 2
    assert "cannot make the dataset" in capsys.readouterr().err
