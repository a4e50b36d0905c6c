"""Edit distance between sequences, and error rates made of it (phones, words)."""

from collections import deque
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

MOST_CELLS = 1 << 22
"""Of a table of distances that is kept, 8 bytes each; windows of half a minute have a twentieth of it."""


def edit_distance(reference: Sequence[Hashable], found: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions that turn `reference` into `found` (Levenshtein 1966)."""
    return int(_last_row(reference, found)[-1])


def _last_row(reference: Sequence[Hashable], found: Sequence[Hashable]) -> np.ndarray:
    """The last of `_rows`; one at a time is kept."""
    return deque(_rows(reference, found), maxlen=1)[0]


def _rows(reference: Sequence[Hashable], found: Sequence[Hashable]) -> Iterator[np.ndarray]:
    """Row by row, (found + 1,) the distance of so many of `reference`, from none on, to each beginning of `found`."""
    codes = {symbol: index for index, symbol in enumerate(dict.fromkeys([*reference, *found]))}
    other = np.array([codes[x] for x in found], dtype=np.int64)
    yield (row := np.arange(len(found) + 1))
    for symbol in reference:
        yield (row := _next_row(row, other != codes[symbol]))


def _next_row(row: np.ndarray, differs: np.ndarray) -> np.ndarray:
    """A row (..., n + 1) of the table -> the one after it, of a symbol that `differs` (..., n) from those of the columns or not."""
    columns = np.arange(row.shape[-1])
    best = np.concatenate([row[..., :1] + 1, np.minimum(row[..., 1:] + 1, row[..., :-1] + differs)], -1)
    # an insertion may follow any cell to its left: running minimum of best[j] - j, plus j
    return np.minimum.accumulate(best - columns, -1) + columns


def beginnings_distance(reference: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Edit distance of every row of (B, H) `found`, -1 behind its end, to every beginning of (L,) `reference`, from none of it on: (B, L + 1)."""
    row = np.tile(np.arange(len(reference) + 1), (len(found), 1))
    for symbols in found.T[:, :, None]:
        row = np.where(symbols >= 0, _next_row(row, reference != symbols), row)
    return row


def edit_pairs(reference: Sequence[Hashable], found: Sequence[Hashable]) -> list[tuple[int | None, int | None]]:
    """Which of `found` stands for which of `reference`, by the fewest edits: index pairs in order, None for what is missing or too much.

    Where the table of distances would be large, `reference` is halved and its halves are paired apart (Hirschberg 1975).
    """
    if len(reference) > 1 and len(reference) * len(found) > MOST_CELLS:
        half = len(reference) // 2
        cut = int((_last_row(reference[:half], found) + _last_row(reference[half:][::-1], found[::-1])[::-1]).argmin())
        moved = lambda index, by: None if index is None else index + by  # noqa: E731
        second = edit_pairs(reference[half:], found[cut:])
        return edit_pairs(reference[:half], found[:cut]) + [(moved(i, half), moved(j, cut)) for i, j in second]
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
