"""Every figure of the embedded default, beside its bar: `python -m autosing.evaluation builtin`.

    python -m autosing.evaluation builtin --songs <rendered test songs> --shared ../shared/data

Sections: codec, alignment, semantic, separation, voice, chain, sing. `--songs` are unseen rendered songs (unseen words, singers and
bands); without it they are rendered first (needs the extra `render`). `--shared` is the folder of real songs; what needs it is left out,
and said so, where it is absent. The last line printed is one JSON object: versions, machine, protocol, figures, bars.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import autosing
from autosing import weights
from autosing.errors import AutoSingError, ConfigError
from autosing.store import song_tables

Figures = dict[str, Any]
SEED = 0
REAL_FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Material:
    """What is judged on: `songs` rendered test songs, `real` the folder of real songs or None; `given_tokens` their token set, or None.

    `sm2a_model`: the checkpoint that the chain sings with.
    """

    songs: Path
    songs_hash: str
    given_tokens: Path | None
    real: Path | None
    work: Path
    limit: int
    windows: int
    sm2a_model: str = "builtin"

    def tokens(self) -> Path:
        """The token set of the songs; made by the weights of today where it is not given."""
        if self.given_tokens is not None:
            return self.given_tokens
        from autosing.rendering.tokens import write_tokens

        tokens = self.work / f"tokens-{self.songs_hash}-{weights_hash()}"
        for line in write_tokens(None, tokens, self.songs):
            print(line, file=sys.stderr, flush=True)
        return tokens


def bar(value: float | None, sign: str, wanted: float) -> Figures:
    """A figure beside its bar; a figure that could not be measured is not ok."""
    if value is None or not math.isfinite(value):
        return {"value": None, "bar": f"{sign} {wanted:g}", "ok": False}
    held = value >= wanted if sign == ">=" else value <= wanted
    return {"value": round(float(value), 4), "bar": f"{sign} {wanted:g}", "ok": bool(held)}


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
        rows = measure(aligner, real_songs(m.real), ("none", "starts", "ends"))
        real = summary(rows)
        figures["real"] = real
        figures["real_songs"] = [
            {k: row[k] for k in ("song", "input", "stamps", "aae", "mae", "pco", "trust")} | {"even": row.get("even")} for row in rows
        ]
        stamped, to_the_end = real["mixture/starts"], real["mixture/ends"]["even"]
        bars |= {
            "real_songs_worse_than_even_spread": bar(len(stamped["worse_than_even"]), "<=", 0),
            "real_mean_pco_over_even_spread": bar(stamped["pco"] - stamped["even"]["pco"], ">=", 0.0),
            # the aligner given line starts alone, against words spread up to each line's true end
            "real_mean_pco_over_even_spread_to_line_ends": bar(stamped["pco"] - to_the_end["pco"], ">=", 0.0),
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
    from autosing.evaluation.voice import real_recordings, rendered_recordings, voice_figures
    from autosing.perception import load_separator, load_voice

    embedder = load_voice("builtin")
    figures = voice_figures(embedder, rendered_recordings(m.songs, m.limit))
    if m.real:
        figures["real_separated"] = voice_figures(embedder, real_recordings(m.real, load_separator("builtin"), longest=60.0))
    return {**figures, "bars": {"voice_auc_rendered": bar(figures["auc_windows_across_songs"], ">=", 0.95)}}


def codec(m: Material) -> Figures:
    from autosing.evaluation.codec import evaluate_codec
    from autosing.evaluation.judge import Judge
    from autosing.perception import load_separator

    figures = evaluate_codec(m.songs, m.real, Judge(), limit=m.limit, separator=load_separator("builtin"))
    bars = {
        "codec_kbps": bar(figures["kbps"], "<=", 2.0),
        "codec_encode_real_time_factor": bar(figures["rendered"]["encode_rtf"], "<=", 0.1),
        "codec_decode_real_time_factor": bar(figures["rendered"]["decode_rtf"], "<=", 0.1),
    }
    return {**figures, "bars": bars}


def chain(m: Material) -> Figures:
    from autosing.evaluation.chain import chain_figures

    figures = chain_figures(m.tokens(), m.windows, sm2a_model=m.sm2a_model, seed=SEED, keep=m.work / "chain")
    rates = figures["phone_error"]
    bars = {
        "chain_phone_error": bar(rates["chain"]["value"], "<=", 0.45),
        "chain_phone_error_mismatched": bar(rates["mismatched"]["value"], ">=", 0.95),
    }
    return {**figures, "bars": bars}


_SING = """
import sys
from autosing.cli.sing import main
code = main(sys.argv[1:])
print("peak", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


def sing(m: Material) -> Figures:
    """`sing.py` as a person starts it: whole process, model loading and separation included."""
    from autosing.evaluation.separation import rendered_pairs
    from autosing.song import audio

    reference = m.work / "reference.wav"
    real = m.real and next(iter(sorted((m.real / "ultrastar_cc").glob("*/audio.*"))), None)
    if not real:
        pair = next(rendered_pairs(m.songs, 1))
        reference.write_bytes(audio.encode(pair.vocals + pair.accompaniment, pair.sample_rate, "wav"))
    command = [sys.executable, "-c", _SING, "--reference", str(real or reference), "--start-time", "0" if not real else "20"]
    command += ["--lyrics", "we are singing in the morning light\nand the river carries every song", "--output-dir", str(m.work / "sung"), "--no-cache"]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise ConfigError(f"sing.py ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    report = json.loads((m.work / "sung" / "request.json").read_text(encoding="utf-8"))
    peak_gb = int(done.stdout.split("peak")[-1]) * 1024 / 1e9
    factor = seconds / report["seconds"]
    return {
        "seconds": round(seconds, 2), "song_seconds": report["seconds"], "stage_seconds": report["stage_seconds"],
        "bars": {"sing_real_time_factor": bar(factor, "<=", 3.0), "sing_peak_memory_gb": bar(peak_gb, "<=", 3.0)},
    }  # fmt: skip


SECTIONS: dict[str, Callable[[Material], Figures]] = {
    "codec": codec, "alignment": alignment, "semantic": semantic, "separation": separation, "voice": voice, "chain": chain, "sing": sing,
}  # fmt: skip


def rendered_into(work: Path) -> Path:
    """Test songs, rendered where none are given.

    Raises:
        ConfigError: they could not be rendered.
    """
    from autosing.rendering.__main__ import main as render

    songs = work / "songs"
    if render(["songs", "--out", str(songs), "--hours", "0.5", "--seed", "1", "--split", "test", "--long", "1"]):
        raise ConfigError("the test songs could not be rendered; give some with --songs, or install the extra 'render'")
    return songs


def main(argv: Sequence[str] | None = None) -> int:
    """0: every section was measured; 1: some could not be, the last line says why; 2: a mistake in the request."""
    p = argparse.ArgumentParser(prog="python -m autosing.evaluation builtin", description="Judge the embedded default.")
    p.add_argument("--songs", type=Path, help="unseen rendered songs; rendered into --work when left out")
    p.add_argument("--tokens", type=Path, help="their token set; made when left out")
    p.add_argument("--shared", type=Path, default=REAL_FOLDER, help="folder of real songs")
    p.add_argument("--work", type=Path, default=Path("out/evaluation"))
    p.add_argument("--only", default=",".join(SECTIONS), help=f"sections, of: {','.join(SECTIONS)}")
    p.add_argument("--limit", type=int, default=24, help="rendered songs a section at most")
    p.add_argument("--windows", type=int, default=40, help="windows the chain sings")
    p.add_argument("--sm2a-model", default="builtin", help="what the chain sings with; as sing.py's")
    p.add_argument("--threads", type=int, default=2)
    options = p.parse_args(argv)
    wanted = options.only.split(",")
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown:
        print(f"error: no section is called '{unknown[0]}'; choose of: {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        songs = options.songs or rendered_into(options.work)
        songs_hash = hash_of(song_tables(songs))
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    real = options.shared if options.shared and options.shared.is_dir() else None
    material = Material(songs, songs_hash, options.tokens, real, options.work, options.limit, options.windows, options.sm2a_model)
    figures: Figures = {}
    bars: Figures = {}
    for name in wanted:
        begin = time.perf_counter()
        try:
            figures[name] = SECTIONS[name](material)
            shown = figures[name].pop("bars")
            bars |= shown
        except Exception as error:  # one section's fault must not lose the others' hours
            figures[name] = shown = {"error": str(error) if isinstance(error, AutoSingError) else repr(error)}
        figures[name]["evaluation_seconds"] = round(time.perf_counter() - begin, 1)
        print(f"{name}: {json.dumps(shown)}", file=sys.stderr, flush=True)
    result = {
        "evaluation": "builtin",
        "versions": {"autosing": autosing.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "processor": processor()},
        "protocol": {
            "songs": songs.name, "songs_hash": songs_hash, "weights_hash": weights_hash(), "real_songs": real is not None,
            "limit": material.limit, "windows": material.windows, "sm2a_model": material.sm2a_model, "seed": SEED,
        },
        "figures": figures,
        "bars": bars,
    }  # fmt: skip
    print(json.dumps(finite(result), allow_nan=False))
    return 1 if any("error" in section for section in figures.values()) else 0


def hash_of(files: Sequence[Path]) -> str:
    """Of the contents of files, in order."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def weights_hash() -> str:
    """Of every weight in the package."""
    return hash_of(sorted(Path(weights.__file__).parent.rglob("*.safetensors")))


def finite(value: Any) -> Any:
    """JSON values with what is no finite number as null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
