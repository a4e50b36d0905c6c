"""The train loop: a task, a model and rows in; checkpoints, metrics and a saved state out. It knows no task names.

One optimiser step: `accumulate` micro-batches -> losses -> finite check -> backward -> clip -> AdamW -> moving average (`learner.py`). On the CPU the
check reads every loss before its backward pass. On CUDA nothing waits for the device between log lines: the host reads the check then and stops.
Either way the weights stay as they were before the first loss that is not finite. In fp16 the run stops where not even the least scale helps.

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

from autosing.config import nearest
from autosing.errors import ConfigError, DataError
from autosing.faults import Faults
from autosing.models.io import save_model
from autosing.song import audio
from autosing.store import atomic_path
from autosing.tokens.specs import spec_to_json
from autosing.training import dist
from autosing.training.batches import MicroBatch, Plan, TrainBatches, ValidationBatches, step_seed
from autosing.training.card import model_card
from autosing.training.checkpoints import SAMPLES, Checkpoints, Snapshot, numbered
from autosing.training.clock import Pace, RunClock
from autosing.training.data import TrainingData, fingerprint
from autosing.training.finite import Check, NotFiniteError
from autosing.training.learner import Learner
from autosing.training.loader import prefetch
from autosing.training.log import Meter, Progress, RunLog, TensorBoard, Wandb
from autosing.training.run_folder import held, make_folder
from autosing.training.saving import saving
from autosing.training.schedule import CLOCK_STEPS, lr_factor, warmup_steps
from autosing.training.settings import Settings
from autosing.training.spikes import Spike
from autosing.training.state import RunState, load_state, require_same_run
from autosing.training.stop import StopRequest
from autosing.training.task import SPECS, OptimTunables, Sample, Task
from autosing.training.validation import Interrupted, Validator

SAVE_SECONDS = 300.0  # the state is saved at least this often, however far apart validations are


class Result(NamedTuple):
    """How a run ended: steps done, the last validation values, best monitored value, and the signal that stopped it (0: none)."""

    step: int
    metrics: dict[str, float]
    best: float | None
    stopped_by: int


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
        self.learner = Learner(task, model, tunables, settings, device, self.ranks)
        self.model = self.learner.model
        self.validator = Validator(task, data.validation, settings.batch_size, settings.workers, self.learner)
        self.total = settings.total_steps(len(data.train))
        self.schedule_total = self.total or CLOCK_STEPS
        self.warmup = warmup_steps(tunables.warmup_steps, self.schedule_total)
        self.plan = Plan(len(data.train), settings.batch_size, settings.seed)
        self.identity = self._identity(identity)
        self.remember = {**(remember or {}), "settings": dataclasses.asdict(settings)}
        self.meter = Meter(device)
        self.clock = RunClock(settings.minutes, self.ranks, device)
        self.log = RunLog(folder, f"{task.name} · {folder.name}", wandb, tensorboard)
        self.step, self.unfit = 0, 0
        self.last_metrics: dict[str, float] = {}
        self._spikes: list[Spike] = []  # not yet read from the device
        self._step_ids: tuple[str, ...] = ()
        self._request = StopRequest()
        self._validated_at = -1
        self._not_finite: set[str] = set()  # values of the last validation without a finite case

    def _identity(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What must be the same when the run is resumed: `given`, specs and rows of the dataset, and the settings that decide its result."""
        settings, meta = self.settings, self.data.meta
        specs = {name: json.loads(spec_to_json(spec)) for name in SPECS if (spec := getattr(meta, name)) is not None}
        own = {name: getattr(settings, name) for name in Settings.IDENTITY}
        identity = {**given, **specs, **own, "precision": self.learner.precision, "dataset": fingerprint(self.data.train, meta)}
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
                self.log.open(self.step if resume else None)
        self.clock.start()
        self.checkpoints.begin(self.step)
        with self._request:
            try:
                stopped_by = self._run(validate_first)
                self.checkpoints.finish()
                dist.wait(self.ranks)
            finally:
                self.checkpoints.wait()
                self.log.close()
        return Result(self.step, self.last_metrics, self.checkpoints.best, stopped_by)

    def _run(self, validate_first: bool) -> int:
        """The signal that stopped the run before its end; 0: none."""
        self.clock.agree()
        if self._finished():
            if self._validated_at != self.step:  # killed in its last validation
                self._validate_last()
            self._draw(force=True)
            return 0
        if validate_first and self.step == 0:
            self._validate_and_save()
            self.checkpoints.finish()  # a process is not forked while a thread writes
        settings, stream = self.settings, self._stream()
        pace = Pace(self.step, settings.batch_size * settings.accumulate)
        while not self._finished():
            pace.waited += self.train_step(stream)
            log_due = self.step % settings.log_every == 0
            validate_due = self.step % settings.validate_every == 0
            save_due = validate_due if settings.save_every is None else self.step % settings.save_every == 0
            if log_due:
                self._read_finite()
                self._read_spikes()
                self.clock.agree()
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
        self.learner.rate = self.tunables.lr0 * self._lr_factor()
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
        with self.learner.part(last):
            loss, losses = self.learner.forward(tensors)
            self._check(Check(self.step, True, batch.ids, torch.isfinite(loss.detach())))
            self.learner.backward(loss / self.settings.accumulate)
        self.meter.add({"loss": loss, **losses.parts, **losses.metrics}, len(batch.ids))

    def _tell_each_other(self) -> None:
        """One exchange a step between ranks: was a loss not finite, has one been sent a signal?"""
        finite = self.learner.finite
        told = torch.stack([finite.bad, torch.full_like(finite.bad, self._request.signal)])
        finite.bad, largest_signal = dist.max_(told, self.ranks)
        self._request.agree(largest_signal)

    def _update(self) -> None:
        if self.ranks.world > 1:
            self._tell_each_other()
        norm = self.learner.clip()
        over = self._watch(norm)
        self.learner.step(self.step + 1, over if self.settings.skip_gradient_spikes else None)
        self.meter.add({"grad_norm": norm}, 1 / self.ranks.world)  # every rank has the same

    def _watch(self, norm: Tensor) -> Tensor:
        """Note the norm of this update, (), for the log and the finite check; whether it is a spike, () bool."""
        threshold, over = self.learner.spike_watch.see(norm)
        self._spikes.append(Spike(self.step + 1, self._step_ids, norm, threshold, over))
        self._check(Check(self.step, False, self._step_ids, self.learner.is_finite(norm)))
        return over

    def _check(self, check: Check) -> None:
        """Note a finite check; read it at once where no step minds waiting for that."""
        self.learner.finite.see(check)
        if not self.learner.deferred:
            self._read_finite()

    def _read_finite(self) -> None:
        """Stop where a value seen since the last time was not finite. All ranks read at the same step, so that all stop where one must."""
        found = self.learner.finite.read(self.ranks)
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

    # ---- where the run stands

    def _finished(self) -> bool:
        return (self.total is not None and self.step >= self.total) or self.clock.share() >= 1

    def _lr_factor(self) -> float:
        position = max(float(self.step) if self.total is not None else 0.0, self.clock.share() * self.schedule_total)
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
        except Interrupted:
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
        last = next((r["loss"] for r in reversed(self.log.records) if r.get("loss") is not None), None)
        return dist.gather(last, self.ranks)[0]

    def _sample(self) -> None:
        """Let the task sing the first validation rows (training rows where there are none), and write what that sounds and looks like."""
        count, folder = self.settings.samples, self.folder / SAMPLES / numbered(self.step)
        batch = ValidationBatches(self.task, self.data.validation or self.data.train, count, count)[0]
        if batch.error:
            raise DataError(batch.error)
        if not batch.ids:
            return
        tensors = {key: value.to(self.device) for key, value in batch.tensors.items()}
        with self.learner.at_rest() as losses_of:
            made = losses_of.samples(tensors)
        for index, (sample, name) in enumerate(zip(made, batch.ids, strict=True) if self.ranks.first else ()):
            with saving(self.step, self.folder):
                if sample.audio is not None:
                    with atomic_path(folder / f"{index}.wav") as path:
                        path.write_bytes(audio.encode(sample.audio, sample.sample_rate, "wav"))
                if self._draw_sample is not None:
                    self._draw_sample(folder / f"{index}.png", dataclasses.replace(sample, title=f"{sample.title} - {name}, step {self.step}"))

    def validate(self, rows: int | None = None, until_signal: bool = False) -> dict[str, float]:
        """Means over the fixed validation rows (or `rows` of them), each name with `val_` before it; with averaged weights when there are.

        The batches do not depend on the number of ranks, and neither does the order in which they are added up. `val_loss` of a task that gives
        the terms of its loss is that of all rows put together, however they lie in batches; other values are means of batches, by their rows.

        Raises:
            Interrupted: `until_signal`, and one has come.
        """
        count = min(len(self.data.validation), self.settings.validation_rows) if rows is None else rows
        self._not_finite = set()
        if not count:
            return {}
        # before a fork nothing is in flight, as at the start: a process is not forked while a thread writes
        self.last_metrics, names = self.validator.score(count, lambda: until_signal and bool(self._request.signal), self.checkpoints.finish)
        self._not_finite = names - set(self.last_metrics)
        if not names:
            self.progress.line(f"none of the {count} validation rows is fit for task {self.task.name}")
        return self.last_metrics

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
            "weights": f"moving average {self.settings.ema}" if self.learner.ema else "as trained",
        }
        meta = {**self.task.checkpoint_meta(), "training": trained}
        return Snapshot(self.learner.weights(full), meta, model_card(self.task.name, trained, self.data.meta), full)

    def _save_due(self) -> bool:
        due = torch.tensor(float(time.monotonic() - self.checkpoints.time > SAVE_SECONDS))
        return bool(due if self.ranks.world == 1 else dist.from_first(due.to(self.device), self.ranks))

    def _state(self) -> RunState:
        """A snapshot of everything that a resumed run needs."""
        state = self.learner.state()
        numbers = {
            **state.numbers,
            "step": self.step,
            "seconds": self.clock.seconds(),
            "unfit": self._unfit_rows(),
            "best": self.checkpoints.best,
            "ranking": list(self.checkpoints.ranking),
            "metrics": dict(self.last_metrics),
            "validated": self._validated_at,
            "meter": [sums for members in dist.gather(self.meter.state(), self.ranks) for sums in members],
            "identity": self.identity,
            "remember": self.remember,
        }
        return RunState(state.tensors, numbers)

    def _load(self, allow_changed: bool) -> None:
        state = load_state(self.folder / "state")
        numbers = state.numbers
        if not allow_changed:
            require_same_run(numbers["identity"], self.identity, f"'{self.folder}'")
        self.learner.load(state.tensors, numbers, f"'{self.folder}'")
        self.step, self.checkpoints.best = numbers["step"], numbers["best"]
        self.unfit = numbers["unfit"] if self.ranks.first else 0  # of all ranks
        self.last_metrics, self.clock.before = numbers["metrics"], numbers["seconds"]
        self._validated_at = numbers.get("validated", self.step)
        self.meter.load(numbers["meter"] if self.ranks.first else [])  # of all ranks
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
            "lr": self.learner.rate,
            "unfit": self._unfit_rows(),
        }
        if rows_per_second is not None:
            record |= {"rows_per_second": round(rows_per_second, 3), "waiting": round(waiting or 0.0, 3)}
        if self.checkpoints.stalled:
            record["save_stall_seconds"] = round(self.checkpoints.stalled, 4)
            self.checkpoints.stalled = 0.0
        record["seconds"] = round(self.clock.seconds(), 3)
        self._record(record)
        speed = f", {rows_per_second:.3g} rows/s" if rows_per_second else ""
        self.progress.update(self._done(), f"step {self.step}, loss {values.get('loss', math.nan):.4f}, lr {record['lr']:.2e}{speed}")

    def _unfit_rows(self) -> int:
        """How many rows every rank together has passed over."""
        return sum(dist.gather(self.unfit, self.ranks))

    def _done(self) -> int:
        """Progress in thousandths."""
        share = self.step / self.total if self.total is not None else 0.0
        return int(1000 * max(share, min(1.0, self.clock.share())))

    def _record(self, record: Mapping[str, Any]) -> None:
        self.log.write(record)
        self._faults.reach("train", "record")

    def _draw(self, force: bool = False) -> None:
        self.log.draw(self.step, force)


def describe(trainer: Trainer) -> Sequence[str]:
    """Lines for the start of a run: sizes, bounds, warm-up."""
    model, settings = trainer.model, trainer.settings
    trainable = sum(p.numel() for p in trainer.learner.parameters)
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
        f"{bound}, {settings.lr_schedule}, {warmup}, precision {trainer.learner.precision} on {trainer.device}",
        *trainer.data.notes,
    )
