"""What a network is told about codes: alike codes look alike, and a Gaussian over vectors is a linear read-out of their features."""

import pytest
import torch

from autosing.nn.embeddings import CodeGeometry, CodeTables, FrozenCodebook, LaneEmbedding, code_features
from autosing.nn.mup import Mup


def test_features_are_standardised_whatever_the_scale() -> None:
    torch.manual_seed(0)
    book = torch.randn(256, 6) * torch.tensor([100.0, 10.0, 1.0, 1.0, 0.5, 1e-3]) + 40
    features = code_features(book)
    assert features.shape == (256, 2 * 6 + 64) and features.isfinite().all()
    torch.testing.assert_close(features.mean(0), torch.zeros(76), atol=1e-4, rtol=0)
    assert bool((features.std(0) < 1.01).all()) and bool((features.std(0)[:4] > 0.99).all())


def test_features_of_equal_or_single_codes_are_finite() -> None:
    assert code_features(torch.ones(16, 3)).isfinite().all()


def test_neighbours_have_like_features() -> None:
    torch.manual_seed(0)
    book = torch.rand(400, 2)
    apart, told = torch.cdist(book, book), torch.cdist(code_features(book), code_features(book))
    near, far = told[(apart > 0) & (apart < 0.03)].mean(), told[apart > 0.5].mean()
    assert near < 0.5 * far


def test_a_gaussian_over_vectors_is_a_linear_read_out() -> None:
    """log N(code; mean, deviation) of all codes, least squares on features: what is left is small beside its spread."""
    torch.manual_seed(0)
    book = torch.randn(512, 4)
    target = -((book - torch.tensor([0.3, -1.0, 0.5, 0.0])) ** 2 / (2 * 0.4**2)).sum(1)
    features = torch.cat([code_features(book), torch.ones(512, 1)], 1)
    solution = torch.linalg.lstsq(features, target[:, None]).solution
    left = (features @ solution)[:, 0] - target
    # whitening turns the axes of this cloud a little, so diagonal squares are not all of it
    assert left.std() < 0.05 * target.std()


def test_geometry_scores_and_embeds_by_level_and_holes_say_nothing() -> None:
    torch.manual_seed(0)
    geometry = CodeGeometry((0, 1, 1), (5, 7), 10, 8, Mup())
    geometry.load([torch.randn(10, 5), torch.randn(10, 7)])
    grid = torch.tensor([[[1, -1], [-1, 3], [9, -1]]])
    told = torch.cat([geometry.features(0)[1], torch.zeros(7), geometry.features(1)[9]])
    torch.testing.assert_close(geometry.embed(grid)[0, 0], geometry.into(told))
    hidden = torch.randn(4, 8)
    assert geometry.out is not None
    torch.testing.assert_close(geometry.logits(hidden, 2), geometry.out[2](hidden) @ geometry.features(1).T / 7**0.5)
    with pytest.raises(AssertionError, match="without heads"):
        CodeGeometry((0,), (5,), 10, 8, Mup(), heads=False).logits(hidden, 0)


@pytest.mark.parametrize("linear", [False, True])
def test_output_mult_scales_every_kind_of_logits_over_codes(linear: bool) -> None:
    hidden = torch.randn(3, 8)

    def logits(mult: float) -> list[torch.Tensor]:
        torch.manual_seed(0)
        mup = Mup(output_mult=mult, linear_heads=linear)
        geometry = CodeGeometry((0,), (5,), 10, 8, mup)
        geometry.load([torch.randn(10, 5)])
        return [FrozenCodebook(10, 4, 8, mup).logits(hidden), LaneEmbedding(2, 10, 8, mup).logits(hidden, 1), geometry.logits(hidden, 0)]

    for plain, doubled in zip(logits(5.6), logits(11.2), strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(doubled, 2 * plain)


def test_code_tables_embed_by_lane_and_score_by_level() -> None:
    torch.manual_seed(0)
    tables = CodeTables((0, 1, 1), (5, 7), 3, 10, 8, Mup())
    tables.load([torch.randn(10, 5), torch.randn(10, 7)])
    known = torch.cat([tables.features(1), tables.embedding1], 1)
    grid = torch.tensor([[[1, -1], [-1, 3], [9, -1]]])
    added = tables.into[0](torch.cat([tables.features(0), tables.embedding0], 1))[1] + tables.into[2](known)[9]
    torch.testing.assert_close(tables.embed(grid)[0, 0], added)
    torch.testing.assert_close(tables.embed(grid, tables.rows())[0, 1], tables.into[1](known)[3])
    hidden = torch.randn(2, 4, 8)
    assert tables.out is not None and tables.logits(hidden, 1).shape == (2, 4, 2, 10)
    torch.testing.assert_close(tables.logits(hidden, 1)[:, :, 1], tables.out[2](hidden) @ known.T / 10**0.5)
    unknown = CodeTables((0, 0), (), 3, 10, 8, Mup(), heads=False)
    assert not list(unknown.buffers(recurse=False))[1:] and unknown.embed(torch.zeros(1, 2, 4, dtype=torch.long)).shape == (1, 4, 8)
    with pytest.raises(AssertionError, match="without heads"):
        unknown.logits(hidden, 0)
