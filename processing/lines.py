"""Sung lines to be judged by ear: which of the aligned ones are shown, with their words, their sound and its wave.

Times are seconds; `AlignedLine` knows a line before its audio is read, `Line` with it. How a page shows them is said in processing/page_parts.py.
"""

import contextlib
import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import torch

from autosing.errors import AudioError
from autosing.song.alignment import Alignment, Word
from autosing.song.audio import Audio, decode, encode, resample
from autosing.store import Dataset, TableReader
from autosing.tokens.specs import Seconds
from processing.index import INDEX

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
class AlignedLine:
    """A line before its words and audio are read; `score` is the mean of its words."""

    score: float
    song: str
    partition: int
    number: int


def aligned_lines(song: str, partition: int, alignment: Alignment) -> Iterator[AlignedLine]:
    """Every line that has a word."""
    for number, words in itertools.groupby(alignment.words, key=attrgetter("line")):
        yield AlignedLine(float(np.mean([word.score for word in words])), song, partition, number)


def worst_lines(candidates: Sequence[AlignedLine], count: int) -> list[AlignedLine]:
    """The lines of the lowest mean word score, at most `LINES_A_SONG` of a song."""
    chosen: list[AlignedLine] = []
    of_song: dict[str, int] = {}
    ordered = [(line.score, place) for place, line in enumerate(candidates)]
    heapq.heapify(ordered)
    while ordered and len(chosen) < count:
        line = candidates[heapq.heappop(ordered)[1]]
        if of_song.get(line.song, 0) < LINES_A_SONG:
            of_song[line.song] = of_song.get(line.song, 0) + 1
            chosen.append(line)
    return chosen


def typical_lines(candidates: Sequence[AlignedLine], worst: Sequence[AlignedLine]) -> list[AlignedLine]:
    """Lines of about the median score, each of another song, to compare the worst with."""
    left = [line for line in candidates if line not in worst]
    if not left:
        return []
    middle = float(np.median([line.score for line in left]))
    chosen: list[AlignedLine] = []
    for line in sorted(left, key=lambda line: (abs(line.score - middle), line.song, line.number)):
        if len(chosen) < TYPICAL_LINES and line.song not in {other.song for other in chosen}:
            chosen.append(line)
    return chosen


def heard_lines(dataset: Dataset, lines: Iterable[AlignedLine]) -> Iterator[tuple[AlignedLine, Line | None]]:
    """Each line with its words and its audio, in the order of the tables, which are read once; None if the song cannot be decoded any more."""
    for partition, of_partition in itertools.groupby(sorted(lines, key=attrgetter("partition")), key=attrgetter("partition")):
        with contextlib.ExitStack() as stack:
            paths = {table: dataset.table(partition, table) for table in ("alignment", INDEX, "vocals")}
            readers = {table: stack.enter_context(TableReader(path)) for table, path in paths.items() if path.is_file()}
            place = {song: position for position, song in enumerate(readers["alignment"].column("id"))}
            in_order = sorted(of_partition, key=lambda line: (place[line.song], line.number))
            for song, of_song in itertools.groupby(in_order, key=attrgetter("song")):
                words, sounds = _words(readers["alignment"], song), _sounds(readers, song)
                for line in of_song:
                    yield line, None if sounds is None else _heard(line, [word for word in words if word.line == line.number], *sounds)


def _words(alignments: TableReader, song: str) -> tuple[Word, ...]:
    row = alignments.get(song, ["id", "alignment"])
    assert row is not None, f"{song} is not in alignment"
    return Alignment.from_struct(row["alignment"]).words


def _sounds(readers: Mapping[str, TableReader], song: str) -> tuple[Audio | None, Audio | None] | None:
    """Song and vocals, as far as there are such tables; None where there are none, or one cannot be decoded."""
    rows = [readers[table].get(song, ["id", "audio"]) if table in readers else None for table in (INDEX, "vocals")]
    try:
        mixture, vocals = (None if row is None else decode(row["audio"], 1e6) for row in rows)
    except AudioError:
        return None
    return None if mixture is None and vocals is None else (mixture, vocals)


def _heard(line: AlignedLine, words: Sequence[Word], mixture: Audio | None, vocals: Audio | None) -> Line:
    first = mixture or vocals
    assert first is not None
    begin = max(0.0, words[0].start - MARGIN_SECONDS)
    wanted = min(first.seconds, max(word.end for word in words) + MARGIN_SECONDS)
    end = min(wanted, begin + MAX_CLIP_SECONDS)
    shown = tuple(w._replace(start=w.start - begin, end=min(w.end, end) - begin) for w in words if w.start < end)
    wave = peaks_of(vocals or first, begin, end)
    clips = [b"" if audio is None else clip_of(audio, begin, end) for audio in (mixture, vocals)]
    return Line(line.song, line.number, line.score, shown, begin, end - begin, clips[0], clips[1], wave, end < wanted)


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


def _cut(audio: Audio, begin: Seconds, end: Seconds) -> torch.Tensor:
    """-> (n,) the channels' mean between two times."""
    return audio.samples[:, round(begin * audio.sample_rate) : round(end * audio.sample_rate)].mean(dim=0)
