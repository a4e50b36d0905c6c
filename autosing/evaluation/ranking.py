"""How well a score tells good items from bad ones, whatever the items are."""

from collections.abc import Sequence

import numpy as np


def auc(scores: Sequence[float] | np.ndarray, good: Sequence[bool] | np.ndarray) -> float:
    """Probability that a good item scores higher than a bad one (ties count half); NaN where all are good or all bad."""
    good = np.asarray(good, dtype=bool)
    count = int(good.sum())
    if count in (0, len(good)):
        return float("nan")
    values = np.asarray(scores, dtype=np.float64)
    in_order = np.sort(values)
    ranks = (np.searchsorted(in_order, values, "left") + np.searchsorted(in_order, values, "right") + 1) / 2
    return float((ranks[good].sum() - count * (count + 1) / 2) / (count * (len(good) - count)))
