"""Batches made ahead: worker processes, what they send, and how they end.

Workers change nothing but the time that a run waits. A batch crosses from one process to another as one piece of memory, and an error as its text.
What is in a batch is `batches.py`.
"""

import atexit
import functools
import multiprocessing
import multiprocessing.util  # registers its exit handler before ours
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from autosing.device import usable_cores
from autosing.errors import DataError
from autosing.training.batches import MicroBatch, Packed


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
