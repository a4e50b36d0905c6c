"""Checkpoints -> shipped weights (halved, averages of several runs), and `autosing-train blend`: between a fine-tuned checkpoint and what it began with."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autosing.cli import train
from autosing.errors import MismatchError
from autosing.models.io import load_model, save_model
from autosing.models.recogniser import SIZES, Recogniser
from autosing.models.ship import main, ship

KIND = "recogniser"


def checkpoint(folder: Path, seed: int, **changes) -> Path:
    torch.manual_seed(seed)
    save_model(Recogniser(replace(SIZES["micro"], **changes)), folder, {"seed": seed})
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder, KIND)[0].state_dict()


def test_an_average_is_the_mean_of_every_tensor_and_says_what_went_in(tmp_path: Path) -> None:
    runs = [checkpoint(tmp_path / str(seed), seed, dropout=0.1 * seed) for seed in range(3)]
    ship(KIND, runs[0], tmp_path / "mean", others=runs[1:])
    states = [state(run) for run in runs]
    mean, meta = load_model(tmp_path / "mean", KIND)
    for key, value in mean.state_dict().items():
        torch.testing.assert_close(value, (states[0][key] + states[1][key] + states[2][key]) / 3, atol=2e-3, rtol=2e-3)
    assert [part["seed"] for part in meta["average"]] == [0, 1, 2]


def test_other_shapes_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = checkpoint(tmp_path / "one", 0), checkpoint(tmp_path / "other", 0, width=32)
    with pytest.raises(MismatchError, match=r"other.*another model config.*width"):
        ship(KIND, one, tmp_path / "out", others=[other])
    assert main([KIND, str(one), str(tmp_path / "out"), "--average", str(other)]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_every_weight_lies_between_by_the_share(tmp_path: Path, share: float) -> None:
    base, tuned, out = checkpoint(tmp_path / "base", 0), checkpoint(tmp_path / "tuned", 1, dropout=0.3), tmp_path / "out"
    assert train.main(["blend", str(tuned), str(out), "--base", str(base), "--share", str(share)]) == 0
    before, after = state(base), state(tuned)
    for name, value in state(out).items():
        torch.testing.assert_close(value, torch.lerp(before[name].double(), after[name].double(), share).to(value.dtype))
    model, meta = load_model(out, KIND)
    assert model.config.dropout == 0.3  # the tuned one's settings
    assert meta == {"seed": 1, "blend": {"base": "base", "share": share}}


def test_what_cannot_be_blended_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, other, out = checkpoint(tmp_path / "base", 0), checkpoint(tmp_path / "other", 1, width=32), tmp_path / "out"
    for words, said in (
        ([str(base), str(out), "--base", str(other)], "has another model config than"),
        ([str(base), str(out), "--base", str(base), "--share", "1.5"], "--share must lie between 0 and 1, found 1.5"),
        ([str(base), str(base), "--base", str(base)], "is there already"),
        ([str(tmp_path / "nothing"), str(out)], "nothing"),
    ):
        assert train.main(["blend", *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not out.exists()
