"""Vector quantisation: weighted k-means with re-seeding of dead codes, and nearest-code search. Deterministic, no global state.

Letters: N points, D dimensions, K codes. Search runs in blocks of a fixed number of rows, so a point's code never depends on its neighbours.
"""

import torch
from torch import Tensor

from autosing.errors import DataError

ROWS_A_BLOCK = 1024


def nearest(points: Tensor, codes: Tensor) -> Tensor:
    """Index of the closest code (squared Euclidean; the lowest index of equals). (N, D), (K, D) -> (N,) int64."""
    return nearest_few(points, codes, 1)[:, 0]


def nearest_few(points: Tensor, codes: Tensor, few: int) -> Tensor:
    """Indices of the `few` closest codes, closest first. (N, D), (K, D) -> (N, few) int64."""
    half_norm = 0.5 * codes.square().sum(1)
    found = []
    for block in points.split(ROWS_A_BLOCK):
        padded = torch.nn.functional.pad(block, (0, 0, 0, ROWS_A_BLOCK - len(block)))
        score = torch.addmm(half_norm, padded, codes.T, alpha=-1)[: len(block)]
        found.append(score.argmin(1, keepdim=True) if few == 1 else score.topk(few, largest=False).indices)
    return torch.cat(found) if found else torch.zeros(0, few, dtype=torch.long, device=points.device)


def kmeans(
    points: Tensor, count: int, weights: Tensor | None = None, iterations: int = 20, seed: int = 0, most: int = 60_000
) -> Tensor:
    """Weighted k-means (Lloyd's iterations).

    Starts from points drawn by weight. After each pass, codes that hold no weight move to the points that cost most.

    Args:
        points: (N, D).
        count: K.
        weights: (N,) >= 0; None = all alike.
        iterations: passes.
        seed: of the draws.
        most: points used, drawn by weight when there are more (they then count alike).

    Returns:
        (K, D) float32.

    Raises:
        DataError: fewer points of positive weight than codes.
    """
    generator = torch.Generator().manual_seed(seed)
    points = points.float()
    weights = torch.ones(len(points)) if weights is None else weights.float().clamp(min=0)
    usable = int(weights.count_nonzero())
    if usable < count:
        raise DataError(f"{usable} points cannot make {count} codes; give more songs")
    if usable > most:
        chosen = _draw(weights, most, generator)
        points, weights = points[chosen], torch.ones(most)
    codes = points[_draw(weights, count, generator)].clone()
    for _ in range(iterations):
        index = nearest(points, codes)
        mass = torch.zeros(count).index_add_(0, index, weights)
        total = torch.zeros_like(codes).index_add_(0, index, points * weights[:, None])
        alive = mass > 0
        codes[alive] = total[alive] / mass[alive, None]
        dead = (~alive).nonzero()[:, 0]
        if len(dead):
            cost = (points - codes[index]).square().sum(1) * weights
            codes[dead] = points[cost.topk(len(dead)).indices]
    return codes


def named_alike(codes: Tensor, names: Tensor, count: int) -> Tensor:
    """Which code is to bear each name, so that codes and names of the same things agree as often as they can.

    One to one, by the share of a code's and of a name's occurrences that they have in common (Hungarian method).

    Args:
        codes, names: (N,) in 0 to `count` - 1, of the same N things.
        count: K.

    Returns:
        (K,) the code that becomes 0, 1, ...: `book[result]` is the book with its codes renamed.
    """
    from scipy.optimize import linear_sum_assignment  # of the extra `render`, as is all that codes are fitted to

    together = torch.bincount(names * count + codes, minlength=count * count).reshape(count, count).double()
    shared = together / (together.sum(0, keepdim=True) * together.sum(1, keepdim=True)).clamp(min=1).sqrt()
    return torch.from_numpy(linear_sum_assignment(shared.numpy(), maximize=True)[1])


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` different indices, drawn with chances in proportion to `weights` (Efraimidis and Spirakis, 2006)."""
    keys = torch.rand(len(weights), generator=generator).clamp(min=1e-12).log() / weights.clamp(min=1e-12)
    keys[weights <= 0] = -torch.inf
    return keys.topk(count).indices.sort().values
