"""A task small enough to train in a test: a two-layer regression on rendered-song-like rows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from autosing.errors import DataError
from autosing.nn.mup import Mup
from autosing.training.task import Batch, DatasetMeta, Losses, OptimTunables, ParamRule, Row


@dataclass(frozen=True)
class ToyArgs:
    """`unfit`, `poison`, `broken`: numbers of rows that are unfit, give NaN, or cannot be read; `span` changes nothing."""

    width: int = 4
    noise: float = 0.01
    unfit: tuple[int, ...] = ()
    poison: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    multiscale: bool = False
    span: int = 0


@dataclass(frozen=True)
class ToyTunables(OptimTunables):
    lr0: float = 1e-2
    init_std: float = 0.5
    output_mult: float = 5.6


@dataclass(frozen=True)
class ToyConfig:
    width: int = 4
    span: int = 0
    mup: Mup = field(default_factory=Mup)


class Toy(nn.Module):
    kind: ClassVar[str] = "toy"
    Config = ToyConfig

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.config = config
        self.hidden = nn.Linear(3, config.width)
        self.drop = nn.Dropout(0.1)
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, 1)
        self.frozen = nn.Parameter(torch.ones(1))
        self.register_buffer("codebook", torch.ones(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.norm(torch.tanh(self.hidden(x))))) * self.frozen


class ToyTask:
    name: ClassVar[str] = "toy"
    Args: ClassVar[type] = ToyArgs
    Tunables: ClassVar[type] = ToyTunables
    parts: tuple[str, ...] = ("songs",)
    columns: tuple[str, ...] = ("number", "x")

    def __init__(self, args: ToyArgs, tunables: ToyTunables, meta: DatasetMeta):
        self.args, self.tunables, self.meta = args, tunables, meta

    def example(self, row: Row, rng: np.random.Generator) -> Batch | None:
        number = int(row["number"])
        if number in self.args.unfit:
            return None
        if number in self.args.broken:
            raise DataError("its audio is cut short")
        x = torch.from_numpy(np.asarray(row["x"], dtype=np.float32))
        y = x.sum().reshape(1) + float(rng.normal(0, self.args.noise))
        return {"x": x, "y": y * float("nan") if number in self.args.poison else y, "number": torch.tensor(number)}

    def build_model(self) -> nn.Module:
        return Toy(ToyConfig(self.args.width, self.args.span, Mup(output_mult=self.tunables.output_mult)))

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        error = model(batch["x"]) - batch["y"]
        total = error.square().mean()
        return Losses(total, {"square": total}, {"absolute": error.abs().mean()})

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        return [ParamRule("^frozen", frozen=True), ParamRule("norm|bias", decay=False), ParamRule("hidden", lr_scale=0.5)]

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"args": {"width": self.args.width}, "codec": {"name": "builtin", "hop": 256}}


TASK = ToyTask


def write_songs(folder: Path, rows: int = 37, partitions: int = 3, row_group: int = 4) -> Path:
    """A dataset of songs: `number`, `x` (3 values), a wide column no task reads."""
    rng = np.random.default_rng(0)
    for i, numbers in enumerate(np.array_split(np.arange(rows), partitions)):
        table = pa.table(
            {
                "id": [f"song{n}" for n in numbers],
                "number": numbers,
                "x": pa.array([rng.normal(size=3).astype(np.float32) for _ in numbers], pa.list_(pa.float32())),
                "vocals": [b"wav" * 100 for _ in numbers],
            }
        )
        (folder / str(i)).mkdir(parents=True)
        pq.write_table(table, folder / str(i) / "songs.parquet", row_group_size=row_group, compression="none")
    return folder
