"""Where rendered songs are: one listing for everything that reads them."""

from pathlib import Path

import pytest

from autosing.errors import DataError
from autosing.store import song_tables


def test_partitions_come_in_the_order_of_their_numbers_folder_by_folder(tmp_path: Path) -> None:
    for name in ("b/10", "b/2", "a/0", "b/notes", "b/007"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "songs.parquet").touch()
    found = song_tables(tmp_path / "b", tmp_path / "a")
    assert [path.parent.relative_to(tmp_path).as_posix() for path in found] == ["b/2", "b/10", "a/0"]


def test_a_folder_without_songs_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="render songs first"):
        song_tables(tmp_path)
