"""A Hugging Face AudioFolder: `metadata.csv`, `.jsonl` or `.parquet` with `file_name`, beside audio files or above them.

Splits are subfolders with a table each; files that no table names are no songs, and are named. An AudioFolder without a table is a plain folder. What
is written is `metadata.jsonl` above `audio/<partition>/`.
"""

from collections.abc import Iterator
from pathlib import Path

from autosing.store import atomic_path
from processing.formats.base import Outgoing
from processing.formats.folder import json_line, write_file
from processing.formats.table import NAMES, Table

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")

READER = Table(NAMES, TABLES)


def write(partitions: Iterator[tuple[int, Iterator[Outgoing]]], folder: Path) -> None:
    """Write each row as an audio file and a line of one table, which appears last."""
    with atomic_path(folder / TABLES[0]) as temporary, open(temporary, "wb") as table:
        for partition, rows in partitions:
            for row in rows:
                name = f"audio/{partition}/{row.name}{row.suffix}"
                write_file(folder / name, row.audio)
                table.write(json_line({"file_name": name, **row.columns}))
