"""t2s: lyrics and coarse accompaniment -> semantic tokens.

A text encoder (language and tokens-per-second embeddings), a music encoder over the accompaniment's lanes, and a decoder over
semantic tokens whose cross-attentions are mixed 0.8 text + 0.2 music; the semantic codebook is frozen, in and out. With
`pointer` the decoder also knows which text token is sung at each step and predicts how far the pointer moves next, which is what
lets it follow lyrics after minutes of training rather than days.

Letters: B batch, L text tokens, R lanes, M accompaniment steps, N semantic tokens, D width. Positions are semantic steps. The decode
loop is `autosing.singing.generate`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autosing.models.listening import HEAD_WIDTH, ListeningModel
from autosing.nn.attention import Source, stack_optional, stack_rows, stack_sources
from autosing.nn.blocks import Decoder, Encoder
from autosing.nn.embeddings import FrozenCodebook, LaneEmbedding, interpolate, pick
from autosing.nn.mup import Mup, init_embedding, init_linear
from autosing.tokens.patterns import TokenPattern, load_pattern
from autosing.tokens.pointer import MAX_ADVANCE, PACE_BUCKETS, SINCE_BUCKETS
from autosing.tokens.specs import CodecSpec, SemanticSpec

RATE_BUCKETS = 32
LOOKAHEAD = 2
TEXT_STRIDE = 3.0  # semantic steps a text token, about; where a cross-attention first looks for its text


class Size(NamedTuple):
    """A row of the size table; None = as the original has it.

    Attributes:
        depth: 2 x depth layers are shared out between encoder and decoder.
        heads: of width 64.
        cross_layers: decoder layers with cross-attention (None = all).
        music_depth: layers of the music encoder (None = as many as the other encoder has).
        rounds: half an encoder layer counts as one, where the original drops it.
    """

    depth: int
    heads: int
    cross_layers: int | None = None
    music_depth: int | None = None
    rounds: bool = False


SIZES: dict[str, Size] = {
    # what one core can train in half an hour; leans on the alignment aids
    "builtin": Size(3, 4, cross_layers=0, music_depth=0, rounds=True),
    "micro": Size(2, 3),
    "tiny": Size(4, 6),
    "base": Size(6, 8),
    "small": Size(12, 12),
    "small+": Size(12, 16),
    "baseline": Size(20, 16),
    "medium": Size(24, 16),
    "large": Size(33, 20),
}


def layer_counts(size: Size, encoder_depth_ratio: float) -> tuple[int, int]:
    """(encoder, decoder) layers of a size; at least one each."""
    encoder = int(2 * size.depth * encoder_depth_ratio + (0.5 if size.rounds else 0.0))
    encoder = max(1, min(2 * size.depth - 1, encoder))
    return encoder, 2 * size.depth - encoder


def choose(given: int | None, of_size: int | None, otherwise: int) -> int:
    """The first of the three that is not None."""
    return next(value for value in (given, of_size, otherwise) if value is not None)


@dataclass(frozen=True)
class T2SConfig:
    """Everything the network's shape and arithmetic depend on.

    Attributes:
        text: name of the text front end; `text_vocab` its size.
        languages: names a request may use; their order is that of the embedding.
        semantic: what the decoder writes; accompaniment: what the music encoder reads, None = no music at all.
        pattern: token pattern of the accompaniment (read without delays).
        cross_layers: decoder layers, from the first, that attend to text and music.
        pointer: follow the text with a pointer (see the module docstring).
        aligned_music: also add the music encoder's states to the decoder input at the time they sound.
        shown_levels: the coarsest levels of the accompaniment, those that the model was trained to hear.
        text_guidance: how much to lean towards the text in singing, where this checkpoint sings best; 1 = no more than the likelihood says.
        kv_heads, layer_dropout, checkpointing: see `autosing.nn.blocks.Build`; the last two matter in training alone.
    """

    heads: int
    encoder_depth: int
    music_depth: int
    decoder_depth: int
    text: str
    text_vocab: int
    semantic: SemanticSpec
    accompaniment: CodecSpec | None = None
    pattern: str = "bricks"
    languages: tuple[str, ...] = ("en",)
    cross_layers: int = 10_000
    text_weight: float = 0.8
    music_weight: float = 0.2
    pointer: bool = True
    aligned_music: bool = True
    shown_levels: int = 2
    text_guidance: float = 1.0
    dropout: float = 0.0
    kv_heads: int | None = None
    layer_dropout: float = 0.0
    checkpointing: bool = False
    mup: Mup = field(default_factory=Mup)

    @property
    def width(self) -> int:
        return self.heads * HEAD_WIDTH


@dataclass(frozen=True)
class T2SSource:
    """What the decoder reads, made once.

    Attributes:
        text: (B, L, D) states; of a pointer model what the decoder is told where the pointer stands: the token sung and those ahead of it.
        last: (B, 1) index of each row's last token that is not padding.
        music: (B, N, D) or None.
        sources: of the cross-attentions.
        rotary: table of the N steps, or None.
    """

    text: Tensor
    last: Tensor
    music: Tensor | None
    sources: list[list[Source]]
    rotary: Tensor | None

    @staticmethod
    def stack(parts: Sequence["T2SSource"], copies: int) -> "T2SSource":
        """`copies` batch rows of each part, parts one after the other; the parts were padded to equal lengths."""
        return T2SSource(
            stack_rows([p.text for p in parts], copies),
            stack_rows([p.last for p in parts], copies),
            stack_optional([p.music for p in parts], copies),
            stack_sources([p.sources for p in parts], copies),
            parts[0].rotary,
        )


class T2S(ListeningModel):
    """See the module docstring."""

    kind: ClassVar[str] = "t2s"
    Config: ClassVar[type] = T2SConfig

    def __init__(self, config: T2SConfig):
        super().__init__()
        self.config = config
        c, mup, width, build = config, config.mup, config.width, self._build()
        self.embedding_text = nn.Parameter(torch.empty(c.text_vocab, width))
        self.embedding_language = nn.Parameter(torch.empty(len(c.languages), width))
        self.embedding_rate = nn.Parameter(torch.empty(RATE_BUCKETS, width))
        tables = [self.embedding_text, self.embedding_language, self.embedding_rate]
        self.text_encoder = Encoder(c.encoder_depth, build)
        self.music_pattern: TokenPattern | None = None
        weights = [c.text_weight]
        if c.accompaniment is not None:
            self.music_pattern = load_pattern(c.pattern, c.accompaniment.strides).undelayed()
            self.music_embedding = LaneEmbedding(
                len(self.music_pattern.lanes), c.accompaniment.num_codes, width, mup, head=False
            )
            self.music_encoder = Encoder(c.music_depth, build)
            weights.append(c.music_weight)
            if c.aligned_music:
                self.aligned_music = init_linear(nn.Linear(width, width), mup)
        self.semantic = FrozenCodebook(c.semantic.num_codes, c.semantic.width, width, mup)
        self.decoder = Decoder(c.decoder_depth, build, cross_weights=weights, cross_layers=c.cross_layers)
        if c.pointer:
            self.pointed = init_linear(nn.Linear(width, (1 + LOOKAHEAD) * width), mup)
            self.embedding_since = nn.Parameter(torch.empty(SINCE_BUCKETS, width))
            self.embedding_pace = nn.Parameter(torch.empty(PACE_BUCKETS, width))
            self.advance = init_linear(nn.Linear(width, MAX_ADVANCE + 1), mup)
            tables += [self.embedding_since, self.embedding_pace]
        for table in tables:
            init_embedding(table, mup)

    def compiled_parts(self) -> list[nn.Module]:
        """The modules to compile: `encode` and `decode`, which are called instead of `forward`, spend nearly all their time in them."""
        return [self.text_encoder, *([self.music_encoder] if self.music_pattern is not None else []), self.decoder]

    def encode(self, text: Tensor, rate: Tensor, language: Tensor, music: Tensor | None, steps: int) -> T2SSource:
        """Encode what is given.

        Args:
            text: (B, L) ids, 0 = padding.
            rate: (B,) text tokens a second.
            language: (B,) indices into `config.languages`.
            music: (B, R, M) accompaniment grid (see `music_grid`), or None.
            steps: N of the window.

        Raises:
            ValueError: no grid for a model that reads an accompaniment.
        """
        c = self.config
        device = text.device
        real = text != 0
        buckets = (rate.clamp(min=0) * 2).round().long().clamp(max=RATE_BUCKETS - 1)
        whole = F.embedding(language, self.embedding_language) + F.embedding(buckets, self.embedding_rate)
        x = F.embedding(text, self.embedding_text) + whole[:, None]
        index = torch.arange(text.shape[1], device=device)
        states = self.text_encoder(x, self._rotary(index), real)
        parts: list[tuple[Tensor, Tensor | None, Tensor | None]] = [(states, self._rotary(index * TEXT_STRIDE), real)]
        music_states = None
        if self.music_pattern is not None and c.accompaniment is not None:
            if music is None:
                raise ValueError("this t2s reads an accompaniment: give its grid (music_grid makes an empty one)")
            per_step = self.music_pattern.hop / c.accompaniment.frame_rate * c.semantic.token_rate
            table = self._rotary((torch.arange(music.shape[-1], device=device) + 0.5) * per_step - 0.5)
            music_states = self.music_encoder(self.music_embedding.embed(music), table)
            parts.append((music_states, table, None))
            if c.aligned_music:
                at = (torch.arange(steps, device=device) + 0.5) / per_step - 0.5
                music_states = interpolate(self.aligned_music(music_states), at)
        last = ((index + 1) * real).amax(1, keepdim=True).clamp(min=1) - 1
        if c.pointer:
            ahead = self.pointed(states).unflatten(-1, (1 + LOOKAHEAD, c.width)).unbind(2)
            states = torch.stack([pick(part, torch.minimum(index + far, last)) for far, part in enumerate(ahead)]).sum(0)
        return T2SSource(
            states,
            last,
            music_states if c.aligned_music else None,
            self.decoder.project(parts),
            self._rotary(torch.arange(steps, device=device)),
        )

    def inputs(
        self,
        previous: Tensor,
        first_step: int,
        source: T2SSource,
        pointer: Tensor | None = None,
        since: Tensor | None = None,
        pace: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """What consecutive steps of the decoder read.

        Args:
            previous: (B, s) the semantic token before each step, -1 = none.
            first_step: which step the first of the s is.
            source: from `encode`.
            pointer, since, pace: (B, s) text index, steps rested on it, pace bucket; for a pointer model.
            rows: of `semantic.rows()`, for who takes many steps one by one.

        Returns:
            (B, s, D) for the decoder.
        """
        x = self.semantic.embed(previous, rows)
        steps = previous.shape[1]
        if source.music is not None:
            x = x + source.music[:, first_step : first_step + steps]
        if self.config.pointer:
            assert pointer is not None and since is not None and pace is not None
            x = x + F.embedding(since, self.embedding_since) + F.embedding(pace, self.embedding_pace)
            x = x + pick(source.text, torch.minimum(pointer, source.last))
        return x

    def decode(self, previous: Tensor, source: T2SSource, pointer: Tensor | None = None, since: Tensor | None = None, pace: Tensor | None = None) -> Tensor:
        """(B, N, D) hidden states of the first N steps at once, for `semantic_logits` and `advance_logits`; arguments as of `inputs`."""
        rotary = None if source.rotary is None else source.rotary[:, : previous.shape[1]]
        return self.decoder(self.inputs(previous, 0, source, pointer, since, pace), rotary, source.sources)

    def semantic_logits(self, hidden: Tensor) -> Tensor:
        """(B, s, D) -> (B, s, codes)."""
        return self.semantic.logits(hidden)

    def advance_logits(self, hidden: Tensor) -> Tensor:
        """(B, s, D) -> (B, s, MAX_ADVANCE + 1): how far the pointer moves before the next step."""
        return self.advance(hidden)


def tokens_per_second(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else math.inf
