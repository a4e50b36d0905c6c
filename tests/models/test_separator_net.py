"""The separator's network and task: shapes, exact spectra, mixtures as asked, and that a few steps on one song begin to separate it."""

import io

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from autosing.errors import AudioError, ConfigError, DataError
from autosing.models.separator import SIZES, SeparatorConfig, SeparatorNet, _warped, active_rms, spectrum, waveform
from autosing.training import augment
from autosing.training.task import DatasetMeta
from tasks.separator import MusicLibrary, SeparatorArgs, SeparatorTask, SeparatorTunables, loud_crop, read_crop

RATE = 24_000


def wav_bytes(wav: np.ndarray, rate: int = RATE) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, wav.T, rate, format="WAV", subtype="PCM_16")
    return out.getvalue()


def row(seconds: float = 4.0, band: bool = True) -> dict[str, object]:
    time = np.arange(int(seconds * RATE)) / RATE
    voice = 0.2 * np.sign(np.sin(6.28 * (220 + 20 * np.sin(5 * time)) * time))
    music = 0.2 * np.random.default_rng(0).standard_normal((2, len(time)))
    return {"id": "a", "vocals": wav_bytes(voice[None]), "accompaniment": wav_bytes(music) if band else None}


def task(tunables: SeparatorTunables | None = None, **args: object) -> SeparatorTask:
    return SeparatorTask(SeparatorArgs(size="tiny", crop_seconds=1.5, crops=2, **args), tunables or SeparatorTunables(), DatasetMeta())  # type: ignore[arg-type]


@pytest.mark.parametrize("samples", [1, 512, 5000])
def test_spectrum_is_inverted_exactly(samples: int) -> None:
    config = SeparatorConfig()
    wav = torch.randn(2, 2, samples, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(waveform(spectrum(wav, config), samples, config), wav, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_any_number_of_frames(frames: int) -> None:
    net = SeparatorNet(SIZES["tiny"]).eval()
    mix = torch.randn(1, 2, 1025, frames, dtype=torch.complex64)
    assert net(mix).shape == mix.shape


def test_shipped_size_is_within_its_budget() -> None:
    count = sum(p.numel() for p in SeparatorNet(SeparatorConfig()).parameters())
    assert 0.8e6 <= count <= 1.5e6


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="power of two"):
        SeparatorConfig(window=2000)
    with pytest.raises(ValueError, match="waist"):
        SeparatorConfig(waist=100)


def test_an_example_is_the_same_for_the_same_generator_and_differs_for_another() -> None:
    first, again, other = (task().example(row(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first and again and other
    assert first["voice"].shape == (2, task().samples) and first["band"].shape == (2, 2, task().samples)
    assert torch.equal(first["voice"], again["voice"]) and not torch.equal(first["voice"], other["voice"])


def test_a_row_without_band_needs_music(tmp_path) -> None:
    assert task().example(row(band=False), np.random.default_rng(0)) is None
    soundfile.write(tmp_path / "piece.flac", np.random.default_rng(1).uniform(-0.5, 0.5, (2 * RATE, 2)), RATE)
    soundfile.write(tmp_path / "kept_apart.flac", np.zeros((RATE, 2)), RATE)
    with_music = task(music_dir=str(tmp_path), music_skip=("kept_",))
    assert len(with_music.music.pieces) == 1
    example = with_music.example(row(band=False), np.random.default_rng(0))
    assert example is not None and float(example["band"].std()) > 0.1
    with pytest.raises(ConfigError, match="music_dir"):
        MusicLibrary(tmp_path / "none", (), RATE)
    (tmp_path / "damaged.mp3").write_bytes(bytes(range(256)))
    with pytest.raises(AudioError, match=r"damaged.mp3' cannot be decoded"):
        MusicLibrary(tmp_path, (), RATE)


def test_crops_are_padded_and_avoid_silence() -> None:
    audio = wav_bytes(np.concatenate([np.zeros((1, 20 * RATE)), 0.3 * np.ones((1, 20 * RATE))], 1))
    assert read_crop(audio, 40 * RATE - 10, 100, RATE).shape == (1, 100)
    crop, start = loud_crop(audio, RATE, RATE, np.random.default_rng(0), tries=20)
    assert np.abs(crop).max() > 0.2 and start > 18 * RATE
    with pytest.raises(DataError, match="Hz"):
        read_crop(wav_bytes(np.zeros((1, 100)), 8000), 0, 10, RATE)


def test_mixtures_have_the_level_asked_for_and_are_sometimes_silent() -> None:
    torch.manual_seed(0)
    voice, band = torch.randn(64, 12_000), torch.randn(64, 2, 12_000)
    vocals, accompaniment = task().mixtures(voice, band)
    assert vocals.shape == accompaniment.shape == (64, 2, 12_000)
    silent = (vocals.abs().amax((1, 2)) == 0).sum() + (accompaniment.abs().amax((1, 2)) == 0).sum()
    assert 0 < silent < 32
    level = 20 * torch.log10(active_rms(vocals, RATE) / active_rms(accompaniment, RATE))
    usual = (vocals.abs().amax((1, 2)) > 0) & (accompaniment.abs().amax((1, 2)) > 0)
    assert float(level[usual].min()) > -12 and float(level[usual].max()) < 8
    overall = 20 * torch.log10(active_rms(vocals + accompaniment, RATE))
    assert float(overall.abs().max()) < 10.5


def test_a_dry_centred_impulse_changes_nothing() -> None:
    wav = torch.randn(3, 1, 1000)
    zero = torch.zeros(3)
    out = augment.convolve(wav, augment.impulse(3, RATE, zero.device, zero, zero, zero))
    assert torch.allclose(out, wav.expand(-1, 2, -1), atol=1e-4)


def side_to_mid(wav: Tensor) -> Tensor:
    """dB of (B, 2, n) -> (B,)."""
    mid, side = (each.square().mean(-1) for each in (wav[:, 0] + wav[:, 1], wav[:, 0] - wav[:, 1]))
    return 10 * torch.log10((side + 1e-9) / mid)


def test_a_widened_voice_differs_between_the_sides_by_the_amount_asked_for() -> None:
    torch.manual_seed(0)
    voice = torch.randn(16, RATE)
    assert torch.equal(augment.widen(voice, RATE, torch.zeros(16)), voice[:, None].expand(-1, 2, -1))
    little, much = (side_to_mid(augment.widen(voice, RATE, torch.full((16,), amount))).mean() for amount in (0.2, 2.0))
    assert little < -10 and -6 < much < 0
    assert (augment.widen(voice, RATE, torch.ones(16)) - voice[:, None]).abs().amax() < 6  # nothing but copies of it, late


def test_a_tilt_rises_by_as_many_decibels_an_octave_and_is_even_outside() -> None:
    factors = augment.tilt(1025, RATE, torch.tensor([4.0, 0.0]))
    at = lambda hertz: 20 * torch.log10(factors[:, round(hertz / (RATE / 2) * 1024)])  # noqa: E731
    assert torch.allclose(at(2000) - at(1000), torch.tensor([4.0, 0.0]), atol=0.1)
    assert torch.allclose(at(100), torch.zeros(2)) and torch.allclose(at(5200), at(11_000))


@pytest.mark.parametrize("length, samples", [(1000, 1000), (1000, 800), (1000, 1301), (1, 5), (7, 1)])
def test_stretching_reads_between_samples(length: int, samples: int) -> None:
    wav = np.random.default_rng(0).standard_normal((2, length)).astype(np.float32)
    found = augment.stretched(wav, samples)
    expected = [np.interp(np.linspace(0, length - 1, samples), np.arange(length), side) for side in wav]
    assert found.dtype == np.float32 and np.allclose(found, expected, atol=1e-5)


def test_voice_and_band_are_played_at_speeds_of_their_own() -> None:
    time = np.arange(20 * RATE) / RATE
    tone = wav_bytes(0.3 * np.sin(2 * np.pi * 400 * time)[None])
    hertz = {"voice": [], "band": []}
    for seed in range(12):
        example = task(SeparatorTunables(speed=1.5)).example({"vocals": tone, "accompaniment": tone}, np.random.default_rng(seed))
        assert example is not None
        for stem, found in hertz.items():
            wave = example[stem].reshape(-1, task().samples)[0]
            found.append(float(torch.fft.rfft(wave).abs().argmax()) * RATE / task().samples)
    for found in hertz.values():
        assert 400 / 1.52 < min(found) < 360 and 440 < max(found) < 400 * 1.52
    assert not np.allclose(hertz["voice"], hertz["band"], rtol=0.02)


def test_voices_of_mixtures_are_wide_and_bright_as_often_as_asked_for() -> None:
    voice, band = torch.randn(64, 12_000), torch.randn(64, 2, 12_000)
    wide, bright = [], []
    for settings in SeparatorTunables(wide=0.0, tilt_db=0.0), SeparatorTunables(wide=1.0, tilt_db=6.0):
        torch.manual_seed(0)
        vocals = task(settings).mixtures(voice, band)[0]
        vocals = vocals[vocals.abs().amax((1, 2)) > 0]
        wide.append(float(side_to_mid(vocals).quantile(0.5)))
        bright.append(float((vocals.diff().square().mean((1, 2)) / vocals.square().mean((1, 2))).mean()))
    assert wide[1] > wide[0] + 3 and bright[1] > 1.1 * bright[0]


@pytest.mark.parametrize("samples", [1, 2, 1000, 91_200])
def test_fast_length_is_enough_and_not_wasteful(samples: int) -> None:
    assert samples <= augment.fast_length(samples) <= max(2 * samples, 2)


def test_training_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    training = task()
    model = training.build_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    example = training.example(row(), np.random.default_rng(0))
    assert example is not None
    batch = {key: value[None] for key, value in example.items()}
    first = last = 0.0
    for step in range(12):
        torch.manual_seed(1)
        losses = training.losses(model, batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        last = float(losses.total.detach())
        first = first if step else last
    assert last < 0.9 * first


@pytest.mark.parametrize("factor", [1.0, 0.8, 1.25])
def test_a_warped_spectrum_is_read_between_bins(factor: float) -> None:
    spectra = torch.randn(2, 3, 40, 5)
    expected = np.apply_along_axis(lambda column: np.interp(np.arange(40) * factor, np.arange(40), column), 2, spectra.numpy())
    assert np.allclose(_warped(spectra, factor), expected, atol=1e-5)
