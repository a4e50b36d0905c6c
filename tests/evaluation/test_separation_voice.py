"""Figures of separation and of voices: known answers of SI-SDR and AUC, windows, and a perfect and a useless ear."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autosing.errors import DataError
from autosing.evaluation.separation import StemPair, cc0_pairs, separation_figures, si_sdr
from autosing.evaluation.voice import Recording, area_under_curve, voice_figures, windows
from autosing.perception.separation.base import Stems
from autosing.tokens.specs import VoiceSpec


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.floats(-40, 40), st.floats(0.01, 100))
def test_si_sdr_of_orthogonal_noise_is_its_level_at_any_scale(level_db: float, scale: float) -> None:
    reference = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    distortion = torch.tensor([[0.0, 1.0, 0.0, -1.0]]) * 10 ** (-level_db / 20)
    assert si_sdr(scale * (reference + distortion), reference) == pytest.approx(level_db, abs=1e-3)


def test_si_sdr_at_its_ends() -> None:
    assert si_sdr(torch.ones(1, 4), torch.ones(1, 4)) == math.inf
    assert si_sdr(torch.zeros(1, 4), torch.ones(1, 4)) == -math.inf
    with pytest.raises(ValueError, match="silent"):
        si_sdr(torch.ones(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="shape"):
        si_sdr(torch.ones(2, 4), torch.ones(1, 4))


class _Half:
    """Calls half of the mix the voice: no better and no worse than the mix."""

    name, sample_rate = "half", 24_000

    def separate(self, mix: torch.Tensor) -> Stems:
        return Stems(mix / 2, mix / 2)


def test_a_useless_separator_improves_nothing() -> None:
    pairs = [StemPair(f"song {i}", noise(1, 48_000, seed=i), noise(2, 48_000, seed=9 + i), 48_000) for i in range(2)]
    figures = separation_figures(_Half(), pairs)
    assert figures["count"] == 2 and abs(figures["mean"]["vocals_improvement_db"]) < 1e-3
    assert figures["worst_improvement_db"] == min(song["vocals_improvement_db"] for song in figures["songs"].values())
    assert abs(figures["worst_accompaniment_improvement_db"]) < 1e-3
    low, high = figures["mean"]["intervals"]["vocals_improvement_db"]
    assert low <= figures["mean"]["vocals_improvement_db"] <= high
    with pytest.raises(DataError, match="no song"):
        separation_figures(_Half(), [])


def test_real_stems_are_found(shared) -> None:
    names = [pair.name for pair in cc0_pairs(shared)]
    assert names == ["2.Lithium", "3.Sodium", "6.Caesium"]


def test_area_under_curve() -> None:
    assert area_under_curve(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])) == 1.0
    assert area_under_curve(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])) == 0.5
    assert area_under_curve(torch.tensor([0.0]), torch.tensor([1.0])) == 0.0
    with pytest.raises(DataError, match="pairs of both kinds"):
        area_under_curve(torch.tensor([]), torch.tensor([1.0]))


def test_windows_leave_out_silence_and_keep_short_recordings() -> None:
    loud, silent = noise(1000), torch.zeros(1000)
    assert windows(torch.cat([loud, silent, loud, loud[:600]]), 100).shape == (3, 1000)
    assert windows(torch.cat([loud, loud[:400]]), 100).shape == (1, 1000)
    assert windows(loud[:10], 100).shape == (1, 10)


class _Mean:
    """Knows a singer by the sign of the mean."""

    spec = VoiceSpec("mean", 100, 2)

    def embed(self, vocals: torch.Tensor) -> torch.Tensor:
        angle = vocals.mean(1) + 0.01 * vocals[:, 0]
        return torch.stack([angle.cos(), angle.sin()], 1)


def test_an_ear_for_the_mean_knows_voices_by_their_mean() -> None:
    recordings = [Recording(f"{singer}{i}", singer, level + 0.1 * noise(3000, seed=i)) for singer, level in (("a", 0.2), ("b", 1.0)) for i in (1, 2)]
    figures = voice_figures(_Mean(), recordings)
    assert figures["auc_windows_across_songs"] == figures["auc_windows_within_song"] == figures["auc_halves"] == figures["auc_songs"] == 1.0
    assert (figures["windows"], figures["songs"], figures["singers"]) == (12, 4, 2)
    assert voice_figures(_Mean(), recordings[:1])["auc_windows_across_songs"] is None
