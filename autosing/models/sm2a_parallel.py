"""sm2a_parallel: semantic tokens + accompaniment + singer -> codec tokens of the voice, many at a time instead of one step after the other.

A masked model (Chang et al. 2022, "MaskGIT"; Borsos et al. 2023, "SoundStorm"; Ziv et al. 2024, "MAGNeT"): of the codes of one level some are
masked, coarser levels are given, finer ones are masked, and it says what the masked ones are. A step of its grid is a block of frames with
all codes that begin there (`blocks`). What is heard goes once through the deep encoder; each pass of decoding goes through the shallow decoder
alone, so that many passes cost little. Both see the whole song.

Letters: B batch, N semantic tokens, W voice windows, K levels, R lanes (r of one level), M accompaniment steps, S steps, T finest frames,
V codes, D width. The decode loop is `autosing.singing.parallel`.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor, nn

from autosing.models.listening import HEAD_WIDTH, ListeningModel
from autosing.models.sm2a import VOICE_WINDOW_SECONDS
from autosing.nn.blocks import Encoder
from autosing.nn.embeddings import CodeTables, FrozenCodebook, interpolate
from autosing.nn.mup import Mup, init_embedding, init_linear
from autosing.tokens.patterns import TokenPattern, blocks
from autosing.tokens.specs import CodecSpec, SemanticSpec, VoiceSpec


@dataclass(frozen=True)
class SM2AParallelConfig:
    """Everything the network's shape and arithmetic depend on, and how this checkpoint sings best.

    Attributes:
        encoder_depth, decoder_depth: layers that a song goes through once, and in every pass.
        span: steps that attention reaches, each way; None = any distance. Longer songs than the training windows then look to every layer
            like what it has seen.
        learned_width: learned numbers a code, beside what is known of it.
        code_widths, accompaniment_widths: number of features that the codecs tell of each level's codes; () = codes are mere numbers.
        level_temperatures: a factor on the sampling temperature for each level; () = 1 each.
        pass_shares: how the passes of decoding are shared out among levels, coarse to fine; () = each level half as many as the one before.
        semantic_guidance: how much to lean towards the semantic tokens; 1 = no more than the likelihood says.
        kv_heads, layer_dropout, checkpointing: see `autosing.nn.blocks.Build`.
    """

    heads: int
    encoder_depth: int
    decoder_depth: int
    semantic: SemanticSpec
    codec: CodecSpec
    voice: VoiceSpec | None = None
    accompaniment: CodecSpec | None = None
    span: int | None = None
    learned_width: int = 64
    code_widths: tuple[int, ...] = ()
    accompaniment_widths: tuple[int, ...] = ()
    level_temperatures: tuple[float, ...] = ()
    pass_shares: tuple[float, ...] = ()
    semantic_guidance: float = 1.0
    dropout: float = 0.0
    kv_heads: int | None = None
    layer_dropout: float = 0.0
    checkpointing: bool = False
    mup: Mup = field(default_factory=Mup)

    @property
    def width(self) -> int:
        return self.heads * HEAD_WIDTH


class SM2AParallel(ListeningModel):
    """See the module docstring."""

    kind: ClassVar[str] = "sm2a_parallel"
    Config: ClassVar[type] = SM2AParallelConfig

    def __init__(self, config: SM2AParallelConfig):
        super().__init__()
        self.config = config
        c, mup, width, build = config, config.mup, config.width, self._build()
        self.pattern: TokenPattern = blocks(c.codec.strides)
        self.step_rate = c.codec.frame_rate / self.pattern.hop
        self.codes = CodeTables([lane.level for lane in self.pattern.lanes], c.code_widths, c.learned_width, c.codec.num_codes, width, mup)
        self.embedding_level = nn.Parameter(torch.empty(c.codec.levels, width))
        init_embedding(self.embedding_level, mup)
        # read one and a half times as often as there are tokens, linearly between them, none is passed over
        self.readings = max(1, ceil(1.5 * c.semantic.token_rate / self.step_rate))
        self.semantic = FrozenCodebook(c.semantic.num_codes, c.semantic.width, width, mup, head=False)
        self.semantic_into = init_linear(nn.Linear(self.readings * width, width), mup)
        if c.voice is not None:
            self.voice = init_linear(nn.Linear(c.voice.width, width), mup)
            self.embedding_no_voice = nn.Parameter(torch.zeros(width))
        self.music_pattern: TokenPattern | None = None
        self.music_codes: CodeTables | None = None
        if c.accompaniment is not None:
            self.music_pattern = blocks(c.accompaniment.strides)
            levels, known = [lane.level for lane in self.music_pattern.lanes], c.accompaniment_widths
            self.music_codes = CodeTables(levels, known, c.learned_width, c.accompaniment.num_codes, width, mup, heads=False)
        self.encoder = Encoder(c.encoder_depth, build, span=c.span)
        self.decoder = Encoder(c.decoder_depth, build, span=c.span)

    @property
    def geometry(self) -> CodeTables | None:
        """Where what the voice's codec tells of its codes lies; None where it told nothing."""
        return self.codes if self.config.code_widths else None

    @property
    def music_geometry(self) -> CodeTables | None:
        """The same of the accompaniment's codec."""
        return self.music_codes if self.config.accompaniment_widths else None

    def lanes(self, level: int) -> slice:
        """Which lanes of the grid hold the codes of a level."""
        levels = self.codes.levels
        return slice(levels.index(level), levels.index(level) + levels.count(level))

    def compiled_parts(self) -> list[nn.Module]:
        """The modules to compile: `encode` and `decode`, which are called instead of `forward`, spend nearly all their time in them."""
        return [self.encoder, self.decoder]

    def encode(
        self,
        semantic: Tensor,
        music: Tensor | None,
        voice: Tensor | None,
        steps: int,
        mask: Tensor | None = None,
        absent_voice: Tensor | None = None,
    ) -> Tensor:
        """What is heard at each step, for `decode`.

        Args:
            semantic: (B, N) tokens, -1 = none.
            music: (B or 1, R, M) accompaniment grid (`music_grid`), or None for a model without music.
            voice: (B or 1, W, D) one singer embedding each 10 s (the last serves what follows), or None = any singer.
            steps: S.
            mask: (B, S) bool of the steps that belong to the song; None = all.
            absent_voice: (B,) bool rows that are to go without a singer.

        Returns:
            (B, S, D)

        Raises:
            ValueError: no grid for a model that reads an accompaniment.
        """
        c, device = self.config, semantic.device
        times = (torch.arange(steps * self.readings, device=device) + 0.5) / (self.step_rate * self.readings)
        read = interpolate(self.semantic.embed(semantic), times * c.semantic.token_rate - 0.5)
        x = self.semantic_into(read.unflatten(1, (steps, self.readings)).flatten(2))
        middles = (torch.arange(steps, device=device) + 0.5) / self.step_rate
        if c.voice is not None and voice is None:
            x = x + self.embedding_no_voice
        elif c.voice is not None and voice is not None:
            window = (middles / VOICE_WINDOW_SECONDS).long().clamp(max=voice.shape[1] - 1)
            singer = self.voice(voice * c.voice.width**0.5)  # unit vectors to unit variance
            if absent_voice is not None:
                singer = torch.where(absent_voice[:, None, None], self.embedding_no_voice, singer)
            x = x + singer[:, window]
        if self.music_codes is not None and self.music_pattern is not None and c.accompaniment is not None:
            if music is None:
                raise ValueError("this sm2a reads an accompaniment: give its grid (music_grid makes an empty one)")
            rate = c.accompaniment.frame_rate / self.music_pattern.hop
            x = x + interpolate(self.music_codes.embed(music), middles * rate - 0.5)
        return self.encoder(x, self._positions(steps, device), mask)

    def decode(self, grid: Tensor, level: Tensor | int, heard: Tensor, mask: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Hidden states for `logits`.

        Args:
            grid: (B, R, S) codes, -1 = masked.
            level: which level's codes are asked for, one for all or (B,) one each.
            heard: (B, S, D) of `encode`.
            mask: as in `encode`.
            rows: of `codes.rows()`, for who decodes in several passes.

        Returns:
            (B, S, D)
        """
        asked = self.embedding_level[level]
        x = self.codes.embed(grid, rows) + heard + (asked if asked.ndim == 1 else asked[:, None])
        return self.decoder(x, self._positions(grid.shape[-1], grid.device), mask)

    def logits(self, hidden: Tensor, level: int) -> Tensor:
        """(B, S, D) -> (B, S, r, V) of a level's lanes."""
        return self.codes.logits(hidden, level)

    def _positions(self, steps: int, device: torch.device) -> Tensor | None:
        return self._rotary(torch.arange(steps, device=device))
