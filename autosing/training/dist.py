"""Ranks and the few collectives the loop needs; every function is the identity when there is one process.

Who is which rank comes from what `torchrun` sets, else from what SLURM's `srun` sets for a step of several tasks. The global batch is
shared out over the ranks by the data plan (`batches.py`), so the sequence of rows does not depend on the number of ranks. Nothing is
pickled: ranks exchange tensors and JSON. Sharded parameters are `sharding.py`, a rank that fails is `alarm.py`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from autosing.errors import ConfigError, MismatchError, one_line

JOIN_SECONDS = 300.0  # how long ranks wait for each other at the start
_PORTS = (20_000, 20_000)  # of SLURM jobs: the first, and how many


@dataclass(frozen=True)
class Ranks:
    """Which of `world` equal processes this is.

    Attributes:
        local: number among the processes of its machine.
        address, port: where the store that the ranks meet at listens.
        agent: that store is torchrun's own; else the first rank makes it.
        attempt: how often torchrun has started the job again.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    address: str = "127.0.0.1"
    port: int = 29_500
    agent: bool = False
    attempt: int = 0

    @property
    def first(self) -> bool:
        """True for the one process that writes files and shows progress."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Ranks":
        """Read what torchrun or else srun set; a single process when neither did. MASTER_ADDR and MASTER_PORT win where they are set."""
        values = os.environ if environment is None else environment
        if "RANK" in values:
            rank, world, local = (int(values.get(k, d)) for k, d in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))
            address, port = "127.0.0.1", cls.port
        elif int(values.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # set by srun alone, not in a batch script that starts one process
            rank, world, local = (int(values[k]) for k in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))
            address = first_host(values.get("SLURM_STEP_NODELIST", values.get("SLURM_JOB_NODELIST", "127.0.0.1")))
            port = _PORTS[0] + int(values.get("SLURM_JOB_ID", "0")) % _PORTS[1]
        else:
            return cls()
        return cls(
            rank,
            world,
            local,
            values.get("MASTER_ADDR", address),
            int(values.get("MASTER_PORT", port)),
            values.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            int(values.get("TORCHELASTIC_RESTART_COUNT", "0")),
        )

    def store(self, name: str, serve: bool = False) -> dist.Store:
        """A connection of its own to the store of all ranks, in which keys of `name` are apart; with `serve` the store is made."""
        server = serve and self.first and not self.agent
        store = dist.TCPStore(
            self.address, self.port, self.world, server, timedelta(seconds=JOIN_SECONDS), wait_for_workers=False, multi_tenant=True
        )
        return dist.PrefixStore(f"autosing/{self.attempt}/{name}", store)


def first_host(nodes: str) -> str:
    """The first name of a SLURM list of nodes: `gpu[03-05,7],other` -> `gpu03`."""
    name, _, numbers = nodes.partition(",")[0].partition("[")
    return name + numbers.rstrip("]").partition("-")[0]


def start(ranks: Ranks, device: torch.device) -> torch.device:
    """Join the group of processes when there are several; the device of this rank.

    Raises:
        ConfigError: a rank without a GPU of its own, or the ranks did not find each other.
    """
    if ranks.world == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", _own_gpu(ranks.local, torch.cuda.device_count()))
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=ranks.store("group", serve=True),
            rank=ranks.rank,
            world_size=ranks.world,
            device_id=device if device.type == "cuda" else None,
        )
    except dist.DistError as error:
        raise ConfigError(
            f"rank {ranks.rank} of {ranks.world} did not find the others at {ranks.address}:{ranks.port} ({one_line(error, first=True)}); see that "
            "every rank was started and can reach that address, or set MASTER_ADDR and MASTER_PORT"
        ) from error
    return device


def _own_gpu(local: int, gpus: int) -> int:
    """The GPU of process `local` of a machine: its own number, or the only one that its launcher shows it."""
    if local >= gpus > 1:
        raise ConfigError(f"process {local} of this machine has no GPU of its own, there are {gpus}; start {gpus} processes a machine")
    return local if gpus > 1 else 0


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


def require_agreement(values: Mapping[str, Any], ranks: Ranks) -> None:
    """Refuse ranks that were started differently, or that see different files.

    Raises:
        MismatchError: names the first of the JSON `values` in which a rank differs from the first one.
    """
    everywhere = gather(dict(values), ranks)
    for rank, theirs in enumerate(everywhere):
        for name, value in everywhere[0].items():
            if theirs.get(name) != value:
                raise MismatchError(
                    f"rank {rank} has {name} = {theirs.get(name)!r}, rank 0 has {value!r}; start every rank with the same flags, on "
                    "machines that see the same files"
                )


def parallel(module: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """`module` with gradients averaged over the ranks; `module` itself when there is one."""
    if ranks.world == 1:
        return module
    ids = [device.index] if device.type == "cuda" else None
    # A task may leave parameters out of a batch (a lane that is masked), which plain DDP refuses. Buffers are frozen tables, sent once.
    return DistributedDataParallel(
        module, device_ids=ids, find_unused_parameters=True, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def mean_over_ranks(terms: Sequence[tuple[Tensor, Tensor]], ranks: Ranks) -> Tensor:
    """This rank's loss, such that its mean over the ranks is the loss of their batches put together.

    Args:
        terms: (addend of the loss, how many things it is a mean over on this rank); as many on every rank.
    """
    counts = torch.stack([count.detach().double().reshape(()) for _, count in terms])
    everywhere = sum_(counts.clone(), ranks)
    shares = (counts * ranks.world / everywhere.clamp(min=1)).float()
    return torch.stack([addend for addend, _ in terms]).mul(shares).sum()


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


def gather(value: Any, ranks: Ranks) -> list[Any]:
    """The JSON value of every rank, in their order."""
    if ranks.world == 1:
        return [value]
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(ranks.world)]
    dist.all_gather(sizes, torch.tensor([len(own)], device=device))
    lengths = [int(size) for size in sizes]
    texts = [torch.zeros(max(lengths), dtype=torch.uint8, device=device) for _ in lengths]
    dist.all_gather(texts, F.pad(own, (0, max(lengths) - len(own))))
    return [json.loads(bytes(text[:length].tolist())) for text, length in zip(texts, lengths, strict=True)]


def union(names: Sequence[tuple[str, ...]], ranks: Ranks) -> list[tuple[str, ...]]:
    """Everything any rank names, in one order for all."""
    if ranks.world == 1:
        return list(names)
    return sorted({tuple(name) for members in gather(list(names), ranks) for name in members})


def wait(ranks: Ranks) -> None:
    """Until every rank is here."""
    if ranks.world > 1:
        dist.barrier()
