"""The recogniser gets used to one recording: a copy learns, for a few steps, to read the words that are known to be sung.

Lyrics say what is sung and not when, and connectionist temporal classification (Graves et al. 2006) asks for no more: its loss sums over all ways
to place them. The layers that see the spectrum move most: they have to tell this voice from this band. A handful of steps cannot learn a song
by heart. Known as test-time training (Sun et al. 2020).
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from autosing.models.recogniser import BLANK, Recogniser

STEPS = 8
FRONT_RATE, RATE = 1.5e-3, 5e-4
FRONT = ("stem.", "sides.", "project.")
"""The first layers: their parameters' names begin with one of these."""
_PIECE_FRAMES = 3000
_KEPT_FRAMES = 12_000
"""Up to so many, four minutes, what the layers made of them is kept for the gradient (about half a GB); of longer recordings it is made again, piece by piece."""
_MOST_CELLS = 100_000_000
"""Frames x states of the loss's lattice, 4 bytes each; a quarter of an hour with 1,100 phones. Longer recordings are left as they are."""


def adapted(recogniser: Recogniser, wav: Tensor, phones: Sequence[int], steps: int = STEPS) -> Recogniser:
    """A copy of the recogniser that has got used to a recording.

    Args:
        recogniser: stays as it is.
        wav: (n,), or (2, n) in stereo, at its sample rate, on its device.
        phones: classes of what is sung, in order, without silences.
        steps: of Adam, each over the whole recording; they cost about .01 of real time each on one core.

    Returns:
        The recogniser itself where there is nothing to learn from: no phones, more of them than frames, or too long a recording.
    """
    frames = recogniser.num_frames(wav.shape[-1])
    if not phones or 2 * len(phones) > frames or frames * (2 * len(phones) + 1) > _MOST_CELLS:
        return recogniser
    with torch.inference_mode(False), torch.enable_grad():
        student = copy.deepcopy(recogniser).requires_grad_()
        front = [p for name, p in student.named_parameters() if name.startswith(FRONT)]
        rest = [p for name, p in student.named_parameters() if not name.startswith(FRONT)]
        pieces = [student.heard(piece.clone()[None]) for piece in wav.float().split(_PIECE_FRAMES * recogniser.hop, -1) if recogniser.num_frames(piece.shape[-1]) > 0]
        optimizer = torch.optim.Adam([{"params": front, "lr": FRONT_RATE}, {"params": rest, "lr": RATE}])
        for _ in range(steps):
            optimizer.zero_grad()
            _loss(student, pieces, torch.tensor([list(phones)], device=wav.device)).backward()
            optimizer.step()
    return student.requires_grad_(False)


def _loss(student: Recogniser, pieces: Sequence[Tensor], phones: Tensor) -> Tensor:
    """CTC over all pieces (1, K, bands, 2 F) of front-end frames together; of many, only one piece's activations are in memory at a time."""

    def logits(piece: Tensor) -> Tensor:
        return student.read(student.trunk(piece)).ctc[0]

    kept = sum(piece.shape[-1] for piece in pieces) // 2 <= _KEPT_FRAMES
    heard: list[Any] = [logits(piece) if kept else checkpoint(logits, piece, use_reentrant=False) for piece in pieces]
    log_probs = nnf.log_softmax(torch.cat(heard), dim=-1)[:, None]
    lengths = [torch.tensor([n]) for n in (len(log_probs), phones.shape[1])]
    return nnf.ctc_loss(log_probs, phones, *lengths, blank=BLANK, reduction="sum", zero_infinity=True) / len(log_probs)
