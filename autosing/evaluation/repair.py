"""Whether wrong words sung again beat more candidates: `python -m autosing.evaluation repair`.

    python -m autosing.evaluation repair --tokens <token set of rendered test songs> --sm2a-model models/sm2a_parallel/mine/last

Both ways begin with the same candidates of the same windows, and spend one generation of the parallel sm2a after the other:
`best_of` sings one more candidate with each (and one more melody of t2s, which repair does without), `repair` one more round.
Forward passes are counted at the networks, rows of a batch one by one. The embedded recogniser chooses in both; what is reported is
the phone error that the judge hears, which no stage was trained against and which chooses nothing. Intervals are 95 % by bootstrap
over windows. Letters: B candidates, K codec levels, T finest frames, N semantic tokens.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autosing.errors import AutoSingError, ConfigError
from autosing.evaluation.builtin import hash_of
from autosing.evaluation.chain import halves, row_tensors, validation_rows
from autosing.evaluation.figures import bar
from autosing.evaluation.judge import Judge, phone_error_rate
from autosing.evaluation.result import last_line
from autosing.models.io import load_model
from autosing.perception import load_aligner, load_codec
from autosing.singing.codes import check_settings, find_code_singer, sing_codes
from autosing.singing.generate import generate_semantic
from autosing.singing.repair import Version, repair
from autosing.singing.score import Listener
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Line, Lyrics
from autosing.tokens.edits import edit_distance
from autosing.tokens.text import load_text
from autosing.training.task import DatasetMeta


@dataclass
class Passes:
    """Rows that went through each network, and the processor's seconds that each stage took."""

    rows: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - begin

    def count(self, name: str, network: nn.Module) -> None:
        def passed(_: nn.Module, given: tuple[Any, ...]) -> None:
            self.rows[name] = self.rows.get(name, 0) + len(given[0])

        network.register_forward_pre_hook(passed)

    def taken(self) -> dict[str, dict[str, float]]:
        """All so far; counting begins anew."""
        now = {"rows": dict(self.rows), "seconds": dict(self.seconds)}
        self.rows.clear()
        self.seconds.clear()
        return now


@dataclass
class Way:
    """One way to spend generations: after each of them the phones that the judge hears and the phone error by which was chosen, one a
    window; and what each window cost.
    """

    heard: list[list[tuple[str, ...]]]
    chosen_error: list[list[float]]
    cost: list[dict[str, dict[str, float]]] = field(default_factory=list)

    @staticmethod
    def of(generations: int) -> "Way":
        return Way([[] for _ in range(generations)], [[] for _ in range(generations)])

    def add(self, versions: Sequence[Version], judge: Judge) -> None:
        """The versions after each generation; where there are fewer, the last stays."""
        known: dict[int, tuple[str, ...]] = {}
        for generation, phones in enumerate(self.heard):
            version = versions[min(generation, len(versions) - 1)]
            if id(version) not in known:
                known[id(version)] = judge.phones(version.vocals)
            phones.append(known[id(version)])
            self.chosen_error[generation].append(version.take.score.phone_error or 0.0)

    def figures(self, written: Sequence[Sequence[str]]) -> dict[str, Any]:
        sums: dict[str, dict[str, float]] = {"rows": {}, "seconds": {}}
        for cost in self.cost:
            for kind, values in cost.items():
                for name, value in values.items():
                    sums[kind][name] = round(sums[kind].get(name, 0) + value, 2)
        return {
            "phone_error": [phone_error_rate(phones, written).figures() for phones in self.heard],
            "phone_error_by_the_one_that_chose": [round(float(np.mean(errors)), 4) for errors in self.chosen_error],
            "forward_passes": sums["rows"],
            "cpu_seconds": sums["seconds"],
        }


class Bench:
    """All that sings and listens, and what it costs."""

    def __init__(self, sm2a_model: str, meta: DatasetMeta, steps: int | None, temperature: float):
        """
        Raises:
            ConfigError: the sm2a model cannot sing between given codes.
        """
        assert meta.codec
        self.meta, self.steps, self.temperature = meta, steps, temperature
        self.t2s, _ = load_model("builtin", "t2s")
        self.sm2a, _ = load_model(*find_code_singer(sm2a_model))
        check_settings(self.sm2a, steps, repair=1)
        self.codec, self.listener = load_codec(meta.codec.name), Listener(load_aligner("builtin", adapt_steps=0))
        self.pronounce = load_text("phones").pronounce
        self.passes = Passes()
        self.passes.count("t2s_decoder", self.t2s.decoder)
        self.passes.count("sm2a_encoder", self.sm2a.encoder)
        self.passes.count("sm2a_decoder", self.sm2a.decoder)


class Window:
    """A row of a token set, whose own tokens are never sung."""

    def __init__(self, bench: Bench, row: dict[str, Any], seed: int):
        meta = bench.meta
        assert meta.codec and meta.accompaniment_codec and meta.semantic and meta.voice
        specs = (meta.codec, meta.accompaniment_codec, meta.semantic, meta.voice.width)
        codes, self.band, semantic, self.voice = row_tensors(row, *specs)
        self.bench, self.frames, self.tokens = bench, codes.shape[-1], semantic.shape[-1]
        self.text = halves(row, meta.window_seconds)
        self.lyrics = Lyrics(tuple(Line(line) for half in self.text for line in half))
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def written(self) -> tuple[str, ...]:
        return tuple(p for line in self.lyrics.lines for word in line.text.split() for p in self.bench.pronounce(word))

    def melodies(self, count: int) -> Tensor:
        """(count, N)"""
        bench = self.bench
        with bench.passes.stage("t2s"):
            return generate_semantic(
                bench.t2s, self.text, self.band, steps=self.tokens, temperature=bench.temperature, generator=self.generator, batch=count
            )[0]

    def sing(self, melodies: Tensor, template: Tensor | None = None) -> Tensor:
        """(B, N) -> (B, K, T)"""
        bench = self.bench
        with bench.passes.stage("sm2a"):
            return sing_codes(
                bench.sm2a, melodies, self.band, self.voice, frames=self.frames, steps=bench.steps, temperature=bench.temperature,
                generator=self.generator, template=template,
            )  # fmt: skip

    def listen(self, codes: Tensor) -> Version:
        """(K, T) decoded and heard."""
        bench = self.bench
        with bench.passes.stage("decode"):
            vocals = bench.codec.decode(codes[None])[0, 0]
        with bench.passes.stage("listen"):
            return Version(codes, vocals, bench.listener.take(vocals, bench.codec.spec.sample_rate, self.lyrics, bench.pronounce))

    def repaired(self, version: Version, melody: Tensor, rounds: int) -> list[Version]:
        """The version after each round, itself first."""
        versions = [version]
        for _ in range(rounds):
            version, told = repair(
                version, rounds=1, spec=self.bench.codec.spec, pronounce=self.bench.pronounce,
                sing=lambda template: self.sing(melody, template), listen=self.listen,
            )  # fmt: skip
            versions.append(version)
            if not told:
                break
        return versions


def best_of(versions: Sequence[Version]) -> int:
    return min(range(len(versions)), key=lambda i: (versions[i].take.score.badness, i))


@torch.inference_mode()
def repair_figures(
    tokens: Path, sm2a_model: str, windows: int, candidates: int, rounds: int, steps: int | None = None, temperature: float = 0.7,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Phone error by the judge after each generation of both ways.

    Args:
        candidates: both ways begin with the best of so many.
        rounds: generations after that.
        steps: passes of the parallel model in each generation; None = 16.

    Raises:
        ConfigError: the model cannot sing between given codes.
    """
    rows, meta = validation_rows(tokens, windows)
    bench, judge = Bench(sm2a_model, meta, steps, temperature), Judge()
    one_more, mended = Way.of(rounds + 1), Way.of(rounds + 1)
    written: list[tuple[str, ...]] = []
    lines = 0
    for index, row in enumerate(rows):
        window = Window(bench, row, seed * 100_003 + index)
        melodies = window.melodies(candidates)
        first = [window.listen(codes) for codes in window.sing(melodies)]
        begun = bench.passes.taken()
        more = [window.listen(codes) for codes in window.sing(window.melodies(rounds))]
        one_more.cost += [begun, bench.passes.taken()]
        best = best_of(first)
        repaired = window.repaired(first[best], melodies[best : best + 1], rounds)
        mended.cost += [begun, bench.passes.taken()]
        heard = [*first, *more]
        one_more.add([heard[best_of(heard[: candidates + n])] for n in range(rounds + 1)], judge)
        mended.add(repaired, judge)
        written.append(window.written)
        lines += len({word.line for word in Alignment.from_struct(row["alignment"]).words})
        print(f"window {index + 1} of {len(rows)}", file=sys.stderr, flush=True)
    return {
        "windows": len(rows), "lines": lines, "phones": sum(map(len, written)), "candidates": candidates, "rounds": rounds,
        "best_of": one_more.figures(written), "repair": mended.figures(written),
        "gain": paired_gain(one_more.heard[-1], mended.heard[-1], written),
    }  # fmt: skip


def paired_gain(
    one: Sequence[Sequence[str]], other: Sequence[Sequence[str]], written: Sequence[Sequence[str]], seed: int = 0
) -> dict[str, float]:
    """By how much the phone error of `other` is lower than that of `one`, of the same recordings, with its 95 % interval."""
    fewer = np.array([edit_distance(w, a) - edit_distance(w, b) for w, a, b in zip(written, one, other, strict=True)], dtype=float)
    length = np.array([len(w) for w in written], dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(fewer), (1000, len(fewer)))
    low, high = np.quantile(fewer[draws].sum(1) / length[draws].sum(1), [0.025, 0.975])
    return {"value": round(float(fewer.sum() / length.sum()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def main(argv: Sequence[str] | None = None) -> int:
    """0: measured; 2: a mistake in the request."""
    p = argparse.ArgumentParser(prog="python -m autosing.evaluation repair", description="Wrong words sung again against more candidates.")
    p.add_argument("--tokens", type=Path, required=True, help="token set of rendered test songs")
    p.add_argument("--sm2a-model", required=True, help="a checkpoint of sm2a_parallel")
    p.add_argument("--windows", type=int, default=14, help="windows of 30 s, of about five lines each")
    p.add_argument("--candidates", type=int, default=4, help="both ways begin with the best of so many")
    p.add_argument("--rounds", type=int, default=4, help="generations after that: of a round each, or of a candidate each")
    p.add_argument("--steps", type=int, help="passes of a generation (16)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    options = p.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        if min(options.windows, options.candidates, options.rounds) < 1:
            raise ConfigError("--windows, --candidates and --rounds must be 1 or more")
        figures = repair_figures(
            options.tokens, options.sm2a_model, options.windows, options.candidates, options.rounds, options.steps, seed=options.seed,
        )  # fmt: skip
        tokens_hash = hash_of([options.tokens / "dataset.json"])
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    protocol = {"tokens_hash": tokens_hash, "sm2a_model": options.sm2a_model, "seed": options.seed, "steps": options.steps}
    bars = {
        "repair_gain_over_best_of": bar(figures["gain"]["value"], ">=", 0.0),
        "repair_gain_lower_bound": bar(figures["gain"]["low"], ">=", 0.0),
    }
    print(last_line("repair", protocol, figures, bars))
    return 0
