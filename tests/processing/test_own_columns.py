"""Columns of the user's own: carried from the index into every training row, or named."""

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_songs import read

from autosing.cli.construct_dataset import main

DAY = datetime.datetime(2020, 1, 2, 3, 4, 5)
COLUMNS = {
    "place": pa.array(["Rome", None]),
    "place_": pa.array([1, 2]),
    "tags": pa.array([["a", "b"], None]),
    "marks": pa.array([[1, None], [2, 3]]),
    "sung_on": pa.array([DAY, None], pa.timestamp("ns")),
    "day": pa.array([DAY.date(), None]),
    "genre": pa.array(["pop", "folk"]).dictionary_encode(),
    "about": pa.array([{"bpm": 90}, None]),
    "nothing": pa.nulls(2),
    "cover": pa.array([b"png", None]),
    "start": pa.array([1.0, 2.0]),
}


def add(processed: Path, partition: str, columns: dict[str, pa.Array]) -> None:
    path = processed / partition / "index.parquet"
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.append_column(name, values)
    pq.write_table(table, path)


def rows_of(out: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for path in sorted(out.glob("*/main.parquet")):
        for row in read(path):
            found.setdefault(row["song"], []).append(row)
    return found


def test_they_are_carried_over_or_named(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(processed, "0", COLUMNS)
    add(processed, "1", {"tags": pa.nulls(2)})
    assert main([str(processed), "2", str(tmp_path / "out"), "--codec", "fake", "--num-out-partitions", "2"]) == 0
    out = capsys.readouterr().out
    assert "note: the index column 'cover' is not carried over: binary cannot be" in out
    assert "note: the index column 'start' is not carried over: training rows have" in out and out.count("note: the index") == 2
    rows = rows_of(tmp_path / "out")
    wanted = {
        "place": "Rome", "place_": 1, "tags": ["a", "b"], "marks": [1, None], "sung_on": DAY, "day": DAY.date(), "genre": "pop",
        "about": {"bpm": 90},
    }  # fmt: skip
    for row in rows["alpha"]:
        assert {name: row[name] for name in wanted} == wanted and row["start"] != 1.0 and "cover" not in row and "nothing" not in row
    assert all(row["genre"] == "folk" and row["tags"] is None and np.array_equal(row["marks"], [2, 3]) for row in rows["beta"])
    assert all(row["place"] is None and row["tags"] is None for row in rows["gamma"])


def test_columns_of_dates_and_lists_can_be_filtered_by(processed: Path, tmp_path: Path) -> None:
    add(processed, "0", COLUMNS)
    condition = "'a' in tags and day == '2020-01-02' and sung_on < '2020-01-03'"
    assert main([str(processed), "2", str(tmp_path / "out"), "--codec", "fake", "--num-out-partitions", "1", "--filter", condition]) == 0
    assert set(rows_of(tmp_path / "out")) == {"alpha"}


def test_lists_of_different_types_are_named(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(processed, "0", {"tags": pa.array([["a"], None])})
    add(processed, "1", {"tags": pa.array([1, 2])})
    assert main([str(processed), "2", str(tmp_path / "out"), "--codec", "fake", "--num-out-partitions", "1"]) == 0
    assert "'tags' is not carried over: it is list<element: string> in one partition and int64 in another" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["file", "file/sub"])
def test_a_folder_that_cannot_be_made_is_one_line(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    (tmp_path / "file").write_text("x")
    assert main([str(processed), "2", str(tmp_path / place), "--codec", "fake"]) == 2
    assert "cannot make the folder" in capsys.readouterr().err
