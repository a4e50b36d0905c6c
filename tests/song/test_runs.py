import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from autosing.song.runs import runs_of, spans_of


@given(st.lists(st.integers(0, 2), max_size=30))
def test_runs_are_those_of_groupby(values: list[int]) -> None:
    lengths = [(value, len(list(group))) for value, group in itertools.groupby(values)]
    found = runs_of(torch.tensor(values, dtype=torch.long))
    assert [(value, last - first) for first, last, value in found] == lengths
    assert [at for first, last, _ in found for at in range(first, last)] == list(range(len(values)))


@given(st.lists(st.booleans(), max_size=30))
def test_spans_are_the_runs_that_hold(flags: list[bool]) -> None:
    expected = [[first, last] for first, last, value in runs_of(flags) if value]
    assert spans_of(flags).tolist() == expected == spans_of(np.array(flags, bool)).tolist()
