"""Rows: a mapping of the task's columns, read lazily one Parquet row group at a time, picked and joined without being read.

Binary columns come as bytes, lists of numbers as numpy arrays, anything else as plain Python values; a row always has an `id`. What rows mean is
the task's affair, which of them a run reads that of `data.py`.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autosing.config import nearest
from autosing.errors import DataError
from autosing.training.task import Row

OPEN_FILES = 64


class _Table(NamedTuple):
    path: Path
    group_ends: np.ndarray  # rows up to and including each row group
    columns: tuple[str, ...]

    def name(self, row: int) -> str:
        """Id of a row of a table without ids."""
        return f"{self.path.parent.name}/{self.path.stem}:{row}"


def _total(ends: np.ndarray) -> int:
    return int(ends[-1]) if len(ends) else 0


def _locate(ends: np.ndarray, index: int) -> tuple[int, int]:
    """(which member holds row `index`, its row there) of members that end before rows `ends`."""
    member = int(np.searchsorted(ends, index, side="right"))
    return member, index - (int(ends[member - 1]) if member else 0)


class ParquetRows(Sequence[Row]):
    """Rows of partitions, each joined by position from one table a part.

    Holds footers only; row groups are read on demand, the wanted columns alone, and the most recent are kept within `cache_bytes`. A copy in
    another process opens its own files.
    """

    def __init__(self, partitions: Sequence[Sequence[Path]], columns: Sequence[str], cache_bytes: int = 256 << 20):
        """
        Args:
            partitions: for each partition, the path of each part's table.
            columns: what rows hold; each is taken from the first part that has it. `id` is added where there is one.

        Raises:
            DataError: a damaged table, a column no part has, or parts of unequal length.
        """
        self._cache_bytes = cache_bytes
        self._partitions = [self._open_partition(paths, tuple(columns)) for paths in partitions]
        counts = [_total(tables[0].group_ends) for tables in self._partitions]
        self._ends = np.cumsum(np.asarray(counts, dtype=np.int64))
        self._reset()

    @staticmethod
    def _open_partition(paths: Sequence[Path], columns: tuple[str, ...]) -> tuple[_Table, ...]:
        footers = [_footer(path) for path in paths]
        names = [footer.schema.to_arrow_schema().names for footer in footers]
        for column in columns:
            if not any(column in have for have in names):
                have = sorted({name for part in names for name in part})
                raise DataError(f"'{paths[0]}' has no column '{column}'{nearest(column, have)}")
        rows = [footer.num_rows for footer in footers]
        if len(set(rows)) > 1:
            raise DataError(f"'{paths[0].parent}' holds tables of unequal length {rows}; construct the dataset again")
        tables, taken = [], set[str]()
        for path, footer, have in zip(paths, footers, names, strict=True):
            mine = [c for c in dict.fromkeys(("id", *columns)) if c in have and (c == "id" or c not in taken)]
            taken.update(mine)
            sizes = [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
            if mine:
                tables.append(_Table(path, np.cumsum(np.asarray(sizes, dtype=np.int64)), tuple(mine)))
        return tuple(tables)

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._files: OrderedDict[Path, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[Path, int], pa.Table] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_files", "_groups", "_bytes", "_owner")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        return _total(self._ends)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._owner != os.getpid():
            self._reset()  # forked: file positions and Arrow's state belong to the parent
        partition, local = _locate(self._ends, index)
        row: dict[str, Any] = {}
        for table in self._partitions[partition]:
            group, inside = _locate(table.group_ends, local)
            values = self._group(table, group)
            found = {name: _value(values.column(name)[inside]) for name in table.columns}
            if "id" in row and found.get("id", row["id"]) != row["id"]:
                raise DataError(
                    f"row {local} of '{table.path}' is '{found['id']}' but '{row['id']}' in its sister table; "
                    "construct the dataset again"
                )
            row.update(found)
        row.setdefault("id", self._partitions[partition][0].name(local))
        return row

    def _group(self, table: _Table, group: int) -> pa.Table:
        key = (table.path, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        try:
            values = self._file(table.path).read_row_group(group, columns=list(table.columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"row group {group} of '{table.path}' cannot be read ({error}); make this table again") from error
        self._groups[key] = values
        self._bytes += values.nbytes
        while self._bytes > self._cache_bytes and len(self._groups) > 1:
            self._bytes -= self._groups.popitem(last=False)[1].nbytes
        return values

    def _file(self, path: Path) -> pq.ParquetFile:
        if path not in self._files:
            self._files[path] = pq.ParquetFile(path, page_checksum_verification=True)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]

    def ids(self) -> list[str]:
        """Every row's id, in order; reads the id column alone."""
        found: list[str] = []
        for tables in self._partitions:
            table = tables[0]
            if "id" in table.columns:
                try:
                    with pq.ParquetFile(table.path, page_checksum_verification=True) as file:
                        found += map(str, file.read(columns=["id"], use_threads=False).column("id").to_pylist())
                except (OSError, pa.ArrowException) as error:
                    raise DataError(f"the ids of '{table.path}' cannot be read ({error}); make this table again") from error
            else:
                found += map(table.name, range(_total(table.group_ends)))
        return found


def _footer(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"'{path}' is not a readable Parquet table ({error}); make it again") from error


def _value(scalar: pa.Scalar) -> Any:
    """A cell: bytes, a writable numpy array for a list of numbers, else a plain Python value."""
    kind = scalar.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        plain = pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
        values = scalar.values if scalar.is_valid and plain else None
        if values is not None and values.null_count == 0:
            return values.to_numpy(zero_copy_only=False).copy()
    return scalar.as_py()


class PickedRows(Sequence[Row]):
    """Some rows of another sequence, in a given order."""

    def __init__(self, rows: Sequence[Row], indices: Sequence[int] | np.ndarray):
        self._rows, self._indices = rows, np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        return self._rows[int(self._indices[index])]


class JoinedRows(Sequence[Row]):
    """Several sequences of rows, one after the other."""

    def __init__(self, members: Sequence[Sequence[Row]]):
        self._members = tuple(members)
        self._ends = np.cumsum([len(m) for m in self._members])

    def __len__(self) -> int:
        return _total(self._ends)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        member, inside = _locate(self._ends, index)
        return self._members[member][inside]


def row_ids(rows: Sequence[Row]) -> Iterator[str]:
    """Every row's id, in order; nothing of rows that a task makes as they are asked for."""
    if isinstance(rows, JoinedRows):
        for member in rows._members:
            yield from row_ids(member)
    elif isinstance(rows, PickedRows):
        below = list(row_ids(rows._rows))
        yield from (below[i] for i in rows._indices) if below else ()
    elif isinstance(rows, ParquetRows):
        yield from rows.ids()
    elif isinstance(rows, list | tuple):  # a task's own rows, in memory
        yield from (str(row.get("id", i)) for i, row in enumerate(rows))
