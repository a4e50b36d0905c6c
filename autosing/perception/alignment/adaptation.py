"""The recogniser gets used to one recording: a copy learns, for a few steps, to read the words that are known to be sung.

Lyrics say what is sung and not when, and connectionist temporal classification (Graves et al. 2006) asks for no more: its loss sums over all ways
to place them. The layers that see the spectrum move most: they have to tell this voice from this band. A handful of steps cannot learn a song
by heart. Known as test-time training (Sun et al. 2020).

Every step hears part of the recording, other blocks of it each time; of the rest it goes by what was heard before. That is cheaper, and the words
that are misheard in one part are not learnt from all of it at once.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from autosing.device import quick_matrices
from autosing.models.recogniser import BLANK, Recogniser
from autosing.perception.alignment.viterbi import ctc_chain, occupancy
from autosing.perception.small_steps import Adam

STEPS = 6
FRONT_RATE, RATE = 1.75e-3, 6e-4
FRONT = ("stem.", "sides.", "project.")
"""The first layers: their parameters' names begin with one of these."""
_BLOCK_FRAMES = 750
_MOST_HEARD = 6000
"""No step hears more frames than this, two minutes: about half a GB of activations."""
_MOST_CELLS = 100_000_000
"""Frames x states of the loss's lattice; a quarter of an hour with 1,100 phones. Longer recordings are left as they are."""


def can_adapt(frames: int, phones: Sequence[int]) -> bool:
    """Whether there is something to learn from: phones, not more of them than frames, in a recording that is not too long."""
    return bool(phones) and 2 * len(phones) <= frames and frames * (2 * len(phones) + 1) <= _MOST_CELLS


def adapted(recogniser: Recogniser, spectra: Tensor, log_probs: Tensor, phones: Sequence[int], steps: int = STEPS) -> Recogniser:
    """A copy of the recogniser that has got used to a recording, on its device.

    Args:
        recogniser: stays as it is.
        spectra: (1, K, bands, 2 F), what it makes of the recording first (`Recogniser.heard`).
        log_probs: (F, C + 1) log probabilities of its CTC read-out.
        phones: classes of what is sung, in order, without silences; `can_adapt` says whether they can be learnt.
        steps: of Adam; they cost about .005 of real time each on one core.
    """
    with torch.inference_mode(False), torch.enable_grad():
        student = copy.deepcopy(recogniser).requires_grad_()
        learnt = {name: p for name, p in student.named_parameters() if not name.startswith("frame_head.")}  # CTC reads the other read-out
        front = Adam([p for name, p in learnt.items() if name.startswith(FRONT)], FRONT_RATE)
        rest = Adam([p for name, p in learnt.items() if not name.startswith(FRONT)], RATE)
        believed, chain = log_probs.clone(), ctc_chain(phones, BLANK)
        for step in range(steps):
            blocks = heard_blocks(len(believed), step)
            heard = [_ctc(student, spectra[..., 2 * begin : 2 * end]) for begin, end in blocks]
            for (begin, end), block in zip(blocks, heard, strict=True):
                believed[begin:end] = block.detach()
            try:
                shares = torch.from_numpy(occupancy(believed.exp().cpu().numpy(), chain).shares).to(believed)
            except ValueError:  # nothing that is heard leads through the words
                break
            # The gradient of the CTC loss by the log probabilities is minus the share that each class has of a frame.
            wanted = torch.cat([shares[begin:end] for begin, end in blocks])
            loss = -(wanted * torch.cat(heard)).sum() / len(wanted)
            gradients = torch.autograd.grad(loss, front.parameters + rest.parameters)
            front.step(gradients[: len(front.parameters)])
            rest.step(gradients[len(front.parameters) :])
    return student.requires_grad_(False)


def _ctc(student: Recogniser, spectra: Tensor) -> Tensor:
    """(1, K, bands, 2 F) -> (F, C + 1) log probabilities; clones what may come from the inference mode of the caller."""
    with quick_matrices(spectra.device):
        read = student.read(student.trunk(spectra.clone()))
    return nnf.log_softmax(read.ctc[0].float(), -1)


def heard_blocks(frames: int, step: int) -> list[tuple[int, int]]:
    """The blocks [begin, end) of frames that a step hears: every second one, or fewer of a long recording, others at every step, cut elsewhere each
    time that all were heard."""
    share = max(2, -(-frames // _MOST_HEARD))
    length = min(_BLOCK_FRAMES, -(-frames // share))
    turn, part = divmod(step, share)
    first = (part * length + turn * (length // 3)) % (share * length) - share * length
    cuts = [(max(0, begin), min(begin + length, frames)) for begin in range(first, frames, share * length)]
    return [(begin, end) for begin, end in cuts if end > begin]
