"""`align`: lyrics + recording -> alignment.parquet, the times of every word of a song.

Reads the separated vocals, or the mixture (`--align-on mixture`, the original's order). A song without lyrics, or with lyrics that hold no
word, keeps an empty alignment without trust (note `no_lyrics`): it still teaches sm2a, and t2s a placeholder; `--require-lyrics` rejects it
with the code `no_lyrics`. With a transcriber such songs get the lyrics that it hears, where they fit, and `lyrics_source` says so in every table
down to the training rows. Written lyrics that cannot belong to the recording reject it.
"""

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
import torch

from autosing.errors import AlignmentError
from autosing.perception import ALIGNERS, TRANSCRIBERS, load_aligner, load_transcriber
from autosing.perception.alignment.base import ears_of
from autosing.song.alignment import ALIGNMENT_TYPE, Alignment
from autosing.song.audio import MAX_SECONDS, Audio, decode, resample
from autosing.song.lyrics import Lyrics, parse
from autosing.tokens.specs import Seconds
from processing.fingerprint import identity
from processing.separate import load_mixture
from processing.step import Done, Rejected, Song, each

Source = Literal["vocals", "mixture"]
LYRICS_COLUMNS = ("lrc_lyrics?", "raw_lyrics?")
NO_LYRICS = "no_lyrics"
"""Note or rejection of a song whose lyrics hold no word; aligners raise it too (`AlignmentError.code`)."""
TRANSCRIBED = "transcribed"
"""`lyrics_source` of a song whose lyrics were heard; else "lrc" or "raw", and null where there are none."""
SCHEMA = pa.schema([("id", pa.string()), ("alignment", ALIGNMENT_TYPE), ("lyrics_source", pa.string())])


class AlignLyrics:
    """Lyrics -> word times."""

    name = key = "align"
    version = "5"
    writes = ("alignment",)

    def __init__(
        self,
        aligner: str = "builtin",
        source: Source = "vocals",
        max_seconds: Seconds = MAX_SECONDS,
        require_lyrics: bool = False,
        transcriber: str = "",
    ):
        self._name, self._source, self._max_seconds, self._require_lyrics = aligner, source, max_seconds, require_lyrics
        self._transcriber_name = transcriber
        self.reads: dict[str, tuple[str, ...]] = (
            {"vocals": ("audio",), "index": LYRICS_COLUMNS} if source == "vocals" else {"index": ("audio", *LYRICS_COLUMNS)}
        )

    def settings(self) -> dict[str, Any]:
        return {
            "aligner": identity(ALIGNERS, self._name),
            "source": self._source,
            "max_seconds": self._max_seconds,
            "require_lyrics": self._require_lyrics,
            **({"transcriber": identity(TRANSCRIBERS, self._transcriber_name)} if self._transcriber_name else {}),
        }

    def setup(self, device: torch.device) -> None:
        self._aligner = load_aligner(self._name, device)
        self._transcriber = load_transcriber(self._transcriber_name, device) if self._transcriber_name else None

    def schemas(self) -> dict[str, tuple[pa.Schema, dict[str, str]]]:
        return {"alignment": (SCHEMA, {"aligner": self._aligner.name, "source": self._source})}

    def rows(self, songs: Iterator[Song]) -> Iterator[Done | Rejected]:
        return each(songs, self._align)

    def _align(self, song: Song) -> Done:
        row = song.row("index")
        lyrics = parse(row.get("lrc_lyrics"), row.get("raw_lyrics"))
        source = "lrc" if lyrics.stamped else "raw"
        if not lyrics.lines and self._transcriber is None:
            if self._source == "mixture":
                load_mixture(song, self._max_seconds)  # rejects what cannot be decoded, as separation would
            return self._without_lyrics(song)
        audio = load_mixture(song, self._max_seconds) if self._source == "mixture" else decode(song.row("vocals")["audio"], 1e6)
        if not lyrics.lines:
            lyrics, source = self._transcribe(audio), TRANSCRIBED
        wav = ears_of(self._aligner, audio.samples, audio.sample_rate)
        try:
            with torch.inference_mode():
                alignment = self._aligner.align(wav, lyrics)
        except AlignmentError as error:
            if error.code != NO_LYRICS and source != TRANSCRIBED:
                raise
            return self._without_lyrics(song)
        return Done(song.id, {"alignment": [{"id": song.id, "alignment": alignment.to_struct(), "lyrics_source": source}]})

    def _transcribe(self, audio: Audio) -> Lyrics:
        assert self._transcriber is not None
        wav = resample(audio.samples.mean(dim=0), audio.sample_rate, self._transcriber.sample_rate)
        with torch.inference_mode():
            return self._transcriber.transcribe(wav)

    def _without_lyrics(self, song: Song) -> Done:
        if self._require_lyrics:
            raise AlignmentError(NO_LYRICS, "the song has no lyrics that hold a word; add them, or leave out --require-lyrics")
        return Done(song.id, {"alignment": [{"id": song.id, "alignment": Alignment(()).to_struct(), "lyrics_source": None}]}, (NO_LYRICS,))
