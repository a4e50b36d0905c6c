"""Edit distance between sequences, and error rates made of it (phones, words)."""

from collections.abc import Hashable, Sequence


def edit_distance(reference: Sequence[Hashable], found: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions that turn `reference` into `found` (Levenshtein 1966)."""
    previous = list(range(len(found) + 1))
    for row, expected in enumerate(reference, 1):
        current = [row]
        for column, item in enumerate(found, 1):
            substituted = previous[column - 1] + (expected != item)
            current.append(min(substituted, previous[column] + 1, current[-1] + 1))
        previous = current
    return previous[-1]


def error_rate(pairs: Sequence[tuple[Sequence[Hashable], Sequence[Hashable]]]) -> float:
    """Edits of all (reference, found) pairs per item of all references; NaN without references. May exceed 1."""
    total = sum(len(reference) for reference, _ in pairs)
    return sum(edit_distance(*pair) for pair in pairs) / total if total else float("nan")
