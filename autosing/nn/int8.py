"""Matrices in int8, for decoding step by step on a CPU, where reading the weights is most of the work.

A row of weights is rounded to 1/127 of its largest value, as int8 checkpoints store it (so that those lose nothing more), and what goes in to 1/255 of
its range, anew in each call: PyTorch's dynamically quantised linear, by FBGEMM. What comes out is float32. In place of float32 matrices, for inference
alone; nothing here is ever saved.
"""

from functools import cache

import torch
from torch import Tensor, nn

from autosing.errors import ConfigError

ENGINE = "fbgemm"


class Int8Linear(nn.Module):
    """(..., in) -> (..., out) like the `nn.Linear` of `weight` (out, in) and `bias` (out), about one hundredth off."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        require_int8(weight.device)
        self.packed, self.narrow = _pack(weight, bias), _saturates()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x, self.packed, self.narrow)


def require_int8(device: torch.device) -> None:
    """
    Raises:
        ConfigError: this machine has no fast int8.
    """
    if device.type != "cpu" or ENGINE not in torch.backends.quantized.supported_engines:
        found = str(device) if device.type != "cpu" else "another kind"
        raise ConfigError(f"int8 is for x86 processors, found {found}; leave --int8 out, or give --device cpu on such a machine")


def linears_to_int8(module: nn.Module, but: str) -> None:
    """Put int8 in place of every `nn.Linear` within `module`, those called `but` excepted."""
    for parent in [*module.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and name != but:
                setattr(parent, name, Int8Linear(child.weight.detach(), None if child.bias is None else child.bias.detach()))


def _pack(weight: Tensor, bias: Tensor | None) -> torch.ScriptObject:
    scale = weight.abs().amax(1).double().clamp(min=1e-12) / 127
    rounded = torch.quantize_per_channel(weight, scale, torch.zeros(len(scale), dtype=torch.long), 0, torch.qint8)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = ENGINE  # the only way to choose whose format it is
    try:
        return torch.ops.quantized.linear_prepack(rounded, bias)
    finally:
        torch.backends.quantized.engine = before


@cache
def _saturates() -> bool:
    """Whether this processor adds two products in 16 bits, which only inputs of seven bits fit."""
    largest = torch.ones(16, 64)
    return bool((torch.ops.quantized.linear_dynamic(largest, _pack(largest, None), False) < 63).any())
