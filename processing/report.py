"""What a person wants to know of a processed dataset before training on it: counts, hours, songs, rows, the worst-aligned lines, refusals.

`gather` reads the tables of the partitions once, streaming; processing/page.py makes a page of what it returns. Nothing is computed again and no
model is loaded: a table that is not there leaves its part empty and is named in `to_do`. Which lines are shown, and their sound, is in
processing/lines.py: only the songs of those are decoded.
"""

import io
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile

from autosing.errors import ConfigError
from autosing.song.alignment import Alignment
from autosing.store import Dataset, TableReader
from autosing.tokens.specs import Seconds
from processing.index import open_index
from processing.inputs import left_over, mixed_makers
from processing.judged import duplicates, judged, missing_quality
from processing.lines import TYPICAL_LINES, AlignedLine, Line, aligned_lines, heard_lines, typical_lines, worst_lines
from processing.manifest import FileHashes, Manifest, stale_text
from processing.step import Rejected
from processing.steps import ORDER, sort_key
from processing.windows import WINDOWS_TABLE


@dataclass(frozen=True)
class SongFacts:
    """One song of the index.

    Attributes:
        name: what people call it, by its title or file; "" where nobody says.
        seconds: by its header; None where it cannot be read.
        trust, score: of its alignment: the share of lines that hold, the mean word score.
        words, windows: how many.
        window_seconds, sung_seconds: of song and of singing in its windows.
        signal_to_bleed: dB, the median of its windows.
        clipped_share: the largest of its windows.
        refused: the code of its rejection, None if it was accepted.
    """

    id: str
    partition: int
    name: str = ""
    artist: str | None = None
    seconds: Seconds | None = None
    has_lyrics: bool = False
    trust: float | None = None
    score: float | None = None
    words: int = 0
    windows: int = 0
    window_seconds: Seconds = 0.0
    sung_seconds: Seconds = 0.0
    signal_to_bleed: float | None = None
    clipped_share: float | None = None
    duplicate_of: str | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        rows: the columns that training may filter on, by window.
        to_do: what is not done yet, a line each with the command.
    """

    dataset: str
    partitions: int
    songs: tuple[SongFacts, ...]
    rows: tuple[Mapping[str, Any], ...]
    worst: tuple[Line, ...]
    typical: tuple[Line, ...]
    rejected: tuple[tuple[str, Rejected], ...]
    to_do: tuple[str, ...] = field(default=())


def gather(dataset: Dataset, lines: int = 20, seen: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """
    Args:
        lines: of the worst-aligned ones.
        seen: told how many of how many partitions and lines are behind us.

    Raises:
        ConfigError: the folder holds a constructed dataset.
        DataError: no dataset, or a damaged table.
    """
    if (dataset.path / "dataset.json").is_file():
        raise ConfigError(
            f"'{dataset.path}' is a constructed dataset, which holds no audio; give the folder that construct_dataset read"
        )
    partitions = dataset.partitions()
    total = len(partitions) + lines + TYPICAL_LINES
    copy_of = duplicates(dataset, partitions)
    songs: list[SongFacts] = []
    rows: list[Mapping[str, Any]] = []
    candidates: list[AlignedLine] = []
    rejected: list[tuple[str, Rejected]] = []
    known: set[str] = set()
    for done, partition in enumerate(partitions):
        seen(done, total)
        refusals = _refusals(dataset, partition)
        windows = list(_windows(dataset, partition, copy_of))
        alignments = dict(_alignments(dataset, partition))
        rejected += refusals
        rows += windows
        code_of = _codes(refusals)
        by_song = {song: list(group) for song, group in itertools.groupby(windows, key=lambda row: row["song"])}
        for indexed in _indexed(dataset, partition):
            song = indexed["id"]
            folded = unicodedata.normalize("NFC", song)
            if folded and folded in known:  # a row that repeats an id: the tables are of the first
                songs.append(SongFacts(**indexed, partition=partition, refused="duplicate_id"))
                continue
            known.add(folded)
            alignment = alignments.get(song, Alignment(()))
            refused = code_of.get(song) or code_of.get(song[:64])  # an id too long is shortened there
            told = _judgement(alignment, by_song.get(song, []))
            songs.append(SongFacts(**indexed, **told, partition=partition, duplicate_of=copy_of.get(song), refused=refused))
            candidates += aligned_lines(song, partition, alignment)
    worst = worst_lines(candidates, lines)
    typical = typical_lines(candidates, worst)
    heard: dict[AlignedLine, Line | None] = {}
    for line, found in heard_lines(dataset, (*worst, *typical)):
        heard[line] = found
        seen(len(partitions) + len(heard), total)
    seen(total, total)
    return Report(
        dataset=str(dataset.path),
        partitions=len(partitions),
        songs=tuple(songs),
        rows=tuple(rows),
        worst=_audible(worst, heard),
        typical=_audible(typical, heard),
        rejected=tuple(rejected),
        to_do=_to_do(dataset, partitions),
    )


def _audible(chosen: Iterable[AlignedLine], heard: Mapping[AlignedLine, Line | None]) -> tuple[Line, ...]:
    return tuple(line for known in chosen if (line := heard[known]) is not None)


def _refusals(dataset: Dataset, partition: int) -> list[tuple[str, Rejected]]:
    """The rejected rows with their steps, in the order of the steps."""
    manifest = Manifest(dataset.folder(partition), partition, FileHashes())
    return [(step, row) for step in sorted(manifest.rejected, key=sort_key) for row in manifest.rejected[step]]


def _codes(refusals: Iterable[tuple[str, Rejected]]) -> dict[str, str]:
    """Song -> the first code it was rejected with."""
    codes: dict[str, str] = {}
    for _, row in refusals:
        if row.code != "duplicate_id":  # said of a row; the song of that id is the first that has it
            codes.setdefault(row.id or "", row.code)
    return codes


def _judgement(alignment: Alignment, windows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a song's alignment and windows say of it, as fields of `SongFacts`."""
    return {
        "trust": alignment.trust,
        "score": float(np.mean([w.score for w in alignment.words])) if alignment.words else None,
        "words": len(alignment.words),
        "windows": len(windows),
        "window_seconds": sum(row["seconds"] for row in windows),
        "sung_seconds": sum(row["seconds"] * row["sung_share"] for row in windows),
        "signal_to_bleed": _median(row["signal_to_bleed"] for row in windows),
        "clipped_share": max((row["clipped_share"] for row in windows if row["clipped_share"] is not None), default=None),
    }


def _indexed(dataset: Dataset, partition: int) -> Iterator[dict[str, Any]]:
    """The rows of the index as fields of `SongFacts`."""
    with open_index(dataset, partition) as reader:
        texts = [name for name in ("lrc_lyrics", "raw_lyrics") if name in reader.schema.names]
        there = [name for name in ("artist", "title", "source") if name in reader.schema.names]
        for row in reader.rows(["id", "audio", *texts, *there]):
            yield {
                "id": row["id"] or "",
                "name": _name(row),
                "artist": row.get("artist"),
                "seconds": _header_seconds(row["audio"]),
                "has_lyrics": any((row[name] or "").strip() for name in texts),
            }


def _name(row: Mapping[str, Any]) -> str:
    if isinstance(title := row.get("title"), str) and title:
        artist = row.get("artist")
        told = isinstance(artist, str) and title.casefold().startswith(f"{artist} - ".casefold())  # as many a tag has it
        return f"{artist} - {title}" if isinstance(artist, str) and artist and not told else title
    return source.rsplit("/", 1)[-1] if isinstance(source := row.get("source"), str) else ""


def _header_seconds(data: bytes | None) -> Seconds | None:
    if not data:
        return None
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            return file.frames / file.samplerate if 0 < file.frames < 1 << 50 else None
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError):
        return None  # the step that decodes it says what is wrong


def _windows(dataset: Dataset, partition: int, copy_of: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    if dataset.table(partition, WINDOWS_TABLE).is_file():
        for row in judged(dataset, partition, copy_of):
            del row["alignment"]
            yield row


def _alignments(dataset: Dataset, partition: int) -> Iterator[tuple[str, Alignment]]:
    path = dataset.table(partition, "alignment")
    if path.is_file():
        with TableReader(path) as reader:
            for row in reader.rows(["id", "alignment"]):
                yield row["id"], Alignment.from_struct(row["alignment"])


def _median(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _to_do(dataset: Dataset, partitions: Sequence[int]) -> tuple[str, ...]:
    """What is not done: steps without an entry in a partition's manifest, songs that no step looked at, tables older than
    what they were made from, partitions made differently, rows without what the step `quality` says."""
    said = []
    manifests = {partition: Manifest(dataset.folder(partition), partition, FileHashes()) for partition in partitions}
    for step in ORDER:
        without = []
        for partition in partitions:
            if step not in {entry.step for entry in manifests[partition].entries.values()}:
                without.append(partition)
        if without and step != "quality":
            which = "in no partition" if len(without) == len(partitions) else f"not in {len(without)} partitions (the first: {without[0]})"
            said.append(f"{step} was done {which}; `autosing-process run {dataset.path}` does every step that is due")
    if stale := {partition: found for partition, manifest in manifests.items() if (found := manifest.stale())}:
        said.append(stale_text(dataset.path, stale))
    said += [*left_over(dataset, partitions), *mixed_makers(dataset, partitions)]
    windowed = [partition for partition in partitions if dataset.table(partition, WINDOWS_TABLE).is_file()]
    lacking = missing_quality(dataset, windowed) if windowed else None
    return (*said, lacking) if lacking else tuple(said)
