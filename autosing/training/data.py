"""Rows of a dataset and the order they are trained in.

Order: a run is one endless stream of positions 0, 1, 2, ...; position p is row `permutation(seed, epoch)[p mod rows]` of epoch p // rows, and
micro-batch m holds positions m * batch_size ... (m + 1) * batch_size - 1, shared out over the ranks in equal runs. So every row comes once in
every epoch, every batch is full (one may straddle two epochs), and where a run stands is one integer; workers, ranks and restarts
change nothing. An example's randomness comes from (seed, position) alone.

A row that a task finds unfit (`example` returns None) is counted and replaced by a row drawn from (seed, position, attempt), so batches keep
their shape. In validation it is left out.

Rows: a mapping of the task's columns, read lazily one Parquet row group at a time. Binary columns come as bytes, lists of numbers as numpy
arrays, anything else as plain Python values; a row always has an `id`. What rows mean is the task's affair.
"""

import atexit
import functools
import hashlib
import json
import math
import multiprocessing
import multiprocessing.util  # registers its exit handler before ours
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autosing.config import from_mapping, nearest
from autosing.device import usable_cores
from autosing.errors import AutoSingError, ConfigError, DataError, MismatchError
from autosing.tokens.specs import CodecSpec, SemanticSpec, VoiceSpec, require_same
from autosing.training.task import Batch, DatasetMeta, Row, Task

DATASET_FILE, DATASET_FORMAT = "dataset.json", "autosing-dataset/1"
SPECS = {"codec": CodecSpec, "accompaniment_codec": CodecSpec, "semantic": SemanticSpec, "voice": VoiceSpec}
WINDOW_OF_SONG = re.compile(r"_at_\d+(\.\d+)?$")  # `<song>_at_<second>`: windows of one song stay on one side
MAX_ATTEMPTS = 64  # unfit rows in a row before a dataset is refused
OPEN_FILES = 64
VALIDATION_BATCH = 64
_ALIGNMENT = 64  # bytes; of tensors in a packed batch
_ORDER, _EXAMPLE, _VALIDATION_ORDER, _VALIDATION = range(4)  # one stream of random numbers each


@dataclass(frozen=True)
class DatasetConfig:
    """`--dataset-config`. Keys that the task's `Args` know (min_inlier_ratio, multiscale, ...) may stand here too.

    Attributes:
        path: a dataset folder, or several whose rows are put together.
        parts: tables a row is joined from, instead of those that `dataset.json` or the task names.
        validation_path: dataset folders to validate on, instead of a share of `path`.
        validation_share: share of songs, by hash of their id, kept for validation where a dataset has no `dataset.json` of its own.
        partition_offset, num_partitions: train on these partitions only (counted among the training partitions of each path).
        cache_megabytes: recently read row groups kept by each worker.
    """

    path: str | tuple[str, ...] = ()
    parts: tuple[str, ...] | None = None
    validation_path: str | tuple[str, ...] | None = None
    validation_share: float = 0.05
    partition_offset: int = 0
    num_partitions: int | None = None
    cache_megabytes: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"'validation_share' must be in [0, 1), found {self.validation_share}")
        if self.partition_offset < 0 or self.cache_megabytes < 0 or (self.num_partitions is not None and self.num_partitions < 1):
            raise ValueError("'partition_offset' and 'cache_megabytes' must be at least 0, 'num_partitions' at least 1")


def split_config(values: Mapping[str, Any], args: type, where: str) -> tuple[DatasetConfig, dict[str, Any]]:
    """`--dataset-config` -> (what this module reads, keys of the task's `Args`).

    Raises:
        ConfigError: a key that neither knows, with the nearest one that is known.
    """
    own = {f.name for f in fields(DatasetConfig)}
    tasks = {f.name for f in fields(args) if f.init} - own
    for key in values:
        if key not in own | tasks:
            raise ConfigError(f"{where} has no key '{key}'{nearest(key, own | tasks)}")
    config = from_mapping(DatasetConfig, {k: v for k, v in values.items() if k in own}, where)
    return config, {k: v for k, v in values.items() if k in tasks}


class TrainingData(NamedTuple):
    """What a run reads. `notes` are lines for the user (partitions left out, no validation rows)."""

    train: Sequence[Row]
    validation: Sequence[Row]
    meta: DatasetMeta
    notes: tuple[str, ...] = ()


# ---- rows on disk


class _Table(NamedTuple):
    path: Path
    group_ends: np.ndarray  # rows up to and including each row group
    columns: tuple[str, ...]


class ParquetRows(Sequence[Row]):
    """Rows of partitions, each joined by position from one table a part.

    Holds footers only; row groups are read on demand, the wanted columns alone, and the most recent are kept within `cache_bytes`. A copy in
    another process opens its own files.
    """

    def __init__(self, partitions: Sequence[Sequence[Path]], columns: Sequence[str], cache_bytes: int = 256 << 20):
        """
        Args:
            partitions: for each partition, the path of each part's table.
            columns: what rows hold; each is taken from the first part that has it. `id` is added where there is one.

        Raises:
            DataError: a damaged table, a column no part has, or parts of unequal length.
        """
        self._cache_bytes = cache_bytes
        self._partitions = [self._open_partition(paths, tuple(columns)) for paths in partitions]
        counts = [int(tables[0].group_ends[-1]) if len(tables[0].group_ends) else 0 for tables in self._partitions]
        self._ends = np.cumsum(np.asarray(counts, dtype=np.int64))
        self._reset()

    @staticmethod
    def _open_partition(paths: Sequence[Path], columns: tuple[str, ...]) -> tuple[_Table, ...]:
        footers = [_footer(path) for path in paths]
        names = [footer.schema.to_arrow_schema().names for footer in footers]
        for column in columns:
            if not any(column in have for have in names):
                have = sorted({name for part in names for name in part})
                raise DataError(f"'{paths[0]}' has no column '{column}'{nearest(column, have)}")
        rows = [footer.num_rows for footer in footers]
        if len(set(rows)) > 1:
            raise DataError(f"'{paths[0].parent}' holds tables of unequal length {rows}; construct the dataset again")
        tables, taken = [], set[str]()
        for path, footer, have in zip(paths, footers, names, strict=True):
            mine = [c for c in dict.fromkeys(("id", *columns)) if c in have and (c == "id" or c not in taken)]
            taken.update(mine)
            sizes = [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
            if mine:
                tables.append(_Table(path, np.cumsum(np.asarray(sizes, dtype=np.int64)), tuple(mine)))
        return tuple(tables)

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._files: OrderedDict[Path, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[Path, int], pa.Table] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_files", "_groups", "_bytes", "_owner")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._owner != os.getpid():
            self._reset()  # forked: file positions and Arrow's state belong to the parent
        partition = int(np.searchsorted(self._ends, index, side="right"))
        local = index - (int(self._ends[partition - 1]) if partition else 0)
        row: dict[str, Any] = {}
        for table in self._partitions[partition]:
            group = int(np.searchsorted(table.group_ends, local, side="right"))
            inside = local - (int(table.group_ends[group - 1]) if group else 0)
            values = self._group(table, group)
            found = {name: _value(values.column(name)[inside]) for name in table.columns}
            if "id" in row and found.get("id", row["id"]) != row["id"]:
                raise DataError(
                    f"row {local} of '{table.path}' is '{found['id']}' but '{row['id']}' in its sister table; "
                    "construct the dataset again"
                )
            row.update(found)
        table = self._partitions[partition][0]
        row.setdefault("id", f"{table.path.parent.name}/{table.path.stem}:{local}")
        return row

    def _group(self, table: _Table, group: int) -> pa.Table:
        key = (table.path, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        try:
            values = self._file(table.path).read_row_group(group, columns=list(table.columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"row group {group} of '{table.path}' cannot be read ({error}); make this table again") from error
        self._groups[key] = values
        self._bytes += values.nbytes
        while self._bytes > self._cache_bytes and len(self._groups) > 1:
            self._bytes -= self._groups.popitem(last=False)[1].nbytes
        return values

    def _file(self, path: Path) -> pq.ParquetFile:
        if path not in self._files:
            self._files[path] = pq.ParquetFile(path, page_checksum_verification=True)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]

    def ids(self) -> list[str]:
        """Every row's id, in order; reads the id column alone."""
        found: list[str] = []
        for tables in self._partitions:
            table = tables[0]
            if "id" in table.columns:
                try:
                    with pq.ParquetFile(table.path, page_checksum_verification=True) as file:
                        found += map(str, file.read(columns=["id"], use_threads=False).column("id").to_pylist())
                except (OSError, pa.ArrowException) as error:
                    raise DataError(f"the ids of '{table.path}' cannot be read ({error}); make this table again") from error
            else:
                count = int(table.group_ends[-1]) if len(table.group_ends) else 0
                found += [f"{table.path.parent.name}/{table.path.stem}:{i}" for i in range(count)]
        return found


def _footer(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"'{path}' is not a readable Parquet table ({error}); make it again") from error


def _value(scalar: pa.Scalar) -> Any:
    """A cell: bytes, a writable numpy array for a list of numbers, else a plain Python value."""
    kind = scalar.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        plain = pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
        values = scalar.values if scalar.is_valid and plain else None
        if values is not None and values.null_count == 0:
            return values.to_numpy(zero_copy_only=False).copy()
    return scalar.as_py()


class PickedRows(Sequence[Row]):
    """Some rows of another sequence, in a given order."""

    def __init__(self, rows: Sequence[Row], indices: Sequence[int] | np.ndarray):
        self._rows, self._indices = rows, np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        return self._rows[int(self._indices[index])]


class JoinedRows(Sequence[Row]):
    """Several sequences of rows, one after the other."""

    def __init__(self, members: Sequence[Sequence[Row]]):
        self._members = tuple(members)
        self._ends = np.cumsum([len(m) for m in self._members])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        member = int(np.searchsorted(self._ends, index, side="right"))
        return self._members[member][index - (int(self._ends[member - 1]) if member else 0)]


# ---- datasets


def read_meta(config: DatasetConfig) -> DatasetMeta:
    """What the dataset says about itself, without reading a row.

    Raises:
        DataError: no dataset there, a damaged `dataset.json`, or datasets of several kinds to be put together.
        MismatchError: datasets to be put together, or validated on, that were made with different specs or windows.
        ConfigError: no 'path'.
    """
    paths = _paths(config.path)
    if not paths:
        raise ConfigError("--dataset-config needs a 'path', as in '{\"path\": \"data/train\"}'")
    metas = [_folder_meta(path) for path in paths]
    first, where = metas[0], f"'{paths[0]}'"
    for path, meta in zip(paths[1:], metas[1:], strict=True):
        if meta.kind != first.kind:
            raise DataError(f"{where} is a dataset of {first.kind}, '{path}' of {meta.kind}; train on one kind at a time")
        _require_alike(first, where, meta, f"'{path}'")
    for path in _paths(config.validation_path or ()):
        meta = _folder_meta(path)
        if meta.kind != first.kind:
            raise MismatchError(f"{where} is a dataset of {first.kind}, 'validation_path' '{path}' of {meta.kind}; validate on the kind that is trained on")
        _require_alike(first, where, meta, f"'{path}'")
    return replace(first, rows=sum(meta.rows for meta in metas), source_hash="+".join(m.source_hash for m in metas if m.source_hash))


def _require_alike(one: DatasetMeta, where_one: str, other: DatasetMeta, where_other: str) -> None:
    """
    Raises:
        MismatchError: rows of both cannot serve one model; names what differs.
    """
    for name in SPECS:
        require_same(name, getattr(one, name), where_one, getattr(other, name), where_other)
    if one.window_seconds != other.window_seconds:
        raise MismatchError(
            f"windows of {where_one} last {one.window_seconds:g} s, those of {where_other} {other.window_seconds:g} s; construct both with the same"
        )


def open_dataset(task: Task, config: DatasetConfig, meta: DatasetMeta) -> TrainingData:
    """Training and validation rows of the Parquet dataset at `config.path`, with the columns `task` reads.

    Raises:
        DataError: missing folders, tables or columns; no rows.
    """
    notes: list[str] = []
    train, validation = [], []
    for path in _paths(config.path):
        mine, held_out = _open_folder(path, task, config, notes)
        train.append(mine)
        validation.append(held_out)
    if config.validation_path is not None:
        validation = []
        for path in _paths(config.validation_path):
            own = _read_dataset_file(path)
            listed = own["partitions"]["validation"] if own else None
            if not listed:  # a dataset of songs, or one made for validation alone
                listed = own["partitions"]["train"] if own else None
            tables = _tables(path, _parts(own, task, config), listed, notes)
            validation.append(ParquetRows(tables, task.columns, config.cache_megabytes << 20))
    rows: Sequence[Row] = train[0] if len(train) == 1 else JoinedRows(train)
    held: Sequence[Row] = validation[0] if len(validation) == 1 else JoinedRows(validation)
    if not len(rows):
        raise DataError(f"{', '.join(f'{p}' for p in _paths(config.path))}: no rows to train on; process and construct it first")
    if not len(held):
        notes.append("the dataset has no validation rows: the training loss decides which checkpoint is best")
    return TrainingData(rows, held, replace(meta, rows=len(rows)), tuple(notes))


def fingerprint(rows: Sequence[Row], meta: DatasetMeta) -> str:
    """What makes a dataset the same for a resumed run: its source hash and its ids in order."""
    digest = hashlib.sha256(f"{meta.kind}|{meta.source_hash}|{len(rows)}|".encode())
    for identity in _ids(rows):
        digest.update(identity.encode() + b"\0")
    return digest.hexdigest()[:16]


def _ids(rows: Sequence[Row]) -> Iterator[str]:
    if isinstance(rows, JoinedRows):
        for member in rows._members:
            yield from _ids(member)
    elif isinstance(rows, PickedRows):
        below = list(_ids(rows._rows))
        yield from (below[i] for i in rows._indices) if below else ()
    elif isinstance(rows, ParquetRows):
        yield from rows.ids()
    elif isinstance(rows, list | tuple):  # a task's own rows, in memory
        yield from (str(row.get("id", i)) for i, row in enumerate(rows))


def _paths(value: str | Sequence[str]) -> tuple[Path, ...]:
    return tuple(Path(p) for p in ((value,) if isinstance(value, str) else value))


def _read_dataset_file(path: Path) -> dict[str, Any] | None:
    file = path / DATASET_FILE
    if not path.is_dir():
        raise DataError(f"no dataset at '{path}': the folder does not exist; give the output folder of construct_dataset")
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] != DATASET_FORMAT:
            raise DataError(f"'{file}' has format '{values['format']}' where {DATASET_FORMAT} is read; construct it again")
        for side in ("train", "validation"):
            values["partitions"][side] = [int(number) for number in values["partitions"][side]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{file}' is damaged ({type(error).__name__}: {error}); construct the dataset again") from error
    return values


def _folder_meta(path: Path) -> DatasetMeta:
    values = _read_dataset_file(path)
    if values is None:
        return DatasetMeta(kind="songs")
    specs: dict[str, Any] = {
        name: from_mapping(cls, values[name], f"'{path / DATASET_FILE}': '{name}'") if values.get(name) else None
        for name, cls in SPECS.items()
    }
    return DatasetMeta(
        kind=values.get("kind", "tokens"),
        window_seconds=float(values.get("window_seconds", DatasetMeta.window_seconds)),
        rows=int(values.get("rows", {}).get("train", 0)),
        source_hash=str(values.get("source_hash", "")),
        **specs,
    )


def _tables(path: Path, parts: Sequence[str], numbers: Sequence[int] | None, notes: list[str]) -> list[list[Path]]:
    """The tables of each partition; all that are complete when `numbers` is None, exactly those numbers otherwise."""
    if numbers is None:
        if not path.is_dir():
            raise DataError(f"no dataset at '{path}': the folder does not exist")
        there = sorted(int(p.name) for p in path.iterdir() if p.is_dir() and p.name.isdecimal())
        numbers = [i for i in there if all((path / str(i) / f"{part}.parquet").is_file() for part in parts)]
        if not numbers:
            raise DataError(f"'{path}' has no partition with {' and '.join(f'{p}.parquet' for p in parts)}; make it first")
        if len(numbers) < len(there):
            notes.append(f"{len(there) - len(numbers)} of {len(there)} partitions of '{path}' are not complete and left out")
    tables = [[path / str(i) / f"{part}.parquet" for part in parts] for i in numbers]
    for table in (t for partition in tables for t in partition):
        if not table.is_file():
            raise DataError(f"'{table}' is missing though dataset.json lists it; construct the dataset again")
    return tables


def _parts(values: Mapping[str, Any] | None, task: Task, config: DatasetConfig) -> tuple[str, ...]:
    """The tables to join: as the user says, else as the dataset does, else as the task does."""
    return config.parts or tuple((values or {}).get("parts", ())) or tuple(task.parts)


def _open_folder(
    path: Path, task: Task, config: DatasetConfig, notes: list[str]
) -> tuple[Sequence[Row], Sequence[Row]]:
    values, columns = _read_dataset_file(path), task.columns
    parts = _parts(values, task, config)
    last = None if config.num_partitions is None else config.partition_offset + config.num_partitions
    chosen, cache_bytes = slice(config.partition_offset, last), config.cache_megabytes << 20
    if values is not None:
        numbers = values["partitions"]["train"][chosen]
        held = values["partitions"]["validation"] if config.validation_path is None else []
        return (
            ParquetRows(_tables(path, parts, numbers, notes), columns, cache_bytes),
            ParquetRows(_tables(path, parts, held, notes), columns, cache_bytes),
        )
    rows = ParquetRows(_tables(path, parts, None, notes)[chosen], columns, cache_bytes)
    if config.validation_path is not None or config.validation_share == 0:
        return rows, PickedRows(rows, [])
    held_out = split_by_song(rows.ids(), config.validation_share)
    return PickedRows(rows, np.flatnonzero(~held_out)), PickedRows(rows, np.flatnonzero(held_out))


def split_by_song(ids: Sequence[str], share: float) -> np.ndarray:
    """Which rows are held out, (rows,) bool: songs whose hashed id falls below `share`; all windows of a song go together.

    At least one song is held out, and one trained on, where there are two.
    """
    songs = [WINDOW_OF_SONG.sub("", identity) for identity in ids]
    points = {song: int.from_bytes(hashlib.sha256(song.encode()).digest()[:8], "big") / 2**64 for song in set(songs)}
    held = {song for song, point in points.items() if point < share}
    if len(points) > 1:
        order = sorted(points, key=points.__getitem__)
        held = (held | {order[0]}) - {order[-1]}
    return np.array([song in held for song in songs], dtype=bool)


# ---- order


@dataclass(frozen=True)
class Plan:
    """The order of training: a pure function of (seed, position).

    Attributes:
        rows: rows in the dataset.
        batch_size: rows of a micro-batch over all ranks.
    """

    rows: int
    batch_size: int
    seed: int

    def permutation(self, epoch: int) -> np.ndarray:
        """Order of rows in `epoch`, (rows,) int64."""
        return np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.rows)

    def positions(self, micro: int, rank: int = 0, world: int = 1) -> range:
        """Positions that `rank` of `world` takes from micro-batch number `micro`."""
        share = self.batch_size // world
        start = micro * self.batch_size + rank * share
        return range(start, start + share)

    def rng(self, position: int, attempt: int = 0) -> np.random.Generator:
        """Randomness of the example at `position`."""
        return np.random.default_rng([self.seed, _EXAMPLE, position, attempt])


def step_seed(seed: int, micro: int, rank: int) -> int:
    """Seed of torch's generator for the forward pass of a micro-batch."""
    return int(np.random.SeedSequence([seed, micro, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Packed(NamedTuple):
    """A collated batch as one tensor of bytes, and where in it what is: (name, offset, type, shape)."""

    buffer: Tensor
    layout: tuple[tuple[str, int, torch.dtype, tuple[int, ...]], ...]

    @classmethod
    def of(cls, tensors: Batch) -> "Packed":
        layout, end = [], 0
        for name, tensor in tensors.items():
            layout.append((name, end, tensor.dtype, tuple(tensor.shape)))
            end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        packed = cls(torch.empty(end, dtype=torch.uint8), tuple(layout))
        for name, view in packed.tensors().items():
            view.copy_(tensors[name])
        return packed

    def tensors(self) -> Batch:
        """Views of the buffer."""
        found = {}
        for name, offset, dtype, shape in self.layout:
            size = math.prod(shape) * dtype.itemsize
            found[name] = self.buffer[offset : offset + size].view(dtype).view(shape)
        return found


class MicroBatch(NamedTuple):
    """A collated batch with the ids of its rows and how many unfit rows were passed over; or the error that stopped it.

    `packed` holds the same tensors in one piece, where a loader made it: one copy between processes, and one to a device.
    """

    tensors: Batch
    ids: tuple[str, ...]
    unfit: int
    error: str = ""
    packed: Packed | None = None

    def on(self, device: torch.device) -> Batch:
        """The tensors on `device`; does not wait for the copy."""
        if device.type == "cpu" or self.packed is None:
            return {key: value.to(device, non_blocking=True) for key, value in self.tensors.items()}
        return self.packed._replace(buffer=self.packed.buffer.to(device, non_blocking=True)).tensors()

    def kept(self) -> "MicroBatch":
        """The same in ordinary memory, to be kept: what a worker sends costs an open file for as long as it lives."""
        if self.packed is None:
            return self
        packed = self.packed._replace(buffer=self.packed.buffer.clone())
        return self._replace(packed=packed, tensors=packed.tensors())

    def pin_memory(self) -> "MicroBatch":
        """What the loader calls where batches go to CUDA."""
        return self if self.packed is None else self._replace(packed=self.packed._replace(buffer=self.packed.buffer.pin_memory()))


class TrainBatches(Dataset[MicroBatch]):
    """Micro-batch number -> the batch of one rank."""

    def __init__(self, task: Task, rows: Sequence[Row], plan: Plan, rank: int = 0, world: int = 1):
        self._task, self._rows, self._plan, self._rank, self._world = task, rows, plan, rank, world
        self._orders: dict[int, np.ndarray] = {}

    def row_index(self, position: int, attempt: int = 0) -> int:
        """Dataset row at `position`; on later attempts a row drawn in place of an unfit one."""
        if attempt:
            return int(self._plan.rng(position, attempt).integers(self._plan.rows))
        epoch, inside = divmod(position, self._plan.rows)
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = self._plan.permutation(epoch)
        return int(self._orders[epoch][inside])

    def __getitem__(self, micro: int) -> MicroBatch:
        examples, ids, unfit = [], [], 0
        for position in self._plan.positions(micro, self._rank, self._world):
            for attempt in range(MAX_ATTEMPTS + 1):
                index = self.row_index(position, attempt)
                try:
                    identity, example = _example(self._task, self._rows, index, self._plan.rng(position, attempt))
                except AutoSingError as error:
                    return MicroBatch({}, (), unfit, str(error))
                if example is not None:
                    examples.append(example)
                    ids.append(identity)
                    break
                unfit += 1
            else:
                return MicroBatch({}, (), unfit, f"{unfit} rows in a row are unfit for task {self._task.name}; check the dataset")
        return MicroBatch(collate(self._task, examples), tuple(ids), unfit)


class ValidationBatches(Dataset[MicroBatch]):
    """A fixed set of validation rows in fixed batches, the same for every seed and number of ranks; unfit rows are left out.

    A rank takes whole batches, of at most `VALIDATION_BATCH` rows: so many fit where no gradients are kept.
    """

    def __init__(self, task: Task, rows: Sequence[Row], batch_size: int, limit: int):
        self._task, self._rows, self._batch = task, rows, min(batch_size, VALIDATION_BATCH)
        self._chosen = np.sort(np.random.default_rng([_VALIDATION_ORDER]).permutation(len(rows))[:limit])

    def __len__(self) -> int:
        return -(-len(self._chosen) // self._batch)

    def __getitem__(self, index: int) -> MicroBatch:
        examples, ids, unfit = [], [], 0
        for number in self._chosen[index * self._batch : (index + 1) * self._batch]:
            rng = np.random.default_rng([_VALIDATION, int(number)])
            try:
                identity, example = _example(self._task, self._rows, int(number), rng)
            except AutoSingError as error:
                return MicroBatch({}, (), unfit, str(error))
            if example is None:
                unfit += 1
                continue
            examples.append(example)
            ids.append(identity)
        return MicroBatch(collate(self._task, examples) if examples else {}, tuple(ids), unfit)


def _example(task: Task, rows: Sequence[Row], index: int, rng: np.random.Generator) -> tuple[str, Batch | None]:
    row = rows[index]
    identity = str(row.get("id", index))
    try:
        return identity, task.example(row, rng)
    except AutoSingError as error:
        raise DataError(f"row '{identity}' stops task {task.name}: {error}") from error


def collate(task: Task, examples: Sequence[Batch]) -> Batch:
    """Stack examples key by key, or as the task's own `collate` does.

    Raises:
        DataError: examples of unequal shapes or keys; names the first.
    """
    if hasattr(task, "collate"):
        return task.collate(list(examples))  # type: ignore[attr-defined]
    for example in examples[1:]:
        for key in {**examples[0], **example}:
            shapes = [tuple(e[key].shape) if key in e else None for e in (examples[0], example)]
            if shapes[0] != shapes[1]:
                raise DataError(f"task {task.name} made examples with '{key}' of shapes {shapes[0]} and {shapes[1]}; make them equal")
    return {key: torch.stack([example[key] for example in examples]) for key in examples[0]}


def prefetch(batches: Dataset[MicroBatch], numbers: range, workers: int, pin: bool = False) -> Iterator[MicroBatch]:
    """The batches of `numbers` in that order, made ahead by `workers` processes (0: in this one). Both give the same batches.

    Raises:
        DataError: a batch could not be made; names the row.
    """
    workers = min(workers, usable_cores())
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,  # type: ignore[arg-type]
        collate_fn=_pack if workers or pin else _as_is,  # type: ignore[arg-type] - without batch_size it is given one item
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=functools.partial(_leave_signals_to_the_parent, _leaving()) if workers else None,
        generator=torch.Generator().manual_seed(0),  # keeps the loader off the global generator
    )
    for batch in loader:
        if batch.error:
            raise DataError(batch.error)
        yield batch if batch.packed is None else batch._replace(tensors=batch.packed.tensors())


def _as_is(batch: MicroBatch) -> MicroBatch:
    return batch


def _pack(batch: MicroBatch) -> MicroBatch:
    return batch._replace(tensors={}, packed=Packed.of(batch.tensors))


def _leave_signals_to_the_parent(leaving: Any, worker: int) -> None:
    """Ctrl-C, and what a cluster sends before it ends a job, reach the whole group; a worker leaves when its parent says so or is gone.

    So does a second SIGTERM, and one of a parent at its own exit, which waits for workers whose batches nobody read.
    """
    import signal

    def note(number: int, frame: object) -> None:
        if leaving.value:
            os._exit(0)
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, note)


@functools.cache
def _leaving() -> Any:
    """A byte shared with the workers, 1 from the moment this process exits."""
    value = multiprocessing.RawValue("b", 0)
    atexit.register(setattr, value, "value", 1)  # after multiprocessing's own, hence called before it
    return value
