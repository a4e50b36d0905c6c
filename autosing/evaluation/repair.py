"""Whether wrong words sung again beat more candidates: `python -m autosing.evaluation repair`.

    python -m autosing.evaluation repair --tokens <token set of rendered test songs> --sm2a-model models/sm2a_parallel/mine/last

Both begin with the best of the same candidates of the same windows. `best_of` goes on with more candidates, of new melodies of t2s; `repair`
with rounds, which do without and sing the wrong words in as many ways as there were candidates. The embedded recogniser chooses in both; what is
reported is the phone error that the judge hears, which no stage was trained against and which chooses nothing. Forward passes are counted at the
networks, rows of a batch one by one. The gain is told twice: for as many passes of sm2a, and for as many rounds as take no
more of the processor's time than all of the candidates. Intervals are 95 % by bootstrap over windows.
Letters: B candidates, K codec levels, T finest frames, N semantic tokens.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from autosing.errors import AutoSingError, ConfigError
from autosing.evaluation.figures import bar
from autosing.evaluation.judge import Judge, added_error, phone_error_rate
from autosing.evaluation.result import hash_of, last_line
from autosing.evaluation.windows import Bench, Window, best_of, validation_rows
from autosing.singing.repair import Version
from autosing.singing.request import SingRequest
from autosing.song.alignment import Alignment


@dataclass
class Way:
    """One way to go on: after each of its turns the phones that the judge hears and the phone error by which was chosen, one a window; and
    what the turns of each window cost.
    """

    heard: list[list[tuple[str, ...]]]
    chosen_error: list[list[float]]
    cost: list[dict[str, dict[str, float]]] = field(default_factory=list)

    @staticmethod
    def of(turns: int) -> "Way":
        """Before any and after each of so many turns."""
        return Way([[] for _ in range(turns + 1)], [[] for _ in range(turns + 1)])

    @property
    def seconds_a_turn(self) -> float:
        return sum(sum(cost["seconds"].values()) for cost in self.cost) / (len(self.heard) - 1)

    def add(self, versions: Sequence[Version], judge: Judge) -> None:
        """The versions before the first turn and after each; where there are fewer, the last stays."""
        known: dict[int, tuple[str, ...]] = {}
        for turn, phones in enumerate(self.heard):
            version = versions[min(turn, len(versions) - 1)]
            if id(version) not in known:
                known[id(version)] = judge.phones(version.vocals)
            phones.append(known[id(version)])
            self.chosen_error[turn].append(version.take.score.phone_error or 0.0)

    def figures(self, written: Sequence[Sequence[str]]) -> dict[str, Any]:
        sums: dict[str, dict[str, float]] = {"rows": {}, "seconds": {}}
        for cost in self.cost:
            for kind, values in cost.items():
                for name, value in values.items():
                    sums[kind][name] = round(sums[kind].get(name, 0) + value, 2)
        return {
            "phone_error": [phone_error_rate(phones, written).figures() for phones in self.heard],
            "phone_error_by_the_one_that_chose": [round(sum(errors) / len(errors), 4) for errors in self.chosen_error],
            "forward_passes": sums["rows"],
            "cpu_seconds": sums["seconds"],
        }


@torch.inference_mode()
def repair_figures(
    tokens: Path, sm2a_model: str, windows: int, candidates: int, more: int, rounds: int, steps: int | None, seed: int
) -> dict[str, Any]:  # fmt: skip
    """Phone error by the judge after each turn of both ways.

    Args:
        candidates: both begin with the best of so many, and a round sings in as many ways.
        more: candidates after that, no fewer.
        rounds: of repair after that.
        steps: passes of the parallel model for a candidate or a round; None = 16.

    Raises:
        ConfigError: the model cannot sing between given codes.
    """
    rows, meta = validation_rows(tokens, windows)
    bench, judge = Bench(sm2a_model, meta, rounds, steps), Judge()
    one_more, mended = Way.of(more), Way.of(rounds)
    written: list[tuple[str, ...]] = []
    lines = 0
    for index, row in enumerate(rows):
        window = Window(bench, row, seed * 100_003 + index)
        melodies = window.melodies(candidates)
        heard = [window.listen(codes) for codes in window.sing(melodies)]
        best = best_of(heard)
        bench.passes.taken()
        repaired = window.repaired(heard[best], melodies[best], candidates, rounds)
        mended.cost.append(bench.passes.taken())
        heard += [window.listen(codes) for codes in window.sing(window.melodies(more))]
        one_more.cost.append(bench.passes.taken())
        one_more.add([heard[best_of(heard[: candidates + n])] for n in range(more + 1)], judge)
        mended.add(repaired, judge)
        written.append(window.written)
        lines += len({word.line for word in Alignment.from_struct(row["alignment"]).words})
        print(f"window {index + 1} of {len(rows)}", file=sys.stderr, flush=True)
    affordable = min(rounds, int(more * one_more.seconds_a_turn / mended.seconds_a_turn))
    same = min(more // candidates, rounds)  # rounds, each of which is `candidates` passes

    def gain(candidates: int, rounds: int) -> dict[str, float]:
        return added_error(mended.heard[rounds], one_more.heard[candidates], written).figures()

    return {
        "windows": len(rows), "lines": lines, "phones": sum(map(len, written)), "candidates": candidates, "best_of": one_more.figures(written),
        "repair": mended.figures(written),
        "gain_at_equal_sm2a_passes": {"candidates": same * candidates, "rounds": same, **gain(same * candidates, same)},
        "gain_at_equal_cpu": {"candidates": more, "rounds": affordable, **gain(more, affordable)},
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """0: measured; 2: a mistake in the request."""
    p = argparse.ArgumentParser(prog="python -m autosing.evaluation repair", description="Wrong words sung again against more candidates.")
    p.add_argument("--tokens", type=Path, required=True, help="token set of rendered test songs")
    p.add_argument("--sm2a-model", required=True, help="a checkpoint of sm2a_parallel")
    p.add_argument("--windows", type=int, default=10, help="windows of 30 s, of about eight lines each")
    p.add_argument("--candidates", type=int, default=SingRequest.candidates, help="both begin with the best of so many; a round sings in as many ways")
    p.add_argument("--more", type=int, default=8, help="candidates after that, of the one way")
    p.add_argument("--rounds", type=int, default=4, help="rounds after that, of the other")
    p.add_argument("--steps", type=int, help="passes of a candidate or a round (16)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    options = p.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        if min(options.windows, options.candidates, options.more, options.rounds) < 1 or options.more < options.candidates:
            raise ConfigError("--windows, --candidates, --more and --rounds must be 1 or more, and --more no less than --candidates")
        figures = repair_figures(
            options.tokens, options.sm2a_model, options.windows, options.candidates, options.more, options.rounds, options.steps,
            options.seed,
        )  # fmt: skip
        tokens_hash = hash_of([options.tokens / "dataset.json"])
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    protocol = {"tokens_hash": tokens_hash, "sm2a_model": options.sm2a_model, "seed": options.seed, "steps": options.steps}
    bars = {
        f"repair_{name}": bar(figures[name]["value"], ">=", 0.0) for name in ("gain_at_equal_sm2a_passes", "gain_at_equal_cpu")
    }
    print(last_line("repair", protocol, figures, bars))
    return 0
