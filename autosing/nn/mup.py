"""Width-independent settings (muP-like): how parameters start, and how fast each learns.

Tuned at width `BASE_WIDTH`, the same numbers serve every width: hidden matrices start with deviation init_std / fan_in and learn at
base_width / width, queries start at 0, logits of embedding tables are scaled by base_width / width, attention by 1 / head width.
Source of the recipe: Yang et al., "Tensor Programs V" (2022), in the form WhisperSpeech uses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

BASE_WIDTH = 3 * 64
ONLY_AT_THE_START = ("init_std", "embeddings_std")
"""The fields of `Mup` that a trained model no longer depends on."""
OUTPUT_MULT = 5.6


@dataclass(frozen=True)
class Mup:
    """The tunables a model needs to know.

    Attributes:
        init_std: hidden matrices start at init_std / fan_in.
        embeddings_std: embedding tables start at this deviation.
        output_mult: logits over codes are multiplied by output_mult / sqrt(192) * 192 / width where they are products with an embedding
            table (192 = base_width; the root is what the original divides by), and by output_mult / 5.6 where a matrix that learns like
            every hidden one makes them (frozen codebooks, code geometry, linear heads). The pointer's logits are not scaled.
        query_mult: attention scores are multiplied by this (and by 8 / head width).
        linear_heads: untied linear output heads instead of the embedding tables.
        rope: rotary positions; off = no positions at all.
    """

    init_std: float = 9.0
    embeddings_std: float = 0.2
    output_mult: float = OUTPUT_MULT
    query_mult: float = 0.3
    linear_heads: bool = False
    rope: bool = True

    def output_scale(self, width: int) -> float:
        return self.output_mult / BASE_WIDTH**0.5 * BASE_WIDTH / width

    def scaled(self, logits: Tensor) -> Tensor:
        """Logits that a hidden matrix made, times `output_mult` relative to its default."""
        return logits if self.output_mult == OUTPUT_MULT else logits * (self.output_mult / OUTPUT_MULT)

    def attention_scale(self, head_width: int) -> float:
        return self.query_mult * 8 / head_width


def init_linear(linear: nn.Linear, mup: Mup, zero_rows: int = 0) -> nn.Linear:
    """Start a matrix by the rule and its bias at 0; the first `zero_rows` outputs (queries) start at 0. Returns it."""
    nn.init.trunc_normal_(linear.weight, std=mup.init_std / linear.in_features, a=-2.0, b=2.0)
    with torch.no_grad():
        linear.weight[:zero_rows] = 0
        if linear.bias is not None:
            linear.bias.zero_()
    return linear


def init_embedding(weight: Tensor, mup: Mup) -> None:
    nn.init.normal_(weight, std=mup.embeddings_std)


def learning_rules(width: int, embeddings_lr_scale: float) -> list[tuple[str, float, bool]]:
    """(name pattern, learning-rate scale, decays) of every kind of parameter our transformers have; the first match wins."""
    return [
        (r"heads\.\d+\.weight$", BASE_WIDTH / width, True),  # linear heads, also those that a `LaneEmbedding` holds
        (r"heads\.\d+\.bias$", 1.0, False),
        (r"embedding", embeddings_lr_scale, False),
        (r"(norm\w*\.|\.bias$|^bias$)", 1.0, False),
        (r"weight$", BASE_WIDTH / width, True),
    ]
