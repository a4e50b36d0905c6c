"""Tables of rendered songs: `<folder>/<i>/songs.parquet`, written by autosing/rendering and read by fits, evaluations and tasks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from autosing.errors import DataError
from autosing.store.partitions import is_partition
from autosing.store.reader import TableReader

SEPARATED = "separated"
"""`kind` of a row of rendered songs whose vocals are what a separator left of them."""


def song_tables(*folders: Path) -> list[Path]:
    """`<folder>/<i>/songs.parquet` of rendered songs, folder by folder in the order of i.

    Raises:
        DataError: a folder without any.
    """
    tables = []
    for folder in map(Path, folders):
        found = [path for path in folder.glob("*/songs.parquet") if is_partition(path.parent)]
        if not found:
            raise DataError(f"no song tables at '{folder}/<i>/songs.parquet'; render songs first: python -m autosing.rendering songs")
        tables += sorted(found, key=lambda path: int(path.parent.name))
    return tables


def song_places(*folders: Path) -> list[tuple[Path, int]]:
    """(table, position of a row) of every row of the `song_tables` of folders; see `TableReader.row`.

    Raises:
        DataError: a folder without tables, or a damaged one.
    """
    places = []
    for path in song_tables(*folders):
        with TableReader(path) as table:
            places += [(path, position) for position in range(len(table))]
    return places


def song_rows(folder: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of the `song_tables` of a folder in order, with these columns.

    Raises:
        DataError: no tables there, a damaged one, or one without one of the columns.
    """
    for table in song_tables(folder):
        with TableReader(table) as reader:
            yield from reader.rows(columns)
