"""Every figure of the embedded default, beside its bar: `python -m autosing.evaluation builtin`, quickly, or `... builtin full`.

    python -m autosing.evaluation builtin
    python -m autosing.evaluation builtin full --songs <rendered test songs> --shared ../shared/data

Sections: codec, alignment, semantic, separation, voice, chain, sing. `--songs` are unseen rendered songs (unseen words, singers and bands).
Without it the quick look takes the four that the repository ships (`demo/test_songs`), and `full` renders them first (needs the extra
`render`). `--shared` is the folder of real songs; what needs it is left out, and said so, where it is absent. The figures are those of
`figures.py`. They are compared with those of an earlier run (`--against`; compare.py). The last line printed is one JSON object: versions,
machine, protocol, hashes of data and weights, figures, bars.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from autosing.errors import AutoSingError, ConfigError
from autosing.evaluation.compare import NOTHING, SHIPPED, against, read_earlier
from autosing.evaluation.figures import FIGURES, bars
from autosing.evaluation.result import finite, hash_of, result_of, weights_hash, weights_hashes
from autosing.store import song_tables
from autosing.tokens.specs import Seconds

Figures = dict[str, Any]
SEED = 0
ROOT = Path(__file__).resolve().parents[2]
REAL_FOLDER = ROOT.parent / "shared" / "data"
VOICE_SECONDS: Seconds = 60.0  # of a real song
TEST_SONGS = ROOT / "demo" / "test_songs"


@dataclass(frozen=True)
class Mode:
    """How much is measured where flags do not say.

    Attributes:
        limit: rendered songs a section at most.
        separated: the same in sections that also separate them, which takes longest.
        windows: that the chain sings.
        real: songs of each collection of real ones at most; None = all.
        excerpt: how much of each real song; None = all (`VOICE_SECONDS` where a voice is judged).
        said: on starting.
    """

    limit: int
    separated: int
    windows: int
    real: int | None
    excerpt: Seconds | None
    said: str


MODES = {
    "fast": Mode(4, 2, 2, 1, 45.0, "a quick look at a few songs, too few to prove anything, intervals included; `builtin full` measures everything"),
    "full": Mode(24, 24, 50, None, None, "everything; takes the better part of an hour on two cores"),
}


@dataclass(frozen=True)
class Material:
    """What is judged on: `songs` rendered test songs, `real` the folder of real songs or None; `given_tokens` their token set, or None.

    `mode` says how much; its `limit` and `windows` may have been given. `sm2a_model`: the checkpoint that the chain sings with. `beside`:
    another separator to report, or None.
    """

    songs: Path
    songs_hash: str
    given_tokens: Path | None
    real: Path | None
    work: Path
    mode: Mode
    sm2a_model: str = "builtin"
    beside: str | None = None

    def tokens(self) -> Path:
        """The token set of the songs; made by the weights of today where it is not given."""
        if self.given_tokens is not None:
            return self.given_tokens
        from autosing.rendering.tokens import write_tokens

        tokens = self.work / f"tokens-{self.songs_hash}-{weights_hash()}"
        for line in write_tokens(None, tokens, self.songs):
            print(line, file=sys.stderr, flush=True)
        return tokens


def alignment(m: Material) -> Figures:
    from autosing.evaluation.alignment import measure, summary
    from autosing.evaluation.known_songs import ENGLISH, real_songs, rendered_songs, with_separated
    from autosing.perception import load_aligner, load_separator

    aligner = load_aligner("builtin")
    songs = with_separated(rendered_songs(m.songs, limit=m.mode.separated), load_separator("builtin"))
    figures: Figures = {"rendered": summary(measure(aligner, songs, ("none", "starts")))}
    heard = real_songs(m.real, limit=m.mode.real) if m.real else ()
    if m.mode.excerpt is not None:
        heard = (song.excerpt(m.mode.excerpt) for song in heard)
    rows = measure(aligner, heard, ("none", "starts", "ends"))
    if rows:
        real = figures["real"] = summary(rows)
        if english := [row for row in rows if row["language"] == ENGLISH]:
            figures["real_english"] = summary(english)
        figures["real_songs"] = [
            {k: row[k] for k in ("song", "input", "stamps", "aae", "mae", "pco", "trust", "activity_f1")} | {"even": row.get("even")} for row in rows
        ]
        stamped, to_the_end = real["mixture/starts"], real["mixture/ends"]["even"]
        real["over_even_spread"] = stamped["pco"] - stamped["even"]["pco"]
        # the aligner given line starts alone, against words spread up to each line's true end
        real["over_even_spread_to_line_ends"] = stamped["pco"] - to_the_end["pco"]
    return figures


def semantic(m: Material) -> Figures:
    from autosing.evaluation.semantic import evaluate_folder
    from autosing.perception import load_semantic

    return evaluate_folder(load_semantic("builtin"), m.songs, limit=m.mode.limit)


def separation(m: Material) -> Figures:
    from autosing.evaluation.separation import cc0_pairs, rendered_pairs, separation_figures
    from autosing.perception import load_separator

    def both(choice: str) -> Figures:
        separator = load_separator(choice)
        figures: Figures = {"separator": choice, "rendered": separation_figures(separator, rendered_pairs(m.songs, m.mode.separated))}
        pairs = list(cc0_pairs(m.real, m.mode.real)) if m.real else []
        return {**figures, "real": separation_figures(separator, pairs)} if pairs else figures

    return both("builtin") | ({"beside": both(m.beside)} if m.beside else {})


def voice(m: Material) -> Figures:
    from autosing.evaluation.voice import real_recordings, rendered_recordings, voice_figures
    from autosing.perception import load_separator, load_voice

    embedder = load_voice("builtin")
    figures = voice_figures(embedder, rendered_recordings(m.songs, m.mode.limit))
    if m.real:
        recordings = list(real_recordings(m.real, load_separator("builtin"), longest=m.mode.excerpt or VOICE_SECONDS, most_songs=m.mode.real))
        figures |= {"real_separated": voice_figures(embedder, recordings)} if recordings else {}
    return figures


def codec(m: Material) -> Figures:
    from autosing.evaluation.codec import evaluate_codec
    from autosing.evaluation.judge import Judge
    from autosing.perception import load_separator

    return evaluate_codec(m.songs, m.real, Judge(), limit=m.mode.separated, separator=load_separator("builtin"), real_limit=m.mode.real)


def chain(m: Material) -> Figures:
    from autosing.evaluation.chain import chain_figures

    return chain_figures(m.tokens(), m.mode.windows, m.sm2a_model, SEED, keep=m.work / "chain", songs=m.songs)


def sing(m: Material) -> Figures:
    """`sing.py` as a person starts it: whole process, model loading and separation included.

    Raises:
        ConfigError: `sing.py` failed.
    """
    from autosing.evaluation.lines import TWO_LINES, run_sing
    from autosing.evaluation.separation import rendered_pairs
    from autosing.song import audio

    reference = m.work / "reference.wav"
    real = m.real and next(iter(sorted((m.real / "ultrastar_cc").glob("*/audio.*"))), None)
    if not real:
        pair = next(rendered_pairs(m.songs, 1))
        reference.write_bytes(audio.encode(pair.vocals + pair.accompaniment, pair.sample_rate, "wav"))
    over = ("--reference", str(real or reference), "--start-time", "20" if real else "0")
    run = run_sing(m.work / "sung", m.work / "none", *over, "--lyrics", TWO_LINES, "--no-cache")
    return {
        "seconds": round(run.seconds, 2), "song_seconds": run.report["seconds"], "stage_seconds": run.report["stage_seconds"],
        "real_time_factor": round(run.seconds / run.report["seconds"], 4), "peak_memory_gb": round(run.peak_gb, 3),
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
    options = _parser().parse_args(argv)
    wanted = options.only.split(",")
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown:
        print(f"error: no section is called '{unknown[0]}'; choose of: {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        earlier = None if options.against == NOTHING else read_earlier(options.against)
        songs = options.songs or (TEST_SONGS if options.mode == "fast" and TEST_SONGS.is_dir() else rendered_into(options.work))
        songs_hash = hash_of(song_tables(songs))
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    mode = MODES[options.mode]
    print(f"{options.mode}: {mode.said}; songs: {songs}", file=sys.stderr)
    if options.limit is not None:
        mode = replace(mode, limit=options.limit, separated=options.limit)
    if options.windows is not None:
        mode = replace(mode, windows=options.windows)
    real = options.shared if options.shared and options.shared.is_dir() else None
    if real is None:
        print(f"no real songs at '{options.shared}': what needs them is left out", file=sys.stderr)
    material = Material(songs, songs_hash, options.tokens, real, options.work, mode, options.sm2a_model, options.beside)
    figures: Figures = {}
    for name in wanted:
        begin = time.perf_counter()
        try:
            figures[name] = SECTIONS[name](material)
            shown = bars({name: figures[name]}, FIGURES)
        except Exception as error:  # one section's fault must not lose the others' hours
            figures[name] = shown = {"error": str(error) if isinstance(error, AutoSingError) else repr(error)}
        figures[name]["evaluation_seconds"] = round(time.perf_counter() - begin, 1)
        print(f"{name}: {json.dumps(finite(shown))}", file=sys.stderr, flush=True)
    hashes = weights_hashes()
    protocol = {
        "mode": options.mode, "songs": songs.name, "songs_hash": songs_hash, "weights_hash": hashes["all"], "real_songs": real is not None,
        "real_hash": real and hash_of(real_files(real)),
        "limit": mode.limit, "separated": mode.separated, "windows": mode.windows, "real": mode.real, "excerpt": mode.excerpt, "sm2a_model": material.sm2a_model,
        "beside": material.beside, "seed": SEED, "intervals": "95 %, bootstrap over songs or windows",
    }  # fmt: skip
    result = result_of("evaluation", "builtin", protocol, figures, bars(figures, FIGURES), weights=hashes)
    if earlier is not None:
        print(against(earlier, result), file=sys.stderr, flush=True)
    print(json.dumps(result, allow_nan=False))
    return 1 if any("error" in section for section in figures.values()) else 0


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m autosing.evaluation builtin", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Judge the embedded default.\n\n" + "\n".join(f"  {name:5} {mode.said}" for name, mode in MODES.items()),
    )  # fmt: skip
    fast, full = MODES["fast"], MODES["full"]
    p.add_argument("mode", nargs="?", choices=MODES, default="fast", help="how much to measure (default: %(default)s)")
    p.add_argument("--songs", type=Path, help=f"unseen rendered songs; left out: fast takes {TEST_SONGS.name} of the repository, full renders some into --work")
    p.add_argument("--tokens", type=Path, help="their token set; made when left out")
    p.add_argument("--shared", type=Path, default=REAL_FOLDER, help="folder of real songs")
    p.add_argument("--work", type=Path, default=Path("out/evaluation"))
    p.add_argument("--only", default=",".join(SECTIONS), help=f"sections, of: {','.join(SECTIONS)}")
    p.add_argument("--limit", type=int, help=f"rendered songs a section at most (fast: {fast.limit}, {fast.separated} where they are separated; full: {full.limit})")
    p.add_argument("--windows", type=int, help=f"windows the chain sings (fast: {fast.windows}; full: {full.windows})")
    p.add_argument("--sm2a-model", default="builtin", help="what the chain sings with; as sing.py's")
    p.add_argument("--beside", metavar="SEPARATOR", help="another separator to report beside the builtin one, such as demucs:FOLDER")
    p.add_argument("--against", default=str(SHIPPED), metavar="FILE.json", help=f"an earlier run to compare with, or '{NOTHING}' (default: the figures of the shipped weights)")
    p.add_argument("--threads", type=int, default=2)
    return p


def real_files(folder: Path) -> list[Path]:
    """Everything that is read of the folder of real songs, notes and licences included."""
    return sorted(p for part in ("jamendolyrics", "stems", "ultrastar_cc", "vocadito") for p in (folder / part).rglob("*") if p.is_file())
