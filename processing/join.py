"""Joins the tables of a partition by song id, one song in memory at a time.

The first table is streamed in its own order; the others are looked up by id (one row group at a time, so tables in the same order cost
one pass). Songs missing in any of them were rejected before and are left out.
"""

from collections.abc import Callable, Generator, Mapping, Set
from typing import Any

from autosing.store import Dataset, TableReader


class JoinedSong:
    """A `step.Song` over open readers."""

    def __init__(self, song_id: str, first: str, row: dict[str, Any], readers: Mapping[str, TableReader], columns: Mapping[str, tuple[str, ...]]):
        self.id = song_id
        self._first, self._row, self._readers, self._columns = first, row, readers, columns

    def row(self, table: str) -> dict[str, Any]:
        if table == self._first:
            return self._row
        found = self._readers[table].get(self.id, self._present(table))
        assert found is not None, f"{self.id} is not in {table}"
        return found

    def rows(self, table: str) -> list[dict[str, Any]]:
        return self._readers[table].get_all(self.id, self._present(table), by="song")

    def meta(self, table: str) -> dict[str, str]:
        return self._readers[table].meta

    def _present(self, table: str) -> tuple[str, ...]:
        return ("id", *(c for c in present(self._readers[table], self._columns[table]) if c != "id"))


def present(reader: TableReader, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns without those marked optional by `?` that the table lacks."""
    return tuple(c.rstrip("?") for c in columns if not c.endswith("?") or c[:-1] in reader.schema.names)


def songs(
    dataset: Dataset,
    partition: int,
    reads: Mapping[str, tuple[str, ...]],
    refused: Set[int] = frozenset(),
    seen: Callable[[str], None] = lambda song_id: None,
) -> Generator[JoinedSong, None, None]:
    """The songs that every table of `reads` holds, in order of the first.

    Args:
        reads: table -> columns (without the key); `name?` = if the table has it. A table with a column `song` holds windows.
        refused: row numbers of the first table to leave out.
        seen: told every id of the first table that was passed, shown or not.
    """
    readers = {table: TableReader(dataset.table(partition, table)) for table in reads}
    try:
        first, *others = reads
        keys = {t: set(readers[t].column("song" if "song" in readers[t].schema.names else "id")) for t in others}
        columns = ("id", *(c for c in present(readers[first], reads[first]) if c != "id"))
        for number, row in enumerate(readers[first].rows(columns)):
            if number not in refused and all(row["id"] in held for held in keys.values()):
                yield JoinedSong(row["id"], first, row, readers, reads)
            seen(row["id"])
    finally:
        for reader in readers.values():
            reader.close()
