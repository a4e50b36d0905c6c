"""Edit distance against the table written out, and what must hold of any distance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autosing.tokens import edits
from autosing.tokens.edits import beginnings_distance, edit_distance, edit_pairs, error_rate

SEQUENCES = st.lists(st.sampled_from("abcd"), max_size=9)


def by_the_table(a: list[str], b: list[str]) -> int:
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    return table[-1][-1]


@given(SEQUENCES, SEQUENCES)
def test_it_is_the_tables_last_cell(a: list[str], b: list[str]) -> None:
    assert edit_distance(a, b) == by_the_table(a, b)


@given(SEQUENCES, SEQUENCES, SEQUENCES)
def test_it_is_a_distance(a: list[str], b: list[str], c: list[str]) -> None:
    assert edit_distance(a, a) == 0 and edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@given(SEQUENCES, st.lists(SEQUENCES, max_size=4))
def test_distances_to_all_beginnings_are_those_one_by_one(reference: list[str], rows: list[list[str]]) -> None:
    codes = lambda row: np.array([ord(symbol) for symbol in row], dtype=np.int64)  # noqa: E731
    padded = np.full((len(rows), max(map(len, rows), default=0)), -1)
    for into, row in zip(padded, rows, strict=True):
        into[: len(row)] = codes(row)
    found = beginnings_distance(codes(reference), padded)
    assert found.tolist() == [[edit_distance(reference[:end], row) for end in range(len(reference) + 1)] for row in rows]


def test_rates_count_all_items_together() -> None:
    assert error_rate([("abcd", "abcd"), ("ab", "")]) == 2 / 6
    assert error_rate([]) != error_rate([])  # not a number


@pytest.mark.parametrize("most_cells", [0, 6, edits.MOST_CELLS])
@given(a=SEQUENCES, b=SEQUENCES)
def test_pairs_hold_everything_once_in_order_and_cost_the_distance(most_cells: int, a: list[str], b: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edits, "MOST_CELLS", most_cells)
        pairs = edit_pairs(a, b)
    assert [i for i, _ in pairs if i is not None] == list(range(len(a))) and [j for _, j in pairs if j is not None] == list(range(len(b)))
    assert sum(i is None or j is None or a[i] != b[j] for i, j in pairs) == edit_distance(a, b)
