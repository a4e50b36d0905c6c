"""`autosing-process import|export|check|run|<step> <dataset>`: songs -> tables of tokens. Also `python -m processing ...`.

`run` does every step that is due, in order of dependency: separate (`src_sep`), align on the vocals (`align`), find sung windows
(`vad_extract`), what rows may be filtered on (`quality`), tokens (`atoks`, `stoks`), singer embeddings (`artist_embs`). `--align-on mixture` keeps the original's order, which aligns
and finds windows on the mixture. The original's word order, `<dataset> <step> <partition>`, is understood.

`check` writes a page that shows how good the rows are.

The last line counts accepted and rejected songs; the reasons are in `<dataset>/<i>/rejected.parquet`. Exit codes: 0 done, 1 a partition
failed or `--strict` found rejected rows, 2 a mistake in the request.
"""

import argparse
import difflib
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from autosing.cli import check, songs
from autosing.cli.arguments import run_command, underscores_too
from autosing.config import nearest
from autosing.device import pick_device
from autosing.errors import ConfigError, DataError
from autosing.faults import Faults
from autosing.perception import ALIGNERS, CODECS, SEMANTIC, SEPARATORS, VOICES
from autosing.store import Dataset, ranges_text
from autosing.training.log import Progress
from processing.executors.local import run_partitions
from processing.index import open_index
from processing.run import Job, PartitionReport, StepReport
from processing.step import Step
from processing.steps import ORDER, Choices, all_steps, make_steps

PROGRAM = "autosing-process"
_SONGS = {"import": songs.run_import, "export": songs.run_export}


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(_main, argv)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    songs.add_commands(commands)
    helps = {
        "run": "every step that is due, in order",
        "src_sep": "song -> vocals and accompaniment",
        "align": "lyrics -> times of words",
        "vad_extract": "song -> sung windows",
        "quality": "windows -> what training may filter on: bleed, silence, clipping, copies",
        "atoks": "windows -> codec tokens",
        "stoks": "windows -> semantic tokens",
        "artist_embs": "windows -> singer embeddings",
    }
    for name, text in helps.items():
        aliases = [name.replace("_", "-")] if "_" in name else []
        command = commands.add_parser(name, help=text, aliases=aliases, allow_abbrev=False)
        _add_step_options(command)
    check.add_parser(commands)
    return top


def _add_step_options(command: argparse.ArgumentParser) -> None:
    default = Choices()
    command.add_argument("dataset", type=Path)
    command.add_argument("partition", type=int, nargs="?", help="the (first) partition; without it, all")
    where = command.add_argument_group("which partitions")
    where.add_argument("--partitions", help="such as 0-7,9")
    where.add_argument("--num-partitions", type=int, help="this many, from the first on")
    where.add_argument("--num", type=int, default=0, help="songs a partition at most, for trying things out")
    where.add_argument("--complete-missing", action="store_true", help="only what is missing; always so, since done work is verified")
    what = command.add_argument_group("what does the work")
    tables = {"separator": SEPARATORS, "aligner": ALIGNERS, "codec": CODECS, "semantic": SEMANTIC, "voice": VOICES}
    for name, registry in tables.items():
        names = ", ".join(registry.names())
        what.add_argument(f"--{name}", default=getattr(default, name), metavar="NAME[:WEIGHTS]", help=f"{names} (default {getattr(default, name)})")
    what.add_argument("--transcriber", default="", metavar="NAME[:WEIGHTS]", help="lyrics for songs without any: whisperx (default: none)")
    what.add_argument("--audio-src", help=f"what atoks encodes: vocals, no_vocals, chunked (default {','.join(default.audio_src)})")
    what.add_argument("--align-on", choices=("vocals", "mixture"), default=default.align_on, help="mixture = the original's order")
    what.add_argument("--require-lyrics", action="store_true", help="reject songs without lyrics (code no_lyrics), which only sm2a can use")
    what.add_argument("--chunk-length", type=int, default=default.chunk_length, help="seconds of a window (default 30)")
    what.add_argument(
        "--min-occupancy", type=float, default=default.min_occupancy, help="share of a window that is sung (default 0.5, the original's 0.8)"
    )
    what.add_argument("--audio-format", default=default.audio_format, help="of the windows in chunked.parquet (default opus)")
    what.add_argument("--max-minutes", type=float, default=default.max_seconds / 60, help="longer songs are rejected (default 30)")
    how = command.add_argument_group("how")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default auto)")
    how.add_argument("--batch-size", type=int, default=default.batch_size, help="windows a model sees at once (default 8)")
    how.add_argument("--workers", type=int, default=1, help="processes, each on one partition at a time (default 1)")
    how.add_argument("--strict", action="store_true", help="exit 1 if a row was rejected")


def _main(argv: Sequence[str]) -> int:
    options = _parse(list(argv))
    if options.command in _SONGS:
        return _SONGS[options.command](options)
    if options.command == "check":
        return check.run(options)
    choices = Choices(
        separator=options.separator,
        aligner=options.aligner,
        codec=options.codec,
        semantic=options.semantic,
        voice=options.voice,
        align_on=options.align_on,
        chunk_length=options.chunk_length,
        min_occupancy=options.min_occupancy,
        audio_format=options.audio_format,
        audio_src=tuple(options.audio_src.split(",")) if options.audio_src else Choices().audio_src,
        batch_size=options.batch_size,
        max_seconds=options.max_minutes * 60,
        require_lyrics=options.require_lyrics,
        transcriber=options.transcriber,
    )
    name = options.command.replace("-", "_")
    return _process(options, all_steps(choices) if name == "run" else make_steps(name, choices))


def _parse(argv: list[str]) -> argparse.Namespace:
    top = parser()
    words = (*_SONGS, "run", "check", *ORDER)
    if argv and not argv[0].startswith("-") and argv[0].replace("-", "_") not in words:
        place = next((i for i, word in enumerate(argv) if word.replace("-", "_") in words), None)
        if place is not None:  # <dataset> <step> <partition>
            argv.insert(0, argv.pop(place))
        else:
            raise ConfigError(_no_command(argv[:2], words))
    sub = top._subparsers._group_actions[0].choices.get(argv[0]) if argv else None  # type: ignore[union-attr,index,call-overload]
    return top.parse_args(underscores_too(sub, argv) if sub else argv)


def _no_command(spoken: Sequence[str], words: Sequence[str]) -> str:
    """What to say where neither of the first two words is a command: the one meant is that which is most like one."""
    likeness = {said: max(difflib.SequenceMatcher(None, said.replace("-", "_"), word).ratio() for word in words) for said in spoken}
    meant = max(spoken, key=lambda said: likeness[said])
    return f"no command is called '{meant}'{nearest(meant.replace('-', '_'), words)}"


def _process(options: argparse.Namespace, steps: Sequence[Step]) -> int:
    dataset = Dataset(options.dataset)
    partitions = _choose(dataset, options)
    if options.workers < 1 or options.num < 0:
        raise ConfigError(f"--workers must be at least 1 and --num at least 0, found {options.workers} and {options.num}")
    pick_device(options.device)  # a wrong name is a mistake in the request, said before any work
    for step in steps:
        step.settings()
    job = Job(dataset.path, tuple(steps), options.device, options.num)
    screen = _Screen(dataset, partitions, steps, options.num)
    reports = sorted(
        run_partitions(job, partitions, screen, options.workers, Faults.from_environment()), key=lambda report: report.partition
    )
    return _conclude(reports, options.strict)


def _conclude(reports: Sequence[PartitionReport], strict: bool) -> int:
    failed = [report for report in reports if report.failed]
    for report in failed:
        for step in report.steps:
            if step.state == "failed":
                print(f"partition {report.partition}: {step.step} failed: {step.error}", file=sys.stderr)
    whole = [report for report in reports if not report.failed]
    codes: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    for report in whole:
        codes.update(report.rejected)
        for step in report.steps:
            notes.update(step.notes)
    songs, rejected = sum(report.songs for report in whole), sum(codes.values())
    windows = sum(report.windows for report in whole)
    reasons = ", ".join(f"{code} {count}" for code, count in sorted(codes.items()))
    if notes:
        print("notes: " + ", ".join(f"{code} {count}" for code, count in sorted(notes.items())))
    print(
        f"accepted {max(0, songs - rejected)} songs ({windows} windows), rejected {rejected}"
        + (f" ({reasons})" if reasons else "")
        + (f", {len(failed)} partitions failed" if failed else "")
    )
    return 1 if failed or (strict and rejected) else 0


def _choose(dataset: Dataset, options: argparse.Namespace) -> tuple[int, ...]:
    there = dataset.partitions()
    if options.partitions is not None and (options.partition is not None or options.num_partitions is not None):
        raise ConfigError("give --partitions, or a first partition and --num-partitions, not both")
    if options.partitions is not None:
        pieces = parse_ranges(options.partitions)
    elif options.partition is not None or options.num_partitions is not None:
        first = options.partition if options.partition is not None else there[0]
        count = options.num_partitions if options.num_partitions is not None else 1
        pieces = [(first, first + count - 1)]
    else:
        return there
    for first, last in pieces:
        if first <= last and last > there[-1]:  # said before a range of any length is spelt out
            beyond = max(first, there[-1] + 1)
            which = f"{beyond}-{last}" if last > beyond else f"{last}"
            raise DataError(f"'{dataset.path}' has no partition {which}; it has {ranges_text(there)}")
    wanted = sorted({number for first, last in pieces for number in range(first, last + 1)})
    missing = [number for number in wanted if number not in there]
    if missing or not wanted:
        raise DataError(f"'{dataset.path}' has no partition {ranges_text(missing) or 'to work on'}; it has {ranges_text(there)}")
    return tuple(wanted)


def parse_ranges(text: str) -> list[tuple[int, int]]:
    """`0-7,9` -> [(0, 7), (9, 9)].

    Raises:
        ConfigError: not of that form.
    """
    pieces = []
    for piece in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", piece, re.ASCII)
        if not found:
            raise ConfigError(f"--partitions must look like 0-7,9, found {text[:80]!r}")
        first, last = int(found.group(1)), int(found.group(2) or found.group(1))
        if last < first:
            raise ConfigError(f"--partitions: {first}-{last} ends before it begins; write {last}-{first}")
        pieces.append((first, last))
    return pieces


class _Screen:
    """A bar over all songs and steps; a line for every step that was worked."""

    def __init__(self, dataset: Dataset, partitions: Sequence[int], steps: Sequence[Step], limit: int):
        self._rows: dict[int, int] = {}
        for partition in partitions:
            try:
                with open_index(dataset, partition) as reader:
                    self._rows[partition] = min(len(reader), limit or len(reader))
            except DataError:
                self._rows[partition] = 0
        self._total = sum(self._rows.values()) * len(steps)
        self._behind = 0
        self._within: dict[tuple[int, str], int] = {}
        self._progress = Progress(self._total)

    def begin(self, partition: int, step: str) -> None:
        self._within[partition, step] = 0
        self._show(f"{step}, partition {partition}")

    def song(self, partition: int, step: str, count: int) -> None:
        self._within[partition, step] = min(count, self._rows.get(partition, 0))
        self._show(f"{step}, partition {partition}")

    def end(self, report: StepReport) -> None:
        self._within.pop((report.partition, report.step), None)
        if report.state in ("retried", "waiting"):
            self._progress.line(f"partition {report.partition}: {report.error}")
            return
        self._behind += self._rows.get(report.partition, 0)
        if report.state == "done":
            rows = ", ".join(f"{table} {count}" for table, count in report.rows.items())
            refused = f", {report.rejected} rejected" if report.rejected else ""
            text = f"partition {report.partition} {report.step}: {report.songs} songs{refused} -> {rows} rows, {report.seconds:.1f} s"
            self._progress.line(text)
        self._show(f"{report.step}, partition {report.partition}")

    def _show(self, text: str) -> None:
        self._progress.update(min(self._total, self._behind + sum(self._within.values())), text)


if __name__ == "__main__":
    sys.exit(main())
