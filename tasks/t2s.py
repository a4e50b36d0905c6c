"""Task t2s: lyrics + coarse accompaniment -> semantic tokens.

    python train.py --task_name t2s --task_args '{"size": "builtin"}' --dataset-config '{"path": "..."}'

A row gives its semantic tokens, the accompaniment's codes with all but the `mask_finegrained` coarsest levels masked, and the text of
its window: the aligned words that lie inside, a break where the second half begins. Rows whose alignment is not trusted
(`min_inlier_ratio`) train with a placeholder text; so does a share `p_no_text`, which is what guidance is measured against.
Letters: B batch, L text tokens, K levels, T finest frames, N semantic tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from autosing.config import require_at_least, require_dropout, require_shares, to_mapping
from autosing.errors import MismatchError
from autosing.models.t2s import SIZES, T2S, T2SConfig, choose, layer_counts, tokens_per_second
from autosing.song.alignment import Alignment, Word
from autosing.tokens.pointer import MAX_ADVANCE, pace_track, pointer_track, steps_since_advance, with_opening_line
from autosing.tokens.specs import CodecSpec, SemanticSpec
from autosing.tokens.text import LINE, PAD, PAUSE, UNKNOWN, TextFrontEnd, TimedText
from autosing.training.task import Batch, DatasetMeta, Losses, ParamRule, Row, Sample
from tasks.sequence import (
    MupTunables,
    best,
    check_specs,
    fit,
    leave_out,
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
class T2SArgs:
    """`--task_args` (and the keys of `--dataset-config` that are about what a row becomes).

    Attributes:
        size: row of `SIZES`.
        text: text front end, "phones" or "characters".
        text_length: longest text kept, tokens for 30 s (half of it for 15 s); longer ones are cut.
        language, languages: the language of the data, and all that the model is to know.
        pointer: teach the model which token is sung when.
        cross_layers, music_depth: decoder layers with cross-attention, layers of the music encoder; null = what the size says.
        mask_finegrained: how many of the coarsest accompaniment levels are shown.
        min_inlier_ratio: rows with less trust train with a placeholder text (trust unknown counts as trusted).
        text_guidance: how much to lean towards the text in singing, kept in the checkpoint; 1 = not at all.
        p_no_text, p_no_cond: share of examples trained without text, which `text_guidance` needs; without accompaniment.
        corrupt: share of the decoder's input tokens replaced by others while training.
        advance_weight: weight of the pointer's loss.
        kv_heads: heads of keys and values, a divisor of the size's heads; fewer make singing faster and its cache smaller; null = as many.
        layer_dropout: share of examples for which a layer is passed over while training, each layer on its own.
        checkpointing: compute the inside of layers again in the backward pass; about a third slower, for batches that would not fit.
    """

    size: str = "builtin"
    text: str = "phones"
    text_length: int = 900
    language: str = "en"
    languages: tuple[str, ...] = ("en",)
    pointer: bool = True
    cross_layers: int | None = None
    music_depth: int | None = None
    mask_finegrained: int = 2
    min_inlier_ratio: float = 0.85
    text_guidance: float = 2.0
    p_no_text: float = 0.05
    p_no_cond: float = 0.1
    corrupt: float = 0.1
    dropout: float = 0.05
    advance_weight: float = 1.0
    kv_heads: int | None = None
    layer_dropout: float = 0.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        require_size(self.size)
        if self.language not in self.languages:
            raise ValueError(f"language '{self.language}' is not among languages {list(self.languages)}; add it there")
        require_shares(self, "p_no_text", "p_no_cond", "corrupt")
        require_dropout(self, "dropout", "layer_dropout")
        require_kv_heads(self.kv_heads, self.size)
        require_at_least(self, 1, "text_length")
        require_at_least(self, 0, "cross_layers", "music_depth", "mask_finegrained", "advance_weight", "text_guidance")
        if self.text_guidance != 1 and not self.p_no_text:
            raise ValueError("'text_guidance' needs examples without text; set p_no_text to 0.05 or text_guidance to 1")


class TASK:
    """See the module docstring; the Protocol is `autosing.training.task.Task`."""

    name: ClassVar[str] = "t2s"
    Args: ClassVar[type] = T2SArgs
    Tunables: ClassVar[type] = MupTunables
    parts = ("main",)
    columns = ("id", "stoks", "mtoks", "alignment")

    def __init__(self, args: T2SArgs, tunables: MupTunables, meta: DatasetMeta):
        need(meta, self.name, "semantic")
        assert meta.semantic is not None
        self.args, self.tunables = args, tunables
        self.semantic: SemanticSpec = meta.semantic
        self.accompaniment = meta.accompaniment_codec or meta.codec
        self.meta = replace(meta, accompaniment_codec=self.accompaniment)
        self.seconds = meta.window_seconds
        self.steps = self.semantic.tokens(self.seconds)
        self.frames = self.accompaniment.frames(self.seconds) if self.accompaniment else 0
        self.length = max(2, round(args.text_length * min(1.0, self.seconds / 30)))

    @cached_property
    def text(self) -> TextFrontEnd:
        from autosing.tokens.text import load_text

        return load_text(self.args.text)

    def _timed_text(self, row: Row) -> TimedText | None:
        """The window's text with its opening LINE; None when it cannot be trusted."""
        if row.get("alignment") is None:
            return None
        alignment = Alignment.from_struct(row["alignment"])
        if alignment.trust is not None and alignment.trust <= self.args.min_inlier_ratio:
            return None
        half = self.seconds / 2 if self.seconds > 20 else None
        return with_opening_line(self.text.from_alignment(alignment.clip(0.0, self.seconds), half))

    def example(self, row: Row, rng: np.random.Generator) -> Batch | None:
        where = f"row '{row.get('id', '?')}'"
        tokens = np.asarray(row["stoks"], dtype=np.int64)
        if tokens.size == 0:
            return None
        text = self._timed_text(row)
        if text is None or rng.random() < self.args.p_no_text:
            ids, pointer = np.array([UNKNOWN]), self._no_pointer()
        else:
            ids = text.ids[: self.length]
            pointer = self._pointer(text, ids, tokens.size)
        out = {
            "text": fit(ids.astype(np.int64), self.length, PAD),
            "rate": np.float32(tokens_per_second(len(ids), self.seconds)),
            "language": np.int64(self.args.languages.index(self.args.language)),
            "semantic": fit(tokens, self.steps, -1),
            **pointer,
        }
        if self.accompaniment is not None:
            codes = window_codes(row["mtoks"], self.accompaniment, self.frames, where)
            codes = np.where(np.arange(len(codes))[:, None] < self.args.mask_finegrained, codes, CodecSpec.HOLE)
            out["music"] = codes
        return {key: torch.as_tensor(value) for key, value in out.items()}

    def _no_pointer(self) -> dict[str, np.ndarray]:
        """Of a placeholder: it stays where it is, and is not learnt."""
        track = np.zeros(self.steps, dtype=np.int64)
        return {"pointer": track, "since": steps_since_advance(track), "pace": np.zeros_like(track), "advance": np.full_like(track, -1)}

    def _pointer(self, text: TimedText, ids: np.ndarray, sung: int) -> dict[str, np.ndarray]:
        """Which of `ids` is sung at each step, since when and how fast, and how far it then moves; -1 behind the `sung` tokens of a row."""
        track = np.minimum(pointer_track(text, self.steps, self.semantic.token_rate), len(ids) - 1)
        advance = np.full(self.steps, -1, dtype=np.int64)
        advance[:-1] = np.diff(track)
        advance[min(sung, self.steps) :] = -1
        return {"pointer": track, "since": steps_since_advance(track), "pace": pace_track(ids, track), "advance": advance}

    def collate(self, examples: Sequence[Batch]) -> Batch:
        """Stacked examples without the padding that all their texts share: it is cut here, where reading a length waits for no device."""
        batch = {key: torch.stack([example[key] for example in examples]) for key in examples[0]}
        return {**batch, "text": batch["text"][:, : int((batch["text"] != PAD).sum(1).max())]}

    def config(self) -> T2SConfig:
        """The model's shape."""
        args, size = self.args, SIZES[self.args.size]
        encoder, decoder = layer_counts(size, self.tunables.encoder_depth_ratio)
        return T2SConfig(
            heads=size.heads,
            encoder_depth=encoder,
            music_depth=choose(args.music_depth, size.music_depth, encoder),
            decoder_depth=decoder,
            text=self.text.name,
            text_vocab=self.text.vocab_size,
            semantic=self.semantic,
            accompaniment=self.accompaniment,
            languages=args.languages,
            cross_layers=choose(args.cross_layers, size.cross_layers, decoder),
            pointer=args.pointer,
            shown_levels=args.mask_finegrained,
            text_guidance=args.text_guidance,
            dropout=args.dropout,
            kv_heads=args.kv_heads,
            layer_dropout=args.layer_dropout,
            checkpointing=args.checkpointing,
            mup=self.tunables.mup,
        )

    def build_model(self) -> nn.Module:
        model = T2S(self.config())
        model.semantic.load(load_codebook(self.semantic))
        return model

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        assert isinstance(model, T2S)
        text = batch["text"]
        semantic, steps = batch["semantic"], batch["semantic"].shape[1]
        music = batch.get("music")
        if music is not None and model.training:
            music, _ = leave_out(music, self.args.p_no_cond)
        grid = model.music_grid(music, len(text), self.frames, text.device)
        source = model.encode(text, batch["rate"], batch["language"], grid, steps)
        previous = F.pad(semantic[:, :-1], (1, 0), value=-1)
        if model.training:
            previous = replace_codes(previous, self.args.corrupt)
        hidden = model.decode(previous, source, batch["pointer"], batch["since"], batch["pace"])
        logits = model.semantic_logits(hidden).float()
        token_loss = F.cross_entropy(logits.flatten(0, 1), semantic.flatten(), ignore_index=-1)
        total, parts = token_loss, {"semantic": token_loss.detach()}
        known = (semantic >= 0).sum()
        terms = [(token_loss, known)]
        metrics = {"semantic_accuracy": (best(logits) == semantic).sum() / known}
        if model.config.pointer:
            advance = batch["advance"].clamp(max=MAX_ADVANCE).flatten()
            moves = model.advance_logits(hidden).float().flatten(0, 1)
            # a batch of placeholders alone has no pointer to learn: sum / count keeps its loss at 0 instead of NaN
            count = (advance >= 0).sum().clamp(min=1)
            advance_loss = F.cross_entropy(moves, advance, ignore_index=-1, reduction="sum") / count
            total = total + self.args.advance_weight * advance_loss
            terms.append((self.args.advance_weight * advance_loss, (advance >= 0).sum()))
            parts["advance"] = advance_loss.detach()
        return Losses(total, parts, metrics, tuple(terms))

    def tokens(self, batch: Batch) -> int:
        """How many targets a batch holds."""
        return int((batch["semantic"] >= 0).sum())

    def samples(self, model: nn.Module, batch: Batch) -> list[Sample]:
        """Every row's text sung over its accompaniment, as tokens, with the words where the pointer was and as the tokenizer reads them out."""
        from autosing.singing.generate import generate_semantic

        assert isinstance(model, T2S)
        made = []
        for row, text in enumerate(batch["text"]):
            ids = text[text != PAD].cpu().numpy()
            ids = ids[1:] if len(ids) and ids[0] == LINE else ids
            unknown = np.full(len(ids), np.nan)
            music = batch["music"][row : row + 1] if "music" in batch else None
            generator = torch.Generator(text.device).manual_seed(0)
            tokens, track = generate_semantic(model, TimedText(ids, unknown, unknown), music, steps=self.steps, generator=generator)
            words = self._spelled(track.ids, track.words(0)) if track.pointer is not None else ()
            tokens = tokens[0].cpu()
            heard = read_out(self.semantic, tokens)
            made.append(Sample("t2s: words to sing, and what is heard in the tokens", Alignment(words), heard, tokens=tokens, token_rate=self.semantic.token_rate))
        return made

    def _spelled(self, ids: np.ndarray, times: Sequence[tuple[float, float]]) -> tuple[Word, ...]:
        """The words that text tokens spell, at their (start, end) in seconds."""
        spelled = "".join("|" if i == PAUSE else "" if i == LINE else self.text.symbols[i] for i in ids).split("|")
        return tuple(Word(word, *when, 1.0, 0) for word, when in zip(spelled, times, strict=False))

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        assert isinstance(model, T2S)
        return mup_rules(model.config.width, self.tunables)

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"task": self.name, "args": to_mapping(self.args), "text": self.args.text, "dataset": self.meta.to_json()}

    def check_loaded(self, meta: dict[str, Any], where: str) -> None:
        """Refuse weights trained with another codec, semantic tokenizer or text front end than this dataset and these args.

        Raises:
            MismatchError: names the part and both values.
        """
        check_specs(meta, where, self.meta, ("semantic", "accompaniment_codec"))
        if meta.get("text") not in (None, self.args.text):
            raise MismatchError(
                f"{where} reads text as '{meta['text']}', task_args say '{self.args.text}'; set \"text\": \"{meta['text']}\""
            )
