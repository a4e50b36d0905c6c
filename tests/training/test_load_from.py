"""Starting from a checkpoint: what a run takes over from it, and what it refuses."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_task import Toy, ToyConfig

from autosing.models.io import read_config, save_model
from autosing.nn.mup import Mup
from tasks import TASKS


def identity(runs, name: str) -> dict[str, Any]:
    return json.loads((runs.path(name) / "state" / "state.json").read_text())["identity"]


def test_a_models_own_tunables_are_taken_over_and_the_runs_are_not(runs):
    assert runs("first", steps=1, tunables={"output_mult": 3.0, "lr0": 0.5}) == 0
    best = runs.path("first") / "best"
    assert runs("second", steps=1, load_from=best) == 0
    assert identity(runs, "second")["tunables"]["output_mult"] == 3.0
    assert identity(runs, "second")["tunables"]["lr0"] == 1e-2


def test_who_does_not_say_how_fast_to_go_on_is_told_that_the_default_is_for_a_start_from_scratch(runs, capsys):
    save_model(Toy(ToyConfig()), runs.folder / "given", {})
    said = "lr0 0.01 is for training from scratch; from a checkpoint a tenth forgets less: --tunables '{\"lr0\": 0.001}'"
    assert runs("a", steps=1, load_from=runs.folder / "given") == 0
    assert said in capsys.readouterr().err
    assert runs("b", steps=1, load_from=runs.folder / "given", tunables={"lr0": 0.01}) == 0
    assert "from scratch" not in capsys.readouterr().err


def test_other_arithmetic_than_the_checkpoints_is_refused_by_name(runs, tmp_path, capsys):
    save_model(Toy(ToyConfig(mup=Mup(output_mult=3.0))), tmp_path / "given", {})
    assert runs("a", load_from=tmp_path / "given", tunables={"output_mult": 4.0}) == 2
    assert "was trained with output_mult = 3.0, --tunables say 4.0" in capsys.readouterr().err
    assert runs("b", steps=1, load_from=tmp_path / "given", tunables={"output_mult": 3.0, "init_std": 1.0}) == 0


def test_a_difference_that_fits_is_told(runs, tmp_path, capsys):
    save_model(Toy(ToyConfig(span=3)), tmp_path / "given", {})
    assert runs("a", steps=1, load_from=tmp_path / "given") == 0
    assert "was trained with span = 3, this run has 0" in capsys.readouterr().err


@pytest.mark.parametrize("change, code", [(0.01, 0), (0.5, 2)])
def test_another_fit_of_the_tokenizer_is_noticed(runs, tmp_path, capsys, change, code):
    """Rounded tables are of one fit; a codebook of the same layout with other vectors is not."""
    model = Toy(ToyConfig())
    model.get_buffer("codebook").add_(change * torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    save_model(model, tmp_path / "given", {})
    assert runs("a", steps=1, load_from=tmp_path / "given") == code
    assert ("another fit of the tokenizer (codebook differs" in capsys.readouterr().err) == bool(code)


def test_a_refitted_tokenizer_can_be_gone_on_with(runs, tmp_path, capsys):
    """--allow-changed: the learned weights come from the checkpoint, the tokenizer's table from today."""
    model = Toy(ToyConfig())
    own = model.get_buffer("codebook").clone()
    model.get_buffer("codebook").add_(5.0)
    save_model(model, tmp_path / "given", {})
    assert runs("a", "--allow-changed", steps=1, load_from=tmp_path / "given", tunables={"lr0": 0.0}) == 0
    assert "another fit of the tokenizer (codebook); going on with today's" in capsys.readouterr().err
    kept = load_file(runs.path("a") / "last" / "model.safetensors")
    assert torch.allclose(kept["codebook"], own)
    assert all(torch.equal(kept[name], value) for name, value in model.named_parameters())


def test_best_is_never_worse_than_what_the_run_began_with(runs):
    """A fine-tuning that goes wrong leaves the checkpoint it came from as `best`."""
    assert runs("first", steps=60, validate_every_n_steps=20) == 0
    good = runs.path("first") / "best"
    assert runs("wrong", steps=10, validate_every_n_steps=5, load_from=good, tunables={"lr0": 3.0}) == 0
    checks = {r["step"]: r["val_loss"] for r in runs.records("wrong") if "val_loss" in r}
    assert list(checks) == [0, 5, 10] and checks[0] < min(checks[5], checks[10])
    began, kept = (load_file(folder / "model.safetensors") for folder in (good, runs.path("wrong") / "best"))
    assert all(torch.equal(began[key], kept[key]) for key in began)


def test_task_args_are_read_when_a_run_that_was_loaded_goes_on(runs, capsys):
    assert runs("first", steps=1) == 0
    again = {"steps": 4, "load_from": runs.path("first") / "best"}
    assert runs("a", "--resume-from", "auto", task_args={"noise": 0.2}, **again) == 0
    assert runs("a", "--resume-from", "auto", task_args={"noise": 0.2}, **again) == 0
    assert runs("a", "--resume-from", "auto", task_args={"noise": 0.3}, **again) == 2
    assert "was trained with args.noise = 0.2, now it is 0.3" in capsys.readouterr().err
    assert runs("a", "--resume-from", "auto", task_args={"nois": 0.2}, **again) == 2
    assert "did you mean 'noise'" in capsys.readouterr().err


def test_dataset_config_may_say_otherwise_than_the_checkpoint(runs):
    assert runs("first", steps=1, task_args={"width": 4}) == 0
    assert runs("a", steps=1, load_from=runs.path("first") / "best", task_args={"noise": 0.2}, dataset={"multiscale": True}) == 0
    assert identity(runs, "a")["args"]["multiscale"] is True


@pytest.mark.parametrize("name", ["t2s", "sm2a", "sm2a_parallel"])
def test_what_is_trained_on_from_the_shipped_weights_sings_with_their_settings(name):
    """What a run takes over are a checkpoint's args: they say all that its config says, or leave it to the size."""
    checkpoint = read_config("builtin", name)
    args, config = TASKS.get(name).args_of(checkpoint) if hasattr(TASKS.get(name), "args_of") else checkpoint["meta"]["args"], checkpoint["config"]
    said = {key: value for key, value in args.items() if value is not None and key in config}
    assert len(said) >= 5
    assert said == {key: config[key] for key in said}
