"""The sequence models of WhisperSpeech and of the first AutoSing, rebuilt from our own layers so that their checkpoints can be read exactly.

They differ from `t2s.py` and `sm2a.py` in arithmetic that no renaming of tensors can bridge, which is why they are models of their own:
sinusoidal positions and a causal encoder over UTF-8 bytes (T2S), a singer added behind the encoder and a GELU between decoder and heads
(S2A), codes with rows for "start" and "padding". With `lanes` of music a model is AutoSing's: a music encoder, cross-attentions mixed 0.8 to 0.2.
Which published classes these are, and how tensors are renamed, is `convert.py`. Here nothing is trained or sung; `forward` gives logits.

Letters: B batch, L text bytes, N semantic tokens, R lanes (quantisers), S decoder steps, M accompaniment steps, V codes, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autosing.nn.attention import rotary_table
from autosing.nn.blocks import Build, Decoder, Encoder, SourceStates
from autosing.nn.mup import BASE_WIDTH, Mup

HEAD_WIDTH = 64
MIX = (0.8, 0.2)
"""Weights of AutoSing's two cross-attentions, to words and to music."""
FASTEST = 20.0
"""Characters a second that the bins of the speaking rate reach up to."""


@dataclass(frozen=True)
class Shape:
    """What both models have.

    Attributes:
        codes, special, code_width: rows of the decoder's table, rows behind them (padding, start), width before it is projected.
        length: longest decoder input.
        lanes, music_codes, music_special, music_depth: of the accompaniment; 0 lanes = WhisperSpeech's own models, without one.
    """

    heads: int
    encoder_depth: int
    decoder_depth: int
    ffn_mult: int
    codes: int
    special: int
    code_width: int
    length: int
    query_mult: float
    output_mult: float
    causal_encoder: bool
    lanes: int = 0
    music_codes: int = 0
    music_special: int = 0
    music_depth: int = 0

    @property
    def width(self) -> int:
        return self.heads * HEAD_WIDTH

    @property
    def mup(self) -> Mup:
        return Mup(query_mult=self.query_mult)

    @property
    def output_scale(self) -> float:
        return self.output_mult * BASE_WIDTH / self.width

    @property
    def mix(self) -> tuple[float, ...]:
        return MIX if self.lanes else (1.0,)


@dataclass(frozen=True)
class WhisperT2SConfig(Shape):
    """
    Attributes:
        text_codes, text_width, text_length: the encoder's table and its longest input.
        languages, rate_bins: rows of their tables; 0 bins = the model does not know how fast words come.
    """

    text_codes: int = 256
    text_width: int = 0
    text_length: int = 550
    languages: int = 1
    rate_bins: int = 0


@dataclass(frozen=True)
class WhisperS2AConfig(Shape):
    """
    Attributes:
        quantizers: R of the voice; `codes` and `special` are each lane's.
        semantic_codes, semantic_width, speaker_width: of the encoder's inputs.
        stride: decoder steps a semantic token, for the positions of what cross-attention reads.
        own_music_tables: accompaniment codes have tables of their own.
        causal_music: the music encoder sees no future.
    """

    quantizers: int = 4
    semantic_codes: int = 0
    semantic_width: int = 0
    speaker_width: int = 0
    stride: int = 3
    own_music_tables: bool = False
    causal_music: bool = False


class _FeedForward(nn.Module):
    """As `nn.blocks.FeedForward`, with any multiple of the width."""

    def __init__(self, width: int, mult: int):
        super().__init__()
        self.up = nn.Linear(width, mult * width)
        self.down = nn.Linear(mult * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class _Codes(nn.Module):
    """A table of codes, projected to the width where it is narrower, with `special` rows of full width behind it."""

    def __init__(self, codes: int, code_width: int, width: int, special: int = 0, head: bool = True):
        super().__init__()
        self.codes = codes
        self.main = nn.Parameter(torch.zeros(codes, code_width))
        self.special = nn.Parameter(torch.zeros(special, width)) if special else None
        self.into = nn.Linear(code_width, width) if code_width != width else None
        self.out = nn.Linear(width, code_width) if code_width != width and head else None

    def table(self) -> Tensor:
        """(V + special, D)"""
        rows = self.main if self.into is None else self.into(self.main)
        return rows if self.special is None else torch.cat([rows, self.special])

    def embed(self, ids: Tensor) -> Tensor:
        """(B, N) -> (B, N, D)"""
        return F.embedding(ids, self.table())

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V + special)"""
        scores = F.linear(hidden if self.out is None else self.out(hidden), self.main)
        return scores if self.special is None else torch.cat([scores, F.linear(hidden, self.special)], -1)


class _Lanes(nn.Module):
    """One table a lane; a step's embedding is their sum. The special rows are common to all lanes."""

    def __init__(self, lanes: int, codes: int, code_width: int, width: int, special: int):
        super().__init__()
        self.special = nn.Parameter(torch.zeros(special, width))
        self.tables = nn.ModuleList(_Codes(codes, code_width, width) for _ in range(lanes))

    def embed(self, grid: Tensor) -> Tensor:
        """(B, R, S) -> (B, S, D)"""
        parts = [F.embedding(grid[:, lane], torch.cat([table.table(), self.special])) for lane, table in enumerate(self.tables)]  # type: ignore[operator]
        return torch.stack(parts).sum(0)

    def logits(self, hidden: Tensor, lane: int) -> Tensor:
        """(..., D) -> (..., V + special)"""
        return torch.cat([self.tables[lane].logits(hidden), F.linear(hidden, self.special)], -1)  # type: ignore[operator]


class _Whisper(nn.Module):
    """The stacks of both models."""

    config: Any

    def __init__(self, config: Shape):
        super().__init__()
        c, build = config, Build(config.width, config.heads, config.mup)
        self.encoder = Encoder(c.encoder_depth, build, causal=c.causal_encoder)
        self.decoder = Decoder(c.decoder_depth, build, cross_weights=c.mix, cross_layers=c.decoder_depth)
        stacks: list[Encoder | Decoder] = [self.encoder, self.decoder]
        if c.lanes:
            self.music_encoder = Encoder(c.music_depth, build, causal=getattr(c, "causal_music", False))
            stacks.append(self.music_encoder)
        for stack in stacks:
            for layer in stack.layers:
                layer.feed_forward = _FeedForward(c.width, c.ffn_mult)

    def _turns(self, positions: Tensor) -> Tensor:
        return rotary_table(positions, HEAD_WIDTH)

    def _hear(self, tables: _Lanes, music: Tensor | None) -> list[SourceStates]:
        """(B, R, M) accompaniment grid -> what the second cross-attention reads; [] for a model without music."""
        if not self.config.lanes:
            return []
        if music is None:
            raise ValueError("this model reads an accompaniment: give its grid")
        turns = self._turns(torch.arange(music.shape[-1], device=music.device))
        return [(self.music_encoder(tables.embed(music), turns), turns, None)]

    def _decode(self, x: Tensor, turns: Tensor | None, states: Sequence[SourceStates]) -> Tensor:
        return self.decoder(x, turns, self.decoder.project(states))


class WhisperT2S(_Whisper):
    """Text -> semantic tokens: `TSARTransformer`, with music `TM2STransformer`, whose decoder turns by position besides."""

    kind: ClassVar[str] = "whisperspeech_t2s"
    Config: ClassVar[type] = WhisperT2SConfig
    positions: Tensor
    text_positions: Tensor

    def __init__(self, config: WhisperT2SConfig):
        super().__init__(config)
        c = self.config = config
        self.text = _Codes(c.text_codes, c.text_width, c.width, head=False)
        self.semantic = _Codes(c.codes, c.code_width, c.width, c.special)
        self.embedding_language = nn.Parameter(torch.zeros(c.languages, c.width))
        self.embedding_rate = nn.Parameter(torch.zeros(c.rate_bins, c.width)) if c.rate_bins else None
        self.register_buffer("positions", torch.zeros(c.length, c.width))
        self.register_buffer("text_positions", torch.zeros(c.text_length, c.width))
        if c.lanes:
            self.music = _Lanes(c.lanes, c.music_codes, c.width, c.width, c.music_special)

    def forward(self, text: Tensor, rate: Tensor, language: Tensor, previous: Tensor, music: Tensor | None = None) -> Tensor:
        """
        Args:
            text: (B, L) UTF-8 bytes, 0 before the first and behind the last.
            rate: (B,) characters a second.
            language: (B,) rows of the language table.
            previous: (B, S) semantic token before each step; the first is the padding token.
            music: (B, R, M) accompaniment grid, for a model with music.

        Returns:
            (B, S, V + special) logits.
        """
        c = self.config
        x = self.text.embed(text) + self.embedding_language[language][:, None] + self.text_positions[: text.shape[1]]
        states = self.encoder(x, None)
        turns = text_turns = None
        if c.lanes:
            turns = self._turns(torch.arange(previous.shape[1], device=text.device))
            text_turns = self._turns(torch.arange(text.shape[1], device=text.device))
        x = self.semantic.embed(previous) + self.positions[: previous.shape[1]]
        if self.embedding_rate is not None:
            bins = (rate / FASTEST * c.rate_bins).long().clamp(max=c.rate_bins - 1)
            x = x + self.embedding_rate[bins][:, None]
        heard = self._hear(self.music, music) if c.lanes else []
        return self.semantic.logits(self._decode(x, turns, [(states, text_turns, None), *heard])) * c.output_scale


class WhisperS2A(_Whisper):
    """Semantic tokens -> codec tokens: `SADelARTransformer`, with music `SM2ATransformer`."""

    kind: ClassVar[str] = "whisperspeech_s2a"
    Config: ClassVar[type] = WhisperS2AConfig

    def __init__(self, config: WhisperS2AConfig):
        super().__init__(config)
        c = self.config = config
        self.semantic = _Codes(c.semantic_codes, c.semantic_width, c.width, head=False)
        self.speaker = nn.Linear(c.speaker_width, c.width) if c.speaker_width != c.width else None
        self.voice = _Lanes(c.quantizers, c.codes, c.code_width, c.width, c.special)
        self.music = _Lanes(c.lanes, c.music_codes, c.code_width, c.width, c.music_special) if c.own_music_tables else None
        self.splitter = nn.Linear(c.width, c.quantizers * c.width)

    def forward(
        self, semantic: Tensor, speaker: Tensor, previous: Tensor, music: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            semantic: (B, N) tokens, the padding token first.
            speaker: (B, W) embedding of the singer, of any length.
            previous: (B, R, S) the grid's column before each step.
            music: (B, R, M) accompaniment grid, for a model with music.
            positions: (S,) of the steps; None = 0, 1, 2, ...

        Returns:
            (B, R, S, V + special) logits.
        """
        c = self.config
        tokens = torch.arange(semantic.shape[1], device=semantic.device)
        singer = F.normalize(speaker, dim=-1)
        states = self.encoder(self.semantic.embed(semantic), self._turns(tokens))
        states = states + (singer if self.speaker is None else self.speaker(singer))[:, None]
        if positions is None:
            positions = torch.arange(previous.shape[-1], device=semantic.device)
        sources = [(states, self._turns(tokens * c.stride), None), *self._hear(self.music or self.voice, music)]
        hidden = self._decode(self.voice.embed(previous), self._turns(positions), sources)
        lanes = F.gelu(self.splitter(hidden)).unflatten(-1, (c.quantizers, c.width))
        return torch.stack([self.voice.logits(lanes[..., lane, :], lane) for lane in range(c.quantizers)], 1) * c.output_scale
