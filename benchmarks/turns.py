"""Measuring two programs in alternation: each is a process that does one step whenever it is told to.

The parent's half is `Contestant`, the child's is `serve`. Only the standard library and torch are needed, so that the child may be a
peer's Python that has nothing of ours. CPU seconds are the process's own, all threads together; memory is the most the process ever
held beyond what it held before its model was built.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000", "MALLOC_TOP_PAD_": "268435456"}
"""glibc keeps what it once had: page faults are dear on virtual machines, and would be most of what is measured."""


class Contestant:
    """A child process, as the parent sees it."""

    def __init__(self, python: str, module: str, settings: Mapping[str, Any], threads: int):
        self.name = module
        environment = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": str(threads)}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        command = [python, "-m", module, json.dumps({**settings, "threads": threads})]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
        self.about = self._answer()
        self.steps: list[dict[str, float]] = []

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self._process.wait()}; its message is above")
        return json.loads(line)

    def _ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._answer()

    def step(self, keep: bool = True) -> None:
        """One step of the child; `keep` False = a warm-up."""
        taken = self._ask("step")
        if keep:
            self.steps.append(taken)

    def end(self) -> dict[str, Any]:
        """The figures: what the child says of itself, the least and the median of its steps, memory."""
        memory = self._ask("end")
        self._process.communicate()
        figures: dict[str, Any] = {**self.about, **memory}
        for key in self.steps[0]:
            ordered = sorted(step[key] for step in self.steps)
            figures[key] = round(ordered[0], 5)
            figures[f"{key}_median"] = round(ordered[len(ordered) // 2], 5)
        return figures


def serve(build: Callable[[dict[str, Any]], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """The child's main: `build(settings)` makes one step and what is to be told of it; then obey the parent.

    A step that returns a dict has measured itself: its figures go in place of those measured around it.
    """
    import torch

    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    cuda = settings["device"] == "cuda"
    before = resident_megabytes("VmRSS")
    step, about = build(settings)
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else resident_megabytes("VmHWM") - before
            print(json.dumps({"peak_mb": round(peak, 1), "libraries_mb": round(before, 1)}), flush=True)
            return
        if cuda:
            torch.cuda.synchronize()
        cpu, wall = time.process_time(), time.perf_counter()
        own = step()
        if cuda:
            torch.cuda.synchronize()
        taken = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        print(json.dumps(own if isinstance(own, dict) else taken), flush=True)


def resident_megabytes(which: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the most so far) of this process; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(which)), 0.0)
