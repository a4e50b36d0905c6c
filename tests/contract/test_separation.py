"""What every separator promises (autosing/perception/separation/base.py). A new backend is one more row of `BACKENDS`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autosing.errors import ConfigError
from autosing.models.io import save_model
from autosing.models.separator import SIZES, SeparatorNet
from autosing.perception import load_separator
from autosing.perception.separation.base import Separator
from tests.outside_models import write_demucs
from tests.pretend_device import tensors_of


def builtin(folder: Path, device: torch.device | str = "cpu") -> Separator:
    return load_separator("builtin", device)


def untrained(folder: Path, device: torch.device | str = "cpu") -> Separator:
    torch.manual_seed(0)
    save_model(SeparatorNet(SIZES["tiny"]), folder, {})
    return load_separator("builtin", device, weights=str(folder))


def demucs(folder: Path, device: torch.device | str = "cpu") -> Separator:
    write_demucs(folder)
    return load_separator(f"demucs:{folder}", device)


BACKENDS: dict[str, Callable[..., Separator]] = {
    "builtin": builtin,
    "builtin-untrained": untrained,
    "demucs": demucs,
}


@pytest.fixture(scope="module", params=BACKENDS)
def separator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Separator:
    return BACKENDS[request.param](tmp_path_factory.mktemp("separator"))


def song(channels: int, samples: int, sample_rate: int) -> torch.Tensor:
    """A sliding buzz in the middle, noise at the sides."""
    time = torch.arange(samples) / sample_rate
    voice = 0.2 * torch.sign(torch.sin(6.28 * (200 + 30 * torch.sin(3 * time)) * time))
    return voice + 0.05 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 511, 2049, 40_000])
def test_stems_have_the_shape_of_the_mix_and_add_up_to_it(separator: Separator, channels: int, samples: int) -> None:
    mix = song(channels, samples, separator.sample_rate)
    vocals, accompaniment = separator.separate(mix)
    assert vocals.shape == accompaniment.shape == mix.shape
    assert vocals.dtype == accompaniment.dtype == torch.float32
    assert torch.allclose(vocals + accompaniment, mix, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1000, 30_000])
def test_silence_stays_silent(separator: Separator, samples: int) -> None:
    vocals, accompaniment = separator.separate(torch.zeros(2, samples))
    assert vocals.shape == accompaniment.shape == (2, samples)
    assert not vocals.any() and not accompaniment.any()


def test_the_same_mix_gives_the_same_stems_and_is_left_as_it_was(separator: Separator) -> None:
    mix = song(2, 30_000, separator.sample_rate)
    before, first = mix.clone(), separator.separate(mix).vocals
    separator.separate(song(1, 9_000, separator.sample_rate) * 3)  # whatever it heard in between
    assert torch.equal(separator.separate(mix).vocals, first)
    assert torch.equal(mix, before)


@pytest.mark.parametrize("name", BACKENDS)
def test_it_works_on_another_device_and_gives_stems_on_the_cpu(name: str, tmp_path: Path, other_device: torch.device) -> None:
    here, there = BACKENDS[name](tmp_path), BACKENDS[name](tmp_path, other_device)
    assert {tensor.device.type for tensor in tensors_of(there)} == {other_device.type}
    mix = song(2, 12_000, here.sample_rate)
    for found in there.separate(mix), there.separate(mix.to(other_device)):
        assert found.vocals.device.type == found.accompaniment.device.type == "cpu"
        torch.testing.assert_close(found.vocals, here.separate(mix).vocals, atol=1e-3, rtol=1e-3)


def test_a_louder_mix_gives_the_same_stems_louder(separator: Separator) -> None:
    mix = song(2, 40_000, separator.sample_rate)
    quiet, loud = separator.separate(mix * 0.01).vocals, separator.separate(mix).vocals
    assert torch.allclose(quiet * 100, loud, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_constant_is_no_voice(channels: int) -> None:
    separator = load_separator("builtin", mask_floor=0.0)
    mix = song(channels, 40_000, separator.sample_rate)
    mix = mix - mix.mean(1, keepdim=True)
    plain, shifted = separator.separate(mix), separator.separate(mix + 0.2)
    torch.testing.assert_close(shifted.vocals, plain.vocals, atol=1e-4, rtol=0)
    torch.testing.assert_close(shifted.accompaniment, plain.accompaniment + 0.2, atol=1e-4, rtol=0)


def test_other_shapes_are_refused(separator: Separator) -> None:
    for shape in [(30_000,), (3, 30_000), (1, 2, 30_000)]:
        with pytest.raises(ValueError, match="must be"):
            separator.separate(torch.zeros(shape))


def test_blocks_leave_no_seam(separator: Separator, tmp_path: Path) -> None:
    """Three short blocks give what one long one gives, and nothing jumps where they meet."""
    from autosing.perception.separation.builtin import BuiltinSeparator

    if not isinstance(separator, BuiltinSeparator):
        pytest.skip("only the built-in separator's blocks can be set")
    save_model(separator.net, tmp_path, {})
    mix = song(2, 7 * separator.sample_rate, separator.sample_rate)
    whole = BuiltinSeparator(weights=str(tmp_path), block_seconds=30.0).separate(mix).vocals
    blocks = BuiltinSeparator(weights=str(tmp_path), block_seconds=2.5).separate(mix).vocals
    assert float((whole - blocks).square().mean()) < 0.03 * float(whole.square().mean())
    jumps = (blocks - whole).diff(dim=1).abs()
    assert float(jumps.max()) < 0.5 * float(whole.diff(dim=1).abs().max())


def test_the_mask_floor_leaves_that_much_of_the_rest() -> None:
    """Of the embedded separator: 0 is what the network says, 1 is the mix."""
    mix = 0.1 * torch.randn(2, 24_000, generator=torch.Generator().manual_seed(3))
    bare, floor, all_of_it = (load_separator("builtin", mask_floor=share).separate(mix) for share in (0.0, 0.25, 1.0))
    torch.testing.assert_close(floor.vocals, bare.vocals + 0.25 * bare.accompaniment, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(all_of_it.vocals, mix, atol=1e-5, rtol=1e-4)


def test_each_warp_is_a_look_and_the_filters_mean_is_taken() -> None:
    """Of the embedded separator: what is found is linear in its filters, so looks one by one give the mean too."""
    mix = 0.1 * torch.randn(2, 30_000, generator=torch.Generator().manual_seed(3)).cumsum(1)
    both, low, high, plain, same = (
        load_separator("builtin", warps=warps).separate(mix).vocals for warps in ((0.8, 1.3), (0.8,), (1.3,), (1.0,), (1.0, 1.0))
    )
    torch.testing.assert_close(both, (low + high) / 2, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(low, high, atol=1e-3)
    with pytest.raises(ConfigError, match="warps"):
        load_separator("builtin", warps=())


def test_leaning_takes_more_for_voice() -> None:
    """Of the embedded separator: far to one side there is no voice, far to the other all of the middle and of the sides is."""
    mix = 0.1 * torch.randn(1, 24_000, generator=torch.Generator().manual_seed(3))
    shares = [
        float(load_separator("builtin", mask_floor=0.0, lean=lean).separate(mix).vocals.square().sum() / mix.square().sum()) for lean in (-30.0, -1.0, 0.0, 1.0, 30.0)
    ]
    assert shares == sorted(shares) and shares[0] < 1e-3 and shares[-1] == pytest.approx(1.0, abs=0.02)
