"""Exports: begun ones go on, finished or other folders are refused, what cannot go along is named."""

import datetime
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from small_songs import audio_bytes, read, tables, tone, write_index

from autosing.cli.process import main
from autosing.store import Dataset
from processing.formats import folder as folder_format
from processing.importing import import_songs

ROWS = [{"id": f"song {n}", "audio": audio_bytes(tone(1, 200 + 10 * n)), "raw_lyrics": "la", "day": datetime.date(2020, 1, 1 + n), "cover": b"png"} for n in range(3)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_index(tmp_path / "ds" / "0", ROWS[:2], day=pa.date32(), cover=pa.binary())
    write_index(tmp_path / "ds" / "4", [*ROWS[2:], {"id": "none"}, {"id": "empty", "audio": b""}], day=pa.date32(), cover=pa.binary())
    return tmp_path / "ds"


def test_columns_and_rows_that_cannot_go_along_are_named(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(dataset), str(tmp_path / "out"), "--to", "hf"]) == 0
    out = capsys.readouterr().out
    assert "the column 'cover' did not go along: binary" in out and "2 rows have no audio" in out and "exported 3 songs" in out
    lines = [json.loads(line) for line in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()]
    assert [line["day"] for line in lines] == ["2020-01-01", "2020-01-02", "2020-01-03"] and "cover" not in lines[0]


@pytest.mark.parametrize("target", ["webdataset", "hf", "folder"])
def test_a_killed_export_goes_on(dataset: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["export", str(dataset), str(tmp_path / "whole"), "--to", target]) == 0
    real, calls = folder_format.json_line, []

    def fails(columns):  # type: ignore[no-untyped-def]
        calls.append(columns)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(columns)

    for module in ("webdataset", "hf", "folder"):
        monkeypatch.setattr(f"processing.formats.{module}.json_line", fails)
    assert main(["export", str(dataset), str(tmp_path / "out"), "--to", target]) == 130
    monkeypatch.undo()
    assert main(["export", str(dataset), str(tmp_path / "out"), "--to", target]) == 0
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")


def test_other_folders_are_refused(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thing").write_text("x")
    for where in ("mine", "mine/thing", "out", "out"):
        code = main(["export", str(dataset), str(tmp_path / where), "--to", "folder"])
        assert code == (0 if where == "out" and "exported" in capsys.readouterr().out else 2)
    assert main(["export", str(dataset), str(tmp_path / "x"), "--to", "hg"]) == 2
    assert (tmp_path / "mine" / "thing").read_text() == "x"


def test_a_killed_import_goes_on(tmp_path: Path) -> None:
    music = tmp_path / "music"
    music.mkdir()
    for number in range(6):
        (music / f"{number}.flac").write_bytes(audio_bytes(tone(1, 200 + 10 * number)))
    script = (
        "import os, sys, signal\nfrom pathlib import Path\nfrom autosing.store import Dataset\nfrom processing.importing import import_songs\n"
        "def seen(done, total):\n    if done == 4:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "import_songs(Path(sys.argv[1]), Dataset(Path(sys.argv[2])), 2, seen=seen)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(music), str(tmp_path / "ds")], check=False).returncode == -9
    assert len(read(tmp_path / "ds" / "0" / "index.parquet")) == 2
    report = import_songs(music, Dataset(tmp_path / "ds"), 2)
    assert (report.added, report.unchanged, report.partitions) == (4, 2, (1, 2))
    import_songs(music, Dataset(tmp_path / "clean"), 2)
    assert tables(tmp_path / "ds") == tables(tmp_path / "clean") | {
        name: data for name, data in tables(tmp_path / "ds").items() if name.startswith("import-")
    }
