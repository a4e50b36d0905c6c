"""What is known of every window without its tokens: the columns that training may filter on, gathered from a partition's tables.

Trust, singing share and word scores come from chunked.parquet, the rest from quality.parquet. Datasets made before that table was are read
all the same: what it would say is null, and `missing_quality` names the command that fills it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from autosing.store import Dataset, TableReader
from processing.join import present
from processing.quality import QUALITY_TABLE, copies
from processing.windows import WINDOWS_TABLE

QUALITY_COLUMNS = ("signal_to_bleed", "silence_share", "clipped_share")
"""Columns that quality.parquet holds; `duplicate_of` follows from its fingerprints."""
JUDGED = pa.schema(
    [
        ("trust", pa.float32()),
        ("sung_share", pa.float32()),
        ("align_score", pa.float32()),
        *((name, pa.float32()) for name in QUALITY_COLUMNS),
        ("duplicate_of", pa.string()),
        ("lyrics_source", pa.string()),
    ]
)
"""What is added to a training row. The values are those of the window; with `construct_dataset --split` both halves carry them."""
FILLED_BY_QUALITY = (*QUALITY_COLUMNS, "duplicate_of")


def duplicates(dataset: Dataset, partitions: Sequence[int]) -> dict[str, str]:
    """Songs that are copies of earlier ones -> the earlier one, as far as fingerprints were taken."""
    prints: dict[str, str] = {}
    for partition in partitions:
        path = dataset.table(partition, QUALITY_TABLE)
        if path.is_file():
            with TableReader(path) as reader:
                for row in reader.rows(["song", "fingerprint"]):
                    prints.setdefault(row["song"], row["fingerprint"])
    return copies(prints)


def judged(dataset: Dataset, partition: int, copy_of: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The windows of a partition in order: id, song, start, seconds, alignment (a struct) and the columns of `JUDGED`."""
    found: dict[str, dict[str, Any]] = {}
    path = dataset.table(partition, QUALITY_TABLE)
    if path.is_file():
        with TableReader(path) as reader:
            found = {row["id"]: row for row in reader.rows(["id", *QUALITY_COLUMNS])}
    with TableReader(dataset.table(partition, WINDOWS_TABLE)) as reader:
        columns = present(reader, ("id", "song", "start", "seconds", "occupancy", "alignment", "lyrics_source?"))
        for row in reader.rows(list(columns)):
            scores = row["alignment"]["scores"]
            measured = found.get(row["id"], {})
            yield {
                "id": row["id"],
                "song": row["song"],
                "start": row["start"],
                "seconds": row["seconds"],
                "alignment": row["alignment"],
                "trust": row["alignment"]["inlier_ratio"],
                "sung_share": row["occupancy"],
                "align_score": float(np.mean(scores)) if len(scores) else None,
                **{name: measured.get(name) for name in QUALITY_COLUMNS},
                "duplicate_of": copy_of.get(row["song"]),
                "lyrics_source": row.get("lyrics_source"),
            }


def missing_quality(dataset: Dataset, partitions: Sequence[int]) -> str | None:
    """One line that says where the columns of quality.parquet are missing and which command fills them; None if nowhere."""
    without = []
    for partition in partitions:
        path = dataset.table(partition, QUALITY_TABLE)
        if not path.is_file():
            without.append(partition)
            continue
        with TableReader(path) as table, TableReader(dataset.table(partition, WINDOWS_TABLE)) as windows:
            if set(windows.column("id")) - set(table.column("id")):
                without.append(partition)
    if not without:
        return None
    which = f"partition {without[0]}" if len(without) == 1 else f"{len(without)} partitions, the first is {without[0]},"
    return (
        f"{which} of '{dataset.path}' lacks quality.parquet or windows in it, so that {', '.join(FILLED_BY_QUALITY)} are unknown there; "
        f"`autosing-process quality {dataset.path}` fills them"
    )
