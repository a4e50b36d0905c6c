"""The separator gets used to a song: what it learns from, that it learns, and when it is left out."""

from pathlib import Path

import pytest
import torch

from autosing.evaluation.separation import cc0_pairs, si_sdr
from autosing.models.io import load_model
from autosing.models.separator import SIZES, SeparatorNet, active_rms, errors, spectrum
from autosing.perception import load_separator
from autosing.perception.separation import remixing
from autosing.perception.separation.builtin import LEAN, WARPS
from autosing.perception.separation.remixing import PASSES, adapted
from autosing.song import audio

RATE = SIZES["base"].sample_rate


def two_parts(seconds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sliding buzz in the middle now and then, plucked tones left and right: two (2, n)."""
    time = torch.arange(seconds * RATE) / RATE
    phase = (220 + 60 * torch.sin(0.7 * time)).cumsum(0) / RATE
    voice = 0.3 * torch.sign(torch.sin(6.283 * phase)) * (torch.sin(2 * time) > 0)
    pluck = torch.exp(-5 * (time % 0.5))
    band = torch.stack([pluck * torch.sin(6.283 * f * time) for f in (330.0, 495.0)])
    return voice.expand(2, -1).clone(), 0.3 * band


@pytest.fixture(scope="module")
def net() -> SeparatorNet:
    return load_model("builtin", SeparatorNet.kind, "cpu")[0]


@pytest.fixture(scope="module")
def mix() -> torch.Tensor:
    heard = sum(two_parts(16))
    return heard / active_rms(heard[None], RATE)


def test_new_mixtures_of_the_song_are_taken_apart_better(net: SeparatorNet, mix: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    student = adapted(net, mix, 1.0, LEAN, WARPS)
    with torch.inference_mode():
        voice, band = remixing._found(net, mix, 1.0, LEAN, WARPS)
        vocals, rest = (spectrum(part[None, :, shift:][..., : 6 * RATE], net.config) for part, shift in ((voice, 0), (band, 5 * RATE)))
        old, new = (errors(model(vocals + rest, LEAN, WARPS), vocals, rest) for model in (net, student))
    assert new.log_error_db.item() < old.log_error_db.item() - 0.3
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items() if "running" in name)  # the norms stay as they were
    assert not any(p.requires_grad for p in student.parameters())


def test_a_song_teaches_the_same_each_time(net: SeparatorNet, mix: torch.Tensor) -> None:
    first, again = (adapted(net, mix[:, : 6 * RATE], 1.0, LEAN, WARPS) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    other = adapted(net, mix[:, 6 * RATE : 12 * RATE], 1.0, LEAN, WARPS)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_each_part_is_taken_from_where_it_is_loud() -> None:
    """Voice in the second half alone: of three random places one lies there in seven of eight draws."""
    part, other = torch.zeros(2, 4000), torch.ones(2, 4000)
    part[:, 2000:] = torch.arange(2000) + 1.0
    pick = torch.Generator().manual_seed(0)
    places = remixing._Places(part, other, 200)
    crops = torch.cat([places.crops(pick) for _ in range(25)])
    assert crops.shape == (25 * remixing._CROPS, 2, 200)
    assert (crops.square().sum((1, 2)) > 0).float().mean() > 0.8
    inside = crops[crops[:, 0, 0] > 0, 0]
    assert torch.equal(inside[:, 1:] - inside[:, :-1], torch.ones(len(inside), 199))  # crops, not mixtures of places
    whole = remixing._Places(part[:, :200], other[:, :200], 200).crops(pick)
    assert whole.shape == (remixing._CROPS, 2, 200)


def test_of_a_long_song_pieces_from_its_whole_length_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remixing, "MOST_SECONDS", 0.4)
    monkeypatch.setattr(remixing, "_PIECE_SECONDS", 0.1)
    net = SeparatorNet(SIZES["tiny"]).eval()
    mix = torch.arange(RATE).float().expand(2, -1) / RATE  # a ramp tells where a piece is from
    with torch.inference_mode():
        voice, band = remixing._found(net, 2 * mix, 2.0, 0.0, (1.0,))
    begins = (voice + band)[0].split(RATE // 10)
    assert [round(piece[0].item(), 2) for piece in begins] == [0.0, 0.3, 0.6, 0.9]


@pytest.mark.parametrize("samples", [1, 300, RATE])
def test_a_song_too_short_to_learn_from_is_separated_as_ever(samples: int) -> None:
    mix = sum(two_parts(2))[:, :samples]
    plain, used = (load_separator("builtin", passes=passes).separate(mix) for passes in (0.0, PASSES))
    assert torch.equal(plain.vocals, used.vocals)


def test_passes_that_are_no_number_of_passes_are_refused() -> None:
    from autosing.errors import ConfigError

    with pytest.raises(ConfigError, match="passes"):
        load_separator("builtin", passes=-1.0)


def test_a_real_voice_comes_out_of_its_band_better(shared: Path) -> None:
    pair = next(pair for pair in cc0_pairs(shared) if "Sodium" in pair.name)
    vocals, rest = (audio.resample(stem, pair.sample_rate, RATE) for stem in (pair.vocals, pair.accompaniment))
    plain, used = (si_sdr(load_separator("builtin", passes=passes).separate(vocals + rest).vocals, vocals) for passes in (0.0, PASSES))
    assert used > plain + 0.2
