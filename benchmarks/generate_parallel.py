"""Seconds to sing 30 s: the parallel sm2a beside our step-by-step sm2a of equal size, and beside pip `soundstorm-pytorch`, taking turns in one run.

    python -m benchmarks.generate_parallel --size tiny --peers-python /path/to/peers/bin/python

The peers' Python has torch (of our version) and soundstorm-pytorch 0.6.1. Random weights, one batch row, one thread, equal allocators. Ours sing
the builtin codec's layout (strides 8/4/2/1) with accompaniment and singer, the parallel one in 16 passes; the two have equal sizes: the size's
width, and layers added to the parallel encoder until it has at least as many parameters. "guided": both lean towards the semantic tokens, as the
shipped checkpoints do. soundstorm-pytorch makes 750 frames of four levels at its settings (dim 512, depth 6, 18 steps), without conditions; the
parallel model beside it makes as many frames of as many levels with conditions, as wide, in as many passes, with at least as many parameters.
All in fp32, but as everywhere the parallel model multiplies in bf16 where the processor has matrix units for it (see "protocol"). Least of `--turns`.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from autosing.device import has_matrix_units
from autosing.models.t2s import SIZES
from benchmarks.figures import bar, last_line
from benchmarks.turns import ALLOCATOR, Contestant

SECONDS, STEPS = 30.0, 16
SOUNDSTORM = {"dim": 512, "depth": 6, "frames": 750, "quantizers": 4, "codes": 1024, "steps": 18}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate_parallel", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="tiny", choices=list(SIZES))
    parser.add_argument("--peers-python", help="a Python that has soundstorm-pytorch 0.6.1 and torch of our version")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    seconds = "wall_s" if options.device == "cuda" else "cpu_s"
    common = {"size": options.size, "codec": "builtin", "seconds": SECONDS, "batch": 1, "steps": STEPS, "device": options.device}
    figures: dict[str, Any] = {}
    bars: dict[str, Any] = {}
    more: dict[str, Any] = {}
    for name, guidance in (("plain", 1.0), ("guided", 3.0)):
        ours = {**common, "guidance": guidance}
        steps = Contestant(sys.executable, "benchmarks.sing_step", {**ours, "task": "sm2a"}, options.threads)
        equal = {**ours, "task": "sm2a_parallel", "parameters": steps.about["parameters"]}
        found = take_turns({"sm2a": steps, "sm2a_parallel": Contestant(sys.executable, "benchmarks.sing_step", equal, options.threads)}, options.turns)
        found["times_faster"] = round(found["sm2a"][seconds] / found["sm2a_parallel"][seconds], 2)
        figures[name] = found
        bars[f"{name}_times_faster_than_sm2a"] = bar(found["times_faster"], ">=", 10.0)
        print(f"{name}: {found}", file=sys.stderr, flush=True)
    if options.peers_python:
        beside = {**common, "task": "sm2a_parallel", "heads": 8, "codec": "frames", "seconds": 10.0, "steps": SOUNDSTORM["steps"], "guidance": 1.0}
        peer = Contestant(options.peers_python, "benchmarks.soundstorm_step", {**SOUNDSTORM, "batch": 1, "device": options.device}, options.threads)
        beside["parameters"] = peer.about["parameters"]
        found = take_turns({"soundstorm": peer, "sm2a_parallel": Contestant(sys.executable, "benchmarks.sing_step", beside, options.threads)}, options.turns)
        found["times_faster"] = round(found["soundstorm"][seconds] / found["sm2a_parallel"][seconds], 2)
        figures["soundstorm"] = found
        bars["times_faster_than_soundstorm_pytorch"] = bar(found["times_faster"], ">=", 1.0)
    else:
        more["missing"] = "soundstorm-pytorch's side: give --peers-python, a Python that has soundstorm-pytorch 0.6.1"
        print(more["missing"], file=sys.stderr)
    quick = options.device == "cpu" and has_matrix_units(torch.bfloat16)
    precision = {"sm2a": "fp32", "sm2a_parallel": "bf16 matrices" if quick else "fp32", "soundstorm": "fp32"}
    protocol = {**common, "turns": options.turns, "soundstorm": SOUNDSTORM, "precision": precision, "statistic": "least", "seed": 0, "allocator": ALLOCATOR}
    print(last_line("generate_parallel", options.threads, protocol, figures, bars, **more))


def take_turns(contestants: dict[str, Contestant], turns: int) -> dict[str, Any]:
    """Each does a warm-up, then `turns` steps, one after the other; their figures."""
    for number in range(1 + turns):
        for contestant in contestants.values():
            contestant.step(keep=number > 0)
    return {name: contestant.end() for name, contestant in contestants.items()}


if __name__ == "__main__":
    main()
