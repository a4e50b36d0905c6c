"""Partitions and tables on disk: schemas, atomic writes, verified reads.

A dataset is `<dataset>/<i>/<table>.parquet`, i = 0, 1, .... Every write goes `.<name>.<pid>.tmp` in the same folder -> close -> fsync ->
verify -> `os.replace` -> fsync of the folder, so a table is either whole or absent. Parquet pages carry checksums, which are checked
on every read: a damaged table is a `DataError` that names it, never wrong data. Text of other writers that is not UTF-8 is read with
replacement characters, so that it costs its own cell alone. Writers and readers stream: memory is bounded by one
row group (`ROW_GROUP_BYTES`, or one row if that is larger), and no Arrow array ever holds 2 GiB of binary cells.

Specs (codec, semantic, voice) travel as JSON in the schema metadata under `META_PREFIX`. What was made from what is not known here
(processing/manifest.py).
"""

import contextlib
import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from autosing.errors import DataError

Row = Mapping[str, Any]
META_PREFIX = "autosing."
ROW_GROUP_BYTES = 8 << 20
ROW_GROUP_ROWS = 1024
_BATCH_BYTES = 16 << 20


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`, on failure it is removed. Whoever may read a new file may
    read it: safetensors lets its owner alone."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        with contextlib.suppress(OSError):  # not every file system has modes
            temporary.chmod(S_IMODE(mode))
        _fsync(temporary)
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says against writing `path` becomes one line.

    Raises:
        DataError: the disk is full, the folder cannot be written, ....
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot write '{path}' ({error}); make room or choose another folder, then run again") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold the folder against other processes on this machine; waits for its turn, and is let go when the process dies.

    Where the file system knows no locks the work goes on without, and False is yielded: tables are committed whole and are equal whoever writes them.

    Args:
        waiting: told that another process holds it.
    """
    import fcntl

    unsupported = {errno.ENOLCK, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        is_held = True
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in unsupported:
                raise
            is_held = False
        yield is_held
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left in `folder`; call it while holding `locked(folder)`."""
    for path in Path(folder).glob(".*.tmp"):
        path.unlink(missing_ok=True)


class Dataset:
    """A folder of numbered partitions."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Dataset('{self.path}')"

    def partitions(self) -> tuple[int, ...]:
        """The numbers of the partition folders, ascending.

        Raises:
            DataError: no such folder, or no partition in it.
        """
        if not self.path.is_dir():
            raise DataError(f"there is no dataset at '{self.path}'; make one with `autosing-process import <folder> {self.path}`")
        numbers = sorted(int(p.name) for p in self.path.iterdir() if _is_partition(p))
        if not numbers:
            raise DataError(f"'{self.path}' has no partition folder 0, 1, ...; each must hold an index.parquet")
        return tuple(numbers)

    def folder(self, partition: int) -> Path:
        return self.path / str(partition)

    def table(self, partition: int, name: str) -> Path:
        return self.folder(partition) / f"{name}.parquet"


def ranges_text(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 9] -> `0-2,9`."""
    pieces: list[str] = []
    ordered = sorted(numbers)
    begin = 0
    for end in range(1, len(ordered) + 1):
        if end == len(ordered) or ordered[end] != ordered[end - 1] + 1:
            pieces.append(f"{ordered[begin]}" if end - begin == 1 else f"{ordered[begin]}-{ordered[end - 1]}")
            begin = end
    return ",".join(pieces)


SEPARATED = "separated"
"""`kind` of a row of rendered songs whose vocals are what a separator left of them."""


def song_tables(*folders: Path) -> list[Path]:
    """`<folder>/<i>/songs.parquet` of rendered songs, folder by folder in the order of i.

    Raises:
        DataError: a folder without any.
    """
    tables = []
    for folder in map(Path, folders):
        found = [path for path in folder.glob("*/songs.parquet") if _is_partition(path.parent)]
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
        self._temporary = _temporary(self.path)
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
            _fsync(self._temporary)
            self._reached("verify")
            found = pq.read_metadata(self._temporary).num_rows
            if found != self.rows:
                raise DataError(f"'{self.path}' was written with {self.rows} rows and read back with {found}; check the disk")
            return TableInfo(self.rows, self._temporary.stat().st_size, sha256_of(self._temporary))

    def commit(self) -> None:
        """Give the finished file its name."""
        with writing(self.path):
            self._reached("rename")
            _replace(self._temporary, self.path)
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
        self._groups: dict[tuple[str, ...], tuple[int, list[dict[str, Any]]]] = {}
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
        with self._damage():
            yield from self._file.iter_batches(
                batch_size=self._batch_rows(columns), columns=list(columns), use_threads=False
            )

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
        """The row at `position`, from 0; its row group is kept for its neighbours."""
        self.require(*columns)
        names = tuple(columns)
        group = int(np.searchsorted(self._starts, position, side="right")) - 1
        cached = self._groups.get(names)
        if cached is None or cached[0] != group:
            with self._damage():
                table = self._file.read_row_group(group, columns=list(columns), use_threads=False)
            cached = (group, [row for batch in table.to_batches() for row in self._to_rows(batch)])
            self._groups[names] = cached
        return dict(cached[1][position - int(self._starts[group])])

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

    def _batch_rows(self, columns: Sequence[str]) -> int:
        total, rows = 0, max(1, len(self))
        meta = self._file.metadata
        for group in range(meta.num_row_groups):
            for i in range(meta.num_columns):
                column = meta.row_group(group).column(i)
                if column.path_in_schema.split(".")[0] in columns:
                    total += column.total_uncompressed_size
        return max(1, min(4096, int(_BATCH_BYTES * rows / max(1, total))))

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


def _is_partition(path: Path) -> bool:
    return path.is_dir() and path.name.isascii() and path.name.isdigit() and str(int(path.name)) == path.name


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(temporary: Path, path: Path) -> None:
    os.replace(temporary, path)
    _fsync(path.parent)
