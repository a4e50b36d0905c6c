"""sm2a: semantic tokens + accompaniment + singer -> codec tokens of the voice.

A semantic encoder (frozen codebook plus the projected singer embedding), a music encoder over the accompaniment's lanes, and a
decoder over the lanes of the voice: summed lane embeddings in, one head a lane out. With `aligned` the encoders' states are also
added to the decoder input at the very time of each level's code, so that nothing has to be searched for. One set of weights serves
"bricks" and "bricks_unrolled": positions count finest frames / group whatever a step is.

Letters: B batch, N semantic tokens, W voice windows, R lanes, M accompaniment steps, S decoder steps, K levels, T finest frames, D width.
The decode loop is `autosing.singing.stepwise`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autosing.models.listening import HEAD_WIDTH, ListeningModel
from autosing.nn.attention import Source, stack_optional, stack_sources
from autosing.nn.blocks import Decoder, Encoder
from autosing.nn.decode import Map
from autosing.nn.embeddings import CodeGeometry, FrozenCodebook, LaneEmbedding, interpolate
from autosing.nn.mup import Mup, init_linear
from autosing.tokens.patterns import TokenPattern, load_pattern
from autosing.tokens.specs import CodecSpec, Seconds, SemanticSpec, VoiceSpec

VOICE_WINDOW_SECONDS: Seconds = 10.0
Frames = TypeVar("Frames", Tensor, float)


@dataclass(frozen=True)
class SM2AConfig:
    """Everything the network's shape and arithmetic depend on.

    Attributes:
        codec: what the decoder writes; accompaniment: what the music encoder reads, None = no music at all. Lane embeddings are
            shared between the two where both are the same codec.
        patterns: token patterns the model was trained with; the first is the one to sing with.
        cross_layers: decoder layers, from the first, with cross-attention; 0 = none (then `aligned` carries everything).
        aligned: add the encoders' states to the decoder input, level by level at the time of its code.
        span: steps of the decoder's group that attention reaches; None = any distance. Longer songs than the training windows then
            look to every layer like what it has seen.
        level_temperatures: a factor on the sampling temperature for each level, where this checkpoint sings best; () = 1 each.
        semantic_guidance: how much to lean towards the semantic tokens in singing, where this checkpoint sings best; 1 = no more than
            the likelihood says, which is all that a checkpoint can do that never trained without them.
        lane_projections: every lane has a matrix of its own between the decoder and its head.
        code_widths, accompaniment_widths: number of features that the codec tells of each level's codes
            (`autosing.nn.embeddings.code_features`); () = codes are mere numbers. An accompaniment in the voice's codec has none of
            its own: it shares the voice's features, as it does the lane embeddings.
        kv_heads, layer_dropout, checkpointing: see `autosing.nn.blocks.Build`; the last two matter in training alone.
    """

    heads: int
    encoder_depth: int
    music_depth: int
    decoder_depth: int
    semantic: SemanticSpec
    codec: CodecSpec
    voice: VoiceSpec | None = None
    accompaniment: CodecSpec | None = None
    patterns: tuple[str, ...] = ("bricks",)
    cross_layers: int = 10_000
    aligned: bool = True
    causal_encoder: bool = False
    causal_music_encoder: bool = False
    span: int | None = None
    lane_projections: bool = True
    level_temperatures: tuple[float, ...] = ()
    semantic_guidance: float = 1.0
    code_widths: tuple[int, ...] = ()
    accompaniment_widths: tuple[int, ...] = ()
    text_weight: float = 0.8
    music_weight: float = 0.2
    dropout: float = 0.0
    kv_heads: int | None = None
    layer_dropout: float = 0.0
    checkpointing: bool = False
    mup: Mup = field(default_factory=Mup)

    @property
    def width(self) -> int:
        return self.heads * HEAD_WIDTH


@dataclass(frozen=True)
class SM2ASource:
    """What the decoder reads, made once: `added` (B or 1, S, D) to its input, projected cross-attention sources, rotary table of the S steps."""

    added: Tensor | None
    sources: list[list[Source]]
    rotary: Tensor | None

    @staticmethod
    def stack(parts: Sequence["SM2ASource"], copies: int) -> "SM2ASource":
        """`copies` batch rows of each part, parts one after the other."""
        return SM2ASource(
            stack_optional([p.added for p in parts], copies), stack_sources([p.sources for p in parts], copies), parts[0].rotary
        )


class Ends(NamedTuple):
    """The two ends of the decoder with tables, geometry and projections multiplied out: made once for many steps.

    Attributes:
        rows: (R * (num_codes + 1), D) of which `LaneEmbedding.embed` makes what the codes before a step add to it.
        heads: of each lane, (B, D) hidden states -> (B, num_codes) logits.
    """

    rows: Tensor
    heads: tuple[Map, ...]


class SM2A(ListeningModel):
    """See the module docstring."""

    kind: ClassVar[str] = "sm2a"
    Config: ClassVar[type] = SM2AConfig
    reads_weights: ClassVar[tuple[str, ...]] = ("lane_projection",)

    def __init__(self, config: SM2AConfig):
        super().__init__()
        self.config = config
        c, mup, width, build = config, config.mup, config.width, self._build()
        self.group = load_pattern(c.patterns[0], c.codec.strides).group
        lanes = len(self.pattern(c.patterns[0]).lanes)
        self.semantic = FrozenCodebook(c.semantic.num_codes, c.semantic.width, width, mup, head=False)
        self.semantic_encoder = Encoder(c.encoder_depth, build, causal=c.causal_encoder, span=self._span(c.semantic.token_rate))
        if c.voice is not None:
            self.voice = init_linear(nn.Linear(c.voice.width, width), mup)
            self.embedding_no_voice = nn.Parameter(torch.zeros(width))
        self.codes_embedding = LaneEmbedding(lanes, c.codec.num_codes, width, mup)
        self.geometry: CodeGeometry | None = None
        if c.code_widths:
            levels = [lane.level for lane in self.pattern(c.patterns[0]).lanes]
            self.geometry = CodeGeometry(levels, c.code_widths, c.codec.num_codes, width, mup)
        self.music_geometry: CodeGeometry | None = None
        if c.lane_projections:
            self.lane_projection = init_linear(nn.Linear(width, lanes * width), mup)
        self.music_pattern: TokenPattern | None = None
        weights = [c.text_weight]
        if c.accompaniment is not None:
            self.music_pattern = load_pattern("bricks", c.accompaniment.strides).undelayed()
            if c.accompaniment != c.codec:
                music_lanes = len(self.music_pattern.lanes)
                self.music_codes_embedding = LaneEmbedding(music_lanes, c.accompaniment.num_codes, width, mup, head=False)
            if c.accompaniment_widths and c.accompaniment != c.codec:
                levels = [lane.level for lane in self.music_pattern.lanes]
                self.music_geometry = CodeGeometry(levels, c.accompaniment_widths, c.accompaniment.num_codes, width, mup, heads=False)
            rate = c.accompaniment.frame_rate / self.music_pattern.hop
            self.music_encoder = Encoder(c.music_depth, build, causal=c.causal_music_encoder, span=self._span(rate))
            weights.append(c.music_weight)
        if c.aligned:
            self.aligned_semantic = init_linear(nn.Linear(width, c.codec.levels * width), mup)
            if c.accompaniment is not None:
                self.aligned_music = init_linear(nn.Linear(width, c.codec.levels * width), mup)
        self.decoder = Decoder(c.decoder_depth, build, cross_weights=weights, cross_layers=c.cross_layers, span=c.span)

    def _span(self, rate: float) -> int | None:
        """The decoder's span in steps of a stream of `rate` Hz."""
        c = self.config
        return None if c.span is None else max(1, round(c.span * self.group / c.codec.frame_rate * rate))

    def pattern(self, name: str) -> TokenPattern:
        return load_pattern(name, self.config.codec.strides)

    def compiled_parts(self) -> list[nn.Module]:
        """The modules to compile: `encode` and `decode`, which are called instead of `forward`, spend nearly all their time in them."""
        return [self.semantic_encoder, *([self.music_encoder] if self.music_pattern is not None else []), self.decoder]

    def encode(
        self,
        semantic: Tensor,
        music: Tensor | None,
        voice: Tensor | None,
        pattern: TokenPattern,
        steps: int,
        first_step: int = 0,
        absent_voice: Tensor | None = None,
    ) -> SM2ASource:
        """Encode what is given.

        Args:
            semantic: (B, N) tokens, -1 = none.
            music: (B, R, M) accompaniment grid (`music_grid`), or None for a model without music.
            voice: (B, W, D) one singer embedding each 10 s (the last serves what follows), or None = any singer.
            pattern, steps, first_step: the decoder steps [first_step, first_step + steps) to prepare for.
            absent_voice: (B,) bool rows that are to go without a singer.

        Raises:
            ValueError: no grid for a model that reads an accompaniment.
        """
        c = self.config
        device = semantic.device
        unit = self.group / c.codec.frame_rate  # seconds a position
        x = self.semantic.embed(semantic)
        middles = (torch.arange(semantic.shape[1], device=device) + 0.5) / c.semantic.token_rate
        if c.voice is not None:
            if voice is None:
                x = x + self.embedding_no_voice
            else:
                window = (middles / VOICE_WINDOW_SECONDS).long().clamp(max=voice.shape[1] - 1)
                singer = self.voice(voice * c.voice.width**0.5)  # unit vectors to unit variance
                if absent_voice is not None:
                    singer = torch.where(absent_voice[:, None, None], self.embedding_no_voice, singer)
                x = x + singer[:, window]
        table = self._rotary(middles / unit)
        states = self.semantic_encoder(x, table)
        parts: list[tuple[Tensor, Tensor | None, Tensor | None]] = [(states, table, None)]
        streams: list[tuple[Tensor, float, str]] = [(states, c.semantic.token_rate, "aligned_semantic")]
        if self.music_pattern is not None and c.accompaniment is not None:
            if music is None:
                raise ValueError("this sm2a reads an accompaniment: give its grid (music_grid makes an empty one)")
            embedding = self.music_codes_embedding if c.accompaniment != c.codec else self.codes_embedding
            rate = c.accompaniment.frame_rate / self.music_pattern.hop
            table = self._rotary((torch.arange(music.shape[-1], device=device) + 0.5) / rate / unit)
            heard = embedding.embed(music)
            geometry = self.geometry if c.accompaniment == c.codec else self.music_geometry
            if geometry is not None:
                heard = heard + geometry.embed(music)
            music_states = self.music_encoder(heard, table)
            parts.append((music_states, table, None))
            streams.append((music_states, rate, "aligned_music"))
        added = None
        if c.aligned:
            frames = (torch.arange(first_step, first_step + steps, device=device) * pattern.hop).float()
            ends = first_step * pattern.hop, (first_step + steps - 1) * pattern.hop
            for stream, rate, name in streams:
                middles = [self._code_middle(pattern, level, end) * rate for level in range(c.codec.levels) for end in ends]
                begin = min(max(0, int(min(middles)) - 2), stream.shape[1] - 1)  # a piece of a song needs few of its states
                needed = stream[:, begin : max(begin, int(max(middles)) + 2) + 1]
                projected = getattr(self, name)(needed).unflatten(-1, (c.codec.levels, c.width)).unbind(2)
                for level, states in enumerate(projected):
                    at = self._code_middle(pattern, level, frames) * rate - 0.5
                    piece = interpolate(states, at - begin)
                    added = piece if added is None else added + piece
        positions = torch.arange(first_step, first_step + steps, device=device) * (pattern.hop / self.group)
        return SM2ASource(added, self.decoder.project(parts), self._rotary(positions))

    def _code_middle(self, pattern: TokenPattern, level: int, step_frames: Frames) -> Frames:
        """Seconds at which the codes of `level` that steps at `step_frames` hold have their middle."""
        spec = self.config.codec
        delay = next(lane.delay for lane in pattern.lanes if lane.level == level)
        covered = max(spec.strides[level], pattern.hop)
        return (step_frames - delay + covered / 2) / spec.frame_rate

    def decode(self, previous: Tensor, source: SM2ASource) -> Tensor:
        """Hidden states of the first steps that the source was prepared for, at once.

        Args:
            previous: (B, R, s) the grid column before each step, -1 = hole.

        Returns:
            (B, s, D) for `lane_logits`.
        """
        x = self.codes_embedding.embed(previous)
        if self.geometry is not None:
            x = x + self.geometry.embed(previous)
        steps = previous.shape[-1]
        if source.added is not None:
            x = x + source.added[:, :steps]
        return self.decoder(x, None if source.rotary is None else source.rotary[:, :steps], source.sources)

    @torch.no_grad()
    def ends(self) -> Ends:
        """The decoder's `Ends` as the weights are now."""
        rows = self.codes_embedding.embedding if self.geometry is None else self.codes_embedding.embedding + self.geometry.rows()
        unit = torch.eye(self.config.width, dtype=rows.dtype, device=rows.device)
        heads = []
        for lane in range(self.codes_embedding.lanes):  # whatever makes a lane's logits, they are an affine map of the hidden state
            bias = self.lane_logits(torch.zeros_like(unit[0]), lane)
            heads.append(self._affine(self.lane_logits(unit, lane) - bias, bias))
        return Ends(rows, tuple(heads))

    def lane_logits(self, hidden: Tensor, lane: int) -> Tensor:
        """(..., D) hidden -> (..., num_codes) of one lane; give it only the steps where the lane is live."""
        weight, bias = self._projections()
        return self._score(hidden, lane, weight[lane], bias[lane], self.codes_embedding.tables()[lane])

    def live_logits(self, hidden: Tensor, slots: Sequence[slice]) -> list[Tensor]:
        """(B, S, D) hidden -> for each lane the (B, n, num_codes) of the steps that its slice of `slots` names (`TokenPattern.live_slots`)."""
        batch, steps, width = hidden.shape
        every = torch.arange(batch * steps, device=hidden.device).view(batch, steps)
        cells = [every[:, slot] for slot in slots]
        counts = [cell.numel() for cell in cells]
        live = F.embedding(torch.cat([cell.flatten() for cell in cells]), hidden.reshape(-1, width)).split(counts)  # one gradient of all lanes
        (weights, biases), tables = self._projections(), self.codes_embedding.tables()
        return [
            self._score(rows.view(*cell.shape, width), lane, weights[lane], biases[lane], tables[lane])
            for lane, (rows, cell) in enumerate(zip(live, cells, strict=True))
        ]

    def _projections(self) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """Weight and bias of each lane's matrix, taken apart once; None for a model without them."""
        lanes = self.codes_embedding.lanes
        if not self.config.lane_projections:
            return (None,) * lanes, (None,) * lanes
        return self.lane_projection.weight.chunk(lanes), self.lane_projection.bias.chunk(lanes)

    def _score(self, hidden: Tensor, lane: int, weight: Tensor | None, bias: Tensor | None, table: Tensor) -> Tensor:
        if weight is not None:
            hidden = hidden + F.linear(hidden, weight, bias)
        logits = self.codes_embedding.logits(hidden, lane, table)
        return logits if self.geometry is None else logits + self.geometry.logits(hidden, lane)
