"""Task t2s: lyrics + coarse accompaniment -> semantic tokens.

    python train.py --task_name t2s --task_args '{"size": "builtin"}' --dataset-config '{"path": "..."}'

A row gives its semantic tokens, the accompaniment's codes with all but the `mask_finegrained` coarsest levels masked, and the text of
its window: the aligned words that lie inside, a break where the second half begins. Rows whose alignment is not trusted
(`min_inlier_ratio`) train with a placeholder text; so does a share `p_no_text`, which is what guidance is measured against.
Letters: B batch, L text tokens, K levels, T finest frames, N semantic tokens.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autosing.config import nearest, require_at_least, require_dropout, require_fields, require_shares, to_mapping
from autosing.errors import DataError, MismatchError
from autosing.models.t2s import SIZES, T2S, T2SConfig, choose, layer_counts, tokens_per_second
from autosing.nn.embeddings import code_features
from autosing.nn.mup import Mup, learning_rules
from autosing.song.alignment import Alignment, Word
from autosing.tokens.pointer import MAX_ADVANCE, pace_track, pointer_track, steps_since_advance, with_opening_line
from autosing.tokens.specs import CodecSpec, SemanticSpec, require_same
from autosing.tokens.text import LINE, PAD, PAUSE, UNKNOWN, TextFrontEnd, TimedText
from autosing.training.task import Batch, DatasetMeta, Losses, OptimTunables, ParamRule, Row, Sample, drawn


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


@dataclass(frozen=True)
class MupTunables(OptimTunables):
    """Tunables of both sequence models; see `autosing.nn.mup.Mup` for the first six."""

    init_std: float = drawn(9.0, 3.0, 30.0)
    embeddings_std: float = drawn(0.2, 0.02, 0.5)
    output_mult: float = drawn(5.6, 1.0, 16.0)
    query_mult: float = drawn(0.3, 0.1, 2.0)
    linear_heads: bool = False
    rope: bool = True
    embeddings_lr_scale: float = drawn(10.0, 4.0, 20.0)
    encoder_depth_ratio: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fields(self, "above 0", lambda value: value > 0, "init_std", "output_mult", "query_mult")
        require_at_least(self, 0, "embeddings_std", "embeddings_lr_scale")
        require_shares(self, "encoder_depth_ratio")

    @property
    def mup(self) -> Mup:
        return Mup(self.init_std, self.embeddings_std, self.output_mult, self.query_mult, self.linear_heads, self.rope)


def require_size(size: str) -> None:
    """Refuse a size that is no row of `SIZES`.

    Raises:
        ValueError: names the nearest one.
    """
    if size not in SIZES:
        raise ValueError(f"no size is called '{size}'{nearest(size, SIZES)}")


def require_kv_heads(kv_heads: int | None, size: str) -> None:
    """Refuse heads of keys and values that cannot be shared out evenly over the size's heads.

    Raises:
        ValueError: names both.
    """
    heads = SIZES[size].heads
    if kv_heads is not None and (kv_heads < 1 or heads % kv_heads):
        raise ValueError(f"'kv_heads' must divide the {heads} heads of size '{size}', found {kv_heads}")


def best(logits: Tensor) -> Tensor:
    """(..., V) -> the likeliest code; what argmax gives, which takes three times as long on the CPU."""
    return logits.detach().max(-1).indices


def need(meta: DatasetMeta, task: str, *fields: str) -> None:
    """Refuse a dataset that does not say what the task must know.

    Raises:
        DataError: names the field.
    """
    for field in fields:
        if getattr(meta, field) is None:
            raise DataError(f"task {task} needs '{field}' in dataset.json, this dataset has none; make it with construct_dataset.py")


def load_codebook(spec: SemanticSpec) -> Tensor:
    """The (num_codes, width) codebook of the semantic tokenizer a dataset was made with."""
    from autosing.perception import load_semantic

    tokenizer = load_semantic(spec.name)
    require_same("semantic tokenizer", tokenizer.spec, f"the installed '{spec.name}'", spec, "the dataset")
    return tokenizer.codebook()


def load_code_features(spec: CodecSpec) -> tuple[Tensor, ...]:
    """What the codec a dataset was made with tells of its codes, a (num_codes, features) tensor a level; () where it tells nothing."""
    from autosing.perception import load_codec

    codec = load_codec(spec.name)
    require_same("codec", codec.spec, f"the installed '{spec.name}'", spec, "the dataset")
    return tuple(code_features(book) for book in codec.codebooks())


def read_out(spec: SemanticSpec, tokens: Tensor) -> tuple[Word, ...]:
    """Phones that a tokenizer reads out of its own (N,) semantic tokens, from rest to rest as one word; () where it has no read-out."""
    from autosing.models.recogniser import CLASSES, SILENCE
    from autosing.perception import load_semantic

    tokenizer = load_semantic(spec.name)
    if not hasattr(tokenizer, "phones") or not len(tokens):
        return ()
    classes = tokenizer.phones(tokens).tolist()  # type: ignore[attr-defined]
    seconds = len(tokens) / spec.token_rate / len(classes)
    words: list[Word] = []
    for sung, run in itertools.groupby(enumerate(classes), lambda frame: frame[1] != SILENCE):
        frames = list(run)
        if sung:
            text = "".join(CLASSES[phone] for phone, _ in itertools.groupby(phone for _, phone in frames))
            words.append(Word(text, frames[0][0] * seconds, (frames[-1][0] + 1) * seconds, 1.0, 0))
    return tuple(words)


def fit(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    """Cut or pad the last axis to `length`."""
    values = values[..., :length]
    missing = length - values.shape[-1]
    return values if not missing else np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)], constant_values=fill)


def window_codes(values: Any, spec: CodecSpec, frames: int, where: str) -> np.ndarray:
    """A row's flattened codes -> (K, frames) int64, cut or padded with holes.

    Raises:
        DataError: the values are not a whole number of frames of the spec's levels.
    """
    flat = np.asarray(values, dtype=np.int64)
    if flat.size % spec.levels:
        raise DataError(f"{where}: {flat.size} codes are not {spec.levels} levels of codec '{spec.name}'; tokenise it again")
    return fit(flat.reshape(spec.levels, -1), frames, spec.HOLE)


def replace_codes(tokens: Tensor, share: float) -> Tensor:
    """(..., N) int64 codes with a share replaced, half by holes, half by what stands a few steps away, in training alone."""
    if share <= 0:
        return tokens
    chance = torch.rand(tokens.shape, device=tokens.device)
    shift = int(torch.randint(1, 9, ()))
    other = tokens.roll(shift if shift % 2 else -shift, -1)
    other = torch.where(chance < share / 2, other, torch.full_like(tokens, CodecSpec.HOLE))
    return torch.where(chance < share, other, tokens)


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
        self.args, self.tunables, self.meta = args, tunables, meta
        self.semantic: SemanticSpec = meta.semantic
        self.accompaniment = meta.accompaniment_codec or meta.codec
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
        placeholder = text is None or rng.random() < self.args.p_no_text
        ids = np.array([UNKNOWN]) if text is None or placeholder else text.ids[: self.length]
        track = np.zeros(self.steps, dtype=np.int64)
        advance = np.full(self.steps, -1, dtype=np.int64)
        pace = np.zeros(self.steps, dtype=np.int64)
        if text is not None and not placeholder:
            track = np.minimum(pointer_track(text, self.steps, self.semantic.token_rate), len(ids) - 1)
            pace = pace_track(ids, track)
            advance[:-1] = np.diff(track)
            advance[min(tokens.size, self.steps) :] = -1
        out = {
            "text": fit(ids.astype(np.int64), self.length, PAD),
            "rate": np.float32(tokens_per_second(len(ids), self.seconds)),
            "language": np.int64(self.args.languages.index(self.args.language)),
            "semantic": fit(tokens, self.steps, -1),
            "pointer": track,
            "since": steps_since_advance(track),
            "pace": pace,
            "advance": advance,
        }
        if self.accompaniment is not None:
            codes = window_codes(row["mtoks"], self.accompaniment, self.frames, where)
            codes = np.where(np.arange(len(codes))[:, None] < self.args.mask_finegrained, codes, CodecSpec.HOLE)
            out["music"] = codes
        return {key: torch.as_tensor(value) for key, value in out.items()}

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
            absent = torch.rand(len(music), device=music.device) < self.args.p_no_cond
            music = torch.where(absent[:, None, None], CodecSpec.HOLE, music)
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
            words: list[Word] = []
            if track.pointer is not None:
                spelled = "".join("|" if i == PAUSE else "" if i == LINE else self.text.symbols[i] for i in track.ids).split("|")
                words = [Word(word, *times, 1.0, 0) for word, times in zip(spelled, track.words(0), strict=False)]
            tokens = tokens[0].cpu()
            heard = read_out(self.semantic, tokens)
            made.append(Sample("t2s: words to sing, and what is heard in the tokens", Alignment(tuple(words)), heard, tokens=tokens, token_rate=self.semantic.token_rate))
        return made

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        assert isinstance(model, T2S)
        rules = learning_rules(model.config.width, self.tunables.embeddings_lr_scale)
        return [ParamRule(pattern, lr_scale, decay) for pattern, lr_scale, decay in rules]

    def checkpoint_meta(self) -> dict[str, Any]:
        dataset = replace(self.meta, accompaniment_codec=self.accompaniment)
        return {"task": self.name, "args": to_mapping(self.args), "text": self.args.text, "dataset": dataset.to_json()}

    def check_loaded(self, meta: dict[str, Any], where: str) -> None:
        """Refuse weights trained with another codec, semantic tokenizer or text front end than this dataset and these args.

        Raises:
            MismatchError: names the part and both values.
        """
        check_specs(meta, where, replace(self.meta, accompaniment_codec=self.accompaniment), ("semantic", "accompaniment_codec"))
        if meta.get("text") not in (None, self.args.text):
            raise MismatchError(
                f"{where} reads text as '{meta['text']}', task_args say '{self.args.text}'; set \"text\": \"{meta['text']}\""
            )


def check_specs(meta: dict[str, Any], where: str, own: DatasetMeta, names: Sequence[str]) -> None:
    """Compare the specs in a checkpoint's meta with those of a dataset.

    Raises:
        MismatchError: names the spec and the field that differ.
    """
    theirs = DatasetMeta.from_json(meta.get("dataset", {}))
    for name in names:
        require_same(name.replace("_", " "), getattr(theirs, name), where, getattr(own, name), "the dataset")
