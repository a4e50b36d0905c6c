"""Every codec keeps the same contract: shapes, holes, determinism, independence of batch and of length. Others' have random weights here."""

import pytest
import torch

from autosing.errors import ConfigError
from autosing.perception import CODECS, load_codec
from autosing.tokens.specs import CodecSpec
from tests.outside_models import write_codec
from tests.pretend_device import AWAY, tensors_of

BUILTIN = ("builtin", "builtin_band")
LAYOUTS = {  # rate, samples a finest frame, strides, codes a level, frames in 30 s
    **dict.fromkeys(BUILTIN, (24_000, 288, (8, 4, 2, 1), 1024, 2496)),
    "snac_24khz": (24_000, 512, (4, 2, 1), 4096, 1404),
    "snac_32khz": (32_000, 384, (8, 4, 2, 1), 4096, 2496),
    "snac_44khz": (44_100, 512, (8, 4, 2, 1), 4096, 2576),
    "encodec_24khz": (24_000, 320, (1,) * 8, 1024, 2250),
    "encodec_32khz": (32_000, 640, (1,) * 4, 2048, 1500),
    "dac_44khz": (44_100, 512, (1,) * 9, 1024, 2583),
}


def make(name, folder, device="cpu"):
    if name in BUILTIN:
        return load_codec(name, device)
    write_codec(folder, name)
    return load_codec(f"{name}:{folder}", device)


@pytest.fixture(scope="module", params=LAYOUTS)
def codec(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp("codec"))


@pytest.fixture
def trained(codec):
    if codec.spec.name not in BUILTIN:
        pytest.skip("a codec with random weights is not heard to be right")
    return codec


def tune(samples: int, seed: int = 0) -> torch.Tensor:
    """(samples,) a gliding tone with harmonics, and some noise."""
    time = torch.arange(samples) / 24_000
    phase = 2 * torch.pi * (180 * time + 6 * torch.sin(2 * torch.pi * 0.7 * time))
    wave = sum(torch.sin(k * phase) / k for k in range(1, 12)) * 0.1
    return wave + 0.003 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def test_spec(codec):
    spec = codec.spec
    assert (spec.sample_rate, spec.hop, spec.strides, spec.num_codes, spec.frames(30)) == LAYOUTS[spec.name]
    assert spec.grain == max(spec.strides)
    assert codec.accompaniment == ("builtin_band" if spec.name in BUILTIN else spec.name)
    assert codec.accompaniment in CODECS.names()


def test_the_embedded_codec_has_the_rates_of_the_original_at_half_the_bits():
    assert load_codec("builtin").spec.bits_per_second == pytest.approx(1562.5)


@pytest.mark.parametrize("grains", [0.001, 0.999, 1, 1.001, 10.4])
def test_encode_shape_and_holes(codec, grains):
    spec = codec.spec
    grain = spec.hop * spec.grain
    samples = max(1, round(grains * grain))
    codes = codec.encode(tune(samples)[None, None])
    frames = -(-samples // grain) * spec.grain
    assert codes.shape == (1, spec.levels, frames) and codes.dtype == torch.int64
    for level, stride in enumerate(spec.strides):
        on_stride = torch.arange(frames) % stride == 0
        assert bool((codes[0, level, ~on_stride] == CodecSpec.HOLE).all())
        assert bool(((codes[0, level, on_stride] >= 0) & (codes[0, level, on_stride] < spec.num_codes)).all())
    assert codec.decode(codes).shape == (1, 1, frames * spec.hop)


def test_nothing_in_nothing_out(codec):
    spec = codec.spec
    assert codec.encode(torch.zeros(2, 1, 0)).shape == (2, spec.levels, 0)
    assert codec.encode(torch.zeros(0, 1, 3 * spec.hop * spec.grain)).shape == (0, spec.levels, 3 * spec.grain)
    assert codec.decode(torch.zeros(2, spec.levels, 0, dtype=torch.long)).shape == (2, 1, 0)


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


@pytest.mark.parametrize("name", LAYOUTS)
def test_it_works_on_another_device_and_gives_codes_and_audio_there(name, tmp_path, other_device):
    here, there = make(name, tmp_path), make(name, tmp_path, other_device)
    assert {tensor.device.type for tensor in tensors_of(there)} <= {other_device.type}
    assert {book.device.type for book in there.codebooks()} <= {other_device.type}
    wave = tune(6_000)[None, None]
    codes = here.encode(wave)
    for found in there.encode(wave), there.encode(wave.to(other_device)):
        assert found.device.type == other_device.type
        assert float((found.cpu() == codes).float().mean()) > 0.95  # arithmetic differs a little, and codes lie close together
    for heard in there.decode(codes), there.decode(codes.to(other_device)):
        assert heard.device.type == other_device.type and heard.shape == here.decode(codes).shape
        if other_device.type == AWAY.type:  # elsewhere the noise of a decoder is another
            torch.testing.assert_close(heard.cpu(), here.decode(codes), atol=1e-3, rtol=1e-2)


def test_encoding_leaves_no_graph_and_no_chance(codec):
    state = torch.random.get_rng_state()
    codes = codec.encode(tune(12_000)[None, None].requires_grad_())
    assert not codes.requires_grad and not codec.decode(codes).requires_grad
    assert torch.equal(state, torch.random.get_rng_state())


def test_decoded_audio_is_finite_and_about_as_loud(trained):
    wave = tune(48_000)
    codec = trained
    heard = codec.decode(codec.encode(wave[None, None]))[0, 0]
    assert bool(torch.isfinite(heard).all())
    ratio_db = 10 * torch.log10(heard.square().mean() / wave.square().mean())
    assert abs(float(ratio_db)) < 6


def test_silence_stays_silent(trained):
    heard = trained.decode(trained.encode(torch.zeros(1, 1, 24_000)))
    assert float(heard.abs().max()) < 0.01


def test_extremes_do_not_break_it(codec):
    loud = torch.sign(tune(12_000)) * 10
    assert bool(torch.isfinite(codec.decode(codec.encode(loud[None, None]))).all())


def test_wrong_shapes_and_codes_are_refused(codec):
    with pytest.raises(ConfigError, match="batch, 1, samples"):
        codec.encode(torch.zeros(1, 2, 1000))
    spec = codec.spec
    with pytest.raises(ConfigError, match="found"):
        codec.decode(torch.zeros(1, spec.levels + 1, spec.grain, dtype=torch.long))
    codes = codec.encode(tune(5000)[None, None])
    codes[0, -1, 0] = spec.num_codes
    with pytest.raises(ConfigError, match=f"{spec.num_codes} is no code of level {spec.levels - 1}"):
        codec.decode(codes)


def test_what_codes_stand_for(codec):
    """A vector for each code of each level, or nothing at all; no two codes stand for the same."""
    books = codec.codebooks()
    assert len(books) in (0, codec.spec.levels)
    for book in books:
        assert book.ndim == 2 and len(book) == codec.spec.num_codes and bool(book.isfinite().all())
        assert len(torch.unique(book, dim=0)) > 0.95 * len(book)
