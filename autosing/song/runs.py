"""Runs of equal values along time. Letters: N frames, K runs."""

import itertools

import numpy as np
from numpy.typing import ArrayLike


def runs_of(values: ArrayLike) -> list[tuple[int, int, int]]:
    """(first, past the last, value) of every run of equal (N,) integers."""
    found = np.asarray(values)
    if not len(found):
        return []
    edges = [0, *(np.flatnonzero(found[1:] != found[:-1]) + 1).tolist(), len(found)]
    return [(first, last, int(found[first])) for first, last in itertools.pairwise(edges)]


def spans_of(flags: ArrayLike) -> np.ndarray:
    """(K, 2): first and past the last of every run of True in (N,) flags."""
    edges = np.diff(np.asarray(flags).astype(np.int8), prepend=0, append=0)
    return np.flatnonzero(edges).reshape(-1, 2)
