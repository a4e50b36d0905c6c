"""Songs in any known format -> `index.parquet`, streaming: one song, one row group and one partition's changes are in memory.

A reader of `formats/` gives the songs one after the other. Each is known by its `source`, the path from the imported folder's own name on
(so folders brought into one dataset need different names, and `sources.json` remembers which folder each name stands for). Importing
again adds new songs in new partitions, rewrites only partitions whose songs changed, and otherwise does nothing; what a killed import
had committed is not done again. A file that has the audio of one that is gone is that song under another name; a song that is gone stays, and
is named. Audio is stored as it is and not decoded; what is wrong with it is found by the first step.

An id that the source gives is kept, and refused where another song has it; else the id is the audio's content hash (`audio_hash`: the first
24 digits of the file's SHA-256). It stays with its song from then on. A song whose audio is in the dataset already is left out. What is
left out, for this or any other reason, is named with a code and the reason in `import-<name>.jsonl`, and hinders nothing else.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from autosing.errors import ConfigError, DataError
from autosing.store import Dataset, TableReader, TableWriter, atomic_path, locked, remove_temporaries, writing
from processing.formats import READERS
from processing.formats.base import TEXT_COLUMNS, Entry, LeftOut, Options, Reader, Song, Survey, Unusable
from processing.formats.columns import common, fit, plain
from processing.formats.files import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from processing.formats.files import check_encoding, decodable
from processing.formats.naming import who
from processing.formats.table import Table, check_columns
from processing.index import AUDIO_HASH, id_fault

SOURCES_FILE = "sources.json"
SOURCES_FORMAT = "autosing-sources/1"
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
_SHOWN = 20
_CHANGED_BYTES = 256 << 20
"""Changed songs wait in memory up to this, so that a partition is rewritten once."""


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        added, changed, unchanged, with_lyrics: songs; `with_lyrics` of those added.
        partitions: written.
        codes: code -> how often something was left out for it.
        left_out: the first of them.
        not_unicode: the first texts that were read as Windows-1252.
        gone: songs of the dataset that are no longer in the source; they stay.
        gone_first: the first of them.
        report: the file with all of it, a JSON object a line.
    """

    added: int
    changed: int
    unchanged: int
    with_lyrics: int
    partitions: tuple[int, ...]
    codes: Mapping[str, int]
    left_out: tuple[LeftOut, ...]
    not_unicode: tuple[str, ...]
    gone: int
    gone_first: tuple[str, ...]
    report: Path


def import_songs(
    source: Path,
    dataset: Dataset,
    partition_size: int = 64,
    options: Options | None = None,
    seen: Callable[[int, int], None] = lambda done, total: None,
    moved: bool = False,
    file_format: str = "auto",
    keep_duplicates: bool = False,
) -> Imported:
    """Bring songs into a dataset.

    Args:
        source: a folder or file of one of the formats.
        dataset: created if missing.
        partition_size: songs a partition.
        options: what else is known about the source; its `encoding` is remembered for the source.
        seen: told how many of about how many songs are done.
        moved: the folder is the one imported before from another place, or under another name.
        file_format: a name of `READERS`; "auto" = the first that recognises the source.
        keep_duplicates: bring in songs too whose audio is in the dataset already.

    Raises:
        ConfigError: no such source, format, encoding or column, or a size below 1.
        DataError: no song in it; another folder of the same name was imported before; the dataset cannot be written.
    """
    options = options or Options()
    if partition_size < 1:
        raise ConfigError(f"--partition-size must be at least 1, found {partition_size}")
    if not source.exists():
        raise ConfigError(f"there is no folder or file '{source}'")
    for path in (options.lyrics_folder, options.audio_folder):
        if path is not None and not path.is_dir():
            raise ConfigError(f"there is no folder '{path}'")
    check_encoding(options.encoding)
    check_columns(options.columns)
    reader = _reader(source, file_format)
    if options.columns and not isinstance(reader, Table):
        raise ConfigError(f"--columns says what a table's columns stand for, and '{source}' is read as another format; leave it out")
    root = source if source.is_dir() else source.parent
    options = replace(options, encoding=options.encoding or _sources(dataset).get(_name_of(dataset, root, moved), {}).get("lyrics_encoding"))
    survey = reader.survey(source, options)
    if not survey.songs:
        raise _nothing(source, reader.entries(source, options))
    try:
        dataset.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the dataset '{dataset.path}' ({error.strerror}); name a folder that is there or can be made") from error
    with locked(dataset.path), contextlib.ExitStack() as stack:
        name = _name_of(dataset, root, moved)
        _remember(dataset, name, root, moved, options.encoding)
        known = stack.enter_context(_Known(dataset, survey.columns))
        report = stack.enter_context(_Report(dataset, name))
        work = _Import(dataset, reader, source, options, survey, partition_size, keep_duplicates, known, report, name)
        return work.run(seen)


def _reader(source: Path, name: str) -> Reader:
    if name != "auto":
        return READERS.get(name)
    for known in READERS.names():
        reader: Reader = READERS.get(known)
        if reader.recognises(source):
            return reader
    raise DataError(f"'{source}' is of no known format; give --format with one of: {', '.join(READERS.names())}")


def _nothing(source: Path, entries: Iterator[Entry | LeftOut]) -> DataError:
    left_out = [item for item in itertools.islice(entries, 1000) if isinstance(item, LeftOut)]
    why = f" ({len(left_out)} left out, such as '{left_out[0].path}': {left_out[0].reason})" if left_out else ""
    kinds = ", ".join(s[1:] for s in AUDIO_SUFFIXES)
    return DataError(f"no audio file under '{source}'{why}; it must hold {kinds} files, or a table that names some")


def audio_hash(audio: bytes) -> str:
    """24 hexadecimal digits that say which audio this is."""
    return hashlib.sha256(audio).hexdigest()[:24]


class _Known:
    """The songs that the dataset holds. In a database of SQLite's own on disk, so that memory does not grow with them."""

    def __init__(self, dataset: Dataset, columns: Mapping[str, pa.DataType]):
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE songs (source TEXT, id TEXT, folded TEXT, audio TEXT, digest TEXT, partition INTEGER, now INTEGER, there INTEGER);"
            "CREATE INDEX by_source ON songs (source); CREATE INDEX by_id ON songs (folded); CREATE INDEX by_audio ON songs (audio);"
            "BEGIN"
        )
        self.compared = (*(name for name in INDEX_SCHEMA.names if name not in ("id", "source", "audio", AUDIO_HASH)), *columns)
        for partition in _partitions(dataset):
            with TableReader(dataset.table(partition, "index")) as reader:
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

    def of_source(self, source: str) -> tuple[str, str, str, int, bool] | None:
        """-> id, audio hash, digest, partition, whether it was seen in this run already."""
        return self._first("SELECT id, audio, digest, partition, now FROM songs WHERE source = ? LIMIT 1", source)

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

    def __enter__(self) -> "_Known":
        return self

    def __exit__(self, *_: Any) -> None:
        self._database.close()


class _Report:
    """`import-<name>.jsonl` of a dataset, one line a song or file; appears when the import ends, even by an error of the user's."""

    def __init__(self, dataset: Dataset, name: str):
        safe = re.sub(r"[^\w.-]+", "_", name)[:60] or "songs"
        self.path = dataset.path / f"import-{safe}.jsonl"
        self.codes: Counter[str] = Counter()
        self.left_out: list[LeftOut] = []
        self.not_unicode: list[str] = []
        self.gone: list[str] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "_Report":
        with writing(self.path):
            remove_temporaries(self.path.parent)
            temporary = self._stack.enter_context(atomic_path(self.path))
            self._file = self._stack.enter_context(open(temporary, "w", encoding="utf-8"))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, DataError):
            kind = error = trace = None
        with writing(self.path):
            self._stack.__exit__(kind, error, trace)

    def song(self, state: str, path: str, identity: str | None) -> None:
        self._line({"state": state, "path": path, "id": identity})

    def is_gone(self, path: str, identity: str | None) -> None:
        if len(self.gone) < _SHOWN:
            self.gone.append(path)
        self.song("gone", path, identity)

    def leave_out(self, item: LeftOut) -> None:
        self.codes[item.code] += 1
        if len(self.left_out) < _SHOWN:
            self.left_out.append(item)
        self._line({"state": "left_out", **item._asdict()})

    def note(self, path: str) -> None:
        if len(self.not_unicode) < _SHOWN and path not in self.not_unicode:
            self.not_unicode.append(path)

    def _line(self, values: Mapping[str, Any]) -> None:
        with writing(self.path):
            self._file.write(json.dumps(values, ensure_ascii=False) + "\n")


@dataclass
class _Import:
    """The work of one import."""

    dataset: Dataset
    reader: Reader
    source: Path
    options: Options
    survey: Survey
    partition_size: int
    keep_duplicates: bool
    known: _Known
    report: _Report
    _base: str
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    with_lyrics: int = 0
    gone: int = 0
    _plain_files: bool = False  # songs of this run lie under their keys
    written: set[int] = field(default_factory=set)
    _waiting: dict[int, dict[str, tuple[str, dict[str, Any]]]] = field(default_factory=dict)  # partition -> source -> key, what to set
    _waiting_bytes: int = 0

    def run(self, seen: Callable[[int, int], None]) -> Imported:
        schema = _extended(INDEX_SCHEMA, self.survey.columns)
        fresh = self._fresh(seen)
        numbers = itertools.count()
        for first in fresh:
            number = next(n for n in numbers if not self.dataset.folder(n).exists())
            songs = []
            with _new_partition(self.dataset, number, schema) as writer:
                for key, row in itertools.chain([first], itertools.islice(fresh, self.partition_size - 1)):
                    self.known.add(row, row[AUDIO_HASH], number, now=True)
                    writer.write(row)
                    songs.append((key, row["id"], bool(row["lrc_lyrics"] or row["raw_lyrics"])))
            self.written.add(number)
            for key, identity, has_lyrics in songs:  # told once they are there
                self.added += 1
                self.with_lyrics += has_lyrics
                self.report.song("added", key, identity)
        self._rewrite()
        report = self.report
        if not (self.added or self.changed or self.unchanged):
            first = report.left_out[0]
            raise DataError(f"no song of '{self.source}' can be used: {sum(report.codes.values())} left out, such as '{first.path}': {first.reason}")
        return Imported(
            self.added, self.changed, self.unchanged, self.with_lyrics, tuple(sorted(self.written)), dict(sorted(report.codes.items())),
            tuple(sorted(report.left_out)), tuple(sorted(report.not_unicode)), self.gone, tuple(report.gone), report.path,
        )  # fmt: skip

    def _fresh(self, seen: Callable[[int, int], None]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The keys and rows to add; what was known is compared on the way."""
        done = 0
        later: set[str] = set()
        for item in self.reader.entries(self.source, self.options):
            if isinstance(item, LeftOut):
                self.report.leave_out(item)
                self.known.is_there(f"{self._base}/{item.path}")
                continue
            done += 1
            seen(min(done, self.survey.songs), self.survey.songs)
            self._plain_files |= self._is_file(item.key)
            if (row := self._sorted_out(item, later)) is not None:
                yield item.key, row
        for item in self.reader.entries(self.source, self.options) if later else ():
            if isinstance(item, Entry) and item.key in later and (row := self._sorted_out(item, None)) is not None:
                yield item.key, row
        for source, identity in self.known.unseen(self._base):
            if self._is_gone(source):
                self.gone += 1
                self.report.is_gone(source.removeprefix(f"{self._base}/"), identity)

    def _sorted_out(self, item: Entry, later: set[str] | None) -> dict[str, Any] | None:
        """The row of a song to add; a known one is compared, what cannot be used is reported.

        Args:
            later: gets the keys of songs that sound like a known one that was not come upon so far: when all others were, it has changed,
                or its file is gone and this is it under another name. None = all others were.
        """
        try:
            song = item.load()
            row = self._row(item.key, song)
        except Unusable as error:
            self.report.leave_out(LeftOut(item.key, error.code, error.reason))
            self.known.is_there(f"{self._base}/{item.key}")
            return None
        old = self.known.of_source(row["source"])
        alike = [] if old is not None else [source for source, _ in self.known.unseen(self._base, row[AUDIO_HASH])]
        if alike and later is not None:
            later.add(item.key)
            return None
        for part in song.left_out:
            self.report.leave_out(part)
        for path in song.not_unicode:
            self.report.note(path)
        if old is not None and old[4]:
            if not self.keep_duplicates or (row[AUDIO_HASH] == old[1] and self.known.digest(row) == old[2]):
                self.report.leave_out(LeftOut(item.key, "duplicate", "is named more than once; the first counts"))
                return None
            row["source"] = next(s for n in itertools.count(2) if self._unseen(s := f"{row['source']}#{n}"))
            old = self.known.of_source(row["source"])
        before = next(filter(self._is_gone, alike), row["source"])
        if before != row["source"]:
            old = self.known.of_source(before)
        if old is not None:
            self._compare(item.key, row, song, before, *old[:4])
        elif fault := self._fault(row):
            self.report.leave_out(LeftOut(item.key, *fault))
        else:
            return row
        return None

    def _is_file(self, key: str) -> bool:
        """Whether a song lies under its key, or in an archive there."""
        roots = (self.source if self.source.is_dir() else self.source.parent, self.options.audio_folder)
        places = (PurePosixPath(key), *PurePosixPath(key).parents[:-1])
        return any(os.path.isfile(root / place) for root in roots if root is not None for place in places)  # also of names too long for a file

    def _is_gone(self, source: str) -> bool:
        """Whether a song that this run did not come upon is no longer where it was. A single file says nothing about songs of others."""
        key = source.removeprefix(f"{self._base}/")
        if self.source.is_file() and key.startswith(f"{self.source.name}/"):
            return True
        return (self.source.is_dir() or self._plain_files) and not self._is_file(key)

    def _unseen(self, source: str) -> bool:
        old = self.known.of_source(source)
        return old is None or not old[4]

    def _row(self, key: str, song: Song) -> dict[str, Any]:
        """The row of a song; its id is None where the source gives none."""
        columns = {name: fit(song.columns[name], kind) for name, kind in self.survey.columns.items() if name in song.columns}
        row: dict[str, Any] = {name: song.columns.get(name) or None for name in TEXT_COLUMNS}
        if "artist" not in song.columns or "title" not in song.columns:
            artist, title = who(song.audio, PurePosixPath(key), song.artist_folder)
            row["artist"] = song.columns.get("artist", artist)
            row["title"] = song.columns.get("title", title)
        return {**columns, **row, "audio": song.audio, AUDIO_HASH: audio_hash(song.audio), "source": f"{self._base}/{key}"}

    def _fault(self, row: dict[str, Any]) -> tuple[str, str] | None:
        """Why a new row cannot be added; else it has its id afterwards."""
        twin = self.known.sounding(row[AUDIO_HASH])
        if twin is not None and not self.keep_duplicates:
            return "duplicate", f"has the same audio as '{twin}'; --keep-duplicates brings in both{self._if_renamed(twin)}"
        if row["id"] is not None:
            return self._id_taken(row["id"])
        names = itertools.chain([row[AUDIO_HASH]], (f"{row[AUDIO_HASH]}-{n}" for n in itertools.count(2)))
        row["id"] = next(name for name in names if self.known.named(name) is None)
        return None

    def _if_renamed(self, twin: str) -> str:
        name = twin.split("/", 1)[0]
        folder = _sources(self.dataset).get(name, {}).get("folder")
        if folder is None or name == self._base or Path(folder).exists():
            return ""
        return f", --moved goes on with the songs of '{folder}', which is gone, if it has another name now"

    def _id_taken(self, identity: str) -> tuple[str, str] | None:
        if fault := id_fault(identity):
            return fault[0], f"{fault[1]}; give it another"
        owner = self.known.named(identity)
        return None if owner is None else ("duplicate_id", f"its id '{identity}' is that of '{owner}'; give one of them another")

    def _compare(
        self, key: str, row: dict[str, Any], song: Song, before: str, identity: str, audio: str, digest: str, partition: int
    ) -> None:
        """
        Args:
            before: the source that the song is known by.
        """
        self.known.saw(before)
        new_id = row["id"] not in (None, identity)
        if new_id and (fault := self._id_taken(row["id"])):
            self.report.leave_out(LeftOut(key, *fault))
            self.unchanged += 1
            return
        same = not new_id and (row["source"], row[AUDIO_HASH], self.known.digest(row)) == (before, audio, digest)
        if same or song.left_out:  # a song that cannot be read whole stays as it was
            self.unchanged += 1
            self.report.song("unchanged", key, identity)
            return
        row["id"] = row["id"] or identity
        self.known.changed(before, row)
        self._waiting.setdefault(partition, {})[before] = key, row
        self._waiting_bytes += len(row["audio"])
        if self._waiting_bytes > _CHANGED_BYTES:
            self._rewrite()

    def _rewrite(self) -> None:
        """Write the partitions that have changed songs."""
        for partition, songs in sorted(self._waiting.items()):
            path = self.dataset.table(partition, "index")
            with TableReader(path) as reader:
                schema = _extended(reader.schema.remove_metadata(), self.survey.columns)
                kinds = {name: schema.field(name).type for name in self.survey.columns}
                with locked(self.dataset.folder(partition)), TableWriter(path, schema) as writer:
                    for old in reader.rows(reader.schema.names):
                        _, row = songs.get(old["source"], ("", None))
                        new = old if row is None else {**old, **dict.fromkeys(kinds), **row}  # what is no longer said of it is empty
                        new |= {name: fit(new.get(name), kind) for name, kind in kinds.items()}
                        writer.write({name: new.get(name) for name in schema.names})
            self.written.add(partition)
            for key, row in songs.values():
                self.changed += 1
                self.report.song("changed", key, row["id"])
        self._waiting.clear()
        self._waiting_bytes = 0


def _extended(schema: pa.Schema, columns: Mapping[str, pa.DataType]) -> pa.Schema:
    for name, kind in columns.items():
        place = schema.get_field_index(name)
        if place < 0:
            schema = schema.append(pa.field(name, kind))
        elif schema.field(place).type != kind:
            schema = schema.set(place, pa.field(name, common(schema.field(place).type, kind)))
    return schema


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
        if dataset.table(number, "index").is_file():
            there.append(number)
        else:
            remove_temporaries(dataset.folder(number))
            with contextlib.suppress(OSError):  # holds something else
                dataset.folder(number).rmdir()
    return there


@contextlib.contextmanager
def _new_partition(dataset: Dataset, number: int, schema: pa.Schema) -> Iterator[TableWriter]:
    """The index of a partition that is not there yet, held against steps until it is whole; of a failed one nothing remains."""
    try:
        with writing(dataset.folder(number)):
            dataset.folder(number).mkdir()
        with locked(dataset.folder(number)), TableWriter(dataset.table(number, "index"), schema) as writer:
            yield writer
    except BaseException:
        with contextlib.suppress(OSError):
            dataset.folder(number).rmdir()
        raise


def _sources(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Folder's name -> where it is and the encoding of its texts.

    Raises:
        DataError: the file that remembers it is damaged.
    """
    path = dataset.path / SOURCES_FILE
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8"))["sources"]) if path.exists() else {}
        return {name: {key: about[key] for key in ("folder", "lyrics_encoding")} for name, about in found.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{path}' is damaged ({error}); delete it, then import each folder from where it was") from error


def _name_of(dataset: Dataset, folder: Path, moved: bool) -> str:
    """What a folder is called in `source`: its own name, or the one that it had when it was first imported.

    Args:
        moved: it may be one that is gone from where it was, if it holds the files of half of that one's songs.
    """
    sources, place = _sources(dataset), decodable(str(folder.resolve()))
    own = next((name for name, about in sources.items() if about["folder"] == place), decodable(folder.resolve().name))
    for name, about in sources.items() if moved else ():
        if name != own and not Path(about["folder"]).exists():
            keys = [key.removeprefix(f"{name}/") for key in _told_sources(dataset) if key.startswith(f"{name}/")]
            if keys and 2 * sum(os.path.exists(folder / key) for key in keys) >= len(keys):
                return name
    return own


def _told_sources(dataset: Dataset) -> Iterator[str]:
    """The `source` of every song that has one."""
    for path in dataset.path.glob("*/index.parquet"):
        with TableReader(path) as reader:
            yield from filter(None, reader.column("source") if "source" in reader.schema.names else ())


def _remember(dataset: Dataset, name: str, folder: Path, moved: bool, encoding: str | None) -> None:
    """Note which folder a name stands for in `source`, and refuse another one of that name, whose songs would replace the first's."""
    sources, place = _sources(dataset), decodable(str(folder.resolve()))
    about = {"folder": place, "lyrics_encoding": encoding}
    before = sources.get(name, about)["folder"]
    if before != place and not moved:
        raise DataError(
            f"'{name}' of '{dataset.path}' stands for '{before}', not for '{place}'; rename one of the two folders, or give --moved if it "
            "is the same folder at another place"
        )
    if sources.get(name) != about:
        others = {other: known for other, known in sources.items() if known["folder"] != place}  # one folder has one name
        text = json.dumps({"format": SOURCES_FORMAT, "sources": {**others, name: about}}, indent=1, sort_keys=True, ensure_ascii=False)
        with writing(dataset.path / SOURCES_FILE), atomic_path(dataset.path / SOURCES_FILE) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
