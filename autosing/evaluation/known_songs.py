"""Recordings with reference times of their words: rendered songs, and real ones as the folders `ultrastar_cc` and `jamendolyrics` publish them.

Times are seconds; words are in the order of the lyrics, and lines count from 0.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autosing.perception.separation.base import Separator, vocals_of
from autosing.song.lyrics import Line, Lyrics
from autosing.store import song_rows
from autosing.tokens.specs import Seconds

ENGLISH = "English"


class TimedWord(NamedTuple):
    """A reference word; `line` counts from 0."""

    text: str
    start: Seconds
    end: Seconds
    line: int


@dataclass(frozen=True)
class KnownSong:
    """A recording with reference times.

    Attributes:
        name: of the song, unique in its collection.
        wavs: what is aligned, by kind ("mixture", "vocals"): (n,), or (2, n) in stereo, float32 at `sample_rate`.
        words: the reference.
        language: in English.
    """

    name: str
    wavs: dict[str, Tensor]
    sample_rate: int
    words: tuple[TimedWord, ...]
    language: str = ENGLISH

    @property
    def seconds(self) -> Seconds:
        return next(iter(self.wavs.values())).shape[-1] / self.sample_rate

    def starts(self) -> np.ndarray:
        return np.array([w.start for w in self.words])

    def excerpt(self, seconds: Seconds) -> "KnownSong":
        """The song to `seconds` after its first word begins."""
        end = self.words[0].start + seconds
        wavs = {kind: wav[..., : round(end * self.sample_rate)] for kind, wav in self.wavs.items()}
        return replace(self, wavs=wavs, words=tuple(word for word in self.words if word.end <= end) or self.words[:1])

    def lyrics(self, stamps: str) -> Lyrics:
        """The words as lyrics with `stamps` "none", "starts" (of lines) or "ends" (starts and ends of lines)."""
        by_line: dict[int, list[TimedWord]] = {}
        for word in self.words:
            by_line.setdefault(word.line, []).append(word)
        lines = []
        for line in by_line.values():
            start = None if stamps == "none" else line[0].start
            end = max(w.end for w in line) if stamps == "ends" else None
            lines.append(Line(" ".join(w.text for w in line), start, end))
        return Lyrics(tuple(lines))


def rendered_songs(folder: Path, limit: int | None = None) -> Iterator[KnownSong]:
    """Rendered songs with their true words, heard alone and, where there is a band, with it.

    Raises:
        DataError: no table, or a damaged one.
    """
    from autosing.song.audio import load, mono

    count = 0
    for row in song_rows(folder, ["id", "vocals", "accompaniment", "words"]):
        if limit is not None and count >= limit:
            return
        words = tuple(TimedWord(w["text"], w["start"], w["end"], w["line"]) for w in row["words"] or ())
        if not words:
            continue
        count += 1
        vocals = mono(load(row["vocals"], 24000))
        wavs = {"vocals": vocals}
        if row["accompaniment"] is not None:
            wavs["mixture"] = vocals + load(row["accompaniment"], 24000)[:, : len(vocals)]
        yield KnownSong(row["id"], wavs, 24000, words)


def with_separated(songs: Iterable[KnownSong], separator: Separator) -> Iterator[KnownSong]:
    """The same songs with the vocals that `separator` finds in their mixture as a further input, "separated": what processing aligns on."""
    for song in songs:
        if "mixture" in song.wavs:
            vocals = vocals_of(separator, torch.atleast_2d(song.wavs["mixture"]), song.sample_rate)
            song = replace(song, wavs={**song.wavs, "separated": vocals})
        yield song


def real_songs(folder: Path, sample_rate: int = 24000, limit: int | None = None) -> Iterator[KnownSong]:
    """The songs of `<folder>/ultrastar_cc` and `<folder>/jamendolyrics` with their published word times, as mixtures; `limit` of either."""
    from autosing.song.audio import load

    for song in sorted((Path(folder) / "ultrastar_cc").glob("*/words.derived.csv"))[:limit]:
        audio = next(p for p in song.parent.iterdir() if p.stem == "audio")
        rows = list(csv.DictReader(io.StringIO(song.read_text(encoding="utf-8"))))
        words = _known_words(rows, [row["word"] for row in rows])
        yield KnownSong(song.parent.name, {"mixture": load(audio.read_bytes(), sample_rate)}, sample_rate, words)
    lyrics = Path(folder) / "jamendolyrics" / "lyrics"
    annotated = sorted((Path(folder) / "jamendolyrics" / "annotations" / "words").glob("*.csv"))[:limit]
    languages = _languages(Path(folder) / "jamendolyrics" / "JamendoLyrics.csv") if annotated else {}
    for song in annotated:
        audio = Path(folder) / "jamendolyrics" / "mp3" / f"{song.stem}.mp3"
        rows = list(csv.DictReader(io.StringIO(song.read_text(encoding="utf-8"))))
        texts = (lyrics / f"{song.stem}.words.txt").read_text(encoding="utf-8").split("\n")
        words = _known_words(rows, texts[: len(rows)])
        wavs = {"mixture": load(audio.read_bytes(), sample_rate)}
        yield KnownSong(song.stem, wavs, sample_rate, words, languages.get(song.stem, "unknown"))


def _languages(table: Path) -> dict[str, str]:
    """Song -> its language, as the table of a collection says; empty where there is no table."""
    if not table.is_file():
        return {}
    rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8")))
    return {Path(row["Filepath"]).stem: row["Language"] for row in rows}


def _known_words(rows: Sequence[dict[str, str]], texts: Sequence[str]) -> tuple[TimedWord, ...]:
    words, line = [], 0
    for row, text in zip(rows, texts, strict=True):
        words.append(TimedWord(text.strip().replace(" ", ""), float(row["word_start"]), float(row["word_end"]), line))
        line += row["line_end"] not in ("", "nan")
    return tuple(words)
