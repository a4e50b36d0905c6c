"""`src_sep`: the mixture of a song -> vocals.parquet and no_vocals.parquet, whole songs as FLAC at the separator's rate.

The vocals are kept mono, the accompaniment as the song has it. Stems that would clip are turned down by one common `gain`, so their sum
stays the mixture up to that factor. This step is where a recording is first decoded: what is wrong with it is found here.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch

from autosing.errors import AudioError
from autosing.perception import SEPARATORS, load_separator
from autosing.song.audio import MAX_SECONDS, Audio, decode, encode, require_sound, resample
from autosing.tokens.specs import Seconds
from processing.fingerprint import identity
from processing.step import Done, Rejected, Song, each

MIN_SECONDS: Seconds = 1.0
STEM_SCHEMA = pa.schema([("id", pa.string()), ("audio", pa.binary()), ("gain", pa.float32())])


def load_mixture(song: Song, max_seconds: Seconds) -> Audio:
    """Decode a song of the index and refuse what no step can use.

    Raises:
        AudioError: the codes of `autosing.song.audio.decode`, and `missing_audio`, `silent`, `too_short`.
    """
    data = song.row("index")["audio"]
    if data is None:
        raise AudioError("missing_audio", "the audio cell is null; give the bytes of a wav, flac, mp3, ogg or opus file")
    audio = decode(data, max_seconds)
    if audio.seconds < MIN_SECONDS:
        raise AudioError("too_short", f"lasts {audio.seconds:.3f} s, less than {MIN_SECONDS:.0f} s; give a longer recording")
    return require_sound(audio)


class SourceSeparation:
    """Mixture -> stems."""

    name = key = "src_sep"
    version = "1"
    reads = {"index": ("audio",)}  # noqa: RUF012
    writes = ("vocals", "no_vocals")

    def __init__(self, separator: str = "builtin", max_seconds: Seconds = MAX_SECONDS):
        self._name, self._max_seconds = separator, max_seconds

    def settings(self) -> dict[str, Any]:
        return {"separator": identity(SEPARATORS, self._name), "max_seconds": self._max_seconds}

    def setup(self, device: torch.device) -> None:
        self._separator = load_separator(self._name, device)

    def schemas(self) -> dict[str, tuple[pa.Schema, dict[str, str]]]:
        meta = {"separator": self._separator.name, "sample_rate": str(self._separator.sample_rate)}
        return {table: (STEM_SCHEMA, meta) for table in self.writes}

    def rows(self, songs: Iterator[Song]) -> Iterator[Done | Rejected]:
        return each(songs, self._separate)

    def _separate(self, song: Song) -> Done:
        audio = load_mixture(song, self._max_seconds)
        rate = self._separator.sample_rate
        with torch.inference_mode():
            stems = self._separator.separate(resample(audio.samples, audio.sample_rate, rate))
        vocals, accompaniment = stems.vocals.cpu().mean(dim=0, keepdim=True), stems.accompaniment.cpu()
        peak = max(float(vocals.abs().max()), float(accompaniment.abs().max()))
        gain = min(1.0, 0.999 / max(peak, 1e-9))
        rows = {
            table: [{"id": song.id, "audio": encode(stem * gain, rate, "flac"), "gain": gain}]
            for table, stem in (("vocals", vocals), ("no_vocals", accompaniment))
        }
        return Done(song.id, rows)
