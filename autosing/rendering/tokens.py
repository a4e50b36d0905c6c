"""Rendered songs -> a training set of tokens, with the true word and phone times instead of aligned ones.

The same rows that separating, aligning and tokenising would give (`construct_dataset`'s main.parquet and dataset.json), without the errors
of ears: what the built-in t2s and sm2a are trained on. Songs longer than a window give several windows, which may overlap; starts lie
on a grid on which every kind of token has a whole step. A song's rows stay in its partition, so a validation set is another folder of songs.
A committed partition is skipped: a stopped run goes on where it was. Training songs can be heard again at other speeds (`altered`): a
longer or shorter throat, in another key, over a band that went the same way.

Letters: n samples, K codec levels, T finest codec frames, N semantic tokens, W voice windows, D width.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from torch import Tensor

from autosing.perception import load_codec, load_semantic, load_voice
from autosing.song import audio
from autosing.song.alignment import ALIGNMENT_TYPE, Alignment, Token, Word
from autosing.store import TableReader, atomic_path, sha256_of, song_tables
from autosing.tokens.specs import Seconds

WINDOW_SECONDS: Seconds = 30.0
VOICE_SECONDS: Seconds = 10.0
LEAST_REST_SECONDS: Seconds = 2.0  # a song this much longer than a window gives one more window, at its end
SPEEDS = (0.86, 0.9, 0.94, 1.06, 1.1, 1.14)  # of altered songs
MAIN = pa.schema(
    [
        ("id", pa.string()), ("song", pa.string()), ("start", pa.float64()), ("artist", pa.string()),
        ("stoks", pa.list_(pa.int32())), ("atoks", pa.list_(pa.int16())), ("mtoks", pa.list_(pa.int16())),
        ("embs", pa.list_(pa.float32())), ("alignment", ALIGNMENT_TYPE), ("trust", pa.float32()),
    ]
)  # fmt: skip


class Tokeniser:
    """Every ear a training row needs, on one device."""

    def __init__(
        self, device: torch.device | str = "cpu", codec: str = "builtin", semantic: str = "builtin", voice: str = "builtin"
    ):
        self.device = torch.device(device)
        self.codec = load_codec(codec, device)
        self.band = load_codec(self.codec.accompaniment, device)
        self.semantic, self.voice = load_semantic(semantic, device), load_voice(voice, device)
        rates = {
            self.codec.spec.sample_rate,
            self.band.spec.sample_rate,
            self.semantic.spec.sample_rate,
            self.voice.spec.sample_rate,
        }
        assert rates == {24000}, "rendered songs are 24 kHz and are given to the ears as they are"
        codec_spec = self.codec.spec
        frame = math.lcm(codec_spec.grain, max(codec_spec.strides)) * codec_spec.hop
        self.grid = math.lcm(frame, 24000 // self.semantic.spec.token_rate)  # samples

    def meta(self) -> dict[str, Any]:
        """The specs as `dataset.json` holds them."""
        return {
            "codec": asdict(self.codec.spec), "accompaniment_codec": asdict(self.band.spec),
            "semantic": asdict(self.semantic.spec), "voice": asdict(self.voice.spec),
        }  # fmt: skip

    @torch.inference_mode()
    def rows(self, song: dict[str, Any], speed: float = 1.0) -> Iterator[dict[str, Any]]:
        """Training rows of a row of songs.parquet, heard at `speed`."""
        window = int(WINDOW_SECONDS * 24000)
        stems = (audio.resample(_read(song[stem]), round(24000 * speed), 24000) for stem in ("vocals", "accompaniment"))
        vocals, band = (_pad(stem, window) for stem in stems)
        suffix = f"_x{speed:g}" if speed != 1.0 else ""
        codes, band_codes = (c.encode(w[None, None].to(self.device))[0].cpu() for c, w in ((self.codec, vocals), (self.band, band)))
        semantic = self.semantic.encode(vocals[None].to(self.device))[0].cpu()
        alignment = true_alignment(song, speed)
        for start in self._starts(vocals.shape[0], window):
            pieces = vocals[start : start + window].reshape(round(WINDOW_SECONDS / VOICE_SECONDS), -1)
            seconds = start / 24000
            frames = slice(start // self.codec.spec.hop, start // self.codec.spec.hop + self.codec.spec.frames(WINDOW_SECONDS))
            first = start * self.semantic.spec.token_rate // 24000
            yield {
                "id": f"{song['id']}{suffix}_at_{seconds:.2f}", "song": song["id"], "start": seconds, "artist": song["artist"] + suffix,
                "stoks": semantic[first : first + self.semantic.spec.tokens(WINDOW_SECONDS)].tolist(),
                "atoks": codes[:, frames].reshape(-1).tolist(), "mtoks": band_codes[:, frames].reshape(-1).tolist(),
                "embs": self.voice.embed(_unpaused(pieces).to(self.device)).cpu().reshape(-1).tolist(),
                "alignment": alignment.clip(seconds, seconds + WINDOW_SECONDS).to_struct(), "trust": 1.0,
            }  # fmt: skip

    def _starts(self, n: int, window: int) -> list[int]:
        last = (n - window) // self.grid * self.grid
        starts = list(range(0, last + 1, max(self.grid, window // self.grid * self.grid)))
        if last - starts[-1] > LEAST_REST_SECONDS * 24000:
            starts.append(last)
        return starts


def true_alignment(song: dict[str, Any], speed: float = 1.0) -> Alignment:
    """The exact times of a rendered song's words and phones, heard at `speed`."""
    words = tuple(Word(w["text"], w["start"] / speed, w["end"] / speed, 1.0, w["line"]) for w in song["words"])
    tokens = tuple(
        Token(p["phone"], p["start"] / speed, p["end"] / speed, 1.0, p["word"]) for p in song["phones"] if p["word"] is not None and p["word"] >= 0
    )
    return Alignment(words, tokens, trust=1.0)


def altered_speed(song_id: str, copy: int) -> float:
    """The speed at which a song is heard for the `copy`-th time more: one of `SPEEDS`, another one each time."""
    first = int.from_bytes(hashlib.sha256(song_id.encode()).digest()[:4])
    return SPEEDS[(first + copy) % len(SPEEDS)] if copy else 1.0


def write_tokens(
    songs: Path | None, out: Path, validation: Path | None, share: tuple[int, int] = (0, 1), altered: int = 0
) -> Iterator[str]:
    """Tokenise every partition of `songs` and of `validation` into the training set `out`; yields a line of progress a partition.

    Args:
        altered: how often every training song comes once more, at another speed each time; at most `len(SPEEDS)`.
        share: (i, k): make only every k-th partition from i on, so that k processes share the work; the last to finish writes
            dataset.json, when every partition is there.

    Raises:
        DataError: no song tables there, or a damaged one.
    """
    sources = [(source, copy) for copy in range(altered + 1) for source in (song_tables(songs) if songs else [])]
    train = len(sources)
    sources += [(source, 0) for source in (song_tables(validation) if validation else [])]
    tokeniser = Tokeniser()
    for number, (source, copy) in enumerate(sources):
        target = out / str(number) / "main.parquet"
        if number % share[1] != share[0] or target.is_file():
            continue
        rows = [row for song in _songs(source) for row in tokeniser.rows(song, altered_speed(song["id"], copy))]
        with atomic_path(target) as path:
            pq.write_table(
                pa.Table.from_pylist(rows, schema=MAIN), path, compression="zstd", write_page_checksum=True, row_group_size=64
            )
        yield f"partition {number}: {len(rows)} windows"
    targets = [out / str(number) / "main.parquet" for number in range(len(sources))]
    if not all(t.is_file() for t in targets):
        return
    counts = [pq.read_metadata(t).num_rows for t in targets]
    values = {
        "format": "autosing-dataset/1", "kind": "tokens", "parts": ["main"],
        "partitions": {"train": list(range(train)), "validation": list(range(train, len(sources)))},
        "rows": {"train": sum(counts[:train]), "validation": sum(counts[train:])},
        **tokeniser.meta(), "window_seconds": WINDOW_SECONDS, "seed": 0,
        "source_hash": hashlib.sha256("".join(map(sha256_of, targets)).encode()).hexdigest(),
    }  # fmt: skip
    with atomic_path(out / "dataset.json") as path:
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    yield f"{out / 'dataset.json'}: {values['rows']}"


def _songs(path: Path) -> Iterator[dict[str, Any]]:
    with TableReader(path) as reader:
        for row in reader.rows(["id", "artist", "kind", "vocals", "accompaniment", "words", "phones"]):
            if row["accompaniment"] is not None and row["words"]:
                yield row


def _read(data: bytes) -> Tensor:
    """WAV bytes -> (n,) float32, channels averaged."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    assert rate == 24000
    return torch.from_numpy(np.ascontiguousarray(samples.mean(axis=1)))


def _pad(wav: Tensor, n: int) -> Tensor:
    return torch.nn.functional.pad(wav, (0, max(0, n - wav.shape[0])))


def _unpaused(pieces: Tensor) -> Tensor:
    """(W, n) with pieces of silence replaced by the loudest piece: an embedding of silence says nothing about the singer."""
    level = pieces.square().mean(1)
    quiet = level < 1e-3 * level.max()
    return torch.where(quiet[:, None], pieces[level.argmax()][None], pieces)
