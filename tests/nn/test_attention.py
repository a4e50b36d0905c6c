"""Attention and masks, tables and embeddings, rates of learning."""

import shutil

import pytest
import torch

from autosing.nn.attention import SelfAttention, attention_mask, rotary_table, split_heads
from autosing.nn.blocks import Build, Decoder, Encoder
from autosing.nn.embeddings import LaneEmbedding, interpolate, pick
from autosing.nn.mup import Mup, learning_rules
from autosing.training.optim import rule_for
from autosing.training.task import ParamRule

MUP = Mup()


def wake(module: torch.nn.Module, std: float = 0.1) -> None:
    """Queries start at zero, where every mask looks right; give them something to ask."""
    for name, parameter in module.named_parameters():
        if parameter.dim() == 2 and "norm" not in name:
            torch.nn.init.normal_(parameter, std=std)


def test_a_decoder_never_looks_ahead() -> None:
    torch.manual_seed(0)
    decoder = Decoder(2, Build(64, 1, MUP), cross_weights=(), cross_layers=0)
    wake(decoder)
    x = torch.randn(1, 9, 64)
    changed = x.clone()
    changed[:, 6:] += 1
    table = rotary_table(torch.arange(9), 64)
    empty: list[list] = [[], []]
    torch.testing.assert_close(decoder(x, table, empty)[:, :6], decoder(changed, table, empty)[:, :6])


def test_padding_of_an_encoder_changes_nothing() -> None:
    torch.manual_seed(0)
    encoder = Encoder(2, Build(64, 1, MUP))
    wake(encoder)
    x = torch.randn(1, 7, 64)
    padded = torch.cat([x, torch.randn(1, 3, 64)], 1)
    real = torch.tensor([[True] * 7 + [False] * 3])
    alone = encoder(x, rotary_table(torch.arange(7), 64))
    torch.testing.assert_close(encoder(padded, rotary_table(torch.arange(10), 64), real)[:, :7], alone, atol=1e-5, rtol=1e-4)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(1, 1, 1, 64), torch.randn(1, 1, 1, 64)
    at = lambda x, position: split_heads(x, (1,), 1, rotary_table(torch.tensor([position]), 64))[0]  # noqa: E731
    torch.testing.assert_close((at(q, 7) * at(k, 3)).sum(), (at(q, 107) * at(k, 103)).sum(), atol=1e-3, rtol=1e-4)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_attention_has_the_right_gradients_at_every_length() -> None:
    """The compiler's own kernel for CPUs fails from the second length on."""
    torch.manual_seed(0)
    attention = SelfAttention(64, 4, MUP, causal=True, kv_heads=2)
    wake(attention)
    compiled = torch.compile(attention)
    for steps in (8, 12, 20):
        x, table = torch.randn(2, steps, 64), rotary_table(torch.arange(steps), 16)
        given = [x.clone().requires_grad_() for _ in range(2)]
        found = [module(one, table) for module, one in zip((attention, compiled), given, strict=True)]
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)
        for y in found:
            y.square().sum().backward()
        torch.testing.assert_close(given[0].grad, given[1].grad, atol=1e-4, rtol=1e-4)


def test_masks_are_causal_and_reach_the_span() -> None:
    mask, both = (attention_mask(4, causal, 2, torch.device("cpu")) for causal in (True, False))
    assert mask is not None and both is not None
    assert mask.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert both.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert attention_mask(4, False, 9, torch.device("cpu")) is None


def test_a_lane_embedding_sums_its_lanes_and_has_a_row_for_holes() -> None:
    table = LaneEmbedding(3, 10, 8, MUP)
    grid = torch.tensor([[[1, 2], [-1, 3], [9, -1]]])
    rows = table.embedding.view(3, 11, 8)
    torch.testing.assert_close(table.embed(grid)[0, 0], rows[0, 1] + rows[1, 10] + rows[2, 9])
    assert table.logits(torch.randn(5, 8), 2).shape == (5, 10)


def test_interpolate_reads_between_states_and_clamps() -> None:
    states = torch.arange(4.0)[None, :, None]
    torch.testing.assert_close(interpolate(states, torch.tensor([-2.0, 0.25, 3.0, 9.0]))[0, :, 0], torch.tensor([0.0, 0.25, 3.0, 3.0]))


def test_pick_takes_each_rows_own_states() -> None:
    states, indices = torch.randn(2, 5, 3), torch.tensor([[4, 0], [1, 1]])
    torch.testing.assert_close(pick(states, indices)[1, 0], states[1, 1])
    torch.testing.assert_close(pick(states[:1], indices)[1, 1], states[0, 1])


def test_wider_models_learn_their_hidden_matrices_slower() -> None:
    scale = {width: dict((p, s) for p, s, _ in learning_rules(width, 10.0))["weight$"] for width in (192, 384)}
    assert scale == {192: 1.0, 384: 0.5}


def test_linear_heads_learn_like_hidden_matrices_and_tables_like_embeddings() -> None:
    rules = [ParamRule(*rule) for rule in learning_rules(384, 10.0)]
    found = {name: rule_for(f"codes_embedding.{name}", rules) for name in ("embedding", "heads.3.weight", "heads.3.bias")}
    assert {name: (rule.lr_scale, rule.decay) for name, rule in found.items()} == {
        "embedding": (10.0, False), "heads.3.weight": (0.5, True), "heads.3.bias": (1.0, False)
    }
