"""`make demo`: the whole circle on the demo songs of this checkout, offline, on two CPU cores.

import -> process (every step) -> construct_dataset -> train t2s and sm2a for a short while from the shipped weights -> sing. Each stage
is the command a person would type, run as its own process and printed before it runs. A stage that is done is not done again, so a
demo that was interrupted goes on where it was.
"""

import argparse
import html
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from autosing.cli.arguments import run_command
from autosing.errors import AutoSingError, ConfigError
from autosing.store import atomic_path

ROOT = Path(__file__).resolve().parents[2]
LYRICS = "we are singing in the summer light\\nthe river carries every song tonight"


class StageFailed(AutoSingError):
    """A stage of the demo ended with an exit code other than 0; its own message stands above."""


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m autosing.cli.demo", description="The whole circle on the demo songs.")
    parser.add_argument("--songs", type=Path, default=ROOT / "demo" / "songs", help="folder of songs with .lrc or .txt beside them")
    parser.add_argument("--work", type=Path, default=ROOT / "demo" / "work", help="where everything is written")
    parser.add_argument("--steps", type=int, default=30, help="training steps of each model")
    parser.add_argument("--lyrics", default=LYRICS)
    options = parser.parse_args(list(argv))
    if not options.songs.is_dir():
        raise ConfigError(f"no demo songs at '{options.songs}'; run this from a checkout of the project")
    begin = time.perf_counter()
    stages = _stages(options.songs, options.work, options.steps, options.lyrics)
    seconds: dict[str, float] = {}
    for number, (name, command, done) in enumerate(stages, start=1):
        if done is not None and done.exists() and _command_of(done) == command:
            print(f"\n[{number}/{len(stages)}] {name}: done before", flush=True)
            continue
        print(f"\n[{number}/{len(stages)}] {name}\n$ {' '.join(_shown(command))}", flush=True)
        start = time.perf_counter()
        code = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, check=False
        ).returncode
        seconds[name] = time.perf_counter() - start
        if code != 0:
            raise StageFailed(
                f"the stage '{name}' ended with exit code {code}; its message stands above; run the demo again to go on"
            )
        if done is not None:
            with atomic_path(_note(done)) as path:
                path.write_text(json.dumps(command), encoding="utf-8")
    report = _report(options.work)
    print(
        "\nfinished in {:.0f} s{}".format(time.perf_counter() - begin, "".join(f"\n  {n}: {s:.0f} s" for n, s in seconds.items()))
    )
    sung = options.work / "sung"
    print("\nlisten and look:")
    for what, path in {
        "mix": sung / "mix.wav", "stems": sung / "vocals.wav", "": sung / "accompaniment.wav", "timed lyrics": sung / "lyrics.lrc",
        "report": report, "pictures": sung / "picture.png",
        " ": options.work / "models/t2s/demo/loss.png", "  ": options.work / "models/sm2a/demo/loss.png",
    }.items():  # fmt: skip
        if not path.exists():
            raise StageFailed(f"'{path}' was not written although every stage ended well; this is a defect, please report it")
        print(f"  {what:13s}{path}")
    return 0


def _stages(songs: Path, work: Path, steps: int, lyrics: str) -> list[tuple[str, list[str], Path | None]]:
    """(name, command after `python`, file that exists when it is done; None = the command itself knows what is left)."""
    dataset, tokens, models = work / "dataset", work / "tokens", work / "models"
    reference = sorted(p for p in songs.iterdir() if p.suffix in (".ogg", ".flac", ".wav", ".mp3", ".opus"))[0]

    def train(task: str, batch: int) -> list[str]:
        return [
            "train.py", "--task_name", task, "--dataset-config", json.dumps({"path": str(tokens)}),
            "--load-from", "builtin", "--resume-from", "auto", "--steps", str(steps),
            "--batch-size", str(batch), "--validate-every-n-steps", str(max(1, steps // 3)), "--output-dir", str(models),
            "--name", "demo", "--tunables", json.dumps({"lr0": 3e-4, "warmup_steps": 5}),
        ]  # fmt: skip

    return [
        ("import", ["-m", "processing", "import", str(songs), str(dataset), "--partition-size", "3"], dataset / "0" / "index.parquet"),
        ("process", ["-m", "processing", "run", str(dataset)], None),
        ("construct dataset", ["construct_dataset.py", str(dataset), "2", str(tokens), "--num-out-partitions", "2"], tokens / "dataset.json"),
        ("train t2s", train("t2s", 4), models / "t2s" / "demo" / "last" / "model.safetensors"),
        ("train sm2a", train("sm2a", 4), models / "sm2a" / "demo" / "last" / "model.safetensors"),
        (
            "sing",
            [
                "sing.py", "--reference", str(reference), "--lyrics", lyrics, "--output-dir", str(work / "sung"),
                "--t2s-model", str(models / "t2s/demo/last"), "--sm2a-model", str(models / "sm2a/demo/last"),
            ],
            work / "sung" / "request.json",
        ),
    ]  # fmt: skip


def _note(done: Path) -> Path:
    return done.with_name(f".{done.name}.demo.json")


def _command_of(done: Path) -> list[str] | None:
    note = _note(done)
    return json.loads(note.read_text(encoding="utf-8")) if note.exists() else None


def _shown(command: list[str]) -> list[str]:
    return ["python", *(f"'{w}'" if any(c in w for c in ' {"\\') else w for w in command)]


def _report(work: Path) -> Path:
    """Write report.html: what went in, what was trained, what was sung; players and pictures link to the files beside it."""
    dataset = json.loads((work / "tokens" / "dataset.json").read_text(encoding="utf-8"))
    sung = json.loads((work / "sung" / "request.json").read_text(encoding="utf-8"))
    rows = []
    for task in ("t2s", "sm2a"):
        lines = (work / "models" / task / "demo" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [entry["val_loss"] for entry in map(json.loads, lines) if "val_loss" in entry]
        rows.append(
            f"<tr><td>{task}</td><td>{losses[0]:.3f}</td><td>{losses[-1]:.3f}</td></tr>" if losses else f"<tr><td>{task}</td></tr>"
        )
    words = "".join(
        f"<tr><td>{html.escape(w[0])}</td><td>{w[1]:.2f}</td><td>{w[2]:.2f}</td><td>{w[3]:.2f}</td></tr>" for w in sung["words"]
    )
    page = f"""<!doctype html><meta charset="utf-8"><title>AutoSing demo</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
td,th{{padding:.1rem .8rem .1rem 0;text-align:left}}img{{max-width:100%}}audio{{width:100%}}</style>
<h1>AutoSing demo</h1>
<p>Training set: {dataset["rows"]["train"]} rows, validation: {dataset["rows"]["validation"]} rows of {dataset["window_seconds"]:g} s.</p>
<h2>Sung</h2>
<p>Mix<br><audio controls src="sung/mix.wav"></audio>Vocals<br><audio controls src="sung/vocals.wav"></audio>
Accompaniment<br><audio controls src="sung/accompaniment.wav"></audio></p>
<p><img src="sung/picture.png" alt="words over the vocals' spectrogram"></p>
<table><tr><th>word</th><th>start s</th><th>end s</th><th>score</th></tr>{words}</table>
<h2>Training</h2>
<table><tr><th>task</th><th>first validation loss</th><th>last</th></tr>{"".join(rows)}</table>
<p><img src="models/t2s/demo/loss.png" alt="t2s loss"><img src="models/sm2a/demo/loss.png" alt="sm2a loss"></p>
<p>Seconds a stage of singing: {html.escape(json.dumps(sung["stage_seconds"]))}; voice from: {html.escape(sung["voice_from"])}.</p>
"""
    with atomic_path(work / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return work / "report.html"


if __name__ == "__main__":
    sys.exit(main())
