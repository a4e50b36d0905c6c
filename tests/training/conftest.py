"""The toy task and its model under their names in the registries, its dataset, and runs on it."""

from pathlib import Path

import pytest
import toy_task

from autosing.models import KINDS
from autosing.registry import Registry
from tests.train_runs import Runs


@pytest.fixture(autouse=True)
def toy_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autosing.cli.train.TASKS", Registry("task", {"toy": "toy_task:TASK"}))
    monkeypatch.setattr("autosing.models.io.KINDS", Registry("model kind", {**KINDS._entries, "toy": "toy_task:Toy"}))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that the kernel has; waiting for the disk only makes tests slow."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_task.write_songs(tmp_path_factory.mktemp("songs") / "data")


def toy_runs(folder: Path, songs: Path) -> Runs:
    dataset = {"path": str(songs), "validation_share": 0.1}
    return Runs(folder, "toy", dataset, batch_size=4, steps=12, validate_every_n_steps=5, log_every_n_steps=1, workers=0, device="cpu")


@pytest.fixture
def runs(tmp_path: Path, songs: Path) -> Runs:
    return toy_runs(tmp_path, songs)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, songs: Path) -> Runs:
    """The other side of `runs.same`: uninterrupted runs that several tests compare with."""
    return toy_runs(tmp_path_factory.mktemp("reference"), songs)
