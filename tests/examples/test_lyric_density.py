"""The README's own task: trained by its file's name, it learns; it is resumed, refused and kept like any other."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from autosing.cli.train import find_task, main
from autosing.models.io import load_model, save_model
from autosing.rendering.tokens import MAIN
from autosing.song.alignment import Alignment, Word
from autosing.training.batches import Plan, TrainBatches
from autosing.training.data import DatasetConfig, open_dataset, read_meta
from tests.sequence_rows import toy_meta, toy_row

FILE = Path(__file__).resolve().parents[2] / "examples" / "lyric_density.py"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Windows with 2 to 40 words; busy ones have a high code of accompaniment, calm ones a low one."""
    rows = []
    for number in range(48):
        words = 2 + 38 * (number % 8) // 7
        row = toy_row(number)
        grid = np.full((4, len(row["mtoks"]) // 4), -1)
        grid[0, ::8] = words
        times = np.linspace(0, 29, words)
        alignment = Alignment(tuple(Word("la", float(t), float(t) + 0.1, 1.0, 0) for t in times), (), 1.0)
        rows.append({**row, "artist": "a", "mtoks": grid.reshape(-1).tolist(), "alignment": alignment.to_struct()})
    folder = tmp_path / "tokens"
    (folder / "0").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=MAIN), folder / "0" / "main.parquet")
    meta = {**toy_meta().to_json(), "format": "autosing-dataset/1", "parts": ["main"], "kind": "tokens", "partitions": {"train": [0], "validation": []}, "rows": {"train": 48, "validation": 0}}
    (folder / "dataset.json").write_text(json.dumps(meta))
    return folder


def train(dataset: Path, *flags: str) -> int:
    return main([
        "--task-name", str(FILE), "--dataset-config", json.dumps({"path": str(dataset)}), "--output-dir", str(dataset.parent / "runs"),
        "--name", "a", "--batch-size", "8", "--workers", "0", "--device", "cpu", "--tunables", '{"lr0": 0.01}', *flags,
    ])  # fmt: skip


def test_it_learns_and_goes_on_where_it_was(dataset: Path) -> None:
    assert train(dataset, "--steps", "5", "--validate-every-n-steps", "5") == 0
    run = dataset.parent / "runs" / "lyric_density" / "a"
    early = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert train(dataset, "--resume-from", "auto", "--allow-changed", "--steps", "150", "--validate-every-n-steps", "150") == 0
    late = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert late["step"] == 150 and late["off_by_words_a_second"] < 0.4 * early["off_by_words_a_second"]
    assert json.loads((run / "last" / "config.json").read_text())["kind"] == "lyric_density"


def test_it_is_a_start_like_any_checkpoint_and_can_be_adapted(dataset: Path) -> None:
    assert train(dataset, "--steps", "2") == 0
    runs = dataset.parent / "runs" / "lyric_density"
    assert train(dataset, "--steps", "1", "--name", "b", "--load-from", str(runs / "a" / "last")) == 0
    assert not (runs / "b" / "last" / "adapter.safetensors").exists()
    pytest.importorskip("peft", reason="training adapters needs peft (pip install 'autosing[lora]')")
    assert train(dataset, "--steps", "1", "--name", "c", "--load-from", str(runs / "a" / "last"), "--lora", '{"r": 2}') == 0
    assert (runs / "c" / "last" / "adapter.safetensors").is_file()


def test_a_song_without_lyrics_is_unfit() -> None:
    task = find_task(str(FILE))
    own = task(task.Args(), task.Tunables(), toy_meta())
    rng = np.random.default_rng(0)
    assert own.example(toy_row(1), rng) is not None
    assert own.example({**toy_row(1), "alignment": None}, rng) is None


def test_a_file_that_was_changed_is_the_task_as_it_stands_now(tmp_path: Path) -> None:
    """As in a notebook that trains, and trains again after an edit."""
    file = tmp_path / "edited.py"
    file.write_text(FILE.read_text())
    before = find_task(str(file))
    assert find_task(str(file)) is before and before.Args().width == 64
    file.write_text(FILE.read_text().replace("width: int = 64", "width: int = 32"))
    assert find_task(str(file)).Args().width == 32


def test_its_model_is_loaded_by_its_class_and_merge_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = find_task(str(FILE))
    model = task(task.Args(width=8), task.Tunables(), toy_meta()).build_model().eval()
    save_model(model, tmp_path / "run", {"task": "lyric_density"})
    loaded, meta = load_model(tmp_path / "run", type(model))
    codes = torch.arange(20)[None]
    assert loaded.config == model.config and torch.equal(loaded(codes), model(codes)) and meta == {"task": "lyric_density"}
    for command in (["merge"], ["blend", "--share", "0.5"]):
        assert main([*command, str(tmp_path / "run"), str(tmp_path / "out")]) == 2
        assert "holds a model of your own task (lyric_density)" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["token.py", "tasks.py", "my.task.py"])
def test_a_file_of_any_name_is_a_task_in_every_process(tmp_path: Path, dataset: Path, name: str) -> None:
    """Also in one that was not forked from this one, as loader workers are on other systems."""
    (tmp_path / "beside_it.py").write_text("WORDS = 3\n")
    (tmp_path / name).write_text(FILE.read_text() + "\nfrom beside_it import WORDS\n")
    task = find_task(str(tmp_path / name))
    config = DatasetConfig(path=str(dataset))
    own = task(task.Args(), task.Tunables(), read_meta(config))
    rows = open_dataset(own, config, own.meta).train
    batches = TrainBatches(own, rows, Plan(len(rows), 2, 0))
    assert type(pickle.loads(pickle.dumps(own))) is task
    read = "import pickle, sys; print(pickle.load(sys.stdin.buffer)[0].ids)"
    done = subprocess.run([sys.executable, "-c", read], input=pickle.dumps(batches), capture_output=True, check=False)
    assert done.stdout.decode().strip() == str(batches[0].ids), done.stderr.decode()


def test_what_is_no_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--task-name", str(tmp_path / "nowhere.py")]) == 2
    (tmp_path / "without_a_task.py").write_text("x = 1\n")
    assert main(["--task-name", str(tmp_path / "without_a_task.py")]) == 2
    told = capsys.readouterr().err
    assert "there is no file" in told and "has no TASK" in told
