"""Processed partitions -> a shuffled dataset, split by song: the last table before training.

Rows are the windows of `chunked.parquet` joined with their tokens and embeddings by id (processing/training_rows.py). Nothing depends on the
partitions they came from: a song (or artist) is put into validation by a hash of its id and the seed (processing/held_out.py), and rows are
ordered by a hash of their id and the seed (processing/shuffle.py), then dealt evenly to the output partitions 0 ... N - 1; partition N holds
validation. `dataset.json`, written last, names the partitions and carries the specs; while it is missing there is no dataset, and an earlier
one stays whole until every new row waits on disk. A window that lacks one of its tables is counted by reason and reported. Rows that a filter
(processing/filtering.py) does not keep are left out before anything is split or shuffled, and counted. Copies of a song are on its side.
"""

import contextlib
import hashlib
import itertools
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from autosing.errors import ConfigError, DataError
from autosing.store import Dataset, atomic_path, locked, sha256_of, write_table, writing
from autosing.tokens.specs import Seconds, spec_to_json
from processing.filtering import Counted, RowFilter
from processing.held_out import SPLIT_BY, groups_of, unit, validation_groups
from processing.index import INDEX
from processing.inputs import DEFAULT_CODEC, Partition, Specs, left_over, mixed_makers, partitions, same_specs
from processing.judged import FILLED_BY_QUALITY, JUDGED, duplicates, missing_quality
from processing.manifest import stale_text
from processing.quality import QUALITY_TABLE
from processing.shuffle import Spool, share
from processing.training_rows import FIXED, described, extra_columns, joined
from processing.windows import WINDOW_META, WINDOWS_TABLE

DATASET_FILE = "dataset.json"
DATASET_FORMAT = "autosing-dataset/1"


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
    codec: str = DEFAULT_CODEC
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
    _require_partitions(plan, there)
    parts = partitions(source, range(plan.num_in), plan.codec)
    if stale := {part.number: part.stale for part in parts if part.stale}:
        raise DataError(stale_text(source.path, stale))
    specs = same_specs(parts)
    extra, refused = extra_columns(parts)
    lacking = missing_quality(source, range(plan.num_in))
    wanted = _filter(plan, extra, lacking)
    copy_of = duplicates(source, range(plan.num_in))

    lost: Counter[str] = Counter()
    windows = _keys(parts, plan.split_by, copy_of, lost)
    keys = windows if wanted is None else _kept(windows, parts, wanted, extra, copy_of)
    _require_rows(keys, windows, wanted, lost)
    group_sizes = Counter(group for _, group in {(key.song, key.group) for key in keys})
    validation = validation_groups(group_sizes, plan.seed, plan.validation_share)

    _make_folder(plan.output_dir)
    with locked(plan.output_dir):
        before = _written_before(plan.output_dir)
        with tempfile.TemporaryDirectory(prefix=".construct.", suffix=".tmp", dir=plan.output_dir) as folder:
            _sweep(plan.output_dir, Path(folder))
            group_of = {key.id: key.group for key in keys}
            train, held = (Spool(Path(folder) / side, pa.schema([*FIXED, *extra])) for side in ("train", "validation"))
            for window, row in joined(parts, specs, extra, group_of.keys(), copy_of, plan.split, lost, seen):
                (held if group_of[window] in validation else train).add(unit(plan.seed, f"order/{row['id']}"), row)
            _write_partitions(plan, train, held, _meta(plan, specs))
        songs = {key.song for key in keys}
        held_songs = {key.song for key in keys if key.group in validation}
        done = Constructed(
            train_rows=train.rows,
            validation_rows=held.rows,
            train_songs=len(songs) - len(held_songs),
            validation_songs=len(held_songs),
            lost=dict(sorted(lost.items())),
            notes=(*left_over(source, range(plan.num_in)), *mixed_makers(source, range(plan.num_in)), *_notes(plan, there, lacking, copy_of, validation, refused)),
            filtered=() if wanted is None else wanted.counts(),
            unfiltered_rows=0 if wanted is None else len(windows),
        )
        _describe(plan, specs, done, wanted, _source_hash(parts, plan))
        _remove_partitions(plan, before - set(range(plan.num_out + 1)))
    return done


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


def _require_partitions(plan: Plan, there: Sequence[int]) -> None:
    missing = [i for i in range(plan.num_in) if i not in there]
    if missing:
        advice = f"its partitions are 0 to num_in - 1: rename the folder {there[-1]} to {missing[0]}" if there[-1] > missing[0] else f"give {len(there)}"
        raise DataError(f"'{plan.data_dir}' has no partition {missing[0]}; it has {len(there)}, num_in says {plan.num_in}; {advice}")


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


def _keys(parts: Sequence[Partition], split_by: str, copy_of: Mapping[str, str], lost: Counter[str]) -> list[_Key]:
    """Of every window that all tables hold; the others are counted in `lost`."""
    windows = [window for part in parts for window in part.windows(lost)]
    group_of = groups_of({song for _, song in windows}, parts, split_by, copy_of)
    repeated = [window for window, count in Counter(window for window, _ in windows).items() if count > 1]
    if repeated:
        raise DataError(
            f"{len(repeated)} window ids come twice, the first is '{repeated[0]}'; run `autosing-process run`, which keeps one song an id"
        )
    return [_Key(window, song, group_of[song]) for window, song in windows]


def _kept(
    keys: Sequence[_Key], parts: Sequence[Partition], wanted: RowFilter, extra: Sequence[pa.Field], copy_of: Mapping[str, str]
) -> list[_Key]:
    """The keys whose rows the filter keeps."""
    by_id = {key.id: key for key in keys}
    rows = (row for part in parts for row in described(part, extra, copy_of))
    return [by_id[row["id"]] for row in rows if row["id"] in by_id and wanted.keeps(row)]


def _require_rows(keys: Sequence[_Key], windows: Sequence[_Key], wanted: RowFilter | None, lost: Mapping[str, int]) -> None:
    if windows and not keys:
        assert wanted is not None
        worst = max(wanted.counts(), key=lambda count: count.removed)
        raise DataError(
            f"--filter keeps none of {len(windows)} rows: '{worst.condition}' alone removes {worst.removed} ({worst.unknown} of them are unknown); ask for less"
        )
    if not keys:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in lost.items()) or "no window was found in any song"
        raise DataError(f"no row is left to construct a dataset from ({reasons}); run autosing-process run first")


def _notes(
    plan: Plan, there: Sequence[int], lacking: str | None, copy_of: Mapping[str, str], validation: Set[str], refused: Mapping[str, str]
) -> tuple[str, ...]:
    """Lines for the user.

    Args:
        there: partitions of the data folder.
        lacking: see `missing_quality`.
        refused: see `extra_columns`.
    """
    notes = []
    if len(there) > plan.num_in:
        notes.append(f"{len(there) - plan.num_in} partitions of '{plan.data_dir}' are not used (num_in {plan.num_in} of {len(there)})")
    if lacking:
        notes.append(lacking)
    if copy_of:
        copy, first = next(iter(copy_of.items()))
        copies = "1 song is a copy of another" if len(copy_of) == 1 else f"{len(copy_of)} songs are copies of others"
        which = f"{copies} (the first: '{copy}' of '{first}')"
        notes.append(f"{which}; copies stay on one side of the split, and --filter 'duplicate_of is None' leaves them out")
    if not validation and plan.validation_share > 0:
        notes.append(f"all rows come from one {plan.split_by}: everything is in train, the validation partition is empty")
    notes += [f"the index column '{name}' is not carried over: {reason}" for name, reason in refused.items()]
    return tuple(notes)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder '{folder}' ({error.strerror}); name one that is there or can be made") from error


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


def _row_seconds(plan: Plan, specs: Specs) -> Seconds:
    return specs.window_seconds / 2 if plan.split else specs.window_seconds


def _meta(plan: Plan, specs: Specs) -> dict[str, str]:
    """What the schema of every written table says."""
    return {
        "codec": spec_to_json(specs.codec),
        "accompaniment_codec": spec_to_json(specs.accompaniment),
        "semantic": spec_to_json(specs.semantic),
        "voice": spec_to_json(specs.voice),
        WINDOW_META: str(_row_seconds(plan, specs)),
    }


def _write_partitions(plan: Plan, train: Spool, held: Spool, meta: Mapping[str, str]) -> None:
    """Deal the rows of train, in order, to partitions 0 ... num_out - 1, and give those held out to partition num_out."""
    for spool in (train, held):
        spool.flush()
    (plan.output_dir / DATASET_FILE).unlink(missing_ok=True)  # so far an earlier dataset is whole
    in_order = train.ordered()
    for number in range(plan.num_out + 1):
        mine = itertools.islice(in_order, share(number, train.rows, plan.num_out)) if number < plan.num_out else held.ordered()
        write_table(plan.output_dir / str(number) / f"{plan.name}.parquet", mine, train.schema, meta)


def _describe(plan: Plan, specs: Specs, done: Constructed, wanted: RowFilter | None, source_hash: str) -> None:
    """Write `dataset.json`: from here on the new dataset is there."""
    description: dict[str, Any] = {
        "format": DATASET_FORMAT,
        "kind": "tokens",
        "parts": [plan.name],
        "partitions": {"train": list(range(plan.num_out)), "validation": [plan.num_out]},
        "rows": {"train": done.train_rows, "validation": done.validation_rows},
        "songs": {"train": done.train_songs, "validation": done.validation_songs},
        "codec": asdict(specs.codec),
        "accompaniment_codec": asdict(specs.accompaniment),
        "semantic": asdict(specs.semantic),
        "voice": asdict(specs.voice),
        "window_seconds": _row_seconds(plan, specs),
        "split": plan.split,
        "split_by": plan.split_by,
        "seed": plan.seed,
        "validation_share": plan.validation_share,
        "lost": done.lost,
        "source_hash": source_hash,
    }
    if wanted is not None:
        counts = [asdict(count) for count in done.filtered]
        description["filter"] = {"expression": wanted.text, "rows_before": done.unfiltered_rows, "conditions": counts}
    with writing(plan.output_dir / DATASET_FILE), atomic_path(plan.output_dir / DATASET_FILE) as path:
        path.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def _source_hash(parts: Sequence[Partition], plan: Plan) -> str:
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


def _remove_partitions(plan: Plan, numbers: Set[int]) -> None:
    """Remove those of an earlier, larger dataset."""
    for number in numbers:
        (plan.output_dir / str(number) / f"{plan.name}.parquet").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # is not there, or holds something else
            (plan.output_dir / str(number)).rmdir()
