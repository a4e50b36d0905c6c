"""The pitch net: path search and smoothing on known scores; the shipped weights on tones, in noise, whatever the length."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autosing.models.io import load_model
from autosing.models.pitch import FRAMES_A_BLOCK, PitchConfig, PitchNet, best_path, bridge, decode, without_short_runs
from autosing.song.runs import spans_of


@pytest.fixture(scope="module")
def net() -> PitchNet:
    return load_model("builtin", "pitch")[0]


def tone(hz: float, frames: int, noise: float = 0.0) -> torch.Tensor:
    time = torch.arange(frames * 288) / 24_000
    wave = sum(torch.sin(2 * torch.pi * hz * k * time) / k for k in range(1, 10)) * 0.1
    return wave + noise * torch.randn(len(time), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("hz", [82.0, 147.0, 311.0, 659.0])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_tones(net, hz, noise):
    f0, voiced = net.track(tone(hz, 100, noise))
    inner = slice(10, 90)
    assert float(voiced[inner].float().mean()) > 0.9
    assert float((1200 * torch.log2(f0[inner] / hz)).abs().median()) < 20


def test_silence_is_unvoiced(net):
    f0, voiced = net.track(torch.zeros(288 * 60))
    assert not bool(voiced.any()) and bool((f0 > 0).all())


def test_blocks_leave_no_seam(net):
    wav = tone(200.0, FRAMES_A_BLOCK + 60, 0.01)
    logits, voicing = net.posteriors(wav)
    assert logits.shape == (FRAMES_A_BLOCK + 60, net.config.bins) and voicing.shape == (FRAMES_A_BLOCK + 60,)
    fewer, _ = net.posteriors(wav[: 288 * (FRAMES_A_BLOCK + 30)])
    assert torch.equal(logits[: FRAMES_A_BLOCK + 10], fewer[: FRAMES_A_BLOCK + 10])
    with torch.no_grad():
        whole, _ = net(wav[None])
    assert float((whole[0, 20:-20] - logits[20:-20]).abs().max()) < 1e-3


def test_a_longer_look_changes_nothing_before_it_has_learnt_and_leaves_no_seam(net):
    longer = PitchNet(replace(net.config, long=True)).eval()
    longer.load_state_dict(net.state_dict(), strict=False)
    wav = tone(200.0, FRAMES_A_BLOCK + 60, 0.01)
    torch.testing.assert_close(longer.posteriors(wav)[0], net.posteriors(wav)[0])
    torch.nn.init.ones_(longer.span_gate)
    logits, _ = longer.posteriors(wav)
    fewer, _ = longer.posteriors(wav[: 288 * (FRAMES_A_BLOCK + 45)])
    assert torch.equal(logits[: FRAMES_A_BLOCK + 15], fewer[: FRAMES_A_BLOCK + 15])
    with torch.no_grad():
        whole, _ = longer(wav[None])
    assert float((whole[0, 40:-40] - logits[40:-40]).abs().max()) < 1e-3


def test_short_input(net):
    assert net.track(torch.zeros(0))[0].shape == (0,)
    assert net.track(torch.zeros(100))[0].shape == (0,)
    assert net.track(torch.zeros(288))[0].shape == (1,)


def test_path_prefers_small_steps():
    scores = np.full((30, 40), -6.0)
    scores[:, 10] = -0.5
    scores[15, 10], scores[15, 30] = -1.5, -0.4  # one frame an octave off
    assert best_path(scores).tolist() == [10] * 30
    scores[15:, 30], scores[15:, 10] = -0.2, -6.0  # a real leap
    assert best_path(scores).tolist() == [10] * 15 + [30] * 15


def test_decode_reads_between_bins():
    logits = np.full((6, 40), -9.0)
    logits[:, 20] = logits[:, 21] = 3.0
    bins, voiced = decode(logits, np.full(6, 5.0))
    assert voiced.all() and np.allclose(bins, 20.5, atol=0.02)


def test_short_runs_and_gaps():
    flags = np.array([0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0], bool)
    assert spans_of(without_short_runs(flags, 3)).tolist() == [[1, 10]]
    assert bridge(np.array([5.0, 0.0, 0.0, 8.0]), np.array([True, False, False, True])).tolist() == [5, 6, 7, 8]


def test_small_and_in_range():
    config = PitchConfig()
    assert sum(p.numel() for p in PitchNet(config).parameters()) < 500_000
    assert config.f0_min_hz == 55.0 and 1100 < config.f0_max_hz < 1150
