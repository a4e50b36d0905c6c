"""What tasks over token sequences share: tunables, settings that are refused, a row's codes, disturbances, and what a dataset's tokenizers know.

A task keeps what makes it one: its `Args`, what it reads of a row, its model and its loss. Nothing here depends on which task asks.
Letters: B batch, K levels, T finest frames, N semantic tokens, V vocabulary.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autosing.config import nearest, require_at_least, require_fields, require_shares
from autosing.errors import DataError
from autosing.models.t2s import SIZES
from autosing.nn.embeddings import code_features
from autosing.nn.mup import Mup, learning_rules
from autosing.song.alignment import Word
from autosing.tokens.specs import CodecSpec, SemanticSpec, require_same
from autosing.training.task import DatasetMeta, OptimTunables, ParamRule, drawn


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


def leave_out(values: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """(B, ...) codes -> the same with a share of the examples all holes, and which these are, (B,) bool."""
    without = torch.rand(len(values), device=values.device) < share
    return torch.where(without.view(-1, *[1] * (values.dim() - 1)), CodecSpec.HOLE, values), without


def mup_rules(width: int, tunables: MupTunables) -> list[ParamRule]:
    """How the parameters of a model of this width learn."""
    return [ParamRule(*rule) for rule in learning_rules(width, tunables.embeddings_lr_scale)]


def check_specs(meta: dict[str, Any], where: str, own: DatasetMeta, names: Sequence[str]) -> None:
    """Compare the specs in a checkpoint's meta with those of a dataset.

    Raises:
        MismatchError: names the spec and the field that differ.
    """
    theirs = DatasetMeta.from_json(meta.get("dataset", {}))
    for name in names:
        require_same(name.replace("_", " "), getattr(theirs, name), where, getattr(own, name), "the dataset")
