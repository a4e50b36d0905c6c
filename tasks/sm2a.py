"""Task sm2a: semantic tokens + accompaniment + singer -> codec tokens of the voice.

    python train.py --task_name sm2a --task_args '{"size": "builtin"}' --dataset-config '{"path": "...", "multiscale": true}'

A row gives its semantic tokens, the codes of both stems and the singer embeddings, cut to a random passage of `crop_seconds` (the
same passage of all four). With `multiscale` a share `p_coarse` of the batches is the whole passage in "bricks" and the rest a piece of
as many steps in "bricks_unrolled", which is also what is validated (the first steps of each passage). A share `p_no_cond` of the examples
goes without accompaniment and singer, a share `p_no_semantic` without semantic tokens (for guidance towards either).
Letters: B batch, K levels, T finest frames, N semantic tokens, W voice windows, R lanes, S steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from autosing.config import require_at_least, require_dropout, require_fields, require_shares, to_mapping
from autosing.errors import ConfigError
from autosing.models.sm2a import SM2A, VOICE_WINDOW_SECONDS, SM2AConfig
from autosing.models.t2s import SIZES, choose, layer_counts
from autosing.song.alignment import Alignment
from autosing.tokens.patterns import TokenPattern, load_pattern
from autosing.tokens.specs import CodecSpec, SemanticSpec
from autosing.training.task import Batch, DatasetMeta, Losses, ParamRule, Row, Sample
from tasks.sequence import (
    MupTunables,
    best,
    check_specs,
    fit,
    leave_out,
    load_code_features,
    load_codebook,
    mup_rules,
    need,
    read_out,
    replace_codes,
    require_kv_heads,
    require_size,
    window_codes,
)


@dataclass(frozen=True)
class SM2AArgs:
    """`--task_args` (and the keys of `--dataset-config` that are about what a row becomes).

    Attributes:
        size: row of `SIZES`.
        pattern: what to train and sing without `multiscale`.
        multiscale, p_coarse: train both patterns; the share of batches in "bricks". Such a model sings in "bricks_unrolled".
        crop_seconds: random passage of a row to train on; null = whole rows.
        aligned: add the encoders' states to the decoder input at the time of each code.
        cross_layers: decoder layers with cross-attention; null = what the size says.
        music_encoder_ratio: layers of the music encoder per layer of the semantic encoder.
        span_seconds: how far attention reaches; null = any distance, or crop_seconds where rows are cropped.
        codebooks: tell the model what each code stands for (the codec's own vectors), where the codec knows.
        level_temperatures: a factor on the sampling temperature for each level, kept in the checkpoint; [] = 1 each.
        semantic_guidance: how much to lean towards the semantic tokens in singing, kept in the checkpoint; 1 = not at all.
        p_no_cond: share of examples without accompaniment and singer.
        p_no_semantic: share of examples without semantic tokens, which `semantic_guidance` needs.
        kv_heads, layer_dropout, checkpointing: see `tasks.t2s.T2SArgs`.
        corrupt, corrupt_semantic: share of the decoder's input codes, of the semantic tokens, replaced by others while training.
    """

    size: str = "builtin"
    pattern: str = "bricks"
    multiscale: bool = False
    p_coarse: float = 0.75
    crop_seconds: float | None = None
    aligned: bool = True
    cross_layers: int | None = None
    music_encoder_ratio: float = 1.0
    causal_music_encoder: bool = False
    span_seconds: float | None = None
    lane_projections: bool = True
    codebooks: bool = True
    level_temperatures: tuple[float, ...] = ()
    semantic_guidance: float = 3.0
    p_no_cond: float = 0.1
    p_no_semantic: float = 0.1
    corrupt: float = 0.15
    corrupt_semantic: float = 0.03
    dropout: float = 0.05
    kv_heads: int | None = None
    layer_dropout: float = 0.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        require_size(self.size)
        if not self.aligned and choose(self.cross_layers, SIZES[self.size].cross_layers, 1) == 0:
            raise ValueError("with neither aligned states nor cross-attention nothing is heard; set aligned true or cross_layers 1")
        require_shares(self, "p_coarse", "p_no_cond", "p_no_semantic", "corrupt", "corrupt_semantic")
        require_dropout(self, "dropout", "layer_dropout")
        require_kv_heads(self.kv_heads, self.size)
        require_at_least(self, 0, "cross_layers", "music_encoder_ratio", "semantic_guidance")
        if self.semantic_guidance != 1 and not self.p_no_semantic:
            raise ValueError("'semantic_guidance' needs examples without semantic tokens; set p_no_semantic to 0.1 or semantic_guidance to 1")
        require_fields(self, "above 0", lambda seconds: seconds > 0, "crop_seconds", "span_seconds")
        require_fields(self, "above 0 each", lambda factors: min(factors, default=1.0) > 0, "level_temperatures")


@dataclass(frozen=True)
class SM2ATunables(MupTunables):
    """Adds what only sm2a has: the weight of the coarsest level in the loss, and an encoder that sees no future."""

    q0_loss_mult: float = 1.0
    causal_encoder: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "q0_loss_mult")


def crop_starts(codec: CodecSpec, semantic: SemanticSpec, block: int, seconds: float, crop_frames: int) -> np.ndarray:
    """Finest frames at which a passage may start: whole blocks where a semantic token starts too (within a tenth of one)."""
    starts = np.arange(0, max(1, codec.frames(seconds) - crop_frames + 1), block)
    tokens = starts * codec.hop / codec.sample_rate * semantic.token_rate
    return starts[np.abs(tokens - tokens.round()) <= 0.1]


class TASK:
    """See the module docstring; the Protocol is `autosing.training.task.Task`."""

    name: ClassVar[str] = "sm2a"
    Args: ClassVar[type] = SM2AArgs
    Tunables: ClassVar[type] = SM2ATunables
    parts = ("main",)
    columns = ("id", "stoks", "atoks", "mtoks", "embs")

    def __init__(self, args: SM2AArgs, tunables: SM2ATunables, meta: DatasetMeta):
        """
        Raises:
            DataError: the dataset does not tell codec and semantic tokens.
            ConfigError: 'crop_seconds' is shorter than a block of codes, or there is not one of 'level_temperatures' for each level.
        """
        need(meta, self.name, "codec", "semantic")
        assert meta.codec is not None and meta.semantic is not None
        self.args, self.tunables = args, tunables
        self.codec, self.semantic, self.voice = meta.codec, meta.semantic, meta.voice
        self.accompaniment = meta.accompaniment_codec or meta.codec
        self.meta = replace(meta, accompaniment_codec=self.accompaniment)
        block = self._block()
        self.seconds = min(args.crop_seconds or meta.window_seconds, meta.window_seconds)
        self.frames = self.codec.frames(self.seconds)
        self.starts = crop_starts(self.codec, self.semantic, block, meta.window_seconds, self.frames)
        self.steps = self.semantic.tokens(self.seconds)
        if not self.frames or not self.steps:
            raise ConfigError(f"--task-args: 'crop_seconds' {self.seconds:g} is shorter than a block of codes; take a few seconds")
        if len(args.level_temperatures) not in (0, self.codec.levels):
            raise ConfigError(
                f"--task-args: 'level_temperatures' must have {self.codec.levels} values, one for each level of codec "
                f"'{self.codec.name}', or none; found {list(args.level_temperatures)}"
            )
        self.music_frames = self.accompaniment.frames(self.seconds)
        self.windows = int(-(-self.seconds // VOICE_WINDOW_SECONDS))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The token patterns to train, the one to sing with first."""
        return ("bricks_unrolled", "bricks") if self.args.multiscale else (self.args.pattern,)

    def _block(self) -> int:
        """Finest frames of a block of the grid; passages begin with one."""
        return load_pattern(self.patterns[0], self.codec.strides).block

    def example(self, row: Row, rng: np.random.Generator) -> Batch | None:
        where = f"row '{row.get('id', '?')}'"
        tokens = np.asarray(row["stoks"], dtype=np.int64)
        codes = np.asarray(row["atoks"])
        if tokens.size == 0 or codes.size == 0:
            return None
        codes = window_codes(codes, self.codec, max(codes.size // self.codec.levels, self.frames), where)
        fitting = self.starts[self.starts + self.frames <= codes.shape[1]]
        first_frame = int(rng.choice(fitting)) if len(fitting) else 0
        first_second = self.codec.seconds(first_frame)
        first_token = round(first_second * self.semantic.token_rate)
        first_music = round(first_second * self.accompaniment.frame_rate)
        music = np.asarray(row["mtoks"])
        music = window_codes(music, self.accompaniment, max(music.size // self.accompaniment.levels, self.music_frames), where)
        # a passage that starts inside a coarse code of the accompaniment's grid starts at that code
        first_music -= first_music % max(self.accompaniment.strides)
        out = {
            "semantic": fit(tokens[first_token:], self.steps, -1),
            "codes": fit(codes[:, first_frame:], self.frames, CodecSpec.HOLE),
            "music": fit(music[:, first_music:], self.music_frames, CodecSpec.HOLE),
        }
        if self.voice is not None:
            embeddings = np.asarray(row["embs"], dtype=np.float32).reshape(-1, self.voice.width)
            middles = first_second + (np.arange(self.windows) + 0.5) * min(VOICE_WINDOW_SECONDS, self.seconds)
            index = np.minimum((middles / VOICE_WINDOW_SECONDS).astype(int), len(embeddings) - 1)
            out["voice"] = embeddings[index]
        return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in out.items()}

    def config(self) -> SM2AConfig:
        """The model's shape."""
        args, size = self.args, SIZES[self.args.size]
        encoder, decoder = layer_counts(size, self.tunables.encoder_depth_ratio)
        group = load_pattern(self.patterns[0], self.codec.strides).group
        span_seconds = args.span_seconds or (self.seconds if args.crop_seconds else None)
        return SM2AConfig(
            heads=size.heads,
            encoder_depth=encoder,
            music_depth=round(encoder * args.music_encoder_ratio),
            decoder_depth=decoder,
            semantic=self.semantic,
            codec=self.codec,
            voice=self.voice,
            accompaniment=self.accompaniment,
            patterns=self.patterns,
            cross_layers=choose(args.cross_layers, size.cross_layers, decoder),
            aligned=args.aligned,
            causal_encoder=self.tunables.causal_encoder,
            causal_music_encoder=args.causal_music_encoder,
            span=None if span_seconds is None else -(-self.codec.frames(span_seconds) // group),
            lane_projections=args.lane_projections,
            level_temperatures=args.level_temperatures,
            semantic_guidance=args.semantic_guidance,
            code_widths=tuple(f.shape[1] for f in self.features[0]),
            accompaniment_widths=tuple(f.shape[1] for f in self.features[1]),
            dropout=args.dropout,
            kv_heads=args.kv_heads,
            layer_dropout=args.layer_dropout,
            checkpointing=args.checkpointing,
            mup=self.tunables.mup,
        )

    @cached_property
    def features(self) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """What is known of the voice's and of the accompaniment's codes; accompaniments in the voice's codec share its table."""
        if not self.args.codebooks:
            return (), ()
        return load_code_features(self.codec), () if self.accompaniment == self.codec else load_code_features(self.accompaniment)

    def build_model(self) -> nn.Module:
        model = SM2A(self.config())
        model.semantic.load(load_codebook(self.semantic))
        for geometry, features in zip((model.geometry, model.music_geometry), self.features, strict=True):
            if geometry is not None:
                geometry.load(features)
        return model

    def _view(self, model: SM2A) -> tuple[TokenPattern, int | None]:
        """The pattern of this batch and, for a piece, its steps; drawn from torch's generator in training, else the one to sing with."""
        if not self.args.multiscale:
            return model.pattern(self.args.pattern), None
        if model.training and torch.rand(()).item() < self.args.p_coarse:
            return model.pattern("bricks"), None
        return model.pattern(self.patterns[0]), model.pattern("bricks").steps(self.frames)

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        assert isinstance(model, SM2A)
        pattern, piece = self._view(model)
        grid = pattern.apply(batch["codes"], self.codec)
        music, absent = batch["music"], None
        if model.training:
            music, absent = leave_out(music, self.args.p_no_cond)
        previous = F.pad(grid[..., :-1], (1, 0), value=CodecSpec.HOLE)
        first = 0
        if piece is not None and piece < grid.shape[-1]:
            if model.training:
                first = int(torch.randint(0, (grid.shape[-1] - piece) // pattern.block + 1, ())) * pattern.block
            grid, previous = grid[..., first : first + piece], previous[..., first : first + piece]
        semantic = batch["semantic"]
        if model.training:
            previous = replace_codes(previous, self.args.corrupt)
            semantic = replace_codes(semantic, self.args.corrupt_semantic)
            semantic, _ = leave_out(semantic, self.args.p_no_semantic)
        source = model.encode(
            semantic,
            model.music_grid(music, len(grid), self.music_frames, grid.device),
            batch.get("voice"),
            pattern,
            grid.shape[-1],
            first,
            absent,
        )
        hidden = model.decode(previous, source)
        return self._score(model, pattern, hidden, grid, first)

    def _score(self, model: SM2A, pattern: TokenPattern, hidden: torch.Tensor, grid: torch.Tensor, first: int) -> Losses:
        """Cross-entropy of each lane where it is live, averaged over lanes; parts are levels. The grid begins at step `first`."""
        total, weights = hidden.new_zeros(()), 0.0
        terms: list[tuple[torch.Tensor, torch.Tensor]] = []
        levels: dict[int, list[torch.Tensor]] = {}
        right: dict[int, list[torch.Tensor]] = {}
        slots = pattern.live_slots(grid.shape[-1], self.codec, first)
        for row, (lane, logits) in enumerate(zip(pattern.lanes, model.live_logits(hidden, slots), strict=True)):
            target, logits = grid[:, row, slots[row]].flatten(), logits.flatten(0, 1).float()
            live = (target != CodecSpec.HOLE).sum()
            count = live.clamp(min=1)
            loss = F.cross_entropy(logits, target, ignore_index=CodecSpec.HOLE, reduction="sum") / count
            weight = self.tunables.q0_loss_mult if lane.level == 0 else 1.0
            total, weights = total + weight * loss, weights + 1.0
            terms.append((weight * loss / len(pattern.lanes), live))
            levels.setdefault(lane.level, []).append(loss.detach())
            right.setdefault(lane.level, []).append((best(logits) == target).sum() / count)
        return Losses(
            total / weights,
            {f"level{level}": torch.stack(values).mean() for level, values in levels.items()},
            {f"level{level}_accuracy": torch.stack(values).mean() for level, values in right.items()},
            tuple(terms),
        )

    def tokens(self, batch: Batch) -> int:
        """How many targets a batch holds."""
        return int((batch["codes"] >= 0).sum())

    def samples(self, model: nn.Module, batch: Batch) -> list[Sample]:
        """Every row's true semantic tokens sung over its accompaniment in its voice, with the phones that the tokenizer reads out of them."""
        from autosing.perception import load_codec
        from autosing.singing.codes import sing_codes

        codec = load_codec(self.codec.name, batch["semantic"].device)
        made = []
        for row, semantic in enumerate(batch["semantic"]):
            music, voice = batch["music"][row : row + 1], batch["voice"][row : row + 1] if "voice" in batch else None
            generator = torch.Generator(semantic.device).manual_seed(0)
            codes = sing_codes(model, semantic[None], music, voice, frames=self.frames, generator=generator)
            heard = read_out(self.semantic, semantic[semantic >= 0].cpu())
            audio = codec.decode(codes)[0].cpu()
            made.append(Sample(f"{self.name}: true semantic tokens, sung", Alignment(heard), heard, audio, self.codec.sample_rate))
        return made

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        config: Any = model.config
        return mup_rules(config.width, self.tunables)

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"task": self.name, "args": to_mapping(self.args), "dataset": self.meta.to_json()}

    @staticmethod
    def args_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a checkpoint was trained with; whether one from before `codebooks` has any is told by its shape."""
        args, config = dict(checkpoint.get("meta", {}).get("args", {})), checkpoint["config"]
        args.setdefault("codebooks", bool(config.get("code_widths") or config.get("accompaniment_widths")))
        return args

    def check_loaded(self, meta: dict[str, Any], where: str) -> None:
        """Refuse weights trained with another codec, semantic tokenizer or voice embedder than this dataset.

        Raises:
            MismatchError: names the part and both values.
        """
        check_specs(meta, where, self.meta, ("codec", "accompaniment_codec", "semantic", "voice"))
