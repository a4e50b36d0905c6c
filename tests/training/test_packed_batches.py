"""Batches in one piece, and a step that never waits for the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy_task import TASK

from autosing.training.batches import MicroBatch, Packed
from autosing.training.loop import Trainer

TENSORS = {
    "codes": torch.arange(6).reshape(2, 3),
    "mask": torch.tensor([True, False, True]),
    "rate": torch.tensor(1.5),
    "audio": torch.arange(10, dtype=torch.int16)[::2],
    "half": torch.ones(3, dtype=torch.bfloat16),
    "none": torch.zeros(0, 4),
}


def test_packing_gives_the_same_tensors_back():
    packed = Packed.of(TENSORS)
    found = packed.tensors()
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
    assert {t.untyped_storage().data_ptr() for t in found.values() if t.numel()} == {packed.buffer.untyped_storage().data_ptr()}


def test_a_batch_goes_to_a_device_in_one_copy(monkeypatch):
    copies = []
    plain = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: copies.append(self) or plain(self, *args, **kwargs))
    packed = Packed.of(TENSORS)
    there = MicroBatch(packed.tensors(), ("a",), 0, packed=packed).on(torch.device("meta"))
    assert len(copies) == 1
    assert {n: (t.shape, t.dtype, t.device.type) for n, t in there.items()} == {n: (t.shape, t.dtype, "meta") for n, t in TENSORS.items()}


def test_kept_validation_batches_hold_no_open_file(runs, monkeypatch):
    shared = []

    def validate(self, plain=Trainer.validate, **kwargs):
        values = plain(self, **kwargs)
        shared.extend(tensor.is_shared() for batch in self.validator._cache for tensor in (batch.packed.buffer, *batch.tensors.values()))
        return values

    monkeypatch.setattr(Trainer, "validate", validate)
    assert runs("a", steps=10, workers=1) == 0  # validates twice, the second time from memory
    assert shared and not any(shared)


WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")


class NoWaiting(TorchDispatchMode):
    """Refuses the operations that would make the host wait for a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in WAITING or (name == "index" and any(i is not None and i.dtype is torch.bool for i in args[1])):
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["32", "16-mixed"])
def test_no_step_waits_for_the_device(runs, monkeypatch, precision):
    """Forward, backward, the finite check, clipping, scaling, the update and the average; reading happens at log lines."""
    steps = []
    fit = Trainer.fit

    def deferring(self, *args, **kwargs):
        self.learner.deferred = True
        return fit(self, *args, **kwargs)

    def watched(method):
        def inside(self, *args, **kwargs):
            steps.append(method.__name__)
            with NoWaiting():
                return method(self, *args, **kwargs)

        return inside

    monkeypatch.setattr(Trainer, "fit", deferring)
    for method in (Trainer._forward_backward, Trainer._update):
        monkeypatch.setattr(Trainer, method.__name__, watched(method))
    assert runs("a", steps=3, ema=0.9, precision=precision, log_every_n_steps=10, accumulate_grad_batches=2) == 0
    assert len(steps) == 9

    losses = TASK.losses
    monkeypatch.setattr(TASK, "losses", lambda self, model, batch: (batch["x"].sum().item(), losses(self, model, batch))[1])
    with pytest.raises(AssertionError, match="_local_scalar_dense waits"):
        runs("b", steps=3, log_every_n_steps=10)
