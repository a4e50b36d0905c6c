"""The songs that a dataset holds, as an import asks for them: by source, by id, by audio, and those that it has not come upon so far.

They are in a database of SQLite's own on disk, so that memory does not grow with them. A song is known by its `source`; ids that differ only in how
Unicode composes them are one id. What else is said of a song is compared by a digest.
"""

import contextlib
import hashlib
import json
import sqlite3
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from autosing.store import Dataset, TableReader, remove_temporaries
from processing.formats.columns import plain
from processing.index import AUDIO_HASH, INDEX, INDEX_SCHEMA, audio_hash


class LedgerSong(NamedTuple):
    """`audio` is the hash of its audio, `digest` that of all else but the id; `seen`: this run came upon it, or added it."""

    id: str
    audio: str
    digest: str
    partition: int
    seen: bool


class SongLedger:
    def __init__(self, dataset: Dataset, columns: Mapping[str, pa.DataType]):
        """
        Args:
            columns: of the source's own, compared too.

        Raises:
            DataError: an index is damaged.
        """
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE songs (source TEXT, id TEXT, folded TEXT, audio TEXT, digest TEXT, partition INTEGER, now INTEGER, there INTEGER);"
            "CREATE INDEX by_source ON songs (source); CREATE INDEX by_id ON songs (folded); CREATE INDEX by_audio ON songs (audio);"
            "BEGIN"
        )
        self.compared = (*(name for name in INDEX_SCHEMA.names if name not in ("id", "source", "audio", AUDIO_HASH)), *columns)
        for partition in _partitions(dataset):
            with TableReader(dataset.table(partition, INDEX)) as reader:
                names = [n for n in ("id", "source", AUDIO_HASH, *self.compared) if n in reader.schema.names]
                if AUDIO_HASH not in names:
                    names.append("audio")  # of another writer, or an import before there was this column
                for row in reader.rows(names):
                    self.add(row, row.get(AUDIO_HASH) or audio_hash(row.get("audio") or b""), partition, now=False)

    def add(self, row: Mapping[str, Any], audio: str, partition: int, now: bool) -> None:
        identity = row.get("id")
        values = (row.get("source"), identity, _folded(identity), audio, self.digest(row), partition, now, now)
        self._database.execute("INSERT INTO songs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def digest(self, row: Mapping[str, Any]) -> str:
        """Of everything but the id and the audio."""
        values = {name: value for name in self.compared if (value := _comparable(row.get(name))) is not None}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]

    def of_source(self, source: str) -> LedgerSong | None:
        found = self._first("SELECT id, audio, digest, partition, now FROM songs WHERE source = ? LIMIT 1", source)
        return found and LedgerSong(*found)

    def saw(self, source: str) -> None:
        self._database.execute("UPDATE songs SET now = 1, there = 1 WHERE source = ?", (source,))

    def is_there(self, place: str) -> None:
        """What has this source, or lies below it, is not gone, even if it cannot be read."""
        self._database.execute("UPDATE songs SET there = 1 WHERE source = ? OR (source > ? AND source < ?)", (place, *_below(place)))

    def changed(self, source: str, row: Mapping[str, Any]) -> None:
        """The song of this source is now as the row says, its source too."""
        values = (row["source"], row["id"], _folded(row["id"]), row[AUDIO_HASH], self.digest(row), source)
        self._database.execute("UPDATE songs SET source = ?, id = ?, folded = ?, audio = ?, digest = ? WHERE source = ?", values)

    def unseen(self, base: str, audio: str | None = None) -> Iterator[tuple[str, str | None]]:
        """-> source and id of songs below `base` that this run has not come upon so far.

        Args:
            audio: of those with this audio hash.
        """
        query = "SELECT source, id FROM songs WHERE there = 0 AND source > ? AND source < ?"
        if audio is None:
            yield from self._database.execute(f"{query} ORDER BY source", _below(base)).fetchall()
        else:
            yield from self._database.execute(f"{query} AND audio = ? ORDER BY +source", (*_below(base), audio)).fetchall()

    def named(self, identity: str) -> str | None:
        """Which song has this id."""
        found = self._first("SELECT coalesce(source, id) FROM songs WHERE folded = ? LIMIT 1", _folded(identity))
        return found and found[0]

    def sounding(self, audio: str) -> str | None:
        """Which song has this audio."""
        found = self._first("SELECT coalesce(source, id, '?') FROM songs WHERE audio = ? LIMIT 1", audio)
        return found and found[0]

    def _first(self, query: str, value: str | None) -> Any:
        return self._database.execute(query, (value,)).fetchone()

    def __enter__(self) -> "SongLedger":
        return self

    def __exit__(self, *_: Any) -> None:
        self._database.close()


def _comparable(value: Any) -> Any:
    value = plain(value)
    if value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: inner for name, old in value.items() if (inner := _comparable(old)) is not None}
    return [_comparable(inner) for inner in value] if isinstance(value, list) else value


def _below(place: str) -> tuple[str, str]:
    """What all sources below a place lie between."""
    return f"{place}/", f"{place}{chr(ord('/') + 1)}"


def _folded(identity: str | None) -> str | None:
    return None if identity is None else unicodedata.normalize("NFC", identity)


def _partitions(dataset: Dataset) -> list[int]:
    """The partitions that have an index. Empty folders, left by an import that was killed, are removed, so that numbers have no gaps."""
    there = []
    names = {p.name for p in dataset.path.iterdir() if p.is_dir() and p.name.isascii() and p.name.isdecimal()}
    for number in sorted(int(name) for name in names if str(int(name)) == name):
        if dataset.table(number, INDEX).is_file():
            there.append(number)
        else:
            remove_temporaries(dataset.folder(number))
            with contextlib.suppress(OSError):  # holds something else
                dataset.folder(number).rmdir()
    return there
