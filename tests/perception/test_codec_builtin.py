"""The codec of the voice: what each level says is what the module promises."""

import numpy as np
import pytest
import torch

from autosing.perception.codec.builtin import NO_PITCH, BuiltinCodec, through_gaps


@pytest.fixture(scope="module")
def codec() -> BuiltinCodec:
    return BuiltinCodec()


def sung(hz: np.ndarray, seed: int = 0) -> torch.Tensor:
    """(n,) a vowel-like tone with the F0 `hz` (one value a frame; 0 = silence)."""
    rate = np.repeat(hz, 288)
    phase = 2 * np.pi * np.cumsum(rate) / 24_000
    gains = [1.0, 0.8, 0.9, 0.5, 0.4, 0.3, 0.2, 0.25, 0.2, 0.1, 0.08, 0.06]
    wave = sum(gain * np.sin(k * phase) for k, gain in enumerate(gains, start=1)) * 0.1 * (rate > 0)
    noise = np.random.default_rng(seed).standard_normal(len(wave)) * 1e-4
    return torch.from_numpy(wave + noise).float()


def decoded(codec: BuiltinCodec, wav: torch.Tensor):
    codes = codec.encode(wav[None, None])
    return codec.books.decode([codes[0, k, ::s] for k, s in enumerate(codec.spec.strides)]), codes[0]


@pytest.mark.parametrize("hz", [110.0, 220.0, 440.0])
def test_pitch_goes_through(codec, hz):
    frames, _ = decoded(codec, sung(np.full(160, hz)))
    inner = slice(20, 140)
    assert float(frames.voiced[0, inner].float().mean()) > 0.95
    assert float((1200 * torch.log2(frames.f0_hz[0, inner] / hz)).abs().median()) < 25


def test_vibrato_is_held(codec):
    time = np.arange(240) * 0.012
    truth = 300 * 2 ** (0.6 * np.sin(2 * np.pi * 5.5 * time) / 12)
    frames, _ = decoded(codec, sung(truth))
    cents = 1200 * np.log2(frames.f0_hz[0].numpy() / 300)[20:-20]
    assert 30 < cents.std() < 60  # 60 cents of vibrato have a standard deviation of 42
    assert np.corrcoef(cents, 1200 * np.log2(truth / 300)[20:-20])[0, 1] > 0.9


def test_levels_are_factored(codec):
    low, high = decoded(codec, sung(np.full(160, 150.0)))[1], decoded(codec, sung(np.full(160, 300.0)))[1]
    assert int(low[1, ::4].median()) < int(high[1, ::4].median())  # codes of pitch rise with pitch
    soft, loud = decoded(codec, sung(np.full(160, 200.0)) * 0.1)[1], decoded(codec, sung(np.full(160, 200.0)))[1]
    assert int(soft[0, ::8].median()) < int(loud[0, ::8].median())  # codes of context rise with loudness
    inner = slice(20, 140)
    assert torch.equal(soft[1, inner], loud[1, inner])  # loudness does not touch pitch


def test_silence_has_no_pitch(codec):
    _, codes = decoded(codec, torch.zeros(288 * 80))
    assert set(codes[1, ::4].tolist()) == {NO_PITCH}
    assert int(codes[3].min()) >= codec.books.config.voiced_codes


def test_a_long_file_begins_as_a_short_one(codec):
    wav = sung(np.full(600, 200.0))
    whole, head = codec.encode(wav[None, None])[0], codec.encode(wav[None, None, : 400 * 288])[0]
    assert torch.equal(whole[:, :384], head[:, :384])


def test_codes_round_trip_through_their_own_features(codec):
    """Decoding and coding the features again gives nearly the same features: quantisation does not drift."""
    frames, _ = decoded(codec, sung(np.full(160, 220.0)))
    again = codec.books.decode(codec.books.encode(frames))
    assert float((again.cepstra - frames.cepstra)[0].square().sum(1).div(96).sqrt().mean()) * 4.343 < 5.0


def test_gaps_are_bridged():
    values, known = torch.tensor([9.0, 1.0, 9.0, 9.0, 4.0, 9.0]), torch.tensor([0, 1, 0, 0, 1, 0]).bool()
    assert torch.allclose(through_gaps(values, known), torch.tensor([1.0, 1.0, 2.0, 3.0, 4.0, 4.0]))
    assert torch.equal(through_gaps(values, torch.zeros(6, dtype=torch.bool)), torch.zeros(6))
