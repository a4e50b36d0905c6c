"""The train loop: a task, a model and rows in; checkpoints, metrics and a saved state out. It knows no task names.

One optimiser step: `accumulate` micro-batches -> losses -> finite check -> backward -> clip -> AdamW -> moving average. On the CPU the check reads
every loss before its backward pass. On CUDA nothing waits for the device between log lines: the check stays there, as a flag that makes
the fused optimiser pass over this update and every later one until the host reads it and stops. Either way the weights stay as they
were before the first loss that is not finite. In fp16 a gradient that is too large for it is ordinary: the scaler passes over such an update and scales the
next less, and the run stops where not even the least scale helps.

A step depends on (seed, step, rank) and the weights alone: data, augmentation and dropout are seeded from them. So a resumed run repeats
the losses of one that was never stopped. Runs bounded by the clock (`minutes`) are the exception: their schedule follows time.
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from autosing.config import nearest
from autosing.errors import ConfigError, DataError
from autosing.faults import Faults
from autosing.models.io import save_model
from autosing.song import audio
from autosing.store import atomic_path
from autosing.tokens.specs import spec_to_json
from autosing.training import dist, sharding
from autosing.training.batches import MicroBatch, Plan, TrainBatches, ValidationBatches, step_seed
from autosing.training.card import model_card
from autosing.training.checkpoints import SAMPLES, Checkpoints, Snapshot, numbered
from autosing.training.data import TrainingData, fingerprint
from autosing.training.finite import Check, FiniteWatch, NotFiniteError
from autosing.training.loader import prefetch
from autosing.training.log import Meter, MetricsFile, Progress, TensorBoard, Wandb, draw_losses
from autosing.training.optim import (
    AveragedWeights,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from autosing.training.run_folder import held, make_folder
from autosing.training.saving import saving
from autosing.training.schedule import CLOCK_STEPS, lr_factor, warmup_steps
from autosing.training.settings import PRECISIONS, Settings
from autosing.training.spikes import Spike, SpikeWatch
from autosing.training.state import RunState, load_into, load_state, require_same_run, take
from autosing.training.stop import StopRequest
from autosing.training.task import SPECS, Losses, OptimTunables, Sample, Task
from autosing.training.validation import Scored, combine

VALIDATION_CACHE_BYTES = 256 << 20
PICTURE_SECONDS = 30.0  # the loss curve is drawn at most this often
LEAST_SCALE = 1e-4  # of a loss in fp16: a gradient that is not finite at it is so by itself
SAVE_SECONDS = 300.0  # the state is saved at least this often, however far apart validations are
_VALIDATION_SEED = 1


class Result(NamedTuple):
    """How a run ended: steps done, the last validation values, best monitored value, and the signal that stopped it (0: none)."""

    step: int
    metrics: dict[str, float]
    best: float | None
    stopped_by: int


class _Signalled(Exception):
    """A signal came during a validation before which nothing was saved."""


class _Stepper(nn.Module):
    """A task's losses as one module's forward, so that gradients can be averaged over ranks whatever the task calls on its model."""

    block_methods = ("samples",)

    def __init__(self, task: Task, model: nn.Module):
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: dict[str, Tensor]) -> Losses:
        return self.task.losses(self.model, batch)

    def samples(self, batch: dict[str, Tensor]) -> list[Sample]:
        return self.task.samples(self.model, batch)  # type: ignore[attr-defined] - a Trainer has seen that the task makes some


class _Pace:
    """Of the steps since a mark: rows a second, and the share of the time in which they waited for batches.

    Attributes:
        waited: seconds, added to by whoever waits.
    """

    def __init__(self, step: int, rows_a_step: int):
        self._rows_a_step = rows_a_step
        self.begin(step)

    def begin(self, step: int) -> None:
        self._time, self._step, self.waited = time.monotonic(), step, 0.0

    def take(self, step: int) -> tuple[float, float]:
        """Both, from the mark to `step`, where the next mark is."""
        time_before, step_before, waited = self._time, self._step, self.waited
        self.begin(step)
        seconds = max(self._time - time_before, 1e-9)
        return (step - step_before) * self._rows_a_step / seconds, waited / seconds


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
        export: Callable[..., None] = save_model,
        tensorboard: TensorBoard | None = None,
        config_text: str = "",
        faults: Faults | None = None,
        draw_sample: Callable[[Path, Sample], None] | None = None,
    ):
        """
        Args:
            model: as `task.build_model` made it, perhaps with weights loaded; moved to `device` here.
            folder: the run's folder: metrics.jsonl, loss.png, state/, last/, best/.
            identity: what else must be the same when the run is resumed (task, args, tunables), as JSON values.
            remember: JSON values kept in the state for whoever resumes it, which may change.
            export: writes the model as a checkpoint's folder, given its meta, its card and, as `tensors`, a snapshot of its state.
            faults: reached as `train` at the points `batch`, `update`, `record`, `weights` and `state`, the last two before and after each.
            draw_sample: makes the picture of a sample.
            config_text: of config.yaml, written beside the run.

        Raises:
            ConfigError: samples are wanted of a task that makes none.
            DataError: there are no rows to train on.
        """
        if not len(data.train):
            raise DataError(f"task {task.name} finds no rows to train on; look at what --dataset-config names")
        if settings.samples and not hasattr(task, "samples"):
            raise ConfigError(f"--samples: task {task.name} makes none; leave it out")
        self.task, self.tunables, self.data, self.settings, self.folder, self.device = task, tunables, data, settings, folder, device
        self.ranks = ranks or dist.Ranks()
        dist.require_divisible(settings.batch_size, self.ranks)
        self.progress = progress or Progress(1, quiet=True)
        self.wandb = wandb or Wandb("off", folder, "", "", {})
        self.precision = settings.precision_on(device)
        self.dtype = PRECISIONS[self.precision]
        self.tensorboard = tensorboard
        self._config_text = config_text
        self._faults = faults or Faults()
        self.checkpoints = Checkpoints(
            folder,
            lambda place, taken: export(self.model, place, taken.meta, taken.card, tensors=taken.weights),
            self._faults,
            keep_last=settings.keep_last,
            keep_best=settings.keep_best,
            mode=settings.monitored_mode,
            writes=self.ranks.first,
        )
        self._draw_sample = draw_sample
        self.model = model.to(device).train()
        if self.precision == "bf16":
            for parameter in self.model.parameters():
                parameter.data = parameter.data.bfloat16()
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
        self.scaler = GradScaler(device.type, enabled=self.dtype is torch.float16)
        clip = settings.clip_gradient_norm
        self.clip = tunables.clip_gradient_norm if clip is None else clip
        self.total = settings.total_steps(len(data.train))
        self.schedule_total = self.total or CLOCK_STEPS
        self.warmup = warmup_steps(tunables.warmup_steps, self.schedule_total)
        self.plan = Plan(len(data.train), settings.batch_size, settings.seed)
        self.identity = self._identity(identity)
        self.remember = {**(remember or {}), "settings": dataclasses.asdict(settings)}
        self.meter = Meter(device)
        self.metrics_file: MetricsFile | None = None
        self._started = time.monotonic()
        self.step, self.unfit, self.seconds_before = 0, 0, 0.0
        self.last_metrics: dict[str, float] = {}
        self._deferred = device.type == "cuda" or self.ranks.world > 1
        self._finite = FiniteWatch(device)
        self._spikes: list[Spike] = []  # not yet read from the device
        self.spike_watch = SpikeWatch(device)
        self._step_ids: tuple[str, ...] = ()
        self._request = StopRequest()
        self._validation_cache: list[MicroBatch] | None = None
        self._agreed_minutes = 0.0  # of several ranks, as the first one's clock said last
        self._drawn = -math.inf
        self._validated_at = -1
        self._not_finite: set[str] = set()  # values of the last validation without a finite case

    def _identity(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What must be the same when the run is resumed: `given`, specs and rows of the dataset, and the settings that decide its result."""
        settings, meta = self.settings, self.data.meta
        specs = {name: json.loads(spec_to_json(spec)) for name in SPECS if (spec := getattr(meta, name)) is not None}
        own = {name: getattr(settings, name) for name in Settings.IDENTITY}
        identity = {**given, **specs, **own, "precision": self.precision, "dataset": fingerprint(self.data.train, meta)}
        if settings.skip_gradient_spikes:
            identity["skip_gradient_spikes"] = True
        if settings.deterministic:  # bits depend on these two as well
            threads = torch.get_num_threads() if self.device.type == "cpu" else None
            identity["deterministic"] = {"device": self.device.type, "threads": threads}
        return identity

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
            ConfigError: the folder cannot be written, or another process trains in it.
            SaveError: the disk is full, ...
        """
        with contextlib.ExitStack() as stack:
            if self.ranks.first:
                make_folder(self.folder)
                stack.enter_context(held(self.folder))
                self.checkpoints.clear(resume)
            return self._fit(resume, allow_changed, validate_first)

    def _fit(self, resume: bool, allow_changed: bool, validate_first: bool) -> Result:
        if resume:
            self._load(allow_changed)
        if self.ranks.first:
            with saving(self.step, self.folder):
                if self._config_text:
                    with atomic_path(self.folder / "config.yaml") as path:
                        path.write_text(self._config_text, encoding="utf-8")
                self.metrics_file = MetricsFile(self.folder / "metrics.jsonl", self.step if resume else None)
        self._started = time.monotonic()
        self.checkpoints.begin(self.step)
        with self._request:
            try:
                stopped_by = self._run(validate_first)
                self.checkpoints.finish()
                dist.wait(self.ranks)
            finally:
                self.checkpoints.wait()
                if self.metrics_file is not None:
                    self.metrics_file.close()
                self.wandb.close()
                if self.tensorboard is not None:
                    self.tensorboard.close()
        return Result(self.step, self.last_metrics, self.checkpoints.best, stopped_by)

    def _run(self, validate_first: bool) -> int:
        """The signal that stopped the run before its end; 0: none."""
        self._agree_on_time()
        if self._finished():
            if self._validated_at != self.step:  # killed in its last validation
                self._validate_last()
            self._draw(force=True)
            return 0
        if validate_first and self.step == 0:
            self._validate_and_save()
            self.checkpoints.finish()  # a process is not forked while a thread writes
        settings, stream = self.settings, self._stream()
        pace = _Pace(self.step, settings.batch_size * settings.accumulate)
        while not self._finished():
            pace.waited += self.train_step(stream)
            log_due = self.step % settings.log_every == 0
            validate_due = self.step % settings.validate_every == 0
            save_due = validate_due if settings.save_every is None else self.step % settings.save_every == 0
            if log_due:
                self._read_finite()
                self._read_spikes()
                self._agree_on_time()
                self._log_training(*pace.take(self.step))
            if (validate_due or save_due) and not self._finished():
                self._read_finite()
                if validate_due:
                    self._validate_and_save(save_due)
                else:
                    self._save()
                pace.begin(self.step)
            elif log_due and self._save_due():
                self._save()
            number = self._request.signal if self.ranks.world == 1 else self._request.agreed
            if number and not self._finished():
                self._read_finite()
                self._save()
                self.progress.line(f"stopped by signal {number} after step {self.step}; go on with --resume-from '{self.folder}'")
                return number
        self._end()
        return 0

    def _stream(self) -> Iterator[MicroBatch]:
        """This rank's micro-batches from where the run stands to its end."""
        accumulate = self.settings.accumulate
        stop = (self.total if self.total is not None else 1 << 40) * accumulate
        batches = TrainBatches(self.task, self.data.train, self.plan, self.ranks.rank, self.ranks.world)
        return prefetch(batches, range(self.step * accumulate, stop), self.settings.workers, pin=self.device.type == "cuda")

    def _end(self) -> None:
        """What is left to do after the last step."""
        self._read_finite()
        self._read_spikes()
        if self.meter.names():
            self._log_training(None, None)
        if self._validated_at != self.step:  # a run that the clock ends may just have validated
            self._validate_last()
        elif self.checkpoints.step != self.step:
            self._save()
        self._draw(force=True)

    def train_step(self, stream: Iterator[MicroBatch]) -> float:
        """One optimiser step on the next batches of `stream`; returns the seconds that it waited for them."""
        set_learning_rate(self.optimizer, self.tunables.lr0 * self._lr_factor())
        self._step_ids = ()
        waited, last = 0.0, self.settings.accumulate - 1
        for part in range(last + 1):
            before = time.monotonic()
            batch = next(stream)
            waited += time.monotonic() - before
            self._faults.reach("train", "batch")
            self._forward_backward(batch, self.step * self.settings.accumulate + part, last=part == last)
        self._update()
        self.step += 1
        self._faults.reach("train", "update")
        self.checkpoints.check()
        return waited

    def _forward_backward(self, batch: MicroBatch, micro: int, last: bool) -> None:
        self.unfit += batch.unfit
        self._step_ids += batch.ids
        tensors = batch.on(self.device)
        torch.manual_seed(step_seed(self.settings.seed, micro, self.ranks.rank))
        with sharding.synchronise(self.stepper, last):
            with self._autocast():
                losses = self.stepper(tensors)
            loss = dist.mean_over_ranks(losses.terms, self.ranks) if self.ranks.world > 1 and losses.terms else losses.total
            self._check(Check(self.step, True, batch.ids, torch.isfinite(loss.detach())))
            total = loss / self.settings.accumulate
            if self._deferred and self.scaler.is_enabled():
                # The scaler passes over an update whose gradients are not finite: keep them so once one loss was not.
                bad = self._finite.bad
                total = total * torch.where(bad > 0, torch.full_like(bad, math.nan), torch.ones_like(bad))
            self.scaler.scale(total).backward()
        self.meter.add({"loss": loss, **losses.parts, **losses.metrics}, len(batch.ids))

    def _tell_each_other(self) -> None:
        """One exchange a step between ranks: was a loss not finite, has one been sent a signal?"""
        bad = self._finite.bad
        told = torch.stack([bad, torch.full_like(bad, self._request.signal)])
        self._finite.bad, largest_signal = dist.max_(told, self.ranks)
        self._request.agree(largest_signal)

    def _update(self) -> None:
        if self.ranks.world > 1:
            self._tell_each_other()
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        over = self._watch(norm)
        self._step_optimizer(over if self.settings.skip_gradient_spikes else None)
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.step + 1)
        self.meter.add({"grad_norm": norm}, 1 / self.ranks.world)  # every rank has the same

    def _clip(self) -> Tensor:
        """Clip the gradient as a whole; the norm that it had, ()."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = sharding.whole(torch.nn.utils.get_total_norm(grads))
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        return norm

    def _watch(self, norm: Tensor) -> Tensor:
        """Note the norm of this update, (), for the log and the finite check; whether it is a spike, () bool."""
        threshold, over = self.spike_watch.see(norm)
        self._spikes.append(Spike(self.step + 1, self._step_ids, norm, threshold, over))
        finite = torch.isfinite(norm)
        if self.scaler.is_enabled():
            finite |= self.scaler.scale(torch.ones_like(norm)) > LEAST_SCALE
        self._check(Check(self.step, False, self._step_ids, finite))
        return over

    def _step_optimizer(self, over: Tensor | None) -> None:
        """Move the weights, but where a value was not finite, or where `over`, () bool, is true."""
        if self.scaler.is_enabled():
            if over is None or not over.item():  # the scaler has no flag for this: skipping costs it a look at every step
                self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self._deferred:
            bad = self._finite.bad
            passed_over = bad if over is None else torch.maximum(bad, over.to(bad.dtype))
            self.optimizer.found_inf = passed_over  # type: ignore[attr-defined] - the fused kernel passes over the update
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.optimizer.step()
        elif over is None or not over.item():
            self.optimizer.step()

    def _check(self, check: Check) -> None:
        """Note a finite check; read it at once where no step minds waiting for that."""
        self._finite.see(check)
        if not self._deferred:
            self._read_finite()

    def _read_finite(self) -> None:
        """Stop where a value seen since the last time was not finite. All ranks read at the same step, so that all stop where one must."""
        found = self._finite.read(self.ranks)
        if found is not None:
            self._stop_not_finite(*found)

    def _read_spikes(self) -> None:
        """Record the gradient norms that were spikes since the last time; waits for the device. All ranks know the same norms."""
        watched, self._spikes = self._spikes, []
        if not watched:
            return
        rows = torch.stack([torch.stack([s.over.to(s.norm.dtype), s.norm, s.threshold.to(s.norm.dtype)]) for s in watched]).tolist()
        for spike, (over, norm, threshold) in zip(watched, rows, strict=True):
            if not over:
                continue
            ids = [name for members in dist.gather(spike.ids, self.ranks) for name in members]
            skipped = self.settings.skip_gradient_spikes
            self._record({"step": spike.step, "grad_norm_spike": norm, "threshold": threshold, "skipped": skipped, "ids": ids})
            what = "passed over" if skipped else "trained on"
            self.progress.line(f"step {spike.step}: gradient norm {norm:.4g} is over {threshold:.4g}; {what}, rows: {', '.join(ids[:8])}")

    def _stop_not_finite(self, step: int, ids: Sequence[str]) -> None:
        self._record({"step": step, "not_finite": True, "ids": list(ids)})
        shown = ", ".join(ids[:32]) + (f", ... ({len(ids)} in all)" if len(ids) > 32 else "")
        raise NotFiniteError(
            f"the loss or its gradient is not finite at step {step} (seed {self.settings.seed}), before its update; rows: {shown}; "
            "check these rows, or lower lr0"
        )

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        """A block in which the model carries the averaged weights where there are some."""
        return self.ema.in_place() if self.ema is not None else contextlib.nullcontext()

    # ---- where the run stands

    def _elapsed_minutes(self) -> float:
        """Of several ranks as they last agreed, so that no step waits for the first one's clock."""
        return self._own_minutes() if self.ranks.world == 1 else self._agreed_minutes

    def _own_minutes(self) -> float:
        return self._seconds() / 60

    def _seconds(self) -> float:
        """That the run has taken, before it was resumed too."""
        return self.seconds_before + time.monotonic() - self._started

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

    # ---- validation, checkpoints, log

    def _validate_last(self) -> None:
        """The validation that ends a run. A signal may announce a kill: the state is then saved before it, which begins again. Several ranks,
        none of which can leave it alone, save before it in any case. A resumed run does it, too."""
        if self.ranks.world > 1 and self.checkpoints.step != self.step:
            self._save()
        try:
            self._validate_and_save(until_signal=self.ranks.world == 1)
        except _Signalled:
            self._save()
            self._validate_and_save()

    def _validate_and_save(self, save: bool = True, until_signal: bool = False) -> None:
        """Validate; then write what deserves it, and with `save` the state too."""
        metrics = self.validate(until_signal=until_signal)
        self._validated_at = self.step
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
        names = self.checkpoints.deserved(monitored.get(name), self.step)
        if save or names:
            self._save(*names, state=save)
        self._draw()
        if self.settings.samples:
            self._sample()

    def _last_loss(self) -> float | None:
        records = self.metrics_file.records if self.metrics_file is not None else []
        last = next((r["loss"] for r in reversed(records) if r.get("loss") is not None), None)
        return dist.gather(last, self.ranks)[0]

    @torch.no_grad()
    def _sample(self) -> None:
        """Let the task sing the first validation rows (training rows where there are none), and write what that sounds and looks like."""
        count, folder = self.settings.samples, self.folder / SAMPLES / numbered(self.step)
        batch = ValidationBatches(self.task, self.data.validation or self.data.train, count, count)[0]
        if batch.error:
            raise DataError(batch.error)
        if not batch.ids:
            return
        tensors = {key: value.to(self.device) for key, value in batch.tensors.items()}
        self.model.eval()
        with self._averaged(), sharding.gathered(self.losses), self._autocast():
            made = self.losses.samples(tensors)
        self.model.train()
        for index, (sample, name) in enumerate(zip(made, batch.ids, strict=True) if self.ranks.first else ()):
            with saving(self.step, self.folder):
                if sample.audio is not None:
                    with atomic_path(folder / f"{index}.wav") as path:
                        path.write_bytes(audio.encode(sample.audio, sample.sample_rate, "wav"))
                if self._draw_sample is not None:
                    self._draw_sample(folder / f"{index}.png", dataclasses.replace(sample, title=f"{sample.title} - {name}, step {self.step}"))

    @torch.no_grad()
    def validate(self, rows: int | None = None, until_signal: bool = False) -> dict[str, float]:
        """Means over the fixed validation rows (or `rows` of them), each name with `val_` before it; with averaged weights when there are.

        The batches do not depend on the number of ranks, and neither does the order in which they are added up. `val_loss` of a task that gives
        the terms of its loss is that of all rows put together, however they lie in batches; other values are means of batches, by their rows.

        Raises:
            _Signalled: `until_signal`, and one has come.
        """
        count = min(len(self.data.validation), self.settings.validation_rows) if rows is None else rows
        self._not_finite = set()
        if not count:
            return {}
        scored: list[Scored] = []
        self.model.eval()
        with self._averaged(), sharding.gathered(self.losses):
            for index, batch in self._validation_batches(count):
                if not batch.ids:
                    continue
                torch.manual_seed(step_seed(_VALIDATION_SEED, index, 0))
                with self._autocast():
                    losses = self.losses(batch.on(self.device))
                scored.append(Scored(index, len(batch.ids), losses))
                if until_signal and self._request.signal:
                    raise _Signalled
        self.model.train()
        self.last_metrics, names = combine(scored, self.ranks)
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
        if self.settings.workers:
            self.checkpoints.finish()  # as at the start: no fork while a thread writes
        kept: list[MicroBatch] | None = []
        size = 0
        for number, batch in zip(numbers, prefetch(batches, numbers, min(self.settings.workers, 2)), strict=True):
            if kept is not None:
                size += sum(t.nbytes for t in batch.tensors.values())
                kept = [*kept, batch.kept()] if size <= VALIDATION_CACHE_BYTES else None
            yield number, batch
        self._validation_cache = kept

    def _save(self, *names: str, state: bool = True) -> None:
        """Write checkpoints `names`, and with `state` what a save always writes. Every rank gives what it holds."""
        self._read_spikes()  # a resumed run does not see them again
        self.checkpoints.save(self.step, names, self.snapshot, state)

    def snapshot(self, state: bool = True) -> Snapshot:
        """What a save of now writes."""
        full = self._state() if state else None
        trained = {
            "step": self.step,
            "epoch": round(self._epoch(), 4),
            "identity": self.identity,
            "metrics": dict(self.last_metrics),
            "rows": len(self.data.train),
            "weights": f"moving average {self.settings.ema}" if self.ema else "as trained",
        }
        meta = {**self.task.checkpoint_meta(), "training": trained}
        return Snapshot(self._weights(full), meta, model_card(self.task.name, trained, self.data.meta), full)

    def _save_due(self) -> bool:
        due = torch.tensor(float(time.monotonic() - self.checkpoints.time > SAVE_SECONDS))
        return bool(due if self.ranks.world == 1 else dist.from_first(due.to(self.device), self.ranks))

    def _weights(self, state: RunState | None) -> dict[str, Tensor]:
        """What a checkpoint holds now: the averaged weights where there are, else the model's, taken from `state` where that has them."""
        if self.ema is None:
            return take(state.tensors, "model") if state is not None else sharding.whole_state(self.model.state_dict(), self.ranks)
        return sharding.whole_state(self.ema.state_of(self.model), self.ranks)

    def _state(self) -> RunState:
        """A snapshot of everything that a resumed run needs."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"optim/{k}": v for k, v in optimizer_tensors(self.model, self.optimizer).items()}
        if self.ema is not None:
            tensors |= {f"ema/{k}": v for k, v in self.ema.tensors().items()}
        tensors["spikes/log_norms"] = self.spike_watch.log_norms
        numbers = {
            "step": self.step,
            "seconds": self._seconds(),
            "unfit": self._unfit_rows(),
            "best": self.checkpoints.best,
            "ranking": list(self.checkpoints.ranking),
            "norms_seen": self.spike_watch.seen,
            "metrics": dict(self.last_metrics),
            "validated": self._validated_at,
            "meter": [sums for members in dist.gather(self.meter.state(), self.ranks) for sums in members],
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
        if self.ema is not None and (averaged := take(state.tensors, "ema")):
            self.ema.load(averaged)
        elif self.ema is not None:
            self.ema.restart()
        if self.scaler.is_enabled() and numbers["scaler"]:
            self.scaler.load_state_dict(numbers["scaler"])
        self.step, self.checkpoints.best = numbers["step"], numbers["best"]
        self.unfit = numbers["unfit"] if self.ranks.first else 0  # of all ranks
        self.last_metrics, self.seconds_before = numbers["metrics"], numbers["seconds"]
        self._validated_at = numbers.get("validated", self.step)
        self.meter.load(numbers["meter"] if self.ranks.first else [])  # of all ranks
        if "norms_seen" in numbers:
            self.spike_watch.load(state.tensors["spikes/log_norms"], numbers["norms_seen"])
        self.checkpoints.ranking = [(value, step) for value, step in numbers.get("ranking", [])]
        then, now = numbers.get("remember", {}).get("settings", {}), self.remember["settings"]
        changed = [f"{name} is {now[name]}, was {then[name]}" for name in ("monitored_metric", "monitored_mode") if then.get(name, now[name]) != now[name]]
        if changed:  # values of another measure cannot be compared
            self.checkpoints.best, self.checkpoints.ranking = None, []
            self.progress.line(f"{' and '.join(changed)}: the next validation is the best so far")

    def _log_training(self, rows_per_second: float | None, waiting: float | None) -> None:
        for names in dist.union(self.meter.names(), self.ranks):
            dist.sum_(self.meter.totals(names), self.ranks)
        values = self.meter.take()
        record: dict[str, Any] = {
            "step": self.step,
            "epoch": round(self._epoch(), 4),
            **values,
            "lr": self.tunables.lr0 * self._lr_factor_of_last(),
            "unfit": self._unfit_rows(),
        }
        if rows_per_second is not None:
            record |= {"rows_per_second": round(rows_per_second, 3), "waiting": round(waiting or 0.0, 3)}
        if self.checkpoints.stalled:
            record["save_stall_seconds"] = round(self.checkpoints.stalled, 4)
            self.checkpoints.stalled = 0.0
        record["seconds"] = round(self._seconds(), 3)
        self._record(record)
        speed = f", {rows_per_second:.3g} rows/s" if rows_per_second else ""
        self.progress.update(self._done(), f"step {self.step}, loss {values.get('loss', math.nan):.4f}, lr {record['lr']:.2e}{speed}")

    def _unfit_rows(self) -> int:
        """How many rows every rank together has passed over."""
        return sum(dist.gather(self.unfit, self.ranks))

    def _lr_factor_of_last(self) -> float:
        group = self.optimizer.param_groups[0]
        return group["lr"] / group["lr_scale"] / self.tunables.lr0 if group["lr_scale"] and self.tunables.lr0 else 0.0

    def _done(self) -> int:
        """Progress in thousandths."""
        share = self.step / self.total if self.total is not None else 0.0
        return int(1000 * max(share, min(1.0, self._clock_share())))

    def _record(self, record: Mapping[str, Any]) -> None:
        with saving(self.step, self.folder):
            if self.metrics_file is not None:
                self.metrics_file.write(record)
            if self.tensorboard is not None:
                self.tensorboard.write(record)
        self.wandb.write(record)
        self._faults.reach("train", "record")

    def _draw(self, force: bool = False) -> None:
        if self.metrics_file is not None and (force or time.monotonic() - self._drawn > PICTURE_SECONDS):
            with saving(self.step, self.folder):
                draw_losses(self.metrics_file.records, self.folder / "loss.png", f"{self.task.name} · {self.folder.name}")
            self._drawn = time.monotonic()


def compiled_parts(model: Any) -> Sequence[nn.Module]:
    """What `--torch-compile` compiles: the model's own choice where its task calls other methods than `forward`, else the model."""
    return model.compiled_parts() if hasattr(model, "compiled_parts") else [model]


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
