"""Pre-norm transformer layers and stacks: an encoder, and a decoder whose layers may attend to weighted sources.

Conventions as in `attention.py`. A decoder layer adds sum(weight_i * cross_i(norm(x), source_i)): t2s mixes text and music 0.8 / 0.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autosing.nn.attention import CrossAttention, SelfAttention, Source
from autosing.nn.mup import Mup, init_linear

SourceStates = tuple[Tensor, Tensor | None, Tensor | None]
"""Encoder states (B, L, D), the rotary table of their positions or None, and a (B, L) bool mask of real ones or None."""


class FeedForward(nn.Module):
    """Two matrices, four times the width between them, GELU."""

    def __init__(self, width: int, mup: Mup):
        super().__init__()
        self.up = init_linear(nn.Linear(width, 4 * width), mup)
        self.down = init_linear(nn.Linear(4 * width, width), mup)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


@dataclass(frozen=True)
class Build:
    """How the layers of a model's stacks are built and trained; the same for all of them.

    Attributes:
        heads: of the queries; kv_heads: of keys and values, a divisor of `heads` (None = as many).
        dropout: of each branch.
        layer_dropout: share of examples for which a layer is passed over in training, each layer on its own (Fan et al. 2019).
        checkpointing: keep only what goes into a layer, and compute its inside again in the backward pass: slower, less memory.
    """

    width: int
    heads: int
    mup: Mup
    kv_heads: int | None = None
    dropout: float = 0.0
    layer_dropout: float = 0.0
    checkpointing: bool = False


class Layer(nn.Module):
    """Self-attention, cross-attentions to weighted sources (or none), feed-forward."""

    block_methods: ClassVar[tuple[str, ...]] = ("project",)  # a block of `--strategy fsdp`; called besides `forward`

    def __init__(self, build: Build, *, causal: bool, cross_weights: Sequence[float] = (), span: int | None = None):
        super().__init__()
        width, heads, mup, kv_heads = build.width, build.heads, build.mup, build.kv_heads
        self.norm_self = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, mup, causal, span, kv_heads)
        self.cross_weights = tuple(cross_weights)
        self.norm_cross = nn.LayerNorm(width) if cross_weights else None
        self.cross = nn.ModuleList(CrossAttention(width, heads, mup, kv_heads) for _ in cross_weights)
        self.norm_ff = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, mup)
        self.dropout = nn.Dropout(build.dropout)
        self.layer_dropout, self.checkpointing = build.layer_dropout, build.checkpointing

    def project(self, states: Sequence[SourceStates]) -> list[Source]:
        """Encoder states -> what this layer attends to; [] for a layer without cross-attention."""
        return [c.project(*s) for c, s in zip(self.cross, states, strict=True)] if self.cross_weights else []  # type: ignore[operator]

    def forward(
        self,
        x: Tensor,
        rotary: Tensor | None,
        sources: Sequence[Source] = (),
        mask: Tensor | None = None,
    ) -> Tensor:
        if not self.training:
            return self._inside(x, rotary, sources, mask)
        if self.checkpointing and torch.is_grad_enabled():
            y: Tensor = checkpoint(self._inside, x, rotary, sources, mask, use_reentrant=False)  # type: ignore[assignment]
        else:
            y = self._inside(x, rotary, sources, mask)
        if self.layer_dropout:  # by example, not by batch: nothing waits for a draw, and every parameter has a gradient on every rank
            passed_over = torch.rand(len(x), 1, 1, device=x.device) < self.layer_dropout
            y = torch.where(passed_over, x, y)
        return y

    def _inside(self, x: Tensor, rotary: Tensor | None, sources: Sequence[Source], mask: Tensor | None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_self(x), rotary, mask))
        if self.norm_cross is not None:
            y = self.norm_cross(x)
            mixed = [w * c(y, s, rotary) for w, c, s in zip(self.cross_weights, self.cross, sources, strict=True)]
            x = x + self.dropout(sum(mixed[1:], start=mixed[0]))
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))


class Encoder(nn.Module):
    """A stack of layers with a closing norm; depth 0 = the norm alone."""

    def __init__(self, depth: int, build: Build, *, causal: bool = False, span: int | None = None):
        super().__init__()
        self.layers = nn.ModuleList(Layer(build, causal=causal, span=span) for _ in range(depth))
        self.norm = nn.LayerNorm(build.width)

    def forward(self, x: Tensor, rotary: Tensor | None, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, rotary, mask=mask)
        return self.norm(x)


class Decoder(nn.Module):
    """A causal stack with a closing norm. The first `cross_layers` layers attend to the sources. Step by step: `autosing.nn.decode`."""

    def __init__(self, depth: int, build: Build, *, cross_weights: Sequence[float], cross_layers: int, span: int | None = None):
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(build, causal=True, cross_weights=cross_weights if index < cross_layers else (), span=span) for index in range(depth)
        )
        self.norm = nn.LayerNorm(build.width)

    def project(self, states: Sequence[SourceStates]) -> list[list[Source]]:
        """The states of each source -> what every layer attends to, projected once."""
        return [layer.project(states) for layer in self.layers]  # type: ignore[operator]

    def forward(self, x: Tensor, rotary: Tensor | None, sources: Sequence[Sequence[Source]]) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x, rotary, sources[index])
        return self.norm(x)
