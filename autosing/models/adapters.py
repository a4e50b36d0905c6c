"""Low-rank adapters (Hu et al., "LoRA", 2021): the folder they are kept in, and how they are added to the weights of their base.

The folder of an adapter holds `adapter.safetensors` (`<layer>.lora_A.weight` (r, in), `<layer>.lora_B.weight` (out, r); of a convolution
(r, in, ...) over its kernel, and (out, r, 1, ...)), `config.json` with the whole config of the model and an entry `adapter`, and `README.md`. It names its base by name and by the SHA-256 of its weights. Whoever loads
it gets the sum W + alpha / r * B A, an ordinary model: only training (`autosing.training.lora`) needs the package peft.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from autosing.errors import WeightsError
from autosing.models.places import resolve, weights_file

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Adapter:
    """The entry `adapter` of a config.json.

    Attributes:
        r, alpha, dropout: as `autosing.training.lora.LoraSettings`.
        target_modules: full names of the layers that are adapted.
        base: name of the checkpoint it was trained on; sha256: of its weights.
    """

    r: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]
    base: str
    sha256: str


def name_base(name: str, kind: str) -> tuple[str, str]:
    """How an adapter names the checkpoint it is trained on, and the SHA-256 of its weights.

    Raises:
        WeightsError: no such checkpoint.
    """
    from autosing.store import sha256_of

    folder = resolve(name, kind)
    return str(folder.absolute()) if Path(name).exists() else name, sha256_of(weights_file(folder))


def adapter_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trained matrices in the state of a model that `autosing.training.lora.attach` changed, under the names of the file."""
    plain = {name.replace(".default.", "."): value for name, value in state.items()}
    return {name: value for name, value in plain.items() if name.endswith((DOWN, UP))}


def find_base(adapter: Adapter, folder: Path, kind: str) -> Path:
    """The folder of an adapter's base: as it is named, or the folder of that name beside the adapter.

    Raises:
        WeightsError: at neither place lies a checkpoint with the weights that the adapter was trained on.
    """
    from autosing.store import sha256_of

    tried = []
    for place in (adapter.base, folder.absolute().parent / Path(adapter.base).name):
        try:
            base = resolve(place, kind)
        except WeightsError:
            tried.append(f"nothing at '{place}'")
            continue
        if (found := sha256_of(weights_file(base))) == adapter.sha256:
            return base
        tried.append(f"weights {found[:12]} at '{place}'")
    raise WeightsError(
        f"adapter '{folder}' was trained on '{adapter.base}' with weights {adapter.sha256[:12]}; found {' and '.join(tried)}; put its base there"
    )


def add_adapter(state: dict[str, Tensor], tensors: Mapping[str, Tensor], adapter: Adapter, where: str) -> dict[str, Tensor]:
    """The base's `state` with alpha / r * B A added to every adapted matrix.

    Raises:
        WeightsError: the adapter does not fit the base; names the first tensor.
    """
    summed: dict[str, Any] = dict(state)
    for layer in adapter.target_modules:
        weight, down, up = state.get(f"{layer}.weight"), tensors.get(layer + DOWN), tensors.get(layer + UP)
        if weight is None or down is None or up is None or (up.shape[0], *down.shape[1:]) != tuple(weight.shape) or up[0].numel() != down.shape[0]:
            raise WeightsError(f"the adapter {where} does not fit its base at layer '{layer}'; train it again")
        product = up.float().flatten(1) @ down.float().flatten(1)
        summed[f"{layer}.weight"] = weight.float() + adapter.alpha / adapter.r * product.view(weight.shape)
    return summed
