"""Where rendered songs are: one listing for everything that reads them."""

from pathlib import Path

import pyarrow as pa
import pytest

from autosing.errors import DataError
from autosing.store import TableReader, song_places, song_rows, song_tables, write_table


def test_partitions_come_in_the_order_of_their_numbers_folder_by_folder(tmp_path: Path) -> None:
    for name in ("b/10", "b/2", "a/0", "b/notes", "b/007"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "songs.parquet").touch()
    found = song_tables(tmp_path / "b", tmp_path / "a")
    assert [path.parent.relative_to(tmp_path).as_posix() for path in found] == ["b/2", "b/10", "a/0"]


def test_a_folder_without_songs_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="render songs first"):
        song_tables(tmp_path)


def test_rows_come_one_by_one_and_a_damaged_table_is_named(tmp_path: Path) -> None:
    for number in (0, 1):
        write_table(tmp_path / str(number) / "songs.parquet", [{"id": f"{number}a"}, {"id": f"{number}b"}], pa.schema([("id", pa.string())]))
    assert [row["id"] for row in song_rows(tmp_path, ["id"])] == ["0a", "0b", "1a", "1b"]
    places = song_places(tmp_path)
    assert [(path.parent.name, position) for path, position in places] == [("0", 0), ("0", 1), ("1", 0), ("1", 1)]
    with TableReader(places[3][0]) as reader:
        assert reader.row(places[3][1], ["id"]) == {"id": "1b"}
    places[3][0].write_bytes(b"PAR1 cut off")
    for read in (song_places, lambda folder: list(song_rows(folder, ["id"]))):
        with pytest.raises(DataError, match=r"1/songs.parquet' is damaged"):
            read(tmp_path)
