"""The toy task under its name in the registry, its dataset, and the train command run in this process or in one that may be killed."""

import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_task
from safetensors.torch import load_file

from autosing.cli.train import main
from autosing.registry import Registry
from autosing.training.log import read_metrics

TIMES = ("seconds", "rows_per_second", "waiting", "save_stall_seconds")  # what differs between equal runs


@pytest.fixture(autouse=True)
def toy_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autosing.cli.train.TASKS", Registry("task", {"toy": "toy_task:TASK"}))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that the kernel has; waiting for the disk only makes tests slow."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_task.write_songs(tmp_path_factory.mktemp("songs") / "data")


class Runs:
    """Runs of the train command below one folder."""

    def __init__(self, folder: Path, songs: Path):
        self.folder, self.songs = folder, songs

    def argv(self, name: str, *flags: str, dataset: dict[str, Any] | None = None, **values: Any) -> list[str]:
        settings = {"batch_size": 4, "steps": 12, "validate_every_n_steps": 5, "log_every_n_steps": 1, "workers": 0, "device": "cpu"}
        config = json.dumps({"path": str(self.songs), "validation_share": 0.1, **(dataset or {})})
        argv = ["--task_name", "toy", "--name", name, "--output_dir", str(self.folder), "--dataset-config", config]
        for key, value in {**settings, **values}.items():
            argv += [f"--{key}", json.dumps(value) if isinstance(value, dict) else str(value)]
        return [*argv, *flags]

    def __call__(self, name: str, *flags: str, **values: Any) -> int:
        return main(self.argv(name, *flags, **values))

    def apart(self, name: str, *flags: str, before: Callable[[], None] | None = None, **values: Any) -> Any:
        """The same in a process of its own; `before` is called there first. Returns the started process."""

        def child() -> None:
            if before is not None:
                before()
            sys.stderr = sys.stdout = open("/dev/null", "w")  # noqa: SIM115 - until the process ends
            sys.exit(self(name, *flags, **values))

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        return process

    def path(self, name: str) -> Path:
        return self.folder / "toy" / name

    def records(self, name: str) -> list[dict[str, Any]]:
        """Metrics without what differs between equal runs."""
        return [{k: v for k, v in r.items() if k not in TIMES} for r in read_metrics(self.path(name) / "metrics.jsonl")]

    def weights(self, name: str, which: str = "last") -> dict[str, list]:
        return {k: v.tolist() for k, v in load_file(self.path(name) / which / "model.safetensors").items()}

    def same(self, a: str, b: str) -> None:
        """Assert that two runs had the same losses and weights to the bit."""
        assert self.records(a) == self.records(b)
        for which in ("last", "best"):
            assert self.weights(a, which) == self.weights(b, which)


@pytest.fixture
def runs(tmp_path: Path, songs: Path) -> Runs:
    return Runs(tmp_path, songs)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, songs: Path) -> Runs:
    """`reference.same`'s other side: an uninterrupted run called "whole"."""
    return Runs(tmp_path_factory.mktemp("reference"), songs)
