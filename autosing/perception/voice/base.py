"""The voice embedder Protocol. Letters: B batch, n samples, D width."""

from typing import Protocol

from torch import Tensor

from autosing.tokens.specs import VoiceSpec


class VoiceEmbedder(Protocol):
    """Vocals -> who sings, as a unit vector."""

    spec: VoiceSpec

    def embed(self, vocals: Tensor) -> Tensor:
        """(B, n) float32 at `spec.sample_rate`, any n >= 1 s -> (B, D), unit norm."""
        ...
