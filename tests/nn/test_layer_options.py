"""What layers can be asked for: fewer heads of keys and values, checkpointing, layer dropout; and that compiling them leaves whole graphs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from autosing.models.sm2a import SM2A
from autosing.models.t2s import T2S
from autosing.nn.attention import rotary_table, split_heads
from autosing.nn.blocks import Build, Decoder, Encoder
from autosing.nn.mup import Mup
from tests.models import test_sm2a_model, test_t2s_model
from tests.sequence_rows import wake

BUILD = Build(128, 2, Mup())


def stacks(**options: Any) -> torch.nn.ModuleList:
    torch.manual_seed(0)
    build = replace(BUILD, **options)
    return wake(torch.nn.ModuleList([Encoder(2, build), Decoder(2, build, cross_weights=(1.0,), cross_layers=2)])).train()


def run(both: torch.nn.ModuleList, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    encoder, decoder = both
    table = rotary_table(torch.arange(x.shape[1]), 64)
    states = encoder(x, table)
    return decoder(x, table, decoder.project([(states, table, None)]))


def test_checkpointing_changes_neither_losses_nor_gradients_with_dropout_too() -> None:
    x = torch.randn(3, 9, 128)
    results = []
    for checkpointing in (False, True):
        both = stacks(dropout=0.2, layer_dropout=0.3, checkpointing=checkpointing)
        loss = run(both, x).square().mean()
        loss.backward()
        results.append((loss, [p.grad for p in both.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_checkpointing_keeps_less() -> None:
    """Bytes that autograd saves in the forward pass."""

    def saved(checkpointing: bool) -> int:
        sizes: dict[int, int] = {}
        keep = lambda t: (sizes.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}), t)[1]  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            both = stacks(checkpointing=checkpointing)
            held = run(both, torch.randn(8, 64, 128))
        parameters = {p.untyped_storage().data_ptr() for p in both.parameters()}
        assert held.requires_grad
        return sum(size for pointer, size in sizes.items() if pointer not in parameters)

    assert saved(True) < 0.5 * saved(False)


def test_keys_of_fewer_heads_equal_repeated_ones() -> None:
    """One head of keys and values for two of queries = two heads whose matrices are the same."""
    few, many = stacks(kv_heads=1), stacks()
    for name, parameter in many.named_parameters():
        source = few.get_parameter(name)
        if name.rsplit(".", 2)[1] in ("qkv", "key_value"):
            first = 128 if "qkv" in name else 0
            keys, values = source[first : first + 64], source[first + 64 :]
            source = torch.cat([source[:first], keys, keys, values, values])
        parameter.data.copy_(source)
    x = torch.randn(2, 9, 128)
    torch.testing.assert_close(run(few, x), run(many, x), rtol=1e-5, atol=1e-5)


def test_layer_dropout_passes_examples_over_in_training_alone() -> None:
    x = torch.randn(64, 3, 128)
    (layer,) = wake(Encoder(1, replace(BUILD, layer_dropout=0.25))).train().layers
    torch.manual_seed(1)
    same = (layer(x, None) == x).flatten(1).all(1)
    assert 6 <= int(same.sum()) <= 28
    whole = layer.eval()(x, None)
    assert not (whole == x).flatten(1).all(1).any()
    torch.manual_seed(1)
    torch.testing.assert_close(layer.train()(x, None)[~same], whole[~same])


@pytest.mark.parametrize("counts, rotated", [((3, 2, 2), 2), ((2, 2), 1), ((4,), 1)], ids=["self", "source", "query"])
def test_rotated_heads_and_their_gradients_equal_the_plain_formula(counts: tuple[int, ...], rotated: int) -> None:
    """With gradients and without them, and of heads whose gradient comes in any layout."""
    x = torch.randn(2, 5, sum(counts), 64, dtype=torch.float64, requires_grad=True)
    table = rotary_table(torch.arange(5) * 1.5, 64)

    def plain(x: Tensor) -> list[Tensor]:
        cosines, sines = table.double()
        parts = [part.transpose(1, 2) for part in x.split(counts, 2)]
        return [p * cosines + p.roll(32, -1) * sines if index < rotated else p for index, p in enumerate(parts)]

    for function in (lambda x: split_heads(x, counts, rotated, table), lambda x: split_heads(x.detach(), counts, rotated, table)):
        for one, other in zip(function(x), plain(x), strict=True):
            torch.testing.assert_close(one, other, check_stride=False)
    for turn in (lambda g: g, lambda g: g.transpose(1, 2).contiguous().transpose(1, 2)):
        gradients = [turn(torch.randn_like(part)) for part in plain(x)]
        (slope,) = torch.autograd.grad(split_heads(x, counts, rotated, table), x, gradients)
        torch.testing.assert_close(slope, torch.autograd.grad(plain(x), x, gradients)[0])
    unrotated = split_heads(x, counts, rotated, None)
    assert all(torch.equal(one, part.transpose(1, 2)) for one, part in zip(unrotated, x.split(counts, 2), strict=True))


def run_t2s(model: Any) -> Tensor:
    return test_t2s_model.run.__wrapped__(model, test_t2s_model.inputs(), cached=False)  # with gradients


def run_sm2a(model: Any) -> Tensor:
    return test_sm2a_model.run.__wrapped__(model, test_sm2a_model.inputs())  # with gradients


@pytest.mark.parametrize("cls, config, step", [(T2S, test_t2s_model.CONFIG, run_t2s), (SM2A, test_sm2a_model.CONFIG, run_sm2a)], ids=["t2s", "sm2a"])
def test_compiled_parts_are_whole_graphs_whatever_is_asked_for(cls: Any, config: Any, step: Callable[[Any], Tensor]) -> None:
    """In training, and its backward pass too; `fullgraph` refuses any break."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = wake(cls(replace(config, kv_heads=1, dropout=0.1, layer_dropout=0.2, checkpointing=True))).train()
    for part in model.compiled_parts():
        part.compile(backend="eager", fullgraph=True)
    step(model).square().mean().backward()
    assert model.decoder.layers[0].attention.qkv.weight.grad.abs().sum() > 0
