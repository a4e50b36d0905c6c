"""Rows in a seeded order: set aside on disk by a hash of their id, read back in its order and dealt evenly to partitions.

Memory: `_SPOOL_BYTES` of waiting rows, then the rows of one of `BUCKETS` buckets.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autosing.store import writing

BUCKETS = 128
_SPOOL_BYTES = 32 << 20


class Spool:
    """Rows set aside on disk in `BUCKETS` files by their place in [0, 1), and read back in order of place."""

    def __init__(self, folder: Path, schema: pa.Schema):
        """
        Args:
            folder: made for it; must not be there.
            schema: of the rows.
        """
        folder.mkdir()
        self.schema = schema
        self.rows = 0
        self._folder = folder
        self._place = "place"
        while self._place in schema.names:
            self._place += "_"
        self._placed = schema.append(pa.field(self._place, pa.float64()))
        self._waiting: dict[int, list[dict[str, Any]]] = {}
        self._bytes = 0
        self._chunks: Counter[int] = Counter()

    def add(self, place: float, row: Mapping[str, Any]) -> None:
        """
        Raises:
            DataError: the disk is full.
        """
        self.rows += 1
        self._waiting.setdefault(int(place * BUCKETS), []).append({**row, self._place: place})
        self._bytes += 8192 + sum(np.asarray(row[name]).nbytes for name in ("stoks", "atoks", "mtoks", "embs"))
        if self._bytes >= _SPOOL_BYTES:
            self.flush()

    def flush(self) -> None:
        """Set every row aside on disk.

        Raises:
            DataError: the disk is full.
        """
        for bucket, rows in self._waiting.items():
            path = self._folder / f"{bucket}.{self._chunks[bucket]}.arrow"
            self._chunks[bucket] += 1
            with writing(path), pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, self._placed) as writer:
                writer.write_table(pa.Table.from_pylist(rows, schema=self._placed))
        self._waiting, self._bytes = {}, 0

    def ordered(self) -> Iterator[dict[str, Any]]:
        """Every row, by place; call it once all are flushed."""
        for bucket in range(BUCKETS):
            tables = []
            for chunk in range(self._chunks[bucket]):
                with pa.OSFile(str(self._folder / f"{bucket}.{chunk}.arrow"), "rb") as file:
                    tables.append(pa.ipc.open_file(file).read_all())
            if not tables:
                continue
            table = pa.concat_tables(tables).combine_chunks().sort_by([(self._place, "ascending"), ("id", "ascending")])
            for batch in table.drop_columns([self._place]).to_batches(max_chunksize=64):
                for i in range(batch.num_rows):
                    yield {name: _cell(batch.column(j), i) for j, name in enumerate(batch.schema.names)}


def _cell(array: pa.Array, i: int) -> Any:
    kind = array.type
    if pa.types.is_list(kind) and (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)):
        values = array[i].values
        if values is not None and not values.null_count:
            return values.to_numpy(zero_copy_only=False)
    return array[i].as_py()


def share(number: int, rows: int, partitions: int) -> int:
    """How many of `rows` partition `number` gets; all get them, and no two differ by more than one."""
    return (number + 1) * rows // partitions - number * rows // partitions
