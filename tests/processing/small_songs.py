"""Short songs as bytes and as index tables, and what tests read of a dataset."""

import io
from pathlib import Path

import fake_ears
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

RATE = fake_ears.RATE
SMALL = [*fake_ears.FLAGS, "--chunk-length", "4", "--audio-format", "flac"]


def tone(seconds: float, frequency: float = 220.0, level: float = 0.3, rate: int = RATE, channels: int = 2) -> np.ndarray:
    """(n, channels) of a steady tone: everything of it counts as sung by the fake aligner."""
    wave = level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


def audio_bytes(samples: np.ndarray, rate: int = RATE, kind: str = "FLAC", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def write_index(folder: Path, rows: list[dict], **columns: pa.DataType) -> None:
    """An index.parquet as a user would write it, without our writer."""
    kinds = {"id": pa.string(), "audio": pa.binary(), "lrc_lyrics": pa.string(), "raw_lyrics": pa.string(), "artist": pa.string(), **columns}
    names = [n for n in kinds if any(n in row for row in rows)] or ["id", "audio"]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({n: pa.array([row.get(n) for row in rows], kinds[n]) for n in names}), folder / "index.parquet")


def tables(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def make_songs(root: Path) -> Path:
    """Two partitions: a 13 s and a 9 s song with lyrics, then one of 6 s without and one with stamps and an artist."""
    lines = "one two three four\nfive six seven eight"
    stamped = "[00:00.00]one two three four\n[00:05.00]five six seven eight"
    write_index(
        root / "0",
        [
            {"id": "alpha", "audio": audio_bytes(tone(13)), "raw_lyrics": lines, "artist": "A", "year": 1999},
            {"id": "beta", "audio": audio_bytes(tone(9, 330)), "lrc_lyrics": stamped, "artist": "B", "year": 2000},
        ],
        year=pa.int64(),
    )
    write_index(
        root / "1",
        [
            {"id": "gamma", "audio": audio_bytes(tone(6, 440, channels=1))},
            {"id": "delta", "audio": audio_bytes(tone(8, 550)), "lrc_lyrics": stamped, "artist": "A"},
        ],
    )
    return root
