"""Which device work runs on, decided once at the top and passed down; and whether its arithmetic must repeat to the bit."""

import contextlib
import os
from collections.abc import Iterator

import torch

from autosing.errors import ConfigError


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
    return device


def usable_cores() -> int:
    """Those that this process may use: a scheduler leaves a job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
