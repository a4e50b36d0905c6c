"""The vocoder: known spectra, known periods, known noise come back."""

import math

import pytest
import torch

from autosing.perception.codec.vocoder import FRAMES_A_BLOCK, Frames, Vocoder, VocoderConfig


def vowel(frames: int, f0: float = 200.0, tilt: float = 2.0) -> Frames:
    """A steady voiced sound whose log power falls by `tilt` nepers along the mel axis."""
    config = VocoderConfig()
    cepstra = torch.zeros(1, frames, config.cepstra)
    cepstra[..., 0] = -8.0 * math.sqrt(config.mel_points)
    cepstra[..., 1] = tilt * math.sqrt(config.mel_points / 2)
    cepstra[..., 4] = 4.0
    return Frames(torch.full((1, frames), f0), torch.ones(1, frames, dtype=torch.bool), cepstra, torch.full((1, frames, 5), -25.0))


@pytest.mark.parametrize("f0", [90.0, 200.0, 450.0])
def test_envelope_comes_back(f0):
    vocoder, made = Vocoder(), vowel(120, f0)
    again = vocoder.analyse(vocoder.synthesise(made)[:, 0:], made.f0_hz, made.voiced)
    inner = slice(10, -10)
    error = (again.cepstra - made.cepstra)[0, inner] * 4.343
    assert float(error.square().sum(1).div(96).sqrt().mean()) < 2.0  # dB


@pytest.mark.parametrize("share_db", [-3.0, -8.0, -15.0])
def test_aperiodicity_comes_back(share_db):
    vocoder, made = Vocoder(), vowel(200)
    made = Frames(made.f0_hz, made.voiced, made.cepstra, torch.full_like(made.aperiodicity_db, share_db))
    again = vocoder.analyse(vocoder.synthesise(made), made.f0_hz, made.voiced)
    assert float(again.aperiodicity_db[0, 10:-10].mean() - share_db) == pytest.approx(0, abs=2.5)


def test_noise_is_heard_as_loud_as_it_is():
    vocoder = Vocoder()
    wav = 0.05 * torch.randn(1, 288 * 160, generator=torch.Generator().manual_seed(1))
    unvoiced = torch.zeros(1, 160, dtype=torch.bool)
    again = vocoder.synthesise(vocoder.analyse(wav, torch.full((1, 160), 200.0), unvoiced))
    ratio_db = 10 * math.log10(float(again.square().mean() / wav.square().mean()))
    assert abs(ratio_db) < 1.5


def test_pulses_stand_one_period_apart():
    position, rate = Vocoder().pulse_times(torch.full((50,), 250.0), torch.ones(50, dtype=torch.bool))
    assert torch.allclose(torch.diff(position), torch.full((len(position) - 1,), 96.0, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(rate, torch.full_like(rate, 250.0), atol=1e-3)


def test_no_pulse_where_unvoiced():
    voiced = torch.zeros(50, dtype=torch.bool)
    voiced[20:30] = True
    position, _ = Vocoder().pulse_times(torch.full((50,), 250.0), voiced)
    assert len(position) and float(position.min()) >= 20 * 288 and float(position.max()) < 30 * 288


def test_blocks_leave_no_seam():
    """The start of a long file is analysed and synthesised bit for bit as a short one is."""
    vocoder, made = Vocoder(), vowel(2 * FRAMES_A_BLOCK + 40)
    wav = vocoder.synthesise(made)
    short = FRAMES_A_BLOCK + 10
    cut = Frames(made.f0_hz[:, :short], made.voiced[:, :short], made.cepstra[:, :short], made.aperiodicity_db[:, :short])
    head = (short - 8) * 288
    assert torch.equal(vocoder.synthesise(cut)[:, :head], wav[:, :head])
    features = vocoder.analyse(wav, made.f0_hz, made.voiced)
    fewer = vocoder.analyse(wav[:, : short * 288], cut.f0_hz, cut.voiced)
    assert torch.equal(features.cepstra[:, : short - 8], fewer.cepstra[:, : short - 8])


def test_seed_decides_the_noise():
    vocoder, made = Vocoder(), vowel(40)
    assert torch.equal(vocoder.synthesise(made, 3), vocoder.synthesise(made, 3))
    assert not torch.equal(vocoder.synthesise(made, 3), vocoder.synthesise(made, 4))


def test_near_world():
    """Beside the reference implementation: the envelopes of a voice differ by little (cepstral truncation included)."""
    pyworld = pytest.importorskip("pyworld")
    vocoder, made = Vocoder(), vowel(120)
    wav = vocoder.synthesise(made)
    ours = vocoder.analyse(wav, made.f0_hz, made.voiced).cepstra[0] @ vocoder._log_power_of
    shifted = torch.nn.functional.pad(wav[0, 144:], (0, 144)).double().numpy()
    times = torch.arange(120).double().numpy() * 0.012
    theirs = pyworld.cheaptrick(shifted, made.f0_hz[0].double().numpy(), times, 24_000, fft_size=1024, f0_floor=71.0)
    difference = (ours - torch.from_numpy(theirs).log().float())[10:-10].abs().mean() * 4.343
    assert float(difference) < 2.0
