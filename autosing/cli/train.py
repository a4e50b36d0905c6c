"""`train.py`: train one task on one dataset. Reads argv, puts the parts together, prints; the loop itself is `autosing/training/loop.py`.

`--task_args`, `--tunables` and `--dataset-config` are JSON objects; a key nobody knows is refused with the nearest one that is known. Every flag
is understood with `_` and with `-`. A resumed run (`--resume-from`) takes every setting that is not given again from its saved state.
"""

import argparse
import dataclasses
import re
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autosing.cli.arguments import run_command
from autosing.cli.checkpoints import COMMANDS
from autosing.cli.run_config import config_text, read_words
from autosing.config import differences, from_mapping, nearest, parse_json, to_mapping
from autosing.device import deterministic_algorithms, has_matrix_units, pick_device
from autosing.errors import ConfigError, MismatchError, WeightsError
from autosing.faults import Faults
from autosing.models.adapters import Adapter, name_base
from autosing.models.io import load_weights, read_config, resolve, save_adapter, save_model
from autosing.nn.embeddings import same_fit
from autosing.nn.mup import ONLY_AT_THE_START
from autosing.singing.picture import draw_sample
from autosing.training import dist
from autosing.training.alarm import Alarm
from autosing.training.data import DatasetConfig, TrainingData, open_dataset, read_meta, split_config
from autosing.training.estimate import describe_estimate, estimate
from autosing.training.log import Progress, TensorBoard, Wandb
from autosing.training.loop import Trainer, describe
from autosing.training.lora import attach, lora_settings
from autosing.training.own_task import load_task
from autosing.training.run_folder import held, make_folder, resumable
from autosing.training.schedule import DECAYS
from autosing.training.settings import PRECISIONS, Settings
from autosing.training.sharding import STRATEGIES
from autosing.training.state import read_numbers, require_same_run
from autosing.training.task import SPECS, OptimTunables, Task, draw_tunables
from tasks import TASKS

UNUSED = {
    "shufbuf": "the order is a permutation of all rows",
    "persistent": "workers stay for the whole run",
}
"""Flags of the original that are accepted, and why they change nothing."""
BOUNDS = ("epochs", "steps", "minutes", "single_epoch")
"""Flags that bound a run: one that is given counts alone, whatever the file or the resumed run says of the others."""
TOKENIZER_TABLES = re.compile(r"(^|\.)(codebook|features\d+)$")
"""Buffers in which a model keeps what its tokenizer or codec tells of the codes."""

EXAMPLE = """example:
  python train.py --task_name t2s --task_args '{"size": "tiny"}' --dataset-config '{"path": "data/train"}' --tunables '{"lr0": 4e-3}'

other commands:
  autosing-train merge ADAPTER OUT                           fold an adapter into its base
  autosing-train blend CHECKPOINT OUT --share 0.5             draw a fine-tuned checkpoint back towards the one it began with
  autosing-train convert --i-trust-this-file FILE.model OUT  a checkpoint of AutoSing or WhisperSpeech
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 2 a mistake of the user, 130, 143 or 138 stopped by SIGINT, SIGTERM or SIGUSR1 with the
    state saved (128 + the signal)."""
    threads = torch.get_num_threads()
    try:
        return run_command(lambda words: COMMANDS[words[0]](words[1:]) if words and words[0] in COMMANDS else _train(words), argv)
    finally:
        torch.set_num_threads(threads)  # --threads is of the run, not of a notebook that it is started from


def build_parser() -> argparse.ArgumentParser:
    """Flags without defaults: what is not given comes from the resumed run, else from `Settings`."""
    parser = argparse.ArgumentParser(
        prog="autosing-train",
        description="Train one task on one dataset.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="YAML with any of these flags as keys; flags that are given win (extra yaml)")
    add("--task-name", help=f"what to train: {', '.join(TASKS.names())}, or a file of your own with a TASK in it")
    add("--task-args", metavar="JSON", help="the task's settings, as in '{\"size\": \"tiny\"}'")
    add("--dataset-config", metavar="JSON", help="'{\"path\": \"...\"}', validation_path, validation_share; keys of the task's settings too")
    add("--tunables", metavar="JSON", help="optimiser and initialisation, as in '{\"lr0\": 4e-3}'; '{\"random\": true}' draws the others")
    add("--batch-size", type=int, help="rows a batch, over all ranks (16)")
    add("--epochs", type=float, help="passes over the dataset (5)")
    add("--steps", type=int, help="stop after this many optimiser steps instead")
    add("--minutes", type=float, help="stop after this time; the schedule then follows the clock, so the run is not reproducible")
    add("--single-epoch", type=_flag, nargs="?", const=True, metavar="BOOL", help="the same as --epochs 1")
    add("--seed", type=int, help="decides initial weights, order, augmentation and dropout (0)")
    add("--lr-schedule", choices=list(DECAYS), help="after the warm-up (cosine)")
    add("--accumulate-grad-batches", dest="accumulate", type=int, help="batches an optimiser step (1)")
    add("--clip-gradient-norm", type=float, help="0 = no clipping (the task's tunable, 2)")
    add("--skip-gradient-spikes", type=_flag, nargs="?", const=True, metavar="BOOL", help="pass over updates with an outlying gradient norm (false)")
    add("--precision", choices=list(PRECISIONS), help="32 on the CPU, 16-mixed on CUDA")
    add("--ema", type=float, help="decay of a moving average of the weights, which is then validated and saved, as 0.999 (0: none)")
    add("--validate-every-n-steps", "--eval-steps", dest="validate_every", type=int, help="steps between validations (500)")
    add("--samples", type=int, help="sing this many validation rows at every validation, into <run>/samples (0; tasks t2s and sm2a)")
    add("--save-steps", dest="save_every", type=int, help="steps between saves of state and last (at every validation, and every 5 minutes)")
    add("--validation-rows", type=int, help="at most this many rows (256)")
    add("--log-every-n-steps", "--logging-steps", dest="log_every", type=int, help="a line of metrics.jsonl (10)")
    add("--monitored-metric", help="the validation value that decides which checkpoint is best (val_loss)")
    add("--monitored-mode", choices=["min", "max"], help="whether less or more of it is better (min)")
    add("--keep-last", "--save-total-limit", dest="keep_last", type=int, help="keep this many newest numbered checkpoints too (0)")
    add("--keep-best", type=int, help="keep this many best numbered checkpoints too (0)")
    add("--workers", type=int, help="processes that read ahead; results do not depend on it (4, at most the cores)")
    add("--deterministic", type=_flag, nargs="?", const=True, metavar="BOOL", help="only algorithms that repeat to the bit; refuses what has none")
    add("--torch-compile", type=_flag, nargs="?", const=True, metavar="BOOL")
    add("--plan", type=_flag, nargs="?", const=True, metavar="BOOL", help="print parameters, memory, tokens, steps and time from a few measured steps; train nothing")
    add("--strategy", choices=STRATEGIES, help="of several ranks (torchrun, srun): each holds all weights, or they share them out (ddp)")
    add("--resume-from", help="folder of a run to go on with, or 'auto': go on if this run exists, else start it")
    add("--allow-changed", type=_flag, nargs="?", const=True, metavar="BOOL",
        help="resume with another dataset or setting, or load weights of another fit of the tokenizer, all the same")  # fmt: skip
    add("--load-from", help="start from the weights of a checkpoint: a folder, a hub id, or 'builtin'")
    add("--lora", metavar="JSON", help="train low-rank adapters of --load-from alone, as '{\"r\": 16, \"alpha\": 32}'; target_modules, dropout")
    add("--output-dir", help="runs are written to <output-dir>/<task>/<name> (./models/)")
    add("--checkpoint-dir", help="the run's folder itself, instead")
    add("--name", help="name of the run (the time it starts)")
    add("--overwrite", type=_flag, nargs="?", const=True, metavar="BOOL", help="start anew in the folder of an earlier run")
    add("--device", help="auto, cpu, cuda, cuda:1, mps (auto)")
    add("--threads", type=int, help="threads of torch on the CPU")
    add("--tensorboard", type=_flag, nargs="?", const=True, metavar="BOOL", help="curves for TensorBoard in <run>/tensorboard (false; extra tensorboard)")
    add("--wandb", choices=["off", "offline", "online"], help="Weights & Biases (off)")
    add("--wandb-suffix", help="put behind the run's name there")
    add("--wandb-task-name", help="group there (the task)")
    for unused in UNUSED:
        add(f"--{unused}", nargs="?", help=argparse.SUPPRESS)
    return parser


def _flag(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return values[text.lower()]


def _flag_name(word: str) -> str:
    return word.partition("=")[0][2:].replace("-", "_")


def parse(argv: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by name; `_` and `-` spell the same flag.

    Raises:
        ConfigError: an unknown flag, with the nearest one.
    """
    plain = []
    for word in argv:
        name, equals, value = word.partition("=")
        plain.append(name.replace("_", "-") + equals + value if word.startswith("--") else word)
    parser = build_parser()
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    given, unknown = parser.parse_known_args(plain)
    if "config" in given and not unknown:
        bounded = any(getattr(given, bound, False) for bound in BOUNDS)
        words = [word for word in read_words(Path(given.config), known) if not (bounded and _flag_name(word) in BOUNDS)]
        given, unknown = parser.parse_known_args([*words, *plain])
    for word in unknown:
        raise ConfigError(f"train.py has no flag '{word}'{nearest(word.partition('=')[0], known)}")
    return {key: value for key, value in vars(given).items() if key != "config"}


def _train(argv: Sequence[str]) -> int:
    given = parse(argv)
    if given.pop("single_epoch", False):
        given.setdefault("epochs", 1.0)
    resume, folder = _place(given)
    numbers = read_numbers(folder / "state") if resume and folder is not None else {}
    saved = {**numbers.get("identity", {}), **numbers.get("remember", {})}
    name = given.get("task_name", saved.get("task"))
    if name is None:
        raise ConfigError(f"--task-name is needed; choose one of: {', '.join(TASKS.names())}")
    if resume:
        _require_own_start(given, saved, f"'{folder}'")
    if folder is None:
        run_name = given.get("name", time.strftime("%Y%m%d-%H%M%S"))
        folder = Path(given.get("output_dir", "./models/")) / task_folder(name) / run_name
    planning = given.pop("plan", False)
    if not planning and not resume and resumable(folder) and not given.get("overwrite"):
        raise ConfigError(f"'{folder}' holds a run already: --resume-from auto goes on with it, --overwrite starts anew, --name names another")
    if not planning and not resume and "load_from" in given and Path(given["load_from"]).resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"--load-from: '{given['load_from']}' lies in the folder of the run that it is to start, which begins empty; --name names another"
        )
    if given.get("threads", 1) < 1:
        raise ConfigError(f"--threads must be at least 1, found {given['threads']}")
    if "threads" in given:
        torch.set_num_threads(given["threads"])

    cls = find_task(name)
    dataset_values = parse_json(given["dataset_config"], "--dataset-config") if "dataset_config" in given else saved.get("dataset_config", {})
    config, more_args = split_config(dataset_values, cls.Args, "--dataset-config")
    if "load_from" in given and not resume:  # what the checkpoint was trained with is the default of what is not given
        saved = {**saved, **_adopted(cls, read_config(given["load_from"], getattr(cls, "model_kind", cls.name)))}
    args = _task_args(cls, given, saved, more_args)
    settings = _settings(given, saved)
    tunables, search = _tunables(cls, given, saved, settings.seed)
    ranks = dist.Ranks.from_environment()
    device = dist.start(ranks, pick_device(given.get("device", "auto")))
    with Alarm(ranks), deterministic_algorithms(settings.deterministic):
        folder = Path(dist.gather(str(folder), ranks)[0])
        task, data = _open(cls, args, tunables, config)
        torch.manual_seed(settings.seed)
        model = task.build_model()
        refitted = given.get("allow_changed", False) and "lora" not in given  # an adapter comes back to its base's own tables
        notes = load_from(model, task, given["load_from"], refitted) if "load_from" in given and not resume else ()
        identity = {
            "task": name,
            "args": _plain(args),
            "tunables": _plain(tunables),
        }
        export, adapter = _adapt(model, given, saved if resume else {})
        identity |= adapter
        begun_from = saved.get("load_from") if resume else given.get("load_from")
        wandb_id = saved.get("wandb_id", "") if resume else secrets.token_hex(6)
        progress = Progress(1000, quiet=not ranks.first)
        trainer = Trainer(
            task,
            model,
            tunables,
            data,
            settings,
            folder,
            device,
            identity,
            remember={"dataset_config": _plain(config), "load_from": begun_from, "wandb_id": wandb_id},
            ranks=ranks,
            progress=progress,
            wandb=None if planning else _wandb(given, ranks, folder, name, identity, wandb_id),
            export=export,
            faults=Faults.from_environment(),
            draw_sample=draw_sample,
            tensorboard=None if planning else _tensorboard(given, ranks, folder, numbers.get("step")),
            config_text=config_text(_resolved(identity, config, settings, begun_from, device)),
        )
        dist.require_agreement({"a run to go on with": resume, **trainer.identity}, ranks)
        begun_elsewhere = "load_from" in given and not resume
        if planning:
            if resume and not given.get("allow_changed"):
                require_same_run(numbers["identity"], trainer.identity, f"'{folder}'")
            found = estimate(trainer, begun_elsewhere, numbers.get("step", 0), numbers.get("seconds", 0.0))
            for line in (*describe_estimate(found, trainer), "nothing was written; leave out --plan to train"):
                if ranks.first:
                    print(line)
            dist.wait(ranks)
            dist.stop(ranks)
            return 0
        advice = _advice(given, tunables) if begun_elsewhere else []
        unused = [f"--{flag} is not used: {why}" for flag, why in UNUSED.items() if flag in given]
        for line in (*describe(trainer), *search, *notes, *advice, *unused, f"run folder: {folder}"):
            progress.line(line)
        reduced = PRECISIONS[trainer.learner.precision]
        if device.type == "cpu" and reduced is not None and not has_matrix_units(reduced):
            progress.line(f"precision {trainer.learner.precision} is far slower than 32 on this processor, which has no matrix units for it")
        result = trainer.fit(resume=resume, allow_changed=given.get("allow_changed", False), validate_first=begun_elsewhere)
        dist.wait(ranks)
    dist.stop(ranks)
    if result.stopped_by:
        return 128 + result.stopped_by
    if ranks.first:
        values = ", ".join(f"{k} {v:.4g}" for k, v in result.metrics.items())
        kept = "best and last are" if (folder / "best").is_dir() else "last is"
        print(f"done: {result.step} steps{f', {values}' if values else ''}; {kept} in {folder}")
    return 0


def _resolved(
    identity: Mapping[str, Any], config: DatasetConfig, settings: Settings, begun_from: str | None, device: torch.device
) -> dict[str, Any]:
    """The flags that train as this run does, by name; of those about where it runs and what it is called only what its numbers depend on."""
    flags = {action.dest: action.option_strings[0][2:].replace("-", "_") for action in build_parser()._actions}
    values = {"task_name": identity["task"], "task_args": identity["args"], "tunables": identity["tunables"], "dataset_config": _plain(config)}
    values |= {flags[key]: value for key, value in dataclasses.asdict(settings).items() if key in flags}
    values["precision"] = settings.precision_on(device)
    if settings.deterministic and device.type == "cpu":  # the bits depend on it
        values["threads"] = torch.get_num_threads()
    return {**values, "load_from": begun_from, "lora": _lora_flag(identity["lora"]) if "lora" in identity else None}


def _lora_flag(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """`--lora` of a run's identity, which keeps the base beside it."""
    return {key: value for key, value in adapter.items() if key not in ("base", "sha256")}


def find_task(name: str) -> Any:
    """A row of `TASKS`, or `TASK` of a file of one's own.

    Raises:
        ConfigError: no such row or file, or a file without `TASK`.
    """
    path = Path(name)
    if path.suffix != ".py":
        return TASKS.get(name)
    if not path.is_file():
        raise ConfigError(f"--task-name: there is no file '{name}'; give a task's file or one of: {', '.join(TASKS.names())}")
    return load_task(path)


def task_folder(name: str) -> str:
    """Where runs of a task are kept under --output-dir."""
    return Path(name).stem if name.endswith(".py") else name


def _place(given: Mapping[str, Any]) -> tuple[bool, Path | None]:
    """Whether to resume, and the run's folder when it is already decided."""
    folder = Path(given["checkpoint_dir"]) if "checkpoint_dir" in given else None
    source = given.get("resume_from")
    if source is None:
        return False, folder
    if source != "auto":
        place = Path(source)
        run = place.parent if place.name in ("state", "last") else place
        if (place.name == "best" or place.name.startswith("step-")) and resumable(place.parent):
            raise ConfigError(
                f"--resume-from goes on from the last saved state of a run, not from '{source}'; give '{place.parent}', or start a new run "
                f"with --load-from '{source}'"
            )
        if folder is not None and folder.resolve() != run.resolve():
            raise ConfigError(f"--resume-from goes on in '{run}', --checkpoint-dir says '{folder}'; leave one of them out")
        own, there = run.resolve(), resumable(run)  # where no run is, that is what is said
        if there and "output_dir" in given and not own.is_relative_to(Path(given["output_dir"]).resolve()):
            raise ConfigError(f"--resume-from goes on in '{run}', --output-dir says '{given['output_dir']}'; leave one of them out")
        if there and "name" in given and own.parts[-len(Path(given["name"]).parts) :] != Path(given["name"]).parts:
            raise ConfigError(
                f"--resume-from goes on in '{run}', --name says '{given['name']}'; leave --name out, or start a new run from its weights with "
                f"--load-from '{run / 'last'}'"
            )
        return True, run
    if folder is None:
        if "name" not in given or "task_name" not in given:
            raise ConfigError("--resume-from auto needs --task-name and --name (or --checkpoint-dir) to know which run is meant")
        folder = Path(given.get("output_dir", "./models/")) / task_folder(given["task_name"]) / given["name"]
    return resumable(folder), folder


def _require_own_start(given: Mapping[str, Any], saved: Mapping[str, Any], where: str) -> None:
    """
    Raises:
        MismatchError: the run that is to go on is another task's, or began with other weights than `--load-from` says.
    """
    task, said = saved.get("task"), given.get("task_name")
    if task is not None and said is not None and task_folder(task) != task_folder(said):
        raise MismatchError(f"{where} is a run of task {task}, --task-name says {said}; leave it out, or name a run of {said}")
    start = given.get("load_from")
    if start is None or "load_from" not in saved:
        return
    begun = saved["load_from"]
    if begun is None or Path(begun).resolve() != Path(start).resolve():
        found = "from scratch" if begun is None else f"with the weights of '{begun}'"
        raise MismatchError(f"{where} began {found}, --load-from says '{start}'; leave it out to go on, or start another run with it (--name)")


def _values(name: str, given: Mapping[str, Any], saved: Mapping[str, Any], saved_name: str = "") -> dict[str, Any]:
    """A JSON flag over what a loaded checkpoint or a run that may change was trained with, or instead of what another resumed run was."""
    known = dict(saved.get(saved_name or name, {}))
    if name not in given:
        return known
    values = parse_json(given[name], f"--{name.replace('_', '-')}")
    return {**known, **values} if "load_from" in given or given.get("allow_changed") else values


def _task_args(cls: Any, given: Mapping[str, Any], saved: Mapping[str, Any], from_dataset: Mapping[str, Any]) -> Any:
    values = _values("task_args", given, saved, "args")
    said = parse_json(given["task_args"], "--task-args") if "task_args" in given else {}
    for key, value in from_dataset.items():
        if key in said and said[key] != value:
            raise ConfigError(f"'{key}' is {said[key]!r} in --task-args and {value!r} in --dataset-config; give it once")
        values[key] = value
    return from_mapping(cls.Args, values, "--task-args")


def _tunables(cls: Any, given: Mapping[str, Any], saved: Mapping[str, Any], seed: int) -> tuple[Any, list[str]]:
    """`--tunables`, and what to tell of a search: with `"random": true` what was not said is drawn from the run's seed."""
    values = _values("tunables", given, saved)
    draw = values.pop("random", False)
    if not isinstance(draw, bool):
        raise ConfigError(f"--tunables: 'random' must be true or false, found {draw!r}")
    if not draw:
        return from_mapping(cls.Tunables, values, "--tunables"), []
    found = draw_tunables(cls.Tunables, values, seed)
    told = ", ".join(f"{name} {value:g}" for name, value in found.items() if name not in values)
    return from_mapping(cls.Tunables, found, "--tunables"), [f"drawn with seed {seed}: {told}"] if told else []


def _advice(given: Mapping[str, Any], tunables: OptimTunables) -> list[str]:
    """Where a checkpoint is trained on as a whole and nobody said how fast: that the default suits a model that knows nothing yet."""
    said = parse_json(given.get("tunables", "{}"), "--tunables")
    if "lora" in given or "lr0" in said or said.get("random"):
        return []
    slower = tunables.lr0 / 10
    return [f"lr0 {tunables.lr0:g} is for training from scratch; from a checkpoint a tenth forgets less: --tunables '{{\"lr0\": {slower:g}}}'"]


def _adopted(cls: Any, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run takes over from the `config.json` of the checkpoint it starts from.

    Tunables that every task has (learning rate, decay, ...) are of the run; a task's own ones belong to its model's arithmetic.
    """
    meta = checkpoint.get("meta", {})
    args = cls.args_of(checkpoint) if hasattr(cls, "args_of") else meta.get("args", {})
    tunables = meta.get("training", {}).get("identity", {}).get("tunables", {})
    of_the_run = {f.name for f in dataclasses.fields(OptimTunables)}
    return {"args": args, "tunables": {k: v for k, v in tunables.items() if k not in of_the_run}}


def _settings(given: Mapping[str, Any], saved: Mapping[str, Any]) -> Settings:
    names = {f.name for f in dataclasses.fields(Settings)}
    values = dict(saved.get("settings", {}))
    if any(bound in given for bound in BOUNDS):
        values = {k: v for k, v in values.items() if k not in BOUNDS}
    return Settings(**{**values, **{k: v for k, v in given.items() if k in names}})


def _open(cls: Any, args: Any, tunables: Any, config: DatasetConfig) -> tuple[Task, TrainingData]:
    """The task and its rows: from Parquet, or as the task itself opens them (`open_rows`)."""
    if hasattr(cls, "open_rows"):
        train, validation, meta = cls.open_rows(config)
        return cls(args, tunables, meta), TrainingData(train, validation, meta)
    meta = read_meta(config)
    task = cls(args, tunables, meta)
    return task, open_dataset(task, config, meta)


def load_from(model: Any, task: Task, name: str, refitted: bool = False) -> list[str]:
    """Copy the weights of a checkpoint of the same kind into `model`; returns lines about settings that differ and fit all the same.

    Args:
        refitted: go on though codec or tokenizer were fitted again since; the model then learns with the tables of today.

    Raises:
        MismatchError: made with other specs, another config, other arithmetic or another fit of a tokenizer; names what differs.
    """
    values = read_config(name, model.kind)
    meta = values.get("meta", {})
    own = task.checkpoint_meta()
    for spec in SPECS:
        theirs, ours = meta.get(spec), own.get(spec)
        if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
            for field in {**theirs, **ours}:
                if _plain(theirs.get(field)) != _plain(ours.get(field)):
                    raise MismatchError(
                        f"checkpoint '{name}' was trained with {spec} {field} = {theirs.get(field)!r}, this dataset has "
                        f"{ours.get(field)!r}; construct the dataset with the same {spec}, or train from scratch"
                    )
    check = getattr(task, "check_loaded", None)
    if check is not None:
        check(meta, f"checkpoint '{name}'")
    theirs, ours = values["config"], _plain(model.config)
    there, here = theirs.get("mup", {}), ours.get("mup", {})
    for field in here:
        if field not in ONLY_AT_THE_START and field in there and there[field] != here[field]:
            raise MismatchError(
                f"checkpoint '{name}' was trained with {field} = {there[field]!r}, --tunables say {here[field]!r}; leave it out, or "
                "train from scratch"
            )
    fitted = {key: value.clone() for key, value in model.named_buffers() if TOKENIZER_TABLES.search(key)}
    try:
        load_weights(model, resolve(name, model.kind))
    except WeightsError as error:
        if different := differences(theirs, ours):
            raise MismatchError(f"checkpoint '{name}' has another model config ({'; '.join(different)}); give the same --task-args") from error
        raise
    others = [key for key, table in fitted.items() if not same_fit(model.get_buffer(key), table)]
    if others and not refitted:
        raise MismatchError(
            f"checkpoint '{name}' was trained with another fit of the tokenizer ({others[0]} differs though its layout is the same); "
            "tokenise with the one it knows, train from scratch, or, if the new codes keep the old ones' numbers, say --allow-changed"
        )
    for key in others:
        model.get_buffer(key).copy_(fitted[key])
    differing = [k for k in ours if k in theirs and k not in ("mup", "dropout") and theirs[k] != ours[k]]
    return [
        *(f"checkpoint '{name}' was trained with {k} = {theirs[k]!r}, this run has {ours[k]!r}" for k in differing),
        *(f"checkpoint '{name}' was trained with another fit of the tokenizer ({key}); going on with today's" for key in others),
    ]


def _adapt(model: Any, given: Mapping[str, Any], saved: Mapping[str, Any]) -> tuple[Callable[..., None], dict[str, Any]]:
    """With `--lora`, given or saved by the run that goes on: adapt `model`. How it is written, and what identifies the run beside the rest.

    Raises:
        ConfigError: unknown settings, or no checkpoint to adapt.
    """
    known = saved.get("lora", {})
    if "lora" not in given and not known:
        return save_model, {}
    if not known and "load_from" not in given:
        raise ConfigError("--lora adapts a checkpoint: give it with --load-from (a folder, a hub id, or 'builtin')")
    values = parse_json(given["lora"], "--lora") if "lora" in given else _lora_flag(known)
    settings = lora_settings(values)
    base = (known["base"], known["sha256"]) if known else name_base(given["load_from"], model.kind)
    adapter = Adapter(settings.r, settings.alpha, settings.dropout, attach(model, settings), *base)
    return partial(save_adapter, adapter=adapter), {"lora": _plain(adapter)}


def _plain(value: Any) -> Any:
    """As JSON gives it back: dataclasses as objects, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name for f in dataclasses.fields(value) if f.init}
        value = {k: v for k, v in to_mapping(value).items() if k in fields}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _wandb(given: Mapping[str, Any], ranks: dist.Ranks, folder: Path, task: str, config: Mapping[str, Any], identifier: str) -> Wandb:
    mode = given.get("wandb", "off") if ranks.first else "off"
    if mode != "off":
        make_folder(folder)
    name = folder.name + (f"-{given['wandb_suffix']}" if "wandb_suffix" in given else "")
    return Wandb(mode, folder, name, given.get("wandb_task_name", task), config, identifier)


def _tensorboard(given: Mapping[str, Any], ranks: dist.Ranks, folder: Path, resumed_at: int | None) -> TensorBoard | None:
    if not given.get("tensorboard") or not ranks.first:
        return None
    make_folder(folder)
    with held(folder):  # it removes what an earlier run logged
        return TensorBoard(folder / "tensorboard", resumed_at)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
