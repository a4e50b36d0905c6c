"""`construct_dataset.py <data_dir> <num_in> <output_dir> --num-out-partitions N`: processed partitions -> a dataset to train on.

Joins the tables of every window, holds whole songs out for validation (partition N), shuffles the rest with the seed and deals it evenly to
partitions 0 ... N - 1. No row is lost in silence: what a table lacked is counted and printed, and so is what each condition of `--filter` removed.

--filter: columns trust, sung_share, align_score, signal_to_bleed (dB), silence_share, clipped_share, duplicate_of, seconds, start, artist, song,
id and the index's own; numbers, texts (dates too: day >= '2021-03-01'), lists ('live' in tags), < <= > >= == !=, in, is None, + - * /, and, or, not. A row with a null that matters is not kept:
'signal_to_bleed is None or signal_to_bleed > 10' keeps it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autosing.cli.arguments import run_command, underscores_too
from autosing.training.log import progress_of
from processing.dataset import SPLIT_BY, Plan, construct
from processing.filtering import Counted


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(_main, argv)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="autosing-construct-dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    top.add_argument("data_dir", type=Path, help="dataset processed by autosing-process")
    top.add_argument("num_in", type=int, help="its partitions 0 ... num_in - 1 are read")
    top.add_argument("output_dir", type=Path)
    top.add_argument("--num-out-partitions", type=int, default=512, help="partitions of train; one more holds validation (default 512)")
    top.add_argument("--split", action="store_true", help="cut every row into two halves (15 s)")
    top.add_argument("--name", default="main", help="of the written table (default main)")
    top.add_argument("--codec", default="builtin", help="whose tokens (default builtin)")
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--validation-share", type=float, default=0.05, help="expected share of songs held out (default 0.05, at least one)")
    top.add_argument("--split-by", choices=SPLIT_BY, default="song", help="artist: no artist on both sides")
    top.add_argument("--filter", default="", metavar="EXPR", help="which rows are kept, such as 'trust > 0.85 and sung_share > 0.6'")
    return top


def _main(argv: Sequence[str]) -> int:
    top = parser()
    options = top.parse_args(underscores_too(top, argv))
    plan = Plan(
        data_dir=options.data_dir,
        num_in=options.num_in,
        output_dir=options.output_dir,
        num_out=options.num_out_partitions,
        split=options.split,
        name=options.name,
        codec=options.codec,
        seed=options.seed,
        validation_share=options.validation_share,
        split_by=options.split_by,
        filter=options.filter,
    )
    made = construct(plan, progress_of("windows joined"))
    for note in made.notes:
        print(f"note: {note}")
    for reason, count in made.lost.items():
        print(f"left out {count} windows: {reason}")
    for line in _filter_table(made.filtered, made.unfiltered_rows):
        print(line)
    print(
        f"constructed {made.train_rows} training rows of {made.train_songs} songs in {plan.num_out} partitions and "
        f"{made.validation_rows} validation rows of {made.validation_songs} songs in '{plan.output_dir}'"
    )
    return 0


def _filter_table(counts: Sequence[Counted], rows: int) -> list[str]:
    """A line a condition: what it removes by itself, how much of that is unknown, and what is left after it and those before it."""
    if not counts:
        return []
    cells = [("condition", "removes", "unknown", "left"), ("", "", "", f"{rows}")]
    cells += [(c.condition, f"{c.removed}", f"{c.unknown}", f"{c.left}") for c in counts]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    return [f"{row[0]:{widths[0]}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)) for row in cells]


if __name__ == "__main__":
    sys.exit(main())
