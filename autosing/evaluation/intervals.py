"""95 % intervals by bootstrap: how far a figure would move had other songs been drawn.

What is drawn again is the song, recording or window that a figure is a mean over, never the frame or word, which come in songs. Seeded, so
that the same values give the same interval. No model is imported here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

DRAWS = 1000
Interval = tuple[float, float]


def draws(count: int) -> np.ndarray:
    """(DRAWS, count) indices, each row `count` of `count` with repetition."""
    return np.random.default_rng(0).integers(0, count, (DRAWS, count))


def spread(values: np.ndarray) -> Interval:
    """The middle 95 % of bootstrapped figures; what could not be reckoned in a draw (NaN) is left out."""
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def of_mean(values: Sequence[float] | np.ndarray) -> Interval:
    """Of the mean of (M,) values."""
    values = np.asarray(values, dtype=np.float64)
    return spread(values[draws(len(values))].mean(1))


def of_rate(parts: Sequence[float] | np.ndarray, wholes: Sequence[float] | np.ndarray) -> Interval:
    """Of sum(parts) / sum(wholes): a rate counted over all recordings together."""
    parts, wholes = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    drawn = draws(len(parts))
    return spread(parts[drawn].sum(1) / np.maximum(1e-9, wholes[drawn].sum(1)))


def of_statistic(count: int, statistic: Callable[[np.ndarray], float]) -> Interval:
    """Of anything reckoned from (M,) indices of recordings, of which there are `count`."""
    return spread(np.array([statistic(drawn) for drawn in draws(count)]))


def means(rows: Iterable[Mapping[str, float]], names: Sequence[str], digits: int = 4) -> dict[str, Any]:
    """Name -> its mean over `rows`, and under "intervals" name -> [low, high]. No rows: no figures."""
    rows = list(rows)
    if not rows:
        return {}
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}
    return {
        **{name: round(float(values.mean()), digits) for name, values in columns.items()},
        "intervals": {name: rounded(of_mean(values), digits) for name, values in columns.items()},
    }


def figure(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """The mean of (M,) values as `{"value", "low", "high", "count"}`."""
    low, high = of_mean(values)
    return {"value": round(float(np.mean(values)), digits), "low": round(low, digits), "high": round(high, digits), "count": len(values)}


def rounded(interval: Interval, digits: int = 4) -> list[float]:
    """As it is printed."""
    return [round(end, digits) for end in interval]
