"""What a run will take, from a few of its own steps: time, memory of a rank, tokens; and whether it fits.

The steps are real ones, on the run's first rows; nothing is written, and the trainer is not used again. Time is that of training, validation and
the snapshots of saves; starting up, drawing curves and samples are left out. Memory is the peak that the device (CUDA) or the process (elsewhere)
has seen.
"""

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autosing.errors import ConfigError
from autosing.training import dist
from autosing.training.batches import VALIDATION_BATCH, TrainBatches
from autosing.training.loader import prefetch
from autosing.training.loop import Trainer
from autosing.training.sharding import own

WARM_STEPS, STEPS = 3, 3
VALIDATION_BATCHES = 3
GIB = 1 << 30


@dataclass(frozen=True)
class Estimate:
    """Of a whole run.

    Attributes:
        parameters, frozen: numbers in the model that are trained, and that are not.
        steps: None where only the clock bounds the run; `seconds` is then its bound.
        done: of these steps, before the process that is planned; its times, validations and saves are of the rest.
        tokens_per_epoch: what the task scores in an epoch; None where it does not say.
        step_seconds, validation_seconds, save_seconds: of one each.
        memory, capacity: bytes of a rank at the given batch, and of its device.
        held: the part of `memory` that does not grow with the batch, from the model's own tensors.
    """

    parameters: int
    frozen: int
    rows: int
    steps: int | None
    done: int
    tokens_per_epoch: int | None
    step_seconds: float
    validation_seconds: float
    validations: int
    save_seconds: float
    saves: int
    seconds: float
    memory: int
    capacity: int
    held: int


def estimate(trainer: Trainer, validate_first: bool = False, done: int = 0, seconds_before: float = 0.0) -> Estimate:
    """Take a few steps as those of the run.

    Args:
        trainer: one that has not begun.
        validate_first: as the run's `fit` will be told.
        done, seconds_before: steps and time of a run that is to go on.

    Raises:
        ConfigError: it does not fit; names what to change.
    """
    settings, device = trainer.settings, trainer.device
    capacity, held = capacity_of(device), held_bytes(trainer)
    if device.type != "cuda":  # the ranks of a machine share its memory
        capacity //= dist.gather(platform.node(), trainer.ranks).count(platform.node())
    if held > capacity:
        raise _does_not_fit(trainer, held, capacity, held)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = peak_memory(device)
    try:
        step_seconds, tokens = _steps(trainer)
        validation_seconds = _validation(trainer)
        clock = time.monotonic()
        trainer.snapshot()
        save_seconds = time.monotonic() - clock
    except torch.OutOfMemoryError as error:
        raise _does_not_fit(trainer, None, capacity, held) from error
    memory = max(dist.gather(peak_memory(device), trainer.ranks))
    if memory > capacity:
        raise _does_not_fit(trainer, memory, capacity, held + (0 if device.type == "cuda" else before))
    steps = trainer.total
    validations = saves = 0
    left = max(0, steps - done) if steps is not None else 0
    if steps is not None and left:
        validations = math.ceil(steps / settings.validate_every) - done // settings.validate_every + validate_first
        saves = validations
        if settings.save_every is not None:
            saves = math.ceil(steps / settings.save_every) - done // settings.save_every + validate_first
        saves += trainer.ranks.world > 1  # before the last validation
    seconds = left * step_seconds + validations * validation_seconds + saves * save_seconds
    if settings.minutes is not None:
        bound = max(0.0, 60 * settings.minutes - seconds_before)
        seconds = min(seconds, bound) if steps is not None else bound
    trained = sum(p.numel() for p in trainer.learner.parameters)
    return Estimate(
        trained, sum(p.numel() for p in trainer.model.parameters()) - trained, len(trainer.data.train), steps, done, tokens, step_seconds,
        validation_seconds, validations, save_seconds, saves, seconds, memory, capacity, held,
    )  # fmt: skip


def _steps(trainer: Trainer) -> tuple[float, int | None]:
    """(seconds of one step, tokens of an epoch): the median of `STEPS` steps, which one hiccup of the machine does not move, after `WARM_STEPS`."""
    settings, device = trainer.settings, trainer.device
    batches = TrainBatches(trainer.task, trainer.data.train, trainer.plan, trainer.ranks.rank, trainer.ranks.world)
    stream = prefetch(batches, range((WARM_STEPS + STEPS) * settings.accumulate), settings.workers, pin=device.type == "cuda")
    taken = []
    for _ in range(WARM_STEPS + STEPS):
        begun = time.monotonic()
        trainer.train_step(stream)
        _wait_for(device)
        taken.append(time.monotonic() - begun)
    seconds = statistics.median(taken[WARM_STEPS:])
    count = getattr(trainer.task, "tokens", None)
    if count is None:
        return seconds, None
    batch = batches[0]
    counted = dist.gather([count(batch.tensors), len(batch.ids)], trainer.ranks)
    return seconds, round(sum(tokens for tokens, _ in counted) / sum(rows for _, rows in counted) * len(trainer.data.train))


def _validation(trainer: Trainer) -> float:
    """Seconds of a validation, from its first batches."""
    count = min(len(trainer.data.validation), trainer.settings.validation_rows)
    size = min(trainer.settings.batch_size, VALIDATION_BATCH)  # ranks take whole batches
    batches = math.ceil(count / size / trainer.ranks.world)
    if not batches:
        return 0.0
    measured = min(batches, VALIDATION_BATCHES)
    begun = time.monotonic()
    trainer.validate(rows=min(count, measured * size * trainer.ranks.world))
    _wait_for(trainer.device)
    return (time.monotonic() - begun) * batches / measured


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- memory


def held_bytes(trainer: Trainer) -> int:
    """Bytes that a rank holds whatever its batch: its part of weights, gradients, both moments, the moving average."""
    state = trainer.model.state_dict().values()
    trained, everything = sum(own(p).nbytes for p in trainer.learner.parameters), sum(own(t).nbytes for t in state)
    snapshot = 0  # whole, on the first rank; where that trains in the process's memory it lies there too
    if trainer.device.type != "cuda":
        snapshot = sum(t.nbytes for t in state) + 2 * sum(p.nbytes for p in trainer.learner.parameters)
    return everything + (4 if trainer.learner.ema is not None else 3) * trained + snapshot


def peak_memory(device: torch.device) -> int:
    """Most bytes that the device has held for this process, or the process itself where it trains in its own memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def capacity_of(device: torch.device) -> int:
    """Bytes of the device, or of the machine (or what its container is allowed)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        total = min(total, int(text))
    return total


def _does_not_fit(trainer: Trainer, memory: int | None, capacity: int, fixed: int) -> ConfigError:
    """What to change: the batch where that helps, else the model."""
    settings = trainer.settings
    needs = f"{memory / GIB:.3g} GiB a rank" if memory is not None else "more memory"
    found = f"--plan: this run needs {needs}, {trainer.device} has {capacity / GIB:.3g} GiB; "
    if fixed >= capacity:
        return ConfigError(found + "no batch is small enough: take a smaller \"size\" in --task-args" + (", or leave out --ema" if trainer.learner.ema else ""))
    world = trainer.ranks.world
    share = 0.5 if memory is None else (capacity - fixed) / max(1, memory - fixed)
    fitting = [n for n in range(world, settings.batch_size, world) if settings.batch_size % n == 0 and n <= share * settings.batch_size]
    if not fitting:
        return ConfigError(found + "take a smaller \"size\" or shorter rows in --task-args")
    times = settings.batch_size // fitting[-1] * settings.accumulate
    return ConfigError(found + f"take --batch-size {fitting[-1]} --accumulate-grad-batches {times}, which trains on as many rows a step")


def describe_estimate(found: Estimate, trainer: Trainer) -> Sequence[str]:
    """Lines for people."""
    settings = trainer.settings
    tokens = f", {found.tokens_per_epoch:,} tokens an epoch" if found.tokens_per_epoch is not None else ""
    rows_a_step = settings.batch_size * settings.accumulate
    bound = "as many as its time allows"
    if found.steps is not None:
        left = max(0, found.steps - found.done)
        bound = f"{left:,}{f' left of {found.steps:,},' if found.done else ''} of {rows_a_step} rows, {left * rows_a_step / found.rows:.3g} epochs"
    return (
        f"parameters  {found.parameters:,}" + (f" (+ {found.frozen:,} frozen)" if found.frozen else ""),
        f"memory      {found.memory / GIB:.3g} GiB a rank of {found.capacity / GIB:.3g} GiB on {trainer.device}, at {settings.batch_size // trainer.ranks.world} rows",
        f"data        {found.rows:,} rows{tokens}",
        f"steps       {bound}",
        f"time        {found.step_seconds:.3g} s a step, {found.validations} validations of {found.validation_seconds:.3g} s, {found.saves} saves that hold "
        f"it up {found.save_seconds:.2g} s: {_duration(found.seconds)}",
    )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
