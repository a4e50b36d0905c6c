"""Edit distance between sequences, and error rates made of it (phones, words)."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np


def edit_distance(reference: Sequence[Hashable], found: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions that turn `reference` into `found` (Levenshtein 1966)."""
    *_, last = _rows(reference, found)
    return int(last[-1])


def _rows(reference: Sequence[Hashable], found: Sequence[Hashable]) -> Iterator[np.ndarray]:
    """Row by row, (found + 1,) the distance of so many of `reference`, from none on, to each beginning of `found`."""
    codes = {symbol: index for index, symbol in enumerate(dict.fromkeys([*reference, *found]))}
    other = np.array([codes[x] for x in found], dtype=np.int64)
    columns = np.arange(len(found) + 1)
    yield (row := columns)
    for index, symbol in enumerate(reference, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (other != codes[symbol]))
        best = np.concatenate([[index], best])
        # an insertion may follow any cell to its left: running minimum of best[j] - j, plus j
        yield (row := np.minimum.accumulate(best - columns) + columns)


def edit_pairs(reference: Sequence[Hashable], found: Sequence[Hashable]) -> list[tuple[int | None, int | None]]:
    """Which of `found` stands for which of `reference`, by the fewest edits: index pairs in order, None for what is missing or too much."""
    table = list(_rows(reference, found))
    i, j = len(reference), len(found)
    pairs: list[tuple[int | None, int | None]] = []
    while i or j:
        if i and j and table[i][j] == table[i - 1][j - 1] + (reference[i - 1] != found[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and table[i][j] == table[i - 1][j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def error_rate(pairs: Sequence[tuple[Sequence[Hashable], Sequence[Hashable]]]) -> float:
    """Edits of all (reference, found) pairs per item of all references; NaN without references. May exceed 1."""
    total = sum(len(reference) for reference, _ in pairs)
    return sum(edit_distance(*pair) for pair in pairs) / total if total else float("nan")
