"""A folder of audio files, searched recursively, with what stands beside them: lyrics, and a JSON object of other columns.

Lyrics of `a/b.mp3` are `a/b.lrc` and `a/b.txt`; or a file of that name anywhere under a lyrics folder; or, where a folder holds a single
audio file, its only `.lrc`, and its only `lyrics*.txt`. `a/b.json` holds further columns. UltraStar sheets are another format's. Folders are
read one after the other: memory grows with the files of one folder, and with those of the lyrics folder, not with all songs.
"""

import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from autosing.song.ultrastar import is_sheet
from autosing.store import atomic_path
from processing.formats.base import TEXT_COLUMNS, Entry, LeftOut, Options, Outgoing, Song, Survey, Unusable
from processing.formats.columns import clean, infer, own_name
from processing.formats.files import (
    AUDIO_SUFFIXES,
    UNREADABLE_SUFFIXES,
    below,
    check_audio,
    decodable,
    read_audio,
    read_text,
    walk,
)
from processing.formats.words import is_lrc, lyrics_columns

LYRICS_SUFFIXES = (".lrc", ".txt")
NamedFile = tuple[str, Path]  # the name it is called by in reports


class Folder:
    """Reads a folder of audio files."""

    def recognises(self, source: Path) -> bool:
        return source.is_dir()

    def survey(self, source: Path, options: Options) -> Survey:
        return survey_folder(source)

    def entries(self, source: Path, options: Options) -> Iterator[Entry | LeftOut]:
        beside = Beside(options)
        yield from beside.left_out
        left_out: list[LeftOut] = []
        for _, paths in walk(source, left_out):
            yield from left_out
            left_out.clear()
            audio, others = audio_files(source, paths)
            yield from others
            near = Neighbours(paths)
            for path in audio:
                yield Entry(below(source, path), lambda path=path, near=near: beside.song(source, path, near))
        yield from left_out


READER = Folder()


def survey_folder(source: Path) -> Survey:
    """Counts the audio files and looks into the JSON files of the same name."""
    count = 0

    def columns() -> Iterator[Mapping[str, Any]]:
        nonlocal count
        for _, paths in walk(source, []):
            audio = [p for p in paths if p.suffix.lower() in AUDIO_SUFFIXES]
            count += len(audio)
            stems = {_stem(p) for p in audio}
            for path in paths:
                if path.suffix.lower() == ".json" and _stem(path) in stems:
                    try:
                        yield own_columns(_object(path))
                    except Unusable:
                        continue  # said when it is read

    return Survey(columns=infer(columns()), songs=count)


def audio_files(source: Path, paths: list[Path]) -> tuple[list[Path], list[LeftOut]]:
    """The files of one folder that are songs, and those that would be, with the reason why not."""
    audio: list[Path] = []
    left_out: list[LeftOut] = []
    for path in paths:
        if path.suffix.lower() in AUDIO_SUFFIXES + UNREADABLE_SUFFIXES:
            try:
                check_audio(path)
            except Unusable as error:
                left_out.append(LeftOut(below(source, path), error.code, error.reason))
            else:
                audio.append(path)
    return audio, left_out


def own_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a JSON object that are not ours."""
    return {own_name(str(name)): value for name, value in record.items() if name not in TEXT_COLUMNS}


def text_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a JSON object that are ours; lyrics are as they are."""
    return {name: None if record[name] in (None, "") else str(record[name]) for name in TEXT_COLUMNS if name in record}


class Neighbours:
    """The files of one folder that may tell of its songs, by name."""

    def __init__(self, paths: Iterable[Path]):
        self.texts: list[Path] = []
        self.songs = 0
        self._called: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            suffix = path.suffix.lower()
            self.songs += suffix in AUDIO_SUFFIXES
            if suffix in LYRICS_SUFFIXES:
                self.texts.append(path)
            if suffix in (*LYRICS_SUFFIXES, ".json"):
                self._called[_stem(path)].append(path)

    def called(self, path: Path, *suffixes: str) -> list[Path]:
        """Those that have the name of `path` and one of the endings."""
        return [other for other in self._called.get(_stem(path), ()) if other.suffix.lower() in suffixes]


class Beside:
    """Finds what stands beside an audio file, or in the lyrics folder."""

    def __init__(self, options: Options):
        self.left_out: list[LeftOut] = []
        self._encoding = options.encoding
        self._elsewhere: dict[str, list[NamedFile]] = defaultdict(list)
        if options.lyrics_folder is not None:
            for _, paths in walk(options.lyrics_folder, self.left_out):
                for path in paths:
                    if path.suffix.lower() in LYRICS_SUFFIXES:
                        self._elsewhere[_stem(path)].append((decodable(str(path)), path))

    def song(self, source: Path, path: Path, near: Neighbours) -> Song:
        """The song of an audio file.

        Raises:
            Unusable: the audio cannot be read.
        """
        audio = read_audio(path)
        columns, left_out, not_unicode = self.lyrics(source, path, near)
        for other in near.called(path, ".json"):
            try:
                record = _object(other)
            except Unusable as error:
                left_out.append(LeftOut(below(source, other), error.code, error.reason))
            else:
                columns |= own_columns(record) | text_columns(record)
        return Song(audio, columns, tuple(left_out), tuple(not_unicode), artist_folder=True)

    def lyrics(self, source: Path, path: Path, near: Neighbours) -> tuple[dict[str, Any], list[LeftOut], list[str]]:
        """-> the lyrics columns, files that could not be read, files that were not Unicode."""
        found: dict[str, str | None] = {"lrc_lyrics": None, "raw_lyrics": None}
        left_out: list[LeftOut] = []
        not_unicode: list[str] = []
        for name, file in self._texts(source, path, near):
            try:
                text, sure = read_text(file, self._encoding)
            except Unusable as error:
                left_out.append(LeftOut(name, error.code, error.reason))
                continue
            if not sure:
                not_unicode.append(name)
            if file.suffix.lower() == ".lrc":
                found["lrc_lyrics"] = found["lrc_lyrics"] or text or None
            elif not is_sheet(text):
                columns = lyrics_columns(text)
                found["lrc_lyrics"] = found["lrc_lyrics"] or columns["lrc_lyrics"]
                found["raw_lyrics"] = columns["raw_lyrics"] or found["raw_lyrics"]
        return dict(found), left_out, not_unicode

    def _texts(self, source: Path, path: Path, near: Neighbours) -> list[NamedFile]:
        found = [(below(source, text), text) for text in near.called(path, *LYRICS_SUFFIXES)] or self._elsewhere.get(_stem(path), [])
        if not found and near.songs == 1:
            stamped = [text for text in near.texts if text.suffix.lower() == ".lrc"]
            lines = [text for text in near.texts if text.suffix.lower() == ".txt" and text.name.lower().startswith("lyrics")]
            found = [(below(source, text), text) for lone in (stamped, lines) if len(lone) == 1 for text in lone]
        return sorted(found, key=lambda text: text[1])


def write(partitions: Iterator[tuple[int, Iterator[Outgoing]]], folder: Path) -> None:
    """Write each row as an audio file, lyrics files and a JSON file of one name, in a folder for each partition."""
    for partition, rows in partitions:
        for row in rows:
            columns = dict(row.columns)
            path = folder / str(partition) / row.name
            write_file(path.with_name(row.name + row.suffix), row.audio)
            for ending, (column, text) in lyrics_files(columns).items():
                write_file(path.with_name(row.name + ending), text)
                del columns[column]
            write_file(path.with_name(row.name + ".json"), json_line(columns))


def lyrics_files(columns: Mapping[str, Any]) -> dict[str, tuple[str, bytes]]:
    """Ending -> (column, bytes) of the lyrics that a file of that ending gives back unchanged."""
    lrc, raw = columns["lrc_lyrics"], columns["raw_lyrics"]
    files: dict[str, tuple[str, bytes]] = {}
    for ending, column, text in ((".lrc", "lrc_lyrics", lrc), (".txt", "raw_lyrics", raw)):
        if text and not text.startswith("\ufeff") and "\0" not in text and (ending == ".lrc" or not (is_lrc(text) or is_sheet(text))):
            files[ending] = (column, text.encode())
    return files


def json_line(columns: Mapping[str, Any]) -> bytes:
    return json.dumps(columns, ensure_ascii=False).encode() + b"\n"


def write_file(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent; one that is there stays."""
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)


def _object(path: Path) -> dict[str, Any]:
    text, _ = read_text(path, None)
    return json_object(text)


def json_object(text: str) -> dict[str, Any]:
    """
    Raises:
        Unusable: the text is no JSON object.
    """
    try:
        record = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise Unusable("bad_json", f"is no JSON ({error})") from error
    if not isinstance(record, dict):
        raise Unusable("bad_json", f"must be a JSON object, found {type(record).__name__}")
    return clean(record)


def _stem(path: Path) -> str:
    """The name without its ending; names that differ only in how Unicode composes them are one."""
    return unicodedata.normalize("NFC", path.stem)
