"""The voice embedder's network and task: features, pooling, the head that is not shipped, and that training tells two buzzes apart."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from autosing.cli.train import main as train
from autosing.models.io import load_model, save_model
from autosing.models.ship import main
from autosing.models.voice import SIZES, VoiceConfig, VoiceNet
from autosing.training.task import DatasetMeta
from tasks.voice import VoiceArgs, VoiceTask, VoiceTunables, singer_class

RATE = 24_000


def row(singer: str, pitch: float, seconds: float = 3.0) -> dict[str, object]:
    time = np.arange(int(seconds * RATE)) / RATE
    wav = 0.2 * np.sign(np.sin(6.28 * pitch * time)) + 0.01 * np.random.default_rng(0).standard_normal(len(time))
    out = io.BytesIO()
    soundfile.write(out, wav, RATE, format="WAV", subtype="PCM_16")
    return {"id": singer, "artist": singer, "vocals": out.getvalue(), "accompaniment": None}


def task() -> VoiceTask:
    args = VoiceArgs(size="tiny", shortest_seconds=0.8, longest_seconds=1.2, shortest_row_seconds=1.0, crops=2, classes=64)
    return VoiceTask(args, VoiceTunables(), DatasetMeta())


def test_a_start_from_a_checkpoint_needs_its_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--task-name", "voice", "--output-dir", str(tmp_path), "--dataset-config", '{"path": "unread"}', "--load-from", "builtin"]
    assert train(flags) == 2
    assert "a shipped voice embedder has no head to train" in capsys.readouterr().err
    own = {"config": {"classes": 64}, "meta": task().checkpoint_meta()}
    assert VoiceTask.args_of(own) == {"size": "tiny", "speeds": [1.0, 1.0, 0.9, 1.11], "classes": 64}


def test_mel_bands_cover_the_band_without_holes() -> None:
    bank = VoiceNet(VoiceConfig()).mels
    bins_hz = torch.arange(bank.shape[1]) * RATE / 1024
    inside = (bins_hz > 150) & (bins_hz < 9500)
    assert bank.shape == (64, 513) and float(bank.sum(0)[inside].min()) > 0.3 and bool((bank.sum(1) > 0).all())


def test_shipped_size_is_within_its_budget() -> None:
    count = sum(p.numel() for p in VoiceNet(VoiceConfig()).parameters())
    assert 0.5e6 <= count <= 0.8e6


def test_the_head_is_dropped_and_the_embedding_stays() -> None:
    torch.manual_seed(0)
    with_head = task().build_model().eval()
    shipped = with_head.shipped()
    wav = torch.randn(2, RATE)
    assert shipped.config.classes == 0 and "head" not in shipped.state_dict()
    assert torch.allclose(shipped(wav), with_head(wav), atol=1e-5)


def test_shipping_halves_the_checkpoint_and_drops_the_head(tmp_path: Path, capsys) -> None:
    save_model(task().build_model(), tmp_path / "run", {"task": "voice", "paths": ["/a/b/music", "b/c"]})
    assert main(["voice", str(tmp_path / "run"), str(tmp_path / "out"), "--note", "A toy."]) == 0
    assert "MB" in capsys.readouterr().out and "A toy." in (tmp_path / "out" / "README.md").read_text()
    model, meta = load_model(tmp_path / "out", "voice")
    assert model.config.classes == 0 and meta == {"task": "voice", "paths": ["music", "b/c"]}
    assert main(["voice", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2


def test_examples_carry_the_singers_class_and_rows_without_artist_are_unfit() -> None:
    example = task().example(row("ann", 200), np.random.default_rng(0))
    assert example is not None and example["voice"].shape == (2, task().samples) and example["singer"].shape == (2,)
    expected = {singer_class(f"ann x {speed}", 64) for speed in VoiceArgs().speeds}
    assert set(example["singer"].tolist()) <= expected
    assert task().example({**row("ann", 200), "artist": ""}, np.random.default_rng(0)) is None
    assert task().example(row("ann", 200, seconds=0.9), np.random.default_rng(0)) is None


def test_what_is_heard_is_one_length_a_batch() -> None:
    torch.manual_seed(0)
    heard = task().heard(torch.randn(4, task().samples), torch.randn(2, task().samples))
    assert heard.shape[0] == 4 and 0.8 * RATE <= heard.shape[1] <= 1.2 * RATE


def test_training_tells_two_singers_apart() -> None:
    torch.manual_seed(0)
    training = task()
    model = training.build_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    examples = [training.example(row(*singer), np.random.default_rng(0)) for singer in (("ann", 150), ("bob", 410))]
    batch = {key: torch.stack([example[key] for example in examples if example]) for key in examples[0] or {}}
    values = []
    for _ in range(10):
        torch.manual_seed(0)
        losses = training.losses(model, batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        values.append(float(losses.total.detach()))
    assert values[-1] < 0.7 * values[0]


def test_sizes_have_their_names() -> None:
    assert set(SIZES) == {"tiny", "base"}
