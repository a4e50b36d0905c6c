"""A second device on a machine that has none: tensors that say they are elsewhere, computed on the CPU.

`pretend_device()` stands in for an accelerator under the name of the device `lazy`, which PyTorch and the libraries around it know and give no meaning
to here. As with a real one, a tensor gets there by `.to(device)` or by being made there, comes back by `.cpu()`, has no `.numpy()`, and an operation that
mixes it with a tensor of the CPU fails, save with single numbers of no axis.
So a test of moves between devices needs no accelerator, and what a network says there can be compared with what it says here. Speed, kernels and
number formats are not pretended.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

AWAY, HERE = torch.device("lazy"), torch.device("cpu")
_MIXES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten._ctc_loss.Tensor, torch.ops.aten._ctc_loss_backward.Tensor)
"""What takes tensors of both devices: copies, and CTC, whose lengths may be on the CPU."""


class Away(torch.Tensor):
    """A tensor of the pretended device; its values are in `own`, on the CPU."""

    own: torch.Tensor

    @staticmethod
    def __new__(cls, own: torch.Tensor) -> "Away":
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, own.size(), strides=own.stride(), storage_offset=own.storage_offset(), dtype=own.dtype, device=AWAY, requires_grad=False
        )

    def __init__(self, own: torch.Tensor):
        self.own = own

    def __repr__(self, **_: Any) -> str:
        return f"Away({self.own})"

    def tolist(self) -> Any:
        return self.own.tolist()

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["own"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> "Away":
        return Away(inner["own"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees what is made by naming a device, which no tensor among the arguments would tell."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(value, torch.device) for value in tree_iter((args, kwargs))):
            with self:  # in inference mode `to` and its kin arrive whole, which otherwise are seen as their parts
                found = function.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        return _compute(function, args, kwargs)


class _Making(TorchFunctionMode):
    """Sees tensors made of values, lists of indices too, which are on their device before anything is dispatched."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is torch.Tensor.__getitem__ and isinstance(args[0], Away) and isinstance(args[1], list):
            args = args[0], torch.tensor(args[1]).to(AWAY)
        if function is torch.stft and isinstance(args[0], Away) and not torch.is_grad_enabled():  # its parts change strides in place, which no wrapper sees
            own_args, own_kwargs = tree_map_only(Away, lambda value: value.own, (args, kwargs))
            return Away(torch.stft(*own_args, **own_kwargs))
        return function(*args, **kwargs)


def _compute(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
    away = {id(value.own): value for value in given if isinstance(value, Away)}
    reads = function is torch.ops.aten._local_scalar_dense.default
    if away and function not in _MIXES and any(not isinstance(value, Away) and value.ndim for value in given):
        raise RuntimeError(f"{function}: expected all tensors to be on the same device, found the pretended one and the CPU")
    asked = kwargs.get("device")
    leaves = asked is not None and torch.device(asked).type == AWAY.type
    if leaves:
        kwargs = {**kwargs, "device": HERE}
    own_args, own_kwargs = tree_map_only(Away, lambda value: value.own, (args, kwargs))
    if function is torch.ops.aten.copy_.default:
        with torch.inference_mode(args[0].is_inference()), torch.no_grad():
            function(*own_args, **own_kwargs)
        return args[0]
    if reads or not (leaves if asked is not None else away):
        return function(*own_args, **own_kwargs)
    with torch.inference_mode(False), torch.no_grad():  # a tensor made in inference mode would have no versions, which wrappers need
        found = function(*own_args, **own_kwargs)  # what was worked on in place stays the object that it was
        return tree_map_only(torch.Tensor, lambda value: away[id(value)] if id(value) in away else Away(value.resolve_conj().resolve_neg()), found)


class _Module:
    """What PyTorch asks of `torch.<device>`: the pretended device draws its random numbers from the generator of the CPU."""

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


class _Generator:
    """`torch.Generator`; that of the pretended device is one of the CPU."""

    _real = torch.Generator

    def __new__(cls, device: Any = HERE) -> torch.Generator:  # type: ignore[misc]
        return cls._real(HERE if torch.device(device).type == AWAY.type else device)


@contextmanager
def pretend_device() -> Iterator[torch.device]:
    """The device to name while it lasts."""
    precision, enabled, cast = torch.get_autocast_dtype, torch.is_autocast_enabled, torch.autocast
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, AWAY.type, _Module, raising=False)
        patch.setattr(torch, "get_autocast_dtype", lambda kind: torch.float16 if kind == AWAY.type else precision(kind))
        patch.setattr(torch, "is_autocast_enabled", lambda *kind: kind != (AWAY.type,) and enabled(*kind))
        patch.setattr(torch, "autocast", lambda kind, *how, **more: nullcontext() if kind == AWAY.type else cast(kind, *how, **more))
        patch.setattr(torch, "Generator", _Generator)
        with _Mode(), _Making(), torch.jit.optimized_execution(False):  # scripts are compiled for devices that are known
            yield AWAY


def tensors_of(thing: Any, seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    """Parameters and buffers of every module that an object holds, however deep."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.nn.Module):
        yield from thing.parameters()
        yield from thing.buffers()
    elif isinstance(thing, dict | list | tuple):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from tensors_of(part, seen)
    elif type(thing).__module__.startswith("autosing"):
        yield from tensors_of(vars(thing), seen)
