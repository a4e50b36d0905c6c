"""Every row of `TASKS` passes the same tests; a new task is covered by one row of `CASES`: micro settings and four songs.

Settings round trip, examples of equal shapes, a step that lowers the loss, four songs learnt by heart, a checkpoint that gives the same losses,
exact resume, and adapters on every linear layer (where there are none: on every plain convolution).
"""

import dataclasses
import io
import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import tasks.sm2a
import tasks.sm2a_parallel
import tasks.t2s
from autosing.config import from_mapping
from autosing.errors import ConfigError
from autosing.models.io import load_model, save_adapter, save_model
from autosing.models.t2s import SIZES, Size
from autosing.training.data import TrainingData
from autosing.training.log import read_metrics
from autosing.training.loop import Trainer
from autosing.training.lora import LoraSettings, attach
from autosing.training.optim import build_optimizer, set_learning_rate
from autosing.training.settings import Settings
from autosing.training.task import DatasetMeta, Losses
from tasks import TASKS
from tests.sequence_rows import toy_meta, toy_row
from tests.train_runs import signalled

RATE = 24_000
Rows = list[Mapping[str, Any]]


class Case(NamedTuple):
    """What the tests need to know of a task.

    Attributes:
        args, tunables: JSON settings of a micro model.
        sure_args, sure_tunables: settings that leave no chance to how its examples are treated.
        rows: four songs.
        meta: of their dataset.
        steps: enough to know the songs by heart.
        reached: metric -> (least, most) after these steps.
    """

    args: dict[str, Any]
    sure_args: dict[str, Any]
    tunables: dict[str, Any]
    sure_tunables: dict[str, Any]
    rows: Callable[[], Rows]
    steps: int
    reached: dict[str, tuple[float, float]]
    meta: DatasetMeta = DatasetMeta()


def song(number: int) -> Mapping[str, Any]:
    """A rendered song of 2.5 s: AA and IY are tones of the singer's pitch with their own overtones, silence around, a band of noise."""
    time = np.arange(round(2.5 * RATE)) / RATE
    pitch = 160.0 * 2 ** (number / 4)
    phones, vocals, f0 = [], np.zeros(len(time)), np.zeros(500, np.float32)
    for i, begin in enumerate(np.arange(0.2, 2.1, 0.5)):
        phone, overtones = (("AA", (3, 4)), ("IY", (1, 14)))[i % 2]
        inside = (time >= begin) & (time < begin + 0.35)
        vocals[inside] = sum(0.1 * np.sin(2 * np.pi * pitch * k * time[inside]) for k in (1, 2, *overtones))
        phones.append({"phone": phone, "start": begin, "end": begin + 0.35, "word": i})
        f0[round(begin * 200) : round((begin + 0.35) * 200)] = pitch
    band = np.random.default_rng(number).standard_normal((len(time), 2)) * 0.05
    return {
        "id": f"song{number}", "artist": f"singer{number}", "kind": "rendered", "vocals": _wav(vocals), "accompaniment": _wav(band),
        "phones": phones, "pron": ["AA", "IY", "AA", "IY"], "f0": f0.tobytes(),
    }  # fmt: skip


def _wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


def songs() -> Rows:
    return [song(number) for number in range(4)]


def token_rows() -> Rows:
    return [{**toy_row(number, 10.0), "artist": f"singer{number % 2}"} for number in range(4)]


def words() -> Rows:
    pairs = {"cat": "K AE T", "fox": "F AA K S", "sea": "S IY", "mix": "M IH K S"}
    return [{"id": word, "word": word, "phones": phones} for word, phones in pairs.items()]


CASES: dict[str, Case] = {
    "t2s": Case(
        {"size": "micro", "cross_layers": 1}, {"text_guidance": 1.0, **dict.fromkeys(("p_no_text", "p_no_cond", "dropout", "corrupt"), 0.0)},
        {"lr0": 6e-3}, {}, token_rows, 70, {"semantic_accuracy": (0.8, 1.0)}, toy_meta(10.0),
    ),
    "sm2a": Case(
        {"size": "micro", "cross_layers": 1, "codebooks": False, "crop_seconds": 6.0},
        {"semantic_guidance": 1.0, **dict.fromkeys(("p_no_cond", "p_no_semantic", "corrupt", "corrupt_semantic", "dropout"), 0.0)},
        {"lr0": 6e-3}, {}, token_rows, 70, {f"level{level}_accuracy": (0.75, 1.0) for level in range(4)}, toy_meta(10.0),
    ),
    "sm2a_parallel": Case(
        {"size": "micro", "codebooks": False, "crop_seconds": 6.0},
        {"semantic_guidance": 1.0, **dict.fromkeys(("p_no_cond", "p_no_semantic", "p_around", "corrupt", "corrupt_semantic", "dropout"), 0.0)},
        {"lr0": 6e-3}, {}, token_rows, 70, {f"level{level}_accuracy": (0.75, 1.0) for level in range(4)}, toy_meta(10.0),
    ),
    "artist": Case(
        {"artist_file": "artists.json", "crop_seconds": 6.0, "depth": 1, "heads": 1, "width": 16}, {},
        {"lr0": 6e-3}, {}, token_rows, 40, {"artist_accuracy": (1.0, 1.0)}, toy_meta(10.0),
    ),
    "acoustic": Case(
        {"size": "micro", "crop_seconds": 1.2, "crops": 1}, {}, {"lr0": 6e-3}, {"disturb": 0.0}, songs, 40, {"frame_accuracy": (0.85, 1.0)}
    ),
    "separator": Case(
        {"size": "tiny", "crop_seconds": 0.5, "crops": 1}, {}, {"lr0": 4e-3}, {"silent_voice": 0.0, "silent_band": 0.0}, songs, 25,
        {"snr_gain_db": (6.0, 99.0)},
    ),
    "pitch": Case({"seconds": 0.576}, {}, {"lr0": 4e-3}, {"clean": 1.0, "leak": 0.0}, songs, 25, {"off_by_50_cents": (0.0, 0.2)}),
    "voice": Case(
        {"size": "tiny", "shortest_seconds": 0.6, "longest_seconds": 0.8, "shortest_row_seconds": 1.0, "crops": 2, "classes": 64},
        {"speeds": [1.0]}, {"lr0": 5e-3}, {"leak": 0.0}, songs, 40, {"accuracy": (1.0, 1.0)},
    ),
    "g2p": Case({"width": 48, "blocks": 2}, {"dropout": 0.0}, {"lr0": 5e-3}, {}, words, 60, {"phone_error": (0.0, 0.1)}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def micro(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A smaller micro, a codebook that needs no tokenizer, artists, and no waiting for the disk."""
    monkeypatch.setitem(SIZES, "micro", Size(2, 1, cross_layers=0, music_depth=0))
    for module in (tasks.t2s, tasks.sm2a, tasks.sm2a_parallel):
        monkeypatch.setattr(module, "load_codebook", lambda spec: torch.randn(spec.num_codes, spec.width, generator=torch.Generator().manual_seed(1)))
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artists.json").write_text(json.dumps({"singer0": 0, "singer1": 1}))


def made(name: str, sure: bool = True) -> Any:
    """The task, without chance in its examples or with as much as its defaults have."""
    case, cls = CASES[name], TASKS.get(name)
    args, tunables = ({**case.args, **case.sure_args}, {**case.tunables, **case.sure_tunables}) if sure else (case.args, case.tunables)
    return cls(from_mapping(cls.Args, args, "args"), from_mapping(cls.Tunables, tunables, "tunables"), case.meta)


def batch_of(task: Any, rows: Rows) -> dict[str, torch.Tensor]:
    examples = [task.example(row, np.random.default_rng(index)) for index, row in enumerate(rows)]
    return {key: torch.stack([example[key] for example in examples]) for key in examples[0]}


class Fit:
    """A model, its optimiser and one fixed batch."""

    def __init__(self, name: str):
        self.case, self.task = CASES[name], made(name)
        torch.manual_seed(0)
        self.model = self.task.build_model().train()
        self.batch = batch_of(self.task, self.case.rows())

    def losses(self, seed: int = 0) -> Losses:
        torch.manual_seed(seed)
        return self.task.losses(self.model, dict(self.batch))

    def learn(self, steps: int, warmup: int) -> None:
        optimizer = build_optimizer(self.model, self.task.param_rules(self.model), self.task.tunables)
        for step in range(steps):
            set_learning_rate(optimizer, self.task.tunables.lr0 * min(1.0, (step + 1) / warmup))
            optimizer.zero_grad()
            self.losses(step).total.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
            optimizer.step()

    def judged(self) -> Losses:
        """Losses in eval mode."""
        self.model.eval()
        with torch.no_grad():
            return self.losses()


def test_every_task_has_its_row() -> None:
    assert set(CASES) == set(TASKS.names()), "give the new task a row of CASES"


@pytest.mark.parametrize("name", CASES)
def test_settings_go_through_json(name: str) -> None:
    task = made(name)
    for values in (task.args, task.tunables):
        said = {f.name: getattr(values, f.name) for f in dataclasses.fields(values) if f.init}
        assert from_mapping(type(values), json.loads(json.dumps(said)), "--x") == values
        with pytest.raises(ConfigError, match="has no key 'no_such_key'"):
            from_mapping(type(values), {"no_such_key": 1}, "--x")
    json.dumps(task.checkpoint_meta(), allow_nan=False)


@pytest.mark.parametrize("name", CASES)
def test_examples_have_equal_shapes_and_depend_on_their_generator_alone(name: str) -> None:
    task, rows = made(name), CASES[name].rows()
    shapes = []
    for index, row in enumerate(rows):
        example = task.example(row, np.random.default_rng(index))
        again = task.example(row, np.random.default_rng(index))
        assert example is not None and all(torch.equal(example[key], again[key]) for key in example)
        shapes.append({key: (tuple(value.shape), value.dtype, value.device.type) for key, value in example.items()})
    assert all(shape == shapes[0] for shape in shapes)


@pytest.mark.parametrize("name", CASES)
def test_a_step_lowers_the_loss_on_its_batch(name: str) -> None:
    fit = Fit(name)
    before = fit.losses()
    assert before.total.ndim == 0 and before.total.isfinite()
    assert not any(value.requires_grad for value in before.metrics.values())
    fit.learn(1, warmup=100)
    assert fit.losses().total < before.total


@pytest.mark.parametrize("name", CASES)
def test_four_songs_are_learnt_by_heart(name: str) -> None:
    fit = Fit(name)
    fit.learn(fit.case.steps, warmup=10)
    metrics = fit.judged().metrics
    for metric, (least, most) in fit.case.reached.items():
        assert least <= float(metrics[metric]) <= most, (metric, float(metrics[metric]))


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_gives_the_same_losses(name: str, tmp_path: Path) -> None:
    fit = Fit(name)
    fit.learn(2, warmup=1)
    expected = fit.judged()
    save_model(fit.model, tmp_path / "saved", fit.task.checkpoint_meta())
    fit.model, meta = load_model(tmp_path / "saved", fit.model.kind)
    assert torch.equal(fit.judged().total, expected.total)
    assert meta == json.loads(json.dumps(fit.task.checkpoint_meta()))


@pytest.mark.parametrize("name", CASES)
def test_a_stopped_run_goes_on_to_the_same_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all the chance of the task's defaults, accumulation and an average; stopped within an epoch, and gone on with in a loader's process."""
    rows = CASES[name].rows()

    def trainer(folder: str, workers: int = 0) -> Trainer:
        task = made(name, sure=False)
        torch.manual_seed(5)
        model = task.build_model()
        settings = Settings(batch_size=3, accumulate=2, steps=3, ema=0.5, validate_every=10, log_every=1, workers=workers)
        data = TrainingData(rows, rows[:1], task.meta)
        return Trainer(task, model, task.tunables, data, settings, tmp_path / folder, torch.device("cpu"), {"task": name, "tunables": dataclasses.asdict(task.tunables)})

    assert trainer("whole").fit().step == 3
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", signalled(1))
        stopped = trainer("parts").fit()
    assert (stopped.step, stopped.stopped_by) == (1, signal.SIGTERM)
    assert trainer("parts", workers=1).fit(resume=True).step == 3
    losses = [[r["loss"] for r in read_metrics(tmp_path / run / "metrics.jsonl") if "loss" in r] for run in ("whole", "parts")]
    assert len(losses[0]) == 3 and losses[0] == losses[1]
    for file in ("last/model.safetensors", "state/state.safetensors"):
        whole, parts = (load_file(tmp_path / run / file) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys() and all(torch.equal(whole[key].nan_to_num(), parts[key].nan_to_num()) for key in whole)


@pytest.mark.parametrize("name", CASES)
def test_it_trains_on_another_device_as_on_the_cpu(name: str, tmp_path: Path, other_device: torch.device) -> None:
    """Steps, average, validation and the files of a run whose model and batches are elsewhere; only what is drawn at random may differ."""
    if name == "separator" and other_device.type != "cuda":
        pytest.skip("the pretended device cannot follow recurrent layers, which exchange axes in place")
    rows, losses = CASES[name].rows(), []
    for folder, device in ("here", torch.device("cpu")), ("there", other_device):
        task = made(name)
        torch.manual_seed(5)
        settings = Settings(batch_size=2, steps=1, ema=0.5, validate_every=1, log_every=1, precision="32")
        data = TrainingData(rows, rows[:1], task.meta)
        trained = Trainer(task, task.build_model(), task.tunables, data, settings, tmp_path / folder, device, {"task": name, "tunables": dataclasses.asdict(task.tunables)})
        assert trained.fit().step == 1
        losses.append([record["loss"] for record in read_metrics(tmp_path / folder / "metrics.jsonl") if "loss" in record])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    here, there = (load_file(tmp_path / folder / "last/model.safetensors") for folder in ("here", "there"))
    assert here.keys() == there.keys() and all(value.isfinite().all() for value in there.values() if value.is_floating_point())


@pytest.mark.parametrize("name", CASES)
def test_adapters_learn_on_every_layer_they_mean_and_fold_in(name: str, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="training adapters needs peft (pip install 'autosing[lora]')")
    from autosing.models.adapters import Adapter, name_base

    fit = Fit(name)
    kind = fit.model.kind
    fit.learn(2, warmup=1)
    save_model(fit.model, tmp_path / "base", {})
    before = fit.judged()
    layers = attach(fit.model, LoraSettings(r=2, alpha=4.0))
    torch.testing.assert_close(fit.judged().total, before.total)
    fit.model.train().zero_grad()
    fit.losses().total.backward()
    learning = {n.removesuffix(".lora_B.default.weight") for n, p in fit.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == set(layers), "a layer whose weight is read, not called: list it in the model's `reads_weights`"
    with torch.no_grad():
        for n, parameter in fit.model.named_parameters():
            if "lora_" in n:
                parameter.normal_(std=0.05)
    save_adapter(fit.model, tmp_path / "adapter", {}, adapter=Adapter(2, 4.0, 0.0, layers, *name_base(str(tmp_path / "base"), kind)))
    live = fit.judged()
    fit.model = load_model(tmp_path / "adapter", kind)[0]
    folded = fit.judged()
    torch.testing.assert_close(folded.total, live.total, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(folded.total, before.total, atol=1e-4)
