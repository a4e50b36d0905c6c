"""The first table: is it what a dataset needs, and which rows have an id that can be used.

Ids are data and never become paths. An id must be text of 1 to `ID_BYTES` bytes without control characters; two ids that differ only
in how Unicode composes them (NFC, NFD) are one id. Of rows with the same id, the first one of the lowest partition stays; the others are
`duplicate_id`.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from autosing.errors import DataError
from autosing.store import Dataset, TableReader
from processing.step import Rejected

INDEX = "index"
AUDIO_HASH = "audio_hash"
"""The column in which import tells the hash of each song's audio."""
ID_BYTES = 512
INDEX_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.binary()),
        (AUDIO_HASH, pa.string()),
        ("lrc_lyrics", pa.string()),
        ("raw_lyrics", pa.string()),
        ("artist", pa.string()),
        ("title", pa.string()),
        ("source", pa.string()),
    ]
)
"""Of the tables that import writes; columns of the source follow. `open_index` asks of other writers for less."""
_TEXTS = ("lrc_lyrics", "raw_lyrics", "artist")


def open_index(dataset: Dataset, partition: int) -> TableReader:
    """Open a partition's index and check its columns.

    Raises:
        DataError: no index, a damaged one, or a column that is missing or of the wrong type.
    """
    path = dataset.table(partition, INDEX)
    if not path.is_file():
        raise DataError(f"partition {partition} has no index.parquet ('{path}'); it needs one with the columns id and audio")
    reader = TableReader(path)
    for name, needed, fits in (("id", "text", _is_text), ("audio", "binary", _is_binary)):
        if name not in reader.schema.names:
            found = ", ".join(reader.schema.names) or "none"
            raise DataError(f"'{path}' has no column '{name}' (it has: {found}); add it, as {needed}")
        _check(path, reader, name, needed, fits)
    for name in _TEXTS:
        if name in reader.schema.names:
            _check(path, reader, name, "text", lambda kind: _is_text(kind) or pa.types.is_null(kind))
    return reader


def refused_ids(dataset: Dataset, partition: int, ledger: "IdLedger") -> dict[int, Rejected]:
    """Row number -> why that row's id cannot be used."""
    with open_index(dataset, partition) as reader:
        ids = reader.column("id")
    refused: dict[int, Rejected] = {}
    for row in map(int, np.flatnonzero(ledger.repeated(partition))):
        reason = f"row {row} has an id that an earlier row has; every song needs its own"
        refused[row] = Rejected(ids[row], "duplicate_id", reason)
    for row, value in enumerate(ids):
        fault = id_fault(value)
        if fault:
            code, what = fault
            refused[row] = Rejected(None if value is None else value[:64], code, f"row {row} {what}")
    return dict(sorted(refused.items()))


class IdLedger:
    """Which rows of which partition repeat an id. Holds 24 bytes an id while it is made, one bit a row afterwards."""

    def __init__(self, dataset: Dataset, partitions: Iterable[int]):
        """Reads the id column of every partition; one that cannot be read holds no ids (it fails on its own)."""
        self._repeated: dict[int, np.ndarray] = {}
        digests: list[np.ndarray] = []
        for partition in sorted(partitions):
            try:
                with open_index(dataset, partition) as reader:
                    values = reader.column("id")
            except DataError:
                values = []
            self._repeated[partition] = np.zeros(len(values), dtype=bool)
            packed = b"".join(_digest(value, partition, row) for row, value in enumerate(values))
            digests.append(np.frombuffer(packed, dtype=np.uint64).reshape(-1, 2))
        table = np.concatenate(digests) if digests else np.zeros((0, 2), dtype=np.uint64)
        order = np.lexsort((np.arange(len(table)), table[:, 1], table[:, 0]))
        same = np.zeros(len(table), dtype=bool)
        same[order[1:]] = (table[order[1:]] == table[order[:-1]]).all(axis=1)
        begin = 0
        for marks in self._repeated.values():
            marks[:] = same[begin : begin + len(marks)]
            begin += len(marks)

    def repeated(self, partition: int) -> np.ndarray:
        """(rows,) bool: the id of this row was there before."""
        return self._repeated[partition]


def audio_hash(audio: bytes) -> str:
    """24 hexadecimal digits that say which audio this is."""
    return hashlib.sha256(audio).hexdigest()[:24]


def id_fault(value: str | None) -> tuple[str, str] | None:
    if value is None:
        return "null_id", "has no id"
    size = len(value.encode())
    if not value.strip():
        return "bad_id", "has an empty id"
    if size > ID_BYTES:
        return "bad_id", f"has an id of {size} bytes, more than {ID_BYTES}"
    if any(unicodedata.category(c) == "Cc" for c in value):
        return "bad_id", "has an id with control characters"
    return None


def _digest(value: str | None, partition: int, row: int) -> bytes:
    if value is None or id_fault(value):  # refused for its own sake; repeats nothing
        return hashlib.blake2b(f"\0{partition}/{row}".encode(), digest_size=16).digest()
    return hashlib.blake2b(unicodedata.normalize("NFC", value).encode(), digest_size=16).digest()


def _check(path: Path, reader: TableReader, name: str, needed: str, fits: Callable[[pa.DataType], bool]) -> None:
    kind = reader.schema.field(name).type
    if not fits(kind):
        raise DataError(f"column '{name}' of '{path}' must be {needed}, found {kind}; write the table again")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
