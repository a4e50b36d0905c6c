"""Vocals over an instrumental: level match, peak guard, joins without a jump. Letters: C channels, n samples."""

from typing import NamedTuple

import torch
from torch import Tensor

from autosing.tokens.specs import Seconds

PEAK = 0.97  # full-scale peak allowed in anything we write
VOCAL_TO_BAND_DB = 2.0  # where the reference has no voice to match: active vocals this much above the band
QUIETEST_VOCALS_DB = -8.0  # under the band, at the least: what seems a quieter voice is mostly what the separator left of the band

VOCAL_PEAKS_DB = 15.0  # above their active level, at the most: higher peaks of what is sung are single ticks, for which no song should be turned down
AUDIBLE = 0.003  # active level; below it nobody sings, and what there is must not be raised to the level of a voice
LIMITER_SECONDS: Seconds = 0.003  # before and after a peak that is held, in which the voice gets quieter and back


class Gains(NamedTuple):
    """Factors on the vocals and on the accompaniment, and the peak at which vocals are held that have their factor."""

    vocals: float
    accompaniment: float
    ceiling: float = PEAK


class Mixed(NamedTuple):
    """All (C, n); mix == vocals + accompaniment, to which `gains` brought what was mixed."""

    mix: Tensor
    vocals: Tensor
    accompaniment: Tensor
    gains: Gains


def active_level(wav: Tensor, block: int = 2400, floor_db: float = -30.0) -> float:
    """RMS over the blocks that are within `floor_db` of the loudest block: how loud it is where there is something. 0 for silence."""
    if wav.shape[-1] < block:
        return float(wav.square().mean().sqrt())
    power, loud = _loud_blocks(wav, block, floor_db)
    return float(power[loud].mean().sqrt()) if float(power.max()) > 0 else 0.0


def sounding(wav: Tensor, block: int = 2400, floor_db: float = -30.0) -> Tensor:
    """(n,) -> (n,) bool: the blocks that are within `floor_db` of the loudest one; nothing of silence."""
    if not float(wav.abs().max()) > 0:
        return torch.zeros(len(wav), dtype=torch.bool)
    padded = torch.nn.functional.pad(wav, (0, -len(wav) % block))
    return _loud_blocks(padded, block, floor_db)[1].repeat_interleave(block)[: len(wav)]


def _loud_blocks(wav: Tensor, block: int, floor_db: float) -> tuple[Tensor, Tensor]:
    """(..., n) -> power of each whole block, over all channels, and whether it is within `floor_db` of the loudest."""
    usable = wav[..., : wav.shape[-1] // block * block].reshape(-1, wav.shape[-1] // block, block)
    power = usable.square().mean(dim=(0, 2))
    return power, power >= power.max() * 10 ** (floor_db / 10)


def choose_gains(vocals: Tensor, accompaniment: Tensor, rate: int, vocal_level: float, music_volume: float, apart: bool = False) -> Gains:
    """Bring `vocals` (1, n) to the active level `vocal_level`, `accompaniment` (C, n) to `music_volume` times its own, and guard the peak.

    Args:
        rate: Hz of both.
        vocal_level: active RMS the vocals should have, raised to `QUIETEST_VOCALS_DB` against the accompaniment where it is less; 0 = choose it
            from the accompaniment. Vocals in which nobody is heard stay as they are.
        apart: the two need not be of one length, and every peak may meet every other; all but the factor on the vocals is then the same whatever
            they are.
    """
    own, band = active_level(vocals), active_level(accompaniment)
    if vocal_level <= 0:
        vocal_level = band * 10 ** (VOCAL_TO_BAND_DB / 20) if band > 0 else 0.1
    vocal_level = max(vocal_level, band * 10 ** (QUIETEST_VOCALS_DB / 20))
    gain = vocal_level / own if own > AUDIBLE else 1.0
    ceiling = vocal_level * 10 ** (VOCAL_PEAKS_DB / 20)
    if apart:
        peak = ceiling + music_volume * float(accompaniment.abs().max())
    else:
        scaled, music = held(vocals * gain, ceiling, rate).expand(accompaniment.shape[0], -1), accompaniment * music_volume
        peak = max(float(x.abs().max()) for x in (scaled + music, scaled, music))
    guard = min(1.0, PEAK / peak) if peak > 0 else 1.0
    return Gains(gain * guard, music_volume * guard, min(PEAK, ceiling * guard))


def mix_with(vocals: Tensor, accompaniment: Tensor, gains: Gains, rate: int) -> Mixed:
    """Add `vocals` (1, n) to `accompaniment` (C, n), both at `rate` Hz, each times its gain; vocals that would clip are cut at `PEAK`."""
    music = accompaniment * gains.accompaniment
    scaled = held(vocals * gains.vocals, gains.ceiling, rate).expand(accompaniment.shape[0], -1)
    scaled = torch.minimum(torch.maximum(scaled, -PEAK - music.clamp(max=0)), PEAK - music.clamp(min=0))
    return Mixed(scaled + music, scaled, music, gains)


def held(wav: Tensor, ceiling: float, rate: int) -> Tensor:
    """(1, n) at `rate` Hz, turned down around each peak above `ceiling` such that none is higher."""
    reach = int(LIMITER_SECONDS * rate)
    width = 2 * reach + 1
    if not float(wav.abs().max()) > ceiling:
        return wav
    highest, seen = torch.nn.functional.pad(wav.abs(), (2 * reach, 2 * reach)), 1  # of so many samples
    while seen < width:
        step = min(seen, width - seen)
        highest, seen = torch.maximum(highest[:, :-step], highest[:, step:]), seen + step
    gain = (ceiling / highest).clamp(max=1)
    total = torch.nn.functional.pad(gain.double().cumsum(1), (1, 0))
    return wav * ((total[:, width:] - total[:, :-width]) / width).float()


class Seam:
    """Audio that is decoded again and again as it grows: what was kept stays, and goes over into the newest version without a jump."""

    def __init__(self, rate: int, fade_seconds: float = 0.02):
        self.whole = torch.zeros(0)
        self._rest = torch.zeros(0)  # of the version before, after what was kept
        self._fade = int(fade_seconds * rate)

    def grow(self, newest: Tensor, margin: int) -> None:
        """Keep (n,) `newest` but for its last `margin` samples."""
        kept = len(self.whole)
        piece = newest[kept : max(kept, len(newest) - margin)].clone()
        fade = min(self._fade, len(self._rest), len(piece))
        if fade:
            ramp = torch.linspace(0, 1, fade)
            piece[:fade] = piece[:fade] * ramp + self._rest[:fade] * (1 - ramp)
        self.whole = torch.cat([self.whole, piece])
        self._rest = newest[len(self.whole) :]


def fade_edges(wav: Tensor, samples: int, start: bool = True, end: bool = True) -> Tensor:
    """Linear fade of the first and last `samples`, so that a cut stretch neither starts nor ends with a click."""
    ramp = torch.ones(wav.shape[-1])
    edge = torch.linspace(0, 1, samples)
    if start:
        ramp[:samples] *= edge
    if end:
        ramp[-samples:] *= edge.flip(0)
    return wav * ramp
