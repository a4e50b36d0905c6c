"""The acoustic task: labels at the right frames, rows of every kind, losses that fall."""

import io

import numpy as np
import pytest
import soundfile
import torch

from autosing.errors import ConfigError
from autosing.models.recogniser import CLASS_OF, SILENCE
from autosing.training.task import DatasetMeta
from tasks.acoustic import (
    HIDDEN,
    SOUNDING,
    TASK,
    AcousticArgs,
    AcousticTunables,
    energy_labels,
    frame_labels,
    frame_loss,
    self_labels,
)


def _wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 24000, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


def _song(seconds: float = 4.0) -> dict:
    """A row whose phones are tones: AA low, IY high, with silence around."""
    time = np.arange(round(seconds * 24000)) / 24000
    phones, vocals = [], np.zeros(len(time))
    for i, begin in enumerate(np.arange(0.3, seconds - 0.6, 0.5)):
        phone, hz = (("AA", 300), ("IY", 2500))[i % 2]
        inside = (time >= begin) & (time < begin + 0.35)
        vocals[inside] = 0.3 * np.sin(2 * np.pi * hz * time[inside])
        phones.append({"phone": phone, "start": begin, "end": begin + 0.35, "word": i})
    band = np.stack([0.05 * np.sin(2 * np.pi * 900 * time)] * 2, 1)
    return {"id": "x", "kind": "rendered", "vocals": _wav(vocals), "accompaniment": _wav(band), "phones": phones,
            "pron": [p["phone"] for p in phones]}  # fmt: skip


def _task(**args) -> TASK:
    values = {"size": "micro", "crop_seconds": 2.0, "crops": 2} | args
    return TASK(AcousticArgs(**values), AcousticTunables(disturb=0.0), DatasetMeta())


def test_frame_labels_hold_the_phone_at_the_middle_of_a_frame():
    labels = frame_labels(np.array([0.011, 0.05]), np.array([0.05, 0.0701]), np.array([3, 5]), 5)
    assert labels.tolist() == [SILENCE, 3, 5, 5, SILENCE]


def test_examples_of_one_shape():
    task, rng = _task(), np.random.default_rng(0)
    timed = task.example(_song(), rng)
    untimed = task.example({**_song(2.0), "phones": None, "accompaniment": None}, rng)
    assert timed is not None and untimed is not None
    assert {k: (v.shape, v.dtype) for k, v in timed.items()} == {k: (v.shape, v.dtype) for k, v in untimed.items()}
    assert timed["vocals"].shape == (2, 48000) and timed["labels"].shape == (2, 100)
    assert timed["timed"].all() and not untimed["timed"].any()
    assert (untimed["phone_count"] == 3).all() and set(untimed["labels"].unique().tolist()) <= {SILENCE, SOUNDING, HIDDEN}


def test_labels_follow_the_sound_through_the_change_of_speed():
    example = _task().example(_song(), np.random.default_rng(1))
    power = example["vocals"].reshape(2, 100, 480).square().mean(-1)
    agree = ((power > 0.01) == (example["labels"] != SILENCE)).float().mean()
    assert agree > 0.97


def test_bands_play_at_a_speed_of_their_own():
    """The song's band is a tone of 900 Hz; its pitch in an example tells the speed."""

    def pitches(band_speed: float, stereo: bool = False) -> list[float]:
        task = TASK(AcousticArgs(size="micro", crop_seconds=1.0, crops=8, stereo=stereo), AcousticTunables(disturb=0.0, band_speed=band_speed), DatasetMeta())
        example = task.example(_song(), np.random.default_rng(2))
        assert example is not None and example["band"].shape == (8, 1 + stereo, 24000)
        return [float(torch.fft.rfft(band).abs().argmax()) for band in example["band"].flatten(0, 1)]

    assert pitches(1.0) == [900.0] * 8 and pitches(1.0, stereo=True) == [900.0] * 16
    moved = pitches(1.5)
    assert 590 < min(moved) < 750 and 1080 < max(moved) < 1360
    with pytest.raises(ValueError, match="band_speed"):
        AcousticTunables(band_speed=0.5)


def test_rows_that_cannot_be_used_are_passed_over():
    task, rng = _task(), np.random.default_rng(0)
    assert task.example({**_song(9.0), "phones": None}, rng) is None  # longer than a crop and not timed
    assert task.example({**_song(), "phones": None, "pron": []}, rng) is None


def test_energy_tells_pauses():
    vocals = np.concatenate([np.zeros(4800), 0.3 * np.sin(np.arange(9600) * 0.1), np.zeros(4800)])
    labels = energy_labels(vocals, 40)
    assert (labels[1:8] == SILENCE).all() and (labels[11:29] == SOUNDING).all()


def test_frame_loss_counts_what_is_known():
    log_frames = torch.log(torch.tensor([[[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.2, 0.4, 0.4]]]))
    known = frame_loss(log_frames, torch.tensor([[0, 1, HIDDEN]]), 0.0)
    assert known.item() == pytest.approx(-(np.log(0.9) + np.log(0.8)) / 2, rel=1e-4)
    sounding = frame_loss(log_frames, torch.tensor([[HIDDEN, HIDDEN, SOUNDING]]), 0.0)
    assert sounding.item() == pytest.approx(-np.log(0.8), rel=1e-3)


def test_self_labels_fill_in_the_path():
    log_frames = torch.full((1, 6, 40), -5.0)
    for frame, kind in enumerate([0, 7, 7, 0, 9, 9]):
        log_frames[0, frame, kind] = -0.1
    labels = torch.tensor([[SILENCE, SOUNDING, SOUNDING, HIDDEN, SOUNDING, HIDDEN]])
    found = self_labels(log_frames, labels, torch.tensor([[7, 9, 0]]), torch.tensor([2]))
    assert found.tolist() == [[0, 7, 7, 0, 9, 9]]


def test_it_learns_two_sounds():
    task, rng = _task(crop_seconds=1.0), np.random.default_rng(0)
    torch.manual_seed(0)
    model = task.build_model()
    optimiser = torch.optim.AdamW(model.parameters(), 6e-3)
    examples = [task.example(_song(), rng) for _ in range(2)]
    batch = {key: torch.stack([e[key] for e in examples]) for key in examples[0]}
    losses = [task.losses(model, batch)]
    for _ in range(12):
        losses[-1].total.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(task.losses(model, batch))
    assert losses[-1].total < 0.5 * losses[0].total
    assert losses[-1].metrics["frame_accuracy"] > 0.6
    assert batch["labels"].max() == CLASS_OF["IY"]


def test_unknown_size_names_the_nearest():
    with pytest.raises(ConfigError, match="judge"):
        _task(size="jugde").build_model()


def test_what_starts_from_a_checkpoint_hears_what_it_hears():
    checkpoint = {"config": {"stereo": True}, "meta": {"average": [{"args": {"crops": 1}}]}}  # a mean of several runs has no settings of its own
    assert TASK.args_of(checkpoint) == {"stereo": True}
    assert TASK.args_of({"config": {}, "meta": {"args": {"crops": 2}}}) == {"crops": 2, "stereo": False}
