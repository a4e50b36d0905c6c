"""Runs of the train command, for tests: in this process, or in one of its own that may be killed, signalled, or one of several ranks."""

import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from autosing.cli.train import main
from autosing.store import sha256_of
from autosing.training.log import read_metrics
from autosing.training.loop import Trainer

ROOT = Path(__file__).resolve().parents[1]
TIMES = ("seconds", "rows_per_second", "waiting", "save_stall_seconds")  # what differs between equal runs


class Runs:
    """Runs of one task below one folder, told apart by name."""

    def __init__(self, folder: Path, task: str, dataset: dict[str, Any], **common: Any):
        """
        Args:
            dataset: `--dataset-config`.
            common: flags of every run, unless it says something else; None = not given.
        """
        self.folder, self.task, self.dataset, self.common = folder, task, dataset, common

    def argv(self, name: str, *flags: str, dataset: dict[str, Any] | None = None, **values: Any) -> list[str]:
        places = {"task_name": self.task, "name": name, "output_dir": self.folder, "dataset_config": {**self.dataset, **(dataset or {})}}
        argv = []
        for key, value in {**places, **self.common, **values}.items():
            if value is not None:
                argv += [f"--{key}", json.dumps(value) if isinstance(value, dict) else str(value)]
        return [*argv, *flags]

    def __call__(self, name: str, *flags: str, **values: Any) -> int:
        """Its exit code, in this process."""
        return main(self.argv(name, *flags, **values))

    def start(
        self, name: str, *flags: str, fault: str = "", environment: dict[str, str] | None = None, before: Callable[[], None] | None = None, **values: Any
    ) -> Any:
        """`train.py` in a process forked from this one, where `before` is called first."""

        def child() -> None:
            os.environ.update(AUTOSING_FAULT=fault, **(environment or {}))
            sys.argv = ["train.py", *self.argv(name, *flags, **values)]
            sys.stdout = sys.stderr = open(self.folder / f"{name}.log", "a")  # noqa: SIM115 - until the process ends
            if before is not None:
                before()
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        return process

    def apart(self, name: str, *flags: str, **values: Any) -> int:
        """The exit code of `start`."""
        return ended(self.start(name, *flags, **values))

    def said(self, name: str) -> str:
        """What processes of their own said."""
        return (self.folder / f"{name}.log").read_text()

    def path(self, name: str) -> Path:
        return self.folder / self.task / name

    def records(self, name: str) -> list[dict[str, Any]]:
        """Metrics without what differs between equal runs."""
        return [{k: v for k, v in r.items() if k not in TIMES} for r in read_metrics(self.path(name) / "metrics.jsonl")]

    def weights(self, name: str, which: str = "last") -> dict[str, list]:
        return {k: v.tolist() for k, v in load_file(self.path(name) / which / "model.safetensors").items()}

    def outcome(self, name: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """What must not depend on what happened on the way: every record, and the hash of every weight file."""
        return self.records(name), {p.parent.name: sha256_of(p) for p in sorted(self.path(name).glob("*/model.safetensors"))}

    def same(self, a: str, b: str, others: "Runs | None" = None) -> None:
        """Assert that two runs, the second perhaps in another place, had the same losses and weights to the bit."""
        others = others or self
        assert self.records(a) == others.records(b)
        for which in ("last", "best"):
            assert self.weights(a, which) == others.weights(b, which)


def ended(process: Any, seconds: float = 120.0) -> int:
    """Its exit code; `join` would wait for an orphaned worker too."""
    deadline = time.monotonic() + seconds
    while process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.exitcode is not None, "still running"
    return process.exitcode


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environments(world: int) -> list[dict[str, str]]:
    """What a launcher tells each of `world` ranks; nothing where there is one."""
    if world == 1:
        return [{}]
    port = str(free_port())
    return [{"RANK": str(n), "LOCAL_RANK": str(n), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} for n in range(world)]


def signalled(step: int, number: int = signal.SIGTERM, ranks: Collection[int] = range(99)) -> Callable[[Trainer], None]:
    """A `Trainer._update` during which, in `step` (from 1), these ranks are sent a signal."""
    plain = Trainer._update

    def update(self: Trainer) -> None:
        if self.step + 1 == step and self.ranks.rank in ranks:
            signal.raise_signal(number)
        plain(self)

    return update
