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


def as_vocals(vocals: Tensor) -> Tensor:
    """(B, n) -> the same as float32, cut off from gradients: what an embedder begins with.

    Raises:
        ValueError: another shape.
    """
    if vocals.dim() != 2:
        raise ValueError(f"the vocals must be (B, n), found {tuple(vocals.shape)}")
    return vocals.detach().float()
