"""The separator that needs no download: `autosing.models.separator` over blocks of a song.

The song is levelled by its own active RMS, and the network gets used to it (`autosing.perception.separation.remixing`). Then it is cut into
blocks that overlap, and the vocals of neighbouring blocks are cross-faded; each block also sees a margin on both sides that is thrown away, so
a cut leaves no seam and memory does not grow with the network's work.
Accompaniment = mix - vocals, exactly. Letters: C channels, n samples.
"""

import math

import torch
from torch import Tensor

from autosing.errors import ConfigError
from autosing.models.io import load_model
from autosing.models.separator import SeparatorNet, active_rms
from autosing.perception.separation.base import Stems, as_mix
from autosing.perception.separation.remixing import PASSES, adapted, vocals_in
from autosing.tokens.specs import Seconds

BLOCK_SECONDS: Seconds = 12.0
FADE_SECONDS: Seconds = 0.25
MARGIN_SECONDS: Seconds = 1.0
MASK_FLOOR = 0.05
"""Of what the network takes for accompaniment, the share of the amplitude that stays in the vocals (-26 dB). On voices unlike the rendered ones the
network errs by taking voice away; leaving this much costs .2 dB of SI-SDR on rendered songs and saves .2 to .5 dB on real ones."""
LEAN = 0.7
"""Added to the logits of the network's gains, which are too sure of the band where a voice is not like those it learnt from."""
WARPS = 0.88, 1.14
"""The network looks twice, at higher and at lower voices than there are; what it takes for voice both times is more often voice."""
SILENCE_RMS = 1e-5  # a song below this (-100 dB) has nothing to separate


class BuiltinSeparator:
    """Mask-based: the vocals hold nothing the mix does not, and mono stays mono."""

    name = "builtin"

    def __init__(
        self,
        device: torch.device | str = "cpu",
        weights: str = "builtin",
        block_seconds: Seconds = BLOCK_SECONDS,
        mask_floor: float = MASK_FLOOR,
        lean: float = LEAN,
        warps: tuple[float, ...] = WARPS,
        passes: float = PASSES,
    ):
        """
        Args:
            weights: `builtin` or a checkpoint folder of a separator.
            block_seconds: what the network sees at a time, margins aside; about 25 MB of memory a second.
            mask_floor: see `MASK_FLOOR`.
            lean: see `LEAN`.
            warps: see `WARPS` and `SeparatorNet.forward`; each costs as much time as one look.
            passes: see `autosing.perception.separation.remixing.PASSES`; 0: the network does not get used to the song.

        Raises:
            ConfigError: no warp, or one that is not more than 0; passes below 0.
        """
        self.device = torch.device(device)
        self.net: SeparatorNet
        self.net, _ = load_model(weights, SeparatorNet.kind, self.device)
        self.sample_rate = self.net.config.sample_rate
        self._block_seconds = block_seconds
        self._mask_floor, self._lean, self._warps, self._passes = mask_floor, lean, warps, passes
        if not self._warps or min(self._warps) <= 0:
            raise ConfigError(f"the separator's warps must be one or more numbers above 0, found {list(warps)}; leave them out, or give 1 for a single look")
        if not 0 <= passes < math.inf:
            raise ConfigError(f"the separator's passes must be a number from 0 on, found {passes}; 0 leaves it as it is for every song")

    @torch.inference_mode()
    def separate(self, mix: Tensor) -> Stems:
        """(C, n) float32 at `sample_rate`, C 1 or 2 -> vocals and accompaniment, each (C, n) on the CPU. A constant is no voice.

        Raises:
            ValueError: another shape.
        """
        mix = as_mix(mix)
        vocals = torch.zeros_like(mix)
        samples = mix.shape[1]
        constant = mix.mean(1, keepdim=True) if samples else mix.new_zeros(len(mix), 1)
        heard = mix - constant
        level = float(active_rms(heard[None], self.sample_rate, floor=0.0)) if samples else 0.0  # as in training
        if level < SILENCE_RMS:
            return Stems(vocals, mix.clone())
        net = adapted(self.net, heard.expand(2, -1), level, self._lean, self._warps, self._passes)
        hop = self.net.config.hop
        fade = int(FADE_SECONDS * self.sample_rate)
        step = max(1, int(self._block_seconds * self.sample_rate) // hop) * hop
        margin = int(MARGIN_SECONDS * self.sample_rate) // hop * hop
        for start in range(0, samples, step):
            end = min(start + step + fade, samples)  # a block begins with the fade that ends the block before
            left, right = max(0, start - margin), min(samples, end + margin)
            block = self._vocals(net, heard[:, left:right] / level)[:, start - left : end - left] * level
            if start:
                ramp = torch.linspace(0, 1, min(fade, end - start))
                block[:, : len(ramp)] *= ramp
                vocals[:, start : start + len(ramp)] *= 1 - ramp
            vocals[:, start:end] += block
            if end == samples:
                break
        vocals += self._mask_floor * constant
        return Stems(vocals, mix - vocals)

    def _vocals(self, net: SeparatorNet, block: Tensor) -> Tensor:
        """(C, n) at an RMS near 1 -> its vocals (C, n)."""
        stereo = block.expand(2, -1).to(self.device)
        found = vocals_in(net, stereo, self._lean, self._warps).cpu()
        found = found.mean(0, keepdim=True) if block.shape[0] == 1 else found
        return found + self._mask_floor * (block - found)
