"""`--strategy fsdp`: parameters, gradients and optimiser state shared out over the ranks (FSDP2), and whole tensors where they are needed.

A class of modules whose parameters are gathered one module at a time says so with `block_methods`: the methods it is entered by
besides `forward`. Everything outside such blocks is one group, gathered for the whole step. What is saved is always whole, in the format of
one process; so any number of ranks goes on from it, sharded or not.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from autosing.errors import ConfigError
from autosing.training import dist

STRATEGIES = ("ddp", "fsdp")


def shard(module: nn.Module, ranks: dist.Ranks, device: torch.device) -> None:
    """Share out the parameters of `module`, in place and as the first rank has them; build the optimiser after this.

    Raises:
        ConfigError: a parameter without an axis, which cannot be shared out.
    """
    scalar = next((name for name, parameter in module.named_parameters() if not parameter.dim()), None)
    if scalar is not None:
        raise ConfigError(f"--strategy fsdp cannot share out the scalar parameter '{scalar}'; give it the shape (1,), or use --strategy ddp")
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.detach().copy_(dist.from_first(tensor.detach().clone(memory_format=torch.contiguous_format), ranks))
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()  # a channels-last weight cannot be shared out as it lies
    mesh = init_device_mesh(device.type, (ranks.world,))
    for part in (*[m for m in module.modules() if m is not module and hasattr(m, "block_methods")], module):
        fully_shard(part, mesh=mesh)
        for name in getattr(part, "block_methods", ()):
            register_fsdp_forward_method(part, name)
    for part in _parts(module):  # gloo of torch 2.8 adds up where it is asked for the mean
        part.set_force_sum_reduction_for_comms(device.type == "cpu")


def _parts(module: nn.Module) -> list[FSDPModule]:
    return [m for m in module.modules() if isinstance(m, FSDPModule)]


def synchronise(module: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    """A block whose backward pass adds up gradients over the ranks (`now`), or leaves that to a later one."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(now)
        module.set_is_last_backward(now)
    elif not now and hasattr(module, "no_sync"):
        return module.no_sync()  # type: ignore[operator]
    return contextlib.nullcontext()


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Inside this block every rank holds all parameters, so that each may call `module` as often as it likes, without gradients."""
    parts = _parts(module)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not module, recurse=False)


def own(tensor: Tensor) -> Tensor:
    """What this rank holds of `tensor`."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """`tensor` with what other ranks hold of it; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(tensors: Mapping[str, Tensor], ranks: dist.Ranks) -> dict[str, Tensor]:
    """Copies of whole tensors in CPU memory on the first rank; nothing on the others. Every rank must ask."""
    kept = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())
        if ranks.first:
            kept[name] = value.to("cpu", copy=not isinstance(tensor, DTensor)).contiguous()
    return kept


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A whole `value`, which every rank has, shared out as `like` is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
