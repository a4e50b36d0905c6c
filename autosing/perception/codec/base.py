"""The codec Protocol. Letters: B batch, n samples, K levels, T finest frames.

`encode` and `decode` are batched alike for every codec, deterministic, run without gradients, and do not depend on what else is in
the batch. Codes never travel without the `CodecSpec` that decodes them.
"""

from typing import Protocol

from torch import Tensor

from autosing.tokens.specs import CodecSpec


class Codec(Protocol):
    """Waveform <-> codes.

    `accompaniment` names the codec (registry name) whose codes stand for an instrumental when this codec codes the voice; most codecs
    name themselves.
    """

    spec: CodecSpec
    accompaniment: str

    def codebooks(self) -> tuple[Tensor, ...]:
        """For each level (num_codes, width) what its codes stand for, such that near vectors sound alike; () where that is not known."""
        ...

    def encode(self, wav: Tensor) -> Tensor:
        """(B, 1, n) float32 at `spec.sample_rate` -> (B, K, T) int64, `spec.HOLE` off stride, T = ceil of n to a whole grain."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """(B, K, T) -> (B, 1, T * hop) float32."""
        ...
