"""`vad_extract`: the sung windows of a song -> chunked.parquet (id `<song>_at_<second>`, song, start, seconds, occupancy, audio, alignment,
lyrics_source).

How much of each second is sung comes from the aligner's activity, and from the spans of words already found. Dynamic programming picks
windows that never overlap, begin on whole seconds, and together hold the most singing; words cut by a border or by the middle
of the window cost a little. A window may run past the end of the song (songs shorter than a window, and tails): it is padded with
silence, if at least `MIN_SUNG_SECONDS` of it are sung; `seconds` says how much of it is song.

The default occupancy is .5: real songs pause between lines, and the original's .8 drops most of them. `audio` is the mixture, for
listening and for other tools; our own steps cut windows from the song-level stems, so its coding loses nothing.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from autosing.errors import AudioError
from autosing.perception import ALIGNERS, load_aligner
from autosing.song.alignment import ALIGNMENT_TYPE, Alignment
from autosing.song.audio import MAX_SECONDS, decode, encode, resample
from autosing.tokens.specs import Seconds
from processing.align import Source
from processing.fingerprint import identity
from processing.separate import load_mixture
from processing.step import Done, Rejected, Song, each
from processing.windows import WINDOW_META, WINDOWS_TABLE

MIN_SUNG_SECONDS: Seconds = 8.0
"""A window that is not full of song must hold this much singing."""
SUNG = 0.5
"""Activity above this counts as singing."""
CUT_WORD_COST: Seconds = 0.1
WINDOW_COST: Seconds = 1.0
"""Of two ways to hold nearly the same singing, the one with fewer and denser windows."""
ACTIVITY_RATE = 50  # frames a second, by the aligner Protocol
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("song", pa.string()),
        ("start", pa.float64()),
        ("seconds", pa.float64()),
        ("occupancy", pa.float32()),
        ("artist", pa.string()),
        ("audio", pa.binary()),
        ("alignment", ALIGNMENT_TYPE),
        ("lyrics_source", pa.string()),
    ]
)


def sung_share(activity: np.ndarray, alignment: Alignment, duration: Seconds) -> np.ndarray:
    """(F,) probability of singing at `ACTIVITY_RATE`, words -> (S,) sung share of each second, S = ceil(duration)."""
    seconds = max(1, int(np.ceil(duration - 1e-6)))
    sung = np.zeros(seconds * ACTIVITY_RATE, dtype=bool)
    count = min(len(activity), len(sung))
    sung[:count] = activity[:count] > SUNG
    for word in alignment.words:
        sung[max(0, round(word.start * ACTIVITY_RATE)) : max(0, round(word.end * ACTIVITY_RATE))] = True
    return sung.reshape(seconds, ACTIVITY_RATE).mean(axis=1)


def pick_windows(share: np.ndarray, duration: Seconds, length: int, min_occupancy: float, alignment: Alignment) -> list[int]:
    """The starts (whole seconds) of the best windows.

    Args:
        share: (S,) sung share of each second.
        duration: of the song.
        length: of a window, in seconds.
        min_occupancy: a window's sung seconds divided by its seconds of song must reach this.
        alignment: words that should not be cut.
    """
    total = len(share)
    sung_before = np.concatenate([[0.0], np.cumsum(share)])
    borders = np.zeros(total + 2 * length + 2)
    for word in alignment.words:  # a border at second s cuts the words with start < s < end
        borders[int(np.floor(word.start)) + 1 : int(np.ceil(word.end))] += 1
    best = np.zeros(total + 1)
    taken = np.zeros(total, dtype=bool)
    for start in range(total - 1, -1, -1):
        end = min(total, start + length)
        available = min(float(length), duration - start)
        sung = sung_before[end] - sung_before[start]
        enough = min_occupancy * available if available >= length else max(min_occupancy * available, min(MIN_SUNG_SECONDS, length / 2))
        best[start] = best[start + 1]
        if available > 0 and sung > WINDOW_COST and sung >= enough - 1e-9:
            cuts = borders[start] + borders[start + length] + 0.5 * borders[start + length // 2]
            value = sung - WINDOW_COST - CUT_WORD_COST * cuts + best[end]
            if value >= best[start] - 1e-9:  # of equals, the earlier
                best[start], taken[start] = value, True
    starts, second = [], 0
    while second < total:
        if taken[second]:
            starts.append(second)
            second += length
        else:
            second += 1
    return starts


class ExtractWindows:
    """Song -> windows with enough singing."""

    name = key = "vad_extract"
    version = "1"
    writes = (WINDOWS_TABLE,)

    def __init__(
        self,
        aligner: str = "builtin",
        source: Source = "vocals",
        length: int = 30,
        min_occupancy: float = 0.5,
        audio_format: str = "opus",
        max_seconds: Seconds = MAX_SECONDS,
    ):
        self._name, self._source, self._max_seconds = aligner, source, max_seconds
        self._length, self._min_occupancy, self._format = length, min_occupancy, audio_format
        self.reads: dict[str, tuple[str, ...]] = {"index": ("audio", "artist?"), "alignment": ("alignment", "lyrics_source?")}
        if source == "vocals":
            self.reads["vocals"] = ("audio",)

    def settings(self) -> dict[str, Any]:
        return {
            "aligner": identity(ALIGNERS, self._name),
            "source": self._source,
            "length": self._length,
            "min_occupancy": self._min_occupancy,
            "audio_format": self._format,
            "max_seconds": self._max_seconds,
        }

    def setup(self, device: torch.device) -> None:
        self._aligner = load_aligner(self._name, device)

    def schemas(self) -> dict[str, tuple[pa.Schema, dict[str, str]]]:
        return {WINDOWS_TABLE: (SCHEMA, {WINDOW_META: str(float(self._length)), "audio_format": self._format})}

    def rows(self, songs: Iterator[Song]) -> Iterator[Done | Rejected]:
        return each(songs, self._extract)

    def _extract(self, song: Song) -> Done:
        mixture = load_mixture(song, self._max_seconds)
        alignment = Alignment.from_struct(song.row("alignment")["alignment"])
        heard = mixture if self._source == "mixture" else decode(song.row("vocals")["audio"], 1e6)
        wav = resample(heard.samples.mean(dim=0), heard.sample_rate, self._aligner.sample_rate)
        with torch.inference_mode():
            activity = self._aligner.activity(wav).cpu().numpy()
        share = sung_share(activity, alignment, mixture.seconds)
        starts = pick_windows(share, mixture.seconds, self._length, self._min_occupancy, alignment)
        if not starts:
            reason = f"{share.sum():.0f} of {mixture.seconds:.0f} s are sung, and no window of {self._length} s holds enough of it"
            raise AudioError("too_little_singing", reason)
        artist, lyrics_source = song.row("index").get("artist"), song.row("alignment").get("lyrics_source")
        windows = []
        for start in starts:
            seconds = min(float(self._length), mixture.seconds - start)
            begin = round(start * mixture.sample_rate)
            piece = mixture.samples[:, begin : begin + round(seconds * mixture.sample_rate)]
            windows.append(
                {
                    "id": f"{song.id}_at_{start}",
                    "song": song.id,
                    "start": float(start),
                    "seconds": seconds,
                    "occupancy": float(share[start : start + self._length].sum() / seconds),
                    "artist": artist,
                    "audio": encode(piece, mixture.sample_rate, self._format),
                    "alignment": alignment.clip(start, start + self._length).to_struct(),
                    "lyrics_source": lyrics_source,
                }
            )
        return Done(song.id, {WINDOWS_TABLE: windows})
