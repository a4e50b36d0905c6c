"""Tables that turn codes into vectors and vectors into logits.

Codes outside a table (`CodecSpec.HOLE`, -1) have a row of their own, the last one. Trainable tables are named `embedding*`, which is
how the learning rules find them; frozen codebooks are buffers: saved with a model, never trained.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autosing.nn.mup import Mup, init_embedding, init_linear


class FrozenCodebook(nn.Module):
    """A tokenizer's own codebook as embeddings in and (projected) out.

    The codebook is centred and brought to unit variance as a whole, so any tokenizer's scale serves and its geometry stays.
    """

    codebook: Tensor

    def __init__(self, num_codes: int, code_width: int, width: int, mup: Mup, head: bool = True):
        super().__init__()
        self.num_codes, self.mup = num_codes, mup
        self.register_buffer("codebook", torch.randn(num_codes, code_width, generator=torch.Generator().manual_seed(0)))
        self.into = init_linear(nn.Linear(code_width, width), mup)
        self.embedding_hole = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.embedding_hole, std=mup.embeddings_std)
        self.head: nn.Linear | None = None
        if head and mup.linear_heads:
            self.head = init_linear(nn.Linear(width, num_codes), mup)
        elif head:
            self.out = init_linear(nn.Linear(width, code_width), mup)
            self.bias = nn.Parameter(torch.zeros(num_codes))

    def load(self, codebook: Tensor) -> None:
        """Take over a tokenizer's codebook (num_codes, code_width)."""
        self.codebook.copy_(_of_unit_variance(codebook))

    def is_of(self, codebook: Tensor) -> bool:
        """Whether it was taken over from this tokenizer's codebook (num_codes, code_width), or one of the same fit."""
        return same_fit(self.codebook, _of_unit_variance(codebook).to(self.codebook))

    def rows(self) -> Tensor:
        """(num_codes + 1, D) what each code is told as; the last is a hole."""
        return torch.cat([self.into(self.codebook), self.embedding_hole[None]])

    def embed(self, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """(B, N) codes, -1 = hole -> (B, N, D); `rows`: of `rows()`, for who asks several times."""
        if rows is None and ids.numel() < self.num_codes:  # fewer rows to project than the codebook has
            told = self.into(F.embedding(ids.clamp(min=0), self.codebook))
            return torch.where(ids[..., None] < 0, self.embedding_hole.to(told.dtype), told)
        return F.embedding(torch.where(ids < 0, self.num_codes, ids), self.rows() if rows is None else rows)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., num_codes)."""
        if self.head is not None:
            return self.mup.scaled(self.head(hidden))
        # the dot product with code_width standardised numbers grows with its root; output_scale expects unit embeddings
        scale = 1.0 / self.codebook.shape[1] ** 0.5
        return self.mup.scaled(F.linear(self.out(hidden) * scale, self.codebook, self.bias))


class LaneEmbedding(nn.Module):
    """One table a lane; the embedding of a step is the sum over its lanes, a lane's logits are the product with its table."""

    offsets: Tensor

    def __init__(self, lanes: int, num_codes: int, width: int, mup: Mup, head: bool = True):
        super().__init__()
        self.lanes, self.num_codes, self.mup = lanes, num_codes, mup
        self.embedding = nn.Parameter(torch.empty(lanes * (num_codes + 1), width))
        init_embedding(self.embedding, mup)
        self.scale = mup.output_scale(width)
        self.register_buffer("offsets", torch.arange(lanes)[:, None] * (num_codes + 1), persistent=False)
        untied = head and mup.linear_heads
        self.heads = nn.ModuleList(init_linear(nn.Linear(width, num_codes), mup) for _ in range(lanes)) if untied else None

    def embed(self, grid: Tensor, rows: Tensor | None = None) -> Tensor:
        """(B, R, S) codes, -1 = hole -> (B, S, D); `rows`: other ones than the table's own (R * (num_codes + 1), D)."""
        flat = (torch.where(grid < 0, self.num_codes, grid) + self.offsets).transpose(1, 2).reshape(-1, self.lanes)
        return F.embedding_bag(flat, self.embedding if rows is None else rows, mode="sum").view(grid.shape[0], grid.shape[2], -1)

    def tables(self) -> tuple[Tensor, ...]:
        """The table of each lane, (num_codes + 1, D). Taken apart once a step, their gradients are put together in one pass."""
        return self.embedding.unflatten(0, (self.lanes, self.num_codes + 1)).unbind()

    def logits(self, hidden: Tensor, lane: int, table: Tensor | None = None) -> Tensor:
        """(..., D) -> (..., num_codes) of one lane; `table`: its own of `tables()`, for who asks for several."""
        if self.heads is not None:
            return self.mup.scaled(self.heads[lane](hidden))
        table = self.tables()[lane] if table is None else table
        return F.linear(hidden * self.scale, table[: self.num_codes])


FOURIER_FEATURES = 64
"""How many of the features of a code are `code_features`' cosines."""


def code_features(book: Tensor) -> Tensor:
    """What a network is told about codes whose vectors are known: (num_codes, w) -> (num_codes, 2 w + 64), each column standardised.

    The principal coordinates of the vectors, their squares (a linear read-out of both is the logit of a Gaussian with any mean and
    diagonal deviation) and random cosines one to eight times as wide as codes lie apart (Rahimi and Recht 2007), for what is sharper.
    """
    book = book.double().cpu()
    centred = book - book.mean(0)
    _, scales, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # which way they point is the library's whim
    scales = scales / len(book) ** 0.5
    whole = centred @ axes.T / scales.clamp(min=0.1 * float(scales.max()) + 1e-9)
    apart = torch.cdist(whole, whole).topk(2, largest=False).values[:, 1].median().clamp(min=1e-3)
    generator = torch.Generator().manual_seed(0)
    widths = apart * torch.exp2(torch.linspace(0, 3, FOURIER_FEATURES, dtype=torch.float64))
    waves = torch.randn(whole.shape[1], FOURIER_FEATURES, generator=generator, dtype=torch.float64) / widths
    phases = torch.rand(FOURIER_FEATURES, generator=generator, dtype=torch.float64) * 2 * math.pi
    features = torch.cat([whole, whole.square(), (whole @ waves + phases).cos()], 1)
    features = features - features.mean(0)
    return (features / features.std(0).clamp(min=1e-3)).float()


def _of_unit_variance(codebook: Tensor) -> Tensor:
    """(num_codes, W) centred, and of unit variance as a whole."""
    centred = codebook.float() - codebook.float().mean(0, keepdim=True)
    return centred / centred.square().mean().sqrt().clamp(min=1e-6)


SAME_FIT = 1e-2
"""Tables of one fit differ by less than this share of their power (int8 and float16 rounding)."""


def same_fit(one: Tensor, other: Tensor) -> bool:
    """Whether two tables of what codes stand for come from the same fit of the tokenizer."""
    return one.shape == other.shape and bool((one - other).square().mean() <= SAME_FIT * other.square().mean())


class _KnownCodes(nn.Module):
    """Holds what is known of each level's codes, a (num_codes, columns) buffer `features<level>`, of which weights keep a copy."""

    def features(self, level: int) -> Tensor:
        """(num_codes, columns) what is known of the codes of a level."""
        return getattr(self, f"features{level}")

    def load(self, features: Sequence[Tensor]) -> None:
        """Take over the features of each level."""
        for level, values in enumerate(features):
            self.features(level).copy_(values)


class CodeGeometry(_KnownCodes):
    """What the codes of each level stand for, beside the learned tables: similar codes are heard, and expected, alike from the first step.

    Args:
        levels: level of each lane.
        widths: number of features of each level's codes (columns of `code_features`).
        heads: also score codes.
    """

    def __init__(self, levels: Sequence[int], widths: Sequence[int], num_codes: int, width: int, mup: Mup, heads: bool = True):
        super().__init__()
        self.levels, self.num_codes, self.mup = tuple(levels), num_codes, mup
        for level, columns in enumerate(widths):
            self.register_buffer(f"features{level}", torch.zeros(num_codes, columns))
        self.into = init_linear(nn.Linear(sum(widths[level] for level in levels), width), mup)
        self.out = nn.ModuleList(init_linear(nn.Linear(width, widths[level]), mup) for level in levels) if heads else None

    def embed(self, grid: Tensor) -> Tensor:
        """(B, R, S) codes, -1 = hole -> (B, S, D); a hole says nothing."""
        told = [
            F.embedding(grid[:, row].clamp(min=0), self.features(level)) * (grid[:, row] >= 0)[..., None]
            for row, level in enumerate(self.levels)
        ]
        return self.into(torch.cat(told, -1))

    def rows(self) -> Tensor:
        """(R * (num_codes + 1), D) of which `embed` is the sum over the lanes, as it is of a `LaneEmbedding`'s table."""
        columns = [self.features(level).shape[1] for level in self.levels]
        unit = torch.eye(sum(columns), device=self.features(0).device)
        bias = self.into(torch.zeros_like(unit[0]))  # by calling it: an adapter may stand beside its weight
        matrices = (self.into(unit) - bias).split(columns)
        told = [F.pad(self.features(level) @ matrix, (0, 0, 0, 1)) for level, matrix in zip(self.levels, matrices, strict=True)]
        return torch.cat(told) + bias / len(self.levels)

    def logits(self, hidden: Tensor, lane: int) -> Tensor:
        """(..., D) -> (..., num_codes) of one lane."""
        assert self.out is not None, "this geometry was made without heads"
        features = self.features(self.levels[lane])
        return self.mup.scaled(F.linear(self.out[lane](hidden), features) * features.shape[1] ** -0.5)


class CodeTables(_KnownCodes):
    """Codes of a grid in and out through one table a level, which the level's lanes share; each lane has matrices of its own around it.

    A row of a table is what is known of the code (`code_features`, frozen) and `learned` numbers more. A grid has many lanes where its
    steps are long: tables of their own for each, as in `LaneEmbedding`, would each see a few codes only.

    Args:
        levels: level of each lane, lanes of a level side by side.
        widths: number of known features of each level's codes; () = nothing is known.
        heads: also score codes.
    """

    offsets: Tensor

    def __init__(self, levels: Sequence[int], widths: Sequence[int], learned: int, num_codes: int, width: int, mup: Mup, heads: bool = True):
        super().__init__()
        self.levels, self.widths, self.num_codes, self.mup = tuple(levels), tuple(widths), num_codes, mup
        columns = [learned] * (max(levels) + 1)
        for level in range(len(columns)):
            if widths:
                self.register_buffer(f"features{level}", torch.zeros(num_codes, widths[level]))
                columns[level] += widths[level]
            self.register_parameter(f"embedding{level}", nn.Parameter(torch.empty(num_codes, learned)))
            init_embedding(getattr(self, f"embedding{level}"), mup)
        into = [init_linear(nn.Linear(columns[level], width, bias=False), mup) for level in levels]
        with torch.no_grad():  # as the parts of one matrix over all lanes start
            for matrix in into:
                matrix.weight.mul_(matrix.weight.shape[1] / sum(columns[level] for level in levels))
        self.into = nn.ModuleList(into)
        self.out = nn.ModuleList(init_linear(nn.Linear(width, columns[level]), mup) for level in levels) if heads else None
        self.register_buffer("offsets", torch.arange(len(levels))[:, None] * (num_codes + 1), persistent=False)

    def table(self, level: int) -> Tensor:
        """(num_codes, columns) known and learned."""
        learned: Tensor = getattr(self, f"embedding{level}")
        return torch.cat([self.features(level), learned], 1) if self.widths else learned

    def rows(self) -> Tensor:
        """(R * (num_codes + 1), D) what each code of each lane adds to a step; a hole, the last of its lane, adds nothing."""
        tables = [self.table(level) for level in range(max(self.levels) + 1)]
        return torch.cat([F.pad(matrix(tables[level]), (0, 0, 0, 1)) for level, matrix in zip(self.levels, self.into, strict=True)])

    def embed(self, grid: Tensor, rows: Tensor | None = None) -> Tensor:
        """(B, R, S) codes, -1 = hole -> (B, S, D); `rows`: of `rows()`, for who asks several times."""
        flat = (torch.where(grid < 0, self.num_codes, grid) + self.offsets).transpose(1, 2).reshape(-1, len(self.levels))
        return F.embedding_bag(flat, self.rows() if rows is None else rows, mode="sum").view(grid.shape[0], grid.shape[2], -1)

    def logits(self, hidden: Tensor, level: int) -> Tensor:
        """(B, S, D) -> (B, S, r, num_codes) of the r lanes of one level."""
        assert self.out is not None, "these tables were made without heads"
        table = self.table(level)
        told = torch.stack([matrix(hidden) for own, matrix in zip(self.levels, self.out, strict=True) if own == level], -2)
        return self.mup.scaled(F.linear(told, table) * table.shape[1] ** -0.5)


def interpolate(states: Tensor, positions: Tensor) -> Tensor:
    """Read (B, L, D) states at fractional positions (S,), linearly between neighbours, clamped at the ends -> (B, S, D)."""
    last = states.shape[1] - 1
    positions = positions.clamp(0, last)
    below = positions.floor().long()
    weight = (positions - below).to(states.dtype)[:, None]
    above = (below + 1).clamp(max=last)
    return torch.lerp(states.index_select(1, below), states.index_select(1, above), weight)


def pick(states: Tensor, indices: Tensor) -> Tensor:
    """Rows of (B or 1, L, D) states by (B, S) indices -> (B, S, D)."""
    batch, length, width = states.shape
    if batch == 1:
        return F.embedding(indices, states[0])
    base = torch.arange(batch, device=indices.device)[:, None] * length
    return F.embedding(indices + base, states.reshape(batch * length, width))
