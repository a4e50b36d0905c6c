"""The command: flags, refusals, what a run leaves behind."""

import json
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from toy_task import Toy, ToyConfig, ToyTask

from autosing.cli.train import main, parse
from autosing.errors import ConfigError
from autosing.models.io import save_model
from autosing.training.data import TrainingData
from autosing.training.loop import Trainer
from autosing.training.settings import Settings
from autosing.training.task import DatasetMeta, draw_tunables
from tasks.sequence import MupTunables


def test_a_run_learns_and_leaves_what_it_promises(runs, capsys):
    assert runs("a", steps=150, validate_every_n_steps=50, batch_size=8, log_every_n_steps=10) == 0
    folder = runs.path("a")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in records if "loss" in r]
    checks = [r["val_loss"] for r in records if "val_loss" in r]
    assert len(losses) == 15 and len(checks) == 3
    assert losses[-1] < 0.5 * losses[0] and checks[-1] < checks[0]
    assert {"square", "absolute", "lr", "grad_norm", "rows_per_second", "unfit", "epoch"} <= set(records[0])
    assert (folder / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    config = json.loads((folder / "best" / "config.json").read_text())
    assert config["kind"] == "toy" and config["meta"]["training"]["identity"]["task"] == "toy"
    assert config["meta"]["codec"] == {"name": "builtin", "hop": 256}
    assert not list(folder.rglob("*.tmp"))
    out = capsys.readouterr()
    assert out.out.startswith("done: 150 steps, val_loss")
    assert "warm-up 15 steps (a tenth of the run, instead of 2000)" in out.err


def test_a_search_draws_what_is_not_said_and_keeps_it_when_resumed(runs, capsys):
    """Same seed, same draw; another seed, another; a resumed run goes on with what was drawn, recorded as plain numbers."""

    def tunables(name: str) -> dict:
        return json.loads((runs.path(name) / "last" / "config.json").read_text())["meta"]["training"]["identity"]["tunables"]

    search = {"steps": 4, "tunables": '{"random": true, "beta1": 0.8}'}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert runs(name, seed=seed, **search) == 0
    assert "drawn with seed 1: lr0" in capsys.readouterr().err
    assert tunables("a") == tunables("b") and tunables("a")["lr0"] != tunables("c")["lr0"]
    assert tunables("a")["beta1"] == 0.8 and "random" not in tunables("a")
    assert main(["--resume-from", str(runs.path("a")), "--steps", "6", "--allow-changed"]) == 0
    assert tunables("a") == tunables("b")


def test_draws_cover_their_range_evenly_on_a_logarithmic_scale():
    values = [draw_tunables(MupTunables, {}, seed) for seed in range(200)]
    for name, low, high in (("init_std", 3, 30), ("query_mult", 0.1, 2), ("lr0", 1e-3, 9e-3)):
        drawn = sorted(value[name] for value in values)
        assert low <= drawn[0] and drawn[-1] <= high and abs(drawn[100] / (low * high) ** 0.5 - 1) < 0.35
    assert all(isinstance(value["warmup_steps"], int) and "rope" not in value for value in values)


def test_both_spellings_of_every_flag():
    dashes = parse(["--batch-size", "3", "--task-name=toy", "--validate-every-n-steps", "7", "--torch-compile", "false"])
    assert parse(["--batch_size", "3", "--task_name=toy", "--validate_every_n_steps", "7", "--torch_compile", "false"]) == dashes
    assert dashes["torch_compile"] is False and parse(["--torch-compile"])["torch_compile"] is True
    assert parse(["--name", "a_b", "--shufbuf", "100"])["name"] == "a_b"


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--batchsize", "3"], "no flag '--batchsize'; did you mean '--batch-size'"),
        (["--tunables", '{"lr": 1}'], "--tunables has no key 'lr'; did you mean 'lr0'"),
        (["--tunables", '{"random": 3}'], "'random' must be true or false, found 3"),
        (["--task_args", '{"widht": 8}'], "has no key 'widht'; did you mean 'width'"),
        (["--task_args", "{width: 8}"], "--task-args is not valid JSON"),
        (["--dataset-config", '{"pth": "x"}'], "has no key 'pth'; did you mean 'path'"),
        (["--task_name", "tox"], "no task is called 'tox'; did you mean 'toy'"),
        (["--batch-size", "0"], "--batch-size cannot be 0"),
        (["--task_args", '{"noise": 1}', "--dataset-config", '{"path": "x", "noise": 2.0}'], "give it once"),
        (["--threads", "0"], "--threads must be at least 1, found 0"),
        (["--epochs", "inf"], "--epochs cannot be inf"),
        (["--seed", "100000000000000000000"], "--seed cannot be 100000000000000000000"),
        (["--clip-gradient-norm", "-1"], "--clip-gradient-norm cannot be -1"),
        (["--tunables", '{"clip_gradient_norm": -1}'], "'clip_gradient_norm' must be at least 0, found -1"),
        (["--tunables", '{"lr0": -1}'], "'lr0' must be at least 0, found -1"),
        (["--tunables", '{"lr0": NaN}'], "'lr0' must be a finite number, found nan"),
        (["--tunables", '{"beta1": 2}'], "'beta1' must be at least 0 and below 1, found 2"),
        (["--output-dir", "/dev/null"], "a run cannot be written to '/dev/null/toy/a' (Not a directory)"),
        (["--tensorboard", "--output-dir", "/dev/null"], "a run cannot be written to '/dev/null/toy/a' (Not a directory)"),
        (["--resume-from", "/nowhere"], "no run to resume"),
        (["--load-from", "/nowhere"], "no toy checkpoint at '/nowhere'"),
        (["--wandb", "offline"], "pip install 'autosing"),
        (["--monitored-metric", "val_lss"], "did you mean 'val_loss'"),
    ],
)
def test_mistakes_are_one_clear_line(runs, capsys, monkeypatch, flags, said):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    assert runs("a", *flags) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and said in line


def test_same_seed_same_run_whatever_the_workers(runs):
    assert runs("a", seed=1, workers=0, accumulate_grad_batches=2, task_args={"unfit": [3, 4]}) == 0
    assert runs("b", seed=1, workers=1, accumulate_grad_batches=2, task_args={"unfit": [3, 4]}) == 0
    assert runs("c", seed=2, workers=0, accumulate_grad_batches=2, task_args={"unfit": [3, 4]}) == 0
    runs.same("a", "b")
    assert runs.records("a") != runs.records("c")


def test_nan_stops_before_the_update_and_names_the_rows(runs, capsys, monkeypatch):
    assert runs("clean", steps=3, validate_every_n_steps=1) == 0
    seen = []
    monkeypatch.setattr(ToyTask, "losses", _spying(ToyTask.losses, seen))
    assert runs("bad", steps=60, validate_every_n_steps=1, task_args={"poison": [20]}) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not finite at step" in line and "song20" in line and "before its update" in line
    before, after = next(w for w, poisoned in seen if poisoned), runs.weights("bad")
    assert {k: v.tolist() for k, v in before.items()} == after
    assert all(torch.isfinite(v).all() for v in before.values())


@pytest.mark.parametrize("precision", ["32", "16-mixed"])
def test_a_check_left_on_the_device_still_stops_before_the_update(runs, capsys, monkeypatch, precision):
    """As on CUDA: the host reads the flag at the next log line only, and finds the weights as before the bad loss."""
    seen, models, fit = [], [], Trainer.fit

    def deferring(self, *args, **kwargs):
        self.learner.deferred = True
        models.append(self.model)
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "fit", deferring)
    monkeypatch.setattr(ToyTask, "losses", _spying(ToyTask.losses, seen))
    values = {"steps": 60, "log_every_n_steps": 20, "validate_every_n_steps": 60, "precision": precision}
    assert runs("bad", task_args={"poison": [20]}, **values) == 2
    assert "song20" in capsys.readouterr().err.strip().splitlines()[-1]
    first = [poisoned for _, poisoned in seen].index(True)
    assert 0 < first < len(seen) - 1  # it went on after the bad loss, without an update
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, seen[first][0][name])
        assert torch.equal(value, seen[-1][0][name])


@pytest.mark.parametrize("deferred", [False, True])
def test_in_fp16_a_gradient_that_stays_not_finite_stops_the_run(runs, capsys, monkeypatch, deferred):
    """One that is too large for fp16 is passed over and scaled less; here no scale helps, though every loss is finite."""
    fit, plain, seen = Trainer.fit, ToyTask.losses, []

    def deferring(self, *args, **kwargs):
        self.learner.deferred = deferred
        return fit(self, *args, **kwargs)

    def losses(self, model, batch):
        found = plain(self, model, batch)
        nothing = (model.hidden.weight * 0).square().sum().sqrt()  # its slope is infinite
        return found._replace(total=found.total + nothing)

    monkeypatch.setattr(Trainer, "fit", deferring)
    monkeypatch.setattr(ToyTask, "losses", _spying(losses, seen))
    assert runs("bad", precision="16-mixed", steps=60, log_every_n_steps=20, validate_every_n_steps=60) == 2
    assert "the loss or its gradient is not finite at step 30" in capsys.readouterr().err.strip().splitlines()[-1]
    assert len(seen) == (40 if deferred else 31) and all(torch.equal(seen[-1][0][name], value) for name, value in seen[0][0].items())


def test_pure_bf16_keeps_weights_and_optimiser_in_it_and_learns(runs):
    """The moving average stays in float32, in checkpoints too; what is exported is float32 as ever."""
    values = {"precision": "bf16", "ema": 0.99, "steps": 40, "log_every_n_steps": 10, "validate_every_n_steps": 40}
    assert runs("a", **values) == 0
    state = load_file(next((runs.path("a") / "state").glob("**/*.safetensors")))
    kept = {key: tensor.dtype for key, tensor in state.items()}
    for key, dtype in kept.items():
        in_float32 = key.startswith(("ema/", "spikes/")) or key.endswith(("/step", "/codebook"))
        assert dtype is (torch.float32 if in_float32 else torch.bfloat16), key
    assert {key.split("/")[0] for key in kept} == {"model", "optim", "ema", "spikes"}
    exported = load_file(runs.path("a") / "last" / "model.safetensors")
    assert all(tensor.dtype is torch.float32 for tensor in exported.values())
    averages = {key.removeprefix("ema/"): tensor for key, tensor in state.items() if key.startswith("ema/")}
    assert averages and all(torch.equal(exported[name], average) for name, average in averages.items())
    losses = [r["loss"] for r in runs.records("a") if "loss" in r]
    assert losses[-1] < 0.9 * losses[0]


def test_half_precision_learns(runs):
    assert runs("a", steps=60, precision="16-mixed") == 0
    losses = [r["loss"] for r in runs.records("a") if "loss" in r]
    assert sum(losses[-10:]) < sum(losses[:10])


def _spying(losses, seen):
    def spy(self, model, batch):
        if model.training:
            weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            seen.append((weights, bool(torch.isnan(batch["y"]).any())))
        return losses(self, model, batch)

    return spy


def test_frozen_parameters_stay(runs):
    assert runs("a") == 0
    assert runs.weights("a")["frozen"] == [1.0]


def test_moving_average_is_what_is_saved(runs):
    assert runs("plain") == 0 and runs("ema", ema=0.9) == 0
    plain, ema = runs.records("plain"), runs.records("ema")
    assert [r["loss"] for r in plain if "loss" in r] == [r["loss"] for r in ema if "loss" in r]
    assert runs.weights("plain") != runs.weights("ema")
    assert [r.get("val_loss") for r in plain] != [r.get("val_loss") for r in ema]


def test_clock_bounds_a_run(runs, monkeypatch):
    ticks = iter(range(100_000))
    monkeypatch.setattr("autosing.training.clock.time", SimpleNamespace(monotonic=lambda: next(ticks) / 10))
    argv = runs.argv("a", minutes=1.0)
    at = argv.index("--steps")
    assert main(argv[:at] + argv[at + 2 :]) == 0
    rates = [r["lr"] for r in runs.records("a") if "lr" in r]
    assert max(rates) > 0.9e-2 and rates[-1] < 0.1e-2  # lr0 is 1e-2
    assert len([r for r in runs.records("a") if "val_loss" in r and r["step"] == len(rates)]) == 1
    assert runs("b", minutes=1000.0, steps=3) == 0  # together, the first bound ends the run
    assert runs.records("b")[-1]["step"] == 3


def test_an_earlier_run_is_not_overwritten_by_chance(runs, capsys):
    assert runs("a") == 0
    assert runs("a") == 2
    assert "--resume-from auto" in capsys.readouterr().err
    assert runs("a", "--overwrite") == 0


def test_numbered_checkpoints(runs):
    assert runs("a", steps=12, validate_every_n_steps=3, keep_last=2) == 0
    assert sorted(p.name for p in runs.path("a").glob("step-*")) == ["step-0000009", "step-0000012"]


def test_dataset_without_validation_rows(runs, capsys):
    assert runs("a", dataset={"validation_share": 0.0}) == 0
    assert "no validation rows" in capsys.readouterr().err
    assert (runs.path("a") / "best").is_dir()


def test_load_from_starts_with_those_weights(runs, tmp_path):
    torch.manual_seed(9)
    model = Toy(ToyConfig())
    save_model(model, tmp_path / "given", {"codec": {"name": "builtin", "hop": 256}})
    assert runs("a", load_from=tmp_path / "given", steps=1, tunables={"lr0": 0.0}) == 0
    assert runs.weights("a") == {k: v.tolist() for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    "config, meta, said",
    [
        (ToyConfig(), {"codec": {"name": "snac", "hop": 256}}, "codec name = 'snac', this dataset has 'builtin'"),
        (ToyConfig(width=8), {}, "width: 8 there, 4 here"),
    ],
)
def test_load_from_refuses_what_does_not_fit(runs, tmp_path, capsys, config, meta, said):
    save_model(Toy(config), tmp_path / "given", meta)
    assert runs("a", load_from=tmp_path / "given") == 2
    assert said in capsys.readouterr().err


def test_a_task_may_be_asked_about_loaded_weights(runs, tmp_path, capsys, monkeypatch):
    def check_loaded(self, meta, where):
        raise ConfigError(f"{where} speaks {meta['language']}")

    monkeypatch.setattr(ToyTask, "check_loaded", check_loaded, raising=False)
    save_model(Toy(ToyConfig()), tmp_path / "given", {"language": "xx"})
    assert runs("a", load_from=tmp_path / "given") == 2
    assert "given' speaks xx" in capsys.readouterr().err


def test_a_task_may_open_its_own_rows(runs, monkeypatch):
    rows = [{"id": f"r{i}", "number": i, "x": [1.0, float(i), 2.0]} for i in range(9)]
    opened = classmethod(lambda cls, config: TrainingData(rows[:7], rows[7:], DatasetMeta(rows=7))[:3])
    monkeypatch.setattr(ToyTask, "open_rows", opened, raising=False)
    assert runs("a") == 0


def test_a_task_that_opens_no_rows_is_told(runs, monkeypatch, capsys):
    monkeypatch.setattr(ToyTask, "open_rows", classmethod(lambda cls, config: ([], [], DatasetMeta())), raising=False)
    assert runs("a") == 2
    assert "task toy finds no rows to train on" in capsys.readouterr().err


def test_dataset_config_keys_of_the_task_reach_it(runs):
    assert runs("a", dataset={"multiscale": True}) == 0
    numbers = json.loads((runs.path("a") / "state" / "state.json").read_text())
    assert numbers["identity"]["args"]["multiscale"] is True


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_saves_and_stops(runs, monkeypatch, number, code):
    count = iter(range(1000))

    def losses(self, model, batch, plain=ToyTask.losses):
        if next(count) == 6:
            os.kill(os.getpid(), number)
        return plain(self, model, batch)

    assert runs("whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(ToyTask, "losses", losses)
        assert runs("a") == code
    assert runs.records("a")[-1]["step"] < 12
    assert runs("a", "--resume-from", "auto") == 0
    runs.same("a", "whole")


def test_validation_without_a_finite_value_is_told_and_training_goes_on(runs, capsys, monkeypatch):
    def losses(self, model, batch, plain=ToyTask.losses):
        found = plain(self, model, batch)
        return found if model.training else found._replace(total=found.total * float("nan"))

    monkeypatch.setattr(ToyTask, "losses", losses)
    assert runs("a") == 0
    told = capsys.readouterr()
    assert "step 5: val_loss is not finite on any validation row; best stays as it was" in told.err and "; last is in " in told.out
    assert (runs.path("a") / "last").is_dir() and not (runs.path("a") / "best").exists()


def test_the_validation_loss_does_not_depend_on_the_size_of_batches(runs, monkeypatch):
    """Of a task that says what its loss is a mean over, of which some batches hold many and some none."""

    def losses(self, model, batch, plain=ToyTask.losses):
        used = batch["number"] % 3 == 0
        mean = ((model(batch["x"]) - batch["y"]).square()[:, 0] * used).sum() / used.sum().clamp(min=1)
        return plain(self, model, batch)._replace(total=mean, terms=((mean, used.sum()),))

    monkeypatch.setattr(ToyTask, "losses", losses)
    assert runs("base", steps=1) == 0
    found = []
    for size in (1, 4, 16):
        assert runs(f"by{size}", load_from=runs.path("base") / "last", steps=1, batch_size=size) == 0
        found.append(next(r["val_loss"] for r in runs.records(f"by{size}") if r["step"] == 0))
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)


def test_flags_of_the_original_that_change_nothing_say_so(runs, capsys):
    assert runs("a", "--persistent", steps=1, shufbuf=100) == 0
    err = capsys.readouterr().err
    assert all(f"--{flag} is not used" in err for flag in ("shufbuf", "persistent"))


def test_what_is_compiled_is_what_the_task_calls(runs, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    assert runs("a", "--torch-compile", steps=1) == 0
    monkeypatch.setattr(Toy, "compiled_parts", lambda self: [self.hidden, self.norm], raising=False)
    assert runs("b", "--torch-compile", steps=1) == 0
    assert compiled == ["Toy", "Linear", "LayerNorm"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_saves_and_stops(runs, number):
    """As a cluster ends a job: the workers that read ahead get the signal too."""
    values = {"steps": 400, "workers": 1}
    process = runs.start("a", before=os.setsid, **values)
    metrics = runs.path("a") / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.read_bytes().count(b"\n") > 3):
        time.sleep(0.005)
    os.killpg(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    assert json.loads((runs.path("a") / "state" / "state.json").read_text())["step"] == runs.records("a")[-1]["step"] < 400


def test_settings_refuse_nonsense():
    for wrong in ({"minutes": float("inf")}, {"clip_gradient_norm": float("nan")}, {"ema": 1.0}, {"steps": 0}, {"seed": -1}, {"lr_schedule": "x"}, {"precision": "8"}, {"minutes": 0.0}):
        with pytest.raises(ConfigError):
            Settings(**wrong)
    assert Settings(epochs=2.0, batch_size=4, accumulate=2).total_steps(37) == 10
    assert Settings().total_steps(16) == 5
    assert Settings(minutes=1.0).total_steps(16) is None


def test_a_run_that_starts_anew_is_another_one_at_wandb(runs, monkeypatch):
    """There, what a run says of steps that it has logged already is passed over."""
    seen = []
    run = SimpleNamespace(log=lambda *args, **kwargs: None, finish=lambda: None)
    monkeypatch.setitem(__import__("sys").modules, "wandb", SimpleNamespace(Error=ValueError, init=lambda **values: seen.append(values["id"]) or run))
    assert runs("a", "--wandb", "offline", steps=2) == 0
    assert runs("a", "--wandb", "offline", "--resume-from", "auto", "--allow-changed", steps=3) == 0
    assert runs("a", "--wandb", "offline", "--overwrite", steps=2) == 0
    assert seen[0] == seen[1] != seen[2]


def test_a_standard_output_that_is_full_or_closed_costs_no_run_and_is_one_line(runs, capsys, monkeypatch):
    for name, flags in (("a", ()), ("b", ("--plan",))):
        with open("/dev/full", "w") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert runs(name, *flags, steps=2) == 2
    said = capsys.readouterr().err.splitlines()
    assert sum("standard output (No space left on device)" in line for line in said) == 2 and not any("Traceback" in line for line in said)
    assert (runs.path("a") / "last" / "model.safetensors").exists() and not runs.path("b").exists()
    monkeypatch.setattr(sys, "stdout", None)
    assert runs("c", steps=2) == 0


def test_threads_are_those_of_the_run_alone(runs, monkeypatch):
    seen: list[int] = []
    train_step = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self, *given: (seen.append(torch.get_num_threads()), train_step(self, *given))[1])
    before = torch.get_num_threads()
    assert runs("a", "--threads", f"{before + 1}", steps=1) == 0
    assert set(seen) == {before + 1} and torch.get_num_threads() == before
