"""Self- and cross-attention with rotary positions.

Conventions: activations (B, S, D), heads (B, H, S, E) with E = head width; keys and values may have fewer heads, G, each of which serves
H / G queries. Positions are inputs (float, in whatever unit the model calls a step). Keys and values of a cross-attention's source are projected
once (`CrossAttention.project`) and passed in. Caches of earlier steps are in `decode.py`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from autosing.nn.mup import Mup, init_linear


def rotary_table(positions: Tensor, head_width: int, base: float = 10_000.0) -> Tensor:
    """(S,) positions -> (2, S, E) cosines and signed sines of the rotary embedding (Su et al. 2021), halves layout."""
    inverse = base ** (-torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32) / head_width)
    angles = positions.float()[:, None] * inverse
    sines = angles.sin()
    return torch.stack([torch.cat([angles.cos()] * 2, -1), torch.cat([-sines, sines], -1)])


def turn(x: Tensor, cosines: Tensor, sines: Tensor, out: Tensor, back: bool = False) -> None:
    """x * cosines + (halves of x exchanged) * sines into `out`, in two passes over memory where the plain formula takes nine.

    Args:
        back: turn the other way, which is the gradient.
    """
    half = x.shape[-1] // 2
    torch.mul(x, cosines, out=out)
    out[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1 if back else 1)
    out[..., half:].addcmul_(x[..., :half], sines[..., half:], value=-1 if back else 1)


class _Heads(torch.autograd.Function):
    """`split_heads` of steps that are rotated. The gradients of all parts are turned straight into one tensor, as the projection's backward
    pass reads it; rotated heads are contiguous: attention on the CPU reads heads that lie side by side a tenth slower."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, counts: Sequence[int], rotated: int, cosines: Tensor, sines: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cosines, sines)
        ctx.shape, ctx.counts, ctx.rotated = projected.shape, counts, rotated
        parts = []
        for index, part in enumerate(projected.split(counts, 2)):
            part = part.transpose(1, 2)
            if index < rotated:
                turned = torch.empty(part.shape, dtype=part.dtype, device=part.device)
                turn(part, cosines, sines, turned)
                part = turned
            parts.append(part)
        return tuple(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        cosines, sines = ctx.saved_tensors
        whole = torch.empty(ctx.shape, dtype=grads[0].dtype, device=grads[0].device)
        for index, (grad, target) in enumerate(zip(grads, whole.split(ctx.counts, 2), strict=True)):
            if index < ctx.rotated:
                turn(grad, cosines, sines, target.transpose(1, 2), back=True)
            else:
                target.copy_(grad.transpose(1, 2))
        return whole, None, None, None, None


def split_heads(projected: Tensor, counts: Sequence[int], rotated: int, table: Tensor | None) -> tuple[Tensor, ...]:
    """(B, S, P, E) heads of a projection -> parts of `counts` heads, (B, count, S, E) each.

    Args:
        rotated: this many of the parts, the first, are rotated by
        table: of the S positions; None leaves them as they are.
    """
    if table is None:
        return tuple(part.transpose(1, 2) for part in projected.split(counts, 2))
    cosines, sines = table.to(projected.dtype)
    if projected.requires_grad and not torch.compiler.is_compiling():  # a compiler fuses the plain formula by itself
        return _Heads.apply(projected, counts, rotated, cosines, sines)  # type: ignore[return-value]
    turning = sum(counts[:rotated])
    heads = projected.transpose(1, 2)
    turned = torch.addcmul(heads[:, :turning] * cosines, heads[:, :turning].roll(heads.shape[-1] // 2, -1), sines)
    return (*turned.split(counts[:rotated], 1), *heads[:, turning:].split(counts[rotated:], 1))


def attention_mask(steps: int, causal: bool, span: int | None, device: torch.device) -> Tensor | None:
    """(steps, steps) bool of what may be attended; None = everything.

    Args:
        span: a step attends only to steps fewer than `span` away; None = any distance.
    """
    if span is not None and steps <= span:
        span = None
    if (not causal or steps == 1) and span is None:
        return None
    distance = torch.arange(steps, device=device)[:, None] - torch.arange(steps, device=device)
    mask = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return mask if span is None else mask & (distance.abs() < span)


class SelfAttention(nn.Module):
    """Multi-head self-attention; one matrix for queries, keys and values, queries start at 0."""

    def __init__(self, width: int, heads: int, mup: Mup, causal: bool, span: int | None = None, kv_heads: int | None = None):
        super().__init__()
        self.heads, self.kv_heads, self.causal, self.span = heads, kv_heads or heads, causal, span
        self.head_width = width // heads
        self.scale = mup.attention_scale(self.head_width)
        self.qkv = init_linear(nn.Linear(width, (heads + 2 * self.kv_heads) * self.head_width), mup, zero_rows=width)
        self.out = init_linear(nn.Linear(width, width), mup)

    def forward(self, x: Tensor, rotary: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """(B, S, D) -> (B, S, D).

        Args:
            rotary: table of the S positions, or None.
            mask: (B, S) bool of real (not padded) steps, for encoders of padded sources.
        """
        batch, steps, _ = x.shape
        projected = self.qkv(x).unflatten(-1, (-1, self.head_width))
        q, k, v = split_heads(projected, (self.heads, self.kv_heads, self.kv_heads), 2, rotary)
        if self.causal and steps > 1 and (self.span is None or steps <= self.span) and mask is None:
            y = attend(q, k, v, self.scale, causal=True)
        else:
            allowed = attention_mask(steps, self.causal, self.span, x.device)
            if mask is not None:
                allowed = mask[:, None, None] if allowed is None else mask[:, None, None] & allowed
            y = attend(q, k, v, self.scale, allowed)
        return self.out(y.transpose(1, 2).reshape(batch, steps, -1))


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot-product attention of (B, H, S, E) queries to (B, G, L, E) keys and values."""
    if torch.compiler.is_compiling() and q.device.type == "cpu":
        return _plain(q, k, v, scale, mask, causal)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


def _plain(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, causal: bool) -> Tensor:
    """The formula. PyTorch's compiler (2.11) takes the strides of the first length for those of every length in the gradient of its kernel for CPUs."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    if causal:
        mask = attention_mask(q.shape[2], True, None, q.device)
    scores = q @ k.mT * scale
    return torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), -1).to(v.dtype) @ v


class Source(NamedTuple):
    """What a cross-attention attends to: keys and values (B or 1, G, L, E), and a (B or 1, 1, 1, L) bool mask or None."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


def stack_rows(tensors: Sequence[Tensor], copies: int) -> Tensor:
    """(1 or copies, ...) tensors -> (parts * copies, ...), one part after the other; a single row stays one and broadcasts."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat([t.expand(copies, *t.shape[1:]) for t in tensors])


def stack_optional(tensors: Sequence[Tensor | None], copies: int) -> Tensor | None:
    """`stack_rows` of tensors that are all there or all None."""
    present = [t for t in tensors if t is not None]
    return stack_rows(present, copies) if present else None


def stack_sources(parts: Sequence[Sequence[Sequence[Source]]], copies: int) -> list[list[Source]]:
    """Sources [part][layer][source] -> [layer][source], the rows of the parts one after the other."""
    return [
        [
            Source(
                stack_rows([s.keys for s in same], copies),
                stack_rows([s.values for s in same], copies),
                stack_optional([s.mask for s in same], copies),
            )
            for same in zip(*layer, strict=True)
        ]
        for layer in zip(*parts, strict=True)
    ]


class CrossAttention(nn.Module):
    """Multi-head attention to a source that is projected once."""

    def __init__(self, width: int, heads: int, mup: Mup, kv_heads: int | None = None):
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads or heads, width // heads
        self.scale = mup.attention_scale(self.head_width)
        self.query = init_linear(nn.Linear(width, width), mup, zero_rows=width)
        self.key_value = init_linear(nn.Linear(width, 2 * self.kv_heads * self.head_width), mup)
        self.out = init_linear(nn.Linear(width, width), mup)

    def project(self, states: Tensor, rotary: Tensor | None, mask: Tensor | None = None) -> Source:
        """(B, L, D) encoder states, the table of their positions and a (B, L) bool mask of real ones -> `Source`."""
        projected = self.key_value(states).unflatten(-1, (-1, self.head_width))
        keys, values = split_heads(projected, (self.kv_heads, self.kv_heads), 1, rotary)
        return Source(keys, values, None if mask is None else mask[:, None, None])

    def forward(self, x: Tensor, source: Source, rotary: Tensor | None) -> Tensor:
        batch, steps, _ = x.shape
        (q,) = split_heads(self.query(x).unflatten(-1, (self.heads, self.head_width)), (self.heads,), 1, rotary)
        k, v = (t.expand(batch, -1, -1, -1) for t in (source.keys, source.values))
        return self.out(attend(q, k, v, self.scale, source.mask).transpose(1, 2).reshape(batch, steps, -1))
