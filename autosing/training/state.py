"""The saved state of a run: one safetensors file with every tensor, and its numbers as JSON in the file's own header.

Being one file, it is replaced as a whole: after a kill at any point either the old state or the new one is there. `state.json` beside it
repeats the numbers for people; it is never read. Weights for others to load are checkpoint folders (`models/io.py`), not this.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autosing.errors import MismatchError, WeightsError
from autosing.store import atomic_path
from autosing.training.sharding import laid_out

STATE_FILE, NUMBERS_FILE = "state.safetensors", "state.json"
FORMAT = "autosing-state/1"


class RunState(NamedTuple):
    """`tensors`: model/<name>, optim/<name>/<slot>, ema/<name>; `numbers`: JSON values."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def save_state(folder: Path, state: RunState) -> None:
    """Write `state`, whose tensors lie in CPU memory, into `folder`, atomically."""
    with atomic_path(folder / STATE_FILE) as path:
        save_file(state.tensors, path, metadata={"format": FORMAT, "numbers": json.dumps(state.numbers)})
    with atomic_path(folder / NUMBERS_FILE) as path:
        path.write_text(json.dumps(state.numbers, indent=1) + "\n", encoding="utf-8")


def has_state(folder: Path) -> bool:
    return (folder / STATE_FILE).is_file()


def remove_state(folder: Path) -> None:
    """Forget a saved state, so that a new run in its place is never taken for the old one."""
    for name in (STATE_FILE, NUMBERS_FILE):
        (folder / name).unlink(missing_ok=True)


def read_numbers(folder: Path) -> dict[str, Any]:
    """The numbers of a saved state without its tensors.

    Raises:
        WeightsError: no state there, or a damaged one.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise WeightsError(f"no run to resume: '{path}' is missing; give the folder of a run (it holds state/, last/ and metrics.jsonl)")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise WeightsError(f"'{path}' has format '{header.get('format')}' where {FORMAT} is read; start a new run")
            return json.loads(header["numbers"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsError(f"'{path}' is damaged ({error}); start again from '{folder.parent / 'last'}' with --load-from") from error


def load_state(folder: Path) -> RunState:
    """The state saved in `folder`.

    Raises:
        WeightsError: no state there, or a damaged one.
    """
    numbers = read_numbers(folder)
    path = folder / STATE_FILE
    try:
        with safe_open(path, framework="pt") as file:
            return RunState({key: file.get_tensor(key) for key in file.keys()}, numbers)  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"'{path}' is damaged ({error}); start again from '{folder.parent / 'last'}' with --load-from") from error


def take(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix/`, without it."""
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{prefix}/")}


def require_same_run(saved: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuse to resume a run with another dataset or configuration.

    Raises:
        MismatchError: names the first field that differs, with both values.
    """
    then, today = _flat(saved), _flat(now)
    for field in {**then, **today}:
        if then.get(field) != today.get(field):
            raise MismatchError(
                f"{where} was trained with {field} = {then.get(field)!r}, now it is {today.get(field)!r}; "
                "use the same, or --allow-changed to go on all the same"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested JSON objects as one level, `args.size`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def load_into(model: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy saved weights into `model`.

    Raises:
        MismatchError: they do not fit; names the first tensor.
    """
    own = model.state_dict()
    wrong = [k for k in {**own, **tensors} if k not in own or k not in tensors or own[k].shape != tensors[k].shape]
    if wrong:
        raise MismatchError(f"the state of {where} does not fit this model: tensor '{wrong[0]}' ({len(wrong)} in all)")
    model.load_state_dict({name: laid_out(value, own[name]) for name, value in tensors.items()})
