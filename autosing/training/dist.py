"""Ranks and the few collectives the loop needs; every function is the identity when there is one process.

Rank and world come from the environment `torchrun` sets (RANK, WORLD_SIZE, LOCAL_RANK). The global batch is shared out over the
ranks by the data plan (`data.py`), so the sequence of rows does not depend on the number of ranks.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from autosing.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """Which of `world` equal processes this is; `local` numbers those of one machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """True for the one process that writes files and shows progress."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Ranks":
        """Read what torchrun set; a single process when it set nothing."""
        values = os.environ if environment is None else environment
        return cls(*(int(values.get(k, d)) for k, d in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))))


def start(ranks: Ranks, device: torch.device) -> torch.device:
    """Join the group of processes when there are several; the device of this rank."""
    if ranks.world == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", ranks.local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=ranks.rank, world_size=ranks.world)
    return device


def stop(ranks: Ranks) -> None:
    if ranks.world > 1 and dist.is_initialized():
        dist.destroy_process_group()


def require_divisible(batch_size: int, ranks: Ranks) -> None:
    """Refuse a global batch that the ranks cannot share evenly.

    Raises:
        ConfigError: `batch_size` is no multiple of the number of ranks.
    """
    if batch_size % ranks.world:
        raise ConfigError(f"--batch-size {batch_size} counts all ranks and cannot be shared by {ranks.world}; use a multiple")


def parallel(module: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """`module` with gradients averaged over the ranks; `module` itself when there is one."""
    if ranks.world == 1:
        return module
    ids = [device.index] if device.type == "cuda" else None
    # A task may leave parameters out of a batch (a lane that is masked), which plain DDP refuses.
    return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)


def sum_(values: Tensor, ranks: Ranks) -> Tensor:
    """Sum of `values` over the ranks, in place."""
    if ranks.world > 1:
        dist.all_reduce(values)
    return values


def max_(values: Tensor, ranks: Ranks) -> Tensor:
    """Largest of `values` over the ranks, in place."""
    if ranks.world > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def from_first(values: Tensor, ranks: Ranks) -> Tensor:
    """The first rank's `values` everywhere, in place."""
    if ranks.world > 1:
        dist.broadcast(values, 0)
    return values


def union(names: Sequence[tuple[str, ...]], ranks: Ranks) -> list[tuple[str, ...]]:
    """Everything any rank names, in one order for all."""
    return list(names) if ranks.world == 1 else sorted(set(gather(names, ranks)))


def gather(values: Sequence[Any], ranks: Ranks) -> list[Any]:
    """Every rank's `values`, one after the other, for all."""
    if ranks.world == 1:
        return list(values)
    gathered: list[list[Any]] = [[] for _ in range(ranks.world)]
    dist.all_gather_object(gathered, list(values))
    return [value for members in gathered for value in members]


def wait(ranks: Ranks) -> None:
    """Until every rank is here."""
    if ranks.world > 1:
        dist.barrier()
