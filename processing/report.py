"""What a person wants to know of a processed dataset before training on it: counts, hours, songs, rows, the worst-aligned lines, refusals.

`gather` reads the tables of the partitions once, streaming; processing/page.py makes a page of what it returns. Nothing is computed again and no
model is loaded: a table that is not there leaves its part empty and is named in `to_do`. Only the songs whose lines are shown are decoded.
"""

import heapq
import io
import itertools
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile
import torch

from autosing.errors import AudioError, ConfigError
from autosing.song.alignment import Alignment, Word
from autosing.song.audio import Audio, decode, encode, resample
from autosing.store import Dataset, TableReader
from autosing.tokens.specs import Seconds
from processing.index import INDEX, open_index
from processing.judged import duplicates, judged, missing_quality
from processing.manifest import FileHashes, Manifest, stale_text
from processing.step import Rejected
from processing.steps import ORDER, sort_key
from processing.windows import WINDOWS_TABLE

LINES_A_SONG = 3
"""So that one song with wrong lyrics does not fill the list of worst lines."""
TYPICAL_LINES = 3
MARGIN_SECONDS: Seconds = 0.7
"""Heard before and after a line."""
MAX_CLIP_SECONDS: Seconds = 15.0
CLIP_RATE, CLIP_FORMAT = 22_050, "mp3"
"""Small, and played by every browser: 15 s are about 60 kB."""
WAVE_POINTS = 300


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
class Line:
    """A sung line to be judged by ear.

    Attributes:
        words: times relative to the clip; those that begin after its end are left out.
        start: of the clip in the song.
        song_clip, vocals_clip: encoded as `CLIP_FORMAT`; empty where there is no such table.
        wave: (WAVE_POINTS,) peaks of the vocals (of the song where there are none) in [0, 1].
        cut: the line is longer than the clip.
    """

    song: str
    number: int
    score: float
    words: tuple[Word, ...]
    start: Seconds
    seconds: Seconds
    song_clip: bytes
    vocals_clip: bytes
    wave: tuple[float, ...]
    cut: bool = False


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


@dataclass(frozen=True)
class _Candidate:
    """A line before its audio is read."""

    score: float
    song: str
    partition: int
    number: int
    words: tuple[Word, ...]


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
    candidates: list[_Candidate] = []
    rejected: list[tuple[str, Rejected]] = []
    known: set[str] = set()
    for done, partition in enumerate(partitions):
        seen(done, total)
        manifest = Manifest(dataset.folder(partition), partition, FileHashes())
        refused: dict[str, str] = {}
        for step in sorted(manifest.rejected, key=sort_key):
            for row in manifest.rejected[step]:
                rejected.append((step, row))
                if row.code != "duplicate_id":  # said of a row; the song of that id is the first that has it
                    refused.setdefault(row.id or "", row.code)
        found = list(_windows(dataset, partition, copy_of))
        rows += found
        aligned = dict(_alignments(dataset, partition))
        by_song = {song: list(group) for song, group in itertools.groupby(found, key=lambda row: row["song"])}
        for facts in _indexed(dataset, partition):
            folded = unicodedata.normalize("NFC", facts["id"])
            first = not folded or folded not in known
            known.add(folded)
            alignment = aligned.get(facts["id"], Alignment(()))
            mine = by_song.get(facts["id"], [])
            if not first:  # a row that repeats an id: the tables are of the first
                songs.append(SongFacts(**facts, partition=partition, refused="duplicate_id"))
                continue
            songs.append(
                SongFacts(
                    **facts,
                    partition=partition,
                    trust=alignment.trust,
                    score=float(np.mean([w.score for w in alignment.words])) if alignment.words else None,
                    words=len(alignment.words),
                    windows=len(mine),
                    window_seconds=sum(row["seconds"] for row in mine),
                    sung_seconds=sum(row["seconds"] * row["sung_share"] for row in mine),
                    signal_to_bleed=_median(row["signal_to_bleed"] for row in mine),
                    clipped_share=max((row["clipped_share"] for row in mine if row["clipped_share"] is not None), default=None),
                    duplicate_of=copy_of.get(facts["id"]),
                    refused=refused.get(facts["id"]) or refused.get(facts["id"][:64]),  # an id too long is shortened there
                )
            )
            candidates += _lines(facts["id"], partition, alignment)
    worst = _worst(candidates, lines)
    typical = _typical(candidates, worst)
    shown = []
    for done, line in enumerate((*worst, *typical)):
        seen(len(partitions) + done, total)
        shown.append(_heard(dataset, line))
    seen(total, total)
    return Report(
        dataset=str(dataset.path),
        partitions=len(partitions),
        songs=tuple(songs),
        rows=tuple(rows),
        worst=tuple(line for line in shown[: len(worst)] if line is not None),
        typical=tuple(line for line in shown[len(worst) :] if line is not None),
        rejected=tuple(rejected),
        to_do=_to_do(dataset, partitions),
    )


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


def _lines(song: str, partition: int, alignment: Alignment) -> Iterator[_Candidate]:
    for number, group in itertools.groupby(alignment.words, key=lambda word: word.line):
        words = tuple(group)
        yield _Candidate(float(np.mean([word.score for word in words])), song, partition, number, words)


def _worst(candidates: Sequence[_Candidate], count: int) -> list[_Candidate]:
    """The lines of the lowest mean word score, at most `LINES_A_SONG` of a song."""
    chosen: list[_Candidate] = []
    of_song: dict[str, int] = {}
    ordered = [(line.score, place) for place, line in enumerate(candidates)]
    heapq.heapify(ordered)
    while ordered and len(chosen) < count:
        line = candidates[heapq.heappop(ordered)[1]]
        if of_song.get(line.song, 0) < LINES_A_SONG:
            of_song[line.song] = of_song.get(line.song, 0) + 1
            chosen.append(line)
    return chosen


def _typical(candidates: Sequence[_Candidate], worst: Sequence[_Candidate]) -> list[_Candidate]:
    """Lines of about the median score, each of another song, to compare the worst with."""
    left = [line for line in candidates if line not in worst]
    if not left:
        return []
    middle = float(np.median([line.score for line in left]))
    chosen: list[_Candidate] = []
    for line in sorted(left, key=lambda line: (abs(line.score - middle), line.song, line.number)):
        if len(chosen) < TYPICAL_LINES and line.song not in {other.song for other in chosen}:
            chosen.append(line)
    return chosen


def _heard(dataset: Dataset, line: _Candidate) -> Line | None:
    """The line with its audio; None if the song cannot be decoded any more."""
    sources = []
    for table in (INDEX, "vocals"):
        path = dataset.table(line.partition, table)
        row = None
        if path.is_file():
            with TableReader(path) as reader:
                row = reader.get(line.song, ["id", "audio"])
        try:
            sources.append(None if row is None else decode(row["audio"], 1e6))
        except AudioError:
            return None
    song, vocals = sources
    first = song or vocals
    if first is None:
        return None
    begin = max(0.0, line.words[0].start - MARGIN_SECONDS)
    wanted = min(first.seconds, max(word.end for word in line.words) + MARGIN_SECONDS)
    end = min(wanted, begin + MAX_CLIP_SECONDS)
    words = tuple(w._replace(start=w.start - begin, end=min(w.end, end) - begin) for w in line.words if w.start < end)
    wave = peaks_of(vocals or first, begin, end)
    clips = [b"" if audio is None else clip_of(audio, begin, end) for audio in sources]
    return Line(line.song, line.number, line.score, words, begin, end - begin, clips[0], clips[1], wave, end < wanted)


def _cut(audio: Audio, begin: Seconds, end: Seconds) -> torch.Tensor:
    """-> (n,) the channels' mean between two times."""
    return audio.samples[:, round(begin * audio.sample_rate) : round(end * audio.sample_rate)].mean(dim=0)


def clip_of(audio: Audio, begin: Seconds, end: Seconds) -> bytes:
    """The sound between two times as `CLIP_FORMAT`, about as loud as it may be."""
    samples = resample(_cut(audio, begin, end), audio.sample_rate, CLIP_RATE)
    peak = float(samples.abs().max()) if len(samples) else 0.0
    return encode(samples * min(0.9 / peak, 10.0) if peak > 0 else samples, CLIP_RATE, CLIP_FORMAT)


def peaks_of(audio: Audio, begin: Seconds, end: Seconds) -> tuple[float, ...]:
    """(WAVE_POINTS,) peaks between two times in [0, 1]."""
    samples = _cut(audio, begin, end).abs().numpy()
    edges = np.linspace(0, len(samples), WAVE_POINTS + 1).astype(int)
    peaks = [float(samples[a : max(b, a + 1)].max(initial=0.0)) for a, b in itertools.pairwise(edges)]
    top = max(*peaks, 1e-9)
    return tuple(peak / top for peak in peaks)


def _median(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _to_do(dataset: Dataset, partitions: Sequence[int]) -> tuple[str, ...]:
    """What is not done: steps without an entry in a partition's manifest, tables older than what they were made from, rows without what the step
    `quality` says."""
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
    windowed = [partition for partition in partitions if dataset.table(partition, WINDOWS_TABLE).is_file()]
    lacking = missing_quality(dataset, windowed) if windowed else None
    return (*said, lacking) if lacking else tuple(said)
