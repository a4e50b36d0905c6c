"""The voice embedder that needs no download: `autosing.models.voice`. Letters: B batch, n samples, D width."""

import torch
from torch import Tensor
from torch.nn import functional

from autosing.models.io import load_model
from autosing.models.voice import VoiceNet
from autosing.perception.voice.base import as_vocals
from autosing.tokens.specs import Seconds, VoiceSpec

SHORTEST_SECONDS: Seconds = 0.2


class BuiltinVoice:
    """Vocals -> a unit vector that is close for the same singer. Callers average windows of about 10 s and normalise again."""

    def __init__(self, device: torch.device | str = "cpu", weights: str = "builtin"):
        """
        Args:
            weights: `builtin` or a checkpoint folder of a voice embedder.
        """
        self.device = torch.device(device)
        self.net: VoiceNet
        self.net, _ = load_model(weights, VoiceNet.kind, self.device)
        self.spec = VoiceSpec(name="builtin", sample_rate=self.net.config.sample_rate, width=self.net.config.width)

    @torch.inference_mode()
    def embed(self, vocals: Tensor) -> Tensor:
        """(B, n) float32 at `spec.sample_rate` -> (B, D), unit norm, on the CPU. The level does not matter; silence gives some unit vector.

        Raises:
            ValueError: another shape.
        """
        vocals = as_vocals(vocals)
        shortest = int(SHORTEST_SECONDS * self.spec.sample_rate)
        padded = functional.pad(vocals, (0, max(0, shortest - vocals.shape[1])))
        return self.net(padded.to(self.device)).cpu()
