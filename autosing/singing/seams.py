"""What may be heard of the seams between a song's windows: a jump of the waveform, a step of loudness, another voice.

Letters: n samples, D width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from autosing.singing.mix import active_level, sounding
from autosing.tokens.specs import Seconds

SIDE_SECONDS: Seconds = 5.0  # what is compared, before a seam and after it
NEAR_SECONDS: Seconds = 0.02  # a click lies no further from the seam
LEAST_SECONDS: Seconds = 1.0  # of a side must sound for its voice to be told


class SeamFigures(NamedTuple):
    """None: one of the sides is silent, or too little of it sounds.

    Attributes:
        jump: the largest step from one sample to the next near the seam, over the largest on its sides: far above 1 for a click.
        loudness_db: how much louder it is after the seam than before, where something sounds.
        voice: cosine of the voices of both sides.
    """

    jump: float | None
    loudness_db: float | None
    voice: float | None


def seam_figures(vocals: Tensor, rate: int, at: Seconds, embed: Callable[[Tensor], Tensor]) -> SeamFigures:
    """Listen to (n,) `vocals` at `rate` Hz around the time `at`.

    Args:
        embed: (n,) at `rate` -> (D,) unit vector, whose voice it is.
    """
    seam, side, near = round(at * rate), int(SIDE_SECONDS * rate), int(NEAR_SECONDS * rate)
    before, after = vocals[max(0, seam - side) : seam], vocals[seam : seam + side]
    steps = vocals.diff().abs()
    apart = torch.cat([steps[max(0, seam - side) : max(0, seam - near)], steps[seam + near : seam + side]])
    close = steps[max(0, seam - near) : seam + near]
    usual = float(apart.max()) if len(apart) else 0.0
    levels = [active_level(part[None]) if len(part) else 0.0 for part in (before, after)]
    heard = [part[sounding(part)] if len(part) else part for part in (before, after)]
    voices = [embed(part) for part in heard] if min(map(len, heard)) >= LEAST_SECONDS * rate else []
    loudness = 20 * torch.tensor(levels[1] / levels[0]).log10() if min(levels) > 0 else None
    return SeamFigures(
        round(float(close.max()) / usual, 3) if usual > 0 and len(close) else None,
        None if loudness is None else round(float(loudness), 2),
        round(float(voices[0] @ voices[1]), 4) if voices else None,
    )
