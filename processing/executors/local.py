"""Processes of this machine, each with its own models; one process means none is started.

A worker that dies (killed, out of memory) does not lose its partition: it is given to a fresh worker, up to `ATTEMPTS` times, and the retry is
shown. Nothing half-written survives it, since every table is committed whole. Ctrl-C is the parent's, which ends its workers; one whose parent is
gone ends after its song, without a word.
"""

import contextlib
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait

from autosing.device import usable_cores
from autosing.errors import AutoSingError
from autosing.faults import Faults
from processing.index import INDEX
from processing.run import Job, Listener, PartitionReport, Runner, StepReport

ATTEMPTS = 3


def run_partitions(
    job: Job, partitions: Sequence[int], listener: Listener, workers: int = 1, faults: Faults | None = None
) -> Iterator[PartitionReport]:
    """Work on the partitions; reports come as they finish.

    Args:
        workers: processes; each works on one partition at a time.
        faults: used by a single process; workers read their own from the environment.

    Raises:
        AutoSingError: what no partition can be worked with (a missing model, ...).
    """
    if workers <= 1 or len(partitions) <= 1:
        runner = Runner(job, listener, faults)
        for partition in partitions:
            yield runner.run(partition)
        return
    yield from _spread(job, partitions, listener, workers)


def _spread(job: Job, partitions: Sequence[int], listener: Listener, workers: int) -> Iterator[PartitionReport]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    job = replace(job, threads=job.threads or max(1, usable_cores() // workers))
    waiting = deque((partition, 1) for partition in partitions)
    busy: dict[Connection, tuple[multiprocessing.process.BaseProcess, int, int]] = {}

    def give(connection: Connection, process: multiprocessing.process.BaseProcess) -> None:
        if waiting:
            partition, attempt = waiting.popleft()
            busy[connection] = (process, partition, attempt)
            connection.send(partition)
        else:
            connection.send(None)
            process.join()

    def start() -> None:
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, job), daemon=True)
        with _deaf_to_interrupts():
            process.start()
        there.close()
        give(here, process)

    for _ in range(min(workers, len(partitions))):
        start()
    try:
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                process, partition, attempt = busy[connection]
                try:
                    kind, value = connection.recv()
                except EOFError:
                    process.join()
                    del busy[connection]
                    what = f"its worker ended with exit code {process.exitcode}"
                    if attempt < ATTEMPTS:
                        listener.end(StepReport(partition, "worker", "retried", error=f"{what}; attempt {attempt + 1} of {ATTEMPTS}"))
                        waiting.append((partition, attempt + 1))
                    else:
                        report = StepReport(partition, INDEX, "failed", error=f"{what}, {ATTEMPTS} times")
                        listener.end(report)
                        yield PartitionReport(partition, 0, {}, 0, (report,))
                    if waiting:
                        start()
                    continue
                if kind == "error":
                    raise value
                if kind == "report":
                    del busy[connection]
                    yield value
                    give(connection, process)
                else:
                    getattr(listener, kind)(*value)
    finally:
        for process, _, _ in busy.values():
            process.terminate()
            process.join()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started inside ignore SIGINT, which a terminal sends to all of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Sender:
    """A `Listener` that passes everything on to the parent."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def begin(self, partition: int, step: str) -> None:
        self._connection.send(("begin", (partition, step)))

    def song(self, partition: int, step: str, count: int) -> None:
        self._connection.send(("song", (partition, step, count)))

    def end(self, report: StepReport) -> None:
        self._connection.send(("end", (report,)))


def _work(connection: Connection, job: Job) -> None:
    runner = Runner(job, _Sender(connection), Faults.from_environment())
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        while (partition := connection.recv()) is not None:
            try:
                connection.send(("report", runner.run(partition)))
            except AutoSingError as error:
                connection.send(("error", error))
                return
