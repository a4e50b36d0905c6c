"""The order that rows are trained in, and the batches made of them.

Order: a run is one endless stream of positions 0, 1, 2, ...; position p is row `permutation(seed, epoch)[p mod rows]` of epoch p // rows, and
micro-batch m holds positions m * batch_size ... (m + 1) * batch_size - 1, shared out over the ranks in equal runs. So every row comes once in
every epoch, every batch is full (one may straddle two epochs), and where a run stands is one integer; workers, ranks and restarts
change nothing. An example's randomness comes from (seed, position) alone.

A row that a task finds unfit (`example` returns None) is counted and replaced by a row drawn from (seed, position, attempt), so batches keep
their shape. In validation it is left out. Batches made ahead, in processes of their own, are `loader.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from autosing.errors import AutoSingError, DataError
from autosing.training.task import Batch, Row, Task

MAX_ATTEMPTS = 64  # unfit rows in a row before a dataset is refused
VALIDATION_BATCH = 64
_ALIGNMENT = 64  # bytes; of tensors in a packed batch
_ORDER, _EXAMPLE, _VALIDATION_ORDER, _VALIDATION = range(4)  # one stream of random numbers each


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
