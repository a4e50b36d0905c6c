"""What a reader gives: `Entry`, one for each song it finds, and `LeftOut`, for what is none; what a writer gets: `Outgoing`.

An entry is loaded before the next one is asked for, so that a reader may stream from an archive. `Song.columns` holds what the source says:
of ours `id`, `artist`, `title`, `lrc_lyrics`, `raw_lyrics`, the rest the user's own. A key that is absent was not said and may be found
elsewhere (tags, names); one that is None was said to be nothing. What is wrong with one song is `Unusable`, raised by `load`, with a
code for machines and a sentence for people; it hinders no other song.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from processing.index import AUDIO_HASH

TEXT_COLUMNS = ("id", "artist", "title", "lrc_lyrics", "raw_lyrics")
"""Columns of ours that a source may give."""
TAKEN = ("audio", AUDIO_HASH, "source")
"""Columns of ours that only an import makes; a user's column of such a name gets a `_` behind it."""


class Unusable(Exception):
    """A song or file cannot be used. Never leaves an import."""

    def __init__(self, code: str, reason: str):
        super().__init__(reason)
        self.code, self.reason = code, reason


class LeftOut(NamedTuple):
    """Something that did not become a song: where it is, a code, a sentence."""

    path: str
    code: str
    reason: str


@dataclass(frozen=True)
class Song:
    """A song as it was found.

    Attributes:
        columns: see the module's text.
        left_out: parts that could not be read, such as a lyrics file; a song with any is not whole.
        not_unicode: texts that were read as Windows-1252 for want of anything better.
        artist_folder: the folder it lies in may bear its artist's name, as in a person's own collection; those that tables and archives name are mere storage.
    """

    audio: bytes
    columns: Mapping[str, Any]
    left_out: tuple[LeftOut, ...] = ()
    not_unicode: tuple[str, ...] = ()
    artist_folder: bool = False


@dataclass(frozen=True)
class Entry:
    """A song to load. `key` is a `/`-path that names it within its source, the same each time."""

    key: str
    load: Callable[[], Song]


@dataclass(frozen=True)
class Options:
    """What a user says about a source.

    Attributes:
        lyrics_folder: where lyrics of the audio file's name are also looked for.
        encoding: of text that is neither UTF-8 nor UTF-16.
        audio_folder: where paths in tables begin and may lead; None = the table's own folder.
        columns: the source's column -> the name it stands for.
    """

    lyrics_folder: Path | None = None
    encoding: str | None = None
    audio_folder: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """A first look, without the audio: about how many songs there are, and the types of the user's own columns."""

    songs: int
    columns: Mapping[str, pa.DataType] = field(default_factory=dict)


class Reader(Protocol):
    """Reads one format."""

    def recognises(self, source: Path) -> bool:
        """Whether `source`, which exists, is of this format."""
        ...

    def survey(self, source: Path, options: Options) -> Survey: ...

    def entries(self, source: Path, options: Options) -> Iterator[Entry | LeftOut]: ...


@dataclass(frozen=True)
class Outgoing:
    """A row on its way out.

    Attributes:
        name: of its files, without an ending: letters, digits, `_` and `-`, unique.
        suffix: of the audio file, such as ".flac".
        columns: all others but `audio`, as JSON values; those of `TEXT_COLUMNS` are always there.
    """

    name: str
    suffix: str
    audio: bytes
    columns: Mapping[str, Any]


class Writer(Protocol):
    """Writes a dataset below `folder`, partition by partition. Files that are there already are whole, and are not written again."""

    def __call__(self, partitions: Iterator[tuple[int, Iterator[Outgoing]]], folder: Path) -> None: ...
