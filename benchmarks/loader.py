"""Samples a second of our loader alone, beside the model's own rate, webdataset and a plain torch DataLoader over the same Parquet tables.

    python -m benchmarks.loader --size tiny

All of them run in this machine's turns, each in a process of its own, over the same 512 random rows of 30 s: our loader in its training order,
webdataset's tar files (where webdataset is installed: `pip install autosing[webdataset]`), a DataLoader over tables held in memory. Each
reads within its process (no workers), so CPU seconds tell what a sample costs; a worker process more adds the same rate again. The
model's rate is that of whole training steps. The bar: one reading process makes at least as many samples as one training process takes.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from autosing.models.t2s import SIZES
from benchmarks.figures import bar, last_line
from benchmarks.loader_step import ROWS, SECONDS, write_rows, write_shards
from benchmarks.our_step import SEMANTIC, usual_precision
from benchmarks.turns import Contestant

TASKS: dict[str, dict[str, Any]] = {"t2s": {}, "sm2a": {"multiscale": True, "p_coarse": 0.0}}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="tiny", choices=list(SIZES), help="of the model whose rate is compared")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="measured turns; the median counts for readers, the least for the model")
    parser.add_argument("--batches", type=int, default=64, help="batches a reader's turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    ways = ["ours", "dataloader"]
    more: dict[str, Any] = {}
    if importlib.util.find_spec("webdataset") is None:
        more["missing"] = "webdataset: pip install autosing[webdataset]"
        print(more["missing"], file=sys.stderr)
    else:
        ways.append("webdataset")
    figures: dict[str, Any] = {}
    bars: dict[str, Any] = {}
    precision = usual_precision(options.device)
    common = {"batch": options.batch, "semantic": SEMANTIC.tokens(SECONDS), "text": 550, "device": options.device}
    with tempfile.TemporaryDirectory() as folder:
        tables = write_rows(Path(folder) / "rows")
        if "webdataset" in ways:
            write_shards(tables, Path(folder) / "shards")
        for task, args in TASKS.items():
            reading = {**common, "task": task, "folder": folder, "batches": options.batches, "workers": 0, "device": "cpu"}
            contestants = {way: Contestant(sys.executable, "benchmarks.loader_step", {**reading, "way": way}, 1) for way in ways}
            training = {**common, "task": task, "codec": "builtin", "music": True, "args": {"size": options.size, **args}, "precision": precision}
            contestants["model"] = Contestant(sys.executable, "benchmarks.our_step", training, 1)
            for number in range(1 + options.steps):
                for contestant in contestants.values():
                    contestant.step(keep=number > 0)
            rates = figures[task] = {}
            for name, contestant in contestants.items():
                taken = contestant.end()
                samples, seconds = options.batch * (1 if name == "model" else options.batches), "cpu_s" if name == "model" else "cpu_s_median"
                if options.device == "cuda" and name == "model":
                    seconds = "wall_s"
                rates[name] = {"samples_a_second": round(samples / taken[seconds], 2), "peak_mb": taken["peak_mb"]}
            ours = rates["ours"]["samples_a_second"]
            for name in contestants:
                if name != "ours":
                    rates[f"ours_over_{name}"] = round(ours / rates[name]["samples_a_second"], 2)
            bars[f"{task}_loader_over_model"] = bar(rates["ours_over_model"], ">=", 1.0)
            print(f"{task}: {rates}", file=sys.stderr, flush=True)
    protocol = {"size": options.size, "precision": precision, "rows": ROWS, "row_seconds": SECONDS, "batch": options.batch, "steps": options.steps, "workers": 0,
                "rate": "samples a CPU second of one process", "seed": 0}  # fmt: skip
    print(last_line("loader", 1, protocol, figures, bars, **more))


if __name__ == "__main__":
    main()
