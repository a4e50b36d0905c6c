"""The dataset that `--dataset-config` names: its folders, which rows are trained on and which are held out, what it says about itself.

A dataset folder holds partitions, and a `dataset.json` that lists them where construct_dataset made it; in one without, every complete partition counts
and a share of the songs, by hash of their id, is held out. How tables are read is `rows.py`, in which order rows are trained `batches.py`.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autosing.config import from_mapping, nearest
from autosing.errors import ConfigError, DataError, MismatchError
from autosing.tokens.specs import require_same
from autosing.training.rows import JoinedRows, ParquetRows, PickedRows, row_ids
from autosing.training.task import SPECS, DatasetMeta, Row, Task

DATASET_FILE, DATASET_FORMAT = "dataset.json", "autosing-dataset/1"
WINDOW_OF_SONG = re.compile(r"_at_\d+(\.\d+)?$")  # `<song>_at_<second>`: windows of one song stay on one side


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
        validation = [_open_validation_folder(path, task, config, notes) for path in _paths(config.validation_path)]
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
    for identity in row_ids(rows):
        digest.update(identity.encode() + b"\0")
    return digest.hexdigest()[:16]


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


def _open_validation_folder(path: Path, task: Task, config: DatasetConfig, notes: list[str]) -> Sequence[Row]:
    values = _read_dataset_file(path)
    listed = values["partitions"] if values else {}
    # without partitions for validation it is a dataset of songs, or one made for validation alone
    numbers = listed.get("validation") or listed.get("train")
    return ParquetRows(_tables(path, _parts(values, task, config), numbers, notes), task.columns, config.cache_megabytes << 20)


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
