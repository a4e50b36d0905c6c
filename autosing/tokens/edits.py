"""Edit distance between sequences, and error rates made of it (phones, words)."""

from collections.abc import Hashable, Sequence

import numpy as np


def edit_distance(reference: Sequence[Hashable], found: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions that turn `reference` into `found` (Levenshtein 1966)."""
    codes = {symbol: index for index, symbol in enumerate(dict.fromkeys([*reference, *found]))}
    other = np.array([codes[x] for x in found], dtype=np.int64)
    columns = np.arange(len(found) + 1)
    row = columns
    for index, symbol in enumerate(reference, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (other != codes[symbol]))
        best = np.concatenate([[index], best])
        # an insertion may follow any cell to its left: running minimum of best[j] - j, plus j
        row = np.minimum.accumulate(best - columns) + columns
    return int(row[-1])


def error_rate(pairs: Sequence[tuple[Sequence[Hashable], Sequence[Hashable]]]) -> float:
    """Edits of all (reference, found) pairs per item of all references; NaN without references. May exceed 1."""
    total = sum(len(reference) for reference, _ in pairs)
    return sum(edit_distance(*pair) for pair in pairs) / total if total else float("nan")
