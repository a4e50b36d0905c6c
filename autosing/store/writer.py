"""Tables are written row by row, at most `ROW_GROUP_BYTES` (or one row if that is larger) in memory, and appear whole or not at all.

Specs (codec, semantic, voice) travel as JSON in the schema metadata under `META_PREFIX`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autosing.errors import DataError
from autosing.store.files import fsync, replace, sha256_of, temporary_of, writing

Row = Mapping[str, Any]
META_PREFIX = "autosing."
ROW_GROUP_BYTES = 8 << 20
ROW_GROUP_ROWS = 1024


@dataclass(frozen=True)
class TableInfo:
    """What was written: `rows`, `bytes` and `sha256` of the file."""

    rows: int
    bytes: int
    sha256: str


class TableWriter:
    """Streams rows into a table that appears whole or not at all.

    ```
    with TableWriter(path, schema, {"codec": spec_to_json(spec)}) as writer:
        writer.write({"id": "a", "values": values})
    ```
    Leaving the block commits; leaving it by an exception discards. `finish` and `commit` apart let several tables be committed together.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        meta: Mapping[str, str] | None = None,
        reached: Callable[[str], None] = lambda point: None,
    ):
        """
        Args:
            path: of the finished table.
            schema: columns; cells of numeric lists may be numpy arrays.
            meta: texts stored in the schema metadata, read back by `TableReader.meta`.
            reached: told "open", "row", "close", "verify", "rename", "renamed" as they come.

        Raises:
            DataError: the folder cannot be written.
        """
        self.path = Path(path)
        self.schema = schema.with_metadata({META_PREFIX + key: value for key, value in (meta or {}).items()})
        self.rows = 0
        self._reached = reached
        self._buffer: list[Row] = []
        self._buffered_bytes = 0
        self._temporary = temporary_of(self.path)
        self._writer: pq.ParquetWriter | None = None
        # Audio does not compress and must not enter dictionaries or statistics; everything else gains from both.
        holds_binary = any(_is_binary(field.type) for field in schema)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            reached("open")
            self._writer = pq.ParquetWriter(
                str(self._temporary),
                self.schema,
                compression="NONE" if holds_binary else "ZSTD",
                use_dictionary=not holds_binary,
                write_statistics=not holds_binary,
                write_page_checksum=True,
            )

    def write(self, row: Row) -> None:
        """Append one row; missing columns are null.

        Raises:
            DataError: a cell does not fit its column, or the disk is full.
        """
        self._buffer.append(row)
        self._buffered_bytes += sum(map(_size, row.values()))
        self.rows += 1
        self._reached("row")
        if self._buffered_bytes >= ROW_GROUP_BYTES or len(self._buffer) >= ROW_GROUP_ROWS:
            self._flush()

    def finish(self) -> TableInfo:
        """Close the temporary file, sync it to disk and read it back: its footer and its number of rows.

        Raises:
            DataError: the disk is full, or lost rows.
        """
        self._flush()
        with writing(self.path):
            self._reached("close")
            assert self._writer is not None
            self._writer.close()
            self._writer = None
            fsync(self._temporary)
            self._reached("verify")
            found = pq.read_metadata(self._temporary).num_rows
            if found != self.rows:
                raise DataError(f"'{self.path}' was written with {self.rows} rows and read back with {found}; check the disk")
            return TableInfo(self.rows, self._temporary.stat().st_size, sha256_of(self._temporary))

    def commit(self) -> None:
        """Give the finished file its name."""
        with writing(self.path):
            self._reached("rename")
            replace(self._temporary, self.path)
            self._reached("renamed")

    def discard(self) -> None:
        """Remove the temporary file; harmless after `commit`."""
        if self._writer is not None:
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()
            self._writer = None
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self.finish()
                self.commit()
        finally:
            self.discard()

    def _flush(self) -> None:
        if not self._buffer:
            return
        assert self._writer is not None
        try:
            table = pa.Table.from_pylist(self._buffer, schema=self.schema)  # type: ignore[arg-type]
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise DataError(f"a row does not fit the columns of '{self.path}' ({error})") from error
        with writing(self.path):
            self._writer.write_table(table)
        self._buffer, self._buffered_bytes = [], 0


def write_table(path: Path, rows: Iterator[Row] | Sequence[Row], schema: pa.Schema, meta: Mapping[str, str] | None = None) -> None:
    """Write a whole table atomically."""
    with TableWriter(path, schema, meta) as writer:
        for row in rows:
            writer.write(row)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _size(value: Any) -> int:
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, list | tuple):
        return 8 * len(value)
    return 8
