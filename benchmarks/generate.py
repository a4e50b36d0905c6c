"""CPU seconds a token of singing: our t2s and sm2a, in fp32 and int8, beside WhisperSpeech's T2S and S2A of the same shape, taking turns in one run.

    python -m benchmarks.generate --size tiny base --peers-python /path/to/peers/bin/python

The peers' Python has torch (of our version) and whisperspeech 0.8.9; without it our own figures are printed alone. Same shape as in `train_step`: depth,
heads, 30 s windows, 750 semantic tokens, 550 text tokens, 1024 codes a lane, the same grid of codes, without an accompaniment; random weights, one row,
one thread, equal allocators. Ours sings the whole window, its encoders and all else included; of WhisperSpeech `--peer-tokens` decoder steps are taken,
without its encoder (each of its steps costs the same, see `whisperspeech_generate`). A turn of one side follows a turn of the other; least of `--turns`.
"as sung": four candidates with accompaniment, pointer and guidance, as `sing.py` asks for them, ours alone. int8 is PyTorch's dynamically quantised
linear; what it costs is told of the shipped weights (`int8_error`). Told too: the share of the memory's bandwidth that the weights and caches read in fp32 account for. On CUDA there are batches of 1, 8 and 64.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from autosing.models.t2s import SIZES
from autosing.nn.int8 import ENGINE
from benchmarks.figures import bar, last_line
from benchmarks.int8_error import int8_error
from benchmarks.train_step import LONGEST_TEXT, PAIRS, SECONDS, peer_settings
from benchmarks.turns import ALLOCATOR, Contestant

SEMANTIC_RATE, BATCHES, TIMES_FASTER, ROOFLINE = 25, (1, 8, 64), 4.0, 0.6
BESIDE = {name: {**PAIRS[of], "music": False, "guidance": 1.0, "text": LONGEST_TEXT}
          for name, of in (("t2s", "t2s_longest_text"), ("sm2a_frames", "sm2a_frames"), ("sm2a_bricks", "sm2a_bricks"))}  # fmt: skip
AS_SUNG: dict[str, dict[str, Any]] = {
    "t2s_as_sung": {"task": "t2s", "codec": "builtin", "args": {}, "music": True, "guidance": 2.0, "text": 200, "batch": 4},
    "sm2a_as_sung": {"task": "sm2a", "codec": "builtin", "args": {}, "music": True, "guidance": 3.0, "text": 200, "batch": 4},
}


def measure(name: str, pair: dict[str, Any], size: str, options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """The figures of one pair, or of our side alone."""
    common = {"semantic": round(SEMANTIC_RATE * options.seconds), "device": options.device, "batch": pair.get("batch", batch)}
    ours = {**pair, **common, "args": {**pair["args"], "size": size}}
    contestants = {"ours": Contestant(sys.executable, "benchmarks.generate_step", ours, options.threads)}
    if options.device == "cpu" and ENGINE in torch.backends.quantized.supported_engines:
        contestants["int8"] = Contestant(sys.executable, "benchmarks.generate_step", {**ours, "int8": True}, options.threads)
    if options.peers_python and name in BESIDE:
        theirs = {**common, **peer_settings(name, pair, size, options.seconds), "tokens": options.peer_tokens}
        contestants["whisperspeech"] = Contestant(options.peers_python, "benchmarks.whisperspeech_generate", theirs, options.threads)
    for number in range(1 + options.turns):
        for contestant in contestants.values():
            contestant.step(keep=number > 0)
    figures: dict[str, Any] = {side: contestant.end() for side, contestant in contestants.items()}
    seconds = "wall_s" if options.device == "cuda" else "cpu_s"
    tokens_a_step = figures["ours"]["tokens"] / figures["ours"]["steps"]
    for found in figures.values():
        found["ms_a_step"] = round(1e3 * found[seconds] / found.get("steps", 1), 4)
        found["ms_a_token"] = round(found["ms_a_step"] / tokens_a_step, 5)
        found["tokens_a_second"] = round(1e3 / found["ms_a_token"], 1)
    found = figures["ours"]
    found["bandwidth_share"] = round(found["bytes_a_step"] / found["bandwidth"] / (found["ms_a_step"] / 1e3), 4)
    for side in ("ours", "int8"):
        if "whisperspeech" in figures and side in figures:
            figures[f"{side}_times_faster"] = round(figures["whisperspeech"]["ms_a_step"] / figures[side]["ms_a_step"], 2)
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", nargs="+", default=["tiny"], choices=list(SIZES))
    parser.add_argument("--peers-python", help="a Python that has whisperspeech 0.8.9 and torch of our version")
    parser.add_argument("--only", nargs="*", choices=[*BESIDE, *AS_SUNG], help="these pairs alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of the window")
    parser.add_argument("--peer-tokens", type=int, default=60, help="decoder steps that WhisperSpeech takes in a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    figures: dict[str, Any] = {}
    bars: dict[str, Any] = {}
    for size in options.size:
        for name, pair in {**BESIDE, **AS_SUNG}.items():
            if options.only and name not in options.only:
                continue
            for batch in BATCHES if options.device == "cuda" and "batch" not in pair else (1,):
                key = f"{size}_{name}" + (f"_batch_{batch}" if batch > 1 else "")
                found = figures[key] = measure(name, pair, size, options, batch)
                if "ours_times_faster" in found and options.device == "cpu":
                    bars[f"{key}_times_faster_than_whisperspeech"] = bar(found["ours_times_faster"], ">=", TIMES_FASTER)
                share = found["ours"]["bandwidth_share"]
                if options.device == "cuda" and batch == 1 and name in BESIDE:
                    bars[f"{key}_share_of_bandwidth"] = bar(share, ">=", ROOFLINE)
                shown = {side: f["ms_a_step"] for side, f in found.items() if isinstance(f, dict)}
                print(f"{key}: ms a step {shown}, times faster {found.get('ours_times_faster')}, int8 {found.get('int8_times_faster')}, "
                      f"of the bandwidth {share}", file=sys.stderr, flush=True)  # fmt: skip
    more: dict[str, Any] = {}
    if options.device == "cpu" and ENGINE in torch.backends.quantized.supported_engines:
        more["int8_error"] = int8_error()
        print(f"int8, shipped weights: {more['int8_error']}", file=sys.stderr, flush=True)
    if not options.peers_python:
        more["missing"] = "WhisperSpeech's side: give --peers-python, a Python that has whisperspeech 0.8.9"
        print(more["missing"], file=sys.stderr)
    protocol = {"sizes": options.size, "seconds": options.seconds, "turns": options.turns, "peer_tokens": options.peer_tokens, "precision": "fp32",
                "statistic": "least", "seed": 0, "allocator": ALLOCATOR, "pairs": {**BESIDE, **AS_SUNG}}  # fmt: skip
    print(last_line("generate", options.threads, protocol, figures, bars, **more))


if __name__ == "__main__":
    main()
