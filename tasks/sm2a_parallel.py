"""Task sm2a_parallel: semantic tokens + accompaniment + singer -> codec tokens of the voice, by filling in what is masked.

    python train.py --task_name sm2a_parallel --task_args '{"crop_seconds": 12.0}' --dataset-config '{"path": "..."}'

Rows become what they become for `sm2a`. Every example is heard once and learnt at each of the K levels: coarser codes are given, finer ones
masked, and of the level's own a share cos(u pi / 2), u uniform, is to be told. In a share `p_around` of these only a passage is: whatever stands
around it is given, at all levels, as singing from a prompt and singing a passage again have it. Validation masks the same cells every time.
Letters: B batch, K levels, T finest frames, N semantic tokens, R lanes (r of one level), S steps, D width, V codes.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tasks.sm2a
from autosing.config import require_at_least, require_dropout, require_fields, require_shares
from autosing.errors import ConfigError
from autosing.models.sm2a_parallel import SM2AParallel, SM2AParallelConfig
from autosing.models.t2s import SIZES, layer_counts
from autosing.tokens.patterns import blocks
from autosing.tokens.specs import CodecSpec
from autosing.training.task import Batch, DatasetMeta, Losses
from tasks.sequence import MupTunables, best, leave_out, load_codebook, replace_codes, require_kv_heads, require_size


@dataclass(frozen=True)
class SM2AParallelArgs:
    """`--task_args` (and the keys of `--dataset-config` that are about what a row becomes).

    Attributes:
        size: row of `SIZES`.
        crop_seconds: random passage of a row to train on; null = whole rows.
        encoder_depth, decoder_depth: layers that a song goes through once, in every pass; null = the size's layers, two thirds and one
            third of them (`encoder_depth_ratio`).
        span_seconds: how far attention reaches; null = any distance, or crop_seconds where rows are cropped.
        codebooks: tell the model what each code stands for (the codec's own vectors), where the codec knows.
        level_temperatures, pass_shares, semantic_guidance: how to sing, kept in the checkpoint; see `SM2AParallelConfig`.
        p_no_cond, p_no_semantic: share of examples without accompaniment and singer, without semantic tokens, which guidance needs.
        p_around: share of examples that sing a passage between given codes.
        corrupt, corrupt_semantic: share of the given codes, of the semantic tokens, replaced by others while training.
        kv_heads, layer_dropout, checkpointing: see `tasks.t2s.T2SArgs`.
    """

    size: str = "builtin"
    crop_seconds: float | None = None
    encoder_depth: int | None = None
    decoder_depth: int | None = None
    span_seconds: float | None = None
    codebooks: bool = True
    level_temperatures: tuple[float, ...] = ()
    pass_shares: tuple[float, ...] = ()
    semantic_guidance: float = 2.0
    p_no_cond: float = 0.1
    p_no_semantic: float = 0.1
    p_around: float = 0.2
    corrupt: float = 0.1
    corrupt_semantic: float = 0.03
    dropout: float = 0.05
    kv_heads: int | None = None
    layer_dropout: float = 0.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        require_size(self.size)
        require_shares(self, "p_no_cond", "p_no_semantic", "p_around", "corrupt", "corrupt_semantic")
        require_dropout(self, "dropout", "layer_dropout")
        require_kv_heads(self.kv_heads, self.size)
        require_at_least(self, 1, "encoder_depth", "decoder_depth")
        require_at_least(self, 0, "semantic_guidance")
        if self.semantic_guidance != 1 and not self.p_no_semantic:
            raise ValueError("'semantic_guidance' needs examples without semantic tokens; set p_no_semantic to 0.1 or semantic_guidance to 1")
        require_fields(self, "above 0", lambda seconds: seconds > 0, "crop_seconds", "span_seconds")
        require_fields(self, "above 0 each", lambda factors: min(factors, default=1.0) > 0, "level_temperatures", "pass_shares")


@dataclass(frozen=True)
class SM2AParallelTunables(MupTunables):
    """The sequence models' tunables; more of the layers are the encoder's, which a song goes through only once."""

    encoder_depth_ratio: float = 2 / 3


class TASK(tasks.sm2a.TASK):
    """See the module docstring; the Protocol is `autosing.training.task.Task`."""

    name: ClassVar[str] = "sm2a_parallel"
    Args: ClassVar[type] = SM2AParallelArgs
    Tunables: ClassVar[type] = SM2AParallelTunables

    def __init__(self, args: SM2AParallelArgs, tunables: SM2AParallelTunables, meta: DatasetMeta):
        """
        Raises:
            DataError, ConfigError: as `tasks.sm2a.TASK`; or there is not one of 'pass_shares' for each level.
        """
        super().__init__(args, tunables, meta)  # type: ignore[arg-type] - of its args only those are read that these have too
        if len(args.pass_shares) not in (0, self.codec.levels):
            raise ConfigError(
                f"--task-args: 'pass_shares' must have {self.codec.levels} values, one for each level of codec '{self.codec.name}', or "
                f"none; found {list(args.pass_shares)}"
            )

    def _block(self) -> int:
        return blocks(self.codec.strides).block

    def config(self) -> SM2AParallelConfig:
        """The model's shape."""
        args: SM2AParallelArgs = self.args
        encoder, decoder = layer_counts(SIZES[args.size], self.tunables.encoder_depth_ratio)
        span_seconds = args.span_seconds or (self.seconds if args.crop_seconds else None)
        known = [tuple(f.shape[1] for f in features) for features in self.features]
        return SM2AParallelConfig(
            heads=SIZES[args.size].heads,
            encoder_depth=args.encoder_depth or encoder,
            decoder_depth=args.decoder_depth or decoder,
            semantic=self.semantic,
            codec=self.codec,
            voice=self.voice,
            accompaniment=self.accompaniment,
            span=None if span_seconds is None else -(-self.codec.frames(span_seconds) // self._block()),
            code_widths=known[0],
            accompaniment_widths=known[1] or (known[0] if self.accompaniment == self.codec else ()),
            level_temperatures=args.level_temperatures,
            pass_shares=args.pass_shares,
            semantic_guidance=args.semantic_guidance,
            dropout=args.dropout,
            kv_heads=args.kv_heads,
            layer_dropout=args.layer_dropout,
            checkpointing=args.checkpointing,
            mup=self.tunables.mup,
        )

    def build_model(self) -> nn.Module:
        model = SM2AParallel(self.config())
        model.semantic.load(load_codebook(self.semantic))
        voice, music = self.features
        if model.geometry is not None:
            model.geometry.load(voice)
        if model.music_geometry is not None:
            model.music_geometry.load(music or voice)
        return model

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        assert isinstance(model, SM2AParallel)
        grid, music, semantic, absent = model.pattern.apply(batch["codes"], self.codec), batch["music"], batch["semantic"], None
        shown, device = grid, grid.device
        generator = None if model.training else torch.Generator(device).manual_seed(0)
        if model.training:
            music, absent = leave_out(music, self.args.p_no_cond)
            semantic = replace_codes(semantic, self.args.corrupt_semantic)
            semantic, _ = leave_out(semantic, self.args.p_no_semantic)
            shown = replace_codes(grid, self.args.corrupt)
        mask = (grid >= 0).any(1)
        read = model.music_grid(music, len(grid), self.music_frames, device)
        heard = model.encode(semantic, read, batch.get("voice"), grid.shape[-1], mask, absent)
        asked, hidden_too = self._masks(model, grid, generator)
        levels = self.codec.levels
        hidden = model.decode(
            torch.where(hidden_too, CodecSpec.HOLE, shown).flatten(0, 1),
            torch.arange(levels, device=device).repeat_interleave(len(grid)),
            heard.repeat(levels, 1, 1),
            mask.repeat(levels, 1),
        )
        return self._told(model, hidden.unflatten(0, (levels, -1)), torch.where(asked, grid, CodecSpec.HOLE))

    def _masks(self, model: SM2AParallel, grid: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """For each level (K, B, R, S) bool: the cells to be told, and all that are masked. By chance alone, so nothing waits for a device."""
        levels, (batch, _, steps), device = self.codec.levels, grid.shape, grid.device

        def chance(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        level = torch.arange(levels, device=device)[:, None, None, None]
        of_lane = torch.tensor(model.codes.levels, device=device)[:, None]
        share = (chance(levels, batch, 1, 1) * (math.pi / 2)).cos()
        at = torch.arange(steps, device=device) / steps
        # a passage from one place to another, which may lie outside; where the two ends are drawn the other way round, it is the song without
        # what lies between, so prompts, continuations and gaps all occur
        first, last = chance(levels, batch, 1, 1) * 1.4 - 0.2, chance(levels, batch, 1, 1) * 1.4 - 0.2
        passage = (at >= first) & (at < last) | (first > last) & ((at >= first) | (at < last))
        passage = passage | (chance(levels, batch, 1, 1) >= self.args.p_around)
        own = (of_lane == level) & (chance(levels, *grid.shape) < share)
        return own & passage & (grid >= 0), (own | (of_lane > level)) & passage

    def _told(self, model: SM2AParallel, hidden: Tensor, targets: Tensor) -> Losses:
        """Cross-entropy of the (K, B, R, S) targets that are no holes, averaged over levels; `hidden` is (K, B, S, D)."""
        terms: list[tuple[Tensor, Tensor]] = []
        parts: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for level, (states, target) in enumerate(zip(hidden, targets, strict=True)):
            target = target[:, model.lanes(level)].transpose(1, 2).flatten()
            logits = model.logits(states, level).flatten(0, 2).float()
            told = (target != CodecSpec.HOLE).sum()
            count = told.clamp(min=1)
            loss = F.cross_entropy(logits, target, ignore_index=CodecSpec.HOLE, reduction="sum") / count
            terms.append((loss / self.codec.levels, told))
            parts[f"level{level}"] = loss.detach()
            metrics[f"level{level}_accuracy"] = (best(logits) == target).sum() / count
        return Losses(torch.stack([loss for loss, _ in terms]).sum(), parts, metrics, tuple(terms))
