"""The semantic tokenizer Protocol. Letters: B batch, n samples, N tokens, D width."""

from typing import Protocol

from torch import Tensor

from autosing.tokens.specs import SemanticSpec


class SemanticTokenizer(Protocol):
    """Vocals -> tokens that carry the words, `spec.token_rate` a second."""

    spec: SemanticSpec

    def encode(self, wav: Tensor) -> Tensor:
        """(B, n) float32 at `spec.sample_rate` -> (B, N) int64, N = floor(n * token_rate / sample_rate)."""
        ...

    def codebook(self) -> Tensor:
        """(num_codes, D) float32: frozen embeddings for t2s and sm2a."""
        ...
