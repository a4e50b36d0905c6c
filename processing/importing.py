"""Songs in any known format -> `index.parquet`, streaming: one song, one row group and one partition's changes are in memory.

A reader of `formats/` gives the songs one after the other. Each is known by its `source`, the path from the imported folder's own name on
(so folders brought into one dataset need different names, and `sources.json` remembers which folder each name stands for). Importing
again adds new songs in new partitions, rewrites only partitions whose songs changed, and otherwise does nothing; what a killed import
had committed is not done again. A file that has the audio of one that is gone is that song under another name; a song that is gone stays, and
is named. Audio is stored as it is and not decoded; what is wrong with it is found by the first step. Only where it would take the place of a
song's earlier audio is it decoded: a broken copy leaves the song as it was.

An id that the source gives is kept, and refused where another song has it; else the id is the audio's content hash (`audio_hash`: the first
24 digits of the file's SHA-256). It stays with its song from then on. A song whose audio is in the dataset already is left out. What is
left out, for this or any other reason, is named with a code and the reason in `import-<name>.jsonl`, and hinders nothing else.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from autosing.errors import AudioError, ConfigError, DataError
from autosing.song.audio import decode
from autosing.store import Dataset, TableReader, TableWriter, locked, writing
from processing.formats import READERS
from processing.formats.base import TEXT_COLUMNS, Entry, LeftOut, Options, Reader, Song, Survey, Unusable
from processing.formats.columns import common, fit
from processing.formats.files import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from processing.formats.files import check_encoding
from processing.formats.naming import who
from processing.formats.table import Table, check_columns
from processing.import_report import ImportReport
from processing.index import AUDIO_HASH, INDEX, INDEX_SCHEMA, audio_hash, id_fault
from processing.song_ledger import LedgerSong, SongLedger
from processing.sources import name_of, remember, sources_of

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
    options = replace(options, encoding=options.encoding or sources_of(dataset).get(name_of(dataset, root, moved), {}).get("lyrics_encoding"))
    survey = reader.survey(source, options)
    if not survey.songs:
        raise _nothing(source, reader.entries(source, options))
    try:
        dataset.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the dataset '{dataset.path}' ({error.strerror}); name a folder that is there or can be made") from error
    with locked(dataset.path), contextlib.ExitStack() as stack:
        name = name_of(dataset, root, moved)
        remember(dataset, name, root, moved, options.encoding)
        known = stack.enter_context(SongLedger(dataset, survey.columns))
        report = stack.enter_context(ImportReport(dataset, name))
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
    known: SongLedger
    report: ImportReport
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
            self._add_partition(number, itertools.chain([first], itertools.islice(fresh, self.partition_size - 1)), schema)
        self._rewrite()
        report = self.report
        if not (self.added or self.changed or self.unchanged):
            first = report.left_out[0]
            raise DataError(f"no song of '{self.source}' can be used: {sum(report.codes.values())} left out, such as '{first.path}': {first.reason}")
        return Imported(
            added=self.added,
            changed=self.changed,
            unchanged=self.unchanged,
            with_lyrics=self.with_lyrics,
            partitions=tuple(sorted(self.written)),
            codes=dict(sorted(report.codes.items())),
            left_out=tuple(sorted(report.left_out)),
            not_unicode=tuple(sorted(report.not_unicode)),
            gone=self.gone,
            gone_first=tuple(report.gone),
            report=report.path,
        )

    def _add_partition(self, number: int, rows: Iterable[tuple[str, dict[str, Any]]], schema: pa.Schema) -> None:
        songs = []
        with _new_partition(self.dataset, number, schema) as writer:
            for key, row in rows:
                self.known.add(row, row[AUDIO_HASH], number, now=True)
                writer.write(row)
                songs.append((key, row["id"], bool(row["lrc_lyrics"] or row["raw_lyrics"])))
        self.written.add(number)
        for key, identity, has_lyrics in songs:  # told once they are there
            self.added += 1
            self.with_lyrics += has_lyrics
            self.report.song("added", key, identity)

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
            if not song.audio:
                raise Unusable("empty", "holds no bytes; copy or fetch it again")
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
        if old is not None and old.seen:
            if not self.keep_duplicates or (row[AUDIO_HASH] == old.audio and self.known.digest(row) == old.digest):
                self.report.leave_out(LeftOut(item.key, "duplicate", "is named more than once; the first counts"))
                return None
            row["source"] = next(s for n in itertools.count(2) if self._unseen(s := f"{row['source']}#{n}"))
            old = self.known.of_source(row["source"])
        before = next(filter(self._is_gone, alike), row["source"])
        if before != row["source"]:
            old = self.known.of_source(before)
        if old is not None:
            self._compare(item.key, row, song, before, old)
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
        return old is None or not old.seen

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
        folder = sources_of(self.dataset).get(name, {}).get("folder")
        if folder is None or name == self._base or Path(folder).exists():
            return ""
        return f", --moved goes on with the songs of '{folder}', which is gone, if it has another name now"

    def _id_taken(self, identity: str) -> tuple[str, str] | None:
        if fault := id_fault(identity):
            return fault[0], f"{fault[1]}; give it another"
        owner = self.known.named(identity)
        return None if owner is None else ("duplicate_id", f"its id '{identity}' is that of '{owner}'; give one of them another")

    def _compare(self, key: str, row: dict[str, Any], song: Song, before: str, old: LedgerSong) -> None:
        """
        Args:
            before: the source that the song is known by.
            old: what is known of it.
        """
        self.known.saw(before)
        new_id = row["id"] not in (None, old.id)
        if new_id and (fault := self._id_taken(row["id"])):
            self.report.leave_out(LeftOut(key, *fault))
            self.unchanged += 1
            return
        same = not new_id and (row["source"], row[AUDIO_HASH], self.known.digest(row)) == (before, old.audio, old.digest)
        fault = None if row[AUDIO_HASH] == old.audio else _damage(row["audio"])
        if fault is not None:
            self.report.leave_out(LeftOut(key, fault.code, f"{fault}; the song stays as it was"))
        if same or song.left_out or fault is not None:  # a song that cannot be read whole stays as it was
            self.unchanged += 1
            self.report.song("unchanged", key, old.id)
            return
        row["id"] = row["id"] or old.id
        self.known.changed(before, row)
        self._waiting.setdefault(old.partition, {})[before] = key, row
        self._waiting_bytes += len(row["audio"])
        if self._waiting_bytes > _CHANGED_BYTES:
            self._rewrite()

    def _rewrite(self) -> None:
        """Write the partitions that have changed songs."""
        for partition, songs in sorted(self._waiting.items()):
            _rewrite_index(self.dataset, partition, {before: row for before, (_, row) in songs.items()}, self.survey.columns)
            self.written.add(partition)
            for key, row in songs.values():
                self.changed += 1
                self.report.song("changed", key, row["id"])
        self._waiting.clear()
        self._waiting_bytes = 0


def _damage(audio: bytes) -> AudioError | None:
    """What is wrong with audio; nothing, if it is only too long to be decoded."""
    try:
        decode(audio)
    except AudioError as error:
        return error if error.code != "too_long" else None
    return None


def _rewrite_index(dataset: Dataset, partition: int, changed: Mapping[str, dict[str, Any]], columns: Mapping[str, pa.DataType]) -> None:
    """Write a partition's index again with the rows that are changed, by the source that each had."""
    path = dataset.table(partition, INDEX)
    with TableReader(path) as reader:
        schema = _extended(reader.schema.remove_metadata(), columns)
        kinds = {name: schema.field(name).type for name in columns}
        with locked(dataset.folder(partition)), TableWriter(path, schema) as writer:
            for old in reader.rows(reader.schema.names):
                row = changed.get(old["source"])
                new = old if row is None else {**old, **dict.fromkeys(kinds), **row}  # what is no longer said of it is empty
                new |= {name: fit(new.get(name), kind) for name, kind in kinds.items()}
                writer.write({name: new.get(name) for name in schema.names})


def _extended(schema: pa.Schema, columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """The schema with the columns too, each of a type that holds what both hold."""
    for name, kind in columns.items():
        place = schema.get_field_index(name)
        if place < 0:
            schema = schema.append(pa.field(name, kind))
        elif schema.field(place).type != kind:
            schema = schema.set(place, pa.field(name, common(schema.field(place).type, kind)))
    return schema


@contextlib.contextmanager
def _new_partition(dataset: Dataset, number: int, schema: pa.Schema) -> Iterator[TableWriter]:
    """The index of a partition that is not there yet, held against steps until it is whole; of a failed one nothing remains."""
    try:
        with writing(dataset.folder(number)):
            dataset.folder(number).mkdir()
        with locked(dataset.folder(number)), TableWriter(dataset.table(number, INDEX), schema) as writer:
            yield writer
    except BaseException:
        with contextlib.suppress(OSError):
            dataset.folder(number).rmdir()
        raise
