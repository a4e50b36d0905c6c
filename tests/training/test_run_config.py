"""--config: flags from YAML, flags over it, and the file that every run leaves, which repeats it."""

import json

import pytest
import torch
from safetensors.torch import load_file
from toy_task import ToyTask

from autosing.cli.run_config import config_text
from autosing.cli.train import main, parse
from autosing.training.loop import Trainer
from tests.train_runs import signalled


@pytest.fixture
def yaml():
    return pytest.importorskip("yaml", reason="needs the extra yaml")


def write(tmp_path, text: str):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def test_keys_are_flags_in_either_spelling_and_flags_win(yaml, tmp_path):
    path = write(tmp_path, "task-name: toy\nbatch_size: 8\neval_steps: 7\nema: 1e-1\ntorch_compile: no\nname: null\ntunables:\n  lr0: 4e-3\n  beta1: 0.8\n")
    given = parse(["--config", path, "--batch-size", "3", "--validate-every-n-steps", "9"])
    assert given == {"task_name": "toy", "batch_size": 3, "validate_every": 9, "ema": 0.1, "torch_compile": False, "tunables": '{"lr0": 0.004, "beta1": 0.8}'}


@pytest.mark.parametrize("flags, kept", [(["--epochs", "2"], {"epochs": 2.0}), (["--single-epoch"], {"single_epoch": True}), (["--seed", "1"], {"steps": 3, "epochs": 9.0, "seed": 1})])
def test_a_bound_that_is_given_counts_alone(yaml, tmp_path, flags, kept):
    assert parse(["--config", write(tmp_path, "steps: 3\nepochs: 9\n"), *flags]) == kept


@pytest.mark.parametrize(
    "text, said",
    [
        ("batchsize: 3\n", "has no key 'batchsize'; did you mean 'batch-size'"),
        ("config: other.yaml\n", "has no key 'config'"),
        ("- 1\n", "must hold keys and values"),
        ("steps: [1, 2]\n", "'steps' cannot be a list"),
        ("a: b: c\n", "is not YAML"),
        ("name: 2024-05-01\n", "'name' holds what no flag takes, a date for one, found datetime.date(2024, 5, 1); put it in quotes"),
        ("tunables:\n  lr0: 2024-05-01\n", "'tunables' holds what no flag takes"),
        ("tunables:\n  lr: 1\n", "--tunables has no key 'lr'; did you mean 'lr0'"),
        ("batch_size: 0\n", "--batch-size cannot be 0"),
    ],
)
def test_mistakes_are_one_clear_line(yaml, runs, tmp_path, capsys, text, said):
    argv = runs.argv("a", "--config", write(tmp_path, text))
    for flag in ("--batch_size", "--steps"):
        at = argv.index(flag)
        del argv[at : at + 2]
    assert main(argv) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and said in line


def test_a_missing_file_and_a_missing_package_are_told(runs, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    assert runs("a", config=tmp_path / "none.yaml") == 2
    assert "pip install 'autosing[yaml]'" in capsys.readouterr().err
    monkeypatch.undo()
    pytest.importorskip("yaml", reason="needs the extra yaml")
    assert runs("a", config=tmp_path / "none.yaml") == 2
    assert "none.yaml' cannot be read (No such file or directory)" in capsys.readouterr().err


def test_what_a_run_leaves_repeats_it(yaml, runs, monkeypatch):
    values = {"accumulate_grad_batches": 2, "ema": 0.5, "tunables": {"lr0": 0.02, "beta1": 0.8}, "task_args": {"width": 6}, "seed": 3}
    assert runs("a", dataset={"multiscale": True}, **values) == 0
    file = runs.path("a") / "config.yaml"
    assert yaml.safe_load(file.read_text())["task_args"]["multiscale"] is True
    assert main(["--config", str(file), "--name", "b", "--output-dir", str(runs.folder), "--device", "cpu"]) == 0
    runs.same("a", "b")
    assert (runs.path("b") / "config.yaml").read_text() == file.read_text()


def repeat(runs, name: str, again: str) -> None:
    assert main(["--config", str(runs.path(name) / "config.yaml"), "--name", again, "--output-dir", str(runs.folder), "--device", "cpu"]) == 0


def test_an_adapters_run_is_repeated_as_one(yaml, runs):
    pytest.importorskip("peft", reason="training adapters needs peft (pip install 'autosing[lora]')")
    assert runs("base", steps=2) == 0
    assert runs("a", load_from=runs.path("base") / "last", lora={"r": 2, "alpha": 4, "target_modules": ["hidden"]}, tunables={"lr0": 0.1}) == 0
    repeat(runs, "a", "b")
    assert runs.records("a") == runs.records("b")
    one, other = (load_file(runs.path(name) / "last" / "adapter.safetensors") for name in ("a", "b"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_resumed_run_still_says_where_it_began_and_what_its_bits_depend_on(yaml, runs, monkeypatch):
    assert runs("base", steps=2) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", signalled(7))
        assert runs("a", load_from=runs.path("base") / "best", deterministic=True, threads=1) == 143
    assert main(["--resume-from", str(runs.path("a")), "--workers", "0", "--device", "cpu"]) == 0
    found = yaml.safe_load((runs.path("a") / "config.yaml").read_text())
    assert found["load_from"] == str(runs.path("base") / "best") and found["threads"] == 1 and found["precision"] == "32"
    repeat(runs, "a", "b")
    runs.same("a", "b")


def test_what_a_run_came_to_is_written_also_without_the_package(runs, monkeypatch, capsys):
    """Each value is JSON; a refused resume leaves the file as it was."""
    assert runs("a", "--save-steps", "4", steps=4) == 0
    text = (runs.path("a") / "config.yaml").read_text()
    found = {key: json.loads(value) for key, _, value in (line.partition(": ") for line in text.splitlines()[1:])}
    assert found["task_name"] == "toy" and found["steps"] == 4 and found["save_steps"] == 4 and found["tunables"]["lr0"] == 0.01
    assert "epochs" not in found and found["dataset_config"]["validation_share"] == 0.1
    assert runs("a", "--resume-from", "auto", steps=9) == 2
    assert (runs.path("a") / "config.yaml").read_text() == text
    assert ToyTask.name and config_text({"a": None, "b": {"c": 1.5}}).splitlines()[1:] == ['b: {"c": 1.5}']
