"""Tables are read by streaming or by key; a damaged one is a `DataError` that names it, never wrong data.

Text of other writers that is not UTF-8 is read with replacement characters, so that it costs its own cell alone.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autosing.errors import DataError
from autosing.store.writer import META_PREFIX

_BATCH_BYTES = 16 << 20


@dataclass
class _Stretch:
    """Neighbouring rows of one row group that are in memory, from row `first` of the table on, and the batches that follow them there."""

    group: int
    first: int
    rows: list[dict[str, Any]]
    rest: Iterator[pa.RecordBatch]


class TableReader:
    """Reads a table by streaming or by key, with every page's checksum checked.

    Cells of numeric lists come as numpy arrays, everything else as Python values.
    """

    def __init__(self, path: Path):
        """
        Raises:
            DataError: no such table, or it is damaged, or two columns have one name.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"there is no table '{self.path}'")
        with self._damage():
            self._file = pq.ParquetFile(self.path, page_checksum_verification=True, pre_buffer=False, buffer_size=1 << 20)
            self.schema: pa.Schema = self._file.schema_arrow
        repeated = [name for name, count in Counter(self.schema.names).items() if count > 1]
        if repeated:
            self.close()
            raise DataError(f"'{self.path}' has the column '{repeated[0]}' more than once; rename or drop the others")
        self._near: dict[tuple[str, ...], _Stretch] = {}
        self._positions: dict[str, dict[str, list[int]]] = {}
        sizes = [self._file.metadata.row_group(g).num_rows for g in range(self._file.metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def __enter__(self) -> "TableReader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def meta(self) -> dict[str, str]:
        """The texts given to `TableWriter` as `meta`."""
        found = {k.decode(errors="replace"): v.decode(errors="replace") for k, v in (self.schema.metadata or {}).items()}
        return {k[len(META_PREFIX) :]: v for k, v in found.items() if k.startswith(META_PREFIX)}

    def require(self, *columns: str) -> None:
        """
        Raises:
            DataError: the table lacks one of the columns.
        """
        for column in columns:
            if column not in self.schema.names:
                raise DataError(f"'{self.path}' has no column '{column}' (it has: {', '.join(self.schema.names)}); write it again")

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The columns in order of rows, a bounded number of bytes at a time."""
        self.require(*columns)
        yield from self._batches(columns, range(self._file.metadata.num_row_groups))

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows in order, with these columns."""
        for batch in self.batches(columns):
            yield from self._to_rows(batch)

    def column(self, name: str) -> list[Any]:
        """One (small) column whole."""
        return [row[name] for row in self.rows([name])]

    def get(self, key: str, columns: Sequence[str], by: str = "id") -> dict[str, Any] | None:
        """The first row whose column `by` equals `key`, or None."""
        positions = self._where(by).get(key)
        return self.row(positions[0], columns) if positions else None

    def get_all(self, key: str, columns: Sequence[str], by: str = "id") -> list[dict[str, Any]]:
        """Every row whose column `by` equals `key`, in order."""
        return [self.row(position, columns) for position in self._where(by).get(key, ())]

    def row(self, position: int, columns: Sequence[str]) -> dict[str, Any]:
        """The row at `position`, from 0. Some of its neighbours are kept, a bounded number of bytes: rows asked for in their order cost one pass,
        however large a row group another writer made; one that lies before those kept is read from the beginning of its group.
        """
        self.require(*columns)
        names = tuple(columns)
        group = int(np.searchsorted(self._starts, position, side="right")) - 1
        near = self._near.get(names)
        if near is None or near.group != group or position < near.first:
            near = self._near[names] = _Stretch(group, int(self._starts[group]), [], self._batches(names, [group]))
        while position >= near.first + len(near.rows):
            near.first += len(near.rows)
            near.rows = list(self._to_rows(next(near.rest)))
        return dict(near.rows[position - near.first])

    def verify(self) -> None:
        """Read everything once.

        Raises:
            DataError: a page's checksum does not match.
        """
        for _ in self.batches(self.schema.names):
            pass

    def _where(self, by: str) -> dict[str, list[int]]:
        if by not in self._positions:
            where: dict[str, list[int]] = {}
            for position, key in enumerate(self.column(by)):
                if key is not None:
                    where.setdefault(key, []).append(position)
            self._positions[by] = where
        return self._positions[by]

    def _to_rows(self, batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
        with self._damage():
            cells = [_cells(batch.column(i)) for i in range(batch.num_columns)]
        names = batch.schema.names
        for values in zip(*cells, strict=True):
            yield dict(zip(names, values, strict=True))

    def _batches(self, columns: Sequence[str], groups: Sequence[int]) -> Iterator[pa.RecordBatch]:
        with self._damage():
            yield from self._file.iter_batches(
                batch_size=self._batch_rows(columns, groups), row_groups=list(groups), columns=list(columns), use_threads=False
            )

    def _batch_rows(self, columns: Sequence[str], groups: Sequence[int]) -> int:
        """Rows that hold about `_BATCH_BYTES` of these columns."""
        meta = self._file.metadata
        total, rows = 0, 0
        for group in groups:
            rows += meta.row_group(group).num_rows
            for i in range(meta.num_columns):
                column = meta.row_group(group).column(i)
                if column.path_in_schema.split(".")[0] in columns:
                    total += column.total_uncompressed_size
        return max(1, min(4096, int(_BATCH_BYTES * max(1, rows) / max(1, total))))

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise DataError(f"'{self.path}' may not be read ({error.strerror}); let its owner allow it") from error
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            yours = self.path.stem == "index"  # no step can make it again
            advice = "restore it from where it came from" if yours else "delete it and make it again"
            raise DataError(f"'{self.path}' is damaged ({first}); {advice}") from error


def _cells(array: pa.Array) -> list[Any]:
    kind = array.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":  # finer than Python's times
        return array.cast(pa.timestamp("us", kind.tz), safe=False).to_pylist()
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_number(kind.value_type) and not array.null_count:
        values = array.flatten()
        if not values.null_count:
            ends = np.cumsum(array.value_lengths().to_numpy())[:-1]
            return np.split(values.to_numpy(zero_copy_only=False), ends) if len(array) else []
    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        plain = array.dictionary_decode() if pa.types.is_dictionary(kind) else array
        if not (pa.types.is_string(plain.type) or pa.types.is_large_string(plain.type) or pa.types.is_string_view(plain.type)):
            raise
        cells = plain.cast(pa.large_binary()).to_pylist()
        return [None if cell is None else cell.decode(errors="replace") for cell in cells]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
