"""Fine-tuning with low-rank adapters: `--lora '{"r": 16, "alpha": 32}'`. The adapters themselves are the package peft's; it is imported here alone.

`attach` changes a model in place: the chosen layers get two small matrices each, everything else stops learning. The matrices learn by the
rule of the matrix they stand beside (`optim.rule_for`). A convolution is a matrix on patches. What is written is `autosing.models.adapters`.
"""

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from autosing.config import from_mapping, require_at_least, require_dropout, require_fields
from autosing.errors import ConfigError


@dataclass(frozen=True)
class LoraSettings:
    """`--lora`.

    Attributes:
        r: rank of the adapters.
        alpha: what they add is scaled by alpha / r.
        dropout: share of an adapter's inputs that are dropped while training.
        target_modules: names of linear layers or plain convolutions, or the last parts of names as in "qkv" or
            "decoder.layers.0.attention.out"; () = all linear layers, and in a model without any all plain convolutions.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_at_least(self, 1, "r")
        require_fields(self, "above 0", lambda value: value > 0, "alpha")
        require_dropout(self, "dropout")


def lora_settings(values: Mapping[str, Any]) -> LoraSettings:
    """
    Raises:
        ConfigError: an unknown key or a value out of bounds; names the nearest one.
    """
    return from_mapping(LoraSettings, values, "--lora")


def linear_layers(model: nn.Module) -> tuple[str, ...]:
    """Names of the linear layers that can be adapted: those that are called. A model lists those whose weight it reads in `reads_weights`."""
    read = getattr(model, "reads_weights", ())
    return tuple(name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name not in read)


def convolutions(model: nn.Module) -> tuple[str, ...]:
    """Names of the convolutions that can be adapted: peft leaves dilation and padding other than zeros out, and cannot fold groups in."""
    return tuple(
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1 and set(layer.dilation) == {1} and layer.padding_mode == "zeros"
    )


def targets(model: nn.Module, settings: LoraSettings) -> tuple[str, ...]:
    """The full names of the layers that `settings.target_modules` means.

    Raises:
        ConfigError: the model has no layer that can be adapted, or none of that name; names the nearest one.
    """
    linear, plain = linear_layers(model), convolutions(model)
    layers = linear + plain
    if not layers:
        raise ConfigError("--lora adapts linear layers and plain convolutions, this model has none; train it as a whole")
    if not settings.target_modules:
        return linear or plain
    chosen: set[str] = set()
    for target in settings.target_modules:
        found = {name for name in layers if f".{name}".endswith(f".{target}")}
        if not found:
            endings = sorted({name.rsplit(".", 1)[-1] for name in layers})
            close = difflib.get_close_matches(target, [*endings, *layers], n=1)
            raise ConfigError(
                f"--lora: 'target_modules' names '{target}', the model has no such linear layer or plain convolution; "
                + (f"did you mean '{close[0]}'?" if close else f"it has: {', '.join(endings)}")
            )
        chosen |= found
    return tuple(name for name in layers if name in chosen)


def attach(model: nn.Module, settings: LoraSettings) -> tuple[str, ...]:
    """Put adapters beside layers of `model`, in place, and freeze the rest; the full names of the adapted layers.

    They start as nothing (B = 0) and draw A from torch's generator.

    Raises:
        ConfigError: as `targets`; peft is not installed.
    """
    chosen = targets(model, settings)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("--lora needs the package peft: pip install 'autosing[lora]'") from error
    logging.getLogger("peft").setLevel(logging.ERROR)
    config = LoraConfig(
        r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=list(chosen), bias="none"  # type: ignore[arg-type]
    )
    inject_adapter_in_model(config, model)
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = 0.0  # its statistics are the base's: an adapter holds none
    return chosen
