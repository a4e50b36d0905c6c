"""One rendered song: everything above put together, from a seed.

`Studio` holds what songs share (word bank, vocabulary, real instrumentals); `Studio.render(seed)` is a pure function of the seed and the
studio's settings, whatever was rendered before.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autosing.errors import DataError
from autosing.rendering.band import Band
from autosing.rendering.lyrics import vocabulary, write_line
from autosing.rendering.melody import Composer, Key
from autosing.rendering.mixing import balance, dress_band, dress_vocals
from autosing.rendering.recordings import estimate_key, real_stretch
from autosing.rendering.singer import Voice
from autosing.rendering.styles import STYLES
from autosing.rendering.voices import FRAME_RATE, SAMPLE_RATE, Singer, WordBank, singers
from autosing.song.lyrics import clock

MUSIC_HELD_OUT = 0.2  # share of the artists of real instrumentals that only the test split hears
REAL_SHARE = 0.5
NOT_FOR_TRAINING = ("macleod_vibe_ace",)  # an evaluation clip


@dataclass(frozen=True)
class TimedWord:
    """Seconds; `line` counts the lines of the lyrics from 0."""

    text: str
    start: float
    end: float
    line: int


@dataclass(frozen=True)
class TimedPhone:
    """Seconds; `word` indexes the song's words."""

    phone: str
    start: float
    end: float
    word: int


@dataclass(frozen=True)
class TimedNote:
    """Seconds and MIDI number."""

    start: float
    end: float
    midi: int


@dataclass(frozen=True)
class RenderedSong:
    """A song with its truth; mix = vocals in the middle + accompaniment, peak below 1. n samples at 24 kHz, m frames at 200 Hz."""

    id: str
    singer: Singer
    style: str
    key: Key
    bpm: float
    vocals: np.ndarray  # (n,) float32
    accompaniment: np.ndarray  # (2, n) float32
    lines: tuple[str, ...]
    line_starts: tuple[float, ...]
    words: tuple[TimedWord, ...]
    phones: tuple[TimedPhone, ...]
    notes: tuple[TimedNote, ...]
    f0_hz: np.ndarray  # (m,) float32, 0 = unvoiced

    @property
    def mix(self) -> np.ndarray:
        """(2, n) float32."""
        return self.vocals + self.accompaniment

    @property
    def raw_lyrics(self) -> str:
        return "\n".join(self.lines)

    @property
    def lrc_lyrics(self) -> str:
        """One stamp a line, hundredths of a second."""
        return "\n".join(f"[{clock(round(t, 2))}]{line}" for t, line in zip(self.line_starts, self.lines, strict=True))


def display(line: str) -> str:
    """A lower-case line as lyrics print it: a capital at its head, "I" large. Splitting it gives the sung words again."""
    return " ".join(word.capitalize() if at == 0 or word.split("'")[0] == "i" else word for at, word in enumerate(line.split()))


def music_artist(path: Path) -> str:
    """The artist of an instrumental by its file name (its first two words, or one where that is a title)."""
    parts = path.stem.split("_")
    return parts[0] if parts[0] in ("macleod", "krux", "cynicmusic", "holizna", "tad", "zelanov") else "_".join(parts[:2])


def music_files(folder: Path, split: str) -> list[Path]:
    """The real instrumentals a split may use; artists are divided by a seeded shuffle, MUSIC_HELD_OUT of them for the test split.

    Raises:
        DataError: no instrumental in the folder.
    """
    files = sorted(file for file in Path(folder).rglob("*") if file.suffix in (".opus", ".ogg", ".flac", ".mp3", ".wav"))
    files = [file for file in files if not file.stem.startswith(NOT_FOR_TRAINING)]
    if not files:
        raise DataError(
            f"no instrumentals (.opus, .ogg, .flac, .mp3, .wav) under {folder}: pass another --music-dir or leave it out"
        )
    artists = sorted({music_artist(file) for file in files})
    np.random.default_rng(20).shuffle(artists)
    held = set(artists[: max(1, round(MUSIC_HELD_OUT * len(artists)))])
    return [file for file in files if (music_artist(file) in held) == (split == "test")]


class Studio:
    """What the songs of one split share.

    Args:
        split: "train" or "test": which singers, words and instrumentals.
        cache: folder of the word bank.
        words_csv: a ``ngram,freq`` table that widens the vocabulary, or None.
        music_dir: real instrumentals, or None for synthesised bands only.
    """

    def __init__(self, split: str, cache: Path, words_csv: Path | None = None, music_dir: Path | None = None):
        self.split = split
        self.singers = singers(split)
        self.vocabulary = vocabulary(split, words_csv)
        self.music = music_files(music_dir, split) if music_dir else []
        self.voice = Voice(WordBank(cache))

    def render(
        self,
        seed: int,
        number: int,
        seconds: float | None = None,
        singer: Singer | None = None,
        style: str | None = None,
        lines: Sequence[str] = (),
        ratio_db: float | None = None,
    ) -> RenderedSong:
        """Song `number` of the collection `seed`.

        Args:
            seed, number: what all chance follows from.
            seconds: about how long; drawn from 20 to 40 if None.
            singer, style: drawn if None; a given style also means a synthesised band.
            lines: lower-case lyrics, taken in turn and from the top again; written by the grammar if empty.
            ratio_db: vocal-to-band ratio; drawn from -6 to 8 if None.
        """
        rng = np.random.default_rng([seed, number, 0 if self.split == "train" else 1])
        singer = singer or self.singers[int(rng.integers(len(self.singers)))]
        seconds = float(rng.uniform(20, 40)) if seconds is None else seconds
        real = (
            self.music[int(rng.integers(len(self.music)))] if self.music and rng.random() < REAL_SHARE and style is None else None
        )
        style = style or str(rng.choice(list(STYLES)))
        table = STYLES[style]
        bpm = round(float(rng.uniform(*table.bpm)), 1)
        if real is None:
            key, beats, music = Key(int(rng.integers(-6, 6)), str(rng.choice(table.modes))), table.beats, None
        else:
            music = real_stretch(real, seconds + 4 * 60 / bpm, rng)
            key, beats, style = estimate_key(music), 4, f"real:{music_artist(real)}"
            bpm = round(float(rng.uniform(70, 125)), 1)
        composer = Composer(singer, key, bpm, beats, rng)
        given = itertools.cycle(line.split() for line in lines)
        score = composer.write(
            seconds, lambda: next(given) if lines else write_line(self.vocabulary, rng), self.voice.count_syllables(singer)
        )
        sung = self.voice.sing(score, singer, rng)
        n = len(sung.vocals)
        if music is None:
            backing = dress_band(Band(style, rng).play(score), rng)
        else:
            backing = music[:, :n] if music.shape[1] >= n else np.pad(music, ((0, 0), (0, n - music.shape[1])), mode="wrap")
            if rng.random() < 0.3:
                backing = dress_band(backing, rng)
        vocals = dress_vocals(sung.vocals, rng)
        active = np.zeros(n, bool)
        hop = SAMPLE_RATE // FRAME_RATE
        for span in sung.phones:
            active[span.start * hop : span.end * hop] = True
        vocals, backing = balance(
            vocals, backing, active, float(rng.uniform(-6, 8)) if ratio_db is None else ratio_db, float(rng.uniform(0.5, 0.95))
        )
        words = tuple(TimedWord(text, a / FRAME_RATE, b / FRAME_RATE, line) for text, a, b, line in sung.words)
        starts = {}
        for word in words:
            starts.setdefault(word.line, word.start)
        return RenderedSong(
            id=f"{self.split}-{seed}-{number:05d}", singer=singer, style=style, key=key, bpm=bpm, vocals=vocals, accompaniment=backing,
            lines=tuple(display(line) for line in score.lines), line_starts=tuple(starts[i] for i in range(len(score.lines))),
            words=words, phones=tuple(TimedPhone(s.phone, s.start / FRAME_RATE, s.end / FRAME_RATE, s.word) for s in sung.phones),
            notes=tuple(TimedNote(a / FRAME_RATE, b / FRAME_RATE, midi) for a, b, midi in sung.notes), f0_hz=sung.f0_hz[: n // hop],
        )  # fmt: skip
