"""Vocals over an instrumental: level match and peak guard. Letters: C channels, n samples."""

from typing import NamedTuple

import torch
from torch import Tensor

PEAK = 0.97  # full-scale peak allowed in anything we write
VOCAL_TO_BAND_DB = 2.0  # where the reference has no voice to match: active vocals this much above the band


QUIETEST_VOCALS_DB = -8.0  # under the band, at the least: what seems a quieter voice is mostly what the separator left of the band


class Mixed(NamedTuple):
    """All (C, n); mix == vocals + accompaniment."""

    mix: Tensor
    vocals: Tensor
    accompaniment: Tensor


def active_level(wav: Tensor, block: int = 2400, floor_db: float = -30.0) -> float:
    """RMS over the blocks that are within `floor_db` of the loudest block: how loud it is where there is something. 0 for silence."""
    if wav.shape[-1] < block:
        return float(wav.square().mean().sqrt())
    usable = wav[..., : wav.shape[-1] // block * block].reshape(-1, wav.shape[-1] // block, block)
    power = usable.square().mean(dim=(0, 2))
    loud = power >= power.max() * 10 ** (floor_db / 10)
    return float(power[loud].mean().sqrt()) if float(power.max()) > 0 else 0.0


def mix_tracks(vocals: Tensor, accompaniment: Tensor, vocal_level: float, music_volume: float) -> Mixed:
    """Bring `vocals` (1, n) to the active level `vocal_level`, add `accompaniment` (C, n) times `music_volume`, guard the peak.

    Args:
        vocal_level: active RMS the vocals should have, raised to `QUIETEST_VOCALS_DB` against the accompaniment where it is less; 0 = choose it
            from the accompaniment.
    """
    own, band = active_level(vocals), active_level(accompaniment)
    if vocal_level <= 0:
        vocal_level = band * 10 ** (VOCAL_TO_BAND_DB / 20) if band > 0 else 0.1
    vocal_level = max(vocal_level, band * 10 ** (QUIETEST_VOCALS_DB / 20))
    scaled = vocals * (vocal_level / own) if own > 0 else vocals
    scaled = scaled.expand(accompaniment.shape[0], -1)
    music = accompaniment * music_volume
    peak = max(float(x.abs().max()) for x in (scaled + music, scaled, music))
    guard = min(1.0, PEAK / peak) if peak > 0 else 1.0
    scaled, music = scaled * guard, music * guard
    return Mixed(scaled + music, scaled, music)


def fade_edges(wav: Tensor, samples: int) -> Tensor:
    """Linear fade of the first and last `samples`, so that a cut stretch neither starts nor ends with a click."""
    ramp = torch.ones(wav.shape[-1])
    edge = torch.linspace(0, 1, samples)
    ramp[:samples] *= edge
    ramp[-samples:] *= edge.flip(0)
    return wav * ramp
