"""Promises T4 - T7 of processing: whatever dies, fills up or rots, a second run gives what a clean run gives.

Each fault runs `autosing-process` with fake ears in a process of its own.
"""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "processing" / "fake_ears.py"
sys.path.insert(0, str(SCRIPT.parent))
FLAGS = ["--separator", "fake", "--aligner", "fake", "--codec", "fake", "--semantic", "fake", "--voice", "fake", "--device", "cpu", "--chunk-length", "4", "--audio-format", "flac"]


def make(root: Path) -> Path:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile

    for number in range(2):
        rows = {"id": [], "audio": [], "raw_lyrics": []}
        for song in range(2):
            path = root / "song.flac"
            root.mkdir(exist_ok=True)
            soundfile.write(path, 0.3 * np.sin(np.arange(5 * 8000) * (0.1 + 0.02 * song + 0.05 * number)), 8000)
            rows["id"].append(f"{number}-{song}")
            rows["audio"].append(path.read_bytes() if song or number else b"broken")
            rows["raw_lyrics"].append("some words to sing")
            path.unlink()
        (root / str(number)).mkdir()
        pq.write_table(pa.table(rows, schema=pa.schema([("id", pa.string()), ("audio", pa.binary()), ("raw_lyrics", pa.string())])), root / str(number) / "index.parquet")
    return root


def process(dataset: Path, *extra: str, fault: str = "", limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def bound() -> None:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, str(SCRIPT), "run", str(dataset), *FLAGS, *extra],
        env={**os.environ, "AUTOSING_FAULT": fault, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=bound,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run_here(dataset: Path, fault: str = "") -> int:
    """The same in this process, for faults that leave it alive."""
    import fake_ears

    from autosing.cli.process import main

    entries = [(registry, dict(registry._entries)) for registry, _ in fake_ears.ENTRIES]
    fake_ears.register()
    before = os.environ.get("AUTOSING_FAULT")
    os.environ["AUTOSING_FAULT"] = fault
    try:
        return main(["run", str(dataset), *FLAGS])
    finally:
        os.environ.pop("AUTOSING_FAULT") if before is None else os.environ.update(AUTOSING_FAULT=before)
        for registry, old in entries:
            registry._entries.clear()
            registry._entries.update(old)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    dataset = make(tmp_path_factory.mktemp("clean") / "ds")
    assert run_here(dataset) == 0
    return files(dataset)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make(tmp_path / "ds")


POINTS = ("start", "open", "row", "close", "verify", "rename", "renamed", "rejected-rename", "rejected-renamed", "manifest", "done")
STEPS = ("src_sep", "align", "vad_extract", "quality", "atoks", "stoks", "artist_embs")


def child(dataset: Path, fault: str = "") -> int:
    """Start a run in a child without importing everything again; its process id. A child that hangs is ended by an alarm."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(300)
        code = 70
        try:
            code = run_here(dataset, fault)
        finally:
            os._exit(code)
    return pid


def ending(pid: int) -> int:
    """The exit code of a child; -9 = killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_point_then_run_again(tmp_path: Path, clean: dict[str, bytes], step: str) -> None:
    """T4: SIGKILL at each write point of each step; the second run equals a clean run byte for byte, no temporary file stays."""
    dataset = make(tmp_path / "ds")
    for point in POINTS:
        for partition in ("0", "1"):  # due again: as if the step had never run
            (dataset / partition / "manifest.json").unlink(missing_ok=True)
        assert ending(child(dataset, f"{step}:{point}:1:kill")) == -signal.SIGKILL, f"{step}:{point} was never reached"
    assert run_here(dataset) == 0
    assert files(dataset) == clean


def test_a_killed_command_is_seen_and_goes_on(dataset: Path, clean: dict[str, bytes]) -> None:
    """T4 through a whole process, in the second partition."""
    killed = process(dataset, fault="vad_extract:rename:2:kill")
    assert killed.returncode == -signal.SIGKILL
    done = (dataset / "0" / "stoks.parquet").stat().st_mtime_ns
    assert (dataset / "1" / "vocals.parquet").exists() and not (dataset / "1" / "chunked.parquet").exists()
    again = process(dataset)
    assert again.returncode == 0, again.stderr
    assert files(dataset) == clean and (dataset / "0" / "stoks.parquet").stat().st_mtime_ns == done


@pytest.mark.parametrize("point", ["open", "close", "rename"])
def test_disk_full_is_an_error_and_the_old_tables_stay(dataset: Path, clean: dict[str, bytes], point: str, capsys: pytest.CaptureFixture[str]) -> None:
    """T5, injected: the partition fails with one line, nothing half-written, and it goes on once there is room."""
    assert run_here(dataset, f"align:{point}:1:enospc") == 1
    assert "No space left" in capsys.readouterr().err and not list(dataset.rglob(".*"))
    assert run_here(dataset) == 0 and files(dataset) == clean


def test_a_real_limit_on_file_size(dataset: Path, clean: dict[str, bytes]) -> None:
    """T5, for real: files may not pass 20 kB; the stems do."""
    failed = process(dataset, limit=20_000)
    assert failed.returncode == 1 and "cannot write" in failed.stderr and "Traceback" not in failed.stderr, failed.stderr
    assert not list(dataset.rglob(".*")) and not (dataset / "1" / "vocals.parquet").exists()
    assert run_here(dataset) == 0 and files(dataset) == clean


def test_a_defect_keeps_its_traceback_and_names_the_song(dataset: Path, clean: dict[str, bytes]) -> None:
    with pytest.raises(RuntimeError, match="injected fault at stoks:row"):
        run_here(dataset, "stoks:row:1:raise")
    assert not list(dataset.rglob(".*"))
    assert run_here(dataset) == 0 and files(dataset) == clean


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data[:200] + bytes([data[200] ^ 4]) + data[201:],
    "emptied": lambda data: b"",
    "deleted": None,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_tables_are_made_again_and_only_in_their_partition(tmp_path: Path, clean: dict[str, bytes], how: str) -> None:
    """T6: every table, also rejected.parquet and the manifest."""
    dataset = make(tmp_path / "ds")
    assert run_here(dataset) == 0
    untouched = {p: p.stat().st_mtime_ns for p in (dataset / "1").iterdir()}
    for path in sorted((dataset / "0").iterdir()):
        if path.name == "index.parquet":
            continue
        change = DAMAGE[how]
        if change is None:
            path.unlink()
        else:
            path.write_bytes(change(path.read_bytes()))
        assert run_here(dataset) == 0
        assert files(dataset) == clean, f"{how} {path.name}"
    assert {p: p.stat().st_mtime_ns for p in (dataset / "1").iterdir()} == untouched


def test_a_damaged_index_fails_its_partition_by_name(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = dataset / "0" / "index.parquet"
    path.write_bytes(path.read_bytes()[:100])
    assert run_here(dataset) == 1
    captured = capsys.readouterr()
    assert f"'{path}' is damaged" in captured.err and (dataset / "1" / "stoks.parquet").exists()


def test_two_writers_on_one_dataset(dataset: Path, clean: dict[str, bytes]) -> None:
    """T7: both end well, and the tables are those of one clean run."""
    both = [child(dataset), child(dataset)]
    assert [ending(pid) for pid in both] == [0, 0]
    assert files(dataset) == clean
