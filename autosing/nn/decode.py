"""A `Decoder` one step at a time: what the decode loops of `autosing.singing` run.

`Stepper` computes what `Decoder.forward` computes, for the next step alone. Keys and values of earlier steps lie in static caches, of which the filled
part is read; those of the sources were projected once (`Decoder.project`). A step of a small model is a few milliseconds, and on a CPU as much of it
goes into calling modules as into its matrices: here are plain calls on what the modules hold, with everything that does not change from step to step
prepared. The tests hold the two against each other.

Conventions as in `attention.py`: B rows, H heads of queries, G of keys and values, E their width, L source states, S capacity, D width. For
inference alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autosing.nn.attention import CrossAttention, Source
from autosing.nn.blocks import Decoder, Layer

Map = Callable[[Tensor], Tensor]
TURNED_FROM = 4  # rows; from here on a CPU is up to a third faster with matrices that lie the other way round


def affine(matrix: Tensor, bias: Tensor) -> Map:
    """(B, in) x -> x M + b, of M (in, out)."""
    return partial(torch.addmm, bias, mat2=matrix)


def map_of(module: nn.Module, rows: int) -> Map:
    """What calling `module` on (B, in) does, without the module around it where it is a plain matrix."""
    if type(module) is not nn.Linear:
        return module.forward
    if rows >= TURNED_FROM and module.weight.device.type == "cpu":
        return affine(module.weight.t().contiguous(), module.bias)
    return partial(F.linear, weight=module.weight, bias=module.bias)


def norm_of(norm: nn.LayerNorm) -> Map:
    """What calling `norm` does."""
    shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps, False)


def rotate(heads: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
    """(B, P, E) heads of one step, rotated by the (E,) cosines and signed sines of its position."""
    if turn is None:
        return heads
    return torch.addcmul(heads * turn[0], heads.roll(heads.shape[-1] // 2, -1), turn[1])


class CrossStep(NamedTuple):
    """A cross-attention and its source: `keys` and `values` (B, G, L, E), a mask (B or 1, 1, 1, L) that is added to the scores, or None."""

    weight: float
    query: Map
    out: Map
    keys: Tensor
    values: Tensor
    mask: Tensor | None
    scale: float

    @staticmethod
    def of(weight: float, attention: CrossAttention, source: Source, rows: int) -> "CrossStep":
        keys, values = (t.contiguous().expand(rows, -1, -1, -1) for t in (source.keys, source.values))
        mask = None
        if source.mask is not None and not bool(source.mask.all()):
            mask = torch.zeros_like(source.mask, dtype=keys.dtype).masked_fill_(~source.mask, -torch.inf)
        return CrossStep(weight, map_of(attention.query, rows), map_of(attention.out, rows), keys, values, mask, attention.scale)


class StepLayer:
    """A decoder `Layer`, its caches and what it hears."""

    def __init__(self, layer: Layer, sources: Sequence[Source], rows: int, capacity: int, groups: int):
        attention = layer.attention
        self.groups = groups
        self.common: Tensor | None = None  # keys and values (2, groups, G, S, E) of steps that all rows of a group have in common
        self.rows, self.heads, self.kv_heads, self.width = rows, attention.heads, attention.kv_heads, attention.head_width
        self.scale, self.span = attention.scale, attention.span or capacity
        self.norm_self, self.qkv, self.out = norm_of(layer.norm_self), map_of(attention.qkv, rows), map_of(attention.out, rows)
        self.keys, self.values = layer.norm_self.weight.new_zeros(2, rows, self.kv_heads, capacity, self.width)
        self.norm_cross = None if layer.norm_cross is None else norm_of(layer.norm_cross)
        self.heard = [CrossStep.of(*heard, rows) for heard in zip(layer.cross_weights, layer.cross, sources, strict=True)]  # type: ignore[arg-type]
        self.norm_ff, self.up, self.down = norm_of(layer.norm_ff), map_of(layer.feed_forward.up, rows), map_of(layer.feed_forward.down, rows)

    def __call__(self, x: Tensor, step: int, shared: int, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """(B, D) -> (B, D)."""
        rows, grouped, turning = self.rows, self.heads != self.kv_heads, self.heads + self.kv_heads
        projected = self.qkv(self.norm_self(x)).view(rows, -1, self.width)
        turned = rotate(projected[:, :turning], turn)
        self.keys.select(2, step).copy_(turned[:, self.heads :])
        self.values.select(2, step).copy_(projected[:, turning:])
        y = self._attend(turned[:, : self.heads], max(0, step + 1 - self.span), shared, step + 1)
        x = x + self.out(y.reshape(rows, -1))
        if self.norm_cross is not None:
            asking = self.norm_cross(x)
            for heard in self.heard:
                query = rotate(heard.query(asking).view(rows, self.heads, self.width), turn).unsqueeze(2)
                y = F.scaled_dot_product_attention(query, heard.keys, heard.values, heard.mask, scale=heard.scale, enable_gqa=grouped)
                x = torch.add(x, heard.out(y.reshape(rows, -1)), alpha=heard.weight)
        return x + self.down(F.gelu(self.up(self.norm_ff(x)), approximate="tanh"))

    def agree(self, best: Tensor, first: int, last: int) -> None:
        """Take over the steps [first, last) of the (groups,) rows `best`."""
        if self.common is None:
            self.common = self.keys.new_zeros(2, self.groups, *self.keys.shape[1:])
        for common, cache in zip(self.common, (self.keys, self.values), strict=True):
            common[:, :, first:last] = cache[best, :, first:last]

    def _attend(self, query: Tensor, begin: int, shared: int, end: int) -> Tensor:
        """(B, H, E) queries over the steps [begin, end), of which those before `shared` are in `common` -> (B, H, E)."""
        own = max(begin, shared)
        keys, values = (cache[:, :, own:end] for cache in (self.keys, self.values))
        if begin >= shared:
            return F.scaled_dot_product_attention(
                query.unsqueeze(2), keys, values, scale=self.scale, enable_gqa=self.heads != self.kv_heads
            ).squeeze(2)
        rows, size, repeats = self.rows, self.rows // self.groups, self.heads // self.kv_heads
        query = query.view(rows, self.kv_heads, repeats, self.width) * self.scale
        # of a group one product: (groups, G, rows of the group x queries of a key, E) with the keys that it shares
        together = query.view(self.groups, size, self.kv_heads, repeats, self.width).transpose(1, 2).flatten(2, 3)
        assert self.common is not None
        common_keys, common_values = self.common[:, :, :, begin:shared]
        scores = (together @ common_keys.transpose(-1, -2)).unflatten(2, (size, repeats)).transpose(1, 2).flatten(0, 1)
        weights = torch.cat([scores, query @ keys.transpose(-1, -2)], -1).softmax(-1)
        common, apart = weights.split([shared - begin, end - own], -1)
        common = common.unflatten(0, (self.groups, size)).transpose(1, 2).flatten(2, 3) @ common_values
        common = common.unflatten(2, (size, repeats)).transpose(1, 2).flatten(0, 1)
        return (common + apart @ values).view(rows, self.heads, self.width)

    def begin(self, x: Tensor, turns: tuple[Tensor, Tensor] | None) -> Tensor:
        """(B, P, D) -> (B, P, D): the first P steps at once."""
        steps, grouped, turning = x.shape[1], self.heads != self.kv_heads, self.heads + self.kv_heads
        projected = self._apart(_each(self.qkv, self.norm_self(x)))
        turned, values = rotate(projected[:, :turning], turns), projected[:, turning:]
        query, keys = turned[:, : self.heads], turned[:, self.heads :]
        self.keys[:, :, :steps], self.values[:, :, :steps] = keys, values
        age = torch.arange(steps, device=x.device)[:, None] - torch.arange(steps, device=x.device)
        y = F.scaled_dot_product_attention(query, keys, values, (age >= 0) & (age < self.span), scale=self.scale, enable_gqa=grouped)
        x = x + _each(self.out, y.transpose(1, 2).flatten(2))
        if self.norm_cross is not None:
            asking = self.norm_cross(x)
            for heard in self.heard:
                query = rotate(self._apart(_each(heard.query, asking)), turns)
                y = F.scaled_dot_product_attention(query, heard.keys, heard.values, heard.mask, scale=heard.scale, enable_gqa=grouped)
                x = torch.add(x, _each(heard.out, y.transpose(1, 2).flatten(2)), alpha=heard.weight)
        return x + _each(self.down, F.gelu(_each(self.up, self.norm_ff(x)), approximate="tanh"))

    def _apart(self, projected: Tensor) -> Tensor:
        """(B, P, heads * E) -> (B, heads, P, E)."""
        return projected.unflatten(-1, (-1, self.width)).transpose(1, 2)


def _each(map_: Map, x: Tensor) -> Tensor:
    """A map of (B, in), of each step of (B, P, in)."""
    return map_(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Stepper:
    """A decoder that has taken no step yet.

    Args:
        sources: of each layer, from `Decoder.project`, as many rows as `rows` or one.
        rotary: table of the S steps, or None.
        rows: B.
        capacity: S, the most steps that may be taken.
        groups: of as many rows each, one after the other, which hear the same; see `agree`.
    """

    def __init__(
        self, decoder: Decoder, sources: Sequence[Sequence[Source]], rotary: Tensor | None, rows: int, capacity: int, groups: int = 1
    ):
        self.layers = [StepLayer(layer, heard, rows, capacity, groups) for layer, heard in zip(decoder.layers, sources, strict=True)]  # type: ignore[arg-type]
        self.norm = norm_of(decoder.norm)
        self._rotary = None if rotary is None else rotary.to(decoder.norm.weight.dtype)
        self.turns = None if self._rotary is None else list(zip(*self._rotary.unbind(), strict=True))
        self.taken = self.shared = 0  # steps, and of them those that the rows of a group have in common

    def begin(self, x: Tensor) -> Tensor:
        """(B, P, D) inputs of the first P steps, where all are known -> (B, P, D); what as many single steps give, in one."""
        assert not self.taken, "steps were taken already"
        turns = None if self._rotary is None else (self._rotary[0, : x.shape[1]], self._rotary[1, : x.shape[1]])
        for layer in self.layers:
            x = layer.begin(x, turns)
        self.taken = x.shape[1]
        return self.norm(x)

    def agree(self, best: Tensor) -> None:
        """All rows of each group go on where its row of the (groups,) `best` is. What they took so far is held, and read, once a group."""
        for layer in self.layers:
            layer.agree(best, self.shared, self.taken)
        self.shared = self.taken

    def __call__(self, x: Tensor) -> Tensor:
        """(B, D) input of the next step -> (B, D), what `Decoder.forward` gives for it."""
        turn = None if self.turns is None else self.turns[self.taken]
        for layer in self.layers:
            x = layer(x, self.taken, self.shared, turn)
        self.taken += 1
        return self.norm(x)
