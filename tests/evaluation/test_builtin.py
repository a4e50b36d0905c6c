"""The evaluation command: its last line, sections that fail, and windows that are fair to compare."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autosing.errors import DataError
from autosing.evaluation import builtin
from autosing.evaluation.chain import LEAST_PHONES, of_another_song, validation_rows
from autosing.rendering.tokens import MAIN
from tests.sequence_rows import toy_meta, toy_row


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    (tmp_path / "songs" / "0").mkdir(parents=True)
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "songs" / "0" / "songs.parquet")
    return tmp_path / "songs"


def run(songs: Path, capsys: pytest.CaptureFixture[str], **sections) -> tuple[int, dict]:
    code = builtin.main(["--songs", str(songs), "--work", str(songs.parent / "work"), "--shared", "nowhere", "--threads", "1", "--only", ",".join(sections)])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_last_line_has_versions_machine_protocol_figures_and_bars(songs, capsys, monkeypatch):
    good = {"wide": float("nan"), "bars": {"x": builtin.bar(0.3, "<=", 0.4), "y": builtin.bar(float("nan"), ">=", 1)}}
    monkeypatch.setattr(builtin, "SECTIONS", {"good": lambda m: dict(good)})
    code, line = run(songs, capsys, good=1)
    assert code == 0 and {"versions", "machine", "protocol", "figures", "bars"} <= set(line)
    assert line["protocol"]["seed"] == 0 and len(line["protocol"]["songs_hash"]) == 16
    assert line["bars"] == {"x": {"value": 0.3, "bar": "<= 0.4", "ok": True}, "y": {"value": None, "bar": ">= 1", "ok": False}}
    assert line["figures"]["good"]["wide"] is None


def test_a_section_that_fails_leaves_the_others_and_the_exit_code_tells(songs, capsys, monkeypatch):
    def fails(material):
        raise DataError("no song here; bring one")

    monkeypatch.setattr(builtin, "SECTIONS", {"fails": fails, "good": lambda m: {"bars": {"x": builtin.bar(1, ">=", 1)}}})
    code, line = run(songs, capsys, fails=1, good=1)
    assert code == 1 and line["bars"]["x"]["ok"] and line["figures"]["fails"]["error"] == "no song here; bring one"


def test_a_fault_nobody_foresaw_loses_no_figures_either(songs, capsys, monkeypatch):
    monkeypatch.setattr(builtin, "SECTIONS", {"fails": lambda m: {}["x"], "good": lambda m: {"bars": {"x": builtin.bar(1, ">=", 1)}}})
    code, line = run(songs, capsys, fails=1, good=1)
    assert code == 1 and line["bars"]["x"]["ok"] and "KeyError" in line["figures"]["fails"]["error"]


def test_no_songs_is_one_line(tmp_path, capsys):
    assert builtin.main(["--songs", str(tmp_path / "none"), "--work", str(tmp_path / "w"), "--threads", "1", "--only", "codec"]) == 2
    assert "render songs first" in capsys.readouterr().err


def token_set(folder: Path, songs: list[str]) -> Path:
    """Windows of toy rows in the order given, all for validation."""
    rows = []
    for number, song in enumerate(songs):
        row = toy_row(number, 30.0)
        assert len(row["alignment"]["tokens"]) >= LEAST_PHONES
        rows.append({**row, "id": f"{song}_at_{number}", "song": song, "artist": song[0]})
    (folder / "0").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=MAIN), folder / "0" / "main.parquet")
    meta = {**toy_meta().to_json(), "partitions": {"train": [], "validation": [0]}, "rows": {"train": 0, "validation": len(rows)}}
    (folder / "dataset.json").write_text(json.dumps(meta))
    return folder


def test_every_song_gives_a_window_before_any_gives_two(tmp_path):
    rows, _ = validation_rows(token_set(tmp_path, ["a", "a", "a", "b", "c", "c"]), 4)
    assert [row["song"] for row in rows] == ["a", "b", "c", "a"]
    assert len(validation_rows(tmp_path, 100)[0]) == 6


def test_the_other_lyrics_are_of_another_song():
    songs = ["a", "b", "a", "a"]
    assert [of_another_song(songs, i) for i in range(4)] == [1, 2, 1, 1]
