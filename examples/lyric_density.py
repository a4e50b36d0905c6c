"""Your own task: how many words a second would a singer put over this instrumental? Accompaniment codes in, one number out.

    python train.py --task-name examples/lyric_density.py --dataset-config '{"path": "data/tokens"}' --epochs 20
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autosing.training.task import Batch, DatasetMeta, Losses, OptimTunables, ParamRule, Row


@dataclass(frozen=True)
class Args:
    width: int = 64


@dataclass(frozen=True)
class Config:
    codes: int = 1024
    args: Args = field(default_factory=Args)


class Density(nn.Module):
    """(B, S) coarsest accompaniment codes -> (B,) words a second: an embedding of each code, and of its change, averaged."""

    kind: ClassVar[str] = "lyric_density"
    Config = Config

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.codes, config.args.width)
        self.out = nn.Sequential(nn.LayerNorm(2 * config.args.width), nn.Linear(2 * config.args.width, 32), nn.GELU(), nn.Linear(32, 1))

    def forward(self, codes: Tensor) -> Tensor:
        heard = self.embedding(codes)
        return self.out(torch.cat([heard.mean(1), heard.diff(dim=1).abs().mean(1)], -1))[:, 0].exp()


class TASK:
    name: ClassVar[str] = "lyric_density"
    Args, Tunables = Args, OptimTunables
    parts, columns = ("main",), ("id", "mtoks", "alignment")  # the tables and columns that rows are read from

    def __init__(self, args: Args, tunables: OptimTunables, meta: DatasetMeta):
        self.args, self.meta, self.spec = args, meta, meta.accompaniment_codec

    def example(self, row: Row, rng: np.random.Generator) -> Batch | None:
        grid = np.asarray(row["mtoks"]).reshape(self.spec.levels, -1)[0, :: self.spec.strides[0]]
        codes = np.resize(grid, self.spec.frames(self.meta.window_seconds) // self.spec.strides[0])
        words = len(row["alignment"]["words"]) if row["alignment"] else 0  # a song may have no lyrics
        return {"codes": torch.from_numpy(codes.astype(np.int64)), "density": torch.tensor(words / self.meta.window_seconds)} if words else None

    def build_model(self) -> nn.Module:
        return Density(Config(self.spec.num_codes, self.args))

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        off = model(batch["codes"]) - batch["density"]
        return Losses(off.square().mean(), {}, {"off_by_words_a_second": off.abs().mean()})

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        return [ParamRule("embedding", decay=False)]

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"task": self.name, "args": {"width": self.args.width}, "dataset": self.meta.to_json()}
