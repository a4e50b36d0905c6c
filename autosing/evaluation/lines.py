"""Songs of many lines as `sing.py` sings them, and how long a person waits for them: `python -m autosing.evaluation lines`.

    python -m autosing.evaluation lines --songs <rendered test songs> --shared ../shared/data
    python -m autosing.evaluation lines --songs <rendered test songs> --only speed

`sung`: each song is the reference for its own stamped lines; a table has one row an output. Lines are found by the embedded aligner,
which is not told their stamps; words and phones are heard by the judge, which chooses nothing. `seams` stand beside the same figures
in the middle of windows. `speed`: whole processes as a person starts them. The last line printed is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from autosing.errors import AutoSingError, ConfigError
from autosing.evaluation.builtin import REAL_FOLDER
from autosing.evaluation.chain import asked_voice_auc
from autosing.evaluation.figures import bar
from autosing.evaluation.judge import Judge
from autosing.evaluation.ranking import auc
from autosing.evaluation.result import hash_of, last_line
from autosing.models.recogniser import Recogniser
from autosing.singing.mix import active_level, sounding
from autosing.singing.pipeline import Singer
from autosing.singing.request import SingRequest, Sung
from autosing.singing.score import IN_TIME, HeardPhone, line_starts, word_edits
from autosing.singing.seams import SeamFigures, seam_figures
from autosing.song import audio
from autosing.song.lyrics import parse_lrc
from autosing.store import song_rows, song_tables
from autosing.tokens.edits import edit_distance
from autosing.tokens.specs import Seconds
from autosing.tokens.text import load_text

Figures = dict[str, Any]
LEAST_LINES = 4  # that begin in the time that is sung
LEAD_SECONDS: Seconds = 2.0  # before the first line of a real song
SILENT_DB = -60.0  # dBFS of a tenth of a second in which nothing is heard
LARGEST_JUMP = 2.0  # at a seam, over the largest around it


class Case(NamedTuple):
    """A song to be sung again over itself: `lyrics` is LRC in the time of the recording."""

    name: str
    singer: str
    reference: Path
    lyrics: str
    start: Seconds


class Output(NamedTuple):
    """What was measured of one output: a `row` of the table, and what only means something over all of them.

    Attributes:
        off: for each line how far from its stamp it begins, in seconds; infinite where none of it is found.
        words: (confidence, whether the judge hears it as written) of each word.
        wrong, written: phones by the judge.
        voice: what was sung and what was asked, (D,) each, and who was asked for.
        seams, inside: figures where windows meet, and in the middle of windows.
    """

    row: Figures
    off: list[float]
    words: list[tuple[float, bool]]
    wrong: int
    written: int
    voice: tuple[Tensor, Tensor, str]
    seams: list[SeamFigures]
    inside: list[SeamFigures]


def rendered_cases(songs: Path, count: int, seconds: Seconds, folder: Path) -> Iterator[Case]:
    """Rendered songs of different singers, as wav files in `folder`."""
    singers: set[str] = set()
    for row in song_rows(songs, ("id", "artist", "vocals", "accompaniment", "lrc_lyrics")):
        if len(singers) >= count:
            return
        enough = _lines_within(row["lrc_lyrics"] or "", 0.0, seconds) >= LEAST_LINES
        if row["accompaniment"] and row["artist"] not in singers and enough:
            singers.add(row["artist"])
            vocals, band = audio.decode(row["vocals"]), audio.decode(row["accompaniment"])
            path = folder / f"{len(singers)}.wav"
            path.write_bytes(audio.encode(vocals.samples + band.samples, vocals.sample_rate, "wav"))
            yield Case(row["id"], row["artist"], path, row["lrc_lyrics"], 0.0)


def real_cases(data: Path, count: int, seconds: Seconds) -> Iterator[Case]:
    """Real songs with stamped lines under `<data>/ultrastar_cc`."""
    for lines in sorted((data / "ultrastar_cc").glob("*/lines.derived.lrc"))[:count]:
        lyrics = lines.read_text(encoding="utf-8")
        start = max(0.0, (parse_lrc(lyrics).lines[0].start or 0.0) - LEAD_SECONDS)
        reference = next(iter(sorted(lines.parent.glob("audio.*"))))
        if _lines_within(lyrics, start, seconds) >= LEAST_LINES:
            yield Case(lines.parent.name, lines.parent.name.split(" - ")[0], reference, lyrics, start)


def _lines_within(lyrics: str, start: Seconds, seconds: Seconds) -> int:
    return sum(start <= (line.start or 0.0) < start + seconds - 1.0 for line in parse_lrc(lyrics).lines)


def measure(singer: Singer, judge: Judge, case: Case, request: SingRequest) -> Output:
    """Sing `request` and measure what comes of it."""
    begin = time.perf_counter()
    sung = singer.sing(request)
    waited = time.perf_counter() - begin
    report, rate = sung.report, sung.sample_rate
    vocals = audio.resample(audio.mono(sung.vocals), rate, Recogniser.sample_rate)
    pronounce = load_text("phones").pronounce
    phones = judge.phones(vocals)
    written = [phone for word in sung.alignment.words for phone in pronounce(word.text)]
    edits = word_edits(sung.alignment.words, [HeardPhone(phone, 0.0) for phone in phones], pronounce)
    words = [(word.score, not wrong) for word, wrong in zip(sung.alignment.words, edits, strict=True) if pronounce(word.text)]
    level = 10 * torch.log10(_blocks(sung.mix, rate) + 1e-12)
    embed = lambda wav: singer.hearing.embed(wav[None], rate).cpu()  # noqa: E731
    track = audio.mono(sung.vocals)
    loud = sounding(track)
    seams = [SeamFigures(**window["seam"]) for window in report["windows"] if "seam" in window]
    inside = [seam_figures(track, rate, (window["start"] + window["end"]) / 2, embed) for window in report["windows"]]
    off = line_distances(sung)
    row = {
        "song": case.name,
        "seconds": round(sung.mix.shape[-1] / rate, 2),
        "peak": round(float(sung.mix.abs().max()), 3),
        "loudness_db": round(20 * float(np.log10(max(1e-9, active_level(sung.mix)))), 1),
        "silence": round(float((level < SILENT_DB).float().mean()), 3),
        "rest": round(1 - float(loud.float().mean()), 3),
        "lines": len(off),
        "in_time": report["timing"]["in_time"],
        "words": len(words),
        "confidence": round(float(np.mean([score for score, _ in words])), 3) if words else None,
        "recognised": round(float(np.mean([right for _, right in words])), 3) if words else None,
        "phone_error": round(edit_distance(written, phones) / max(1, len(written)), 3),
        "similarity": report["voice"]["similarity"],
        "real_time_factor": round(waited / report["seconds"], 2),
    }
    asked = sung.tokens["voice"][0, 0] if "voice" in sung.tokens else torch.zeros(0)
    voice = (embed(track[loud]), asked, case.singer)
    return Output(row, off, words, edit_distance(written, phones), len(written), voice, seams, inside)


def line_distances(sung: Sung) -> list[float]:
    """For each planned line how far from its time it begins, in seconds; infinite where none of it is found."""
    starts = line_starts(sung.alignment)
    return [abs(starts.get(number, float("inf")) - line["start"]) for number, line in enumerate(sung.report["plan"])]


def _blocks(wav: Tensor, rate: int) -> Tensor:
    """(C, n) -> (tenths of a second,) mean power."""
    width = rate // 10
    return wav[:, : wav.shape[1] // width * width].reshape(len(wav), -1, width).square().mean((0, 2))


def sung_figures(outputs: Sequence[Output]) -> Figures:
    """Over all outputs; `bars` among them."""
    off = np.array([distance for output in outputs for distance in output.off])
    words = [word for output in outputs for word in output.words]
    score, right = np.array([score for score, _ in words]), np.array([right for _, right in words])
    seams, inside = ([one for output in outputs for one in getattr(output, name)] for name in ("seams", "inside"))
    in_time = float((off <= IN_TIME).mean())
    jumps = [seam.jump for seam in seams if seam.jump is not None]
    bars = {"lines_in_time": bar(in_time, ">=", 0.9)}
    if jumps:
        bars["largest_jump_at_a_seam"] = bar(max(jumps), "<=", LARGEST_JUMP)
    return {
        "outputs": [output.row for output in outputs],
        "lines": len(off),
        "lines_in_time": round(in_time, 4),
        "median_line_distance_s": round(float(np.median(off)), 3),
        "words": len(words),
        "word_confidence": round(float(score.mean()), 4),
        "words_recognised": round(float(right.mean()), 4),
        "confidence_auc": round(auc(score, right), 4) if 0 < right.sum() < len(right) else None,
        "phone_error": round(sum(o.wrong for o in outputs) / max(1, sum(o.written for o in outputs)), 4),
        "asked_voice_similarity": round(float(np.mean([one for o in outputs if (one := o.row["similarity"]) is not None])), 4),
        **asked_voice_auc([o.voice for o in outputs if len(o.voice[1])]),
        "seams": of_seams(seams),
        "inside_windows": of_seams(inside),
        "bars": bars,
    }


def of_seams(seams: Sequence[SeamFigures]) -> Figures:
    """How many, the largest jump, and means and extremes of the others."""
    jumps, steps, voices = ([value for seam in seams if (value := seam[i]) is not None] for i in range(3))
    sizes = np.abs(steps)
    return {
        "count": len(seams),
        "jump_largest": max(jumps, default=None),
        "loudness_step_db_mean": round(float(sizes.mean()), 2) if steps else None,
        "loudness_step_db_largest": round(float(sizes.max()), 2) if steps else None,
        "voice_cosine_mean": round(float(np.mean(voices)), 4) if voices else None,
        "voice_cosine_least": min(voices, default=None),
    }


def table(rows: Sequence[Figures]) -> str:
    """Rows of one shape as aligned columns."""
    cells = [list(rows[0]), *([str(value if value is not None else "-") for value in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    names = [row[0].ljust(widths[0]) for row in cells]
    numbers = ["  ".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)) for row in cells]
    return "\n".join(f"{name}  {number}" for name, number in zip(names, numbers, strict=True))


def sung(options: argparse.Namespace) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        real = [*real_cases(options.shared, options.outputs // 3, options.length)] if options.shared.is_dir() else []
        cases = [*real, *rendered_cases(options.songs, options.outputs - len(real), options.length, Path(folder))]
        singer, judge, outputs = Singer(sm2a_model=options.sm2a_model), Judge(), []
        for case in cases:
            request = SingRequest(
                case.lyrics, case.reference, start_seconds=case.start, length_seconds=options.length, candidates=options.candidates,
                repair=options.repair, any_voice=True,
            )  # fmt: skip
            outputs.append(measure(singer, judge, case, request))
            print(json.dumps(outputs[-1].row), file=sys.stderr, flush=True)
    if not outputs:
        raise ConfigError(f"no song has {LEAST_LINES} lines in {options.length:g} s; give a longer --length or other --songs")
    print(table([output.row for output in outputs]), flush=True)
    return sung_figures(outputs)


_SING = """
import sys
from autosing.cli.sing import main
code = main(sys.argv[1:])
print("peak", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code)
"""
_LOAD = """
import time
begin = time.perf_counter()
from autosing.singing.pipeline import Singer
imported = time.perf_counter()
Singer()
print(imported - begin, time.perf_counter() - imported)
"""
TWO_LINES = "we are singing in the morning light\nand the river carries every song"


class Run(NamedTuple):
    """A process: seconds to its first sound (without `--stream -` to its end) and to its end, its peak memory, its request.json."""

    first_seconds: float
    seconds: float
    peak_gb: float
    report: Figures


def run_sing(folder: Path, cache: Path, *arguments: str) -> Run:
    """`sing.py` as a person starts it: a whole process, which writes into `folder`.

    Args:
        cache: what is heard in recordings is kept there.

    Raises:
        ConfigError: it failed.
    """
    command = [sys.executable, "-c", _SING, *arguments, "--output-dir", str(folder)]
    with tempfile.TemporaryFile("w+") as told:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, env={**os.environ, "AUTOSING_CACHE": str(cache)})
        assert process.stdout
        process.stdout.read(48)  # the header of a wav, and a sample
        first = time.perf_counter() - begin
        process.stdout.read()
        code, seconds = process.wait(), time.perf_counter() - begin
        told.seek(0)
        said = told.read()
    if code:
        raise ConfigError(f"sing.py ended with exit code {code}: {said.strip()[-300:]}")
    report = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    return Run(first, seconds, int(said.split("peak")[-1]) * 1024 / 1e9, report)


def speed(options: argparse.Namespace) -> Figures:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = next(real_cases(options.shared, 1, 30.0), None) if options.shared.is_dir() else None
        case = real or next(rendered_cases(options.songs, 1, 30.0, folder))
        over = ("--reference", str(case.reference), "--start-time", str(case.start), "--length", "30")
        loading = subprocess.run([sys.executable, "-c", _LOAD], capture_output=True, text=True, check=True)
        imports, load = (float(value) for value in loading.stdout.split())
        first, again = (run_sing(folder / "out", folder / "cache", *over, "--lyrics", TWO_LINES) for _ in range(2))
        (folder / "words.lrc").write_text(case.lyrics, encoding="utf-8")
        words = ("--lyrics", str(folder / "words.lrc"), "--stream", "-", "--no-cache")
        stream = run_sing(folder / "stream", folder / "none", *over, *words)
    factor, kept = first.seconds / first.report["seconds"], again.report["stage_seconds"]["separate"]
    return {
        "import_seconds": round(imports, 2),
        "loading_seconds": round(load, 2),
        "seconds": round(first.seconds, 2),
        "song_seconds": first.report["seconds"],
        "stage_seconds": first.report["stage_seconds"],
        "again_seconds": round(again.seconds, 2),
        "again_stage_seconds": again.report["stage_seconds"],
        "stream_first_audio_seconds": round(stream.first_seconds, 2),
        "stream_first_audio_seconds_once_loaded": stream.report["first_audio_seconds"],
        "stream_seconds": round(stream.seconds, 2),
        "bars": {
            "sing_real_time_factor": bar(factor, "<=", 1.0),
            "sing_again_real_time_factor": bar(again.seconds / again.report["seconds"], "<=", 1.0),
            "sing_peak_memory_gb": bar(max(run.peak_gb for run in (first, again, stream)), "<=", 2.0),
            "model_loading_s": bar(load, "<=", 2.0),
            "separation_again_s": bar(kept, "<=", round(first.report["stage_seconds"]["separate"] / 4, 2)),
        },
    }


SECTIONS: dict[str, Callable[[argparse.Namespace], Figures]] = {"sung": sung, "speed": speed}


def main(argv: Sequence[str] | None = None) -> int:
    """0: measured; 2: a mistake in the request, or a section failed."""
    p = argparse.ArgumentParser(prog="python -m autosing.evaluation lines", description="Songs of many lines, measured.")
    p.add_argument("--songs", type=Path, required=True, help="unseen rendered songs")
    p.add_argument("--shared", type=Path, default=REAL_FOLDER, help="folder of real songs: a third of the outputs")
    p.add_argument("--only", default=",".join(SECTIONS), help=f"of: {','.join(SECTIONS)}")
    p.add_argument("--outputs", type=int, default=12)
    p.add_argument("--length", type=float, default=36.0, metavar="SECONDS", help="of each output; above 30 they have a seam")
    p.add_argument("--candidates", type=int, default=SingRequest.candidates)
    p.add_argument("--sm2a-model", default="builtin", help="as sing.py's")
    p.add_argument("--repair", type=int, metavar="N", help="as sing.py's")
    p.add_argument("--threads", type=int, default=2)
    options = p.parse_args(argv)
    torch.set_num_threads(options.threads)
    figures: Figures = {}
    bars: Figures = {}
    try:
        for name in options.only.split(","):
            if name not in SECTIONS:
                raise ConfigError(f"--only: no section is called '{name}'; choose of: {', '.join(SECTIONS)}")
            figures[name] = SECTIONS[name](options)
            bars |= figures[name].pop("bars")
        songs_hash = hash_of(song_tables(options.songs))
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    protocol = {
        "songs": options.songs.name, "songs_hash": songs_hash, "real_songs": options.shared.is_dir(), "outputs": options.outputs,
        "length": options.length, "candidates": options.candidates, "sm2a_model": options.sm2a_model, "repair": options.repair,
        "seed": 0,
    }  # fmt: skip
    print(last_line("lines", protocol, figures, bars))
    return 0
