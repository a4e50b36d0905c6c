"""Runs the steps that are due on a partition, and commits each as a whole.

Work is held under the partition's lock: leftovers of killed writers are removed, ids are checked, and each step in order is skipped if its
manifest entry verifies, or computed again. A step's tables are written beside the old ones and renamed, then `rejected.parquet`, then the
manifest: whatever dies in between leaves a step that is due again, and the same bytes after it has run. A `DataError` stops its
partition and the others go on; any other error (a missing model, a wrong setting, a defect) stops the run.

Peak memory: one song (about three times its samples as float32: 0.25 GB for 4 minutes of stereo at 44.1 kHz), the models, one row group a
table, and about 300 bytes a rejected row.
"""

import contextlib
import functools
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from autosing.device import pick_device
from autosing.errors import DataError
from autosing.faults import Faults
from autosing.store import Dataset, TableWriter, locked, remove_temporaries
from processing.index import INDEX, IdLedger, open_index, refused_ids
from processing.join import songs
from processing.manifest import FileHashes, Manifest, settings_hash
from processing.step import Done, Rejected, Step
from processing.steps import sort_key


@dataclass(frozen=True)
class Job:
    """What to do, as a value that can be sent to another process.

    Attributes:
        steps: in order of dependency, not yet set up.
        limit: songs a partition at most (0 = all); for trying things out.
        threads: of torch, 0 = leave as they are.
    """

    dataset: Path
    steps: tuple[Step, ...]
    device: str = "auto"
    limit: int = 0
    threads: int = 0


@dataclass(frozen=True)
class StepReport:
    """What became of one step on one partition: state "done" (computed now), "current" (verified) or "failed" (with `error`); to a listener also
    "retried" and "waiting", which end no step."""

    partition: int
    step: str
    state: str
    songs: int = 0
    rejected: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class PartitionReport:
    """The standing of a partition after a run.

    Attributes:
        songs: rows of its index; with a `limit`, the songs that the last step worked on and those rejected before it.
        rejected: rejection code -> songs, each song counted once; with a `limit`, by the index and the steps of this job alone.
        windows: rows of chunked.parquet, 0 while there is none.
    """

    partition: int
    songs: int
    rejected: dict[str, int]
    windows: int
    steps: tuple[StepReport, ...]

    @property
    def failed(self) -> bool:
        return any(step.state == "failed" for step in self.steps)


class Listener(Protocol):
    """Told how far the work is."""

    def begin(self, partition: int, step: str) -> None: ...

    def song(self, partition: int, step: str, count: int) -> None:
        """`count` songs of the step are behind us."""
        ...

    def end(self, report: StepReport) -> None: ...


class Quiet:
    """A `Listener` that says nothing."""

    def begin(self, partition: int, step: str) -> None: ...

    def song(self, partition: int, step: str, count: int) -> None: ...

    def end(self, report: StepReport) -> None: ...


class Runner:
    """Works on partitions one after the other; models are loaded when first needed and kept."""

    def __init__(self, job: Job, listener: Listener | None = None, faults: Faults | None = None):
        self._job, self._listener, self._faults = job, listener or Quiet(), faults or Faults()
        self._dataset = Dataset(job.dataset)
        self._hashes = FileHashes()
        self._ready: set[str] = set()
        self._ledger: IdLedger | None = None
        if job.threads:
            torch.set_num_threads(job.threads)

    def run(self, partition: int) -> PartitionReport:
        """Run every due step of the job on one partition.

        Raises:
            AutoSingError: what no partition can be worked with (ConfigError, WeightsError).
        """
        reports: list[StepReport] = []
        folder = self._dataset.folder(partition)
        if not folder.is_dir():
            error = f"'{self._dataset.path}' has no partition {partition}"
            return PartitionReport(partition, 0, {}, 0, (StepReport(partition, INDEX, "failed", error=error),))
        held = StepReport(partition, INDEX, "waiting", error="another process works on it; waiting until it is done")
        with locked(folder, lambda: self._listener.end(held)):
            if not any(folder.glob("*.parquet")):
                error = f"'{folder}' holds no index.parquet yet; wait for the import that makes it, or delete the folder if none is running"
                reports.append(StepReport(partition, INDEX, "failed", error=error))
                self._listener.end(reports[-1])
                return PartitionReport(partition, 0, {}, 0, tuple(reports))
            remove_temporaries(folder)
            manifest = Manifest(folder, partition, self._hashes)
            try:
                with open_index(self._dataset, partition) as reader:
                    total = len(reader)
                refused = self._check_index(partition, manifest)
            except DataError as error:
                reports.append(StepReport(partition, INDEX, "failed", error=str(error)))
                self._listener.end(reports[-1])
                return PartitionReport(partition, 0, {}, 0, tuple(reports))
            for step in self._job.steps:
                self._listener.begin(partition, step.key)
                try:
                    report = self._run_step(partition, step, manifest, refused)
                except DataError as error:
                    report = StepReport(partition, step.key, "failed", error=str(error))
                reports.append(report)
                self._listener.end(report)
                if report.state == "failed":
                    break
            return self._summary(partition, manifest, total, reports)

    def _check_index(self, partition: int, manifest: Manifest) -> dict[int, Rejected]:
        if self._ledger is None:
            self._ledger = IdLedger(self._dataset, self._dataset.partitions())
        refused = refused_ids(self._dataset, partition, self._ledger)
        settings = settings_hash({"refused": list(refused)})
        inputs = manifest.inputs({INDEX: ()})
        if manifest.holds(INDEX, "1", settings, inputs):
            manifest.renew(INDEX, inputs, sort_key)
        else:
            entry = {"step": INDEX, "version": "1", "settings": settings, "inputs": inputs, "songs": 0}
            manifest.commit(INDEX, entry, {}, list(refused.values()), sort_key, functools.partial(self._faults.reach, INDEX))
        return refused

    def _run_step(self, partition: int, step: Step, manifest: Manifest, refused: dict[int, Rejected]) -> StepReport:
        started = time.monotonic()
        try:
            inputs = manifest.inputs(step.reads)
        except DataError as error:
            raise DataError(f"{step.key} cannot run: {error}") from error
        first = next(iter(step.reads))
        left_out = refused if first == INDEX else {}
        settings = settings_hash({**step.settings(), "limit": self._job.limit, "refused": list(left_out)})
        if manifest.holds(step.key, step.version, settings, inputs):
            manifest.renew(step.key, inputs, sort_key)
            made = manifest.entries[step.key]
            there = {table: info["rows"] for table, info in made.tables.items()}
            return StepReport(partition, step.key, "current", made.songs, made.rejected, there, made.notes)
        reached = functools.partial(self._faults.reach, step.name)
        reached("start")
        if step.key not in self._ready:
            step.setup(pick_device(self._job.device))
            self._ready.add(step.key)
        passed = itertools.count(1)
        stream = songs(
            self._dataset, partition, step.reads, left_out.keys(), lambda _: self._listener.song(partition, step.key, next(passed))
        )
        rejected: list[Rejected] = []
        notes: Counter[str] = Counter()
        count = 0
        folder = self._dataset.folder(partition)
        writers: dict[str, TableWriter] = {}
        try:
            for table, (schema, meta) in step.schemas().items():
                writers[table] = TableWriter(folder / f"{table}.parquet", schema, meta, reached)
            with contextlib.closing(stream):
                for answer in step.rows(itertools.islice(stream, self._job.limit or None)):
                    count += 1
                    if isinstance(answer, Done):
                        notes.update(answer.notes)
                        for table, rows in answer.tables.items():
                            for row in rows:
                                writers[table].write(row)
                    else:
                        rejected.append(answer)
            infos = {table: writer.finish() for table, writer in writers.items()}
            for writer in writers.values():
                writer.commit()
        finally:
            for writer in writers.values():
                writer.discard()
        entry = {
            "step": step.name,
            "version": step.version,
            "settings": settings,
            "inputs": inputs,
            "songs": count,
            "notes": dict(sorted(notes.items())),
        }
        manifest.commit(step.key, entry, infos, rejected, sort_key, reached)
        rows_written = {table: info.rows for table, info in infos.items()}
        seconds = time.monotonic() - started
        return StepReport(partition, step.key, "done", count, len(rejected), rows_written, dict(notes), seconds)

    def _summary(self, partition: int, manifest: Manifest, total: int, reports: Sequence[StepReport]) -> PartitionReport:
        mine = {step.key for step in self._job.steps}
        codes: Counter[str] = Counter(row.code for row in manifest.rejected.get(INDEX, ()))
        seen: set[str | None] = set()
        for key in sorted(manifest.rejected, key=sort_key):
            for row in manifest.rejected[key]:
                if key != INDEX and row.id not in seen and (not self._job.limit or key in mine):
                    seen.add(row.id)
                    codes[row.code] += 1
        windows = manifest.entries["vad_extract"].tables["chunked"]["rows"] if "vad_extract" in manifest.entries else 0
        if self._job.limit:  # refused rows are not counted against it, and other steps saw other songs
            total = reports[-1].songs - reports[-1].rejected + sum(codes.values())
        return PartitionReport(partition, total, dict(codes), windows, tuple(reports))
