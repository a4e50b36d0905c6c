"""Order, rows and splits: what is read, once an epoch, whatever the ranks and workers."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toy_task import ToyArgs, ToyTask, ToyTunables, write_songs

from autosing.errors import ConfigError, DataError, MismatchError
from autosing.tokens.specs import CodecSpec
from autosing.training import loader
from autosing.training.batches import MicroBatch, Plan, TrainBatches, ValidationBatches
from autosing.training.data import DatasetConfig, fingerprint, open_dataset, read_meta, split_by_song, split_config
from autosing.training.loader import prefetch
from autosing.training.rows import ParquetRows
from autosing.training.task import DatasetMeta

SNAC = CodecSpec("snac_32khz", 32000, 384, (8, 4, 2, 1), 4096, 32)


def toy(**args) -> ToyTask:
    return ToyTask(ToyArgs(**args), ToyTunables(), DatasetMeta())


def tables(folder):
    return [[p] for p in sorted(folder.glob("*/songs.parquet"))]


def write_tokens(folder, partitions=((0, 1), (2,)), codec=SNAC, seconds=30):
    train, validation = partitions
    for i in (*train, *validation):
        (folder / str(i)).mkdir(parents=True)
        rows = {"id": [f"{i}-{j}" for j in range(5)], "number": [10 * i + j for j in range(5)], "x": [[1.0, 2.0, 3.0]] * 5}
        pq.write_table(pa.table(rows), folder / str(i) / "main.parquet")
    values = {
        "format": "autosing-dataset/1",
        "kind": "tokens",
        "parts": ["main"],
        "partitions": {"train": list(train), "validation": list(validation)},
        "rows": {"train": 5 * len(train), "validation": 5 * len(validation)},
        "codec": asdict(codec),
        "accompaniment_codec": asdict(codec),
        "window_seconds": seconds,
        "seed": 0,
        "source_hash": "abc",
    }
    (folder / "dataset.json").write_text(json.dumps(values))
    return folder


# ---- rows


def test_rows_hold_the_wanted_columns_and_the_id(songs):
    rows = ParquetRows(tables(songs), ("number", "x"))
    assert len(rows) == 37
    assert [rows[i]["number"] for i in range(37)] == list(range(37))
    assert set(rows[20]) == {"id", "number", "x"}
    assert rows[20]["id"] == "song20" and rows.ids()[20] == "song20"
    assert rows[3]["x"].dtype == np.float32 and rows[3]["x"].flags.writeable


def test_values_of_every_kind(tmp_path):
    columns = {
        "audio": pa.array([b"\x00\x01", None]),
        "values": pa.array([[1, 2], []], pa.list_(pa.int16())),
        "holes": pa.array([[1, None], None], pa.list_(pa.int16())),
        "fixed": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2)),
        "words": pa.array([[{"text": "la", "start": 0.5}], []]),
        "name": ["a", "b"],
    }
    pq.write_table(pa.table(columns), tmp_path / "main.parquet")
    rows = ParquetRows([[tmp_path / "main.parquet"]], tuple(columns))
    assert rows[0]["audio"] == b"\x00\x01" and rows[1]["audio"] is None
    assert rows[0]["values"].tolist() == [1, 2] and rows[0]["values"].dtype == np.int16 and len(rows[1]["values"]) == 0
    assert rows[0]["holes"] == [1, None] and rows[1]["holes"] is None
    assert rows[1]["fixed"].tolist() == [1.0, 2.0]
    assert rows[0]["words"] == [{"text": "la", "start": 0.5}]
    assert rows[1]["id"].endswith("main:1")


def test_cache_keeps_its_budget(songs):
    rows = ParquetRows(tables(songs), ("vocals",), cache_bytes=5000)
    for i in np.random.default_rng(0).integers(0, 37, 200):
        assert rows[int(i)]["vocals"] == b"wav" * 100
        assert rows._bytes == sum(t.nbytes for t in rows._groups.values()) <= 5000


def test_missing_column_is_named(songs):
    with pytest.raises(DataError, match="no column 'numbr'; did you mean 'number'"):
        ParquetRows(tables(songs), ("numbr",))


def test_parts_are_joined_by_position(tmp_path):
    pq.write_table(pa.table({"id": ["a", "b"], "x": [1, 2]}), tmp_path / "main.parquet")
    pq.write_table(pa.table({"id": ["a", "b"], "y": [3, 4]}), tmp_path / "more.parquet")
    pq.write_table(pa.table({"id": ["b", "a"], "y": [3, 4]}), tmp_path / "wrong.parquet")
    pq.write_table(pa.table({"id": ["a"], "y": [3]}), tmp_path / "short.parquet")
    both = ParquetRows([[tmp_path / "main.parquet", tmp_path / "more.parquet"]], ("x", "y"))
    assert both[1] == {"id": "b", "x": 2, "y": 4}
    with pytest.raises(DataError, match="sister table"):
        ParquetRows([[tmp_path / "main.parquet", tmp_path / "wrong.parquet"]], ("x", "y"))[0]
    with pytest.raises(DataError, match="unequal length"):
        ParquetRows([[tmp_path / "main.parquet", tmp_path / "short.parquet"]], ("x", "y"))


def test_damage_is_named(tmp_path):
    folder = write_songs(tmp_path / "d", partitions=1)
    path = folder / "0" / "songs.parquet"
    damaged = bytearray(path.read_bytes())
    path.write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(DataError, match=r"songs\.parquet"):
        ParquetRows([[path]], ("x",))


def test_damaged_ids_are_named(tmp_path):
    path = write_songs(tmp_path / "d", partitions=1) / "0" / "songs.parquet"
    pq.write_table(pq.read_table(path), path, write_page_checksum=True)
    rows = ParquetRows([[path]], ("x",))
    column = pq.read_metadata(path).row_group(0)
    ids = next(column.column(i) for i in range(column.num_columns) if column.column(i).path_in_schema == "id")
    damaged = bytearray(path.read_bytes())
    damaged[(ids.dictionary_page_offset or ids.data_page_offset) + ids.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"the ids of '.*songs\.parquet' cannot be read"):
        rows.ids()
    path.unlink()
    with pytest.raises(DataError, match=r"the ids of '.*songs\.parquet' cannot be read"):
        rows.ids()


# ---- datasets


def test_songs_are_split_by_the_hash_of_their_id(songs):
    data = open_dataset(toy(), DatasetConfig(path=str(songs), validation_share=0.2), DatasetMeta())
    train, held = ({row["id"] for row in rows} for rows in (data.train, data.validation))
    assert train | held == {f"song{n}" for n in range(37)} and not train & held
    assert 1 <= len(held) <= 15
    assert data.meta.rows == len(data.train)


def test_split_keeps_windows_of_a_song_together_and_both_sides_filled():
    ids = [f"s{i}_at_{j * 31}" for i in range(50) for j in range(4)]
    held = split_by_song(ids, 0.1)
    assert all(len({bool(h) for h in held[4 * i : 4 * i + 4]}) == 1 for i in range(50))
    assert 0 < held.sum() < len(ids)
    assert split_by_song(["a", "b"], 1e-9).sum() == 1
    assert split_by_song(["a", "b"], 0.999).sum() == 1
    assert not split_by_song(["a"], 0.5)[0] or len({"a"}) == 1


def test_tokens_follow_dataset_json(tmp_path):
    folder = write_tokens(tmp_path / "t")
    task = toy()
    config = DatasetConfig(path=str(folder))
    meta = read_meta(config)
    assert meta.kind == "tokens" and meta.codec == SNAC and meta.voice is None and meta.rows == 10
    data = open_dataset(task, config, meta)
    assert [row["number"] for row in data.train] == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert [row["number"] for row in data.validation] == [20, 21, 22, 23, 24]
    (folder / "1" / "main.parquet").unlink()
    with pytest.raises(DataError, match=r"1/main\.parquet' is missing"):
        open_dataset(task, config, meta)


def test_datasets_are_put_together_when_their_specs_agree(tmp_path):
    a, b = write_tokens(tmp_path / "a"), write_tokens(tmp_path / "b")
    config = DatasetConfig(path=(str(a), str(b)))
    data = open_dataset(toy(), config, read_meta(config))
    assert len(data.train) == 20 and data.train[19]["number"] == 14
    other = write_tokens(tmp_path / "c", codec=CodecSpec("builtin", 24000, 256, (8, 4, 2, 1), 1024, 32))
    with pytest.raises(MismatchError, match="snac_32khz"):
        read_meta(DatasetConfig(path=(str(a), str(other))))


def test_unfinished_partitions_are_left_out_and_told(tmp_path):
    folder = write_songs(tmp_path / "d")
    (folder / "7").mkdir()
    data = open_dataset(toy(), DatasetConfig(path=str(folder)), DatasetMeta())
    assert "1 of 4 partitions" in data.notes[0]


def test_validation_path(tmp_path, songs):
    other = write_songs(tmp_path / "v", rows=6, partitions=1)
    data = open_dataset(toy(), DatasetConfig(path=str(songs), validation_path=str(other)), DatasetMeta())
    assert (len(data.train), len(data.validation)) == (37, 6)


@pytest.mark.parametrize("key", ["path", "validation_path"])
def test_datasets_that_cannot_serve_one_model_are_refused(tmp_path, key):
    whole = write_tokens(tmp_path / "whole")
    other = write_tokens(tmp_path / "other", codec=CodecSpec("builtin", 24000, 256, (8, 4, 2, 1), 1024, 32))
    short = write_tokens(tmp_path / "short", seconds=15)
    for wrong, said in ((other, "codec of .*whole' and of .*other' differ"), (short, "windows of .*whole' last 30 s, those of .*short' 15 s")):
        values = {"path": str(whole), key: (str(whole), str(wrong))}
        with pytest.raises(MismatchError, match=said):
            read_meta(DatasetConfig(**values))


def test_a_validation_set_of_another_kind_is_refused(tmp_path, songs):
    with pytest.raises(MismatchError, match=r"is a dataset of tokens, 'validation_path' .* of songs"):
        read_meta(DatasetConfig(path=str(write_tokens(tmp_path / "t")), validation_path=str(songs)))


@pytest.mark.parametrize(
    "config, said",
    [
        ({}, "needs a 'path'"),
        ({"path": "/nowhere"}, "does not exist"),
    ],
)
def test_no_dataset(config, said):
    with pytest.raises((DataError, ConfigError), match=said):
        read_meta(DatasetConfig(**config))


def test_no_tables(tmp_path):
    with pytest.raises(DataError, match=r"no partition with songs\.parquet"):
        open_dataset(toy(), DatasetConfig(path=str(tmp_path)), DatasetMeta())


def test_config_keys_are_shared_out_and_unknown_ones_refused():
    config, args = split_config({"path": ["a", "b"], "multiscale": True}, ToyArgs, "--dataset-config")
    assert config.path == ("a", "b") and args == {"multiscale": True}
    with pytest.raises(ConfigError, match="did you mean 'multiscale'"):
        split_config({"path": "a", "multiscal": True}, ToyArgs, "--dataset-config")
    with pytest.raises(ConfigError, match="validation_share"):
        split_config({"path": "a", "validation_share": 2.0}, ToyArgs, "--dataset-config")
    with pytest.raises(ConfigError, match="'num_partitions' at least 1"):
        split_config({"path": "a", "num_partitions": 0}, ToyArgs, "--dataset-config")


def test_fingerprint_tells_datasets_apart(tmp_path, songs):
    def of(folder):
        config = DatasetConfig(path=str(folder))
        data = open_dataset(toy(), config, read_meta(config))
        return fingerprint(data.train, data.meta)

    assert of(songs) == of(write_songs(tmp_path / "same")) != of(write_songs(tmp_path / "more", rows=38))


# ---- order


def test_every_row_once_an_epoch_in_another_order():
    plan = Plan(rows=37, batch_size=4, seed=3)
    batches = TrainBatches(toy(), [{"id": str(i)} for i in range(37)], plan)
    order = [batches.row_index(p) for m in range(37) for p in plan.positions(m)]
    assert all(sorted(order[e * 37 : e * 37 + 37]) == list(range(37)) for e in range(4))
    assert order[:37] != order[37:74]
    assert order != [TrainBatches(toy(), [], Plan(37, 4, 4)).row_index(p) for p in range(148)]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_same_order(world):
    plan = Plan(rows=10, batch_size=8, seed=0)
    for micro in range(5):
        assert [p for r in range(world) for p in plan.positions(micro, r, world)] == list(plan.positions(micro))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_nothing(songs, workers):
    task, rows = toy(), ParquetRows(tables(songs), ("number", "x"))
    plain = [TrainBatches(task, rows, Plan(37, 4, 0))[m] for m in range(3, 15)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fetched = list(prefetch(TrainBatches(task, rows, Plan(37, 4, 0)), range(3, 15), workers))
    assert torch.equal(before, torch.get_rng_state())
    assert [b.ids for b in fetched] == [b.ids for b in plain]
    for a, b in zip(fetched, plain, strict=True):
        assert all(torch.equal(a.tensors[k], b.tensors[k]) for k in b.tensors)


def test_no_more_workers_than_a_scheduler_leaves_cores(songs, monkeypatch):
    started, plain = [], loader.DataLoader

    def noting(*args, num_workers, prefetch_factor, **values):
        started.append(num_workers)
        return plain(*args, **values)

    monkeypatch.setattr(loader, "DataLoader", noting)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    batches = TrainBatches(toy(), ParquetRows(tables(songs), ("number", "x")), Plan(37, 4, 0))
    assert [len(list(prefetch(batches, range(2), workers))) for workers in (6, 1)] == [2, 2] and started == [2, 1]


def test_unfit_rows_are_counted_and_replaced(songs):
    rows = ParquetRows(tables(songs), ("number", "x"))
    batches = TrainBatches(toy(unfit=(1, 2, 3)), rows, Plan(37, 4, 0))
    found = [batches[m] for m in range(37)]
    assert sum(b.unfit for b in found) >= 12  # each of the three in each of four epochs
    assert all(b.tensors["number"].shape == (4,) for b in found)
    assert not {1, 2, 3} & {int(n) for b in found for n in b.tensors["number"]}
    assert found[5].ids == TrainBatches(toy(unfit=(1, 2, 3)), rows, Plan(37, 4, 0))[5].ids


def test_only_unfit_rows_is_an_error(songs):
    rows = ParquetRows(tables(songs), ("number", "x"))
    with pytest.raises(DataError, match="unfit for task toy"):
        next(prefetch(TrainBatches(toy(unfit=tuple(range(37))), rows, Plan(37, 4, 0)), range(3), 0))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_row_that_cannot_be_read_is_named(songs, workers):
    rows = ParquetRows(tables(songs), ("number", "x"))
    with pytest.raises(DataError, match=r"^row 'song9' stops task toy: its audio is cut short$"):
        list(prefetch(TrainBatches(toy(broken=(9,)), rows, Plan(37, 4, 0)), range(10), workers))


def test_validation_is_the_same_for_every_seed_and_leaves_unfit_rows_out(songs):
    rows = ParquetRows(tables(songs), ("number", "x"))
    batches = ValidationBatches(toy(unfit=(0, 4, 5)), rows, 4, limit=100)
    found = [batches[i] for i in range(len(batches))]
    assert sorted(int(i[4:]) for b in found for i in b.ids) == sorted(set(range(37)) - {0, 4, 5})
    limited = ValidationBatches(toy(), rows, 4, limit=8)
    assert sum(len(limited[i].ids) for i in range(len(limited))) == 8


def test_unequal_shapes_are_named(songs):
    class Ragged(ToyTask):
        def example(self, row, rng):
            return {"x": torch.zeros(int(row["number"]))}

    task = Ragged(ToyArgs(), ToyTunables(), DatasetMeta())
    with pytest.raises(DataError, match="'x' of shapes"):
        TrainBatches(task, ParquetRows(tables(songs), ("number", "x")), Plan(37, 4, 0))[0]


def test_a_task_may_collate_itself(songs):
    class Packed(ToyTask):
        def collate(self, examples):
            return {"count": torch.tensor(len(examples))}

    task = Packed(ToyArgs(), ToyTunables(), DatasetMeta())
    assert TrainBatches(task, ParquetRows(tables(songs), ("number", "x")), Plan(37, 4, 0))[0].tensors == {"count": torch.tensor(4)}


def test_a_worker_passes_over_one_sigterm_and_not_over_more():
    """One SIGTERM may be meant for the whole group; at its exit a process sends more than one, and waits."""

    def holds() -> None:
        stream = prefetch(Numbers(), range(100), 1)
        next(stream)
        worker = multiprocessing.active_children()[0]
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises wherever this process is when the worker ends
        worker.terminate()
        time.sleep(0.3)
        code = 0 if worker.is_alive() else 1
        for _ in range(100):  # signals that arrive together count as one
            worker.terminate()
            worker.join(0.2)
            if not worker.is_alive():
                break
        os._exit(code if not worker.is_alive() else 2)

    process = multiprocessing.get_context("fork").Process(target=holds)
    process.start()
    process.join(60)
    assert process.exitcode == 0


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, index: int) -> MicroBatch:
        return MicroBatch({}, (str(index),), 0)
