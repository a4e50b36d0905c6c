"""A `Decoder` one step at a time: what the decode loops of `autosing.singing` run.

`Stepper` computes what `Decoder.forward` computes, for the next step alone. Keys and values of earlier steps lie in static caches, of which the filled
part is read; those of the sources were projected once (`Decoder.project`). A step of a small model is a few milliseconds, and on a CPU as much of it
goes into calling modules as into its matrices: here are plain calls on what the modules hold, with everything that does not change from step to step
prepared. The tests hold the two against each other.

Rows that hear the same may be taken together in groups, as ways to go on from what they have in common: of that, keys and values are held and
read once a group, of what each took on its own once a row, until they `agree` on the way that is kept.

Conventions as in `attention.py`: B rows, H heads of queries, G of keys and values, E their width, L source states, S capacity, D width; M rows a group,
A steps that they may take apart. For inference alone.
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


def turned(rows: int) -> bool:
    """Whether a CPU is faster with matrices that lie the other way round: a tenth with one row, up to a third with four and more."""
    return rows == 1 or rows >= 4


def affine(matrix: Tensor, bias: Tensor) -> Map:
    """(B, in) x -> x M + b, of M (in, out)."""
    return partial(torch.addmm, bias, mat2=matrix)


def map_of(module: nn.Module, rows: int) -> Map:
    """What calling `module` on (B, in) does, without the module around it where it is a plain matrix."""
    if type(module) is not nn.Linear:
        return module.forward
    if turned(rows) and module.weight.device.type == "cpu":
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


class Common(NamedTuple):
    """Where the cache of a group holds what: M x A places for what its rows took apart, row by row, and S for what they have in common.

    Attributes:
        size, apart: M and A.
        shared: steps that they have in common.
        mask: (M, M A + shared) that is added to the scores: which places each row sees.
    """

    size: int
    apart: int
    shared: int
    mask: Tensor


class StepLayer:
    """A decoder `Layer`, its caches and what it hears."""

    def __init__(self, layer: Layer, sources: Sequence[Source], rows: int, capacity: int, groups: int):
        attention = layer.attention
        self.groups = groups
        self.rows, self.heads, self.kv_heads, self.width = rows, attention.heads, attention.kv_heads, attention.head_width
        self.scale, self.span = attention.scale, attention.span or capacity
        self.norm_self, self.qkv, self.out = norm_of(layer.norm_self), map_of(attention.qkv, rows), map_of(attention.out, rows)
        self.keys, self.values = layer.norm_self.weight.new_zeros(2, groups, self.kv_heads, capacity, self.width)
        self.norm_cross = None if layer.norm_cross is None else norm_of(layer.norm_cross)
        self.heard = [CrossStep.of(*heard, rows) for heard in zip(layer.cross_weights, layer.cross, sources, strict=True)]  # type: ignore[arg-type]
        self.norm_ff, self.up, self.down = norm_of(layer.norm_ff), map_of(layer.feed_forward.up, rows), map_of(layer.feed_forward.down, rows)

    def __call__(self, x: Tensor, step: int, turn: tuple[Tensor, Tensor] | None, common: Common | None) -> Tensor:
        """(B, D) -> (B, D)."""
        rows, grouped, turning = self.rows, self.heads != self.kv_heads, self.heads + self.kv_heads
        projected = self.qkv(self.norm_self(x)).view(rows, -1, self.width)
        turned = rotate(projected[:, :turning], turn)
        attend = self._alone if common is None else partial(self._together, common=common)
        y = attend(turned[:, : self.heads], turned[:, self.heads :], projected[:, turning:], step)
        x = x + self.out(y.reshape(rows, -1))
        if self.norm_cross is not None:
            asking = self.norm_cross(x)
            for heard in self.heard:
                query = rotate(heard.query(asking).view(rows, self.heads, self.width), turn).unsqueeze(2)
                y = F.scaled_dot_product_attention(query, heard.keys, heard.values, heard.mask, scale=heard.scale, enable_gqa=grouped)
                x = torch.add(x, heard.out(y.reshape(rows, -1)), alpha=heard.weight)
        return x + self.down(F.gelu(self.up(self.norm_ff(x))))

    def agree(self, best: Tensor, common: Common, taken: int) -> None:
        """The next `taken` steps of all rows of a group are those that its row of the (groups,) `best` took apart."""
        group, member = torch.arange(self.groups, device=best.device), best % common.size
        for cache in self.keys, self.values:
            first = common.size * common.apart + common.shared
            cache[:, :, first : first + taken] = self._apart_places(cache, common)[group, :, member, :taken]

    def _alone(self, query: Tensor, key: Tensor, value: Tensor, step: int) -> Tensor:
        """(B, H or G, E) of a step, each row by itself -> (B, H, E)."""
        self.keys.select(2, step).copy_(key)
        self.values.select(2, step).copy_(value)
        keys, values = (cache[:, :, max(0, step + 1 - self.span) : step + 1] for cache in (self.keys, self.values))
        grouped = self.heads != self.kv_heads
        return F.scaled_dot_product_attention(query.unsqueeze(2), keys, values, scale=self.scale, enable_gqa=grouped).squeeze(2)

    def _together(self, query: Tensor, key: Tensor, value: Tensor, step: int, common: Common) -> Tensor:
        """The same for rows in groups: all rows of one read its cache at once, and see of it what `common.mask` lets them."""
        query, key, value = (each.unflatten(0, (self.groups, common.size)).transpose(1, 2) for each in (query, key, value))
        for cache, new in (self.keys, key), (self.values, value):
            self._apart_places(cache, common).select(3, step - common.shared).copy_(new)
        keys, values = (cache[:, :, : common.mask.shape[1]] for cache in (self.keys, self.values))
        grouped = self.heads != self.kv_heads
        y = F.scaled_dot_product_attention(query, keys, values, common.mask[None, None], scale=self.scale, enable_gqa=grouped)
        return y.transpose(1, 2).flatten(0, 1)

    def _apart_places(self, cache: Tensor, common: Common) -> Tensor:
        """The part of a cache for what rows took apart: (groups, G, M, A, E)."""
        return cache[:, :, : common.size * common.apart].unflatten(2, (common.size, common.apart))

    def begin(self, x: Tensor, turns: tuple[Tensor, Tensor] | None, common: Common | None) -> Tensor:
        """(B, P, D) -> (B, P, D): the first P steps at once; of rows in groups they are the same."""
        steps, grouped, turning = x.shape[1], self.heads != self.kv_heads, self.heads + self.kv_heads
        projected = self._apart(_each(self.qkv, self.norm_self(x)))
        turned, values = rotate(projected[:, :turning], turns), projected[:, turning:]
        query, keys = turned[:, : self.heads], turned[:, self.heads :]
        size, first = (1, 0) if common is None else (common.size, common.size * common.apart)
        self.keys[:, :, first : first + steps], self.values[:, :, first : first + steps] = keys[::size], values[::size]
        age = torch.arange(steps, device=x.device)[:, None] - torch.arange(steps, device=x.device)
        y = F.scaled_dot_product_attention(query, keys, values, (age >= 0) & (age < self.span), scale=self.scale, enable_gqa=grouped)
        x = x + _each(self.out, y.transpose(1, 2).flatten(2))
        if self.norm_cross is not None:
            asking = self.norm_cross(x)
            for heard in self.heard:
                query = rotate(self._apart(_each(heard.query, asking)), turns)
                y = F.scaled_dot_product_attention(query, heard.keys, heard.values, heard.mask, scale=heard.scale, enable_gqa=grouped)
                x = torch.add(x, _each(heard.out, y.transpose(1, 2).flatten(2)), alpha=heard.weight)
        return x + _each(self.down, F.gelu(_each(self.up, self.norm_ff(x))))

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
        size: M, rows of a group, one after the other; those of one hear the same and begin alike.
        apart: A, the most steps that rows of a group may take before they `agree`.
    """

    def __init__(
        self, decoder: Decoder, sources: Sequence[Sequence[Source]], rotary: Tensor | None, rows: int, capacity: int, size: int = 1, apart: int = 0
    ):
        assert rows % size == 0 and (apart or size == 1), "groups are of one size, and rows of one take at least a step apart"
        places = capacity if size == 1 else capacity + size * apart
        self.layers = [StepLayer(layer, heard, rows, places, rows // size) for layer, heard in zip(decoder.layers, sources, strict=True)]  # type: ignore[arg-type]
        self.norm = norm_of(decoder.norm)
        self._rotary = None if rotary is None else rotary.to(decoder.norm.weight.dtype)
        self.turns = None if self._rotary is None else list(zip(*self._rotary.unbind(), strict=True))
        self.taken = self.shared = 0  # steps, and of them those that the rows of a group have in common
        self._size, self._apart = size, apart
        self._span = self.layers[0].span if len(self.layers) else capacity
        self._places: Tensor | None = None
        if size > 1:
            device = decoder.norm.weight.device
            member = torch.arange(size, device=device)
            apart_of = member.repeat_interleave(apart) == member[:, None]
            self._mine = torch.cat([apart_of, torch.ones(size, capacity, dtype=torch.bool, device=device)], 1)
            self._places = torch.arange(places, device=device)

    def begin(self, x: Tensor) -> Tensor:
        """(B, P, D) inputs of the first P steps, where all are known -> (B, P, D); what as many single steps give, in one."""
        assert not self.taken, "steps were taken already"
        turns = None if self._rotary is None else (self._rotary[0, : x.shape[1]], self._rotary[1, : x.shape[1]])
        common = self._common()
        for layer in self.layers:
            x = layer.begin(x, turns, common)
        self.taken = self.shared = x.shape[1]
        return self.norm(x)

    def agree(self, best: Tensor) -> None:
        """All rows of each group go on where its row of the (groups,) `best` is. What they took so far is held, and read, once a group."""
        common = self._common()
        assert common is not None, "there are no groups"
        for layer in self.layers:
            layer.agree(best, common, self.taken - self.shared)
        self.shared = self.taken

    def __call__(self, x: Tensor) -> Tensor:
        """(B, D) input of the next step -> (B, D), what `Decoder.forward` gives for it."""
        turn = None if self.turns is None else self.turns[self.taken]
        common = self._common()
        assert common is None or self.taken - self.shared < self._apart, f"rows that took {self._apart} steps apart have to agree"
        for layer in self.layers:
            x = layer(x, self.taken, turn, common)
        self.taken += 1
        return self.norm(x)

    def _common(self) -> Common | None:
        """Of the next step; None where every row is by itself."""
        if self._places is None:
            return None
        own = self._size * self._apart
        places = self._places[: own + self.shared]
        step = torch.where(places < own, self.shared + places % self._apart, places - own)
        seen = self._mine[:, : own + self.shared] & (step <= self.taken) & (step > self.taken - self._span)
        return Common(self._size, self._apart, self.shared, torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf))
