"""Gradient norms out of the ordinary: what counts as one, that it is told with its rows, skipped when asked, the same after a resume."""

import functools
import json
import math

import pytest
import torch
from torch.amp.grad_scaler import GradScaler
from toy_task import ToyTask

from autosing.training.loop import Trainer
from autosing.training.spikes import WARM_STEPS, WINDOW, SpikeWatch
from tests.train_runs import signalled


def watch(norms) -> list[bool]:
    watching = SpikeWatch(torch.device("cpu"))
    return [bool(watching.see(torch.tensor(float(norm)))[1]) for norm in norms]


def test_a_spike_stands_out_from_what_is_usual_however_usual_varies():
    noise = torch.randn(400, generator=torch.Generator().manual_seed(0)).mul(0.3).exp()
    drift = torch.linspace(0, -2, 400).exp()
    usual = (noise * drift).tolist()
    assert not any(watch(usual))
    usual[200] *= 12
    assert [i for i, over in enumerate(watch(usual)) if over] == [200]


def test_few_norms_make_no_threshold_and_a_new_level_becomes_usual():
    assert not any(watch([1.0] * (WARM_STEPS - 1) + [1e6]))
    over = watch([1.0] * 40 + [10.0] * (2 * WINDOW))
    assert over[40] and not any(over[40 + WINDOW :])


def test_what_is_not_finite_is_no_spike_and_moves_nothing():
    usual = [1.0, 1.1, 0.9, 1.05] * 12
    assert watch([*usual, math.inf, math.nan, 1.2, 5.0]) == [False] * (len(usual) + 3) + [True]


def shouting(step: int):
    """A task whose loss is 100-fold in one step."""
    steps = iter(range(1, 10_000))

    def losses(self, model, batch, plain=ToyTask.losses):
        found = plain(self, model, batch)
        return found._replace(total=found.total * (100 if model.training and next(steps) == step else 1))

    return losses


@pytest.mark.parametrize("precision", ["32", "16-mixed"])
@pytest.mark.parametrize("deferred", [False, True])
def test_a_spike_is_told_with_its_rows_and_passed_over_when_asked(runs, monkeypatch, capsys, precision, deferred):
    values = {"steps": 45, "log_every_n_steps": 10, "validate_every_n_steps": 100, "precision": precision}
    seen: dict[str, list] = {}

    def watching(self, plain=Trainer._update):
        before = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.learner.deferred = deferred
        plain(self)
        if self.step == 41:
            now = self.model.state_dict()
            seen[self.folder.name] = [all(torch.equal(before[k], now[k]) for k in before), self._step_ids]

    monkeypatch.setattr(Trainer, "_update", watching)
    monkeypatch.setattr("autosing.training.learner.GradScaler", functools.partial(GradScaler, init_scale=1.0))  # else it is an overflow
    for name, flags in (("told", ()), ("skipped", ("--skip-gradient-spikes",))):
        monkeypatch.setattr(ToyTask, "losses", shouting(42))
        assert runs(name, *flags, **values) == 0
        spikes = [r for r in runs.records(name) if "grad_norm_spike" in r]
        assert [r["step"] for r in spikes] == [42] and spikes[0]["skipped"] == bool(flags)
        assert spikes[0]["grad_norm_spike"] > 2 * spikes[0]["threshold"] and spikes[0]["ids"] == list(seen[name][1])
        assert seen[name][0] == bool(flags)  # no weight moved
        assert f"rows: {', '.join(spikes[0]['ids'])}" in capsys.readouterr().err
    assert "skip_gradient_spikes" not in json.loads((runs.path("told") / "state" / "state.json").read_text())["identity"]


def test_the_threshold_is_the_same_after_a_resume(runs, monkeypatch):
    values = {"steps": 50, "log_every_n_steps": 10, "validate_every_n_steps": 20}
    monkeypatch.setattr(ToyTask, "losses", shouting(42))
    assert runs("whole", "--skip-gradient-spikes", **values) == 0
    monkeypatch.setattr(ToyTask, "losses", shouting(42))
    for at in (7, 36, 43):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_update", signalled(at))
            assert runs("a", "--skip-gradient-spikes", "--resume-from", "auto", **values) == 143
    assert runs("a", "--skip-gradient-spikes", "--resume-from", "auto", **values) == 0
    runs.same("a", "whole")
    assert any("grad_norm_spike" in r for r in runs.records("a"))
