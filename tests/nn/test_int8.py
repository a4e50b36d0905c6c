"""Int8 matrices: how far off they are, and that int8 checkpoints lose nothing more of their weights."""

import pytest
import torch
from torch import nn

from autosing.errors import ConfigError
from autosing.nn.int8 import ENGINE, Int8Linear, linears_to_int8, require_int8

needs_int8 = pytest.mark.skipif(ENGINE not in torch.backends.quantized.supported_engines, reason="int8 needs an x86 processor")


@needs_int8
@torch.no_grad()
def test_a_matrix_in_int8_is_a_hundredth_off() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(96, 40), torch.randn(3, 5, 96)
    wanted, found = linear(x), Int8Linear(linear.weight, linear.bias)(x)
    assert found.shape == wanted.shape and found.dtype == torch.float32
    assert 0 < (found - wanted).norm() / wanted.norm() < 0.02
    assert torch.equal(Int8Linear(linear.weight, linear.bias)(x), found)


@needs_int8
@torch.no_grad()
def test_the_largest_numbers_do_not_overflow() -> None:
    largest = Int8Linear(torch.ones(8, 256), torch.zeros(8))
    torch.testing.assert_close(largest(torch.ones(2, 256)), torch.full((2, 8), 256.0), rtol=0.01, atol=0)


@needs_int8
@torch.no_grad()
def test_weights_that_were_stored_in_int8_come_back_as_they_were() -> None:
    """With inputs that eight bits hold, nothing is rounded: each output is one stored weight."""
    torch.manual_seed(0)
    stored, scale = torch.randint(-127, 128, (6, 24)), torch.rand(6, 1) * 0.01 + 0.001
    stored[:, 0] = 127
    weight = stored * scale
    torch.testing.assert_close(Int8Linear(weight, torch.zeros(6))(torch.eye(24)), weight.T, rtol=1e-5, atol=1e-7)


@needs_int8
def test_linears_are_replaced_but_those_named() -> None:
    net = nn.ModuleDict({"inside": nn.ModuleDict({"kept": nn.Linear(4, 4), "up": nn.Linear(4, 4)}), "norm": nn.LayerNorm(4), "down": nn.Linear(4, 4)})
    linears_to_int8(net, but="kept")
    kinds = {name: type(module) for name, module in net.named_modules()}
    assert kinds["inside.kept"] is nn.Linear and kinds["inside.up"] is kinds["down"] is Int8Linear and kinds["norm"] is nn.LayerNorm


def test_another_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="int8 is for x86 processors, found meta"):
        require_int8(torch.device("meta"))
