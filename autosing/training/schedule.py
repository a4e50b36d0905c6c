"""Learning-rate schedules as pure functions of the position in a run; nothing here holds state.

A factor multiplies `lr0`. It climbs linearly over the warm-up, then follows one row of `DECAYS`. Positions are optimiser steps counted
from 0; they may be fractional, because a run bounded by the clock (`--minutes`) moves through its schedule by time.
"""

import math
from collections.abc import Callable

from autosing.config import nearest
from autosing.errors import ConfigError

FINAL = 1 / 25  # cosine and linear end here
WSD_FINAL = 1 / 8  # wsd ends here
WSD_DROP = 0.1  # the last share of a wsd run, in which the rate drops
MAX_WARMUP = 0.1  # a warm-up takes at most this share of a run
CLOCK_STEPS = 10_000  # nominal steps of a run that only the clock bounds


def _cosine(share: float) -> float:
    return FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * share))


def _linear(share: float) -> float:
    return 1 - (1 - FINAL) * share


def _wsd(share: float) -> float:
    return 1 - (1 - WSD_FINAL) * max(0.0, (share - (1 - WSD_DROP)) / WSD_DROP)


def _const(share: float) -> float:
    return 1.0


DECAYS: dict[str, Callable[[float], float]] = {"cosine": _cosine, "linear": _linear, "wsd": _wsd, "const": _const}


def warmup_steps(wanted: int, total: float) -> int:
    """Warm-up of a run of `total` steps: what is wanted, at most a tenth of the run."""
    return max(0, min(wanted, int(total * MAX_WARMUP)))


def lr_factor(schedule: str, position: float, total: float, warmup: int) -> float:
    """Factor on `lr0` for the update at `position` (0-based) of `total` steps.

    Args:
        schedule: a row of `DECAYS`.
        position: steps done before this update; fractional when time drives the run.
        warmup: steps of the linear climb; update number `warmup` is the first at the full rate.

    Returns:
        A value in (0, 1]; the last update of a cosine or linear run has `FINAL`, of a wsd run `WSD_FINAL`.

    Raises:
        ConfigError: no such schedule.
    """
    if schedule not in DECAYS:
        raise ConfigError(f"no learning-rate schedule is called '{schedule}'{nearest(schedule, DECAYS)}")
    if position < warmup:
        return min(1.0, (position + 1) / warmup)
    share = (position - warmup) / max(1.0, total - 1 - warmup)
    return DECAYS[schedule](min(1.0, share))
