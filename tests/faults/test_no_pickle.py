"""No pickle is read on any normal path: training, resuming, starting from a checkpoint, loading the models that sing."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from autosing.cli.train import main
from autosing.models.t2s import SIZES, Size
from tests.sequence_rows import write_token_set


class PickleRead(Exception):
    """A pickle was read."""


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **values: Any) -> Any:
        raise PickleRead

    class Refusing(pickle.Unpickler):  # a class, since others derive theirs from it
        __init__ = refuse

    for name in ("load", "loads", "_load", "_loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", Refusing)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch.serialization, "load", refuse)


@pytest.mark.parametrize("task", ["t2s", "sm2a"])
def test_training_resuming_and_loading_read_no_pickle(tmp_path: Path, no_pickle: None, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    """Workers 0: processes that read ahead talk to this one in pickles of their own making."""
    from autosing.perception import load_semantic

    monkeypatch.setitem(SIZES, "nano", Size(2, 1, cross_layers=0, music_depth=0))
    tokens = write_token_set(tmp_path / "tokens", seconds=2.4, semantic=load_semantic("builtin").spec)
    args = {"size": "nano", **({"codebooks": False} if task == "sm2a" else {})}
    shared = ["--task-name", task, "--output-dir", str(tmp_path), "--dataset-config", json.dumps({"path": str(tokens)}), "--workers", "0"]
    flags = [*shared, "--task-args", json.dumps(args), "--batch-size", "2", "--device", "cpu", "--name", "a"]
    assert main([*flags, "--steps", "2"]) == 0
    assert main([*flags, "--steps", "3", "--resume-from", "auto", "--allow-changed"]) == 0
    assert main([*shared, "--load-from", str(tmp_path / task / "a" / "best"), "--steps", "1", "--name", "b", "--device", "cpu"]) == 0


def test_the_models_that_sing_are_loaded_without_a_pickle(no_pickle: None) -> None:
    from autosing.singing.pipeline import Singer

    assert Singer().codec.spec.name == "builtin"


def test_the_guard_works(no_pickle: None, tmp_path: Path) -> None:
    with pytest.raises(PickleRead):
        torch.load(tmp_path / "a.pt")
    with pytest.raises(PickleRead):
        pickle.loads(b"")
    with pytest.raises(PickleRead):
        pickle.Unpickler(io.BytesIO())
