"""construct_dataset: joined, split by song, shuffled, every row kept."""

import errno
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_songs import SMALL, audio_bytes, make_songs, read, tables, tone, write_index

from autosing.cli.construct_dataset import main
from autosing.cli.process import main as process
from autosing.store import Dataset
from autosing.tokens.specs import CodecSpec, spec_from_json
from processing.held_out import validation_groups
from processing.inputs import left_over
from processing.judged import duplicates
from processing.shuffle import share
from processing.training_rows import _half_codes

CODEC = ["--codec", "fake"]


def construct(data: Path, out: Path, *flags: str, num_in: int = 2) -> tuple[list[list[dict]], dict]:
    assert main([str(data), str(num_in), str(out), *CODEC, *flags]) == 0
    description = json.loads((out / "dataset.json").read_text())
    parts = description["partitions"]
    return [read(out / str(n) / "main.parquet") for n in parts["train"] + parts["validation"]], description


def window_rows(data: Path) -> dict[str, dict]:
    return {row["id"]: row for path in sorted(data.glob("*/chunked.parquet")) for row in read(path)}


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_every_row_is_kept_for_any_number_of_partitions(processed: Path, tmp_path: Path, count: int) -> None:
    parts, description = construct(processed, tmp_path / "out", "--num-out-partitions", str(count))
    windows = window_rows(processed)
    assert len(parts) == count + 1
    rows = [row for part in parts for row in part]
    assert sorted(row["id"] for row in rows) == sorted(windows)
    assert description["rows"] == {"train": len(rows) - len(parts[-1]), "validation": len(parts[-1])}
    sizes = [len(part) for part in parts[:-1]]
    assert max(sizes) - min(sizes) <= 1
    held = {row["song"] for row in parts[-1]}
    assert held and held.isdisjoint(row["song"] for part in parts[:-1] for row in part)


def test_rows_carry_what_the_tables_hold(processed: Path, tmp_path: Path) -> None:
    parts, description = construct(processed, tmp_path / "out", "--num-out-partitions", "2")
    rows = {row["id"]: row for part in parts for row in part}
    for partition in ("0", "1"):
        for table, column, key in (
            ("stoks", "stoks", "values"), ("atoks_vocals_fake", "atoks", "values"),
            ("atoks_no_vocals_fake", "mtoks", "values"), ("artist_embs", "embs", "embs"),
        ):  # fmt: skip
            for row in read(processed / partition / f"{table}.parquet"):
                assert rows[row["id"]][column] == row[key]
    windows = window_rows(processed)
    for row in rows.values():
        assert (row["song"], row["start"]) == (windows[row["id"]]["song"], windows[row["id"]]["start"])
        if row["song"] == "gamma":
            assert row["alignment"] is None and row["trust"] is None and row["artist"] is None and row["year"] is None
        else:
            assert row["alignment"] == windows[row["id"]]["alignment"] and row["trust"] == pytest.approx(row["alignment"]["inlier_ratio"])
    assert {row["year"] for row in rows.values()} == {1999, 2000, None}  # a column of the user's own
    assert description["codec"]["name"] == "fake" and description["accompaniment_codec"]["name"] == "fake_band"
    assert description["window_seconds"] == 4 and description["kind"] == "tokens" and description["parts"] == ["main"]
    meta = pq.read_schema(tmp_path / "out" / "0" / "main.parquet").metadata
    assert spec_from_json(meta[b"autosing.codec"]).name == "fake"


def test_the_training_loop_reads_it(processed: Path, tmp_path: Path) -> None:
    from autosing.training.data import DatasetConfig, read_meta

    _, description = construct(processed, tmp_path / "out", "--num-out-partitions", "2", "--split")
    meta = read_meta(DatasetConfig(path=str(tmp_path / "out")))
    assert meta.kind == "tokens" and meta.window_seconds == 2 and meta.codec is not None and meta.codec.name == "fake"
    assert meta.rows == description["rows"]["train"] and meta.voice is not None and meta.source_hash


def test_the_same_seed_gives_the_same_bytes_and_another_another_order(processed: Path, tmp_path: Path) -> None:
    construct(processed, tmp_path / "a", "--num-out-partitions", "2")
    construct(processed, tmp_path / "b", "--num-out-partitions", "2")
    one, _ = construct(processed, tmp_path / "c", "--num-out-partitions", "1", "--seed", "1")
    two, _ = construct(processed, tmp_path / "d", "--num-out-partitions", "1", "--seed", "2")
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    assert [r["id"] for part in one for r in part] != [r["id"] for part in two for r in part]


def test_split_halves_are_what_the_halves_are_on_their_own(processed: Path, tmp_path: Path) -> None:
    parts, description = construct(processed, tmp_path / "out", "--num-out-partitions", "3", "--split")
    rows = {row["id"]: row for part in parts for row in part}
    windows = window_rows(processed)
    codec = CodecSpec(**description["codec"])
    stoks = {row["id"]: row["values"] for p in ("0", "1") for row in read(processed / p / "stoks.parquet")}
    atoks = {row["id"]: row["values"] for p in ("0", "1") for row in read(processed / p / "atoks_vocals_fake.parquet")}
    assert description["window_seconds"] == 2
    for identity, window in windows.items():
        first = rows[identity]
        second = rows.get(f"{window['song']}_at_{window['start'] + 2:g}")
        assert first["stoks"] == stoks[identity][:50] and len(first["atoks"]) == codec.levels * codec.frames(2)
        assert first["atoks"][: codec.frames(2)] == atoks[identity][: codec.frames(2)]
        if second is None:
            assert window["seconds"] < 3
            continue
        assert second["stoks"] == stoks[identity][50:] and second["start"] == window["start"] + 2 and second["song"] == first["song"]
        assert len(second["atoks"]) == codec.levels * codec.frames(2)
        if second["alignment"]:
            assert all(0 <= t <= 2 for t in second["alignment"]["starts"] + second["alignment"]["ends"])
    assert description["lost"] == ({"half window is padding": 2 * len(windows) - len(rows)} if 2 * len(windows) > len(rows) else {})


def test_second_halves_begin_on_a_coarse_code() -> None:
    spec = CodecSpec("snac", 32000, 384, (8, 4, 2, 1), 4096, 32)
    codes = np.tile(np.arange(spec.frames(30)), (4, 1))
    for level, stride in enumerate(spec.strides):
        codes[level, np.arange(codes.shape[1]) % stride != 0] = -1
    for number in range(2):
        half = _half_codes(codes.reshape(-1), spec, 30.0, number).reshape(4, -1)
        assert half.shape[1] == spec.frames(15) == 1248
        assert (half[0] >= 0).sum() == 156 and half[0, 0] >= 0
        assert abs(half[3, 0] * spec.hop / spec.sample_rate - 15 * number) <= 0.05


def test_by_artist(processed: Path, tmp_path: Path) -> None:
    for seed in range(4):
        parts, _ = construct(processed, tmp_path / f"out{seed}", "--num-out-partitions", "1", "--split-by", "artist", "--seed", str(seed))
        held, kept = ({row["artist"] for row in part} - {None} for part in (parts[1], parts[0]))
        assert parts[1] and held.isdisjoint(kept)


def test_by_artist_copies_stay_together(tmp_path: Path) -> None:
    """A song of one artist that is a copy of another's ties both artists together, over all partitions; one without an artist goes with its copy."""
    songs = [("a1", "A", 220), ("a2", "A", 330), ("b1", "B", 220), ("b2", "B", 440), ("n", None, 440), ("c", "C", 550), ("d", "D", 660), ("e", None, 770)]
    wave = np.random.default_rng(0).standard_normal((8 * 8000, 2))
    for number, (name, artist, seed) in enumerate(songs):
        noise = np.random.default_rng(seed).standard_normal(wave.shape) * np.repeat(np.random.default_rng(seed).random(64), 1000)[:, None]
        write_index(tmp_path / "ds" / str(number), [{"id": name, "audio": audio_bytes(0.2 * noise), "artist": artist}])
    assert process(["run", str(tmp_path / "ds"), *SMALL]) == 0
    assert duplicates(Dataset(tmp_path / "ds"), range(8)) == {"b1": "a1", "n": "b2"}
    seen = set()
    for seed in range(6):
        flags = ["--num-out-partitions", "1", "--split-by", "artist", "--seed", str(seed), "--validation-share", "0.3"]
        parts, _ = construct(tmp_path / "ds", tmp_path / f"out{seed}", *flags, num_in=8)
        held = {row["song"] for row in parts[1]}
        assert held and held & {"a1", "a2", "b1", "b2", "n"} in (set(), {"a1", "a2", "b1", "b2", "n"})
        seen |= held
    assert len(seen) > 1


def test_one_song_goes_into_train_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_index(tmp_path / "ds" / "0", [{"id": "only", "audio": audio_bytes(tone(4))}])
    assert process(["run", str(tmp_path / "ds"), *SMALL]) == 0
    parts, description = construct(tmp_path / "ds", tmp_path / "out", "--num-out-partitions", "3", num_in=1)
    assert [len(part) for part in parts] == [0, 0, 1, 0] and description["rows"] == {"train": 1, "validation": 0}
    assert "the validation partition is empty" in capsys.readouterr().out


def test_windows_that_lack_a_table_are_counted(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = processed / "0" / "stoks.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    parts, description = construct(processed, tmp_path / "out", "--num-out-partitions", "1")
    assert description["lost"] == {"not in stoks": 1} and "left out 1 windows: not in stoks" in capsys.readouterr().out
    assert sum(map(len, parts)) == len(window_rows(processed)) - 1


def test_partitions_of_another_codec_are_refused_by_name(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = processed / "1" / "atoks_vocals_fake.parquet"
    table = pq.read_table(path)
    meta = dict(table.schema.metadata)
    meta[b"autosing.codec"] = meta[b"autosing.codec"].replace(b'"num_codes": 64', b'"num_codes": 65')
    pq.write_table(table.replace_schema_metadata(meta), path)
    assert main([str(processed), "2", str(tmp_path / "out"), *CODEC]) == 2
    err = capsys.readouterr().err
    assert "codec of partition 0 and of partition 1 differ (num_codes: 64 != 65)" in err
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_windows_of_another_length_are_refused(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert process(["run", str(processed), "1", *SMALL, "--chunk-length", "2"]) == 0
    assert main([str(processed), "2", str(tmp_path / "out"), *CODEC]) == 2
    assert "windows of partition 0 last 4 s and of partition 1 2 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["3"], "has no partition 2; it has 2, num_in says 3; give 2"),
        (["0"], "num_in must be at least 1"),
        (["2", "--num-out-partitions", "0"], "--num-out-partitions must be at least 1"),
        (["2", "--validation-share", "1"], "--validation-share must be in [0, 1)"),
        (["2", "--codec", "snac"], "partitions 0-1 have no atoks_vocals_snac.parquet, atoks_no_vocals_snac.parquet"),
    ],
)
def test_mistakes_are_one_line(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str) -> None:
    assert main([str(processed), flags[0], str(tmp_path / "out"), *CODEC, *flags[1:]]) == 2
    assert said in capsys.readouterr().err


def test_a_codec_that_was_not_made_is_made_by_the_advice(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(processed), "2", str(tmp_path / "out"), "--codec", "fake_band"]) == 2
    said = capsys.readouterr().err
    assert f"run `autosing-process run {processed} --partitions 0-1 --codec fake_band`" in said
    assert main([str(processed), "2", str(tmp_path / "out"), "--codec", "fake_bnd"]) == 2
    assert "no codec is called 'fake_bnd'; did you mean 'fake_band'?" in capsys.readouterr().err


def test_all_missing_tables_are_named_at_once(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("0/stoks", "1/stoks", "1/artist_embs"):
        (processed / f"{name}.parquet").unlink()
    assert main([str(processed), "2", str(tmp_path / "out"), *CODEC]) == 2
    said = capsys.readouterr().err
    assert "partitions 0-1 have no stoks.parquet, artist_embs.parquet" in said and "--partitions 0-1 --codec fake`" in said


def test_partitions_separated_or_aligned_differently_are_told(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    construct(processed, tmp_path / "out", "--num-out-partitions", "1")
    assert "made with one" not in capsys.readouterr().out
    assert process(["run", str(processed), "1", *SMALL, "--separator", "other", "--align-on", "mixture"]) == 0
    construct(processed, tmp_path / "out", "--num-out-partitions", "1")
    out = capsys.readouterr().out
    assert "note: partitions were not made with one --separator (fake in 0 and other in 1)" in out
    assert "note: partitions were not made with one --align-on (vocals in 0 and mixture in 1)" in out
    assert process(["check", str(processed)]) == 0
    assert "not made with one --separator (fake in 0 and other in 1)" in capsys.readouterr().out


def test_songs_that_were_not_processed_are_told(songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert process(["run", str(songs), *SMALL, "--num", "1"]) == 0
    construct(songs, tmp_path / "out", "--num-out-partitions", "1")
    assert process(["check", str(songs), "--lines", "0"]) == 0
    told = f"note: 2 songs of partitions 0-1 were not looked at yet (--num); `autosing-process run {songs} --partitions 0-1`"
    assert capsys.readouterr().out.count(told) == 2
    assert process(["run", str(songs), *SMALL]) == 0
    assert left_over(Dataset(songs), (0, 1)) == ()


def test_a_disk_that_may_not_be_written_is_one_line(
    processed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "out" / ".construct.x.tmp"))

    monkeypatch.setattr("tempfile.TemporaryDirectory", read_only)
    assert main([str(processed), "2", str(tmp_path / "out"), *CODEC]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(f"error: cannot write '{tmp_path / 'out' / '.construct.x.tmp'}' (Read-only file system)")


def test_damage_is_named(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = processed / "1" / "stoks.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert main([str(processed), "2", str(tmp_path / "out"), *CODEC]) == 2
    assert f"'{path}' is damaged" in capsys.readouterr().err


def test_a_smaller_dataset_leaves_nothing_of_a_larger_one(processed: Path, tmp_path: Path) -> None:
    construct(processed, tmp_path / "out", "--num-out-partitions", "9")
    construct(processed, tmp_path / "out", "--num-out-partitions", "2")
    assert sorted(p.parent.name for p in (tmp_path / "out").glob("*/main.parquet")) == ["0", "1", "2"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0", "1", "2", "dataset.json"]
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_full_disk_leaves_the_dataset_that_was_there(
    processed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    construct(processed, tmp_path / "out", "--num-out-partitions", "2")
    before = tables(tmp_path / "out")

    def full(path: str, mode: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(pa, "OSFile", full)
    assert main([str(processed), "2", str(tmp_path / "out"), *CODEC, "--num-out-partitions", "3"]) == 2
    assert "No space left on device" in capsys.readouterr().err and tables(tmp_path / "out") == before


def test_more_rows_than_one_spool_holds(processed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    construct(processed, tmp_path / "a", "--num-out-partitions", "2")
    monkeypatch.setattr("processing.shuffle._SPOOL_BYTES", 1)
    construct(processed, tmp_path / "b", "--num-out-partitions", "2")
    assert tables(tmp_path / "a") == tables(tmp_path / "b")


def test_shares_are_even() -> None:
    for rows in (0, 1, 5, 1000):
        for partitions in (1, 3, 512):
            shares = [share(n, rows, partitions) for n in range(partitions)]
            assert sum(shares) == rows and max(shares) - min(shares) <= 1


def test_the_held_out_share() -> None:
    groups = {f"song/{i}": 1 for i in range(2000)}
    assert 60 <= len(validation_groups(groups, 0, 0.05)) <= 140
    assert validation_groups(groups, 0, 0.0) == set() and len(validation_groups({"a": 1, "b": 1}, 3, 0.99)) == 1
    more = groups | {f"song/{i}": 1 for i in range(2000, 3000)}
    assert validation_groups(groups, 0, 0.05) <= validation_groups(more, 0, 0.05)  # a song never changes sides
    for seed in range(8):  # where the share takes none, an artist of most songs is not the one held out
        assert validation_groups({"a": 50, "b": 3, "c": 2, "d": 2}, seed, 1e-9) < {"c", "d"}


def test_numbers_with_a_gap_say_what_to_rename(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (processed / "1").rename(processed / "4")
    assert main([str(processed), "2", str(tmp_path / "out")]) == 2
    assert "has no partition 1; it has 2, num_in says 2; its partitions are 0 to num_in - 1: rename the folder 4 to 1" in capsys.readouterr().err
    (processed / "4").rename(processed / "1")
    construct(processed, tmp_path / "out", "--num-out-partitions", "1")


def test_tables_older_than_their_songs_are_refused(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read(processed / "0" / "index.parquet")
    write_index(processed / "0", [{**rows[0], "raw_lyrics": "other words"}, *rows[1:]], year=pa.int64())
    assert main([str(processed), "2", str(tmp_path / "out"), *CODEC]) == 2
    said = capsys.readouterr().err
    assert "alignment of partition 0 are older than what they were made from" in said and len(said.splitlines()) == 1
    assert f"`autosing-process run {processed} --partitions 0`" in said and not (tmp_path / "out").exists()
    assert process(["align", str(processed), "0", *SMALL]) == 0
    assert main([str(processed), "2", str(tmp_path / "out"), *CODEC]) == 2  # what was made from the old alignment is old too
    assert "chunked, quality of partition 0 are older" in capsys.readouterr().err
    assert process(["run", str(processed), *SMALL]) == 0
    construct(processed, tmp_path / "out", "--num-out-partitions", "1")
    write_index(processed / "0", [{**rows[0], "audio": audio_bytes(tone(12))}, *rows[1:]])
    for partition in ("0", "1"):
        (processed / partition / "manifest.json").unlink()
    construct(processed, tmp_path / "out", "--num-out-partitions", "1")  # nobody says what was made from what


def test_text_columns_of_different_types_become_text(processed: Path, tmp_path: Path) -> None:
    rows = read(processed / "1" / "index.parquet")
    write_index(processed / "1", [{**row, "year": "unknown"} for row in rows], year=pa.string())
    parts, _ = construct(processed, tmp_path / "out", "--num-out-partitions", "1")
    assert {row["year"] for part in parts for row in part} == {"1999", "2000", "unknown"}


@pytest.mark.parametrize("place", ["0", "0/tokens", "7", "../others"])
def test_partitions_of_songs_are_no_place_for_rows(processed: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    make_songs(processed.parent / "others")
    before = tables(processed.parent)
    assert main([str(processed), "2", str(processed / place), *CODEC]) == 2
    error = capsys.readouterr().err
    assert "lies among partitions of songs" in error and error.count("\n") == 1
    assert tables(processed.parent) == before and not (processed / "7").exists()
