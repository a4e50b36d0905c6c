"""What is heard of a seam: a click, a step of loudness, another voice."""

import pytest
import torch

from autosing.singing.seams import SeamFigures, seam_figures

RATE = 8000
TIME = torch.arange(10 * RATE) / RATE
TONE = 0.2 * torch.sin(2 * torch.pi * 200 * TIME)


def voice(wav: torch.Tensor) -> torch.Tensor:
    """Two voices: loud and soft."""
    return torch.eye(2)[int(wav.abs().max() > 0.25)]


def test_a_seam_that_is_none() -> None:
    assert seam_figures(TONE, RATE, 5.0, voice) == pytest.approx((1.0, 0.0, 1.0), abs=0.01)


def test_a_click_stands_out() -> None:
    click = TONE.clone()
    click[5 * RATE + 20] += 0.3
    found = seam_figures(click, RATE, 5.0, voice)
    assert found.jump is not None and found.jump > 8 and found.loudness_db == pytest.approx(0, abs=0.05)
    elsewhere = seam_figures(click, RATE, 6.0, voice)
    assert elsewhere.jump is not None and elsewhere.jump < 0.2


def test_another_loudness_and_another_voice() -> None:
    steps = torch.where(TIME < 5.0, TONE, 2 * TONE)
    found = seam_figures(steps, RATE, 5.0, voice)
    assert found.loudness_db == pytest.approx(6.02, abs=0.01) and found.voice == 0.0
    pauses = steps.clone()
    pauses[: 3 * RATE] = 0  # what is silent does not count
    assert seam_figures(pauses, RATE, 5.0, voice).loudness_db == pytest.approx(6.02, abs=0.01)


@pytest.mark.parametrize("at", [0.0, 5.0, 10.0])
def test_silence_says_nothing(at: float) -> None:
    assert seam_figures(torch.zeros(10 * RATE), RATE, at, voice) == SeamFigures(None, None, None)
    half = torch.where(TIME < 5.0, 0.0, TONE)
    assert seam_figures(half, RATE, 5.0, voice)[1:] == (None, None)
