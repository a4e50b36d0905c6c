"""`index.parquet` tables -> files for other programs, in one of the `WRITERS` of `formats/`. Importing them again gives equal rows.

Everything but `source` and `audio_hash`, which an import makes, goes along; times become text, and columns that JSON cannot hold are named
and left out. File names are `<partition>-<row>-<title>`, so that no id becomes a path. A folder holds one export: `export.json` says of
which tables; one that was ended half-way goes on where it was.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from autosing.errors import DataError
from autosing.store import Dataset, atomic_path, sha256_of, writing
from processing.formats import WRITERS
from processing.formats.base import TAKEN, TEXT_COLUMNS, Outgoing, Writer
from processing.formats.columns import plain
from processing.formats.files import AUDIO_SUFFIXES
from processing.index import AUDIO_HASH, INDEX, open_index

EXPORT_FILE = "export.json"
EXPORT_FORMAT = "autosing-export/1"


@dataclass(frozen=True)
class Exported:
    """What was written: songs; rows without audio, which were not; columns that could not go along, with their types."""

    songs: int
    without_audio: int
    dropped: tuple[tuple[str, str], ...]


def export_songs(
    dataset: Dataset, target: str, folder: Path, seen: Callable[[int, int], None] = lambda done, total: None
) -> Exported:
    """Write all songs of a dataset.

    Args:
        target: a name of `WRITERS`.
        folder: created if missing; empty, or with the same export half done.
        seen: told how many of how many songs are done.

    Raises:
        ConfigError: no such target.
        DataError: no dataset; the folder holds something else; it cannot be written.
    """
    writer: Writer = WRITERS.get(target)
    numbers = dataset.partitions()
    mark = {"format": EXPORT_FORMAT, "to": target, "done": False, "tables": {}}
    total = 0
    for number in numbers:
        with open_index(dataset, number) as reader:
            total += len(reader)
        mark["tables"][str(number)] = sha256_of(dataset.table(number, INDEX))
    work = _Export(dataset, total, seen)
    with writing(folder):
        _claim(folder, mark)
        writer(((number, work.rows(number)) for number in numbers), folder)
        _write_mark(folder, {**mark, "done": True})
    return Exported(total - work.without_audio, work.without_audio, tuple(sorted(work.dropped.items())))


class _Export:
    def __init__(self, dataset: Dataset, total: int, seen: Callable[[int, int], None]):
        self.without_audio = 0
        self.dropped: dict[str, str] = {}
        self._dataset, self._total, self._seen, self._done = dataset, total, seen, 0

    def rows(self, partition: int) -> Iterator[Outgoing]:
        with open_index(self._dataset, partition) as reader:
            for kind in reader.schema:
                if kind.name not in TAKEN and _holds_binary(kind.type):
                    self.dropped[kind.name] = str(kind.type)
            names = [n for n in reader.schema.names if n not in self.dropped and n != AUDIO_HASH]
            for number, row in enumerate(reader.rows(names)):
                self._done += 1
                self._seen(self._done, self._total)
                if not row["audio"]:
                    self.without_audio += 1
                    continue
                columns = {name: row.get(name) or None for name in TEXT_COLUMNS}
                columns |= {name: plain(row[name]) for name in names if name not in (*TAKEN, *TEXT_COLUMNS)}
                name = f"{partition:05d}-{number:05d}-{_slug(columns)}"
                yield Outgoing(name, _suffix(row["audio"], row.get("source")), row["audio"], columns)


def _claim(folder: Path, mark: Mapping[str, Any]) -> None:
    path = folder / EXPORT_FILE
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found != mark:
            raise DataError(f"'{folder}' is not empty and no export of this dataset that was ended half-way; name a new folder")
    _write_mark(folder, mark)


def _write_mark(folder: Path, mark: Mapping[str, Any]) -> None:
    with atomic_path(folder / EXPORT_FILE) as temporary:
        temporary.write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")


def _slug(columns: Mapping[str, Any]) -> str:
    text = " - ".join(part for part in (columns["artist"], columns["title"]) if part) or columns["id"] or "song"
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^\w-]+", "_", text)[:60].strip("_-") or "song"


def _suffix(audio: bytes, source: str | None) -> str:
    """The ending that its first bytes ask for, else the one it had."""
    if audio[:4] == b"OggS":
        return ".opus" if b"OpusHead" in audio[:64] else ".ogg"
    for start, kind, suffix in ((b"fLaC", b"", ".flac"), (b"RIFF", b"WAVE", ".wav"), (b"FORM", b"AIF", ".aiff"), (b"ID3", b"", ".mp3")):
        if audio.startswith(start) and audio[8:12].startswith(kind):
            return suffix
    ending = PurePosixPath(source or "").suffix.lower()
    return ending if ending in AUDIO_SUFFIXES else ".mp3"


def _holds_binary(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_binary(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
