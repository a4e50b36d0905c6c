"""Who sings, heard from codec tokens: a causal encoder over the lanes of the voice whose last state, projected, is the singer's embedding.

Two heads serve training alone: one class an artist, and the next code of every lane (which keeps the states full of more than names). The first
AutoSing conditions its sm2a on such an embedding; ours listens to audio (`voice.py`), so this is for datasets that hold tokens and no audio.

Letters: B batch, K levels, T finest frames, R lanes, S steps, D width, W width of the embedding, A artists.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from autosing.models.listening import HEAD_WIDTH
from autosing.nn.attention import rotary_table
from autosing.nn.blocks import Build, Encoder
from autosing.nn.embeddings import LaneEmbedding
from autosing.nn.mup import Mup, init_linear
from autosing.tokens.patterns import load_pattern
from autosing.tokens.specs import CodecSpec


@dataclass(frozen=True)
class ArtistConfig:
    """
    Attributes:
        codec: whose tokens are heard.
        pattern: how they are laid out in steps.
        width: W.
        artists: A.
    """

    heads: int
    depth: int
    codec: CodecSpec
    artists: int
    pattern: str = "bricks"
    width: int = 256
    dropout: float = 0.0
    mup: Mup = field(default_factory=Mup)


class ArtistNet(nn.Module):
    """See the module docstring."""

    kind: ClassVar[str] = "artist"
    Config: ClassVar[type] = ArtistConfig

    def __init__(self, config: ArtistConfig):
        super().__init__()
        self.config = config
        c, mup, width = config, config.mup, config.heads * HEAD_WIDTH
        self.pattern = load_pattern(c.pattern, c.codec.strides)
        self.codes_embedding = LaneEmbedding(len(self.pattern.lanes), c.codec.num_codes, width, mup)
        self.encoder = Encoder(c.depth, Build(width, c.heads, mup, dropout=c.dropout), causal=True)
        self.singer = init_linear(nn.Linear(width, c.width), mup)
        self.artist = init_linear(nn.Linear(c.width, c.artists), mup)

    def states(self, grid: Tensor) -> Tensor:
        """(B, R, S) -> (B, S, D)"""
        positions = torch.arange(grid.shape[-1], device=grid.device)
        return self.encoder(self.codes_embedding.embed(grid), rotary_table(positions, HEAD_WIDTH) if self.config.mup.rope else None)

    def embedding(self, states: Tensor) -> Tensor:
        """(B, S, D) -> (B, W), of the last step, which has heard everything."""
        return self.singer(states[:, -1])

    def forward(self, codes: Tensor) -> Tensor:
        """(B, K, T) codes of a voice -> (B, W)"""
        return self.embedding(self.states(self.pattern.apply(codes, self.config.codec)))
