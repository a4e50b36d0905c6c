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
from autosing.nn.recording import Recorder, Run, recorder_of

Map = Callable[[Tensor], Tensor]
PLACES_AT_ONCE = 128  # of the caches, that more are read of where steps are recorded


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


class Place(NamedTuple):
    """Where the next step of rows that are each by themselves lies in the caches, and what of them it sees.

    Attributes:
        place: of its key and value; (1,) on the device where steps are recorded.
        first, last: places from `first` up to `last` are read.
        mask: (1, last - first) that is added to the scores; None = all are seen.
    """

    place: int | Tensor
    first: int
    last: int
    mask: Tensor | None = None


class Common(NamedTuple):
    """Where the cache of a group holds what: M x A places for what its rows took apart, row by row, and then what they have in common.

    Attributes:
        size, apart: M and A.
        place: of the A of each row, for the next step; (1,) on the device where steps are recorded.
        mask: (M, places that are read) that is added to the scores: which places each row sees.
    """

    size: int
    apart: int
    place: int | Tensor
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

    def __call__(self, x: Tensor, turn: tuple[Tensor, Tensor] | None, seen: Place | Common) -> Tensor:
        """(B, D) -> (B, D)."""
        rows, grouped, turning = self.rows, self.heads != self.kv_heads, self.heads + self.kv_heads
        projected = self.qkv(self.norm_self(x)).view(rows, -1, self.width)
        turned = rotate(projected[:, :turning], turn)
        parts = turned[:, : self.heads], turned[:, self.heads :], projected[:, turning:]
        y = self._alone(*parts, seen) if isinstance(seen, Place) else self._together(*parts, seen)
        x = x + self.out(y.reshape(rows, -1))
        if self.norm_cross is not None:
            asking = self.norm_cross(x)
            for heard in self.heard:
                query = rotate(heard.query(asking).view(rows, self.heads, self.width), turn).unsqueeze(2)
                y = F.scaled_dot_product_attention(query, heard.keys, heard.values, heard.mask, scale=heard.scale, enable_gqa=grouped)
                x = torch.add(x, heard.out(y.reshape(rows, -1)), alpha=heard.weight)
        return x + self.down(F.gelu(self.up(self.norm_ff(x))))

    def agree(self, best: Tensor, common: Common, shared: int, taken: int) -> None:
        """The next `taken` steps of all rows of a group, which have `shared` in common, are those that its row of the (groups,) `best` took apart."""
        group, member = torch.arange(self.groups, device=best.device), best % common.size
        for cache in self.keys, self.values:
            first = common.size * common.apart + shared
            cache[:, :, first : first + taken] = self._apart_places(cache, common)[group, :, member, :taken]

    def _alone(self, query: Tensor, key: Tensor, value: Tensor, seen: Place) -> Tensor:
        """(B, H or G, E) of a step, each row by itself -> (B, H, E)."""
        _put(self.keys, 2, seen.place, key)
        _put(self.values, 2, seen.place, value)
        keys, values = (cache[:, :, seen.first : seen.last] for cache in (self.keys, self.values))
        grouped = self.heads != self.kv_heads
        return F.scaled_dot_product_attention(query.unsqueeze(2), keys, values, seen.mask, scale=self.scale, enable_gqa=grouped).squeeze(2)

    def _together(self, query: Tensor, key: Tensor, value: Tensor, common: Common) -> Tensor:
        """The same for rows in groups: all rows of one read its cache at once, and see of it what `common.mask` lets them."""
        query, key, value = (each.unflatten(0, (self.groups, common.size)).transpose(1, 2) for each in (query, key, value))
        for cache, new in (self.keys, key), (self.values, value):
            _put(self._apart_places(cache, common), 3, common.place, new)
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


def _put(cache: Tensor, dim: int, place: int | Tensor, new: Tensor) -> None:
    """Write what one place of `dim` holds."""
    if isinstance(place, int):
        cache.select(dim, place).copy_(new)
    else:
        cache.index_copy_(dim, place, new.unsqueeze(dim).to(cache.dtype))


def _each(map_: Map, x: Tensor) -> Tensor:
    """A map of (B, in), of each step of (B, P, in)."""
    return map_(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Stepper:
    """A decoder that has taken no step yet.

    On a GPU a step is recorded and replayed by one launch: it reads as many places of the caches as the next multiple of `PLACES_AT_ONCE`, those that
    are not filled yet behind a mask, and is recorded anew at each of these.

    Args:
        sources: of each layer, from `Decoder.project`, as many rows as `rows` or one.
        rotary: table of the S steps, or None.
        rows: B.
        capacity: S, the most steps that may be taken.
        size: M, rows of a group, one after the other; those of one hear the same and begin alike.
        apart: A, the most steps that rows of a group may take before they `agree`.
        record: by which a step is recorded; None = the device's own, if it has one.
    """

    def __init__(
        self,
        decoder: Decoder,
        sources: Sequence[Sequence[Source]],
        rotary: Tensor | None,
        rows: int,
        capacity: int,
        size: int = 1,
        apart: int = 0,
        record: Recorder | None = None,
    ):
        assert rows % size == 0 and (apart or size == 1), "groups are of one size, and rows of one take at least a step apart"
        weight = decoder.norm.weight
        self._record = record or recorder_of(weight.device)
        places = capacity if size == 1 else capacity + size * apart
        if self._record is not None:
            places = -(-places // PLACES_AT_ONCE) * PLACES_AT_ONCE
        self.layers = [StepLayer(layer, heard, rows, places, rows // size) for layer, heard in zip(decoder.layers, sources, strict=True)]  # type: ignore[arg-type]
        self.norm = norm_of(decoder.norm)
        self._rotary = None if rotary is None else rotary.to(weight.dtype)
        self.turns = None if self._rotary is None else list(zip(*self._rotary.unbind(), strict=True))
        self.taken = self.shared = 0  # steps, and of them those that the rows of a group have in common
        self._size, self._apart = size, apart
        self._span = self.layers[0].span if len(self.layers) else capacity
        self._places = torch.arange(places, device=weight.device)
        if size > 1:
            member = torch.arange(size, device=weight.device)
            apart_of = member.repeat_interleave(apart) == member[:, None]
            self._mine = torch.cat([apart_of, apart_of.new_ones(size, places - size * apart)], 1)
        if self._record is not None:
            self._input, self._output = weight.new_zeros(2, rows, weight.shape[0])
            self._counts = self._places.new_zeros(2, 1)  # `taken` and `shared`, on the device
            self._runs: dict[int, Run] = {}  # by the places that are read

    def begin(self, x: Tensor) -> Tensor:
        """(B, P, D) inputs of the first P steps, where all are known -> (B, P, D); what as many single steps give, in one."""
        assert not self.taken, "steps were taken already"
        turns = None if self._rotary is None else (self._rotary[0, : x.shape[1]], self._rotary[1, : x.shape[1]])
        common = self._common() if self._size > 1 else None
        for layer in self.layers:
            x = layer.begin(x, turns, common)
        self.taken = self.shared = x.shape[1]
        return self.norm(x)

    def agree(self, best: Tensor) -> None:
        """All rows of each group go on where its row of the (groups,) `best` is. What they took so far is held, and read, once a group."""
        assert self._size > 1, "there are no groups"
        common = self._common()
        for layer in self.layers:
            layer.agree(best, common, self.shared, self.taken - self.shared)
        self.shared = self.taken

    def __call__(self, x: Tensor) -> Tensor:
        """(B, D) input of the next step -> (B, D), what `Decoder.forward` gives for it."""
        assert self._size == 1 or self.taken - self.shared < self._apart, f"rows that took {self._apart} steps apart have to agree"
        if self._record is not None:
            y = self._replayed(x, self._record)
        else:
            turn = None if self.turns is None else self.turns[self.taken]
            y = self._through(x, turn, self._alone() if self._size == 1 else self._common())
        self.taken += 1
        return y

    def _through(self, x: Tensor, turn: tuple[Tensor, Tensor] | None, seen: Place | Common) -> Tensor:
        for layer in self.layers:
            x = layer(x, turn, seen)
        return self.norm(x)

    def _alone(self) -> Place:
        """Of the next step of rows by themselves."""
        return Place(self.taken, max(0, self.taken + 1 - self._span), self.taken + 1)

    def _common(self) -> Common:
        """Of the next step of rows in groups."""
        return self._common_at(self.taken, self.shared, self._size * self._apart + self.shared)

    def _common_at(self, taken: int | Tensor, shared: int | Tensor, read: int) -> Common:
        """The same where so many steps are taken and shared, and so many places are read."""
        own, places = self._size * self._apart, self._places[:read]
        step = torch.where(places < own, shared + places % self._apart, places - own)
        seen = self._mine[:, :read] & (step <= taken) & (step > taken - self._span) & (places < own + shared)
        return Common(self._size, self._apart, taken - shared, _added(seen, self.layers[0].keys))

    # ---- recorded steps

    def _replayed(self, x: Tensor, record: Recorder) -> Tensor:
        """The next step, recorded if it is the first that reads so many places."""
        self._input.copy_(x)
        self._counts[0].fill_(self.taken)
        self._counts[1].fill_(self.shared)
        filled = self.taken + 1 if self._size == 1 else self._size * self._apart + self.shared
        read = min(-(-filled // PLACES_AT_ONCE) * PLACES_AT_ONCE, len(self._places))
        if read not in self._runs:
            self._runs[read] = record(partial(self._step, read))
        self._runs[read]()
        return self._output.clone()

    def _step(self, read: int) -> None:
        """From `_input` to `_output`, by numbers on the device alone."""
        taken, shared = self._counts.unbind()
        turn = None
        if self._rotary is not None:
            cosines, sines = self._rotary.index_select(1, taken).squeeze(1).unbind()
            turn = cosines, sines
        if self._size == 1:
            places = self._places[:read]
            mask = _added((places <= taken) & (places > taken - self._span), self._input)
            seen: Place | Common = Place(taken, 0, read, mask[None])
        else:
            seen = self._common_at(taken, shared, read)
        self._output.copy_(self._through(self._input, turn, seen))


def _added(seen: Tensor, like: Tensor) -> Tensor:
    """Bool -> 0 where it is true, else minus infinity, in the type of `like`."""
    return like.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
