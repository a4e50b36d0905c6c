"""Rendered songs and real speech as tables: `<out>/<i>/songs.parquet`, and the same songs as an ordinary input dataset.

`SONGS` is the schema: stems as WAV bytes (PCM16, 24 kHz; vocals mono, accompaniment stereo, null for speech), lyrics, and truth in seconds.
Wav columns are stored plain, one row a row group, so that a reader takes single songs. A partition is written whole (`store.atomic_path`)
and a committed partition is skipped: a stopped run goes on where it was, and what is in a partition does not depend on the workers.
`index.parquet` beside it is what `autosing-process` takes: id, audio (FLAC of the mix), lrc_lyrics, raw_lyrics, artist.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autosing.errors import DataError
from autosing.rendering.song import RenderedSong, Studio
from autosing.rendering.voices import SAMPLE_RATE
from autosing.store import TableReader, atomic_path, song_tables

_SPAN = [pa.field("start", pa.float32()), pa.field("end", pa.float32())]
SONGS = pa.schema(
    [
        ("id", pa.string()), ("artist", pa.string()), ("kind", pa.string()), ("sample_rate", pa.int32()), ("vocals", pa.binary()),
        ("accompaniment", pa.binary()), ("raw_lyrics", pa.string()), ("lrc_lyrics", pa.string()),
        ("words", pa.list_(pa.struct([pa.field("text", pa.string()), *_SPAN, pa.field("line", pa.int32())]))),
        ("phones", pa.list_(pa.struct([pa.field("phone", pa.string()), *_SPAN, pa.field("word", pa.int32())]))),
        ("notes", pa.list_(pa.struct([*_SPAN, pa.field("midi", pa.float32())]))),
        ("f0", pa.binary()), ("style", pa.string()), ("language", pa.string()), ("pron", pa.list_(pa.string())),
    ]
)  # fmt: skip
INDEX = pa.schema(
    [("id", pa.string()), ("audio", pa.binary()), ("lrc_lyrics", pa.string()), ("raw_lyrics", pa.string()), ("artist", pa.string())]
)
_PLAIN = [field.name for field in SONGS if field.type == pa.binary()]


def encode(samples: np.ndarray, container: str = "WAV") -> bytes:
    """Bytes of (n,) or (2, n) float audio in [-1, 1] as 16-bit WAV or FLAC, or as OGG Vorbis."""
    import soundfile

    buffer = io.BytesIO()
    subtype = "VORBIS" if container == "OGG" else "PCM_16"
    quality = {"compression_level": 0.75} if container == "OGG" else {}  # about 60 kbit/s in stereo
    soundfile.write(buffer, np.atleast_2d(samples).T, SAMPLE_RATE, format=container, subtype=subtype, **quality)
    return buffer.getvalue()


def song_row(song: RenderedSong) -> dict:
    """A row of SONGS."""
    return {
        "id": song.id, "artist": song.singer.name, "kind": "rendered", "sample_rate": SAMPLE_RATE, "vocals": encode(song.vocals),
        "accompaniment": encode(song.accompaniment), "raw_lyrics": song.raw_lyrics, "lrc_lyrics": song.lrc_lyrics,
        "words": [vars(word) for word in song.words], "phones": [vars(phone) for phone in song.phones],
        "notes": [vars(note) for note in song.notes], "f0": song.f0_hz.astype("<f4").tobytes(), "style": song.style, "language": "en",
        "pron": [phone.phone for phone in song.phones],
    }  # fmt: skip


def write_excerpt(songs: Path, ids: Sequence[str], out: Path) -> int:
    """The songs called `ids` of a rendered dataset as one small partition of `out`, in that order, stems as OGG Vorbis; bytes written.

    Raises:
        DataError: one of them is not there, or a table is damaged.
    """
    found = {}
    for table in song_tables(songs):
        with TableReader(table) as reader:
            rows = {name: reader.get(name, reader.schema.names) for name in ids}
            found |= {name: row for name, row in rows.items() if row is not None}
    if missing := [name for name in ids if name not in found]:
        raise DataError(f"no song '{missing[0]}' in '{songs}'; give ids of its songs")
    target = out / "0" / "songs.parquet"
    stems = ("vocals", "accompaniment")
    write_rows(({**found[name], **{stem: encode(decode(found[name][stem]), "OGG") for stem in stems}} for name in ids), target)
    return target.stat().st_size


def write_rows(rows: Iterable[dict], path: Path) -> int:
    """Write rows of SONGS to `path` atomically, one row a row group; returns their number. Rows are taken one by one."""
    count = 0
    with atomic_path(path) as temporary:
        columns = [name for name in SONGS.names if name not in _PLAIN]
        with pq.ParquetWriter(temporary, SONGS, compression=dict.fromkeys(SONGS.names, "none"), use_dictionary=columns) as writer:
            for row in rows:
                writer.write_table(pa.Table.from_pylist([row], schema=SONGS), row_group_size=1)
                count += 1
    return count


@dataclass(frozen=True)
class Plan:
    """A run of `python -m autosing.rendering songs`: enough to make any of its partitions anywhere."""

    out: Path
    hours: float
    seed: int
    split: str
    partition_size: int
    long_songs: int
    cache: Path
    words_csv: Path | None
    music_dir: Path | None

    MEAN_SECONDS = 30.0
    LONG_SECONDS = 180.0

    @property
    def songs(self) -> int:
        """Number of songs: the long ones first, then about `hours` in all."""
        return self.long_songs + max(1, round((self.hours * 3600 - self.long_songs * self.LONG_SECONDS) / self.MEAN_SECONDS))

    def partitions(self) -> list[range]:
        """Song numbers of each partition."""
        return [range(a, min(a + self.partition_size, self.songs)) for a in range(0, self.songs, self.partition_size)]

    def path(self, partition: int) -> Path:
        return self.out / str(partition) / "songs.parquet"


def render_partition(plan: Plan, partition: int) -> tuple[int, float]:
    """Render and commit one partition; returns (rows, seconds of audio)."""
    studio = Studio(plan.split, plan.cache, plan.words_csv, plan.music_dir)
    seconds = 0.0

    def rows() -> Iterator[dict]:
        nonlocal seconds
        for number in plan.partitions()[partition]:
            song = studio.render(plan.seed, number, plan.LONG_SECONDS if number < plan.long_songs else None)
            seconds += len(song.vocals) / SAMPLE_RATE
            yield song_row(song)

    return write_rows(rows(), plan.path(partition)), seconds


class Partitioned(Protocol):
    """A run that can make any of its partitions anywhere: picklable."""

    def partitions(self) -> list[range]: ...

    def path(self, partition: int) -> Path: ...


def due(plan: Partitioned) -> list[int]:
    """The partitions that are not committed yet."""
    return [index for index in range(len(plan.partitions())) if not plan.path(index).is_file()]


def make_partitions(
    plan: Partitioned, make: Callable[[Any, int], tuple[int, float]], workers: int = 1
) -> Iterator[tuple[int, int, float]]:
    """Make every due partition with `make(plan, partition)`; yields (partition, rows, seconds of audio) as they are committed."""
    if workers <= 1:
        for partition in due(plan):
            yield partition, *make(plan, partition)
        return
    with ProcessPoolExecutor(workers) as pool:
        jobs = {pool.submit(make, plan, partition): partition for partition in due(plan)}
        for job in as_completed(jobs):
            yield jobs[job], *job.result()


def write_index(dataset: Path) -> int:
    """Write `<dataset>/<i>/index.parquet` beside every songs.parquet (rows with accompaniment only); returns the number of songs.

    Raises:
        DataError: no tables there, or a damaged one.
    """
    total = 0
    for path in song_tables(dataset):
        with (
            atomic_path(path.with_name("index.parquet")) as temporary,
            pq.ParquetWriter(temporary, INDEX, compression="none") as writer,
            TableReader(path) as reader,
        ):
            for row in reader.rows(["vocals", "accompaniment", *(name for name in INDEX.names if name != "audio")]):
                if row["accompaniment"] is None:
                    continue
                row["audio"] = encode(decode(row["vocals"])[0] + decode(row["accompaniment"]), "FLAC")
                writer.write_table(pa.Table.from_pylist([{name: row[name] for name in INDEX.names}], schema=INDEX))
                total += 1
    return total


def decode(data: bytes) -> np.ndarray:
    """(channels, n) float32 of audio bytes."""
    import soundfile

    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return np.ascontiguousarray(samples.T)
