"""Checkpoints -> shipped weights: halved, and averages of several runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autosing.errors import MismatchError
from autosing.models.io import load_model, save_model
from autosing.models.recogniser import SIZES, Recogniser
from autosing.models.ship import main, ship


def checkpoint(folder: Path, seed: int, **changes) -> Path:
    torch.manual_seed(seed)
    save_model(Recogniser(replace(SIZES["micro"], **changes)), folder, {"seed": seed})
    return folder


def test_an_average_is_the_mean_of_every_tensor_and_says_what_went_in(tmp_path: Path) -> None:
    runs = [checkpoint(tmp_path / str(seed), seed, dropout=0.1 * seed) for seed in range(3)]
    ship("recogniser", runs[0], tmp_path / "mean", others=runs[1:])
    states = [load_model(run, "recogniser")[0].state_dict() for run in runs]
    mean, meta = load_model(tmp_path / "mean", "recogniser")
    for key, value in mean.state_dict().items():
        torch.testing.assert_close(value, (states[0][key] + states[1][key] + states[2][key]) / 3, atol=2e-3, rtol=2e-3)
    assert [part["seed"] for part in meta["average"]] == [0, 1, 2]


def test_other_shapes_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = checkpoint(tmp_path / "one", 0), checkpoint(tmp_path / "other", 0, width=32)
    with pytest.raises(MismatchError, match=r"other.*another model config.*width"):
        ship("recogniser", one, tmp_path / "out", others=[other])
    assert main(["recogniser", str(one), str(tmp_path / "out"), "--average", str(other)]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "out").exists()
