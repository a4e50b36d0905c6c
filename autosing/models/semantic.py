"""The semantic codebook: pairs of recogniser frames -> one of `num_codes` tokens, 25 a second.

What is quantised is mostly what is sung: the square roots of the phone probabilities of both frames of a pair (so that squared distance
is the Hellinger distance of two phone distributions), and, scaled down, the recogniser's features in the directions that tell phones
apart best. It is fitted by `autosing.perception.semantic.fit`, not trained by gradients; everything is a buffer.

Letters: F recogniser frames (50 a second), N tokens (F // 2), D width of the features, C phone classes, W width of a code.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from autosing.tokens.specs import SemanticSpec

READ_OUT_REACH = 2
"""Tokens to each side that the phone read-out sees."""


@dataclass(frozen=True)
class SemanticConfig:
    """
    Attributes:
        name, sample_rate, token_rate, num_codes: as in `SemanticSpec`.
        features: D.
        classes: C.
        directions: dimensions that the features of a pair are projected to.
        feature_scale: weight of those dimensions beside the phone probabilities.
        temperature: phone scores are divided by it before the softmax.
    """

    features: int
    classes: int
    name: str = "builtin"
    sample_rate: int = 24000
    token_rate: int = 25
    num_codes: int = 512
    directions: int = 48
    feature_scale: float = 0.1
    temperature: float = 1.0

    @property
    def width(self) -> int:
        return 2 * self.classes + self.directions

    @property
    def spec(self) -> SemanticSpec:
        return SemanticSpec(self.name, self.sample_rate, self.token_rate, self.num_codes, self.width)


class SemanticCodebook(nn.Module):
    """
    Buffers:
        mean: (2 D,) mean of a pair of frames' features.
        projection: (2 D, directions), unit variance along every direction on the songs it was fitted to.
        codes: (num_codes, W).
        read_out: (2, (2 READ_OUT_REACH + 1) W + 1, C) a linear read-out of the phone in the first and the second half of a token.
    """

    kind: ClassVar[str] = "semantic"
    Config: ClassVar[type] = SemanticConfig
    mean: Tensor
    projection: Tensor
    codes: Tensor
    read_out: Tensor

    def __init__(self, config: SemanticConfig):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(2 * config.features))
        self.register_buffer("projection", torch.zeros(2 * config.features, config.directions))
        self.register_buffer("codes", torch.zeros(config.num_codes, config.width))
        self.register_buffer("read_out", torch.zeros(2, (2 * READ_OUT_REACH + 1) * config.width + 1, config.classes))

    def embed(self, features: Tensor, scores: Tensor) -> Tensor:
        """(F, D) features and (F, C) phone scores (logits) -> (F // 2, W)."""
        pairs = len(features) // 2
        probabilities = torch.softmax(scores[: 2 * pairs] / self.config.temperature, -1)
        directions = (features[: 2 * pairs].reshape(pairs, -1) - self.mean) @ self.projection
        return torch.cat([probabilities.sqrt().reshape(pairs, -1), directions * self.config.feature_scale], 1)

    def phone_logits(self, tokens: Tensor) -> Tensor:
        """(N,) tokens -> (N, 2, C) logits of the phone in each half of a token."""
        return torch.einsum("nw,hwc->nhc", neighbourhood(self.codes, tokens), self.read_out)

    def forward(self, features: Tensor, scores: Tensor) -> Tensor:
        """(F, D), (F, C) -> (F // 2,) int64 tokens."""
        return nearest_code(self.embed(features, scores), self.codes)


def neighbourhood(codes: Tensor, tokens: Tensor) -> Tensor:
    """(K, W), (N,) -> (N, (2 READ_OUT_REACH + 1) W + 1): the code vectors around each token, zeros beyond the ends, and a one."""
    reach = READ_OUT_REACH
    if not len(tokens):  # less to see than `unfold` needs
        return codes.new_zeros(0, (2 * reach + 1) * codes.shape[1] + 1)
    around = nnf.pad(codes[tokens], (0, 0, reach, reach)).unfold(0, 2 * reach + 1, 1)  # (N, W, 2 reach + 1)
    return nnf.pad(around.flatten(1), (0, 1), value=1.0)


def nearest_code(points: Tensor, codes: Tensor, block: int = 8192) -> Tensor:
    """Index of the nearest row of `codes` (K, W) for every row of `points` (N, W), in blocks of `block` points."""
    half_norms = codes.square().sum(1) / 2
    found = [(half_norms - part @ codes.T).argmin(1) for part in points.split(block)]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long, device=points.device)
