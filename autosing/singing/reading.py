"""Reading words off semantic tokens while they are written, to go on with what reads best.

A tokenizer that was fitted to phones can say which phone a token stands for, so it is known whether the words are right long before anything
sounds. Letters: B ways, n steps written so far, L text tokens, F phone frames.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from autosing.models.recogniser import CLASS_OF, SILENCE, phone_begins
from autosing.models.semantic import READ_OUT_REACH
from autosing.models.t2s import T2S
from autosing.perception import SEMANTIC, chosen, load_semantic
from autosing.tokens.edits import beginnings_distance
from autosing.tokens.specs import Seconds
from autosing.tokens.text import TextFrontEnd, load_text

WAYS = 8
"""In which a melody is written side by side."""
MOST_MELODIES = 8
READ_SECONDS: Seconds = 1.0
"""What is written between two readings."""
UNSAID = 0.15
"""Faults that a phone will have that is yet to be written: what ways that are behind others in the text are charged for each."""
UNHEARD = 2
"""Phones up to the pointer that need not be heard yet."""


def melodies_of(candidates: int) -> int:
    """How many melodies so many candidates sing where there is a reader; what differs between those of one is their notes."""
    return min(MOST_MELODIES, (candidates + 1) // 2)


class Reader:
    """Counts wrong phones in semantic tokens."""

    def __init__(self, phones: Callable[[Tensor], Tensor], front_end: TextFrontEnd):
        """
        Args:
            phones: (n,) tokens -> (F,) classes of `models.recogniser.CLASSES`.
            front_end: of the text that is sung; what of its symbols is no phone is not looked for.
        """
        self._phones = phones
        self._classes = np.array([CLASS_OF.get(symbol, SILENCE) for symbol in front_end.symbols])

    @staticmethod
    def of(model: T2S, tokenizer: str) -> "Reader | None":
        """What reads the tokens that `model` writes, those of the backend `tokenizer`.

        None where that backend cannot say what phone its tokens are, this installation has another fit of it than the model was trained with, the
        model does not read phones, or it does not say where in the text it is.
        """
        backend, _ = chosen(SEMANTIC, tokenizer)
        if model.config.text != "phones" or not model.config.pointer or not hasattr(backend, "phones"):
            return None
        loaded = load_semantic(tokenizer, model.semantic.codebook.device)
        return Reader(loaded.phones, load_text("phones")) if model.semantic.is_of(loaded.codebook()) else None  # type: ignore[attr-defined]

    def heard(self, tokens: Tensor) -> np.ndarray:
        """(n,) tokens -> the phones that they say one after the other, as classes."""
        frames = self._phones(tokens).cpu().numpy()
        return frames[phone_begins(frames)]

    def silent(self, codes: int) -> Tensor:
        """(codes,) bool: tokens that read as silence, in one of their halves at least, when they are held; all of them where none does."""
        held = 2 * READ_OUT_REACH + 1
        frames = self._phones(torch.arange(codes).repeat_interleave(held)).reshape(codes, held, -1)
        silent = (frames[:, READ_OUT_REACH] == SILENCE).any(-1)
        return silent if silent.any() else ~silent

    def faults(self, tokens: Tensor, ids: np.ndarray, pointer: np.ndarray) -> np.ndarray:
        """How much is wrong in each way.

        Args:
            tokens: (B, n).
            ids: (L,) text with its opening LINE.
            pointer: (B,) the token of it that each way has come to.

        Returns:
            (B,) edits between what is heard and the text up to there, and `UNSAID` for every phone that a way is behind the foremost.
        """
        classes = self._classes[ids]
        written, until = classes[classes != SILENCE], np.cumsum(classes != SILENCE)[pointer]
        heard = [self.heard(row) for row in tokens]
        table = np.full((len(heard), max(map(len, heard), default=0)), -1)
        for row, phones in zip(table, heard, strict=True):
            row[: len(phones)] = phones
        edits = beginnings_distance(written[: until.max()], table)
        least = [row[max(0, last - UNHEARD) : last + 1].min() for row, last in zip(edits, until, strict=True)]
        return np.array(least) + UNSAID * (until.max() - until)
