"""Checkpoints: a folder with `model.safetensors`, `config.json` and `README.md`; no pickle is read anywhere.

`config.json` holds `kind` (a row of `models.KINDS`), `config` (the frozen config dataclass) and `meta` (JSON: specs of the codec and
tokenizers it was trained with, data hash, steps, metrics). A checkpoint may also be named `builtin`: the weights shipped in
`autosing/weights/<kind>`.

A model class has `kind: ClassVar[str]`, `Config` (frozen dataclass) and `config` (its value), and is built as `Model(config)`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from autosing.config import from_mapping, to_mapping
from autosing.errors import MismatchError, WeightsError
from autosing.models import KINDS
from autosing.weights import weights_folder

MODEL_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
SCALE = "::scale"  # behind the name of an int8 matrix: its row scales


def save_model(
    model: nn.Module,
    folder: Path,
    meta: dict[str, Any],
    card: str = "",
    dtype: torch.dtype = torch.float32,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write `model` as a checkpoint folder, each file tmp -> fsync -> rename.

    Args:
        model: has `kind`, `Config`, `config`.
        folder: created if missing.
        meta: JSON values that describe what it was trained with.
        card: text of README.md.
        dtype: floating tensors are stored as this: float16 halves a shipped file; int8 quarters it (learned matrices alone, each row
            with a scale of its own; what is no matrix, or was not learned, is stored as float16).
        tensors: the model's state, where its own tensors are shards of it.
    """
    from autosing.store import atomic_path

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    known = {name for name, _ in model.named_buffers()}
    state = {
        stored: tensor.contiguous().clone()
        for key, value in (model.state_dict() if tensors is None else tensors).items()
        for stored, tensor in _stored(key, value.detach().cpu(), torch.float16 if key in known and dtype is torch.int8 else dtype).items()
    }
    config = {"kind": model.kind, "config": to_mapping(model.config), "meta": meta}
    with atomic_path(folder / MODEL_FILE) as path:
        save_file(state, path)
    with atomic_path(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if card:
        with atomic_path(folder / CARD_FILE) as path:
            path.write_text(card, encoding="utf-8")


def _stored(key: str, value: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors that `value` is stored as; a matrix in int8 is rounded to 1/127 of each row's largest value."""
    if not value.is_floating_point():
        return {key: value}
    if dtype is not torch.int8:
        return {key: value.to(dtype)}
    if value.ndim != 2:
        return {key: value.half()}
    scale = value.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return {key: (value / scale).round().to(torch.int8), key + SCALE: scale}


def _restored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo `_stored`."""
    scales = {key: state.pop(key + SCALE) for key in list(state) if key + SCALE in state}
    return {key: value * scales[key] if key in scales else value for key, value in state.items()}


def resolve(name: str | Path, kind: str) -> Path:
    """The folder of a checkpoint: `builtin`, a folder, or a file inside one.

    Raises:
        WeightsError: nothing there; says where it was looked for.
    """
    folder = weights_folder(kind) if str(name) == "builtin" else Path(name)
    if folder.is_file():
        folder = folder.parent
    for file in (CONFIG_FILE, MODEL_FILE):
        if not (folder / file).is_file():
            raise WeightsError(
                f"no {kind} checkpoint at '{folder}': {file} is missing; give a folder written by train.py, or 'builtin'"
            )
    return folder


def read_config(name: str | Path, kind: str) -> dict[str, Any]:
    """`{"kind", "config", "meta"}` of a checkpoint without loading its weights."""
    folder = resolve(name, kind)
    try:
        values = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        found = values["kind"]
    except (ValueError, KeyError) as error:
        raise WeightsError(f"'{folder / CONFIG_FILE}' is damaged ({error}); write the checkpoint again") from error
    if found != kind:
        raise MismatchError(f"'{folder}' holds a {found} model where a {kind} model is needed; give a {kind} checkpoint")
    return values


def load_model(name: str | Path, kind: str, device: torch.device | str = "cpu") -> tuple[Any, dict[str, Any]]:
    """Load a checkpoint as (model in eval mode on `device`, float32; meta).

    Raises:
        WeightsError: missing or damaged files.
        MismatchError: another kind of model.
    """
    folder = resolve(name, kind)
    values = read_config(folder, kind)
    cls = KINDS.get(kind)
    model = cls(from_mapping(cls.Config, values["config"], f"'{folder / CONFIG_FILE}'"))
    load_weights(model, folder)
    return model.to(device).eval(), values.get("meta", {})


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy the tensors of `folder`/model.safetensors into `model`.

    Raises:
        WeightsError: damaged file, or tensors that do not fit; names the first.
    """
    try:
        state = _restored(load_file(folder / MODEL_FILE))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"'{folder / MODEL_FILE}' is damaged ({error}); write the checkpoint again") from error
    own = model.state_dict()
    wrong = [k for k in {**own, **state} if k not in own or k not in state or own[k].shape != state[k].shape]
    if wrong:
        raise WeightsError(f"'{folder}' does not fit its config: tensor '{wrong[0]}' ({len(wrong)} in all); retrain or fix it")
    model.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()})
