"""`construct_dataset.py <data_dir> <num_in> <output_dir> --num-out-partitions N`: processed partitions -> a dataset to train on.

Joins the tables of every window, holds whole songs out for validation (partition N), shuffles the rest with the seed and deals it evenly to
partitions 0 ... N - 1. No row is lost in silence: what a table lacked is counted and printed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autosing.cli.arguments import run_command, underscores_too
from autosing.training.log import Progress
from processing.dataset import SPLIT_BY, Plan, construct


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
    )
    progress: list[Progress] = []

    def seen(done: int, total: int) -> None:
        if not progress:
            progress.append(Progress(total))
        progress[0].update(done, "windows joined")

    made = construct(plan, seen)
    for note in made.notes:
        print(f"note: {note}")
    for reason, count in made.lost.items():
        print(f"left out {count} windows: {reason}")
    print(
        f"constructed {made.train_rows} training rows of {made.train_songs} songs in {plan.num_out} partitions and "
        f"{made.validation_rows} validation rows of {made.validation_songs} songs in '{plan.output_dir}'"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
