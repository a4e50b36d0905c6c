"""The train loop: a task, a model and rows in; checkpoints, metrics and a saved state out. It knows no task names.

One optimiser step: `accumulate` micro-batches -> losses -> finite check -> backward -> clip -> AdamW -> moving average. On the CPU the check reads
every loss before its backward pass. On CUDA nothing waits for the device between log lines: the check stays there, as a flag that makes
the fused optimiser pass over this update and every later one until the host reads it and stops. Either way the weights stay as they
were before the first loss that is not finite.

A step depends on (seed, step, rank) and the weights alone: data, augmentation and dropout are seeded from them. So a resumed run repeats
the losses of one that was never stopped. Runs bounded by the clock (`minutes`) are the exception: their schedule follows time.
"""

import contextlib
import dataclasses
import json
import math
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from autosing.config import nearest
from autosing.errors import AutoSingError, ConfigError
from autosing.models.io import save_model
from autosing.store import remove_temporaries
from autosing.tokens.specs import spec_to_json
from autosing.training import dist, sharding
from autosing.training.data import (
    SPECS,
    MicroBatch,
    Plan,
    TrainBatches,
    TrainingData,
    ValidationBatches,
    fingerprint,
    prefetch,
    step_seed,
)
from autosing.training.log import Meter, MetricsFile, Progress, Wandb, draw_losses
from autosing.training.optim import (
    AveragedWeights,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from autosing.training.schedule import CLOCK_STEPS, lr_factor, warmup_steps
from autosing.training.state import (
    RunState,
    has_state,
    load_into,
    load_state,
    remove_state,
    require_same_run,
    save_state,
    take,
)
from autosing.training.task import Losses, OptimTunables, Task

PRECISIONS: dict[str, torch.dtype | None] = {"32": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # the last: a scheduler's warning before its time limit
VALIDATION_CACHE_BYTES = 256 << 20
PICTURE_SECONDS = 30.0  # the loss curve is drawn at most this often
SAVE_SECONDS = 300.0  # the state is saved at least this often, however far apart validations are
_VALIDATION_SEED = 1


class NotFiniteError(AutoSingError):
    """A loss or gradient is NaN or infinite; training stopped before the update."""


class SaveError(AutoSingError):
    """The state or a checkpoint could not be written; what was saved before is intact."""


@dataclass(frozen=True)
class Settings:
    """How a run trains. Those that change its result are listed in `IDENTITY` and may not change when it is resumed.

    Attributes:
        batch_size: rows of a micro-batch over all ranks.
        epochs, steps, minutes: bounds; `steps` overrides `epochs`, `minutes` alone bounds by the clock, together the first one ends the run.
        accumulate: micro-batches an optimiser step.
        clip_gradient_norm: None = the task's tunable; 0 = no clipping.
        precision: None = 32 on the CPU and MPS, 16-mixed on CUDA.
        ema: decay of the moving average of weights that is validated and saved; 0 = none.
        monitored_metric, monitored_mode: which validation value decides `best`, "min" or "max".
        keep_last: this many numbered checkpoints `step-<n>` are kept beside `last`.
        strategy: what several ranks do with the weights: "ddp" each holds all, "fsdp" they share them out. Either goes on from the other.
    """

    batch_size: int = 16
    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    lr_schedule: str = "cosine"
    accumulate: int = 1
    clip_gradient_norm: float | None = None
    precision: str | None = None
    ema: float = 0.0
    validate_every: int = 500
    validation_rows: int = 256
    log_every: int = 10
    monitored_metric: str = "val_loss"
    monitored_mode: str = "min"
    keep_last: int = 0
    workers: int = 4
    torch_compile: bool = False
    strategy: str = "ddp"

    IDENTITY = ("batch_size", "epochs", "steps", "minutes", "seed", "lr_schedule", "accumulate", "clip_gradient_norm", "precision", "ema")
    DEFAULT_EPOCHS = 5.0

    def __post_init__(self) -> None:
        checks = {
            "batch_size": self.batch_size >= 1,
            "epochs": self.epochs is None or 0 < self.epochs < math.inf,
            "steps": self.steps is None or self.steps >= 1,
            "minutes": self.minutes is None or 0 < self.minutes < math.inf,
            "seed": 0 <= self.seed < 1 << 63,
            "clip_gradient_norm": self.clip_gradient_norm is None or 0 <= self.clip_gradient_norm < math.inf,
            "accumulate": self.accumulate >= 1,
            "ema": 0 <= self.ema < 1,
            "validate_every": self.validate_every >= 1,
            "validation_rows": self.validation_rows >= 0,
            "log_every": self.log_every >= 1,
            "monitored_mode": self.monitored_mode in ("min", "max"),
            "keep_last": self.keep_last >= 0,
            "workers": self.workers >= 0,
        }
        for name, ok in checks.items():
            if not ok:
                raise ConfigError(f"--{name.replace('_', '-')} cannot be {getattr(self, name)!r}; see train.py --help")
        lr_factor(self.lr_schedule, 0, 1, 0)
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ConfigError(f"--precision has no choice '{self.precision}'{nearest(self.precision, PRECISIONS)}")
        if self.strategy not in sharding.STRATEGIES:
            raise ConfigError(f"--strategy has no choice '{self.strategy}'{nearest(self.strategy, sharding.STRATEGIES)}")

    def total_steps(self, rows: int) -> int | None:
        """Optimiser steps of the run; None when only the clock bounds it."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None and self.minutes is not None:
            return None
        return max(1, math.ceil((self.epochs or self.DEFAULT_EPOCHS) * rows / (self.batch_size * self.accumulate)))


class Result(NamedTuple):
    """How a run ended: steps done, the last validation values, best monitored value, and the signal that stopped it (0: none)."""

    step: int
    metrics: dict[str, float]
    best: float | None
    stopped_by: int


class _Stepper(nn.Module):
    """A task's losses as one module's forward, so that gradients can be averaged over ranks whatever the task calls on its model."""

    def __init__(self, task: Task, model: nn.Module):
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: dict[str, Tensor]) -> Losses:
        return self.task.losses(self.model, batch)


class StopRequest:
    """Notes `STOP_SIGNALS` inside its block; a second one takes its usual course."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in STOP_SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._before[number])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Trainer:
    """One run. `fit` is the loop; everything it needs is given here."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        tunables: OptimTunables,
        data: TrainingData,
        settings: Settings,
        folder: Path,
        device: torch.device,
        identity: Mapping[str, Any],
        *,
        remember: Mapping[str, Any] | None = None,
        ranks: dist.Ranks | None = None,
        progress: Progress | None = None,
        wandb: Wandb | None = None,
    ):
        """
        Args:
            model: as `task.build_model` made it, perhaps with weights loaded; moved to `device` here.
            folder: the run's folder: metrics.jsonl, loss.png, state/, last/, best/.
            identity: what else must be the same when the run is resumed (task, args, tunables), as JSON values.
            remember: JSON values kept in the state for whoever resumes it, which may change.
        """
        self.task, self.tunables, self.data, self.settings, self.folder, self.device = task, tunables, data, settings, folder, device
        self.ranks = ranks or dist.Ranks()
        dist.require_divisible(settings.batch_size, self.ranks)
        self.progress = progress or Progress(1, quiet=True)
        self.wandb = wandb or Wandb("off", folder, "", "", {})
        self.model = model.to(device).train()
        self.losses = _Stepper(task, self.model)
        sharded = settings.strategy == "fsdp" and self.ranks.world > 1
        if sharded:  # before the optimiser and the average: it replaces the parameters
            sharding.shard(self.losses, self.ranks, device)
        self.optimizer = build_optimizer(model, task.param_rules(model), tunables)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ema = AveragedWeights(model, settings.ema) if settings.ema else None
        if settings.torch_compile:
            for part in compiled_parts(self.model):
                part.compile()
        self.stepper = self.losses if sharded else dist.parallel(self.losses, self.ranks, device)
        self.precision = settings.precision or ("16-mixed" if device.type == "cuda" else "32")
        self.dtype = PRECISIONS[self.precision]
        self.scaler = GradScaler(device.type, enabled=self.dtype is torch.float16)
        clip = settings.clip_gradient_norm
        self.clip = tunables.clip_gradient_norm if clip is None else clip
        self.total = settings.total_steps(len(data.train))
        self.schedule_total = self.total or CLOCK_STEPS
        self.warmup = warmup_steps(tunables.warmup_steps, self.schedule_total)
        self.plan = Plan(len(data.train), settings.batch_size, settings.seed)
        own = {name: getattr(settings, name) for name in Settings.IDENTITY}
        specs = {name: json.loads(spec_to_json(spec)) for name in SPECS if (spec := getattr(data.meta, name)) is not None}
        self.identity = {
            **identity, **specs, **own, "precision": self.precision, "dataset": fingerprint(data.train, data.meta)
        }
        self.remember = {**(remember or {}), "settings": dataclasses.asdict(settings)}
        self.meter = Meter(device)
        self.step, self.unfit, self.best, self.seconds_before = 0, 0, None, 0.0
        self.last_metrics: dict[str, float] = {}
        self._deferred = device.type == "cuda" or self.ranks.world > 1
        self._pending: list[tuple[int, str, tuple[str, ...], Tensor]] = []  # (step, what, ids, finite) not yet read from the device
        self._step_ids: tuple[str, ...] = ()
        self._bad = torch.zeros((), device=device)  # 1 from the first value that is not finite
        self._validation_cache: list[MicroBatch] | None = None
        self._agreed_minutes = 0.0  # of several ranks, as the first one's clock said last
        self._drawn = -math.inf
        self._validated_at = -1
        self._not_finite: set[str] = set()  # values of the last validation without a finite case

    # ---- the loop

    def fit(self, resume: bool = False, allow_changed: bool = False, validate_first: bool = False) -> Result:
        """Train to the end of the run, or to a signal.

        Args:
            resume: go on from the state in `folder`.
            allow_changed: resume though dataset or configuration differ.
            validate_first: validate before the first step, so that `best` is never worse than what the run began with.

        Raises:
            NotFiniteError: a loss or gradient is not finite; names the rows of the batch.
            MismatchError: `resume` with something that differs; names it.
            ConfigError: the folder cannot be written.
        """
        if self.ranks.first:
            make_folder(self.folder)
            for folder in (self.folder, *(self.folder / name for name in ("state", "last", "best"))):
                remove_temporaries(folder)
            if not resume:
                remove_state(self.folder / "state")
        if resume:
            self._load(allow_changed)
        self.metrics_file = MetricsFile(self.folder / "metrics.jsonl", self.step if resume else None) if self.ranks.first else None
        self._started = self._saved = time.monotonic()
        with StopRequest() as request:
            try:
                self._run(request, validate_first)
            finally:
                if self.metrics_file is not None:
                    self.metrics_file.close()
                self.wandb.close()
        return Result(self.step, self.last_metrics, self.best, request.signal)

    def _run(self, request: StopRequest, validate_first: bool) -> None:
        self._agree_on_time()
        if self._finished():
            self._draw(force=True)
            return
        if validate_first and self.step == 0:
            self._validate_and_save()
        settings = self.settings
        micro = self.step * settings.accumulate
        stop = (self.total if self.total is not None else 1 << 40) * settings.accumulate
        batches = TrainBatches(self.task, self.data.train, self.plan, self.ranks.rank, self.ranks.world)
        stream = prefetch(batches, range(micro, stop), settings.workers, pin=self.device.type == "cuda")
        mark_time, mark_step, waited = time.monotonic(), self.step, 0.0
        while not self._finished():
            set_learning_rate(self.optimizer, self.tunables.lr0 * self._lr_factor())
            self._step_ids = ()
            for part in range(settings.accumulate):
                before = time.monotonic()
                batch = next(stream)
                waited += time.monotonic() - before
                self._forward_backward(batch, self.step * settings.accumulate + part, last=part == settings.accumulate - 1)
            self._update()
            self.step += 1
            log_due = self.step % settings.log_every == 0
            validate_due = self.step % settings.validate_every == 0
            if log_due:
                self._read_pending()
                self._agree_on_time()
                now = time.monotonic()
                rate = (self.step - mark_step) * settings.batch_size * settings.accumulate / max(now - mark_time, 1e-9)
                self._log_training(rate, waited / max(now - mark_time, 1e-9))
                mark_time, mark_step, waited = now, self.step, 0.0
            if validate_due and not self._finished():
                self._read_pending()
                self._validate_and_save()
                mark_time, mark_step, waited = time.monotonic(), self.step, 0.0
            elif log_due and self._save_due():
                self._save()
            if self._agreed_signal(request, log_due):
                self._read_pending()
                self._save()
                self.progress.line(f"stopped by signal {request.signal} after step {self.step}; go on with --resume-from '{self.folder}'")
                return
        self._read_pending()
        if self.meter.names():
            self._log_training(None, None)
        if self._validated_at != self.step:  # a run that the clock ends may just have validated
            self._validate_and_save()
        self._draw(force=True)

    def _forward_backward(self, batch: MicroBatch, micro: int, last: bool) -> None:
        self.unfit += batch.unfit
        self._step_ids += batch.ids
        tensors = batch.on(self.device)
        torch.manual_seed(step_seed(self.settings.seed, micro, self.ranks.rank))
        with sharding.synchronise(self.stepper, last):
            with self._autocast():
                losses = self.stepper(tensors)
            loss = dist.mean_over_ranks(losses.terms, self.ranks) if self.ranks.world > 1 and losses.terms else losses.total
            finite = torch.isfinite(loss.detach())
            self._pending.append((self.step, "loss", batch.ids, finite))
            total = loss / self.settings.accumulate
            if self._deferred:
                self._bad = torch.maximum(self._bad, (~finite).to(self._bad.dtype))
                if self.scaler.is_enabled():
                    # The scaler passes over an update whose gradients are not finite: keep them so once one loss was not.
                    total = total * torch.where(self._bad > 0, torch.full_like(self._bad, math.nan), torch.ones_like(self._bad))
            else:
                self._read_pending()
            self.scaler.scale(total).backward()
        self.meter.add({"loss": loss, **losses.parts, **losses.metrics}, len(batch.ids))

    def _update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = sharding.whole(torch.nn.utils.get_total_norm(grads))
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            finite = torch.isfinite(norm)
            self._pending.append((self.step, "gradient", self._step_ids, finite))
            if self._deferred:
                self._bad = dist.max_(torch.maximum(self._bad, (~finite).to(self._bad.dtype)), self.ranks)
                self.optimizer.found_inf = self._bad  # type: ignore[attr-defined] - the fused kernel passes over the update
                self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            else:
                self._read_pending()
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.step + 1)
        self.meter.add({"grad_norm": norm})

    def _read_pending(self) -> None:
        """Read the finite flags gathered since the last time; waits for the device. All ranks stop where one of them must."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        flags = torch.stack([flag for _, _, _, flag in pending]).tolist()
        own = next(([step, what != "loss", ids] for (step, what, ids, _), finite in zip(pending, flags, strict=True) if not finite), None)
        found = [first for first in dist.gather(own, self.ranks) if first is not None]
        if found:  # a loss before the gradient that it spoils on every rank
            when = min(first[:2] for first in found)
            self._stop_not_finite(when[0], [identity for first in found if first[:2] == when for identity in first[2]])

    def _stop_not_finite(self, step: int, ids: Sequence[str]) -> None:
        shown = ", ".join(ids[:32]) + (f", ... ({len(ids)} in all)" if len(ids) > 32 else "")
        raise NotFiniteError(
            f"the loss or its gradient is not finite at step {step} (seed {self.settings.seed}), before its update; rows: {shown}; "
            "check these rows, or lower lr0"
        )

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    # ---- where the run stands

    def _elapsed_minutes(self) -> float:
        """Of several ranks as they last agreed, so that no step waits for the first one's clock."""
        return self._own_minutes() if self.ranks.world == 1 else self._agreed_minutes

    def _own_minutes(self) -> float:
        return (self.seconds_before + time.monotonic() - self._started) / 60

    def _agree_on_time(self) -> None:
        if self.settings.minutes and self.ranks.world > 1:
            self._agreed_minutes = float(dist.from_first(torch.tensor(self._own_minutes(), device=self.device), self.ranks))

    def _clock_share(self) -> float:
        return self._elapsed_minutes() / self.settings.minutes if self.settings.minutes else 0.0

    def _finished(self) -> bool:
        return (self.total is not None and self.step >= self.total) or self._clock_share() >= 1

    def _lr_factor(self) -> float:
        position = max(float(self.step) if self.total is not None else 0.0, self._clock_share() * self.schedule_total)
        return lr_factor(self.settings.lr_schedule, position, self.schedule_total, self.warmup)

    def _epoch(self) -> float:
        return self.step * self.settings.accumulate * self.settings.batch_size / len(self.data.train)

    def _agreed_signal(self, request: StopRequest, log_due: bool) -> bool:
        if self.ranks.world == 1:
            return bool(request.signal)
        if not log_due:
            return False
        agreed = int(dist.max_(torch.tensor(float(request.signal), device=self.device), self.ranks).item())
        request.signal = agreed
        return bool(agreed)

    # ---- validation, checkpoints, log

    def _validate_and_save(self) -> None:
        self._validated_at = self.step
        metrics = self.validate()
        if metrics:
            self._record({"step": self.step, "epoch": round(self._epoch(), 4), **metrics})
            self.progress.line(f"step {self.step}: " + ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
        # without validation rows the training loss stands in
        monitored = metrics if metrics or self._not_finite else {"val_loss": self._last_loss()}
        name = self.settings.monitored_metric
        if name in self._not_finite:
            self.progress.line(f"step {self.step}: {name} is not finite on any validation row; best stays as it was")
        elif name not in monitored:
            self._save()
            raise ConfigError(f"--monitored-metric: validation yields no '{name}'{nearest(name, monitored)}")
        value = monitored.get(name)
        better = value is not None and (
            self.best is None or (value < self.best if self.settings.monitored_mode == "min" else value > self.best)
        )
        if better:
            self.best = value
            self._checkpoint("best")
        self._save()
        self._draw()

    def _last_loss(self) -> float | None:
        records = self.metrics_file.records if self.metrics_file is not None else []
        last = next((r["loss"] for r in reversed(records) if r.get("loss") is not None), None)
        return dist.gather(last, self.ranks)[0]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Means over the fixed validation rows, each name with `val_` before it; with averaged weights when there are.

        The batches do not depend on the number of ranks, and neither does the order in which they are added up.
        """
        count = min(len(self.data.validation), self.settings.validation_rows)
        self._not_finite = set()
        if not count:
            return {}
        averaged = self.ema.in_place() if self.ema is not None else contextlib.nullcontext()
        own: list[tuple[int, int, dict[str, Tensor]]] = []  # (batch, rows, values)
        self.model.eval()
        with averaged, sharding.gathered(self.losses):
            for index, batch in self._validation_batches(count):
                if not batch.ids:
                    continue
                torch.manual_seed(step_seed(_VALIDATION_SEED, index, 0))
                with self._autocast():
                    losses = self.losses(batch.on(self.device))
                own.append((index, len(batch.ids), {"loss": losses.total, **losses.parts, **losses.metrics}))
        self.model.train()
        numbers = [(index, rows, {name: float(value) for name, value in values.items()}) for index, rows, values in own]
        meter = Meter(torch.device("cpu"))
        for _, rows, values in sorted((tuple(row) for rank in dist.gather(numbers, self.ranks) for row in rank), key=itemgetter(0)):
            meter.add({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}, rows)
        names = {f"val_{name}" for together in meter.names() for name in together}
        self.last_metrics = {f"val_{name}": value for name, value in meter.take().items()}
        self._not_finite = names - set(self.last_metrics)
        if not names:
            self.progress.line(f"none of the {count} validation rows is fit for task {self.task.name}")
        return self.last_metrics

    def _validation_batches(self, count: int) -> Iterator[tuple[int, MicroBatch]]:
        """This rank's validation batches and their numbers; kept in memory after the first pass when they are small."""
        batches = ValidationBatches(self.task, self.data.validation, self.settings.batch_size, count)
        numbers = range(self.ranks.rank, len(batches), self.ranks.world)
        if self._validation_cache is not None:
            yield from zip(numbers, self._validation_cache, strict=True)
            return
        kept: list[MicroBatch] | None = []
        size = 0
        for number, batch in zip(numbers, prefetch(batches, numbers, min(self.settings.workers, 2)), strict=True):
            if kept is not None:
                size += sum(t.nbytes for t in batch.tensors.values())
                kept = [*kept, batch] if size <= VALIDATION_CACHE_BYTES else None
            yield number, batch
        self._validation_cache = kept

    def _save(self) -> None:
        """The weights as `last`, then the state to resume from: a run killed between the two goes on from the state before."""
        self._checkpoint("last")
        if self.settings.keep_last:
            self._checkpoint(f"step-{self.step:07d}")
            for old in sorted(self.folder.glob("step-*"))[: -self.settings.keep_last] if self.ranks.first else ():
                for file in old.iterdir():
                    file.unlink()
                old.rmdir()
        state = self._state()
        if self.ranks.first:
            with self._saving():
                save_state(self.folder / "state", state)
        dist.wait(self.ranks)
        self._saved = time.monotonic()

    def _save_due(self) -> bool:
        due = torch.tensor(float(time.monotonic() - self._saved > SAVE_SECONDS))
        return bool(due if self.ranks.world == 1 else dist.from_first(due.to(self.device), self.ranks))

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise SaveError(
                f"step {self.step} could not be saved in '{self.folder}' ({error}); make room, then go on with --resume-from "
                f"'{self.folder}'"
            ) from error

    def _checkpoint(self, name: str) -> None:
        """Every rank gives what it holds, the first one writes."""
        with self.ema.in_place() if self.ema is not None else contextlib.nullcontext():
            tensors = sharding.whole_state(self.model.state_dict(), self.ranks)
            if self.ranks.first:
                self._write_checkpoint(name, tensors)

    def _write_checkpoint(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        trained = {
            "step": self.step,
            "epoch": round(self._epoch(), 4),
            "identity": self.identity,
            "metrics": self.last_metrics,
            "rows": len(self.data.train),
            "weights": f"moving average {self.settings.ema}" if self.ema else "as trained",
        }
        meta = {**self.task.checkpoint_meta(), "training": trained}
        with self._saving():
            save_model(self.model, self.folder / name, meta, card=_card(self.task.name, trained), tensors=tensors)

    def _state(self) -> RunState:
        """What `_load` needs; every rank gives what it holds, the first one has the tensors."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"optim/{k}": v for k, v in optimizer_tensors(self.model, self.optimizer).items()}
        if self.ema is not None:
            tensors |= {f"ema/{k}": v for k, v in self.ema.tensors().items()}
        numbers = {
            "step": self.step,
            "seconds": self.seconds_before + time.monotonic() - self._started,
            "unfit": self.unfit,
            "best": self.best,
            "metrics": self.last_metrics,
            "meter": self.meter.state(),
            "scaler": self.scaler.state_dict(),
            "identity": self.identity,
            "remember": self.remember,
        }
        return RunState(sharding.whole_state(tensors, self.ranks), numbers)

    def _load(self, allow_changed: bool) -> None:
        state = load_state(self.folder / "state")
        numbers = state.numbers
        if not allow_changed:
            require_same_run(numbers["identity"], self.identity, f"'{self.folder}'")
        load_into(self.model, take(state.tensors, "model"), f"'{self.folder}'")
        load_optimizer_tensors(self.model, self.optimizer, take(state.tensors, "optim"))
        if self.ema is not None:
            self.ema.load(take(state.tensors, "ema"))
        if self.scaler.is_enabled() and numbers["scaler"]:
            self.scaler.load_state_dict(numbers["scaler"])
        self.step, self.unfit, self.best = numbers["step"], numbers["unfit"], numbers["best"]
        self.last_metrics, self.seconds_before = numbers["metrics"], numbers["seconds"]
        self.meter.load(numbers["meter"])

    def _log_training(self, rows_per_second: float | None, waiting: float | None) -> None:
        for names in dist.union(self.meter.names(), self.ranks):
            dist.sum_(self.meter.totals(names), self.ranks)
        values = self.meter.take()
        record: dict[str, Any] = {
            "step": self.step,
            "epoch": round(self._epoch(), 4),
            **values,
            "lr": self.tunables.lr0 * self._lr_factor_of_last(),
            "unfit": self.unfit,
        }
        if rows_per_second is not None:
            record |= {"rows_per_second": round(rows_per_second, 3), "waiting": round(waiting or 0.0, 3)}
        record["seconds"] = round(self.seconds_before + time.monotonic() - self._started, 3)
        self._record(record)
        speed = f", {rows_per_second:.3g} rows/s" if rows_per_second else ""
        self.progress.update(self._done(), f"step {self.step}, loss {values.get('loss', math.nan):.4f}, lr {record['lr']:.2e}{speed}")

    def _lr_factor_of_last(self) -> float:
        group = self.optimizer.param_groups[0]
        return group["lr"] / group["lr_scale"] / self.tunables.lr0 if group["lr_scale"] and self.tunables.lr0 else 0.0

    def _done(self) -> int:
        """Progress in thousandths."""
        share = self.step / self.total if self.total is not None else 0.0
        return int(1000 * max(share, min(1.0, self._clock_share())))

    def _record(self, record: Mapping[str, Any]) -> None:
        if self.metrics_file is not None:
            self.metrics_file.write(record)
        self.wandb.write(record)

    def _draw(self, force: bool = False) -> None:
        if self.metrics_file is not None and (force or time.monotonic() - self._drawn > PICTURE_SECONDS):
            draw_losses(self.metrics_file.records, self.folder / "loss.png", f"{self.task.name} · {self.folder.name}")
            self._drawn = time.monotonic()


def compiled_parts(model: Any) -> Sequence[nn.Module]:
    """What `--torch-compile` compiles: the model's own choice where its task calls other methods than `forward`, else the model."""
    return model.compiled_parts() if hasattr(model, "compiled_parts") else [model]


def make_folder(folder: Path) -> None:
    """Make a run's folder.

    Raises:
        ConfigError: it, or a file in it, cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"a run cannot be written to '{folder}' ({why}); choose another --output-dir or --checkpoint-dir") from error


def resumable(folder: Path) -> bool:
    return has_state(folder / "state")


def _card(task: str, trained: Mapping[str, Any]) -> str:
    lines = [f"# {task}, step {trained['step']}", "", f"Written by `train.py --task_name {task}`. Weights: {trained['weights']}.", ""]
    lines += [f"- {name}: {value:.5g}" for name, value in trained["metrics"].items()]
    return "\n".join(lines) + "\n"


def describe(trainer: Trainer) -> Sequence[str]:
    """Lines for the start of a run: sizes, bounds, warm-up."""
    model, settings = trainer.model, trainer.settings
    trainable = sum(p.numel() for p in trainer.parameters)
    frozen = sum(p.numel() for p in model.parameters()) - trainable
    bound = f"{trainer.total} steps" if trainer.total is not None else "no bound on steps"
    if settings.minutes:
        bound += f", {settings.minutes:g} minutes (the schedule follows the clock: not reproducible)"
    warmup = f"warm-up {trainer.warmup} steps" if trainer.total is not None else f"warm-up {trainer.warmup / CLOCK_STEPS:.0%} of the time"
    if trainer.warmup < trainer.tunables.warmup_steps:
        warmup += f" (a tenth of the run, instead of {trainer.tunables.warmup_steps})"
    return (
        f"{trainer.task.name}: {trainable:,} parameters{f' (+ {frozen:,} frozen)' if frozen else ''}, "
        f"{len(trainer.data.train):,} rows, {len(trainer.data.validation):,} for validation",
        f"{bound}, {settings.lr_schedule}, {warmup}, precision {trainer.precision} on {trainer.device}",
        *trainer.data.notes,
    )
