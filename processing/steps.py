"""The steps by name and in order: which there are, what each is made of, and which are needed for a run.

Our order separates first and aligns on the vocals; `align_on="mixture"` gives the original's (align and find windows on the mixture,
then separate). A new step is one file, one row of `_MAKERS` and its place in `ORDER`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autosing.config import nearest
from autosing.errors import ConfigError
from autosing.song.audio import MAX_SECONDS
from autosing.tokens.specs import Seconds
from processing.align import AlignLyrics, Source
from processing.artist_embs import ArtistEmbeddings
from processing.atoks import SOURCES, AcousticTokens
from processing.chunk import ExtractWindows
from processing.quality import RowQuality
from processing.separate import SourceSeparation
from processing.step import Step
from processing.stoks import SemanticTokens

ORDER = ("src_sep", "align", "vad_extract", "quality", "atoks", "stoks", "artist_embs")
ORIGINAL_ORDER = ("align", "vad_extract", "src_sep", "quality", "atoks", "stoks", "artist_embs")


@dataclass(frozen=True)
class Choices:
    """What the user may choose about the steps.

    Attributes:
        separator, aligner, codec, semantic, voice: backend names (autosing/perception).
        align_on: "vocals", or "mixture" for the original's order.
        chunk_length: seconds of a window.
        min_occupancy: share of a window that must be sung.
        audio_format: of the windows in chunked.parquet.
        audio_src: sources that atoks encodes.
        batch_size: windows a model sees at once.
        max_seconds: longer recordings are rejected.
        require_lyrics: songs without lyrics are rejected.
        transcriber: backend that hears the lyrics of songs without any; "" = none.
    """

    separator: str = "builtin"
    aligner: str = "builtin"
    codec: str = "builtin"
    semantic: str = "builtin"
    voice: str = "builtin"
    align_on: Source = "vocals"
    chunk_length: int = 30
    min_occupancy: float = 0.5
    audio_format: str = "opus"
    audio_src: tuple[str, ...] = ("vocals", "no_vocals")
    batch_size: int = 8
    max_seconds: Seconds = MAX_SECONDS
    require_lyrics: bool = False
    transcriber: str = ""

    def __post_init__(self) -> None:
        checks = (
            (self.chunk_length >= 2, "--chunk-length must be at least 2 seconds", self.chunk_length),
            (0 < self.min_occupancy <= 1, "--min-occupancy must be in (0, 1]", self.min_occupancy),
            (self.audio_format in ("opus", "ogg", "flac", "wav", "mp3"), "--audio-format must be opus, ogg, flac, wav or mp3", repr(self.audio_format)),
            (self.batch_size >= 1, "--batch-size must be at least 1", self.batch_size),
            (0 < self.max_seconds < math.inf, "--max-minutes must be a number above 0", self.max_seconds / 60),
        )
        for holds, message, found in checks:
            if not holds:
                raise ConfigError(f"{message}, found {found}")
        for source in self.audio_src:
            if source not in SOURCES:
                raise ConfigError(f"--audio-src has no choice '{source}'{nearest(source, SOURCES)}")


_MAKERS: dict[str, Callable[[Choices], list[Any]]] = {
    "src_sep": lambda c: [SourceSeparation(c.separator, c.max_seconds)],
    "align": lambda c: [AlignLyrics(c.aligner, c.align_on, c.max_seconds, c.require_lyrics, c.transcriber)],
    "vad_extract": lambda c: [
        ExtractWindows(c.aligner, c.align_on, c.chunk_length, c.min_occupancy, c.audio_format, c.max_seconds)
    ],
    "quality": lambda c: [RowQuality(c.max_seconds)],
    "atoks": lambda c: [AcousticTokens(c.codec, source, c.batch_size) for source in c.audio_src],
    "stoks": lambda c: [SemanticTokens(c.semantic, c.batch_size)],
    "artist_embs": lambda c: [ArtistEmbeddings(c.voice)],
}


def make_steps(name: str, choices: Choices) -> list[Step]:
    """The steps of one command word.

    Raises:
        ConfigError: no such step.
    """
    if name not in _MAKERS:
        raise ConfigError(f"no step is called '{name}'{nearest(name, _MAKERS)}")
    return _MAKERS[name](choices)


def all_steps(choices: Choices) -> list[Step]:
    """Every step of a run, in order of dependency."""
    order = ORDER if choices.align_on == "vocals" else ORIGINAL_ORDER
    return [step for name in order for step in make_steps(name, choices)]


def sort_key(key: str) -> tuple[int, str]:
    """Sorts step keys as they are worked: the index first, then `ORDER`, then names not known here."""
    for place, name in enumerate(("index", *ORDER)):
        if key == name or key.startswith(f"{name}_"):
            return place, key
    return len(ORDER) + 1, key
