"""Processed partitions -> a shuffled dataset, split by song: the last table before training.

Rows are the windows of `chunked.parquet` joined with their tokens and embeddings by id. Nothing depends on the partitions they came from: a
song (or artist) is put into validation by a hash of its id and the seed, and rows are ordered by a hash of their id and the seed, then dealt
evenly to the output partitions 0 ... N - 1; partition N holds validation. `dataset.json`, written last, names the partitions and carries the
specs; while it is missing there is no dataset, and an earlier one stays whole until every new row waits on disk. A window that lacks one of its
tables is counted by reason and reported. Columns of the user's own in the index are carried into every row (categories as their values); those
that cannot be are named. Rows that a filter (processing/filtering.py) does not keep are left out before anything is split or shuffled, and
counted. Copies of a song are on its side.

Memory: one row group a table, plus the rows of one output bucket; rows wait on disk in `BUCKETS` Arrow files while they are shuffled.
"""

import contextlib
import hashlib
import itertools
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autosing.config import nearest
from autosing.errors import ConfigError, DataError, MismatchError
from autosing.perception import CODECS
from autosing.registry import split_choice
from autosing.song.alignment import ALIGNMENT_TYPE, Alignment
from autosing.store import Dataset, TableReader, atomic_path, locked, sha256_of, write_table, writing
from autosing.tokens.specs import CodecSpec, Seconds, SemanticSpec, VoiceSpec, require_same, spec_from_json, spec_to_json
from processing.atoks import tokens_table
from processing.filtering import Counted, RowFilter
from processing.index import AUDIO_HASH, INDEX
from processing.judged import FILLED_BY_QUALITY, JUDGED, duplicates, judged, missing_quality
from processing.manifest import FileHashes, Manifest, stale_text
from processing.placement import EDGE_SECONDS, window_id
from processing.quality import QUALITY_TABLE
from processing.windows import WINDOW_META, WINDOWS_TABLE

DATASET_FILE = "dataset.json"
DATASET_FORMAT = "autosing-dataset/1"
BUCKETS = 128
MIN_HALF_SECONDS: Seconds = 1.0
"""`--split` leaves out a half that holds less of the song than this (the padding of a short window)."""
SPLIT_BY = ("song", "artist")
_SPOOL_BYTES = 32 << 20
_FIXED = pa.schema(
    [
        ("id", pa.string()),
        ("song", pa.string()),
        ("start", pa.float64()),
        ("seconds", pa.float64()),
        ("artist", pa.string()),
        ("stoks", pa.list_(pa.int32())),
        ("atoks", pa.list_(pa.int16())),
        ("mtoks", pa.list_(pa.int16())),
        ("embs", pa.list_(pa.float32())),
        ("alignment", ALIGNMENT_TYPE),
        *JUDGED,
    ]
)
_OURS = {"id", "audio", AUDIO_HASH, "lrc_lyrics", "raw_lyrics", "artist", "source"}
_KEPT_TYPES: tuple[Callable[[pa.DataType], bool], ...] = (
    pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_string, pa.types.is_large_string,
    pa.types.is_date, pa.types.is_time, pa.types.is_timestamp, pa.types.is_duration,
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What to construct.

    Attributes:
        data_dir, num_in: processed partitions 0 ... num_in - 1.
        output_dir, num_out: written partitions 0 ... num_out - 1, and num_out for validation.
        split: cut every row into two halves.
        name: of the written table.
        codec: whose tokens (`atoks_vocals_<codec>`, `atoks_no_vocals_<codec>`).
        seed: of the split and the order.
        validation_share: expected share of songs in validation.
        split_by: "song", or "artist": no artist on both sides.
        filter: which rows are kept, "" for all.
    """

    data_dir: Path
    num_in: int
    output_dir: Path
    num_out: int
    split: bool = False
    name: str = "main"
    codec: str = "builtin"
    seed: int = 0
    validation_share: float = 0.05
    split_by: str = "song"
    filter: str = ""

    def __post_init__(self) -> None:
        for holds, message in (
            (self.num_in >= 1, f"num_in must be at least 1, found {self.num_in}"),
            (self.num_out >= 1, f"--num-out-partitions must be at least 1, found {self.num_out}"),
            (0 <= self.validation_share < 1, f"--validation-share must be in [0, 1), found {self.validation_share}"),
            (self.split_by in SPLIT_BY, f"--split-by must be song or artist, found '{self.split_by}'"),
            (self.name.isidentifier(), f"--name must be letters, digits and _, found '{self.name}'"),
            (self.data_dir.resolve() != self.output_dir.resolve(), "the output folder must not be the data folder; give another one"),
        ):
            if not holds:
                raise ConfigError(message)


@dataclass(frozen=True)
class Constructed:
    """What was written.

    Attributes:
        lost: windows left out, by reason.
        notes: lines for the user.
        filtered: what each condition of the filter removed.
        unfiltered_rows: windows that the filter was shown.
    """

    train_rows: int
    validation_rows: int
    train_songs: int
    validation_songs: int
    lost: dict[str, int]
    notes: tuple[str, ...]
    filtered: tuple[Counted, ...] = ()
    unfiltered_rows: int = 0


@dataclass(frozen=True)
class _Specs:
    codec: CodecSpec
    accompaniment: CodecSpec
    semantic: SemanticSpec
    voice: VoiceSpec
    window_seconds: Seconds


@dataclass(frozen=True)
class _Key:
    """A row before its tokens are read: enough to say where it goes. What is of one `group` is on one side of the split."""

    id: str
    song: str
    group: str


def construct(plan: Plan, seen: Callable[[int, int], None] = lambda done, total: None) -> Constructed:
    """Join, split, shuffle and write.

    Args:
        seen: told how many of how many rows are joined.

    Raises:
        ConfigError: the filter is not one, or asks for a column that rows do not have; the output lies among partitions of songs.
        DataError: a partition or table is missing, damaged or older than what it was made from, or no row is left.
        MismatchError: partitions were made with different codecs, tokenizers or windows.
    """
    source = Dataset(plan.data_dir)
    there = source.partitions()
    _keep_off_songs(plan.output_dir.resolve())
    missing = [i for i in range(plan.num_in) if i not in there]
    if missing:
        advice = f"its partitions are 0 to num_in - 1: rename the folder {there[-1]} to {missing[0]}" if there[-1] > missing[0] else f"give {len(there)}"
        raise DataError(f"'{plan.data_dir}' has no partition {missing[0]}; it has {len(there)}, num_in says {plan.num_in}; {advice}")
    notes = []
    if len(there) > plan.num_in:
        notes.append(f"{len(there) - plan.num_in} partitions of '{plan.data_dir}' are not used (num_in {plan.num_in} of {len(there)})")
    parts = [_Partition(source, i, plan.codec) for i in range(plan.num_in)]
    if stale := {part.number: part.stale for part in parts if part.stale}:
        raise DataError(stale_text(source.path, stale))
    specs = _same_specs(parts)
    extra, refused = _extra_columns(parts)
    numbers = tuple(part.number for part in parts)
    lacking = missing_quality(source, numbers)
    wanted = _filter(plan, extra, lacking)
    if lacking:
        notes.append(lacking)
    copy_of = duplicates(source, numbers)
    if copy_of:
        copy, first = next(iter(copy_of.items()))
        copies = "1 song is a copy of another" if len(copy_of) == 1 else f"{len(copy_of)} songs are copies of others"
        which = f"{copies} (the first: '{copy}' of '{first}')"
        notes.append(f"{which}; copies stay on one side of the split, and --filter 'duplicate_of is None' leaves them out")
    lost: Counter[str] = Counter()
    windows = [window for part in parts for window in part.windows(lost)]
    group_of = _groups({song for _, song in windows}, parts, plan.split_by, copy_of)
    keys = [_Key(window, song, group_of[song]) for window, song in windows]
    _no_repeats(keys)
    unfiltered = len(keys)
    if wanted is not None:
        keys = _kept(keys, parts, wanted, extra, copy_of)
    if unfiltered and not keys:
        assert wanted is not None
        worst = max(wanted.counts(), key=lambda count: count.removed)
        raise DataError(
            f"--filter keeps none of {unfiltered} rows: '{worst.condition}' alone removes {worst.removed} ({worst.unknown} of them are unknown); ask for less"
        )
    if not keys:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in lost.items()) or "no window was found in any song"
        raise DataError(f"no row is left to construct a dataset from ({reasons}); run autosing-process run first")
    group_sizes = Counter(group for _, group in {(key.song, key.group) for key in keys})
    validation = _validation_groups(group_sizes, plan.seed, plan.validation_share)
    if not validation and plan.validation_share > 0:
        notes.append(f"all rows come from one {plan.split_by}: everything is in train, the validation partition is empty")
    notes += [f"the index column '{name}' is not carried over: {reason}" for name, reason in refused.items()]
    schema = pa.schema([*_FIXED, *extra])
    try:
        plan.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder '{plan.output_dir}' ({error.strerror}); name one that is there or can be made") from error
    with locked(plan.output_dir):
        before = _written_before(plan.output_dir)
        with tempfile.TemporaryDirectory(prefix=".construct.", suffix=".tmp", dir=plan.output_dir) as folder:
            _sweep(plan.output_dir, Path(folder))
            rows = _joined(parts, plan, specs, extra, {key.id: key.group for key in keys}, copy_of, lost, seen)
            train_rows, validation_rows = _shuffle(rows, plan, specs, schema, validation, Path(folder))
        songs = {key.song for key in keys}
        held = {key.song for key in keys if key.group in validation}
        description = {
            "format": DATASET_FORMAT,
            "kind": "tokens",
            "parts": [plan.name],
            "partitions": {"train": list(range(plan.num_out)), "validation": [plan.num_out]},
            "rows": {"train": train_rows, "validation": validation_rows},
            "songs": {"train": len(songs) - len(held), "validation": len(held)},
            "codec": asdict(specs.codec),
            "accompaniment_codec": asdict(specs.accompaniment),
            "semantic": asdict(specs.semantic),
            "voice": asdict(specs.voice),
            "window_seconds": specs.window_seconds / 2 if plan.split else specs.window_seconds,
            "split": plan.split,
            "split_by": plan.split_by,
            "seed": plan.seed,
            "validation_share": plan.validation_share,
            "lost": dict(sorted(lost.items())),
            "source_hash": _source_hash(parts, plan),
        }
        if wanted is not None:
            counts = [asdict(count) for count in wanted.counts()]
            description["filter"] = {"expression": wanted.text, "rows_before": unfiltered, "conditions": counts}
        with writing(plan.output_dir / DATASET_FILE), atomic_path(plan.output_dir / DATASET_FILE) as path:
            path.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        for number in before - set(range(plan.num_out + 1)):  # partitions of an earlier, larger dataset
            (plan.output_dir / str(number) / f"{plan.name}.parquet").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # is not there, or holds something else
                (plan.output_dir / str(number)).rmdir()
    counted = wanted.counts() if wanted is not None else ()
    shown = unfiltered if wanted is not None else 0
    return Constructed(
        train_rows, validation_rows, len(songs) - len(held), len(held), dict(sorted(lost.items())), tuple(notes), counted, shown
    )


def _keep_off_songs(output: Path) -> None:
    """
    Raises:
        ConfigError: the output is or lies in a partition of songs, or is numbered like one, or holds some.
    """

    def are_songs(folder: Path) -> bool:
        return (folder / f"{INDEX}.parquet").is_file()

    beside = output.parent.glob(f"*/{INDEX}.parquet") if output.name.isdecimal() else ()
    songs = [folder for folder in (output, *output.parents) if are_songs(folder)]
    songs += [path.parent for path in (*beside, *output.glob(f"*/{INDEX}.parquet")) if path.parent.name.isdecimal()]
    if songs:
        raise ConfigError(f"the output folder '{output}' lies among partitions of songs ('{songs[0]}'); give one that holds nothing else")


def _filter(plan: Plan, extra: Sequence[pa.Field], lacking: str | None) -> RowFilter | None:
    """
    Raises:
        ConfigError: see `RowFilter`.
        DataError: it asks about a column that not all partitions have.
    """
    if not plan.filter.strip():
        return None
    single = [field.name for field in extra if not pa.types.is_nested(getattr(field.type, "value_type", field.type))]  # or lists of such
    made = RowFilter(plan.filter, ("id", "song", "start", "seconds", "artist", *JUDGED.names, *single))
    unknown = [name for name in made.columns if name in FILLED_BY_QUALITY]
    if lacking and unknown:
        raise DataError(f"--filter asks about {', '.join(unknown)}, but {lacking}; run it first")
    return made


def _kept(
    keys: Sequence["_Key"], parts: Sequence["_Partition"], wanted: RowFilter, extra: Sequence[pa.Field], copy_of: Mapping[str, str]
) -> list["_Key"]:
    """The keys whose rows the filter keeps."""
    by_id = {key.id: key for key in keys}
    kept = []
    for part in parts:
        about = part.about(["artist", *(field.name for field in extra)])
        for row in part.judged(copy_of):
            if row["id"] in by_id and wanted.keeps(_with_texts({**about.get(row["song"], {}), **row}, extra)):
                kept.append(by_id[row["id"]])
    return kept


def _with_texts(row: dict[str, Any], extra: Sequence[pa.Field]) -> dict[str, Any]:
    """The row with the cells of text columns as text."""
    for field in extra:
        if field.type == pa.string():
            row[field.name] = None if row.get(field.name) is None else str(row[field.name])
    return row


def _advice(dataset: Dataset, partition: int, codec: str) -> str:
    """The command that makes missing tables, or that there is no such codec."""
    name = split_choice(codec)[0]
    if name not in CODECS.names():
        return f"; no codec is called '{name}'{nearest(name, CODECS.names())}"
    chosen = "" if codec == Plan.codec else f" --codec {codec}"
    return f"; run `autosing-process run {dataset.path} --partitions {partition}{chosen}`"


class _Partition:
    """The tables of one input partition, opened when needed."""

    def __init__(self, dataset: Dataset, number: int, codec: str):
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

    def specs(self) -> _Specs:
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
        return _Specs(
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


def _groups(songs: set[str], parts: Sequence[_Partition], split_by: str, copy_of: Mapping[str, str]) -> dict[str, str]:
    """Song -> the name of all that is never on both sides of the split from it: its copies; of artists theirs too, and so on."""
    group_of = {song: f"song/{copy_of.get(song, song)}" for song in songs}
    if split_by != "artist":
        return group_of
    joined: dict[str, str] = {}

    def first(name: str) -> str:
        while name in joined:
            name = joined[name]
        return name

    for part in parts:
        for song, row in part.about(["artist"]).items():
            if song in songs and row.get("artist"):
                low, high = sorted((first(group_of[song]), first(f"artist/{row['artist']}")))
                if low != high:
                    joined[high] = low
    return {song: first(group) for song, group in group_of.items()}


def _same_specs(parts: Sequence[_Partition]) -> _Specs:
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


def _no_repeats(keys: Sequence[_Key]) -> None:
    counts = Counter(key.id for key in keys)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise DataError(
            f"{len(repeated)} window ids come twice, the first is '{repeated[0]}'; run `autosing-process run`, which keeps one song an id"
        )


def _unit(seed: int, text: str) -> float:
    """A hash of (seed, text) as a number in [0, 1)."""
    digest = hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _validation_groups(sizes: Mapping[str, int], seed: int, share: float) -> set[str]:
    """The groups held out, of the songs in each: those whose hash falls below `share`, never all; where none does and there are two or more, one of the
    smallest, so that most songs are trained on."""
    if share == 0 or len(sizes) < 2:
        return set()
    ordered = sorted(sizes, key=lambda group: (_unit(seed, f"split/{group}"), group))
    count = sum(_unit(seed, f"split/{group}") < share for group in ordered)
    return set(ordered[: min(count, len(ordered) - 1)]) or {min(ordered, key=lambda group: sizes[group])}


def _extra_columns(parts: Sequence[_Partition]) -> tuple[list[pa.Field], dict[str, str]]:
    """Columns of the index that are not ours, kept in every row (text where partitions differ in type), and why others are not."""
    kinds: dict[str, pa.DataType] = {}
    refused: dict[str, str] = {}
    for part in parts:
        with part.open(INDEX) as reader:
            for field in reader.schema:
                name = field.name
                if name in _OURS or pa.types.is_null(field.type):
                    continue
                kind = _carried(field.type)
                if name in _FIXED.names:
                    refused[name] = "training rows have a column of that name of their own"
                elif kind is None:
                    refused[name] = f"{field.type} cannot be"
                elif kinds.setdefault(name, kind) != kind:
                    if pa.types.is_nested(kind) or pa.types.is_nested(kinds[name]):
                        refused[name] = f"it is {kinds[name]} in one partition and {kind} in another"
                    kinds[name] = pa.string()
    return [pa.field(name, kind) for name, kind in sorted(kinds.items()) if name not in refused], dict(sorted(refused.items()))


def _carried(kind: pa.DataType) -> pa.DataType | None:
    """The type that a column of type `kind` has in the rows; None if it is left out."""
    if pa.types.is_dictionary(kind):
        return _carried(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)  # Python's times end there
    if pa.types.is_nested(kind):
        inner = [kind.field(i).type for i in range(kind.num_fields)]
        return kind if not pa.types.is_union(kind) and all(_carried(part) == part for part in inner) else None
    if str(kind) in ("duration[ns]", "time64[ns]"):
        return None
    return kind if any(fits(kind) for fits in _KEPT_TYPES) else None


def _joined(
    parts: Sequence[_Partition],
    plan: Plan,
    specs: _Specs,
    extra: Sequence[pa.Field],
    groups: Mapping[str, str],
    copy_of: Mapping[str, str],
    lost: Counter[str],
    seen: Callable[[int, int], None],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row with its group.

    Args:
        groups: of the windows that are kept, by id.
    """
    done = 0
    for part in parts:
        readers = {column: part.open(table) for column, table in part.names.items()}
        try:
            about = part.about(["artist", *(f.name for f in extra)])
            for window in part.judged(copy_of):
                if window["id"] not in groups:
                    continue
                row = _with_texts({**about.get(window["song"], {}), **window}, extra)
                for column, reader in readers.items():
                    values = "embs" if column == "embs" else "values"
                    found = reader.get(window["id"], ["id", values])
                    assert found is not None
                    row[column] = found[values]
                _check_lengths(row, specs)
                alignment = Alignment.from_struct(row.pop("alignment"))
                for piece, words in _halves(row, alignment, specs, lost) if plan.split else [(row, alignment)]:
                    # a song without lyrics says nothing about its words; an empty alignment would say that there are none
                    nothing = words.trust is None and not alignment.words
                    yield groups[row["id"]], {**piece, "alignment": None if nothing else words.to_struct()}
                done += 1
                seen(done, len(groups))
        finally:
            for reader in readers.values():
                reader.close()


def _check_lengths(row: Mapping[str, Any], specs: _Specs) -> None:
    seconds = specs.window_seconds
    wanted = {
        "stoks": 2 * specs.semantic.tokens(seconds / 2),
        "atoks": specs.codec.levels * specs.codec.frames(seconds),
        "mtoks": specs.accompaniment.levels * specs.accompaniment.frames(seconds),
    }
    for column, count in wanted.items():
        if len(row[column]) != count:
            raise DataError(f"window '{row['id']}' has {len(row[column])} {column} where {seconds:g} s are {count}; run its step again")
    if len(row["embs"]) % specs.voice.width or not len(row["embs"]):
        raise DataError(f"window '{row['id']}' has {len(row['embs'])} embs, not a multiple of {specs.voice.width}; run artist_embs again")


def _halves(
    row: Mapping[str, Any], alignment: Alignment, specs: _Specs, lost: Counter[str]
) -> Iterator[tuple[dict[str, Any], Alignment]]:
    """A row as two rows of half its length. Codes are cut where the coarsest codes of all levels begin."""
    half = specs.window_seconds / 2
    embs = np.asarray(row["embs"]).reshape(-1, specs.voice.width)
    tokens = specs.semantic.tokens(half)
    for number in range(2):
        begin = number * half
        available = min(half, row["seconds"] - begin)
        if available < MIN_HALF_SECONDS:
            lost["half window is padding"] += 1
            continue
        pieces = slice(int(len(embs) * number / 2), -int(-len(embs) * (number + 1) // 2))
        yield (
            {
                **row,
                "id": row["id"] if number == 0 else window_id(row["song"], row["start"] + begin),
                "start": row["start"] + begin,
                "seconds": available,
                "stoks": row["stoks"][number * tokens : (number + 1) * tokens],
                "atoks": _half_codes(row["atoks"], specs.codec, specs.window_seconds, number),
                "mtoks": _half_codes(row["mtoks"], specs.accompaniment, specs.window_seconds, number),
                "embs": embs[pieces].reshape(-1),
            },
            alignment.clip(begin, begin + half, EDGE_SECONDS),
        )


def _half_codes(values: Any, spec: CodecSpec, window_seconds: Seconds, number: int) -> np.ndarray:
    """(K x T,) -> (K x T',), T' = frames of half a window; the second half begins at the coarse code nearest to the middle."""
    codes = np.asarray(values).reshape(spec.levels, -1)
    block, frames = max(spec.strides), spec.frames(window_seconds / 2)
    begin = number * round(window_seconds / 2 * spec.frame_rate / block) * block
    begin = min(begin, (codes.shape[1] - frames) // block * block)
    return codes[:, begin : begin + frames].reshape(-1)


def _shuffle(
    rows: Iterator[tuple[str, dict[str, Any]]], plan: Plan, specs: _Specs, schema: pa.Schema, validation: set[str], folder: Path
) -> tuple[int, int]:
    """Write the rows in the order of their hash, dealt evenly to the partitions. -> rows of train, of validation"""
    meta = {
        "codec": spec_to_json(specs.codec),
        "accompaniment_codec": spec_to_json(specs.accompaniment),
        "semantic": spec_to_json(specs.semantic),
        "voice": spec_to_json(specs.voice),
        WINDOW_META: str(specs.window_seconds / 2 if plan.split else specs.window_seconds),
    }
    train, held = _Spool(folder / "train", schema), _Spool(folder / "validation", schema)
    for group, row in rows:
        (held if group in validation else train).add(_unit(plan.seed, f"order/{row['id']}"), row)
    for spool in (train, held):
        spool.flush()
    (plan.output_dir / DATASET_FILE).unlink(missing_ok=True)  # so far an earlier dataset is whole
    in_order = train.ordered()
    for number in range(plan.num_out + 1):
        mine = itertools.islice(in_order, _share(number, train.rows, plan.num_out)) if number < plan.num_out else held.ordered()
        write_table(plan.output_dir / str(number) / f"{plan.name}.parquet", mine, schema, meta)
    return train.rows, held.rows


def _share(number: int, rows: int, partitions: int) -> int:
    """How many of `rows` partition `number` gets; all get them, and no two differ by more than one."""
    return (number + 1) * rows // partitions - number * rows // partitions


class _Spool:
    """Rows set aside on disk in `BUCKETS` files by their place in [0, 1), and read back in order of place."""

    def __init__(self, folder: Path, schema: pa.Schema):
        folder.mkdir()
        self.rows = 0
        self._folder = folder
        self._place = "place"
        while self._place in schema.names:
            self._place += "_"
        self._schema = schema.append(pa.field(self._place, pa.float64()))
        self._waiting: dict[int, list[dict[str, Any]]] = {}
        self._bytes = 0
        self._chunks: Counter[int] = Counter()

    def add(self, place: float, row: Mapping[str, Any]) -> None:
        self.rows += 1
        self._waiting.setdefault(int(place * BUCKETS), []).append({**row, self._place: place})
        self._bytes += 8192 + sum(np.asarray(row[name]).nbytes for name in ("stoks", "atoks", "mtoks", "embs"))
        if self._bytes >= _SPOOL_BYTES:
            self.flush()

    def flush(self) -> None:
        """Set every row aside on disk.

        Raises:
            DataError: the disk is full.
        """
        for bucket, rows in self._waiting.items():
            path = self._folder / f"{bucket}.{self._chunks[bucket]}.arrow"
            self._chunks[bucket] += 1
            with writing(path), pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, self._schema) as writer:
                writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))
        self._waiting, self._bytes = {}, 0

    def ordered(self) -> Iterator[dict[str, Any]]:
        """Every row, by place; call it once all are flushed."""
        for bucket in range(BUCKETS):
            tables = []
            for chunk in range(self._chunks[bucket]):
                with pa.OSFile(str(self._folder / f"{bucket}.{chunk}.arrow"), "rb") as file:
                    tables.append(pa.ipc.open_file(file).read_all())
            if not tables:
                continue
            table = pa.concat_tables(tables).combine_chunks().sort_by([(self._place, "ascending"), ("id", "ascending")])
            for batch in table.drop_columns([self._place]).to_batches(max_chunksize=64):
                for i in range(batch.num_rows):
                    yield {name: _cell(batch.column(j), i) for j, name in enumerate(batch.schema.names)}


def _cell(array: pa.Array, i: int) -> Any:
    kind = array.type
    if pa.types.is_list(kind) and (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)):
        values = array[i].values
        if values is not None and not values.null_count:
            return values.to_numpy(zero_copy_only=False)
    return array[i].as_py()


def _source_hash(parts: Sequence[_Partition], plan: Plan) -> str:
    """A hash of what the rows were made from: the tables and the choices."""
    digest = hashlib.sha256(f"{plan.seed}|{plan.split}|{plan.split_by}|{plan.validation_share}|{plan.num_out}".encode())
    for part in parts:
        for table in (WINDOWS_TABLE, *part.names.values()):
            digest.update(f"{part.number}/{table}={sha256_of(part.paths[table])}\n".encode())
        if part.quality.is_file():
            digest.update(f"{part.number}/{QUALITY_TABLE}={sha256_of(part.quality)}\n".encode())
    if plan.filter.strip():
        digest.update(f"filter={plan.filter.strip()}\n".encode())
    return digest.hexdigest()[:32]


def _written_before(folder: Path) -> set[int]:
    try:
        found = json.loads((folder / DATASET_FILE).read_text(encoding="utf-8"))
        return {int(n) for numbers in found["partitions"].values() for n in numbers}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _sweep(folder: Path, mine: Path) -> None:
    """Remove the spools of constructions that were killed."""
    for path in folder.glob(".construct.*.tmp"):
        if path != mine:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("*/.*.tmp"):
        path.unlink(missing_ok=True)

