"""Windows of a token set, sung by the models and heard as `sing.py` does, with what it costs: what `chain` and `repair` measure.

Letters: B candidates, K codec levels, T finest frames, N semantic tokens.
"""

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from autosing.errors import DataError
from autosing.models.io import load_model
from autosing.perception import load_aligner, load_codec
from autosing.singing.codes import check_settings, find_code_singer, sing_codes
from autosing.singing.generate import generate_semantic
from autosing.singing.reading import Reader
from autosing.singing.repair import Version, repair
from autosing.singing.request import SingRequest
from autosing.singing.score import Listener
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Line, Lyrics
from autosing.tokens.specs import CodecSpec
from autosing.tokens.text import load_text
from autosing.training.task import DatasetMeta

LEAST_PHONES = 20


def validation_rows(tokens: Path, count: int) -> tuple[list[dict[str, Any]], DatasetMeta]:
    """`count` validation windows of a token set that hold at least `LEAST_PHONES` sung phones.

    In order of songs; a song's second window comes after every song's first.

    Raises:
        DataError: no token set there.
    """
    try:
        values = json.loads((tokens / "dataset.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"no token set at '{tokens}'; make one with `python -m autosing.rendering tokens`") from error
    songs: dict[str, list[dict[str, Any]]] = {}
    for partition in values["partitions"]["validation"]:
        for row in pq.read_table(tokens / str(partition) / "main.parquet").to_pylist():
            if len(row["alignment"]["tokens"]) >= LEAST_PHONES:
                songs.setdefault(row["song"], []).append(row)
    turns = itertools.zip_longest(*songs.values())
    rows = [row for turn in turns for row in turn if row is not None][:count]
    return rows, DatasetMeta.from_json({**values, "rows": values["rows"]["train"]})


def halves(row: dict[str, Any], seconds: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The window's words, by the half in which they begin."""
    alignment = Alignment.from_struct(row["alignment"])
    first = tuple(w.text for w in alignment.words if w.start < seconds / 2)
    second = tuple(w.text for w in alignment.words if w.start >= seconds / 2)
    return (" ".join(first),) if first else (), (" ".join(second),) if second else ()


def row_tensors(
    row: dict[str, Any], codec: CodecSpec, band: CodecSpec, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A training row as (1, K, T) codes, (1, K, T) accompaniment codes, (1, N) semantic tokens and (1, W, D) voice."""
    codes = torch.tensor(row["atoks"], dtype=torch.int64).reshape(1, codec.levels, -1)
    band_codes = torch.tensor(row["mtoks"], dtype=torch.int64).reshape(1, band.levels, -1)
    return codes, band_codes, torch.tensor(row["stoks"])[None], torch.tensor(row["embs"]).reshape(1, -1, width)


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


class Bench:
    """All that sings and listens, and what it costs."""

    temperature = SingRequest.temperature

    def __init__(self, sm2a_model: str, meta: DatasetMeta, rounds: int | None, steps: int | None = None):
        """
        Args:
            meta: of the token set.
            rounds: of repair; None = as many as are usual for the sm2a model.
            steps: passes of a parallel sm2a model; None = as many as usual.

        Raises:
            ConfigError: the sm2a model has no passes, or cannot sing between given codes.
        """
        assert meta.codec and meta.semantic
        self.meta, self.steps = meta, steps
        self.t2s, _ = load_model("builtin", "t2s")
        self.sm2a, _ = load_model(*find_code_singer(sm2a_model))
        self.rounds = check_settings(self.sm2a, steps, rounds)
        self.codec, self.listener = load_codec(meta.codec.name), Listener(load_aligner("builtin", adapt_steps=0))
        self.pronounce = load_text("phones").pronounce
        self.reader = Reader.of(self.t2s, meta.semantic.name)
        self.passes = Passes()
        self.passes.count("t2s_decoder", self.t2s.decoder)
        self.passes.count("sm2a_encoder", self.sm2a.encoder)
        self.passes.count("sm2a_decoder", self.sm2a.decoder)


class Window:
    """A row of a token set, whose own (1, K, T) `codes` and (1, N) `semantic` tokens no model is shown; `band` and `voice` are as in training."""

    def __init__(self, bench: Bench, row: dict[str, Any], seed: int):
        meta = bench.meta
        assert meta.codec and meta.accompaniment_codec and meta.semantic and meta.voice
        self.codes, self.band, self.semantic, self.voice = row_tensors(row, meta.codec, meta.accompaniment_codec, meta.voice.width)
        self.bench, self.frames, self.tokens = bench, self.codes.shape[-1], self.semantic.shape[-1]
        self.text = halves(row, meta.window_seconds)
        self.lyrics = Lyrics(tuple(Line(line) for half in self.text for line in half))
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def written(self) -> tuple[str, ...]:
        return tuple(p for line in self.lyrics.lines for word in line.text.split() for p in self.bench.pronounce(word))

    def melodies(self, count: int) -> Tensor:
        """(count, N), what so many candidates sing."""
        bench = self.bench
        with bench.passes.stage("t2s"):
            return generate_semantic(
                bench.t2s, self.text, self.band, steps=self.tokens, temperature=bench.temperature, generator=self.generator, batch=count,
                reader=bench.reader,
            )[0]  # fmt: skip

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

    def repaired(self, version: Version, melody: Tensor, ways: int, rounds: int) -> list[Version]:
        """The version after each round, itself first; (N,) `melody` is what it sings."""
        versions = [version]
        for _ in range(rounds):
            version, told = repair(
                version, rounds=1, spec=self.bench.codec.spec, pronounce=self.bench.pronounce,
                sing=lambda template: self.sing(melody.expand(ways, -1), template), listen=lambda several: [self.listen(codes) for codes in several],
            )  # fmt: skip
            versions.append(version)
            if not told:
                break
        return versions


def best_of(versions: Sequence[Version]) -> int:
    return min(range(len(versions)), key=lambda i: (versions[i].take.score.badness, i))
