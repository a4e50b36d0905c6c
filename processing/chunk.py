"""`vad_extract`: the sung windows of a song -> chunked.parquet (id `<song>_at_<second>`, song, start, seconds, occupancy, audio, alignment,
lyrics_source).

Which moments are sung comes from the aligner's activity and from the spans of words already found; where the windows are put is
decided in processing/placement.py. A window may run past the end of the song (songs shorter than a window, and tails): it is padded with
silence; `seconds` says how much of it is song.

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
from processing.placement import ACTIVITY_RATE, EDGE_SECONDS, pick_windows, sung_frames, window_id
from processing.separate import load_mixture
from processing.step import Done, Rejected, Song, each
from processing.windows import WINDOW_META, WINDOWS_TABLE

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


class ExtractWindows:
    """Song -> windows with enough singing."""

    name = key = "vad_extract"
    version = "2"
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
        sung = sung_frames(activity, alignment, mixture.seconds)
        slots = pick_windows(sung, mixture.seconds, self._length, self._min_occupancy, alignment)
        if not slots:
            heard_seconds = sung.sum() / ACTIVITY_RATE
            reason = f"{heard_seconds:.0f} of {mixture.seconds:.0f} s are sung, and no window of {self._length} s holds enough of it"
            raise AudioError("too_little_singing", reason + self._advice(sung, mixture.seconds, alignment))
        artist, lyrics_source = song.row("index").get("artist"), song.row("alignment").get("lyrics_source")
        windows = []
        for slot in slots:
            start = slot / ACTIVITY_RATE
            seconds = min(float(self._length), mixture.seconds - start)
            begin = round(start * mixture.sample_rate)
            piece = mixture.samples[:, begin : begin + round(seconds * mixture.sample_rate)]
            held = sung[slot : slot + self._length * ACTIVITY_RATE].sum() / ACTIVITY_RATE
            windows.append(
                {
                    "id": window_id(song.id, start),
                    "song": song.id,
                    "start": start,
                    "seconds": seconds,
                    "occupancy": min(1.0, float(held / seconds)),
                    "artist": artist,
                    "audio": encode(piece, mixture.sample_rate, self._format),
                    "alignment": alignment.clip(start, start + self._length, EDGE_SECONDS).to_struct(),
                    "lyrics_source": lyrics_source,
                }
            )
        return Done(song.id, {WINDOWS_TABLE: windows})

    def _advice(self, sung: np.ndarray, seconds: Seconds, alignment: Alignment) -> str:
        """Which other setting would keep a song without a window."""
        whole = int(seconds)
        if 2 <= whole < self._length and pick_windows(sung, seconds, whole, self._min_occupancy, alignment):
            return f"; --chunk-length {whole} would keep it"
        return "; a lower --min-occupancy would keep it" if pick_windows(sung, seconds, self._length, 1e-9, alignment) else ""
