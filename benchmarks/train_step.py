"""Seconds and memory of a training step: our t2s and sm2a beside WhisperSpeech's models of the same shape, taking turns in one run.

    python -m benchmarks.train_step --size tiny --peers-python /path/to/peers/bin/python

The peers' Python has torch (of our version) and whisperspeech 0.8.9; without it our own figures are printed alone. Same shape: depth, heads,
30 s windows, 750 semantic tokens, the same text, 1024 codes a lane, the same grid of codes (lanes x steps, the same cells live). Text is 450
characters (15 a second), which WhisperSpeech always pads to 550 and we do not; `t2s_longest_text` has 550. WhisperSpeech has neither an accompaniment nor dropout, so ours has none in these pairs; "as trained" (with both, and SNAC's 4096
codes) is measured without a bar, and so is what scoring live lanes alone saves in `sm2a_unrolled` ("dense" scores all lanes everywhere). A step is forward, backward, clipping and fused AdamW on both sides. Least of `--steps` steps.
On CUDA tokens a second, model FLOP utilisation and memory are printed too. `--precision bf16` is autocast on both sides, the default on CUDA; on
processors with matrix units for bf16 (AMX) it pays too.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from autosing.models.t2s import SIZES
from autosing.tokens.patterns import load_pattern
from benchmarks.figures import bar, last_line
from benchmarks.our_step import CODECS, usual_precision
from benchmarks.turns import ALLOCATOR, Contestant

SEMANTIC, TEXT, LONGEST_TEXT, SECONDS = 750, 450, 550, 30.0
BARS = {"t2s": 1.0, "sm2a": 0.8}  # of WhisperSpeech's CPU seconds a target token
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, from NVIDIA's data sheets
BARE = {"dropout": 0.0, "p_no_cond": 0.0}
PAIRS: dict[str, dict[str, Any]] = {
    "t2s": {"task": "t2s", "codec": "builtin", "args": {**BARE, "pointer": False}},
    "t2s_longest_text": {"task": "t2s", "codec": "builtin", "args": {**BARE, "pointer": False}, "text": LONGEST_TEXT},
    "sm2a_frames": {"task": "sm2a", "codec": "frames", "args": {**BARE, "pattern": "bricks"}},
    "sm2a_bricks": {"task": "sm2a", "codec": "builtin", "args": {**BARE, "pattern": "bricks"}},
    "sm2a_unrolled": {"task": "sm2a", "codec": "builtin", "args": {**BARE, "multiscale": True, "p_coarse": 0.0}},
}
ALONE: dict[str, dict[str, Any]] = {
    "t2s_as_trained": {"task": "t2s", "codec": "snac_32khz", "args": {}},
    "sm2a_as_trained_bricks": {"task": "sm2a", "codec": "snac_32khz", "args": {"pattern": "bricks"}},
    "sm2a_as_trained_unrolled": {"task": "sm2a", "codec": "snac_32khz", "args": {"multiscale": True, "p_coarse": 0.0}},
}


def peer_settings(name: str, pair: dict[str, Any], size: str, seconds: float = SECONDS) -> dict[str, Any]:
    """What WhisperSpeech's side is told: its shape and, for codes, which cells of the grid hold one."""
    depth, heads = SIZES[size].depth, SIZES[size].heads
    settings: dict[str, Any] = {"model": "t2s" if pair["task"] == "t2s" else "s2a", "depth": depth, "heads": heads, "text": LONGEST_TEXT}
    if pair["task"] == "sm2a":
        codec = CODECS[pair["codec"]]
        unrolled = "multiscale" in pair["args"]  # then a piece of as many steps as the whole window has in "bricks"
        pattern = load_pattern("bricks_unrolled" if unrolled else "bricks", codec.strides)
        steps = load_pattern("bricks", codec.strides).steps(codec.frames(seconds))
        settings |= {"steps": steps, "lanes": [(slot.start, slot.step) for slot in pattern.live_slots(steps, codec)]}
    return settings


def measure(name: str, pair: dict[str, Any], options: argparse.Namespace, common: dict[str, Any]) -> dict[str, Any]:
    """The figures of one pair, or of our side alone."""
    ours = {**common, **pair, "args": {"size": options.size, **pair["args"]}, "music": name in ALONE, "count_flops": True}
    contestants = {"ours": Contestant(sys.executable, "benchmarks.our_step", ours, options.threads)}
    if options.peers_python and name in PAIRS:
        theirs = {**common, **peer_settings(name, pair, options.size)}
        contestants["whisperspeech"] = Contestant(options.peers_python, "benchmarks.whisperspeech_step", theirs, options.threads)
    if name == "sm2a_unrolled":
        contestants["dense"] = Contestant(sys.executable, "benchmarks.our_step", {**ours, "dense": True}, options.threads)
    for number in range(options.warmup + options.steps):
        for contestant in contestants.values():
            contestant.step(keep=number >= options.warmup)
    figures: dict[str, Any] = {side: contestant.end() for side, contestant in contestants.items()}
    targets = figures["ours"]["targets"]
    for side in contestants:
        figures[side]["cpu_ms_a_target"] = round(1e3 * figures[side]["cpu_s"] / targets, 5)
        figures[side]["targets_a_second"] = round(targets / figures[side]["wall_s"], 1)
    for side, prefix in (("whisperspeech", ""), ("dense", "dense_")):
        for key, short in (("cpu_s", "cpu"), ("peak_mb", "memory"), ("wall_s", "wall")):
            if side in figures:
                figures[f"{prefix}{short}_ratio"] = round(figures["ours"][key] / figures[side][key], 3)
    if options.device == "cuda":
        peak = next((flops for card, flops in PEAK_FLOPS.items() if card in torch.cuda.get_device_name()), None)
        if peak is not None:
            figures["ours"]["mfu"] = round(figures["ours"]["flops"] / figures["ours"]["wall_s"] / peak, 4)
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="tiny", choices=list(SIZES))
    parser.add_argument("--peers-python", help="a Python that has whisperspeech 0.8.9 and torch of our version")
    parser.add_argument("--only", nargs="*", choices=[*PAIRS, *ALONE], help="these pairs alone")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each side; the least counts")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="fp32 on a CPU, bf16 on CUDA")
    options = parser.parse_args(argv)
    precision = options.precision or usual_precision(options.device)
    common = {"batch": options.batch, "semantic": SEMANTIC, "text": TEXT, "device": options.device, "precision": precision}
    figures: dict[str, Any] = {}
    bars: dict[str, Any] = {}
    for name, pair in {**PAIRS, **ALONE}.items():
        if options.only and name not in options.only:
            continue
        found = figures[name] = measure(name, pair, options, common)
        if "cpu_ratio" in found and options.device == "cpu":
            bars[f"{name}_cpu_of_whisperspeech"] = bar(found["cpu_ratio"], "<=", BARS[pair["task"]])
        if "wall_ratio" in found and options.device == "cuda":
            bars[f"{name}_speed_of_whisperspeech"] = bar(1 / found["wall_ratio"], ">=", 3.0)
        if "mfu" in found["ours"] and options.size == "medium":
            bars[f"{name}_mfu"] = bar(found["ours"]["mfu"], ">=", 0.4)
        shown = {side: {k: v for k, v in f.items() if k in ("cpu_s", "wall_s", "peak_mb")} for side, f in found.items() if isinstance(f, dict)}
        print(f"{name}: {shown}" + (f", cpu ratio {found['cpu_ratio']}" if "cpu_ratio" in found else ""), file=sys.stderr, flush=True)
    more = {}
    if not options.peers_python:
        more["missing"] = "WhisperSpeech's side: give --peers-python, a Python that has whisperspeech 0.8.9"
        print(more["missing"], file=sys.stderr)
    protocol = {"size": options.size, "batch": options.batch, "steps": options.steps, "seed": 0, "statistic": "least", "allocator": ALLOCATOR, **common}
    print(last_line("train_step", options.threads, protocol, figures, bars, **more))


if __name__ == "__main__":
    main()
