"""Which device work runs on, decided once at the top and passed down; and whether its arithmetic must repeat to the bit."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from autosing.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")


def pick_device(name: str = "auto") -> torch.device:
    """`auto` = CUDA, then MPS, then CPU; any other name is taken as torch understands it.

    Raises:
        ConfigError: the name is not a device of this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device '{name}' is not usable on this machine ({error}); use auto, cpu or cuda") from error
    if device.type == "meta":
        raise ConfigError("device 'meta' computes nothing; use auto, cpu or cuda")
    return device


def usable_cores() -> int:
    """Those that this process may use: a scheduler leaves a job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], device: torch.device, progress: Callable[[int, int], None] | None = None
) -> list[Result]:
    """`work` of each item, for inference. On a CPU as many at a time as torch has threads, one thread each: what is made of many small operations
    gains little from several threads inside them. On other devices, or with one thread, one after the other.

    Args:
        progress: told (items done, items).
    """
    threads = torch.get_num_threads()

    def infer(item: Item) -> Result:
        with torch.inference_mode():
            return work(item)

    if device.type != "cpu" or threads == 1 or len(items) < 2:
        return list(_counted(map(infer, items), len(items), progress))
    try:
        with ThreadPoolExecutor(min(threads, len(items)), "side by side", torch.set_num_threads, (1,)) as pool:
            return list(_counted(pool.map(infer, items), len(items), progress))
    finally:
        torch.set_num_threads(threads)  # a part of what a thread says for itself holds for all


def _counted(results: Iterator[Result], count: int, progress: Callable[[int, int], None] | None) -> Iterator[Result]:
    for done, result in enumerate(results, start=1):
        if progress is not None:
            progress(done, count)
        yield result


def has_matrix_units(dtype: torch.dtype) -> bool:
    """Whether this machine's processor has matrix units (AMX) for a type."""
    asked = {torch.bfloat16: "_is_amx_tile_supported", torch.float16: "_is_amx_fp16_supported"}.get(dtype, "")
    return bool(getattr(torch.cpu, asked, lambda: False)())


def quick_matrices(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Inside the block large matrices are multiplied in bf16, where that is the CPU and it has units for it; elsewhere nothing changes."""
    return torch.autocast("cpu", torch.bfloat16, enabled=device.type == "cpu" and has_matrix_units(torch.bfloat16))


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Inside the block torch uses only algorithms that give the same bits every time; without `wanted` it changes nothing.

    Raises:
        ConfigError: something in the block has no such algorithm; names the operation.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        operation, found, _ = str(error).partition(" does not have a deterministic implementation")
        if not found:
            raise
        raise ConfigError(
            f"--deterministic: '{operation}' has no deterministic implementation on this device; leave the flag out, or train on the CPU"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
