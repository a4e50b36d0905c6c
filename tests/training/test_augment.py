"""What the training's changes to a voice promise: whispering takes the pitch and keeps level and formants; swaying moves the pitch as asked."""

import math

import torch

from autosing.training import augment

RATE = 24000


def harmonic(f0_hz: float, seconds: float = 1.0) -> torch.Tensor:
    time = torch.arange(int(seconds * RATE)) / RATE
    return sum(torch.sin(2 * math.pi * f0_hz * k * time) / k for k in range(1, 20)) * 0.1  # type: ignore[return-value]


def peakiness(wav: torch.Tensor) -> float:
    """How far the strongest bin between 150 and 3000 Hz stands above the median there, in dB."""
    power = torch.fft.rfft(wav * torch.hann_window(len(wav))).abs()[150:3000]
    return float(20 * torch.log10(power.max() / power.median()))


def test_whisper_takes_the_pitch_and_keeps_the_level():
    torch.manual_seed(0)
    voice = torch.stack([harmonic(220.0)] * 2)
    out = augment.whisper(voice, RATE, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(out[0], voice[0], atol=1e-5, rtol=0)
    assert peakiness(out[1]) < peakiness(out[0]) - 15
    assert abs(20 * torch.log10(out[1].std() / out[0].std())) < 2.0


def test_whisper_of_silence_is_silence():
    assert float(augment.whisper(torch.zeros(1, RATE), RATE, torch.ones(1)).abs().max()) == 0.0


def test_sway_swings_as_far_and_as_often_as_asked():
    torch.manual_seed(1)
    wav = torch.sin(2 * math.pi * 440 * torch.arange(2 * RATE) / RATE)[None]
    out = augment.sway(wav, RATE, torch.tensor([1.0]), torch.tensor([2.0]))[0]
    crossings = ((out[:-1] < 0) & (out[1:] >= 0)).nonzero()[:, 0].float()
    semitones = 12 * torch.log2(RATE / crossings.diff() / 440)
    smooth = torch.nn.functional.avg_pool1d(semitones[None], 9, 1)[0]
    assert 0.85 < float(smooth.max()) < 1.2 and -1.3 < float(smooth.min()) < -0.85
    turns = ((smooth[:-1] < 0) & (smooth[1:] >= 0)).sum()
    assert 3 <= int(turns) <= 5
    assert out.shape == wav[0].shape and torch.isfinite(out).all()


def test_sway_stays_within_the_recording():
    torch.manual_seed(2)
    wav = torch.randn(16, 60_001)
    out = augment.sway(wav, RATE, torch.full((16,), 2.0), torch.full((16,), 0.3))
    assert torch.isfinite(out).all() and float(out.abs().max()) <= float(wav.abs().max())
