"""The pitch task: targets sit where the F0 is, whatever the speed; roughened voices keep shape; a few steps lower the loss."""

import io

import numpy as np
import pytest
import soundfile
import torch

from autosing.training.task import DatasetMeta
from tasks.pitch import PitchArgs, PitchTask, PitchTunables, roughen


def row(hz: float = 220.0, seconds: float = 4.0, band: bool = True) -> dict:
    time = np.arange(int(seconds * 24_000)) / 24_000
    vocals = sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 8)) * 0.1

    def wav(x: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, x, 24_000, format="WAV", subtype="PCM_16")
        return buffer.getvalue()

    noise = np.random.default_rng(0).standard_normal((len(time), 2)) * 0.05
    return {
        "kind": "rendered",
        "vocals": wav(vocals),
        "accompaniment": wav(noise) if band else None,
        "f0": np.full(int(seconds * 200), hz, np.float32).tobytes(),
    }


def task(speed: float = 1.6) -> PitchTask:
    return PitchTask(PitchArgs(seconds=0.576, speed=speed), PitchTunables(), DatasetMeta())


def test_example_has_f0_at_the_speed_it_is_played():
    for seed in range(6):
        example = task().example(row(), np.random.default_rng(seed))
        assert example is not None and example["vocals"].shape == example["accompaniment"].shape == (48 * 288,)
        hz = example["f0_hz"].numpy()
        assert hz.shape == (48,) and np.allclose(hz, hz[0])
        spectrum = np.abs(np.fft.rfft(example["vocals"].numpy() * np.hanning(48 * 288)))
        peak = spectrum[: 48 * 288 // 20].argmax() * 24_000 / (48 * 288)
        assert peak == pytest.approx(hz[0], abs=3)


def test_rows_that_do_not_fit_are_passed_over():
    assert task().example({**row(), "f0": None}, np.random.default_rng(0)) is None
    assert task().example(row(seconds=0.3), np.random.default_rng(0)) is None
    alone = task().example(row(band=False), np.random.default_rng(0))
    assert alone is not None and not bool(alone["accompaniment"].any())


def test_what_a_separator_left_gets_no_more_band_and_no_room():
    torch.manual_seed(0)
    voices = torch.randn(40, 13_824) * 0.1
    bands = torch.sin(2 * torch.pi * 3000 * torch.arange(13_824) / 24_000).expand(40, -1) * 0.1
    separated = torch.arange(40) % 2 == 0
    spectra = torch.fft.rfft(roughen(voices, bands, 0.0, 1.0, separated)).abs()
    tone = spectra[:, 3000 * 13_824 // 24_000] / spectra.median(1).values  # a leak shows as a line
    assert float(tone[separated].median()) < 3 < 10 < float(tone[~separated].median())
    assert task().example({**row(), "kind": "separated"}, np.random.default_rng(0))["separated"]
    assert not task().example(row(), np.random.default_rng(0))["separated"]


def test_roughened_voices_keep_shape_and_level():
    torch.manual_seed(0)
    voices, bands = torch.randn(6, 13_824) * 0.1, torch.randn(6, 13_824) * 0.1
    heard = roughen(voices, bands, 0.3, 0.3, torch.zeros(6, dtype=torch.bool))
    assert heard.shape == voices.shape and bool(torch.isfinite(heard).all()) and float(heard.abs().max()) <= 1.001
    assert bool(torch.isfinite(roughen(torch.zeros(3, 13_824), torch.zeros(3, 13_824), 0.3, 0.3, torch.zeros(3, dtype=torch.bool))).all())


def test_learns():
    torch.manual_seed(0)
    made = task()
    model = made.build_model().train()
    examples = [made.example(row(110.0 * 2 ** (i / 3)), np.random.default_rng(i)) for i in range(2)]
    batch = {key: torch.stack([example[key] for example in examples]) for key in examples[0]}
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    first = None
    for _ in range(5):
        losses = made.losses(model, batch)
        first = losses.total.item() if first is None else first
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    assert losses.total.item() < first and {"off_by_50_cents", "voicing_error"} <= set(losses.metrics)


def test_what_starts_from_a_checkpoint_looks_as_far():
    assert PitchTask.args_of({"config": {"long": True}}) == {"long": True} and PitchTask.args_of({"config": {}}) == {"long": False}
