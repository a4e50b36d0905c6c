"""The steps over a small dataset: what they write, when they are due, and how the command is spoken to."""

import itertools
import json
import multiprocessing
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_songs import SMALL, audio_bytes, read, tables, tone, write_index

from autosing.cli.process import main, parse_ranges
from autosing.errors import ConfigError
from autosing.store import locked, sha256_of
from autosing.tokens.specs import CodecSpec, spec_from_json
from processing.manifest import FileHashes, Manifest

ALL_TABLES = {
    "index", "vocals", "no_vocals", "alignment", "chunked", "quality", "atoks_vocals_fake", "atoks_no_vocals_fake", "stoks", "artist_embs", "rejected",
}  # fmt: skip


def test_every_table_of_the_contract_is_written(processed: Path) -> None:
    for partition in ("0", "1"):
        assert {p.stem for p in (processed / partition).glob("*.parquet")} == ALL_TABLES
        assert read(processed / partition / "rejected.parquet") == []


def test_windows_are_named_by_song_and_second_and_never_overlap(processed: Path) -> None:
    windows = read(processed / "0" / "chunked.parquet") + read(processed / "1" / "chunked.parquet")
    assert {w["song"] for w in windows} == {"alpha", "beta", "gamma", "delta"}
    for window in windows:
        assert window["id"] == f"{window['song']}_at_{window['start']:g}"
    starts = sorted(w["start"] for w in windows if w["song"] == "alpha")
    assert len(starts) == 3 and all(b - a >= 4 for a, b in itertools.pairwise(starts))


def test_tokens_have_the_lengths_their_specs_say(processed: Path) -> None:
    folder = processed / "0"
    count = len(read(folder / "chunked.parquet"))
    for source, name in (("vocals", "fake"), ("no_vocals", "fake_band")):
        path = folder / f"atoks_{source}_fake.parquet"
        spec = spec_from_json(pq.read_schema(path).metadata[b"autosing.codec"])
        assert isinstance(spec, CodecSpec) and spec.name == name
        rows = read(path)
        assert len(rows) == count and all(len(r["values"]) == spec.levels * spec.frames(4) for r in rows)
        codes = np.array(rows[0]["values"]).reshape(spec.levels, -1)
        assert (codes[0, 1:8] == CodecSpec.HOLE).all() and codes[0, 0] >= 0 and (codes[-1] >= 0).all()
    assert all(len(r["values"]) == 100 for r in read(folder / "stoks.parquet"))
    for row in read(folder / "artist_embs.parquet"):
        assert len(row["embs"]) == 4 and np.isclose(np.linalg.norm(row["embs"]), 1, atol=1e-5)


def test_words_of_a_window_are_relative_to_it(processed: Path) -> None:
    for window in read(processed / "0" / "chunked.parquet"):
        assert all(0 <= t <= 4 for t in window["alignment"]["starts"] + window["alignment"]["ends"])
    words = [w for row in read(processed / "0" / "chunked.parquet") if row["song"] == "alpha" for w in row["alignment"]["words"]]
    assert set(words) <= set(["one", "two", "three", "four", "five", "six", "seven", "eight"])


def test_a_song_without_lyrics_is_kept(processed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(r for r in read(processed / "1" / "alignment.parquet") if r["id"] == "gamma")
    assert row["alignment"]["words"] == [] and row["alignment"]["inlier_ratio"] is None
    assert main(["run", str(processed), *SMALL]) == 0
    assert "no_lyrics 1" in capsys.readouterr().out


def test_a_second_run_does_nothing(processed: Path) -> None:
    before = {p: os.stat(p).st_mtime_ns for p in processed.rglob("*") if p.is_file()}
    assert main(["run", str(processed), *SMALL]) == 0
    assert {p: os.stat(p).st_mtime_ns for p in processed.rglob("*") if p.is_file()} == before


def test_a_device_that_is_none_is_refused_even_if_nothing_is_due(processed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(processed), *SMALL, "--device", "banana"]) == 2
    assert "device 'banana' is not usable" in capsys.readouterr().err


def test_two_runs_give_the_same_bytes(processed: Path, songs: Path) -> None:
    assert main(["run", str(songs), *SMALL]) == 0
    assert tables(songs) == tables(processed)


def test_opus_windows_are_the_same_bytes_every_time(songs: Path) -> None:
    flags = [*SMALL[:-1], "opus"]
    for step in ("src_sep", "align", "vad_extract"):
        assert main([step, str(songs), "1", *flags]) == 0
    before = (songs / "1" / "chunked.parquet").read_bytes()
    (songs / "1" / "chunked.parquet").unlink()
    assert main(["vad_extract", str(songs), "1", *flags]) == 0
    assert (songs / "1" / "chunked.parquet").read_bytes() == before


def test_another_setting_makes_the_step_and_what_follows_due(processed: Path) -> None:
    before = tables(processed / "0")
    assert main(["run", str(processed), *SMALL, "--chunk-length", "2"]) == 0
    after = tables(processed / "0")
    same = {name for name in before if before[name] == after[name]}
    assert same == {"index.parquet", "vocals.parquet", "no_vocals.parquet", "alignment.parquet", "rejected.parquet"}


def test_a_changed_song_makes_its_partition_due(processed: Path) -> None:
    before = tables(processed)
    rows = read(processed / "1" / "index.parquet")
    rows[0]["audio"] = audio_bytes(tone(7, 600))
    write_index(processed / "1", rows)
    assert main(["run", str(processed), *SMALL]) == 0
    after = tables(processed)
    changed = {name for name in before if before[name] != after[name]}
    assert changed and all(name.startswith("1/") for name in changed)


def written(rows: list[dict], folder: Path) -> None:
    """An index.parquet of these rows, changed by its owner."""
    write_index(folder, rows, year=pa.int64())


def done(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The steps that a command worked on, of what it printed."""
    return set(re.findall(r"partition \d+ (\w+): ", "".join(capsys.readouterr())))


def test_corrected_lyrics_do_not_separate_again(processed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the index a step's input is what it reads: ids and those columns."""
    rows = read(processed / "0" / "index.parquet")
    vocals = (processed / "0" / "vocals.parquet").stat().st_mtime_ns
    written([{**row, "year": 7} for row in rows], processed / "0")
    assert main(["run", str(processed), *SMALL]) == 0
    assert done(capsys) == set()
    written([{**rows[0], "raw_lyrics": "uno two three"}, *rows[1:]], processed / "0")
    assert main(["run", str(processed), *SMALL]) == 0
    assert {"align", "vad_extract"} <= done(capsys) and (processed / "0" / "vocals.parquet").stat().st_mtime_ns == vocals
    written([*reversed(rows)], processed / "0")
    assert main(["run", str(processed), *SMALL]) == 0
    assert "src_sep" in done(capsys)


def test_windows_that_lie_where_they_lay_are_not_coded_again(processed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An artist that was misspelt, and a word: the windows are written anew, at the same times."""
    rows = read(processed / "0" / "index.parquet")
    written([{**rows[0], "artist": "Another"}, *rows[1:]], processed / "0")
    assert main(["run", str(processed), *SMALL]) == 0
    assert done(capsys) == {"vad_extract"}
    assert {row["artist"] for row in read(processed / "0" / "chunked.parquet")} == {"Another", "B"}
    written([{**rows[0], "artist": "Another", "raw_lyrics": rows[0]["raw_lyrics"].replace("eight", "ate")}, *rows[1:]], processed / "0")
    assert main(["run", str(processed), *SMALL]) == 0
    assert done(capsys) == {"align", "vad_extract", "quality"}
    assert not Manifest(processed / "0", 0, FileHashes()).stale()
    assert main(["run", str(processed), *SMALL, "--chunk-length", "5"]) == 0
    assert {"atoks_vocals_fake", "stoks", "artist_embs"} <= done(capsys)


def test_the_hash_that_import_told_stands_for_the_audio(tmp_path: Path) -> None:
    """Nothing is read of the audio of an index in which every row has one."""

    def hashed(rows: list[dict]) -> str:
        write_index(tmp_path, rows, audio_hash=pa.string())
        return FileHashes().columns(tmp_path / "index.parquet", ("id", "audio"))

    plain = [{"id": "a", "audio": b"one"}, {"id": "b", "audio": b"two"}]
    told = [{**row, "audio_hash": row["id"] * 3} for row in plain]
    assert hashed(told) == hashed([{**row, "audio": b"other"} for row in told])
    assert hashed(told) != hashed([told[0], {**told[1], "audio_hash": "new"}])
    assert hashed(plain) != hashed([plain[0], {**plain[1], "audio": b"other"}])
    assert hashed([plain[0], told[1]]) != hashed([{**plain[0], "audio": b"other"}, told[1]])


def test_manifests_with_the_hash_of_the_whole_index_hold_while_it_does_and_are_renewed(processed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, path = processed / "0" / "index.parquet", processed / "0" / "manifest.json"
    today = path.read_bytes()
    manifest = json.loads(today)
    for step in manifest["steps"].values():
        if "index" in step["inputs"]:
            step["inputs"]["index"] = sha256_of(index)
    path.write_text(json.dumps(manifest))
    assert main(["run", str(processed), *SMALL]) == 0
    assert done(capsys) == set() and path.read_bytes() == today
    path.write_text(json.dumps(manifest))
    written([{**row, "year": 7} for row in read(index)], processed / "0")
    assert main(["run", str(processed), *SMALL]) == 0
    assert "src_sep" in done(capsys)


def test_the_original_word_order_and_its_sequence_of_steps(songs: Path) -> None:
    flags = [*SMALL, "--align_on", "mixture", "--complete-missing"]
    for step in ("align", "vad_extract", "src_sep", "stoks", "artist_embs"):
        assert main([str(songs), step, "0", *flags]) == 0
    assert main([str(songs), "atoks", "0", "--audio_src", "vocals", *flags]) == 0
    assert (songs / "0" / "atoks_vocals_fake.parquet").exists() and not (songs / "0" / "atoks_no_vocals_fake.parquet").exists()
    assert not (songs / "1" / "alignment.parquet").exists()


def test_codes_of_the_mixture(processed: Path) -> None:
    assert main(["atoks", str(processed), "--audio-src", "chunked", *SMALL]) == 0
    mixture = read(processed / "0" / "atoks_chunked_fake.parquet")
    vocals = read(processed / "0" / "atoks_vocals_fake.parquet")
    assert [r["id"] for r in mixture] == [r["id"] for r in vocals] and mixture[0]["values"] != vocals[0]["values"]


def test_a_step_says_what_is_missing_before_it(songs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", str(songs), "0", *SMALL]) == 1
    assert "no vocals.parquet" in capsys.readouterr().err


def test_a_folder_without_an_index_yet_is_left_alone(songs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (songs / "2").mkdir()
    waiting = songs / "2" / ".index.parquet.1.tmp"
    waiting.write_bytes(b"half")
    assert main(["src_sep", str(songs), *SMALL]) == 1
    said = capsys.readouterr().err
    assert f"'{songs / '2'}' holds no index.parquet yet; wait for the import" in said and waiting.exists()
    assert (songs / "1" / "vocals.parquet").exists()


def test_a_partition_that_another_process_holds_is_waited_for_with_a_line(processed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "partition 0: another process works on it; waiting until it is done"
    with ThreadPoolExecutor(1) as pool:
        with locked(processed / "0"):
            run = pool.submit(main, ["run", str(processed), "--partitions", "0", *SMALL])
            out, until = "", time.monotonic() + 30
            while said not in out and not run.done() and time.monotonic() < until:
                time.sleep(0.01)
                out += "".join(capsys.readouterr())
            assert said in out and not run.done()
        assert run.result() == 0
    assert "accepted 2 songs" in capsys.readouterr().out


def test_a_worker_that_dies_is_replaced_and_ctrl_c_is_its_parents(processed: Path) -> None:
    from steps_for_workers import DieOnce

    from processing.executors.local import run_partitions
    from processing.run import Job, Quiet

    class Retries(Quiet):
        seen = 0

        def end(self, report) -> None:  # type: ignore[no-untyped-def]
            self.seen += report.state == "retried"

    listener = Retries()
    reports = list(run_partitions(Job(processed, (DieOnce(processed / "died"),), "cpu"), (0, 1), listener, workers=2))
    assert {r.partition for r in reports} == {0, 1} and not any(r.failed for r in reports)
    assert listener.seen == 1 and not list(processed.glob("*/.*.tmp"))
    for partition in ("0", "1"):
        assert [row["bytes"] > 0 for row in read(processed / partition / "counted.parquet")] == [True, True]


def test_a_worker_whose_parent_is_gone_ends_without_a_word(processed: Path) -> None:
    from steps_for_workers import CountBytes

    from processing.executors.local import _work
    from processing.run import Job

    job = Job(processed, (CountBytes(),), "cpu")
    for partition in (None, 0):
        parent, worker = multiprocessing.Pipe()
        if partition is not None:
            parent.send(partition)
        parent.close()
        _work(worker, job)
    assert not list(processed.glob("*/.*.tmp")) and not (processed / "0" / "counted.parquet").exists()


@pytest.mark.parametrize(("cores", "asked", "threads"), [(6, 0, 3), (1, 0, 1), (6, 2, 2)])
def test_workers_share_the_cores_that_the_process_may_use(
    processed: Path, monkeypatch: pytest.MonkeyPatch, cores: int, asked: int, threads: int
) -> None:
    from steps_for_workers import CountThreads

    from processing.executors.local import run_partitions
    from processing.run import Job, Quiet

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    reports = list(run_partitions(Job(processed, (CountThreads(),), "cpu", threads=asked), (0, 1), Quiet(), workers=2))
    assert not any(report.failed for report in reports)
    assert {row["bytes"] for partition in ("0", "1") for row in read(processed / partition / "counted.parquet")} == {threads}


def test_num_limits_the_songs(songs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(songs), "--partitions", "0", "--num", "1", *SMALL]) == 0
    assert "accepted 1 songs (3 windows), rejected 0" in capsys.readouterr().out
    assert {r["song"] for r in read(songs / "0" / "stoks.parquet")} == {"alpha"}


def test_num_counts_the_songs_it_worked_on(songs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows refused for their ids and rejections of other steps are not counted against the limit."""
    flac = audio_bytes(tone(5))
    rows = [{"id": name, "audio": flac} for name in ("a", "a", "a", "b", "c")]
    write_index(songs / "0", [{"id": "bad", "audio": b"no"}, *rows])
    flags = ["--partitions", "0", *SMALL]
    assert main(["run", str(songs), *flags, "--num", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "accepted 1 songs (1 windows), rejected 3 (duplicate_id 2, not_audio 1)"
    assert main(["src_sep", str(songs), *flags]) == 0
    assert main(["align", str(songs), *flags, "--num", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("accepted 2 songs (1 windows), rejected 2 (duplicate_id 2)")


def test_partition_ranges() -> None:
    assert parse_ranges("0-2,7, 9-9") == [(0, 2), (7, 7), (9, 9)]
    for text in ("", "a", "3-", "-3", "1,,2"):
        with pytest.raises(ConfigError):
            parse_ranges(text)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "nowhere"], "there is no dataset at"),
        (["run", "{songs}", "--partitions", "0-5"], "has no partition 2-5"),
        (["run", "{songs}", "--codec", "bultin"], "did you mean 'builtin'?"),
        (["atoks", "{songs}", "--audio-src", "vocal"], "did you mean 'vocals'?"),
        (["run", "{songs}", "--min-occupancy", "2"], "--min-occupancy must be in (0, 1], found 2.0\n"),
        (["import", "nowhere", "x"], "there is no folder"),
        (["{songs}", "algn", "0"], "no command is called 'algn'; did you mean 'align'?"),
        (["rn", "{songs}"], "no command is called 'rn'; did you mean 'run'?"),
        (["{songs}", "vad-extrakt"], "did you mean 'vad_extract'?"),
        (["run", "{songs}", "--partitions", "0-1000000000000"], "has no partition 2-1000000000000; it has 0-1"),
        (["run", "{songs}", "--num-partitions", "1000000000000"], "has no partition 2-999999999999; it has 0-1"),
        (["run", "{songs}", "--partitions", "0,1-0"], "--partitions: 1-0 ends before it begins; write 0-1"),
        (["run", "{songs}", "--partitions", "9" * 5000], "--partitions must look like 0-7,9"),
    ],
)
def test_mistakes_are_one_line(songs: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    code = main([word.format(songs=songs) for word in argv])
    err = capsys.readouterr().err
    assert code in (1, 2) and said in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": pa.array(["a"])}, "has no column 'audio'"),
        ({"audio": pa.array([b"x"])}, "has no column 'id'"),
        ({"id": pa.array([1]), "audio": pa.array([b"x"])}, "column 'id' of"),
        ({"id": pa.array(["a"]), "audio": pa.array(["path.wav"])}, "must be binary, found string"),
        ({"id": pa.array(["a"]), "audio": pa.array([b"x"]), "lrc_lyrics": pa.array([3])}, "column 'lrc_lyrics' of"),
    ],
)
def test_wrong_columns_fail_that_partition_alone(songs: Path, capsys: pytest.CaptureFixture[str], columns: dict, said: str) -> None:
    pq.write_table(pa.table(columns), songs / "0" / "index.parquet")
    assert main(["src_sep", str(songs), *SMALL]) == 1
    captured = capsys.readouterr()
    assert said in captured.err and (songs / "1" / "vocals.parquet").exists()
    assert captured.out.strip().splitlines()[-1].endswith("1 partitions failed")


def test_other_text_and_binary_types_are_understood(tmp_path: Path) -> None:
    folder = tmp_path / "ds" / "0"
    folder.mkdir(parents=True)
    columns = {
        "id": pa.array(["a", "b"]).dictionary_encode(),
        "audio": pa.array([audio_bytes(tone(5)), audio_bytes(tone(6))], pa.large_binary()),
        "raw_lyrics": pa.array([None, "la la"], pa.large_string()),
        "lrc_lyrics": pa.nulls(2),
    }
    pq.write_table(pa.table(columns), folder / "index.parquet")
    assert main(["run", str(tmp_path / "ds"), *SMALL, "--strict"]) == 0
    assert {r["song"] for r in read(folder / "chunked.parquet")} == {"a", "b"}


def test_the_manifest_says_what_was_made_from_what(processed: Path) -> None:
    steps = json.loads((processed / "0" / "manifest.json").read_text())["steps"]
    assert steps["align"]["inputs"]["vocals"] == steps["src_sep"]["tables"]["vocals"]["sha256"]
    assert steps["src_sep"]["songs"] == 2 and steps["vad_extract"]["tables"]["chunked"]["rows"] == len(read(processed / "0" / "chunked.parquet"))
