"""A table of songs, CSV, JSONL, JSON or Parquet, that names audio files; lyrics and all else are columns.

Which column stands for what is a dictionary, so that formats that differ in names alone are one `Table` each (songgen.py,
songgeneration.py, hf.py). Names are compared without regard to case, spaces and hyphens; of several that stand for one thing the first counts, and
the others are the user's own columns. Paths begin at the table's folder, or the audio folder, and lead nowhere else. Where the table has no
lyrics column, lyrics are looked for beside the audio.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autosing.config import nearest
from autosing.errors import ConfigError
from processing.formats.base import TEXT_COLUMNS, Entry, LeftOut, Options, Song, Survey, Unusable
from processing.formats.columns import infer, own_name
from processing.formats.files import AUDIO_SUFFIXES, MAX_FILE_BYTES, below, encoding_of, inside, read_audio, walk, within
from processing.formats.folder import Beside, Neighbours
from processing.formats.records import SUFFIXES, Record, columns_of, records
from processing.formats.words import lyrics_columns

OURS = {name: name for name in TEXT_COLUMNS}
LYRICS = "lyrics"  # a text of any kind; `lrc_lyrics` and `raw_lyrics` are taken as they are
AUDIO = "audio"
NAMES = OURS | {
    "file_name": AUDIO,
    "filename": AUDIO,
    "file_path": AUDIO,
    "filepath": AUDIO,
    "audio_file_name": AUDIO,
    "audio_path": AUDIO,
    "audio_filepath": AUDIO,
    "audio": AUDIO,
    "file": AUDIO,
    "path": AUDIO,
    "lyrics": LYRICS,
    "lyric": LYRICS,
    "gt_lyric": LYRICS,
}


@dataclass(frozen=True)
class Table:
    """Reads tables.

    Attributes:
        names: lower-case column -> what it stands for, in order of precedence.
        files: names of table files looked for in a folder and its subfolders; none = a source is one file.
        needs: columns by which the format is recognised; none = any that names audio files.
        sections: lyrics may be in the one-line syntax.
    """

    names: Mapping[str, str]
    files: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    sections: bool = False

    def recognises(self, source: Path) -> bool:
        if source.is_file():
            meant = self.needs <= self._columns(source) if self.needs else not self.files or source.name in self.files
            return source.suffix.lower() in SUFFIXES and meant
        folders = (source, *(p for p in within(source) if p.is_dir() and not p.is_symlink()))
        tables = (folder / name for folder in folders for name in self.files)
        return any(self._names_audio(table) for table in tables if table.is_file())

    def survey(self, source: Path, options: Options) -> Survey:
        """
        Raises:
            ConfigError: `options.columns` names a column that no table has.
        """
        count = 0
        texts = True
        there: dict[str, str] = {}  # plain name -> as the tables spell it

        def own(tables: list[tuple[Path, Path]]) -> Iterator[Mapping[str, Any]]:
            nonlocal count
            for table, _ in tables:
                for record in records(table, options.encoding):
                    if isinstance(record, Record):
                        count += 1
                        there.update((_plain(name), name) for name in record.values)
                        yield self._split(record.values, options)[1]

        tables = self._tables(source, [])
        texts = all(table.suffix.lower() in (".csv", ".tsv") for table, _ in tables)
        survey = Survey(columns=infer(own(tables), texts), songs=count)
        for name in options.columns:
            if there and _plain(name) not in there:
                raise ConfigError(f"--columns: no table of '{source}' has a column '{name}'{nearest(name, there.values())}")
        return survey

    def entries(self, source: Path, options: Options) -> Iterator[Entry | LeftOut]:
        beside = Beside(options)
        left_out: list[LeftOut] = list(beside.left_out)
        tables = self._tables(source, left_out)
        yield from left_out
        named: set[int] = set()  # hashes of paths: smaller than these
        for table, root in tables:
            top = source if source.is_dir() else root
            unsure = () if table.suffix == ".parquet" or encoding_of(table, options.encoding)[1] else (below(top, table),)
            folder = options.audio_folder or root
            for record in records(table, options.encoding):
                if isinstance(record, LeftOut):
                    yield record
                    continue
                entry = self._entry(record, folder, top, options, beside, unsure, named)
                unsure = () if isinstance(entry, Entry) else unsure  # told once a table
                yield entry
        for _, paths in walk(source, []) if source.is_dir() else ():
            for path in paths:
                if path.suffix.lower() in AUDIO_SUFFIXES and hash(path.resolve()) not in named:
                    yield LeftOut(below(source, path), "no_row", "no table names it as a song; --format folder takes every audio file for one")

    def _entry(
        self, record: Record, folder: Path, top: Path, options: Options, beside: Beside, unsure: tuple[str, ...], named: set[int]
    ) -> Entry | LeftOut:
        ours, own = self._split(record.values, options)
        audio = ours.get(AUDIO)
        try:
            data, name = _embedded(audio)
            if data is not None:
                return Entry(name or record.place, lambda: Song(data, own | self._columns_of(ours), (), unsure))
            path = inside(folder, name)
            named.add(hash(path))
        except Unusable as error:
            return LeftOut(audio[:500] if isinstance(audio, str) and audio else record.place, error.code, error.reason)
        place = path.relative_to(folder.resolve())
        base = folder.relative_to(top) if folder.is_relative_to(top) else Path()
        return Entry((base / place).as_posix(), lambda: self._song(path, folder, ours, own, beside, unsure))

    def _song(
        self, path: Path, folder: Path, ours: Mapping[str, Any], own: Mapping[str, Any], beside: Beside, unsure: tuple[str, ...]
    ) -> Song:
        audio = read_audio(path)
        columns = self._columns_of(ours)
        left_out: list[LeftOut] = []
        not_unicode = list(unsure)
        if "lrc_lyrics" not in columns and "raw_lyrics" not in columns:
            siblings = [path.with_suffix(ending) for ending in (".lrc", ".txt") if path.with_suffix(ending).is_file()]
            found, left_out, more = beside.lyrics(folder.resolve(), path, Neighbours(siblings))
            columns |= found
            not_unicode += more
        return Song(audio, {**own, **columns}, tuple(left_out), tuple(not_unicode))

    def _columns_of(self, ours: Mapping[str, Any]) -> dict[str, Any]:
        columns = {name: _text(ours[name]) for name in TEXT_COLUMNS if name in ours}
        if LYRICS in ours:
            found = lyrics_columns(ours[LYRICS], self.sections)
            columns = {**found, **{name: text for name, text in columns.items() if text or name not in found}}
        return columns

    def _split(self, values: Mapping[str, Any], options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
        """-> what stands for something of ours, the user's own columns."""
        said = {_plain(name): meaning for name, meaning in options.columns.items()}
        order = {**said, **{name: meaning for name, meaning in self.names.items() if name not in said}}
        ranks = {name: rank for rank, name in enumerate(order)}
        ours: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for name in sorted(values, key=lambda name: ranks.get(_plain(name), len(ranks))):
            meaning = order.get(_plain(name))
            if meaning is None or meaning in ours:
                own[own_name(name)] = values[name]
            else:
                ours[meaning] = values[name]
        return ours, {own_name(name): own[own_name(name)] for name in values if own_name(name) in own}

    def _tables(self, source: Path, left_out: list[LeftOut]) -> list[tuple[Path, Path]]:
        """-> each table with the folder that its paths begin in."""
        if source.is_file():
            return [(source, source.parent)]
        return [(path, folder) for folder, paths in walk(source, left_out) for path in paths if path.name in self.files and self._names_audio(path)]

    def _columns(self, path: Path) -> set[str]:
        return {_plain(name) for name in columns_of(path, None)}

    def _names_audio(self, path: Path) -> bool:
        columns = self._columns(path)
        return self.needs <= columns if self.needs else any(self.names.get(name) == AUDIO for name in columns)


def check_columns(columns: Mapping[str, str]) -> None:
    """
    Raises:
        ConfigError: a name of ours that there is none of.
    """
    known = (*TEXT_COLUMNS, LYRICS, AUDIO)
    for name, meaning in columns.items():
        if meaning not in known:
            raise ConfigError(f"--columns: '{name}' cannot stand for '{meaning}'; choose one of: {', '.join(known)}")


READER = Table(NAMES)


def _embedded(audio: Any) -> tuple[bytes | None, str]:
    """-> the audio, where the table itself holds it as `datasets` stores it, and its file's name."""
    if isinstance(audio, Mapping):
        data, name = audio.get("bytes"), str(audio.get("path") or "")
        if isinstance(data, bytes) and data:
            if len(data) > MAX_FILE_BYTES:
                raise Unusable("too_large", f"larger than {MAX_FILE_BYTES >> 20} MiB; cut it")
            return data, name
        return None, name
    return None, "" if audio is None else str(audio)


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():  # numbers of a column with gaps
        value = int(value)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _plain(name: str) -> str:
    return "_".join(itertools.chain.from_iterable(part.split() for part in name.strip().lower().split("-")))
