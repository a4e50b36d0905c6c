"""`autosing-process import` and `export`: songs in any known format <-> the tables of a dataset. Part of the command in process.py."""

import argparse
import json
from pathlib import Path

from autosing.errors import ConfigError
from autosing.store import Dataset, ranges_text
from autosing.training.log import progress_of
from processing.exporting import export_songs
from processing.formats import READERS, WRITERS
from processing.formats.base import Options
from processing.importing import import_songs


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Declare both commands."""
    bring = commands.add_parser("import", help="songs in any known format -> index.parquet", allow_abbrev=False)
    bring.add_argument("source", type=Path, help="a folder of audio, a table that names audio files (CSV, JSONL, JSON, Parquet), tar archives, UltraStar songs")
    bring.add_argument("dataset", type=Path)
    bring.add_argument("--format", default="auto", help=f"auto, {', '.join(READERS.names())} (default auto)")
    bring.add_argument("--partition-size", type=int, default=64, help="songs a partition (default 64)")
    bring.add_argument("--audio-folder", type=Path, help="where the paths of a table begin and may lead (default: the table's folder)")
    bring.add_argument("--columns", default="{}", help="""what a table's columns stand for: '{"transcription": "lyrics"}'""")
    bring.add_argument("--lyrics-folder", type=Path, help="look here too for lyrics of the same name")
    bring.add_argument("--lyrics-encoding", help="of text that is neither UTF-8 nor UTF-16, such as gbk, shift_jis, cp1251")
    bring.add_argument("--keep-duplicates", action="store_true", help="bring in songs too whose audio is in the dataset already")
    bring.add_argument("--moved", action="store_true", help="the folder was imported before from another place or under another name; go on with its songs")
    bring.add_argument("--strict", action="store_true", help="exit 1 if a song or file was left out")
    take = commands.add_parser("export", help="index.parquet -> files for other programs", allow_abbrev=False)
    take.add_argument("dataset", type=Path)
    take.add_argument("folder", type=Path, help="new, empty, or with the same export half done")
    take.add_argument("--to", required=True, help=", ".join(WRITERS.names()))


def run_import(options: argparse.Namespace) -> int:
    """Import, and say what became of the songs."""
    report = import_songs(
        options.source,
        Dataset(options.dataset),
        options.partition_size,
        Options(options.lyrics_folder, options.lyrics_encoding, options.audio_folder, _meanings(options.columns)),
        progress_of("songs read"),
        moved=options.moved,
        file_format=options.format,
        keep_duplicates=options.keep_duplicates,
    )
    left_out = sum(report.codes.values())
    for path, _, reason in report.left_out:
        print(f"left out {path}: {reason}")
    if left_out > len(report.left_out):
        print(f"left out {left_out - len(report.left_out)} more, see {report.report}")
    for path in report.gone_first:
        print(f"note: {path} is no longer in '{options.source}'; the song stays in the dataset")
    if report.gone > len(report.gone_first):
        print(f"note: {report.gone - len(report.gone_first)} more songs are no longer there, see {report.report}")
    for path in report.not_unicode:
        print(f"note: {path} is not UTF-8 and was read as Windows-1252; say --lyrics-encoding if it is another one")
    if report.codes:
        print(f"left out by code: {', '.join(f'{code} {count}' for code, count in report.codes.items())}; all are in {report.report}")
    where = f", partitions {ranges_text(report.partitions)}" if report.partitions else ""
    print(
        f"imported {report.added} songs ({report.with_lyrics} with lyrics){where}; {report.changed} changed, {report.unchanged} unchanged, "
        f"{left_out} files left out"
    )
    return 1 if options.strict and left_out else 0


def run_export(options: argparse.Namespace) -> int:
    """Export, and say what could not go along."""
    report = export_songs(Dataset(options.dataset), options.to, options.folder, progress_of("songs written"))
    for name, kind in report.dropped:
        print(f"note: the column '{name}' did not go along: {kind} cannot be written as JSON")
    if report.without_audio:
        print(f"note: {report.without_audio} rows have no audio and were not written")
    print(f"exported {report.songs} songs to {options.folder}")
    return 0


def _meanings(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(meaning, str) for meaning in found.values()):
        raise ConfigError(f"""--columns must look like '{{"transcription": "lyrics"}}', found {text[:80]!r}""")
    return found
