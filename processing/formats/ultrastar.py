"""A folder of UltraStar songs: sheets (`song.txt`) that name their audio with `#AUDIO` or `#MP3`; searched recursively.

The notes become LRC with word stamps, the headers artist, title and columns. Of two sheets of one audio file the first in the order of names
counts. Audio that no sheet names, as whole song, vocals or instrumental, is a song as in any folder.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from autosing.song.ultrastar import Sheet, is_sheet, parse_ultrastar
from processing.formats.base import Entry, LeftOut, Options, Song, Survey, Unusable
from processing.formats.columns import common
from processing.formats.files import AUDIO_SUFFIXES, VIDEO_SUFFIXES, below, inside, read_audio, read_text, walk
from processing.formats.folder import Beside, Neighbours, audio_files, survey_folder
from processing.formats.words import sheet_columns

_COLUMNS = {"LANGUAGE": "language", "GENRE": "genre", "YEAR": "year", "EDITION": "edition", "CREATOR": "creator", "TAGS": "tags"}
_ENCODING = re.compile(rb"^\s*#\s*ENCODING\s*:\s*([\w-]+)", re.M | re.I)
_HEAD_BYTES = 1 << 16


class UltraStar:
    """Reads a folder of UltraStar songs."""

    def recognises(self, source: Path) -> bool:
        return source.is_dir() and any(
            _may_be_sheet(path) for _, paths in walk(source, []) for path in paths if path.suffix.lower() == ".txt"
        )

    def survey(self, source: Path, options: Options) -> Survey:
        found = survey_folder(source)
        columns = dict(found.columns)
        for name in _COLUMNS.values():
            columns[name] = common(columns.get(name, pa.string()), pa.string())
        return Survey(found.songs, columns)

    def entries(self, source: Path, options: Options) -> Iterator[Entry | LeftOut]:
        beside = Beside(options)
        yield from beside.left_out
        left_out: list[LeftOut] = []
        for folder, paths in walk(source, left_out):
            yield from left_out
            left_out.clear()
            audio, others = audio_files(source, paths)
            sheets = [path for path in paths if path.suffix.lower() == ".txt" and _may_be_sheet(path)]
            yield from (item for item in others if not (sheets and item.path.lower().endswith(VIDEO_SUFFIXES)))  # what a song is shown with
            near = Neighbours(paths)
            named: set[Path] = set()
            for path in sheets:
                try:
                    sheet, text, sure = _read(path, options.encoding)
                except Unusable as error:
                    yield LeftOut(below(source, path), error.code, error.reason)
                    continue
                try:
                    song = _named(folder, sheet.audio or "")
                except Unusable as error:
                    yield LeftOut(below(source, path), error.code, f"its audio '{sheet.audio}' {error.reason.partition(';')[0]}")
                    continue
                named |= {song} | _stems(folder, sheet)
                key = below(source.resolve(), song)
                yield Entry(key, lambda path=path, song=song, made=(sheet, text, sure): _song(source, path, song, *made))
            for path in audio:
                if path.resolve() not in named:
                    yield Entry(below(source, path), lambda path=path, near=near: beside.song(source, path, near))
        yield from left_out


READER = UltraStar()


def _song(source: Path, path: Path, audio: Path, sheet: Sheet, text: str, sure: bool) -> Song:
    columns: dict[str, Any] = {column: sheet.headers.get(header) for header, column in _COLUMNS.items()}
    columns |= sheet_columns(text)
    for header, column in (("ARTIST", "artist"), ("TITLE", "title")):
        if header in sheet.headers:
            columns[column] = sheet.headers[header]
    return Song(read_audio(audio), columns, (), () if sure else (below(source, path),))


def _read(path: Path, encoding: str | None) -> tuple[Sheet, str, bool]:
    with open(path, "rb") as file:
        said = _ENCODING.search(file.read(_HEAD_BYTES))
    name = said.group(1).decode() if said else ""
    try:
        b"a".decode(name or "utf-8")
    except (LookupError, UnicodeError):  # "AUTO" and the like
        name = ""
    text, sure = read_text(path, name or encoding)
    return parse_ultrastar(text), text, sure


def _may_be_sheet(path: Path) -> bool:
    """Whether the file begins as a sheet that names its audio."""
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    text = (head.replace(b"\0", b"")).decode("latin-1").removeprefix("\xef\xbb\xbf").removeprefix("\xff\xfe").removeprefix("\xfe\xff")
    return is_sheet(text) and bool(re.search(r"^\s*#\s*(MP3|AUDIO)\s*:\s*\S", text, re.M | re.I))


def _named(folder: Path, name: str) -> Path:
    """The audio a sheet names, or what it was converted to since: the same name with another ending.

    Raises:
        Unusable: there is neither.
    """
    try:
        return inside(folder, name)
    except Unusable as error:
        if error.code == "missing_audio":
            for ending in AUDIO_SUFFIXES:
                with contextlib.suppress(Unusable):
                    return inside(folder, str(PurePosixPath(name).with_suffix(ending)) if name.strip() else "")
        raise


def _stems(folder: Path, sheet: Sheet) -> set[Path]:
    """The sheet's separate tracks, which are no songs of their own."""
    found: set[Path] = set()
    for header in ("VOCALS", "INSTRUMENTAL"):
        if header in sheet.headers:
            try:
                found.add(inside(folder, sheet.headers[header]))
            except Unusable:
                continue
    return found
