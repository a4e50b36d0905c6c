"""The whole circle on one song, as a person types it: import, process, construct, train both models, sing. Offline, builtin weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autosing.song import audio
from autosing.song.lyrics import parse_lrc

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, code: int = 0) -> str:
    # one thread: two that share a busy core wait for each other at every small matrix
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=900, check=False
    )
    assert done.returncode == code, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stderr + done.stdout


def circle(songs: Path, work: Path, reference: Path, train_steps: int) -> dict:
    """Everything from a folder of songs to a sung mix; the request.json."""
    dataset, tokens, models, sung = work / "dataset", work / "tokens", work / "models", work / "sung"
    run("-m", "processing", "import", songs, dataset)
    told = run("-m", "processing", "run", dataset).strip().splitlines()[-1]
    assert "accepted" in told and "rejected 0" in told, told
    run("construct_dataset.py", dataset, 1, tokens, "--num-out-partitions", 1)
    made = json.loads((tokens / "dataset.json").read_text())
    assert made["rows"]["train"] >= 1 and made["codec"]["name"] == "builtin"
    for task in ("t2s", "sm2a"):
        run(
            "train.py", "--task_name", task, "--dataset-config", json.dumps({"path": str(tokens)}), "--load-from", "builtin",
            "--steps", train_steps, "--batch-size", 2, "--output-dir", models, "--name", "one", "--workers", 0,
            "--validate-every-n-steps", train_steps, "--validation-rows", 2,
        )  # fmt: skip
        losses = [json.loads(line) for line in (models / task / "one" / "metrics.jsonl").read_text().splitlines()]
        assert any("val_loss" in entry or "loss" in entry for entry in losses)
        assert (models / task / "one" / "loss.png").stat().st_size > 1000
    run(
        "sing.py", "--reference", reference, "--lyrics", "la la la la\nla la la la", "--length", 8, "--batch-size", 1,
        "--t2s-model", models / "t2s" / "one" / "last", "--sm2a-model", models / "sm2a" / "one" / "last", "--output-dir", sung,
    )  # fmt: skip
    return check_sung(sung, 8.0)


def check_sung(sung: Path, seconds: float) -> dict:
    mix = audio.decode((sung / "mix.wav").read_bytes())
    parts = [audio.decode((sung / f"{stem}.wav").read_bytes()).samples for stem in ("vocals", "accompaniment")]
    assert mix.seconds == pytest.approx(seconds, abs=0.2)
    assert 0.02 < float(mix.samples.abs().max()) <= 1.0 and float(parts[0].abs().max()) > 0.005
    torch.testing.assert_close(mix.samples, parts[0] + parts[1], atol=2e-4, rtol=0)
    report = json.loads((sung / "request.json").read_text())
    stamps = parse_lrc((sung / "lyrics.lrc").read_text())
    assert all(0 <= line.start <= seconds for line in stamps.lines)
    assert (sung / "picture.png").read_bytes()[:4] == b"\x89PNG"
    return report


def test_a_real_song_goes_round(shared, tmp_path):
    source = shared / "ultrastar_cc" / "Jonathan Coulton - Monkey Shines"
    songs = tmp_path / "songs"
    songs.mkdir()
    shutil.copy(source / "audio.mp3", songs / "Jonathan Coulton - Monkey Shines.mp3")
    shutil.copy(source / "lines.derived.lrc", songs / "Jonathan Coulton - Monkey Shines.lrc")
    report = circle(songs, tmp_path, songs / "Jonathan Coulton - Monkey Shines.mp3", train_steps=2)
    assert [word[0] for word in report["words"]] in ([], ["la"] * 8)


@pytest.fixture(scope="module")
def demo_song() -> Path:
    return sorted((ROOT / "demo" / "songs").glob("*.ogg"))[0]


def test_the_shipped_weights_sing_and_repeat_themselves(demo_song, tmp_path):
    command = ["sing.py", demo_song, "--lyrics", "we are singing\nin the summer light", "--length", 10, "--batch-size", 2, "--seed", 7]
    run(*command, "--output-dir", tmp_path / "a")
    report = check_sung(tmp_path / "a", 10.0)
    assert len(report["word_scores"]) == 2 and (tmp_path / "a" / "candidates" / "02.wav").exists()
    run(*command, "--output_dir", tmp_path / "b")  # the other spelling; the same bytes
    for name in ("mix.wav", "vocals.wav", "lyrics.lrc"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_tts_sings_without_a_reference(tmp_path):
    run("sing.py", "--tts", "--lyrics", "hello you", "--length", 6, "--batch-size", 1, "--output-dir", tmp_path)
    check_sung(tmp_path, 6.0)
    assert float(audio.decode((tmp_path / "accompaniment.wav").read_bytes()).samples.abs().max()) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--lyrics", "la"], "--reference is missing"),
        (["no.mp3", "--lyrics", "la"], "no file at 'no.mp3'"),
        (["--tts", "--lyrics", ""], "--lyrics holds no word"),
        (["--tts", "--lyrics", "la", "--t2s-model", "nowhere"], "no t2s checkpoint at 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line(arguments, told, tmp_path):
    out = run("sing.py", *arguments, "--output-dir", tmp_path / "out", code=2)
    assert told in out and "Traceback" not in out and len(out.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_damaged_reference_is_one_line(tmp_path):
    (tmp_path / "song.mp3").write_bytes(b"this is not music" * 100)
    out = run("sing.py", tmp_path / "song.mp3", "--lyrics", "la", "--output-dir", tmp_path / "out", code=2)
    assert "cannot be decoded" in out and "Traceback" not in out


@pytest.mark.long
def test_the_demo_runs_twice(tmp_path):
    first = run("-m", "autosing.cli.demo", "--work", tmp_path / "work", "--steps", 4)
    assert "mix.wav" in first and (tmp_path / "work" / "report.html").exists()
    again = run("-m", "autosing.cli.demo", "--work", tmp_path / "work", "--steps", 4)
    assert again.count("done before") == 5
