"""`align`: lyrics + recording -> alignment.parquet, the times of every word of a song.

Reads the separated vocals, or the mixture (`--align-on mixture`, the original's order). A song without lyrics, or with lyrics that hold no
word, keeps an empty alignment without trust (note `no_lyrics`): it still teaches sm2a, and t2s a placeholder; `--require-lyrics` rejects it
with the code `no_lyrics`. Lyrics that cannot belong to the recording reject it.
"""

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
import torch

from autosing.errors import AlignmentError
from autosing.perception import ALIGNERS, load_aligner
from autosing.song.alignment import ALIGNMENT_TYPE, Alignment
from autosing.song.audio import MAX_SECONDS, decode, resample
from autosing.song.lyrics import parse
from autosing.tokens.specs import Seconds
from processing.fingerprint import identity
from processing.separate import load_mixture
from processing.step import Done, Rejected, Song, each

Source = Literal["vocals", "mixture"]
LYRICS_COLUMNS = ("lrc_lyrics?", "raw_lyrics?")
NO_LYRICS = "no_lyrics"
"""Note or rejection of a song whose lyrics hold no word; aligners raise it too (`AlignmentError.code`)."""
SCHEMA = pa.schema([("id", pa.string()), ("alignment", ALIGNMENT_TYPE)])


class AlignLyrics:
    """Lyrics -> word times."""

    name = key = "align"
    version = "2"
    writes = ("alignment",)

    def __init__(
        self, aligner: str = "builtin", source: Source = "vocals", max_seconds: Seconds = MAX_SECONDS, require_lyrics: bool = False
    ):
        self._name, self._source, self._max_seconds, self._require_lyrics = aligner, source, max_seconds, require_lyrics
        self.reads: dict[str, tuple[str, ...]] = (
            {"vocals": ("audio",), "index": LYRICS_COLUMNS} if source == "vocals" else {"index": ("audio", *LYRICS_COLUMNS)}
        )

    def settings(self) -> dict[str, Any]:
        return {
            "aligner": identity(ALIGNERS, self._name),
            "source": self._source,
            "max_seconds": self._max_seconds,
            "require_lyrics": self._require_lyrics,
        }

    def setup(self, device: torch.device) -> None:
        self._aligner = load_aligner(self._name, device)

    def schemas(self) -> dict[str, tuple[pa.Schema, dict[str, str]]]:
        return {"alignment": (SCHEMA, {"aligner": self._aligner.name, "source": self._source})}

    def rows(self, songs: Iterator[Song]) -> Iterator[Done | Rejected]:
        return each(songs, self._align)

    def _align(self, song: Song) -> Done:
        row = song.row("index")
        lyrics = parse(row.get("lrc_lyrics"), row.get("raw_lyrics"))
        if not lyrics.lines:
            if self._source == "mixture":
                load_mixture(song, self._max_seconds)  # rejects what cannot be decoded, as separation would
            return self._without_lyrics(song)
        audio = load_mixture(song, self._max_seconds) if self._source == "mixture" else decode(song.row("vocals")["audio"], 1e6)
        wav = resample(audio.samples.mean(dim=0), audio.sample_rate, self._aligner.sample_rate)
        try:
            with torch.inference_mode():
                alignment = self._aligner.align(wav, lyrics)
        except AlignmentError as error:
            if error.code != NO_LYRICS:
                raise
            return self._without_lyrics(song)
        return Done(song.id, {"alignment": [{"id": song.id, "alignment": alignment.to_struct()}]})

    def _without_lyrics(self, song: Song) -> Done:
        if self._require_lyrics:
            raise AlignmentError(NO_LYRICS, "the song has no lyrics that hold a word; add them, or leave out --require-lyrics")
        return Done(song.id, {"alignment": [{"id": song.id, "alignment": Alignment(()).to_struct()}]}, (NO_LYRICS,))
