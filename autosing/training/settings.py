"""How a run trains: its bounds, batches, precision, when it validates, saves and logs; the values of the flags, checked.

Nothing here holds state or knows a task, a dataset or an optimiser; what is tuned about the latter are a task's `Tunables` (`task.py`).
What each setting does is done elsewhere, mostly in `loop.py`.
"""

import math
from dataclasses import dataclass

import torch

from autosing.config import nearest
from autosing.errors import ConfigError
from autosing.training import sharding
from autosing.training.schedule import lr_factor

PRECISIONS: dict[str, torch.dtype | None] = {"32": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16, "bf16": torch.bfloat16}
"""What matrices are multiplied in. With "bf16" the parameters, their gradients and the optimiser's state are kept in it too."""


@dataclass(frozen=True)
class Settings:
    """How a run trains. Those that change its result are listed in `IDENTITY` and may not change when it is resumed.

    Attributes:
        batch_size: rows of a micro-batch over all ranks.
        epochs, steps, minutes: bounds; `steps` overrides `epochs`, `minutes` alone bounds by the clock, together the first one ends the run.
        accumulate: micro-batches an optimiser step.
        clip_gradient_norm: None = the task's tunable; 0 = no clipping.
        skip_gradient_spikes: pass over an update whose gradient norm is a spike (`spikes.py`), instead of only logging it.
        precision: None = 32 on the CPU and MPS, 16-mixed on CUDA. "bf16" halves weights, gradients and optimiser state; updates below a
            256th of a weight are lost to rounding, except in the moving average, which stays in float32.
        ema: decay of the moving average of weights that is validated and saved; 0 = none.
        samples: this many validation rows are sung at every validation, where the task can.
        monitored_metric, monitored_mode: which validation value decides `best`, "min" or "max".
        save_every: steps between saves of state and `last`; None = at every validation.
        keep_last, keep_best: this many numbered checkpoints `step-<n>` are kept beside `last`: the newest saved ones, and the best validated.
        deterministic: torch uses algorithms that repeat to the bit alone; the caller runs inside `deterministic_algorithms`.
        strategy: what several ranks do with the weights: "ddp" each holds all, "fsdp" they share them out. Either goes on from the other.
    """

    batch_size: int = 16
    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    lr_schedule: str = "cosine"
    accumulate: int = 1
    clip_gradient_norm: float | None = None
    skip_gradient_spikes: bool = False
    precision: str | None = None
    ema: float = 0.0
    validate_every: int = 500
    validation_rows: int = 256
    samples: int = 0
    save_every: int | None = None
    log_every: int = 10
    monitored_metric: str = "val_loss"
    monitored_mode: str = "min"
    keep_last: int = 0
    keep_best: int = 0
    workers: int = 4
    torch_compile: bool = False
    deterministic: bool = False
    strategy: str = "ddp"

    IDENTITY = ("batch_size", "epochs", "steps", "minutes", "seed", "lr_schedule", "accumulate", "clip_gradient_norm", "precision", "ema")
    DEFAULT_EPOCHS = 5.0

    def __post_init__(self) -> None:
        checks = {
            "batch_size": self.batch_size >= 1,
            "epochs": self.epochs is None or 0 < self.epochs < math.inf,
            "steps": self.steps is None or self.steps >= 1,
            "minutes": self.minutes is None or 0 < self.minutes < math.inf,
            "seed": 0 <= self.seed < 1 << 63,
            "clip_gradient_norm": self.clip_gradient_norm is None or 0 <= self.clip_gradient_norm < math.inf,
            "accumulate": self.accumulate >= 1,
            "ema": 0 <= self.ema < 1,
            "validate_every": self.validate_every >= 1,
            "validation_rows": self.validation_rows >= 0,
            "log_every": self.log_every >= 1,
            "monitored_mode": self.monitored_mode in ("min", "max"),
            "samples": self.samples >= 0,
            "save_every": self.save_every is None or self.save_every >= 1,
            "keep_last": self.keep_last >= 0,
            "keep_best": self.keep_best >= 0,
            "workers": self.workers >= 0,
        }
        for name, ok in checks.items():
            if not ok:
                raise ConfigError(f"--{name.replace('_', '-')} cannot be {getattr(self, name)!r}; see train.py --help")
        if self.deterministic and self.minutes is not None:
            raise ConfigError("--deterministic: a run bounded by --minutes follows the clock and cannot be repeated; give --steps or --epochs")
        lr_factor(self.lr_schedule, 0, 1, 0)
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ConfigError(f"--precision has no choice '{self.precision}'{nearest(self.precision, PRECISIONS)}")
        if self.strategy not in sharding.STRATEGIES:
            raise ConfigError(f"--strategy has no choice '{self.strategy}'{nearest(self.strategy, sharding.STRATEGIES)}")

    def precision_on(self, device: torch.device) -> str:
        """The row of `PRECISIONS` that a run on `device` trains in."""
        return self.precision or ("16-mixed" if device.type == "cuda" else "32")

    def total_steps(self, rows: int) -> int | None:
        """Optimiser steps of the run; None when only the clock bounds it."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None and self.minutes is not None:
            return None
        return max(1, math.ceil((self.epochs or self.DEFAULT_EPOCHS) * rows / (self.batch_size * self.accumulate)))
