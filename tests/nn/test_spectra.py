"""Front ends: shapes, frame times, and frames that depend on their neighbourhood alone."""

import pytest
import torch

from autosing.nn.disturb import Disturbance, _Chance, _dark, mix_batch, warp_formants
from autosing.nn.spectra import FRONT_ENDS, cosine_basis, linear_filterbank, mel_filterbank


def _noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, round(seconds * 24000), generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("name", list(FRONT_ENDS))
def test_frames_and_bands(name):
    front = FRONT_ENDS[name](40)
    assert front(_noise(1.0)).shape == (1, 40, 100)
    assert front(_noise(1.0)[:, :239]).shape == (1, 40, 0)
    assert torch.isfinite(front(torch.zeros(1, 24000))).all()


@pytest.mark.parametrize("name", list(FRONT_ENDS))
def test_level_does_not_matter(name):
    front = FRONT_ENDS[name](40)
    wav = _noise(2.0)
    torch.testing.assert_close(front(wav * 3.0), front(wav), atol=0.15, rtol=0)


def test_a_piece_gives_the_frames_of_the_whole():
    front = FRONT_ENDS["mel"](40)
    wav = _noise(20.0)
    whole, piece = front(wav), front(wav[:, 5 * 24000 : 17 * 24000])
    torch.testing.assert_close(piece[..., 350:-350], whole[..., 850:1350], atol=1e-3, rtol=0)


def test_a_click_is_in_the_frame_of_its_time():
    front = FRONT_ENDS["mel"](40)
    wav = torch.zeros(1, 24000)
    wav[0, 12000 + 120] = 1.0  # the middle of frame 50
    loudness = front(wav).mean(1)[0]
    assert loudness[50] == loudness.max()
    torch.testing.assert_close(loudness[49], loudness[51], atol=0.02, rtol=0)


def test_filterbanks_have_no_empty_band():
    for bank in (mel_filterbank(24000, 512, 80, 50, 11000), linear_filterbank(24000, 512, 200, 60, 7800)):
        assert (bank.sum(1) > 0.99).all() and (bank >= 0).all()
    basis = cosine_basis(16)
    torch.testing.assert_close(basis @ basis.T, torch.eye(16))


@pytest.mark.parametrize("channels", [1, 2])
def test_mixing_is_seeded_and_leaves_nothing_broken(channels):
    vocals, band = _noise(1.0).repeat(6, 1), _noise(1.0, 1)[:, None].repeat(6, channels, 1)
    band[2:] = 0
    torch.manual_seed(3)
    first, muted = mix_batch(vocals, band, Disturbance())
    torch.manual_seed(3)
    second, _ = mix_batch(vocals, band, Disturbance())
    torch.testing.assert_close(first, second)
    assert first.shape == band.shape and torch.isfinite(first).all() and muted.dtype == torch.bool
    plain, none_muted = mix_batch(vocals, band, Disturbance(0.0))
    torch.testing.assert_close(plain, vocals[:, None] + band)
    assert not none_muted.any()


def test_dark_voices_lose_highs_by_less_than_their_shelf_and_no_lows():
    """White noise without a band: below the lowest corner nothing changes, far above every voice is 12 to 38 dB weaker."""
    frequencies = torch.linspace(0, 12000, 2401)
    torch.manual_seed(0)
    response = _dark(frequencies, _Chance(400, torch.device("cpu"), 1.0), 1.0)
    assert (response[:, frequencies < 350] == 1).all()
    assert (response.diff(dim=1) <= 1e-6).all()
    top_db = 20 * response[:, -1].log10()
    assert -38.1 < top_db.min() < -35 and -16 < top_db.max() < -11.9
    half = _dark(frequencies, _Chance(400, torch.device("cpu"), 1.0), 0.5)
    assert 140 < (half[:, -1] == 1).sum() < 260, "the others are left alone"


def test_warped_formants_move_apart_and_nothing_else_changes():
    """Where every band holds its own frequency, a warped one holds the frequency that it was read from."""
    centres = FRONT_ENDS["mel"](80).centres_hz()
    assert (centres.diff() > 0).all() and 50 < centres[0] < 120 and 10_000 < centres[-1] < 11_000
    spectra = centres[None, None, :, None].repeat(200, 2, 1, 3)
    torch.testing.assert_close(warp_formants(spectra, centres, 0.0), spectra)
    torch.manual_seed(0)
    moved = warp_formants(spectra, centres, 0.15)
    assert moved.shape == spectra.shape and torch.equal(moved[..., 0], moved[..., 2])
    assert torch.equal(moved[:, 0], moved[:, 1]), "all spectra of an item alike"
    moved = moved[:, 0]
    assert (moved[..., 0].diff(dim=1) >= 0).all(), "order along the axis is kept"
    factors = (moved[..., 0] / centres)[:, [int((centres - hz).abs().argmin()) for hz in (300.0, 1500.0, 4500.0)]]
    assert factors.min() > 0.77 and factors.max() < 1.29 and (factors.std(0) > 0.08).all()
    assert torch.corrcoef(factors.T)[0, 2].abs() < 0.3, "each part of the axis has a factor of its own"


def test_a_stereo_mixture_has_its_voice_in_the_middle_and_a_room_on_both_sides():
    """Without a band: most voices are the same left and right but for their rooms, none is to one side by more than 8 dB, a third is narrowed to one channel."""
    torch.manual_seed(0)
    vocals = torch.randn(200, 12000)
    mix, muted = mix_batch(vocals, torch.zeros(200, 2, 12000), Disturbance())
    mix = mix[~muted]
    left, right = mix.square().mean(2).unbind(1)
    sides = (mix[:, 0] - mix[:, 1]).square().mean(1) / 4 / mix.mean(1).square().mean(1)
    assert (10 * (left / right).log10()).abs().max() < 9
    assert 0.25 < (sides < 1e-9).float().mean() < 0.5 and sides.max() < 0.6
