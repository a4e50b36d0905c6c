"""How it is sung: key, tempo, chords, form, and a note or more for every syllable.

A song is sections of lines ("intro", "verse", "chorus", "break", "outro") on a grid of beats. A line of lyrics gets a rhythm (natural
durations on half or quarter beats, a held last note), and a contour of scale degrees drawn to chord tones on strong beats; lines of a section
share contours (A B A B), a repeated chorus repeats words and melody. Times in beats here; `score` turns them into seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from autosing.rendering.voices import Singer

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (0, 3, 0, 4), (3, 4, 0, 0), (0, 2, 3, 4), (0, 0, 3, 4), (1, 4, 0, 5)),
    "minor": ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 4), (0, 5, 3, 4), (0, 0, 5, 6), (5, 6, 0, 0)),
}


@dataclass(frozen=True)
class Key:
    """Tonic pitch class 0-11 (0 = C) and mode."""

    tonic: int
    mode: str

    def degree_midi(self, degree: int) -> int:
        """MIDI number of a scale degree; degree 0 is the tonic of octave 4 (MIDI 60 + tonic), 7 the octave above."""
        scale = SCALES[self.mode]
        return 60 + self.tonic + scale[degree % 7] + 12 * (degree // 7)


@dataclass(frozen=True)
class SungNote:
    """Beats from the song's start, and pitch."""

    start: float
    end: float
    midi: int


@dataclass(frozen=True)
class SungWord:
    """A word of a line and, per syllable, its notes (two or more: a melisma)."""

    text: str
    line: int
    syllables: tuple[tuple[SungNote, ...], ...]


@dataclass(frozen=True)
class Score:
    """A song on paper. `sections` are (name, first beat, last beat); `chords` one scale degree a bar."""

    key: Key
    bpm: float
    beats_per_bar: int
    chords: tuple[int, ...]
    sections: tuple[tuple[str, float, float], ...]
    lines: tuple[str, ...]
    words: tuple[SungWord, ...] = field(repr=False)

    @property
    def seconds_per_beat(self) -> float:
        return 60 / self.bpm

    @property
    def seconds(self) -> float:
        return len(self.chords) * self.beats_per_bar * self.seconds_per_beat


def line_rhythm(count: int, bpm: float, density: float, rng: np.random.Generator) -> list[float]:
    """Durations in beats of `count` syllables; the last is held. `density` > 1 sings faster. No note is shorter than 0.13 s."""
    shortest = 0.25 if 0.25 * 60 / bpm >= 0.13 else 0.5
    wanted = float(np.clip(0.24 / density * bpm / 60, shortest, 2))  # about four syllables a second
    grid = np.array([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0])
    grid = grid[grid >= shortest]
    weights = np.exp(-1.6 * np.abs(np.log2(grid / wanted))) * np.where(np.isin(grid, (0.75, 3.0)), 0.4, 1.0)
    weights /= weights.sum()
    durations = [float(value) for value in rng.choice(grid, size=count, p=weights)]
    if rng.random() < 0.5:  # an even pulse, as most lines have
        durations = [wanted_on_grid(wanted, grid) if rng.random() < 0.7 else value for value in durations]
    durations[-1] = max(durations[-1], float(rng.choice([0.5, 1, 1, 1.5, 2, 3, 4], p=[0.2, 0.25, 0.2, 0.1, 0.15, 0.06, 0.04])))
    if rng.random() < 0.12 and count > 2:  # one long note inside
        durations[int(rng.integers(count))] += float(rng.choice([1, 2]))
    return durations


def wanted_on_grid(wanted: float, grid: np.ndarray) -> float:
    """The grid value nearest to `wanted` by ratio."""
    return float(grid[np.argmin(np.abs(np.log(grid / wanted)))])


class Composer:
    """Writes one song for one singer. All chance comes from `rng`."""

    def __init__(self, singer: Singer, key: Key, bpm: float, beats_per_bar: int, rng: np.random.Generator):
        self.singer, self.key, self.bpm, self.bar, self.rng = singer, key, bpm, beats_per_bar, rng
        self.low, self.high = singer.centre_midi - singer.reach, singer.centre_midi + singer.reach
        degrees = [degree for degree in range(-28, 29) if self.low <= key.degree_midi(degree) <= self.high]
        self.degrees = degrees
        self.home = degrees[len(degrees) // 2]
        self.density = float(rng.uniform(0.65, 1.8))
        self.leap = float(rng.uniform(0.1, 0.35))
        self.melisma = float(rng.choice([0.02, 0.06, 0.15]))

    def contour(self, length: int, shift: int) -> list[int]:
        """`length` scale degrees: steps, some leaps and repeats, inside the singer's range."""
        degree = self.home + shift + int(self.rng.integers(-2, 3))
        path = []
        for _ in range(length):
            path.append(int(np.clip(degree, self.degrees[0], self.degrees[-1])))
            step = (
                int(self.rng.choice([-4, -3, 3, 4, 5]))
                if self.rng.random() < self.leap
                else int(self.rng.choice([-2, -1, -1, 0, 0, 1, 1, 2]))
            )
            pull = -1 if degree > self.home + shift + 3 else 1 if degree < self.home + shift - 3 else 0
            degree = path[-1] + step + pull
        return path

    def to_chord(self, degree: int, chord: int) -> int:
        """The nearest tone of the bar's triad inside the range."""
        tones = [option for option in self.degrees if (option - chord) % 7 in (0, 2, 4)]
        return min(tones or [degree], key=lambda option: abs(option - degree))

    def sing_line(
        self,
        words: list[str],
        counts: list[int],
        line: int,
        start: float,
        durations: list[float],
        contour: list[int],
        chords: list[int],
    ) -> tuple[list[SungWord], float]:
        """Lay one line on the grid from beat `start`; returns its words and the beat where it ends. `chords` by bar, cyclic."""
        beat, at, sung = start, 0, []
        for word, count in zip(words, counts, strict=True):
            syllables = []
            for _ in range(count):
                duration, degree = durations[at], contour[at % len(contour)]
                if word in ("a", "the") and duration > 1:  # nobody holds an article
                    duration = 1.0
                strong = beat % self.bar in (0, self.bar // 2) or duration >= 1
                if strong and self.rng.random() < 0.75:
                    degree = self.to_chord(degree, chords[int(beat // self.bar) % len(chords)])
                pitches = [degree]
                if (
                    duration >= 0.5
                    and duration * 60 / self.bpm > 0.45
                    and self.rng.random() < self.melisma * (2 if duration > 1 else 1)
                ):
                    for _ in range(int(self.rng.integers(1, 3))):
                        pitches.append(
                            int(np.clip(pitches[-1] + self.rng.choice([-2, -1, 1, 2]), self.degrees[0], self.degrees[-1]))
                        )
                cuts = np.linspace(0, duration, len(pitches) + 1)
                syllables.append(
                    tuple(
                        SungNote(beat + float(a), beat + float(b), self.key.degree_midi(pitch))
                        for pitch, a, b in zip(pitches, cuts, cuts[1:], strict=False)
                    )
                )
                beat += duration
                at += 1
            sung.append(SungWord(word, line, tuple(syllables)))
        return sung, beat

    def write(self, seconds: float, next_line, count_syllables) -> Score:
        """A song of about `seconds` (whole bars).

        Args:
            next_line: () -> list of words, a fresh line of lyrics.
            count_syllables: word -> number of syllables as this singer says it.
        """
        rng, bar = self.rng, self.bar
        total_bars = max(4, round(seconds * self.bpm / 60 / bar))
        progressions = PROGRESSIONS[self.key.mode]
        verse, chorus = (progressions[int(rng.integers(len(progressions)))] for _ in range(2))
        chords: list[int] = []
        sections: list[tuple[str, float, float]] = []
        lines: list[str] = []
        words: list[SungWord] = []
        kept_chorus: list[tuple[list[str], list[float], list[int]]] | None = None
        intro = int(rng.choice([0, 1, 2, 4], p=[0.25, 0.35, 0.3, 0.1]))
        order = ["intro"] * (intro > 0)
        order += (
            ["verse", "chorus", "verse", "chorus", "break", "chorus"] * 8
            if rng.random() < 0.7
            else ["chorus", "verse", "break"] * 12
        )
        for name in order:
            start = len(chords) * bar
            if len(chords) >= total_bars - 1:
                break
            progression = chorus if name == "chorus" else verse
            if name in ("intro", "break"):
                bars = intro if name == "intro" else int(rng.choice([1, 2, 2]))
                chords += [progression[index % len(progression)] for index in range(bars)]
                sections.append((name, float(start), float(len(chords) * bar)))
                continue
            shift = 2 if name == "chorus" else 0
            contours = [self.contour(20, shift) for _ in range(2)]
            material = kept_chorus if name == "chorus" and kept_chorus and rng.random() < 0.7 else None
            fresh: list[tuple[list[str], list[float], list[int]]] = []
            cursor = float(start) + float(rng.choice([0, 0, 0.5, 1.0]))
            for index in range(int(rng.choice([2, 4, 4])) if material is None else len(material)):
                if material is None:
                    text = next_line()
                    count = sum(map(count_syllables, text))
                    fresh.append((text, line_rhythm(count, self.bpm, self.density, rng), contours[index % 2]))
                    item = fresh[-1]
                else:
                    item = material[index]
                text, durations, contour = item
                if (cursor + sum(durations)) > (total_bars - 0.25) * bar and lines:
                    break
                by_bar = [progression[(b - len(chords)) % len(progression)] for b in range(len(progression))]  # of absolute bars
                counts = [count_syllables(word) for word in text]
                sung, end = self.sing_line(text, counts, len(lines), cursor, durations, contour, by_bar)
                words += sung
                lines.append(" ".join(text))
                rest = float(rng.choice([0.0, 0.5, 1.0, 2.0, 4.0], p=[0.3, 0.35, 0.2, 0.12, 0.03]))
                cursor = end + rest
                if rng.random() < 0.5:  # the next line starts on a half bar
                    cursor = float(np.ceil(cursor / (bar / 2)) * (bar / 2))
            if material is None and name == "chorus":
                kept_chorus = fresh
            bars = max(1, int(np.ceil((cursor - start) / bar - 1e-6)))
            chords += [progression[index % len(progression)] for index in range(bars)]
            sections.append((name, float(start), float(len(chords) * bar)))
        if len(chords) < total_bars:
            start = len(chords) * bar
            chords += [verse[index % len(verse)] for index in range(total_bars - len(chords))]
            sections.append(("outro", float(start), float(len(chords) * bar)))
        return Score(self.key, self.bpm, bar, tuple(chords), tuple(sections), tuple(lines), tuple(words))
