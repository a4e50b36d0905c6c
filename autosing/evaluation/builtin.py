"""Every figure of the embedded default, beside its bar: `python -m autosing.evaluation builtin`.

    python -m autosing.evaluation builtin --songs <rendered test songs> --shared ../shared/data

Sections: codec, alignment, semantic, separation, voice, chain, sing. `--songs` are unseen rendered songs (unseen words, singers and
bands); without it they are rendered first (needs the extra `render`). `--shared` is the folder of real songs; what needs it is left out,
and said so, where it is absent. The last line printed is one JSON object: versions, machine, protocol, figures, bars.
"""

import argparse
import hashlib
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import autosing
from autosing.errors import AutoSingError, ConfigError

Figures = dict[str, Any]
REAL_FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Material:
    """What is judged on: `songs` rendered test songs, `tokens` their token set, `real` the folder of real songs or None."""

    songs: Path
    tokens: Path
    real: Path | None
    work: Path
    limit: int
    windows: int


def bar(value: float | None, sign: str, wanted: float) -> Figures:
    """A figure beside its bar; a figure that could not be measured is not ok."""
    held = value is not None and (value >= wanted if sign == ">=" else value <= wanted)
    return {"value": None if value is None else round(float(value), 4), "bar": f"{sign} {wanted:g}", "ok": bool(held)}


def alignment(m: Material) -> Figures:
    from autosing.evaluation.alignment import measure, real_songs, rendered_songs, summary, with_separated
    from autosing.perception import load_aligner, load_separator

    aligner = load_aligner("builtin")
    songs = with_separated(rendered_songs(m.songs, limit=m.limit), load_separator("builtin"))
    rendered = summary(measure(aligner, songs, ("none", "starts")))
    figures: Figures = {"rendered": rendered}
    bars = {
        "onset_rendered_vocals_s": bar(rendered["vocals/none"]["onset_mean"], "<=", 0.025),
        "onset_rendered_mixture_s": bar(rendered["mixture/none"]["onset_mean"], "<=", 0.040),
        "onset_rendered_mixture_separated_first_s": bar(rendered["separated/none"]["onset_mean"], "<=", 0.040),
    }
    if m.real:
        rows = measure(aligner, real_songs(m.real), ("none", "starts"))
        real = summary(rows)
        figures["real"] = real
        figures["real_songs"] = [
            {k: row[k] for k in ("song", "input", "stamps", "aae", "mae", "pco", "trust")} | {"even": row.get("even")} for row in rows
        ]
        stamped = real["mixture/starts"]
        bars |= {
            "real_songs_worse_than_even_spread": bar(len(stamped["worse_than_even"]), "<=", 0),
            "real_mean_pco_over_even_spread": bar(stamped["pco"] - stamped["even"]["pco"], ">=", 0.0),
            "trust_auc_real_lines": bar(stamped["line_auc"], ">=", 0.8),
        }
    return {**figures, "bars": bars}


def semantic(m: Material) -> Figures:
    from autosing.evaluation.semantic import evaluate_folder
    from autosing.perception import load_semantic

    return evaluate_folder(load_semantic("builtin"), m.songs, limit=m.limit)


def separation(m: Material) -> Figures:
    from autosing.evaluation.separation import cc0_pairs, rendered_pairs, separation_figures
    from autosing.perception import load_separator

    separator = load_separator("builtin")
    figures: Figures = {"rendered": separation_figures(separator, rendered_pairs(m.songs, m.limit))}
    bars = {"separation_rendered_improvement_db": bar(figures["rendered"]["mean"]["vocals_improvement_db"], ">=", 6.0)}
    if m.real:
        figures["real"] = separation_figures(separator, cc0_pairs(m.real))
        bars["separation_real_worst_improvement_db"] = bar(figures["real"]["worst_improvement_db"], ">=", 0.0)
    return {**figures, "bars": bars}


def voice(m: Material) -> Figures:
    from autosing.evaluation.voice import rendered_recordings, voice_figures
    from autosing.perception import load_voice

    figures = voice_figures(load_voice("builtin"), rendered_recordings(m.songs, m.limit))
    return {**figures, "bars": {"voice_auc_rendered": bar(figures["auc_windows_across_songs"], ">=", 0.95)}}


def codec(m: Material) -> Figures:
    from autosing.evaluation.codec import evaluate_codec
    from autosing.evaluation.judge import Judge

    figures = evaluate_codec(m.songs, m.real, Judge(), limit=m.limit)
    bars = {
        "codec_kbps": bar(figures["kbps"], "<=", 2.0),
        "codec_encode_real_time_factor": bar(figures["rendered"]["encode_rtf"], "<=", 0.1),
        "codec_decode_real_time_factor": bar(figures["rendered"]["decode_rtf"], "<=", 0.1),
    }
    return {**figures, "bars": bars}


def chain(m: Material) -> Figures:
    from autosing.evaluation.chain import chain_figures

    figures = chain_figures(m.tokens, m.windows, keep=m.work / "chain")
    rates = figures["phone_error"]
    bars = {
        "chain_phone_error": bar(rates["chain"]["value"], "<=", 0.45),
        "chain_phone_error_mismatched": bar(rates["mismatched"]["value"], ">=", 0.95),
    }
    return {**figures, "bars": bars}


def sing(m: Material) -> Figures:
    """`sing.py` as a person starts it: whole process, model loading and separation included."""
    import subprocess

    import pyarrow.parquet as pq

    from autosing.song import audio

    reference = m.work / "reference.wav"
    real = m.real and next(iter(sorted((m.real / "ultrastar_cc").glob("*/audio.*"))), None)
    if not real:
        row = pq.ParquetFile(next(m.songs.glob("*/songs.parquet"))).read_row_group(0).to_pylist()[0]
        vocals, band = audio.decode(row["vocals"]), audio.decode(row["accompaniment"])
        reference.write_bytes(audio.encode(band.samples + vocals.samples, band.sample_rate, "wav"))
    command = [sys.executable, "-m", "autosing.cli.sing", "--reference", str(real or reference), "--start-time", "0" if not real else "20"]
    command += ["--lyrics", "we are singing in the morning light\nand the river carries every song", "--output-dir", str(m.work / "sung")]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise ConfigError(f"sing.py ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    report = json.loads((m.work / "sung" / "request.json").read_text(encoding="utf-8"))
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    factor = seconds / report["seconds"]
    return {
        "seconds": round(seconds, 2), "song_seconds": report["seconds"], "stage_seconds": report["stage_seconds"],
        "bars": {"sing_real_time_factor": bar(factor, "<=", 3.0), "sing_peak_memory_gb": bar(peak_gb, "<=", 3.0)},
    }  # fmt: skip


SECTIONS: dict[str, Callable[[Material], Figures]] = {
    "codec": codec, "alignment": alignment, "semantic": semantic, "separation": separation, "voice": voice, "chain": chain, "sing": sing,
}  # fmt: skip


def prepare(songs: Path | None, tokens: Path | None, real: Path | None, work: Path, limit: int, windows: int) -> Material:
    """Render test songs and their tokens where they are not given."""
    work.mkdir(parents=True, exist_ok=True)
    if songs is None:
        from autosing.rendering.__main__ import main as render

        songs = work / "songs"
        if render(["songs", "--out", str(songs), "--hours", "0.5", "--seed", "1", "--split", "test", "--long", "1"]):
            raise ConfigError("the test songs could not be rendered; give some with --songs, or install the extra 'render'")
    if tokens is None:
        from autosing.rendering.tokens import write_tokens

        tokens = work / "tokens"
        for line in write_tokens(work / "no-training-songs", tokens, songs):
            print(line, file=sys.stderr, flush=True)
    return Material(songs, tokens, real if real and real.is_dir() else None, work, limit, windows)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m autosing.evaluation builtin", description="Judge the embedded default.")
    p.add_argument("--songs", type=Path, help="unseen rendered songs; rendered into --work when left out")
    p.add_argument("--tokens", type=Path, help="their token set; made when left out")
    p.add_argument("--shared", type=Path, default=REAL_FOLDER, help="folder of real songs")
    p.add_argument("--work", type=Path, default=Path("out/evaluation"))
    p.add_argument("--only", default=",".join(SECTIONS), help=f"sections, of: {','.join(SECTIONS)}")
    p.add_argument("--limit", type=int, default=24, help="rendered songs a section at most")
    p.add_argument("--windows", type=int, default=40, help="windows the chain sings")
    options = p.parse_args(argv)
    wanted = options.only.split(",")
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown:
        print(f"error: no section is called '{unknown[0]}'; choose of: {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(2)
    try:
        material = prepare(options.songs, options.tokens, options.shared, options.work, options.limit, options.windows)
        figures: Figures = {}
        for name in wanted:
            begin = time.perf_counter()
            figures[name] = SECTIONS[name](material)
            figures[name]["evaluation_seconds"] = round(time.perf_counter() - begin, 1)
            print(f"{name}: {json.dumps(figures[name]['bars'])}", file=sys.stderr, flush=True)
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bars = {key: value for section in figures.values() for key, value in section.pop("bars").items()}
    result = {
        "evaluation": "builtin",
        "versions": {"autosing": autosing.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"cpus": torch.get_num_threads(), "processor": platform.machine()},
        "protocol": {
            "songs": material.songs.name, "real_songs": material.real is not None, "limit": material.limit,
            "windows": material.windows, "songs_hash": _hash(material.songs),
        },
        "figures": figures,
        "bars": bars,
    }  # fmt: skip
    print(json.dumps(result))
    return 0


def _hash(songs: Path) -> str:
    """Of the ids of the songs, in order."""
    import pyarrow.parquet as pq

    tables = sorted(songs.glob("*/songs.parquet"), key=lambda p: int(p.parent.name))
    ids = [i for t in tables for i in pq.read_table(t, columns=["id"]).column("id").to_pylist()]
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
