"""The separator gets used to one song: a copy learns, for a few steps, to take apart new mixtures of what was found in the song.

What the separator takes for voice is cut into crops, what it takes for band likewise, and crops of different moments are mixed: of these mixtures
the parts are known. A mistake made at one moment has nothing to do with what sounds at another, so that what many mixtures teach is this singer
and this band and not the mistakes. Known as bootstrapped remixing (RemixIT, Tzinis et al. 2022), which trains on many recordings; here it happens
within a song. Of a few random places the voice is taken where it has the largest share, the band where the voice has the smallest.
Letters: n samples of the song, m of what is learnt from.
"""

import contextlib
import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from autosing.device import quick_matrices
from autosing.models.separator import SeparatorNet, errors, spectrum, waveform
from autosing.perception.small_steps import Adam
from autosing.tokens.specs import Seconds

PASSES = 1.0
"""All mixtures together are so many times as long as what is learnt from; one costs about .1 of real time on one core, .05 with matrix units."""
RATE, LAST_RATE = 3e-4, 6e-5
KEPT = 0.5
"""The copy ends at the mean of what it has learnt and what it was: where little was found in a song, it learns mistakes."""
MOST_SECONDS: Seconds = 180.0
"""Of a longer song so much is learnt from, in pieces from its whole length."""
LEVELS_DB = -6.0, 6.0
"""How much louder a voice gets, drawn evenly between them."""
MAGNITUDE_WEIGHT = 0.3  # `autosing.models.separator.Errors.total`, as in training
QUICK_SECONDS: Seconds = 2.0
"""Convolutions in bf16 over one or two frames can give numbers from nowhere (PyTorch 2.11 on a CPU)."""
_PIECE_SECONDS: Seconds = 12.0
_CROP_SECONDS: Seconds = 2.0
_CROPS, _PLACES = 4, 3


def adapted(net: SeparatorNet, mix: Tensor, level: float, lean: float, warps: Sequence[float], passes: float = PASSES) -> SeparatorNet:
    """A copy of the network that has got used to a song, on its device; the same for the same song. The network itself where it is too short for a step.

    Args:
        net: stays as it is.
        mix: (2, n) on any device.
        level: the RMS of its loud part (`autosing.models.separator.active_rms`).
        lean, warps: as the copy will be asked (`SeparatorNet.forward`); a step looks once, by one of the warps.
        passes: see `PASSES`.
    """
    if not round(passes * mix.shape[1] / (_CROPS * _CROP_SECONDS * net.config.sample_rate)):
        return net
    with torch.inference_mode():
        voice, band = _found(net, mix, level, lean, warps)
        crop = min(int(_CROP_SECONDS * net.config.sample_rate), voice.shape[1])
        voiced, banded = _Places(voice, band, crop), _Places(band, voice, crop)
    pick = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():
        student = copy.deepcopy(net).requires_grad_()
        student.waist.train()  # CUDA's recurrent layers have gradients in training alone; this one does the same in both
        optimizer = Adam(list(student.parameters()), RATE)
        steps = round(passes * voice.shape[1] / (_CROPS * crop))
        for step in range(steps):
            optimizer.rate = RATE + (LAST_RATE - RATE) * step / steps
            with torch.inference_mode():
                levels_db = torch.empty(_CROPS, 1, 1).uniform_(*LEVELS_DB, generator=pick).to(voice.device)
                drawn = [spectrum(x, net.config) for x in (voiced.crops(pick) * 10 ** (levels_db / 20), banded.crops(pick))]
            warp = warps[int(torch.randint(len(warps), (), generator=pick))]
            halves = zip(*(x.clone().chunk(2) for x in drawn), strict=True)  # clones are out of the inference mode; one after the other for memory's sake
            gradients = [torch.autograd.grad(_loss(student, vocals, rest, lean, warp), optimizer.parameters) for vocals, rest in halves]
            optimizer.step([(a + b) / 2 for a, b in zip(*gradients, strict=True)])
        with torch.no_grad():
            for learnt, known in zip(student.parameters(), net.parameters(), strict=True):
                learnt.lerp_(known, KEPT)
    return student.eval().requires_grad_(False)


def _loss(student: SeparatorNet, vocals: Tensor, accompaniment: Tensor, lean: float, warp: float) -> Tensor:
    """As in training, of complex spectra (B, 2, F, T)."""
    with quick_matrices(vocals.device):
        estimate = student(vocals + accompaniment, lean, (warp,))
    return errors(estimate, vocals, accompaniment).total(MAGNITUDE_WEIGHT)


def _found(net: SeparatorNet, mix: Tensor, level: float, lean: float, warps: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(2, n) -> what the network takes for voice and for band in up to `MOST_SECONDS` of it, each (2, m), on its device, the mix at an RMS near 1."""
    pieces = mix.split(int(_PIECE_SECONDS * net.config.sample_rate), 1)
    most = int(MOST_SECONDS / _PIECE_SECONDS)
    if len(pieces) > most:
        pieces = tuple(pieces[round(i * (len(pieces) - 1) / (most - 1))] for i in range(most))
    heard = [(piece / level).to(net.rows.device) for piece in pieces]
    voice = torch.cat([vocals_in(net, piece, lean, warps) for piece in heard], 1)
    return voice, torch.cat(heard, 1) - voice


def vocals_in(net: SeparatorNet, mix: Tensor, lean: float, warps: Sequence[float]) -> Tensor:
    """(2, n) at an RMS near 1 -> its vocals (2, n), by matrix units where the processor has them; a moment is computed in full precision."""
    heard = spectrum(mix[None], net.config)
    with quick_matrices(mix.device) if mix.shape[1] >= QUICK_SECONDS * net.config.sample_rate else contextlib.nullcontext():
        found = net(heard, lean, warps)
    return waveform(found, mix.shape[1], net.config)[0]


class _Places:
    """Crops of one part of a song, from where it has a large share."""

    def __init__(self, part: Tensor, other: Tensor, crop: int):
        self._part, self._crop = part, crop
        mine, others = (torch.nn.functional.pad(x.square().sum(0).cpu().double().cumsum(0), (1, 0)) for x in (part, other))
        begin = torch.arange(part.shape[1] - crop + 1)
        power, rest = (x[begin + crop] - x[begin] for x in (mine, others))
        self._share = (power / (power + rest).clamp_min(1e-9)).float()

    def crops(self, pick: torch.Generator) -> Tensor:
        """-> (`_CROPS`, 2, crop), each from the best of `_PLACES` random places."""
        starts = torch.randint(len(self._share), (_CROPS, _PLACES), generator=pick)
        best = starts[torch.arange(_CROPS), self._share[starts].argmax(1)].tolist()
        return torch.stack([self._part[:, i : i + self._crop] for i in best])
