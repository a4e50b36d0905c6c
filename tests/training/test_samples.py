"""Samples of a run: written at every validation by a task that makes some, without a trace in the training."""

import pytest
import soundfile
import torch
from toy_task import ToyTask

from autosing.song.alignment import Alignment, Word
from autosing.training.task import Sample


def samples(self, model, batch):
    assert not model.training
    torch.rand(7)  # what a sample draws must not reach the training
    words = Alignment((Word("la", 0.1, 0.4, 1.0, 0),))
    return [Sample("toy", words, audio=torch.zeros(2, 8000), sample_rate=8000) for _ in batch["x"]]


def test_samples_are_heard_and_seen_at_every_validation_and_change_nothing(runs, monkeypatch):
    assert runs("whole", ema=0.5) == 0
    monkeypatch.setattr(ToyTask, "samples", samples, raising=False)
    assert runs("a", samples=2, ema=0.5) == 0
    folder = runs.path("a") / "samples"
    assert sorted(p.name for p in folder.iterdir()) == ["step-0000005", "step-0000010", "step-0000012"]
    assert sorted(p.name for p in (folder / "step-0000010").iterdir()) == ["0.png", "0.wav", "1.png", "1.wav"]
    wav, rate = soundfile.read(folder / "step-0000010" / "1.wav")
    assert wav.shape == (8000, 2) and rate == 8000
    runs.same("a", "whole")


def test_a_task_that_makes_none_says_so(runs, capsys):
    assert runs("a", samples=1) == 2
    assert "--samples: task toy makes none" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["bf16", "bf16-mixed"])
def test_a_task_that_samples_in_float32_may_train_in_bf16(runs, monkeypatch, precision):
    """Whatever its weights are kept in, a task calls its model as singing does."""

    def calling(self, model, batch):
        model(batch["x"].float())
        return samples(self, model, batch)

    monkeypatch.setattr(ToyTask, "samples", calling, raising=False)
    assert runs("a", samples=1, steps=1, precision=precision) == 0
    assert (runs.path("a") / "samples" / "step-0000001" / "0.wav").is_file()
