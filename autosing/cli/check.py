"""`autosing-process check <dataset>`: one page that shows what a processed dataset holds and how good it is, `report.html`.

Reads only; what is not done yet is said on the page and printed. The page holds its styles, pictures and sound and needs no network.
"""

import argparse
from pathlib import Path
from typing import Any

from autosing.errors import ConfigError, DataError
from autosing.store import Dataset, atomic_path
from autosing.training.log import progress_of
from processing.page import page
from processing.report import gather


def add_parser(commands: Any) -> None:
    """Add the command to `argparse`'s subparsers."""
    command: argparse.ArgumentParser = commands.add_parser(
        "check", help="one page that shows how good the rows are", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument("dataset", type=Path)
    command.add_argument("--output", type=Path, help="the page (default <dataset>/report.html)")
    command.add_argument("--lines", type=int, default=20, help="worst-aligned lines to show with their sound (default 20)")


def run(options: argparse.Namespace) -> int:
    """
    Raises:
        ConfigError: --lines is negative.
        DataError: no dataset, a damaged table, or the page cannot be written.
    """
    if options.lines < 0:
        raise ConfigError(f"--lines must be at least 0, found {options.lines}")
    dataset = Dataset(options.dataset)
    report = gather(dataset, options.lines, progress_of("partitions read, lines cut out"))
    path = options.output or dataset.path / "report.html"
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write '{path}' ({error.strerror}); name another place with --output") from error
    for line in report.to_do:
        print(f"note: {line}")
    accepted = sum(song.refused is None for song in report.songs)
    print(
        f"checked {len(report.songs)} songs: {accepted} accepted, {len(report.songs) - accepted} rejected, {len(report.rows)} windows; "
        f"open '{path}' in a browser ({path.stat().st_size / 1e6:.1f} MB)"
    )
    return 0
