"""k-means and nearest codes."""

import pytest
import torch

from autosing.errors import DataError
from autosing.perception.codec.quantise import kmeans, named_alike, nearest, nearest_few


def clouds(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    return (centres[:, None] + 0.1 * torch.randn(3, 200, 2, generator=generator)).reshape(-1, 2)


def test_finds_clouds():
    codes = kmeans(clouds(), 3, iterations=20)
    assert sorted(codes.round().int().tolist()) == [[0, 0], [0, 10], [10, 0]]


def test_is_deterministic():
    assert torch.equal(kmeans(clouds(), 8, seed=4), kmeans(clouds(), 8, seed=4))
    assert not torch.equal(kmeans(clouds(), 8, seed=4), kmeans(clouds(), 8, seed=5))


def test_dead_codes_come_back_to_life():
    points = torch.cat([torch.zeros(500, 2), clouds()])
    codes = kmeans(points, 16, iterations=20)
    assert len(set(nearest(points, codes).tolist())) >= 12


def test_weight_zero_is_not_looked_at():
    points = torch.cat([clouds(), torch.full((100, 2), 99.0)])
    weights = torch.cat([torch.ones(600), torch.zeros(100)])
    assert float(kmeans(points, 5, weights).max()) < 20


def test_too_few_points_are_refused():
    with pytest.raises(DataError, match="600 points cannot make 601 codes"):
        kmeans(clouds(), 601)


def test_nearest_is_the_true_nearest_and_ignores_neighbours():
    generator = torch.Generator().manual_seed(0)
    points, codes = torch.randn(1500, 6, generator=generator), torch.randn(64, 6, generator=generator)
    assert torch.equal(nearest(points, codes), torch.cdist(points, codes).argmin(1))
    assert torch.equal(nearest(points[:7], codes), nearest(points, codes)[:7])
    assert torch.equal(nearest_few(points, codes, 3)[:, 0], nearest(points, codes))
    assert nearest(points[:0], codes).shape == (0,)


def test_codes_get_the_names_they_are_mostly_called_by():
    generator = torch.Generator().manual_seed(0)
    order, names = torch.randperm(40, generator=generator), torch.randint(0, 40, (4000,), generator=generator)
    codes = order[names]
    mistaken = torch.rand(4000, generator=generator) < 0.3
    codes[mistaken] = torch.randint(0, 40, (int(mistaken.sum()),), generator=generator)
    assert torch.equal(named_alike(codes, names, 40), order)
    few = named_alike(codes[names < 7], names[names < 7], 40)  # names that never occur go to the codes that are left
    assert torch.equal(few[:7], order[:7]) and torch.equal(few.sort().values, torch.arange(40))
