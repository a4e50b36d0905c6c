"""What was made, from what, and whether it still holds: `<dataset>/<i>/manifest.json` and `rejected.parquet`.

One entry a step (by `Step.key`): its version, the hash of its settings, the hashes of the tables it read, and the hash and rows of
those it wrote. Of the index, which its owner goes on changing, only the columns that the step reads count, as `id,audio:<hash>`; where import
told the hash of each song's audio, that stands for it, so that terabytes are not read to see that nothing changed. Of the windows, too, what is read
counts: where they lie, not whose they are or what is sung in them. Entries made before that was so hold the hash of the whole file, and hold while it
does; `renew` gives them the hash of the columns. A step is done when its entry verifies
against the files as they are now; "the file exists" means nothing. The entry is written last, so a step that died anywhere before is simply
due again. Neither file holds a time, a host or a path: working twice gives the same bytes.

`rejected.parquet` holds the rejected rows of all steps (id, step, code, reason, partition); an entry knows the hash of its own.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from autosing.errors import DataError
from autosing.store import TableInfo, TableReader, TableWriter, atomic_path, ranges_text, sha256_of, writing
from processing.index import AUDIO_HASH, INDEX
from processing.step import Rejected
from processing.windows import WINDOW_META, WINDOWS_TABLE

FORMAT = "autosing-manifest/1"
MANIFEST_FILE = "manifest.json"
REJECTED_TABLE = "rejected"
_KEYS = {INDEX: ("id",), WINDOWS_TABLE: ("id", "song")}
"""Tables of which only what is read counts -> the columns that all readers read."""
_LENGTH = "length of windows"
REJECTED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("step", pa.string()),
        ("code", pa.string()),
        ("reason", pa.string()),
        ("partition", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Entry:
    """One step's work on one partition.

    Attributes:
        step, version, settings: what ran; `settings` is a hash.
        inputs: table read -> sha256 of its file; of the index and the windows, `FileHashes.columns`.
        tables: table written -> {"rows", "bytes", "sha256"}.
        songs: songs shown to the step; rows in = songs that were `Done` + `rejected`.
        rejected, rejected_hash: how many it refused, and the hash of those rows.
        notes: code -> how often.
    """

    step: str
    version: str
    settings: str
    inputs: dict[str, str]
    tables: dict[str, dict[str, Any]]
    songs: int
    rejected: int
    rejected_hash: str
    notes: dict[str, int] = field(default_factory=dict)


def settings_hash(settings: Mapping[str, Any]) -> str:
    """A short hash of JSON settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def rejected_hash(rejected: Iterable[Rejected]) -> str:
    """A hash of the rows a step refused, in order."""
    digest = hashlib.sha256()
    for row in rejected:
        digest.update(json.dumps([row.id, row.code, row.reason]).encode() + b"\n")
    return digest.hexdigest()[:16]


class FileHashes:
    """sha256 of files and of columns of tables, read once as long as size and time of change stay the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str], tuple[tuple[int, int, int], str]] = {}

    def of(self, path: Path) -> str | None:
        """The hash, or None where there is no file."""
        return self._once(path, "", lambda: sha256_of(path)) if path.is_file() else None

    def columns(self, path: Path, names: Sequence[str]) -> str:
        """`<names>:<hash>` of the cells of these columns, and of the length of windows; `name?` that the table lacks counts as empty.

        Raises:
            DataError: no such table or column, or it is damaged.
        """
        digests = [self._once(path, name, lambda name=name: _column_hash(path, name)) for name in (*names, _LENGTH)]
        return f"{','.join(names)}:{hashlib.sha256(' '.join(filter(None, digests)).encode()).hexdigest()}"

    def _once(self, path: Path, what: str, made: Callable[[], str]) -> str:
        stat = path.stat()
        mark = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        known = self._known.get((path, what))
        if known is None or known[0] != mark:
            known = (mark, made())
            self._known[path, what] = known
        return known[1]


def _column_hash(path: Path, name: str) -> str:
    digest = hashlib.sha256()
    with TableReader(path) as reader:
        if name == _LENGTH:
            return reader.meta.get(WINDOW_META, "")
        if name == "audio" and AUDIO_HASH in reader.schema.names and None not in reader.column(AUDIO_HASH):
            name = AUDIO_HASH
        absent = name.endswith("?") and name[:-1] not in reader.schema.names
        cells = itertools.repeat(None, len(reader)) if absent else (row[name.rstrip("?")] for row in reader.rows([name.rstrip("?")]))
        for cell in cells:
            data = cell if isinstance(cell, bytes) else str(cell).encode()
            digest.update(b"-" if cell is None else b"%d " % len(data) + data)
    return digest.hexdigest()


def stale_text(dataset: Path, stale: Mapping[int, Sequence[str]]) -> str:
    """One line about what `Manifest.stale` found in partitions, with the command."""
    which, tables = ranges_text(list(stale)), sorted({table for found in stale.values() for table in found})
    return (
        f"{', '.join(tables)} of partition{'s' * (len(stale) > 1)} {which} are older than what they were made from (songs or lyrics that changed, or a step "
        f"done again); `autosing-process run {dataset} --partitions {which}`, with the flags of the first time, makes them again"
    )


class Manifest:
    """The entries and rejected rows of one partition folder."""

    def __init__(self, folder: Path, partition: int, hashes: FileHashes):
        """Reads what is there; a damaged manifest is as good as none."""
        self.folder, self.partition, self._hashes = folder, partition, hashes
        self.entries: dict[str, Entry] = {}
        try:
            found = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            if found.get("format") == FORMAT:
                self.entries = {key: Entry(**values) for key, values in found["steps"].items()}
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            self.entries = {}
        self.rejected: dict[str, list[Rejected]] = self._read_rejected()

    def inputs(self, reads: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """The hashes of tables, with the columns that are read of them, as they are now.

        Raises:
            DataError: a table is missing or damaged.
        """
        found: dict[str, str] = {}
        for table, columns in reads.items():
            path = self._path(table)
            keys = _KEYS.get(table)
            digest = self._hashes.of(path) if keys is None or not path.is_file() else self._hashes.columns(path, tuple(dict.fromkeys((*keys, *columns))))
            if digest is None:
                raise DataError(
                    f"partition {self.partition} has no {table}.parquet ('{self.folder}'); run the step that makes it first, or `autosing-process run`"
                )
            found[table] = digest
        return found

    def holds(self, key: str, version: str, settings: str, inputs: Mapping[str, str]) -> bool:
        """Whether the entry of `key` still describes the files."""
        entry = self.entries.get(key)
        if entry is None or (entry.version, entry.settings, entry.inputs.keys()) != (version, settings, inputs.keys()):
            return False
        if rejected_hash(self.rejected.get(key, ())) != entry.rejected_hash:
            return False
        for table, recorded in entry.inputs.items():
            if recorded != inputs[table] and recorded != self._hashes.of(self._path(table)):
                return False
        return all(self._hashes.of(self._path(table)) == info["sha256"] for table, info in entry.tables.items())

    def stale(self, wanted: Iterable[str] | None = None) -> tuple[str, ...]:
        """Tables whose step read others than are there now; of those that no step made there is nothing to say.

        What a step made is as its entry says, so that of large files none is read but an index that import did not make; of windows a few columns are.

        Args:
            wanted: these tables and all that they were made from; None = every table.

        Raises:
            DataError: the index is damaged or lacks a column that was read.
        """
        maker = {table: entry for entry in self.entries.values() for table in entry.tables}
        waiting, found = list(maker if wanted is None else wanted), {}
        while waiting:
            table = waiting.pop()
            if table in maker and table not in found:
                inputs = maker[table].inputs
                found[table] = any(recorded != self._now(source, recorded, maker) for source, recorded in inputs.items())
                waiting += inputs
        return tuple(sorted(table for table, is_stale in found.items() if is_stale))

    def _now(self, table: str, recorded: str, maker: Mapping[str, Entry]) -> str | None:
        """The hash of a table today, of what the recorded one covers."""
        columns, colon, _ = recorded.partition(":")
        if colon and (table not in maker or self._path(table).is_file()):
            return self._hashes.columns(self._path(table), columns.split(","))
        return maker[table].tables[table]["sha256"] if table in maker else self._hashes.of(self._path(table))

    def commit(
        self,
        key: str,
        entry: Mapping[str, Any],
        tables: Mapping[str, TableInfo],
        rejected: list[Rejected],
        order: Callable[[str], Any],
        reached: Callable[[str], None] = lambda point: None,
    ) -> Entry:
        """Write `rejected.parquet` and then the manifest with the new entry.

        Args:
            entry: the fields of `Entry` that are not derived here.
            order: sorts step keys in rejected.parquet.
        """
        self.rejected[key] = rejected
        with TableWriter(self._path(REJECTED_TABLE), REJECTED_SCHEMA, reached=lambda p: reached(f"rejected-{p}")) as writer:
            for step in sorted(self.rejected, key=order):
                for row in self.rejected[step]:
                    writer.write({"id": row.id, "step": step, "code": row.code, "reason": row.reason, "partition": self.partition})
        made = Entry(
            **entry,
            tables={table: asdict(info) for table, info in tables.items()},
            rejected=len(rejected),
            rejected_hash=rejected_hash(rejected),
        )
        self.entries[key] = made
        reached("manifest")
        self._write(order)
        reached("done")
        return made

    def renew(self, key: str, inputs: Mapping[str, str], order: Callable[[str], Any]) -> None:
        """Write the inputs of an entry that holds as they are hashed today, so that the whole index is read for it no more.

        Args:
            order: sorts step keys in the manifest.
        """
        if self.entries[key].inputs != inputs:
            self.entries[key] = replace(self.entries[key], inputs=dict(inputs))
            self._write(order)

    def _write(self, order: Callable[[str], Any]) -> None:
        with writing(self.folder / MANIFEST_FILE), atomic_path(self.folder / MANIFEST_FILE) as path:
            steps = {name: asdict(self.entries[name]) for name in sorted(self.entries, key=order)}
            path.write_text(json.dumps({"format": FORMAT, "steps": steps}, indent=1) + "\n", encoding="utf-8")

    def _path(self, table: str) -> Path:
        return self.folder / f"{table}.parquet"

    def _read_rejected(self) -> dict[str, list[Rejected]]:
        path = self._path(REJECTED_TABLE)
        found: dict[str, list[Rejected]] = {}
        try:
            with TableReader(path) as reader:
                for row in reader.rows(["id", "step", "code", "reason"]):
                    found.setdefault(row["step"], []).append(Rejected(row["id"], row["code"], row["reason"]))
        except DataError:  # missing or damaged: the steps that refused rows no longer verify, and write it again
            return {}
        return found
