"""The judge: a second recogniser that no stage of the chain was trained against (other features, architecture, seed).

It only listens: audio -> phones by greedy CTC. Phone error is the edit distance to the phones of the lyrics over their number, counted
over all recordings together. Intervals are 95 % by bootstrap over recordings.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autosing.evaluation import intervals
from autosing.models.io import load_model
from autosing.models.recogniser import CLASSES, phone_begins
from autosing.tokens.edits import edit_distance
from autosing.weights import weights_folder


class Judge:
    """(n,) at 24 kHz -> the phones it hears."""

    def __init__(self, weights: str = "builtin", device: torch.device | str = "cpu"):
        folder = weights_folder("judge") if weights == "builtin" else weights
        self.model, self.meta = load_model(folder, "recogniser", device)
        self.device = torch.device(device)

    @torch.inference_mode()
    def phones(self, wav: Tensor) -> tuple[str, ...]:
        best = self.model(wav[None].to(self.device)).ctc[0].argmax(-1).cpu().numpy()
        return tuple(CLASSES[c] for c in best[phone_begins(best)])


class ErrorRate(NamedTuple):
    """`value` over all recordings, `low` and `high` the 95 % interval, `recordings` how many."""

    value: float
    low: float
    high: float
    recordings: int

    def figures(self) -> dict[str, float]:
        return {k: round(v, 4) for k, v in self._asdict().items()}


def phone_error_rate(heard: Sequence[Sequence[str]], written: Sequence[Sequence[str]]) -> ErrorRate:
    """Phone error of what was heard against what was written, one pair a recording."""
    wrong, length = _wrong(heard, written), _lengths(written)
    return ErrorRate(float(wrong.sum() / max(1.0, length.sum())), *intervals.of_rate(wrong, length), len(wrong))


def added_error(before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], written: Sequence[Sequence[str]]) -> ErrorRate:
    """How much more of what was written is wrong in `after` than in `before`, both of the same recordings, whose draws are shared."""
    more, length = _wrong(after, written) - _wrong(before, written), _lengths(written)
    return ErrorRate(float(more.sum() / max(1.0, length.sum())), *intervals.of_rate(more, length), len(more))


def mismatched_rate(heard: Sequence[Sequence[str]], written: Sequence[Sequence[str]], songs: Sequence[str]) -> ErrorRate:
    """Phone error of what was heard of each recording against what was written of every recording of another song."""
    wrong, length = np.zeros(len(heard)), np.zeros(len(heard))
    for index, song in enumerate(songs):
        others = [text for text, other in zip(written, songs, strict=True) if other != song]
        wrong[index], length[index] = _wrong([heard[index]] * len(others), others).sum(), _lengths(others).sum()
    return ErrorRate(float(wrong.sum() / max(1.0, length.sum())), *intervals.of_rate(wrong, length), len(heard))


def _wrong(heard: Sequence[Sequence[str]], written: Sequence[Sequence[str]]) -> np.ndarray:
    return np.array([edit_distance(w, h) for h, w in zip(heard, written, strict=True)], dtype=float)


def _lengths(written: Sequence[Sequence[str]]) -> np.ndarray:
    return np.array([len(w) for w in written], dtype=float)
