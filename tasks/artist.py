"""Task artist: codec tokens of a voice -> an embedding of who sings.

    python -m tasks.artist data/train artists.json --least 100
    python train.py --task_name artist --task_args '{"artist_file": "artists.json"}' --dataset-config '{"path": "data/train"}'

A row gives a random passage of its voice's codes and its artist. Loss: the next code of every lane, and `class_loss_ratio` times the
cross-entropy over the artists of the file, with label smoothing. Rows of other artists, or shorter than a passage, are passed over.
Letters: B batch, K levels, T finest frames, R lanes, S steps.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from autosing.config import require_at_least, require_dropout, require_fields, require_shares, to_mapping
from autosing.errors import AutoSingError, ConfigError, DataError
from autosing.models.artist import ArtistConfig, ArtistNet
from autosing.models.listening import HEAD_WIDTH
from autosing.store import atomic_path, writing
from autosing.tokens.patterns import load_pattern
from autosing.tokens.specs import CodecSpec
from autosing.training.data import DatasetConfig, open_dataset, read_meta
from autosing.training.task import Batch, DatasetMeta, Losses, ParamRule, Row
from tasks.sequence import MupTunables, check_specs, mup_rules, need, window_codes

LEAST_SAMPLES = 100


@dataclass(frozen=True)
class ArtistArgs:
    """`--task_args`.

    Attributes:
        artist_file: JSON object, artist -> class from 0; `python -m tasks.artist` writes it.
        crop_seconds: length of the passages.
        width: of the embedding.
    """

    artist_file: str = ""
    crop_seconds: float = 10.0
    depth: int = 8
    heads: int = 12
    width: int = 256
    pattern: str = "bricks"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_fields(self, "above 0", lambda seconds: seconds > 0, "crop_seconds")
        require_at_least(self, 1, "depth", "heads", "width")
        require_dropout(self, "dropout")


@dataclass(frozen=True)
class ArtistTunables(MupTunables):
    """
    Attributes:
        class_loss_ratio: weight of the artists' loss beside that of the next codes.
        label_smoothing: of the artists' loss.
    """

    lr0: float = 1e-3
    warmup_steps: int = 500
    class_loss_ratio: float = 0.3
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "label_smoothing")
        require_at_least(self, 0, "class_loss_ratio")


def read_artists(path: str) -> dict[str, int]:
    """
    Raises:
        ConfigError: no file is named.
        DataError: it cannot be read, or its classes are not 0, 1, 2, ...
    """
    if not path:
        raise ConfigError("task artist needs --task-args '{\"artist_file\": ...}'; make one: python -m tasks.artist DATASET artists.json")
    try:
        artists = json.loads(Path(path).read_text(encoding="utf-8"))
        classes = sorted(artists.values())
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"the artist file '{path}' cannot be read ({error}); make one: python -m tasks.artist DATASET '{path}'") from error
    if classes != list(range(len(classes))) or len(classes) < 2:
        raise DataError(f"the artist file '{path}' must name two artists or more with classes 0, 1, 2, ...; make it again: python -m tasks.artist")
    return artists


class TASK:
    """See the module docstring; the Protocol is `autosing.training.task.Task`."""

    name: ClassVar[str] = "artist"
    Args: ClassVar[type] = ArtistArgs
    Tunables: ClassVar[type] = ArtistTunables
    parts = ("main",)
    columns = ("id", "atoks", "artist")

    def __init__(self, args: ArtistArgs, tunables: ArtistTunables, meta: DatasetMeta):
        """
        Raises:
            DataError: the dataset does not tell its codec. ConfigError: 'crop_seconds' is shorter than a block of codes.
        """
        need(meta, self.name, "codec")
        assert meta.codec is not None
        self.args, self.tunables, self.meta, self.codec = args, tunables, meta, meta.codec
        self.frames = self.codec.frames(min(args.crop_seconds, meta.window_seconds))
        self.block = load_pattern(args.pattern, self.codec.strides).block
        if not self.frames:
            raise ConfigError(f"--task-args: 'crop_seconds' {args.crop_seconds:g} is shorter than a block of codes; take a few seconds")

    @cached_property
    def artists(self) -> dict[str, int]:
        return read_artists(self.args.artist_file)

    def example(self, row: Row, rng: np.random.Generator) -> Batch | None:
        """-> codes (K, T), artist () int64"""
        artist = self.artists.get(row["artist"])
        size = np.asarray(row["atoks"]).size
        if artist is None or size == 0:
            return None
        codes = window_codes(row["atoks"], self.codec, size // self.codec.levels, f"row '{row.get('id', '?')}'")
        room = codes.shape[1] - self.frames
        if room < 0:
            return None
        first = int(rng.integers(0, room // self.block + 1)) * self.block
        passage = np.ascontiguousarray(codes[:, first : first + self.frames])
        return {"codes": torch.from_numpy(passage), "artist": torch.tensor(artist)}

    def build_model(self) -> nn.Module:
        a = self.args
        return ArtistNet(ArtistConfig(a.heads, a.depth, self.codec, len(self.artists), a.pattern, a.width, a.dropout, self.tunables.mup))

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        assert isinstance(model, ArtistNet)
        grid = model.pattern.apply(batch["codes"], self.codec)
        states = model.states(grid)
        scores = model.artist(model.embedding(states)).float()
        smoothing = self.tunables.label_smoothing if model.training else 0.0
        artist_loss = F.cross_entropy(scores, batch["artist"], label_smoothing=smoothing)
        lanes = []
        for lane in range(grid.shape[1]):
            target = grid[:, lane, 1:]
            live = target != CodecSpec.HOLE
            lanes.append(F.cross_entropy(model.codes_embedding.logits(states[:, :-1][live], lane).float(), target[live]))
        next_loss = torch.stack(lanes).mean()
        return Losses(
            next_loss + self.tunables.class_loss_ratio * artist_loss,
            {"artist": artist_loss.detach(), "next": next_loss.detach()},
            {"artist_accuracy": (scores.argmax(-1) == batch["artist"]).float().mean()},
        )

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        return mup_rules(self.args.heads * HEAD_WIDTH, self.tunables)

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"task": self.name, "args": to_mapping(self.args), "dataset": self.meta.to_json()}

    def check_loaded(self, meta: dict[str, Any], where: str) -> None:
        """Refuse weights trained with another codec than this dataset.

        Raises:
            MismatchError: names both.
        """
        check_specs(meta, where, self.meta, ("codec",))


class _Names(TASK):
    """The task's rows without their codes."""

    columns = ("id", "artist")


def collect_artists(dataset: str, least: int) -> dict[str, int]:
    """The artists with at least `least` rows among those that are trained on, in alphabetical order.

    Raises:
        DataError: no dataset there, or fewer than two artists are left.
    """
    config = DatasetConfig(path=dataset)
    meta = read_meta(config)
    rows = open_dataset(_Names(ArtistArgs(), ArtistTunables(), meta), config, meta).train
    counts = Counter(row["artist"] for row in rows if row["artist"])
    often = sorted(artist for artist, count in counts.items() if count >= least)
    if len(often) < 2:
        raise DataError(f"'{dataset}' has {len(often)} artists with at least {least} rows, of {len(counts)}; two are needed, lower --least")
    return {artist: number for number, artist in enumerate(often)}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the artist file of a dataset; the exit code: 0 done, 2 a mistake in the request."""
    parser = argparse.ArgumentParser(prog="python -m tasks.artist", description="List the artists of a dataset for --task_name artist.")
    parser.add_argument("dataset", help="folder written by construct_dataset.py")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--least", type=int, default=LEAST_SAMPLES, help=f"rows an artist must have ({LEAST_SAMPLES})")
    options = parser.parse_args(argv)
    try:
        artists = collect_artists(options.dataset, options.least)
        with writing(options.out), atomic_path(options.out) as path:
            path.write_text(json.dumps(artists, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(artists)} artists -> {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
