"""Tables: whole or absent, checked when read, bounded in memory."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from autosing.errors import DataError
from autosing.store import Dataset, TableReader, TableWriter, atomic_path, locked, remove_temporaries, write_table, writer

SCHEMA = pa.schema([("id", pa.string()), ("audio", pa.binary()), ("values", pa.list_(pa.int16()))])


def rows(count: int) -> list[dict]:
    return [{"id": f"r{i}", "audio": bytes([i % 256]) * 1000, "values": np.arange(i % 5, dtype=np.int16)} for i in range(count)]


def test_round_trip_with_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a" / "t.parquet"
    write_table(path, rows(2500), SCHEMA, {"codec": '{"x": 1}'})
    with TableReader(path) as reader:
        assert len(reader) == 2500 and reader.meta == {"codec": '{"x": 1}'}
        for expected, found in zip(rows(2500), reader.rows(["id", "audio", "values"]), strict=True):
            assert found["id"] == expected["id"] and found["audio"] == expected["audio"]
            assert found["values"].dtype == np.int16 and np.array_equal(found["values"], expected["values"])


def test_rows_are_found_by_key_in_any_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ROW_GROUP_ROWS", 7)
    path = tmp_path / "t.parquet"
    write_table(path, [{**row, "song": f"s{i // 3}"} for i, row in enumerate(rows(50))], SCHEMA.append(pa.field("song", pa.string())))
    with TableReader(path) as reader:
        for i in (0, 49, 6, 7, 13, 30):
            found = reader.get(f"r{i}", ["id", "values"])
            assert found is not None and found["id"] == f"r{i}" and len(found["values"]) == i % 5
        assert [row["id"] for row in reader.get_all("s2", ["id"], by="song")] == ["r6", "r7", "r8"]
        assert reader.get("absent", ["id"]) is None and reader.get_all("absent", ["id"], by="song") == []


def test_large_cells_are_one_row_group_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 1000)
    write_table(tmp_path / "t.parquet", rows(5), SCHEMA)
    assert pq.read_metadata(tmp_path / "t.parquet").num_row_groups == 5


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / name, rows(100), SCHEMA, {"k": "v"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, rows(3), SCHEMA)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), TableWriter(path, SCHEMA) as writer:
        writer.write(rows(1)[0])
        raise RuntimeError("the step failed")
    with pytest.raises(DataError, match="does not fit the columns"):
        write_table(path, [{"id": "x", "values": ["text"]}], SCHEMA)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_a_folder_removed_meanwhile_is_named(tmp_path: Path) -> None:
    table = TableWriter(tmp_path / "0" / "t.parquet", SCHEMA)
    shutil.rmtree(tmp_path / "0")
    with pytest.raises(DataError, match="0' was removed meanwhile; put it back"):
        table.finish()


def test_any_flipped_bit_of_the_data_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, rows(40), SCHEMA)
    whole = path.read_bytes()
    metadata = pq.read_metadata(path).row_group(0)
    ends = max(metadata.column(i).data_page_offset + metadata.column(i).total_compressed_size for i in range(metadata.num_columns))
    noticed = 0
    positions = range(60, ends - 40, 997)
    for position in positions:
        data = bytearray(whole)
        data[position] ^= 16
        path.write_bytes(data)
        try:
            with TableReader(path) as reader:
                same = [r["audio"] for r in reader.rows(SCHEMA.names)] == [r["audio"] for r in rows(40)]
        except DataError:
            same, noticed = True, noticed + 1
        assert same, f"wrong data was returned for a flipped bit at {position}"
    assert noticed >= len(positions) - 2


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: d[:-1], lambda d: b"PAR1" + d[:-8] + b"\xff" * 8])
def test_cut_and_empty_files_are_data_errors(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "t.parquet"
    write_table(path, rows(10), SCHEMA)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="is damaged"):
        TableReader(path).verify()


def test_text_that_is_not_utf8_costs_its_own_cell(tmp_path: Path) -> None:
    text = pa.array([b"good", b"caf\xe9", None, "é".encode()], pa.binary()).view(pa.string())
    columns = {"id": ["a", "b", "c", "d"], "plain": text, "large": text.cast(pa.large_string()), "category": text.dictionary_encode()}
    pq.write_table(pa.table(columns), tmp_path / "index.parquet")
    with TableReader(tmp_path / "index.parquet") as reader:
        for name in ("plain", "large", "category"):
            assert reader.column(name) == ["good", "caf\ufffd", None, "é"]


def test_nobody_is_told_to_delete_an_index(tmp_path: Path) -> None:
    for name, said in (("index", "restore it"), ("vocals", "delete it")):
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(b"PAR1 no table")
        with pytest.raises(DataError, match=said):
            TableReader(path)


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array([b"x"]), pa.array([b"y"])], names=["id", "audio", "audio"]), path)
    with pytest.raises(DataError, match="has the column 'audio' more than once"):
        TableReader(path)


def test_missing_tables_and_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no table"):
        TableReader(tmp_path / "t.parquet")
    write_table(tmp_path / "t.parquet", rows(1), SCHEMA)
    with TableReader(tmp_path / "t.parquet") as reader, pytest.raises(DataError, match=r"no column 'song' \(it has: id, audio, values\)"):
        list(reader.rows(["song"]))


def test_tables_of_other_writers_are_read_in_small_pieces(tmp_path: Path) -> None:
    """One row group with many large cells, as pandas writes it: a batch holds a few rows."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": [str(i) for i in range(40)], "audio": [bytes([i]) * (2 << 20) for i in range(40)]}), path, compression="none", use_dictionary=False)
    with TableReader(path) as reader:
        sizes = [batch.num_rows for batch in reader.batches(["id", "audio"])]
        assert sum(sizes) == 40 and max(sizes) <= 9


def test_any_row_of_a_large_row_group_is_found_without_reading_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    cells = [bytes([i]) * (1 << 20) for i in range(64)]
    pq.write_table(pa.table({"id": [str(i) for i in range(64)], "audio": cells}), path, compression="none", use_dictionary=False, row_group_size=48)
    with TableReader(path) as reader:
        tracemalloc.start()
        for position in (0, 1, 30, 29, 47, 48, 63, 5, *range(64)):
            assert reader.row(position, ["id", "audio"]) == {"id": str(position), "audio": cells[position]}
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 36 << 20  # two batches of 16 rows, one before and one after a step


def test_partitions_are_numbers_in_order(tmp_path: Path) -> None:
    for name in ("10", "2", "0", "01", "x", ".3"):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file")
    assert Dataset(tmp_path).partitions() == (0, 2, 10)
    with pytest.raises(DataError, match="there is no dataset at"):
        Dataset(tmp_path / "nowhere").partitions()


def test_whoever_may_read_a_new_file_may_read_what_an_atomic_path_becomes(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with atomic_path(tmp_path / "model.safetensors") as temporary:
        save_file({"one": torch.ones(1)}, temporary)
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failing_atomic_path_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_leftovers_are_removed_and_locks_can_be_taken_again(tmp_path: Path) -> None:
    (tmp_path / ".t.parquet.123.tmp").write_text("x")
    (tmp_path / "t.parquet").write_text("x")
    for _ in range(2):
        with locked(tmp_path):
            remove_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_a_table_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "t.parquet", [{"id": "a"}], pa.schema([("id", pa.string())]))

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pq, "ParquetFile", refused)
    with pytest.raises(DataError, match=r"may not be read \(Permission denied\); let its owner allow it"):
        TableReader(tmp_path / "t.parquet")
