"""Faults of a sung sample that have nothing to do with how well it is sung: it gets stuck, drops out, or stays mute.

- stuck: one semantic token of a sung sound for longer than anyone holds a note (`STUCK_SECONDS`);
- drop-out: the tokens ask for singing and nothing sounds (`QUIET_DB` below the sample's loud parts) for `DROPOUT_SECONDS` or longer;
- mute: there are words to sing, and an independent recogniser hears no phone.
Letters: N semantic tokens, n samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autosing.song.runs import runs_of
from autosing.tokens.specs import Seconds

STUCK_SECONDS: Seconds = 5.0
DROPOUT_SECONDS: Seconds = 0.5
QUIET_DB = 50.0


@dataclass(frozen=True)
class Soundness:
    """Of one sample. `held_seconds`: the longest that one token of a sung sound lasts; `dropouts`: how many."""

    held_seconds: Seconds
    dropouts: int
    mute: bool

    @property
    def stuck(self) -> bool:
        return self.held_seconds > STUCK_SECONDS

    @property
    def faulty(self) -> bool:
        return self.stuck or self.mute or self.dropouts > 0


def examine(tokens: Tensor, sung: Tensor, token_rate: float, vocals: Tensor, sample_rate: int, heard: Sequence[str]) -> Soundness:
    """
    Args:
        tokens: (N,) semantic tokens.
        sung: (N,) bool, which of them mean singing.
        vocals: (n,) what became of them.
        heard: phones that are heard in it.
    """
    runs = runs_of((tokens + 1) * sung)  # 0 = no singing
    held = max((last - first for first, last, value in runs if value), default=0) / token_rate
    quiet = quiet_tokens(vocals, len(tokens), token_rate, sample_rate)
    missing = runs_of((sung & quiet).long())
    dropouts = sum(bool(value) and (last - first) / token_rate >= DROPOUT_SECONDS for first, last, value in missing)
    return Soundness(held, dropouts, not heard)


def quiet_tokens(vocals: Tensor, tokens: int, token_rate: float, sample_rate: int) -> Tensor:
    """(tokens,) bool: that token's stretch of the (n,) vocals is `QUIET_DB` or more below the loudest tenth of all."""
    size = round(sample_rate / token_rate)
    padded = torch.nn.functional.pad(vocals, (0, max(0, tokens * size - len(vocals))))[: tokens * size]
    power = padded.reshape(tokens, size).square().mean(1)
    if not tokens or float(power.max()) == 0:
        return torch.ones(tokens, dtype=torch.bool)
    return power <= torch.quantile(power, 0.9) * 10 ** (-QUIET_DB / 10)


def summary(samples: Sequence[Soundness]) -> dict[str, Any]:
    """How many samples have which fault."""
    return {
        "samples": len(samples),
        "faulty": sum(sample.faulty for sample in samples),
        "stuck": sum(sample.stuck for sample in samples),
        "with_dropouts": sum(sample.dropouts > 0 for sample in samples),
        "mute": sum(sample.mute for sample in samples),
        "longest_held_seconds": round(max((sample.held_seconds for sample in samples), default=0.0), 2),
    }
