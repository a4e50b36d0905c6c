"""Every embedded codec keeps the same contract: shapes, holes, determinism, independence of batch and of length."""

import pytest
import torch

from autosing.errors import ConfigError
from autosing.perception import CODECS, load_codec
from autosing.tokens.specs import CodecSpec

NAMES = ("builtin", "builtin_band")


@pytest.fixture(scope="module", params=NAMES)
def codec(request):
    return load_codec(request.param)


def tune(samples: int, seed: int = 0) -> torch.Tensor:
    """(samples,) a gliding tone with harmonics, and some noise."""
    time = torch.arange(samples) / 24_000
    phase = 2 * torch.pi * (180 * time + 6 * torch.sin(2 * torch.pi * 0.7 * time))
    wave = sum(torch.sin(k * phase) / k for k in range(1, 12)) * 0.1
    return wave + 0.003 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def test_spec(codec):
    spec = codec.spec
    assert (spec.sample_rate, spec.hop, spec.strides, spec.num_codes, spec.grain) == (24_000, 288, (8, 4, 2, 1), 1024, 8)
    assert spec.frames(30) == 2496
    assert spec.bits_per_second == pytest.approx(1562.5)
    assert spec.name in CODECS.names() and codec.accompaniment == "builtin_band"


@pytest.mark.parametrize("samples", [1, 288 * 8 - 1, 288 * 8, 288 * 8 + 1, 24_000])
def test_encode_shape_and_holes(codec, samples):
    codes = codec.encode(tune(samples)[None, None])
    frames = -(-samples // (288 * 8)) * 8
    assert codes.shape == (1, 4, frames) and codes.dtype == torch.int64
    for level, stride in enumerate(codec.spec.strides):
        on_stride = torch.arange(frames) % stride == 0
        assert bool((codes[0, level, ~on_stride] == CodecSpec.HOLE).all())
        assert bool(((codes[0, level, on_stride] >= 0) & (codes[0, level, on_stride] < 1024)).all())
    assert codec.decode(codes).shape == (1, 1, frames * 288)


def test_nothing_in_nothing_out(codec):
    assert codec.encode(torch.zeros(2, 1, 0)).shape == (2, 4, 0)
    assert codec.encode(torch.zeros(0, 1, 5000)).shape == (0, 4, 24)
    assert codec.decode(torch.zeros(2, 4, 0, dtype=torch.long)).shape == (2, 1, 0)


def test_a_row_does_not_depend_on_its_neighbours(codec):
    one = tune(30_000)
    batch = torch.stack([torch.zeros(30_000), one, tune(30_000, seed=5) * 3])[:, None]
    together = codec.encode(batch)
    assert torch.equal(together[1], codec.encode(one[None, None])[0])
    assert torch.equal(codec.decode(together)[1], codec.decode(together[1:2])[0])


def test_same_input_same_output(codec):
    wave = tune(30_000)[None, None]
    codes = codec.encode(wave)
    assert torch.equal(codes, codec.encode(wave))
    assert torch.equal(codec.decode(codes), codec.decode(codes))


def test_decoded_audio_is_finite_and_about_as_loud(codec):
    wave = tune(48_000)
    heard = codec.decode(codec.encode(wave[None, None]))[0, 0]
    assert bool(torch.isfinite(heard).all())
    ratio_db = 10 * torch.log10(heard.square().mean() / wave.square().mean())
    assert abs(float(ratio_db)) < 6


def test_silence_stays_silent(codec):
    heard = codec.decode(codec.encode(torch.zeros(1, 1, 24_000)))
    assert float(heard.abs().max()) < 0.01


def test_extremes_do_not_break_it(codec):
    loud = torch.sign(tune(12_000)) * 10
    assert bool(torch.isfinite(codec.decode(codec.encode(loud[None, None]))).all())


def test_wrong_shapes_and_codes_are_refused(codec):
    with pytest.raises(ConfigError, match="batch, 1, samples"):
        codec.encode(torch.zeros(1, 2, 1000))
    with pytest.raises(ConfigError, match="found"):
        codec.decode(torch.zeros(1, 4, 12, dtype=torch.long))
    codes = codec.encode(tune(5000)[None, None])
    codes[0, 3, 0] = 1024
    with pytest.raises(ConfigError, match="1024 is no code of level 3"):
        codec.decode(codes)


def test_what_codes_stand_for(codec):
    """A vector for each code of each level, or nothing at all; no two codes stand for the same."""
    books = codec.codebooks()
    assert len(books) in (0, codec.spec.levels)
    for book in books:
        assert book.ndim == 2 and len(book) == codec.spec.num_codes and bool(book.isfinite().all())
        assert len(torch.unique(book, dim=0)) > 0.95 * len(book)
