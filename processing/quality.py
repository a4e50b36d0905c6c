"""`quality`: the windows of a song -> quality.parquet (id, song, signal_to_bleed, silence_share, clipped_share, fingerprint).

What is measured here needs no model. Trust, singing share and word scores are in chunked.parquet already; all of them become columns of the
training rows, for `construct_dataset --filter`. The bleed of the accompaniment into the vocals is estimated where nobody sings: there the
vocals hold nothing else, so their power over that of the accompaniment says how much leaks (`leak`), and the same share of the accompaniment
is taken for bleed where somebody sings. A song without words, or without `MIN_UNSUNG_SECONDS` of accompaniment alone, gets null.

Letters: C channels, n samples, F frames of 20 ms, S stretches, B bands.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from autosing.song.alignment import Alignment
from autosing.song.audio import MAX_SECONDS, Audio, decode
from autosing.song.runs import spans_of
from autosing.tokens.specs import Seconds
from processing.placement import ACTIVITY_RATE
from processing.separate import load_mixture
from processing.step import Done, Rejected, Song, each
from processing.windows import WINDOW_COLUMNS, WINDOWS_TABLE

QUALITY_TABLE = "quality"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("song", pa.string()),
        ("signal_to_bleed", pa.float32()),  # dB
        ("silence_share", pa.float32()),
        ("clipped_share", pa.float32()),
        ("fingerprint", pa.string()),
    ]
)
SILENCE_POWER = 10 ** (-60 / 10)
"""A frame below -60 dBFS in RMS is silent."""
FULL_SCALE = 0.999
CLIPPED_RUN = 3
"""So many samples on end at full scale are clipped; a limiter that only touches it leaves single ones."""
MIN_UNSUNG_SECONDS: Seconds = 2.0
MARGIN_SECONDS: Seconds = 0.3
"""Around a word nobody is taken for silent: breaths, held endings, times that are a little off."""
QUIET_ACCOMPANIMENT = 10 ** (-30 / 10)
"""Frames in which the accompaniment is this far below its mean say little about how it leaks."""
RANGE_DB = 40.0
"""Estimates are clipped to plus and minus this."""
STRETCHES, BANDS = 33, 9
"""A fingerprint compares 33 stretches of a song in 9 bands: 32 x 8 = 256 bits."""
SAME_BITS = 40
"""Two fingerprints that differ in fewer bits are of one recording; those of two recordings differ in about 128, give or take 8."""
_KEY_BITS = 16


class RowQuality:
    """Windows -> what training may filter on."""

    name = key = QUALITY_TABLE
    version = "1"
    writes = (QUALITY_TABLE,)

    def __init__(self, max_seconds: Seconds = MAX_SECONDS):
        self._max_seconds = max_seconds
        self.reads: dict[str, tuple[str, ...]] = {
            "index": ("audio",),
            "vocals": ("audio",),
            "no_vocals": ("audio",),
            "alignment": ("alignment",),
            WINDOWS_TABLE: (*WINDOW_COLUMNS, "seconds"),
        }

    def settings(self) -> dict[str, Any]:
        return {"max_seconds": self._max_seconds}

    def setup(self, device: torch.device) -> None:
        del device

    def schemas(self) -> dict[str, tuple[pa.Schema, dict[str, str]]]:
        return {QUALITY_TABLE: (SCHEMA, {})}

    def rows(self, songs: Iterator[Song]) -> Iterator[Done | Rejected]:
        return each(songs, self._measure)

    def _measure(self, song: Song) -> Done:
        mixture = load_mixture(song, self._max_seconds)
        loud = frame_power(mixture)
        vocals, accompaniment = (frame_power(decode(song.row(table)["audio"], 1e6)) for table in ("vocals", "no_vocals"))
        alignment = Alignment.from_struct(song.row("alignment")["alignment"])
        frames = min(len(vocals), len(accompaniment))
        sung, unsung = sung_and_not(alignment, frames)
        share = leak(vocals[:frames], accompaniment[:frames], unsung)
        mark = fingerprint(mixture)
        rows = []
        for window in song.rows(WINDOWS_TABLE):
            begin, end = (round(t * ACTIVITY_RATE) for t in (window["start"], window["start"] + window["seconds"]))
            first, last = (round(t * mixture.sample_rate) for t in (window["start"], window["start"] + window["seconds"]))
            here = np.zeros(frames, dtype=bool)
            here[begin:end] = sung[begin:end]
            rows.append(
                {
                    "id": window["id"],
                    "song": song.id,
                    "signal_to_bleed": signal_to_bleed(vocals[:frames][here], accompaniment[:frames][here], share),
                    "silence_share": float((loud[begin:end] < SILENCE_POWER).mean()),
                    "clipped_share": clipped_share(mixture.samples[:, first:last].numpy()),
                    "fingerprint": mark,
                }
            )
        return Done(song.id, {QUALITY_TABLE: rows})


def frame_power(audio: Audio) -> np.ndarray:
    """Samples (C, n) -> (F,) mean power of frames of 1 / `ACTIVITY_RATE` s, F = floor(seconds x rate), at least one."""
    power = audio.samples.square().mean(dim=0).double().numpy()
    edges = np.round(np.arange(max(1, int(audio.seconds * ACTIVITY_RATE)) + 1) * audio.sample_rate / ACTIVITY_RATE).astype(int)
    edges = np.minimum(edges, len(power))
    before = np.concatenate([[0.0], np.cumsum(power)])
    return (before[edges[1:]] - before[edges[:-1]]).clip(min=0) / np.maximum(1, np.diff(edges))


def sung_and_not(alignment: Alignment, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """-> (F,) inside a word, and (F,) `MARGIN_SECONDS` away from every word (nothing where there are no words)."""
    sung, near = np.zeros(frames, dtype=bool), np.zeros(frames, dtype=bool)
    for word in alignment.words:
        sung[round(word.start * ACTIVITY_RATE) : round(word.end * ACTIVITY_RATE)] = True
        near[max(0, round((word.start - MARGIN_SECONDS) * ACTIVITY_RATE)) : round((word.end + MARGIN_SECONDS) * ACTIVITY_RATE)] = True
    return sung, ~near if alignment.words else near


def leak(vocals: np.ndarray, accompaniment: np.ndarray, unsung: np.ndarray) -> float | None:
    """Powers (F,) of the stems -> the power of the vocals over that of the accompaniment where nobody sings, the median of the frames.

    The median, since choirs and ad libs that the lyrics leave out are singing all the same. None: too few frames to say.
    """
    heard = unsung & (accompaniment > max(SILENCE_POWER, QUIET_ACCOMPANIMENT * float(accompaniment.mean())))
    if heard.sum() < MIN_UNSUNG_SECONDS * ACTIVITY_RATE:
        return None
    return float(np.median(vocals[heard] / accompaniment[heard]))


def signal_to_bleed(vocals: np.ndarray, accompaniment: np.ndarray, leaks: float | None) -> float | None:
    """Powers of the stems in sung frames -> dB of singing over accompaniment in the vocals; None: unknown, or nothing sung."""
    if leaks is None or not len(vocals):
        return None
    bleed = leaks * float(accompaniment.sum())
    singing = float(vocals.sum()) - bleed
    least = 10 ** (-RANGE_DB / 10)
    ratio = singing / bleed if bleed > 0 else np.inf
    return float(10 * np.log10(np.clip(ratio, least, 1 / least)))


def clipped_share(samples: np.ndarray) -> float:
    """(C, n) -> the share of samples that lie in a run of `CLIPPED_RUN` or more at full scale."""
    if not samples.size:
        return 0.0
    full = np.abs(samples) >= FULL_SCALE
    if not full.any():
        return 0.0
    clipped = 0
    for channel in full:
        runs = np.diff(spans_of(channel))
        clipped += int(runs[runs >= CLIPPED_RUN].sum())
    return clipped / full.size


def fingerprint(audio: Audio) -> str:
    """What a recording has in common with its copies in other files, formats and levels: 256 bits as 64 hexadecimal digits.

    A bit says whether the step from one band to the next grew from one stretch of the song to the next (Haitsma and Kalker 2002, at the
    scale of a song). The bands are 9 thirds of octaves from 300 to 2400 Hz, which every format keeps.
    """
    samples = audio.samples.mean(dim=0)
    length = max(1, len(samples) // STRETCHES)
    window = 1 << 12
    energies = np.zeros((STRETCHES, BANDS))
    edges = 300 * 2 ** (np.arange(BANDS + 1) / 3)
    bins = np.round(edges / audio.sample_rate * window).astype(int)
    for stretch in range(STRETCHES):
        piece = samples[stretch * length : (stretch + 1) * length]
        piece = torch.nn.functional.pad(piece, (0, -len(piece) % window)).reshape(-1, window)
        power = torch.fft.rfft(piece * torch.hann_window(window)).abs().square().sum(dim=0).double().numpy()
        energies[stretch] = [power[a : max(b, a + 1)].sum() for a, b in itertools.pairwise(bins)]
    levels = np.log(energies + 1e-6 * energies.max() + 1e-30)
    bits = np.diff(np.diff(levels, axis=1), axis=0) > 0
    return np.packbits(bits).tobytes().hex()


def copies(prints: Mapping[str, str]) -> dict[str, str]:
    """Song -> fingerprint, in the order of the dataset, to song -> the first song that it is a copy of; songs that are no copy are absent.

    Songs are compared where `_KEY_BITS` neighbouring bits agree: of two copies some always do.
    """
    found: dict[str, str] = {}
    bits: dict[str, np.ndarray] = {}
    seen: dict[tuple[int, bytes], list[str]] = {}
    for song, text in prints.items():
        packed = bytes.fromhex(text)
        mine = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
        keys = [(place, packed[place : place + _KEY_BITS // 8]) for place in range(0, len(packed), _KEY_BITS // 8)]
        near = {other: int((bits[other] != mine).sum()) for key in keys for other in seen.get(key, ())}
        alike = [other for other, differing in near.items() if differing < SAME_BITS]
        if alike:
            found[song] = alike[0]
            continue  # later copies are compared with the first
        bits[song] = mine
        for key in keys:
            seen.setdefault(key, []).append(song)
    return found
