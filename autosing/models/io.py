"""Checkpoints: a folder with `model.safetensors`, `config.json` and `README.md`; no pickle is read anywhere.

`config.json` holds `kind` (a row of `models.KINDS`), `config` (the frozen config dataclass) and `meta` (JSON: specs of the codec and
tokenizers it was trained with, data hash, steps, metrics). How a checkpoint may be named is `places.py`: a folder, a file, a hub id, or
`builtin`, the weights shipped in `autosing/weights/<kind>`. A folder may hold an adapter instead of a whole model (`adapters.py`).

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
from autosing.models.adapters import Adapter, adapter_tensors, add_adapter, find_base
from autosing.models.places import ADAPTER_FILE, CARD_FILE, CONFIG_FILE, MODEL_FILE, resolve, weights_file

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
        tensors: a snapshot of its state, which is written instead of what it holds now, or where it holds shards of it.
    """
    known = {name for name, _ in model.named_buffers()}
    state = {
        stored: tensor.contiguous().clone()
        for key, value in (model.state_dict() if tensors is None else tensors).items()
        for stored, tensor in _stored(key, value.detach().cpu(), torch.float16 if key in known and dtype is torch.int8 else dtype).items()
    }
    _write(Path(folder) / MODEL_FILE, state, {"kind": model.kind, "config": to_mapping(model.config), "meta": meta}, card)


def save_adapter(
    model: nn.Module,
    folder: Path,
    meta: dict[str, Any],
    card: str = "",
    tensors: Mapping[str, torch.Tensor] | None = None,
    *,
    adapter: Adapter,
) -> None:
    """Write the trained matrices of an adapted `model` as the folder of an adapter; else as `save_model`."""
    trained = adapter_tensors(model.state_dict() if tensors is None else tensors)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in trained.items()}
    config = {"kind": model.kind, "config": to_mapping(model.config), "meta": meta, "adapter": to_mapping(adapter)}
    _write(Path(folder) / ADAPTER_FILE, state, config, card)


def _write(file: Path, state: dict[str, torch.Tensor], config: dict[str, Any], card: str) -> None:
    from autosing.store import atomic_path

    folder = file.parent
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as path:
        save_file(state, path)
    for other in {MODEL_FILE, ADAPTER_FILE} - {file.name}:  # of an earlier run in this place
        (folder / other).unlink(missing_ok=True)
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


def read_config(name: str | Path, kind: str) -> dict[str, Any]:
    """`{"kind", "config", "meta"}` of a checkpoint without loading its weights.

    Raises:
        WeightsError: missing or damaged files.
        MismatchError: another kind of model.
    """
    folder = resolve(name, kind)
    values = _read_json(folder)
    if values["kind"] != kind:
        raise MismatchError(f"'{folder}' holds a {values['kind']} model where a {kind} model is needed; give a {kind} checkpoint")
    return values


def read_kind(folder: Path) -> str:
    """The kind of model that a checkpoint's folder holds.

    Raises:
        WeightsError: damaged files.
    """
    return _read_json(folder)["kind"]


def _read_json(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"'{folder / CONFIG_FILE}' is damaged ({error}); write the checkpoint again") from error
    for key in ("kind", "config"):
        if not isinstance(values, dict) or key not in values:
            raise WeightsError(f"'{folder / CONFIG_FILE}' is damaged ('{key}' is missing); write the checkpoint again")
    return values


def load_model(name: str | Path, kind: str | type, device: torch.device | str = "cpu") -> tuple[Any, dict[str, Any]]:
    """Load a checkpoint as (model in eval mode on `device`, float32; meta).

    Args:
        kind: a row of `models.KINDS`, or the class of a model of one's own.

    Raises:
        WeightsError: missing or damaged files.
        MismatchError: another kind of model.
    """
    cls: Any = KINDS.get(kind) if isinstance(kind, str) else kind
    folder = resolve(name, cls.kind)
    values = read_config(folder, cls.kind)
    model = cls(from_mapping(cls.Config, values["config"], f"'{folder / CONFIG_FILE}'"))
    load_weights(model, folder)
    return model.to(device).eval(), values.get("meta", {})


def load_weights(model: Any, folder: Path) -> None:
    """Copy the tensors of a checkpoint's folder into `model`; an adapter's are added to those of its base.

    Tensors whose names begin with one of the model's `added_later` stay as they are where the checkpoint has none: such a part does nothing at first.

    Raises:
        WeightsError: damaged file, or tensors that do not fit; names the first.
    """
    state = _read_state(folder, model.kind)
    own, later = model.state_dict(), tuple(getattr(model, "added_later", ()))
    state = {**{k: v for k, v in own.items() if later and k.startswith(later)}, **state}
    wrong = [k for k in {**own, **state} if k not in own or k not in state or own[k].shape != state[k].shape]
    if wrong:
        raise WeightsError(f"'{folder}' does not fit its config: tensor '{wrong[0]}' ({len(wrong)} in all); retrain or fix it")
    model.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()})


def read_adapter(folder: Path, kind: str) -> Adapter | None:
    """What the folder says of its adapter; None where it holds a whole model."""
    if weights_file(folder).name != ADAPTER_FILE:
        return None
    return from_mapping(Adapter, read_config(folder, kind).get("adapter", {}), f"'{folder / CONFIG_FILE}': adapter")


def _read_state(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, as the model has them."""
    file = weights_file(folder)
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"'{file}' is damaged ({error}); write the checkpoint again") from error
    adapter = read_adapter(folder, kind)
    if adapter is None:
        return _restored(tensors)
    return add_adapter(_read_state(find_base(adapter, folder, kind), kind), tensors, adapter, f"'{folder}'")
