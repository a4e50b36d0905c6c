"""``python -m autosing.rendering lexicon|songs|speech|separated|tokens|demo|excerpt ...``: the commands of this room."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from autosing.errors import AutoSingError


def _lexicon(args: argparse.Namespace) -> str:
    from autosing.rendering.lexicon import write_lexicon

    return f"{write_lexicon(args.words, args.out, args.limit)} words -> {args.out}"


def _make(plan, make, workers: int) -> str:
    """Make the due partitions under a progress bar, one line a partition; the closing line."""
    from fastprogress.fastprogress import progress_bar

    from autosing.rendering.dataset import due, make_partitions

    started, audio_s, rows = time.monotonic(), 0.0, 0
    results = make_partitions(plan, make, workers)
    bar = progress_bar(range(len(due(plan))))
    for _ in bar:
        partition, count, seconds = next(results)
        audio_s, rows = audio_s + seconds, rows + count
        bar.comment = f"{audio_s / 60:.0f} min of audio, {audio_s / (time.monotonic() - started):.1f} x real time"
        print(f"\npartition {partition} committed: {count} rows, {seconds / 60:.1f} min; {audio_s / 60:.1f} min so far", flush=True)
    return f"{rows} rows, {audio_s / 3600:.2f} h -> {plan.out}"


def _songs(args: argparse.Namespace) -> str:
    from autosing.rendering.dataset import Plan, render_partition, write_index

    cache = args.cache or args.out.parent
    plan = Plan(args.out, args.hours, args.seed, args.split, args.partition_size, args.long, cache, args.words, args.music_dir)
    told = _make(plan, render_partition, args.workers)
    return told + (f"; {write_index(args.out)} songs in index tables" if args.index else "")


def _speech(args: argparse.Namespace) -> str:
    from autosing.rendering.speech import SpeechPlan, speech_partition

    return _make(SpeechPlan(args.out, args.speech_dir, args.hours, args.seed, args.partition_size), speech_partition, args.workers)


def _separated(args: argparse.Namespace) -> str:
    from autosing.rendering.separated import SeparatedPlan, separate_partition

    return _make(SeparatedPlan(args.songs, args.out, args.separator, args.limit), separate_partition, args.workers)


def _demo(args: argparse.Namespace) -> str:
    from autosing.rendering.demo import write_demo

    told = [f"{name}: {seconds:.1f} s" for name, seconds in write_demo(args.out, args.cache, args.seconds, args.seed)]
    return "\n".join(told)


def _excerpt(args: argparse.Namespace) -> str:
    from autosing.rendering.dataset import write_excerpt

    return f"{len(args.ids)} songs, {write_excerpt(args.songs, args.ids, args.out) / 1e6:.2f} MB -> {args.out}"


def _tokens(args: argparse.Namespace) -> str:
    from autosing.rendering.tokens import write_tokens

    told = f"nothing left to do in {args.out}"
    for told in write_tokens(args.songs, args.out, args.validation, share=tuple(args.share), altered=args.altered):
        print(told, flush=True)
    return told


def parser() -> argparse.ArgumentParser:
    """The command line of the room."""
    top = argparse.ArgumentParser(prog="python -m autosing.rendering", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    lexicon = commands.add_parser("lexicon", help="frequent words with their phones")
    lexicon.add_argument("--words", type=Path, nargs="+", required=True, help=".csv (ngram,freq), texts, or folders of them")
    lexicon.add_argument("--out", type=Path, required=True)
    lexicon.add_argument("--limit", type=int, default=30_000)
    lexicon.set_defaults(run=_lexicon)
    songs = commands.add_parser("songs", help="rendered songs with their truth, as partitions")
    songs.add_argument("--out", type=Path, required=True)
    songs.add_argument("--hours", type=float, required=True)
    songs.add_argument("--seed", type=int, default=0)
    songs.add_argument("--split", choices=("train", "test"), default="train", help="which singers, words and instrumentals")
    songs.add_argument("--partition-size", type=int, default=40)
    songs.add_argument("--long", type=int, default=0, metavar="N", help="the first N songs last three minutes")
    songs.add_argument("--words", type=Path, help="frequency list (.csv with ngram,freq) that widens the vocabulary")
    songs.add_argument("--music-dir", type=Path, help="real instrumentals, mixed into half of the songs")
    songs.add_argument("--cache", type=Path, help="folder of the analysed words (default: beside --out)")
    songs.add_argument("--workers", type=int, default=1)
    songs.add_argument("--index", action="store_true", help="also write index.parquet, the input of autosing-process")
    songs.set_defaults(run=_songs)
    speech = commands.add_parser("speech", help="real speech, plain and turned into singing")
    speech.add_argument("--out", type=Path, required=True)
    speech.add_argument("--speech-dir", type=Path, required=True, help="folder with transcripts.tsv")
    speech.add_argument("--hours", type=float, default=2.5, help="stop at about this much audio")
    speech.add_argument("--seed", type=int, default=0)
    speech.add_argument("--partition-size", type=int, default=100)
    speech.add_argument("--workers", type=int, default=1)
    speech.set_defaults(run=_speech)
    separated = commands.add_parser("separated", help="rendered songs whose vocals are what a separator finds in their mix")
    separated.add_argument("--songs", type=Path, required=True, help="folder written by the command songs")
    separated.add_argument("--out", type=Path, required=True)
    separated.add_argument("--separator", default="builtin", help="a separation backend")
    separated.add_argument("--limit", type=int, help="only the first so many partitions")
    separated.add_argument("--workers", type=int, default=1)
    separated.set_defaults(run=_separated)
    tokens = commands.add_parser("tokens", help="rendered songs as a training set of tokens, with their true times")
    tokens.add_argument("--songs", type=Path, required=True, help="folder written by the command songs")
    tokens.add_argument("--validation", type=Path, help="the same, for validation")
    tokens.add_argument("--out", type=Path, required=True)
    tokens.add_argument(
        "--share", type=int, nargs=2, default=(0, 1), metavar=("I", "K"), help="make every K-th partition from I on"
    )
    tokens.add_argument(
        "--altered", type=int, default=0, choices=range(7), help="so many more copies of every training song, at other speeds"
    )
    tokens.set_defaults(run=_tokens)
    demo = commands.add_parser("demo", help="the demo songs that the repository ships")
    demo.add_argument("--out", type=Path, required=True)
    demo.add_argument("--seconds", type=float, default=48.0)
    demo.add_argument("--seed", type=int, default=7)
    demo.add_argument("--cache", type=Path, required=True, help="folder of the analysed words")
    demo.set_defaults(run=_demo)
    excerpt = commands.add_parser("excerpt", help="a few rendered songs, small enough for a repository")
    excerpt.add_argument("--songs", type=Path, required=True, help="folder written by the command songs")
    excerpt.add_argument("--ids", nargs="+", required=True)
    excerpt.add_argument("--out", type=Path, required=True)
    excerpt.set_defaults(run=_excerpt)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 2 a mistake in the request."""
    args = parser().parse_args(argv)
    try:
        print(args.run(args))
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
