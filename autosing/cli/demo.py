"""`make demo`: the whole circle on the demo songs of this checkout, offline, on two CPU cores.

import -> process (every step) -> construct_dataset -> train t2s and sm2a for a short while from the shipped weights -> sing. Each stage
is the command a person would type, run as its own process and printed before it runs. A stage that is done is not done again, so a
demo that was interrupted goes on where it was; one whose command, songs, weights or version changed, or that comes after such a one, is
begun anew. `<work>/.demo.json` holds what each stage was made from.
"""

import argparse
import hashlib
import html
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import autosing
from autosing.cli.arguments import run_command
from autosing.errors import AutoSingError, ConfigError
from autosing.store import Dataset, atomic_path, sha256_of
from processing.importing import AUDIO_SUFFIXES

ROOT = Path(__file__).resolve().parents[2]
LYRICS = "we are singing in the summer light\\nthe river carries every song tonight"


class StageFailed(AutoSingError):
    """A stage of the demo ended with an exit code other than 0; its own message stands above."""


@dataclass(frozen=True)
class Stage:
    """One command of the demo.

    Attributes:
        command: the words after `python`, asked for when the stages before are done.
        inputs: what else it depends on, as JSON values; what the stages before depend on need not be said again.
        output: the folder that it alone writes; None = the command itself knows what is left.
        done: the file in `output` that exists when it is done.
    """

    name: str
    command: Callable[[], list[str]]
    inputs: object = None
    output: Path | None = None
    done: Path | None = None


class Record:
    """`.demo.json` in the work folder: for each stage the key of what it was begun from, and whether it was finished."""

    def __init__(self, work: Path):
        self._path = work / ".demo.json"
        try:
            self._stages = dict(json.loads(self._path.read_text(encoding="utf-8"))) if self._path.exists() else {}
        except (ValueError, TypeError):  # edited by hand: every output is taken for foreign, and said to be
            self._stages = {}

    def begun(self, stage: Stage, key: str) -> bool:
        return self._stages.get(stage.name, {}).get("key") == key

    def finished(self, stage: Stage, key: str) -> bool:
        done = stage.done is not None and stage.done.exists()
        return done and self.begun(stage, key) and self._stages[stage.name]["finished"]

    def begin(self, stage: Stage, key: str) -> None:
        """Note that `stage` is begun; what it wrote from other inputs is removed first.

        Raises:
            ConfigError: its output is there and no demo in this work folder wrote it, or the folder cannot be written.
        """
        stale = stage.output is not None and stage.output.exists() and not self.begun(stage, key)
        if stale and stage.name not in self._stages:
            raise ConfigError(f"'{stage.output}' was not made by this demo; remove it (make clean), or name another --work")
        try:
            if stale and stage.output is not None:
                self._write(stage, "", False)  # killed while removing, it is not taken for whole
                shutil.rmtree(stage.output)
            self._write(stage, key, False)
        except OSError as error:
            raise ConfigError(f"--work: '{error.filename}' cannot be written ({error.strerror}); name another folder") from error

    def finish(self, stage: Stage, key: str) -> None:
        self._write(stage, key, True)

    def _write(self, stage: Stage, key: str, finished: bool) -> None:
        self._stages[stage.name] = {"key": key, "finished": finished}
        with atomic_path(self._path) as path:
            path.write_text(json.dumps(self._stages, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(_main, argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m autosing.cli.demo", description="The whole circle on the demo songs.")
    parser.add_argument("--songs", type=Path, default=ROOT / "demo" / "songs", help="folder of songs with .lrc or .txt beside them")
    parser.add_argument("--work", type=Path, default=ROOT / "demo" / "work", help="where everything is written")
    parser.add_argument("--steps", type=int, default=30, help="training steps of each model")
    parser.add_argument("--lyrics", default=LYRICS)
    options = parser.parse_args(list(argv))
    songs, work = options.songs.resolve(), options.work.resolve()  # the stages run in ROOT, wherever this command was typed
    if not songs.is_dir():
        raise ConfigError(f"no demo songs at '{songs}'; run this from a checkout of the project")
    if songs == work or songs in work.parents:
        raise ConfigError(f"--work '{work}' lies in the folder of songs and would be imported too; name one outside of it")
    begin = time.perf_counter()
    stages = _stages(songs, work, options.steps, options.lyrics)
    record, key = Record(work), ""
    seconds: dict[str, float] = {}
    for number, stage in enumerate(stages, start=1):
        command = stage.command()
        key = hashlib.sha256(json.dumps([key, command, stage.inputs], sort_keys=True).encode()).hexdigest()
        if record.finished(stage, key):
            print(f"\n[{number}/{len(stages)}] {stage.name}: done before", flush=True)
            continue
        print(f"\n[{number}/{len(stages)}] {stage.name}\n$ {' '.join(_shown(command))}", flush=True)
        record.begin(stage, key)
        start = time.perf_counter()
        code = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, check=False
        ).returncode
        seconds[stage.name] = time.perf_counter() - start
        if code != 0:
            raise StageFailed(
                f"the stage '{stage.name}' ended with exit code {code}; its message stands above; run the demo again to go on"
            )
        record.finish(stage, key)
    report = _report(work)
    print(
        "\nfinished in {:.0f} s{}".format(time.perf_counter() - begin, "".join(f"\n  {n}: {s:.0f} s" for n, s in seconds.items()))
    )
    sung = work / "sung"
    print("\nlisten and look:")
    for what, path in {
        "mix": sung / "mix.wav", "stems": sung / "vocals.wav", "": sung / "accompaniment.wav", "timed lyrics": sung / "lyrics.lrc",
        "report": report, "pictures": sung / "picture.png",
        " ": work / "models/t2s/demo/loss.png", "  ": work / "models/sm2a/demo/loss.png",
    }.items():  # fmt: skip
        if not path.exists():
            raise StageFailed(f"'{path}' was not written although every stage ended well; this is a defect, please report it")
        print(f"  {what:13s}{path}")
    return 0


def _stages(songs: Path, work: Path, steps: int, lyrics: str) -> list[Stage]:
    """
    Raises:
        ConfigError: no audio file in the folder of songs.
    """
    dataset, tokens, models, sung = work / "dataset", work / "tokens", work / "models", work / "sung"
    shown = [p for p in sorted(songs.rglob("*")) if not any(part.startswith(".") for part in p.relative_to(songs).parts)]
    visible = [p for p in shown if p.is_file()]
    audio = [p for p in visible if p.suffix.lower() in AUDIO_SUFFIXES]
    if not audio:
        raise ConfigError(f"no audio file under '{songs}'; it must hold {', '.join(s[1:] for s in AUDIO_SUFFIXES)} files")

    def train(task: str, batch: int) -> list[str]:
        return [
            "train.py", "--task_name", task, "--dataset-config", json.dumps({"path": str(tokens)}),
            "--load-from", "builtin", "--resume-from", "auto", "--steps", str(steps),
            "--batch-size", str(batch), "--validate-every-n-steps", str(max(1, steps // 3)), "--output-dir", str(models),
            "--name", "demo", "--tunables", json.dumps({"lr0": 3e-4, "warmup_steps": 5}),
        ]  # fmt: skip

    def construct() -> list[str]:
        partitions = len(Dataset(dataset).partitions())
        return ["construct_dataset.py", str(dataset), str(partitions), str(tokens), "--num-out-partitions", "2"]

    def trained(task: str) -> Stage:
        run = models / task / "demo"
        return Stage(f"train {task}", lambda: train(task, 4), output=run, done=run / "last" / "model.safetensors")

    return [
        Stage(
            "import", lambda: ["-m", "processing", "import", str(songs), str(dataset), "--partition-size", "3"],
            [autosing.__version__, [(p.relative_to(songs).as_posix(), _hash(p)) for p in visible]],
            dataset, dataset / "0" / "index.parquet",
        ),
        Stage("process", lambda: ["-m", "processing", "run", str(dataset)], _weights()),
        Stage("construct dataset", construct, output=tokens, done=tokens / "dataset.json"),
        trained("t2s"),
        trained("sm2a"),
        Stage(
            "sing",
            lambda: [
                "sing.py", "--reference", str(audio[0]), "--lyrics", lyrics, "--output-dir", str(sung), "--no-cache",
                "--t2s-model", str(models / "t2s/demo/last"), "--sm2a-model", str(models / "sm2a/demo/last"),
            ],
            output=sung, done=sung / "request.json",
        ),
    ]  # fmt: skip


def _weights() -> list[tuple[str, str]]:
    """(path, hash) of every shipped file that the stages compute with (the judge is the evaluation's)."""
    folder = ROOT / "autosing" / "weights"
    files = [p for p in sorted(folder.glob("*/*")) if p.suffix in (".safetensors", ".json", ".xz") and p.parent.name != "judge"]
    return [(p.relative_to(folder).as_posix(), _hash(p)) for p in files]


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:  # the import leaves it out and says why
        return "unreadable"


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
        f"<tr><td>{html.escape(w[0])}</td><td>{w[1]:.2f}</td><td>{w[2]:.2f}</td><td>{'' if w[3] is None else format(w[3], '.2f')}</td></tr>"
        for w in sung["words"]
    )
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in sung["stage_seconds"].items())
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
<p>Seconds a stage of singing: {html.escape(stages)}; voice from: {html.escape(sung["voice_from"])}.</p>
"""
    with atomic_path(work / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return work / "report.html"


if __name__ == "__main__":
    sys.exit(main())
