"""What a step is: songs in, rows or a reason out, one song at a time.

A step declares the tables and columns it `reads` (the first table drives it, the others are looked up by song id) and the tables it
`writes`. It sees one `Song` at a time and answers each with `Done` or `Rejected`: rows in = rows out + rejected. It knows no files,
partitions or processes. A song that a table it reads does not hold was rejected before, and is not shown to it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import torch

from autosing.errors import SongError
from autosing.store import Row


class Song(Protocol):
    """One song, its tables read when asked for. `table[...]` columns are those the step declared in `reads`."""

    id: str

    def row(self, table: str) -> dict[str, Any]:
        """The song's row of a table that has one row a song."""
        ...

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The song's rows of a table of windows, in order of time; may be empty."""
        ...

    def meta(self, table: str) -> dict[str, str]:
        """The texts in the table's schema metadata."""
        ...


@dataclass(frozen=True)
class Done:
    """What a song became: rows by table; `notes` are codes counted and shown, such as "no_lyrics"."""

    id: str
    tables: Mapping[str, Sequence[Row]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """Why a song cannot be used: a machine-readable code and a sentence. `id` is None where the row has none."""

    id: str | None
    code: str
    reason: str


class Step(Protocol):
    """One stage of processing.

    Attributes:
        name: the word on the command line, e.g. "atoks".
        key: names this very work in the manifest, e.g. "atoks_vocals_builtin".
        version: raised when the step's own code changes what it writes.
        reads: table -> the columns of it that are read; the first one drives the step.
        writes: tables.
    """

    name: str
    key: str
    version: str
    reads: Mapping[str, tuple[str, ...]]
    writes: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """Everything besides the inputs and `version` that changes what is written, as JSON values."""
        ...

    def setup(self, device: torch.device) -> None:
        """Load models, once a worker."""
        ...

    def schemas(self) -> dict[str, tuple[pa.Schema, dict[str, str]]]:
        """Table -> columns and metadata texts; called after `setup`."""
        ...

    def rows(self, songs: Iterator[Song]) -> Iterator[Done | Rejected]:
        """One answer a song, in order."""
        ...


def each(songs: Iterator[Song], work: Callable[[Song], Done]) -> Iterator[Done | Rejected]:
    """Answer song by song; what is wrong with one song's audio or lyrics becomes its rejection, a defect names the song."""
    for song in songs:
        try:
            yield work(song)
        except SongError as error:
            yield Rejected(song.id, error.code, str(error))
        except Exception as error:
            error.add_note(f"while working on song '{song.id}'")
            raise
