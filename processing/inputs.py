"""The tables of the processed partitions that training rows are made from.

`Partition` opens them when they are needed and reads one of them at a time; `same_specs` says which codec, tokenizer, embedder and windows all
partitions share. What a row is made of them is said in processing/training_rows.py.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autosing.config import nearest
from autosing.errors import DataError, MismatchError
from autosing.perception import CODECS
from autosing.registry import split_choice
from autosing.store import Dataset, TableReader
from autosing.tokens.specs import CodecSpec, Seconds, SemanticSpec, VoiceSpec, require_same, spec_from_json
from processing.atoks import tokens_table
from processing.index import INDEX
from processing.judged import judged
from processing.manifest import FileHashes, Manifest
from processing.quality import QUALITY_TABLE
from processing.windows import WINDOW_META, WINDOWS_TABLE

DEFAULT_CODEC = "builtin"


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
        """
        Raises:
            DataError: a table is missing.
        """
        self.number, self._dataset = number, dataset
        self.names = {
            "stoks": "stoks",
            "atoks": tokens_table("vocals", codec),
            "mtoks": tokens_table("no_vocals", codec),
            "embs": "artist_embs",
        }
        self.paths = {t: dataset.table(number, t) for t in (INDEX, WINDOWS_TABLE, *self.names.values())}
        for table, path in self.paths.items():
            if not path.is_file():
                raise DataError(f"partition {number} has no {table}.parquet ('{path}'){_advice(dataset, number, codec)}")
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


def _advice(dataset: Dataset, partition: int, codec: str) -> str:
    """The command that makes missing tables, or that there is no such codec."""
    name = split_choice(codec)[0]
    if name not in CODECS.names():
        return f"; no codec is called '{name}'{nearest(name, CODECS.names())}"
    chosen = "" if codec == DEFAULT_CODEC else f" --codec {codec}"
    return f"; run `autosing-process run {dataset.path} --partitions {partition}{chosen}`"
