"""The optimiser: AdamW over groups made from a task's `ParamRule`s, and the moving average of weights.

The rules are data: the first whose pattern is found in a parameter's name decides its learning-rate scale, decay and freezing.
What a step multiplies into the rate is `schedule.py`; when a step is taken is `loop.py`.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autosing.errors import ConfigError
from autosing.training.sharding import laid_out
from autosing.training.task import OptimTunables, ParamRule

FUSED_DEVICES = ("cuda", "cpu")
EPSILON = 1e-8


ADAPTER_PARTS = re.compile(r"\.(base_layer|lora_[AB]\.default)(?=\.)")
"""What an adapter puts into the names of the matrix it stands beside and of its own two (`lora.py`)."""


def rule_for(name: str, rules: Sequence[ParamRule]) -> ParamRule:
    """The first rule whose pattern is found in `name`, else the plain `ParamRule("")`; an adapter's matrices learn as the one they adapt."""
    name = ADAPTER_PARTS.sub("", name)
    return next((rule for rule in rules if re.search(rule.pattern, name)), ParamRule(""))


def build_optimizer(model: nn.Module, rules: Sequence[ParamRule], tunables: OptimTunables) -> torch.optim.AdamW:
    """AdamW with one group for each (lr_scale, decay) that occurs; frozen parameters stop requiring a gradient.

    Every group carries `lr_scale`; `set_learning_rate` turns it into `lr`.

    Raises:
        ConfigError: nothing is left to train.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        rule = rule_for(name, rules)
        parameter.requires_grad_(not rule.frozen and parameter.requires_grad)
        if parameter.requires_grad:
            groups.setdefault((rule.lr_scale, rule.decay), []).append(parameter)
    if not groups:
        raise ConfigError("every parameter of the model is frozen; let the task's param_rules leave some to train")
    fused = next(model.parameters()).device.type in FUSED_DEVICES
    return torch.optim.AdamW(
        [
            {"params": members, "lr_scale": scale, "weight_decay": tunables.weight_decay if decay else 0.0}
            for (scale, decay), members in groups.items()
        ],
        lr=tunables.lr0,
        betas=(tunables.beta1, tunables.beta2),
        eps=EPSILON,
        fused=fused,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors `<parameter>/<slot>`."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{slot}"] = value
    return tensors


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`, in place; whole tensors are copied to where their parameter lives, shared out as it is, and laid out in memory
    as it is: the fused kernels walk through both by address, and would pair the moments of a channels-last weight with other elements. They come
    in their parameter's type, which another precision may have changed."""
    fused = bool(optimizer.defaults.get("fused"))
    parameters = dict(model.named_parameters())
    states: dict[str, dict[str, Any]] = {}
    for key, value in tensors.items():
        name, slot = key.rsplit("/", 1)
        like = parameters[name].detach()
        if slot == "step":
            value = value.to(like.device if fused else "cpu", copy=True)
        else:
            value = torch.empty_like(like).copy_(laid_out(value, like))
        states.setdefault(name, {})[slot] = value
    for name, slots in states.items():
        optimizer.state[parameters[name]] = slots


class AveragedWeights:
    """Exponential moving average of a model's trainable parameters, and of what its batch norms saw.

    Averaged weights make other activations than the weights of the moment do: with the statistics of these they answer too weakly or too loudly.
    The decay grows as (1 + t) / (10 + t) up to `decay`, so that a short run's average is not its initial weights. It is kept in float32,
    where its small steps are not lost.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        saved = model.state_dict().keys()
        weights: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        buffers = {n: b for n, b in model.named_buffers() if n in saved and b.is_floating_point()}
        self._live = weights | buffers
        self._alike = [list(names) for names in (weights, buffers) if names]  # weights may be shared out over ranks, buffers are whole
        self._average = {n: p.detach().float().clone() for n, p in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the live weights after optimiser step number `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for names in self._alike:
            live = [self._live[name].detach().float() for name in names]
            torch._foreach_lerp_([self._average[name] for name in names], live, 1 - decay)  # type: ignore[reportPrivateImportUsage]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The model carries the averaged weights inside this block, and its own again after it."""
        own = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self._put(self._average)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._live.items():
            tensor.copy_(values[name])

    def tensors(self) -> dict[str, Tensor]:
        return dict(self._average)

    def state_of(self, model: nn.Module) -> dict[str, Tensor]:
        """The state of the model it averages, with the averages as they are kept: `in_place` rounds them to the type of the weights."""
        averages = {id(live): self._average[name] for name, live in self._live.items()}
        state: dict[str, Tensor] = model.state_dict(keep_vars=True)
        return {name: averages.get(id(value), value) for name, value in state.items()}

    @torch.no_grad()
    def restart(self) -> None:
        """Begin at the live weights of now."""
        for name, average in self._average.items():
            average.copy_(self._live[name])

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, value in tensors.items():
            self._average[name].copy_(laid_out(value, self._average[name]))
