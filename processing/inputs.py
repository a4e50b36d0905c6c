"""The tables of the processed partitions that training rows are made from.

`Partition` opens them when they are needed and reads one of them at a time; `same_specs` says which codec, tokenizer, embedder and windows all
partitions share, `mixed_makers` where they were separated or aligned differently, `left_over` which songs were not
processed. What a row is made of them is said in processing/training_rows.py.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autosing.config import nearest
from autosing.errors import DataError, MismatchError
from autosing.perception import CODECS
from autosing.registry import split_choice
from autosing.store import Dataset, TableReader, ranges_text
from autosing.tokens.specs import CodecSpec, Seconds, SemanticSpec, VoiceSpec, require_same, spec_from_json
from processing.atoks import tokens_table
from processing.index import INDEX
from processing.judged import judged
from processing.manifest import FileHashes, Manifest
from processing.quality import QUALITY_TABLE
from processing.windows import WINDOW_META, WINDOWS_TABLE

DEFAULT_CODEC = "builtin"
_MAKERS = {"vocals": {"separator": "separator"}, "alignment": {"aligner": "aligner", "align-on": "source"}}
"""Table whose metadata says with what it was made -> flag of autosing-process -> where there."""


@dataclass(frozen=True)
class Specs:
    """What made the tokens and embeddings of a partition, and how long its windows are."""

    codec: CodecSpec
    accompaniment: CodecSpec
    semantic: SemanticSpec
    voice: VoiceSpec
    window_seconds: Seconds


class Partition:
    """The tables of one input partition, opened when needed."""

    def __init__(self, dataset: Dataset, number: int, codec: str):
        """All of its tables are there, see `partitions`."""
        self.number, self._dataset = number, dataset
        self.names = {column: table for table, column in _tables(codec).items() if column}
        self.paths = {t: dataset.table(number, t) for t in _tables(codec)}
        self.quality = dataset.table(number, QUALITY_TABLE)
        """Not in every dataset: it is younger than the others."""
        self.stale = Manifest(dataset.folder(number), number, FileHashes()).stale((WINDOWS_TABLE, QUALITY_TABLE, *self.names.values()))
        """See `Manifest.stale`."""

    def open(self, table: str) -> TableReader:
        return TableReader(self.paths[table])

    def judged(self, copy_of: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """See `processing.judged.judged`."""
        return judged(self._dataset, self.number, copy_of)

    def specs(self) -> Specs:
        """
        Raises:
            DataError: a table does not say what made it.
        """

        def spec(table: str, kind: str) -> Any:
            with self.open(table) as reader:
                text = reader.meta.get(kind)
            if text is None:
                raise DataError(f"'{self.paths[table]}' does not say which {kind} made it; run its step again")
            return spec_from_json(text)

        with self.open(WINDOWS_TABLE) as reader:
            seconds = reader.meta.get(WINDOW_META)
        if seconds is None:
            raise DataError(f"'{self.paths[WINDOWS_TABLE]}' does not say how long its windows are; run vad_extract again")
        return Specs(
            spec(self.names["atoks"], "codec"),
            spec(self.names["mtoks"], "codec"),
            spec(self.names["stoks"], "semantic"),
            spec(self.names["embs"], "voice"),
            float(seconds),
        )

    def about(self, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Song id -> those of the columns that the index has, from the first row of each id."""
        with self.open(INDEX) as reader:
            there = [name for name in columns if name in reader.schema.names]
            found: dict[str, dict[str, Any]] = {}
            for row in reader.rows(["id", *there]) if there else ():
                found.setdefault(row.pop("id"), row)
            return found

    def windows(self, lost: Counter[str]) -> Iterator[tuple[str, str]]:
        """The id and song of windows that every table holds; the others are counted in `lost`."""
        held = {}
        for column, table in self.names.items():
            with self.open(table) as reader:
                held[column] = set(reader.column("id"))
        with self.open(WINDOWS_TABLE) as reader:
            for row in reader.rows(["id", "song"]):
                lacking = [self.names[column] for column, ids in held.items() if row["id"] not in ids]
                if lacking:
                    lost[f"not in {lacking[0]}"] += 1
                else:
                    yield row["id"], row["song"]


def partitions(dataset: Dataset, numbers: Sequence[int], codec: str) -> list[Partition]:
    """
    Raises:
        DataError: tables are missing; names all that are, and the partitions that lack any.
    """
    lacking = {n: [t for t in _tables(codec) if not dataset.table(n, t).is_file()] for n in numbers}
    if any(lacking.values()):
        which = ranges_text([n for n, tables in lacking.items() if tables])
        names = ", ".join(f"{table}.parquet" for table in _tables(codec) if any(table in tables for tables in lacking.values()))
        where = f"partition {which} has" if which.isdecimal() else f"partitions {which} have"
        raise DataError(f"{where} no {names} ('{dataset.path}'){_advice(dataset, which, codec)}")
    return [Partition(dataset, n, codec) for n in numbers]


def mixed_makers(dataset: Dataset, numbers: Sequence[int]) -> tuple[str, ...]:
    """Lines about what partitions were separated and aligned with, where that is not one and the same; tables that are not there say nothing."""
    found: dict[str, dict[str, list[int]]] = {flag: {} for flags in _MAKERS.values() for flag in flags}
    for table, flags in _MAKERS.items():
        for number in numbers:
            if (path := dataset.table(number, table)).is_file():
                with TableReader(path) as reader:
                    for flag, key in flags.items():
                        if name := reader.meta.get(key):
                            found[flag].setdefault(name, []).append(number)
    said = []
    for flag, makers in found.items():
        if len(makers) > 1:
            which = " and ".join(f"{name} in {ranges_text(there)}" for name, there in makers.items())
            said.append(f"partitions were not made with one --{flag} ({which}), so that their rows differ; `autosing-process run {dataset.path}` with one makes them alike")
    return tuple(said)


def left_over(dataset: Dataset, numbers: Sequence[int]) -> tuple[str, ...]:
    """A line about songs of the index that have neither a window nor a rejection, if there are any, in partitions where windows were made."""
    left: dict[int, int] = {}
    for number in numbers:
        if dataset.table(number, WINDOWS_TABLE).is_file():
            with TableReader(dataset.table(number, INDEX)) as index, TableReader(dataset.table(number, WINDOWS_TABLE)) as windows:
                waiting = set(filter(None, index.column("id"))).difference(windows.column("song"))
            refused = {row.id for rows in Manifest(dataset.folder(number), number, FileHashes()).rejected.values() for row in rows}
            if count := sum(song not in refused and song[:64] not in refused for song in waiting):  # an id too long is shortened there
                left[number] = count
    if not left:
        return ()
    which, count = ranges_text(list(left)), sum(left.values())
    return (
        f"{count} songs of partition{'s' * (len(left) > 1)} {which} were not looked at yet (--num); "
        f"`autosing-process run {dataset.path} --partitions {which}`, with the other flags of the first time, does them",
    )


def same_specs(parts: Sequence[Partition]) -> Specs:
    """What all partitions were made with.

    Raises:
        DataError: see `Partition.specs`.
        MismatchError: two partitions differ; names both.
    """
    first = parts[0].specs()
    for part in parts[1:]:
        specs = part.specs()
        where = "partition 0", f"partition {part.number}"
        for what in ("codec", "accompaniment", "semantic", "voice"):
            require_same(what, getattr(first, what), where[0], getattr(specs, what), where[1])
        if specs.window_seconds != first.window_seconds:
            raise MismatchError(
                f"windows of {where[0]} last {first.window_seconds:g} s and of {where[1]} {specs.window_seconds:g} s; "
                "run vad_extract with the same --chunk-length"
            )
    return first


def _tables(codec: str) -> dict[str, str]:
    """Every table that rows are made of -> the column of a row that it holds, if one."""
    vocals, accompaniment = tokens_table("vocals", codec), tokens_table("no_vocals", codec)
    return {INDEX: "", WINDOWS_TABLE: "", "stoks": "stoks", vocals: "atoks", accompaniment: "mtoks", "artist_embs": "embs"}


def _advice(dataset: Dataset, partitions: str, codec: str) -> str:
    """The command that makes missing tables, or that there is no such codec."""
    name = split_choice(codec)[0]
    if name not in CODECS.names():
        return f"; no codec is called '{name}'{nearest(name, CODECS.names())}"
    chosen = "" if codec == DEFAULT_CODEC else f" --codec {codec}"
    return f"; run `autosing-process run {dataset.path} --partitions {partitions}{chosen}`, with the other flags of the first time"
