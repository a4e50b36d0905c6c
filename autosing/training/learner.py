"""A model and what moves its weights: losses -> gradients -> clip -> AdamW -> moving average, by one process or as one of several ranks.

Nothing here waits for the device where the learner is `deferred` (on CUDA, and with several ranks): whether a value was finite stays there, as a flag that
makes the fused optimiser pass over this update and every later one until the loop reads it and stops. In fp16 a gradient that is too large for it is
ordinary: the scaler passes over such an update and scales the next less, and only what is not finite at the least scale counts. Batches, seeds, the
rate's schedule and what is logged are the loop's affair.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from autosing.training import dist, sharding
from autosing.training.finite import FiniteWatch
from autosing.training.optim import AveragedWeights, build_optimizer, load_optimizer_tensors, optimizer_tensors, set_learning_rate
from autosing.training.settings import PRECISIONS, Settings
from autosing.training.spikes import SpikeWatch
from autosing.training.state import RunState, load_into, take
from autosing.training.task import Losses, OptimTunables, Sample, Task

LEAST_SCALE = 1e-4  # of a loss in fp16: a gradient that is not finite at it is so by itself


class TaskLosses(nn.Module):
    """A task's losses as one module's forward, so that gradients can be averaged over ranks whatever the task calls on its model."""

    block_methods = ("samples",)

    def __init__(self, task: Task, model: nn.Module):
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: dict[str, Tensor]) -> Losses:
        return self.task.losses(self.model, batch)

    def samples(self, batch: dict[str, Tensor]) -> list[Sample]:
        return self.task.samples(self.model, batch)  # type: ignore[attr-defined] - a Trainer has seen that the task makes some


class Learner:
    """A task's model with optimiser, scaler and moving average.

    Attributes:
        precision: a row of `PRECISIONS`.
        parameters: that are trained.
        ema: the averaged weights, or None.
        finite: has noted which losses and gradients were finite.
        spike_watch: the gradient norms of the last updates.
        deferred: no step waits for the device.
    """

    def __init__(self, task: Task, model: nn.Module, tunables: OptimTunables, settings: Settings, device: torch.device, ranks: dist.Ranks):
        """
        Args:
            model: as `task.build_model` made it, perhaps with weights loaded; moved to `device` here.
        """
        self.device, self.ranks = device, ranks
        self.precision = settings.precision_on(device)
        self._dtype = PRECISIONS[self.precision]
        self.model = model.to(device).train()
        if self.precision == "bf16":
            for parameter in self.model.parameters():
                parameter.data = parameter.data.bfloat16()
        self._losses = TaskLosses(task, self.model)
        sharded = settings.strategy == "fsdp" and ranks.world > 1
        if sharded:  # before the optimiser and the average: it replaces the parameters
            sharding.shard(self._losses, ranks, device)
        self.optimizer = build_optimizer(model, task.param_rules(model), tunables)
        self.parameters: list[Tensor] = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ema = AveragedWeights(model, settings.ema) if settings.ema else None
        if settings.torch_compile:
            for part in compiled_parts(self.model):
                part.compile()
        self._parallel = self._losses if sharded else dist.parallel(self._losses, ranks, device)
        self._scaler = GradScaler(device.type, enabled=self._dtype is torch.float16)
        self._max_norm = tunables.clip_gradient_norm if settings.clip_gradient_norm is None else settings.clip_gradient_norm
        self.deferred = device.type == "cuda" or ranks.world > 1
        self.finite, self.spike_watch = FiniteWatch(device), SpikeWatch(device)

    # ---- one update: part by part `forward` and `backward`, then `clip` and `step`

    def part(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """A block for the `forward` and `backward` of a micro-batch; the ranks add up their gradients in the `last` one of an update."""
        return sharding.synchronise(self._parallel, last)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Losses]:
        """What is minimised, the mean over all ranks, and what this rank's batch gave."""
        with self._autocast():
            losses: Losses = self._parallel(batch)
        return dist.mean_over_ranks(losses.terms, self.ranks) if self.ranks.world > 1 and losses.terms else losses.total, losses

    def backward(self, loss: Tensor) -> None:
        """Add up the gradient of `loss`."""
        if self.deferred and self._scaler.is_enabled():
            # The scaler passes over an update whose gradients are not finite: keep them so once one loss was not.
            bad = self.finite.bad
            loss = loss * torch.where(bad > 0, torch.full_like(bad, math.nan), torch.ones_like(bad))
        self._scaler.scale(loss).backward()

    def clip(self) -> Tensor:
        """Clip the gradient as a whole; the norm that it had, ()."""
        self._scaler.unscale_(self.optimizer)
        norm = sharding.whole(torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None]))
        if self._max_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self._max_norm, norm)
        return norm

    def is_finite(self, norm: Tensor) -> Tensor:
        """Whether an update's norm is, () bool, or may yet be at a smaller scale."""
        finite = torch.isfinite(norm)
        return finite | (self._scaler.scale(torch.ones_like(norm)) > LEAST_SCALE) if self._scaler.is_enabled() else finite

    def step(self, number: int, over: Tensor | None) -> None:
        """Move the weights for the `number`th time (from 1), but where a value was not finite, or where `over`, () bool, is true."""
        if self._scaler.is_enabled():
            if over is None or not over.item():  # the scaler has no flag for this: skipping costs it a look at every step
                self._scaler.step(self.optimizer)
            self._scaler.update()
        elif self.deferred:
            bad = self.finite.bad
            passed_over = bad if over is None else torch.maximum(bad, over.to(bad.dtype))
            self.optimizer.found_inf = passed_over  # type: ignore[attr-defined] - the fused kernel passes over the update
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.step()
        elif over is None or not over.item():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(number)

    @property
    def rate(self) -> float:
        """Of the last update, for parameters of scale 1; 0 where the first ones are not trained."""
        group = self.optimizer.param_groups[0]
        return group["lr"] / group["lr_scale"] if group["lr_scale"] else 0.0

    @rate.setter
    def rate(self, value: float) -> None:
        set_learning_rate(self.optimizer, value)

    # ---- looking without learning

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[TaskLosses]:
        """The task's losses with the averaged weights where there are some, without dropout and gradients; each rank may call them as often as it likes."""
        self.model.eval()
        try:
            with torch.no_grad(), self._averaged(), sharding.gathered(self._losses), self._autocast():
                yield self._losses
        finally:
            self.model.train()

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        return self.ema.in_place() if self.ema is not None else contextlib.nullcontext()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None)

    # ---- what is saved

    def state(self) -> RunState:
        """What a resumed run needs of it, whole, on the first rank; every rank must ask."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"optim/{k}": v for k, v in optimizer_tensors(self.model, self.optimizer).items()}
        if self.ema is not None:
            tensors |= {f"ema/{k}": v for k, v in self.ema.tensors().items()}
        tensors["spikes/log_norms"] = self.spike_watch.log_norms
        return RunState(sharding.whole_state(tensors, self.ranks), {"norms_seen": self.spike_watch.seen, "scaler": self._scaler.state_dict()})

    def weights(self, state: RunState | None) -> dict[str, Tensor]:
        """What a checkpoint holds now: the averaged weights where there are, else the model's, taken from `state` where that has them."""
        if self.ema is None:
            return take(state.tensors, "model") if state is not None else sharding.whole_state(self.model.state_dict(), self.ranks)
        return sharding.whole_state(self.ema.state_of(self.model), self.ranks)

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], where: str) -> None:
        """Inverse of `state`."""
        load_into(self.model, take(tensors, "model"), where)
        load_optimizer_tensors(self.model, self.optimizer, take(tensors, "optim"))
        if self.ema is not None and (averaged := take(tensors, "ema")):
            self.ema.load(averaged)
        elif self.ema is not None:
            self.ema.restart()
        if self._scaler.is_enabled() and numbers["scaler"]:
            self._scaler.load_state_dict(numbers["scaler"])
        if "norms_seen" in numbers:
            self.spike_watch.load(tensors["spikes/log_norms"], numbers["norms_seen"])


def compiled_parts(model: Any) -> Sequence[nn.Module]:
    """What `--torch-compile` compiles: the model's own choice where its task calls other methods than `forward`, else the model."""
    return model.compiled_parts() if hasattr(model, "compiled_parts") else [model]
