"""Synthesised accompaniments: a band plays the chords and sections of a score in one of the styles of `styles.py`.

`Band.play(score)` gives (2, n) float32 at 24 kHz. A style names its instruments (`instruments.py`), patterns and drums; a song draws timbres, pans
and levels around them. Accompaniments from recordings are in `recordings.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from autosing.rendering.instruments import INSTRUMENTS, drum
from autosing.rendering.melody import Key, Score
from autosing.rendering.styles import STYLES, Part
from autosing.rendering.voices import SAMPLE_RATE


class Strike(NamedTuple):
    """A note of one player: beats from the beginning of the song, pitch, seconds, and gain."""

    beat: float
    midi: int
    seconds: float
    gain: float


@dataclass(frozen=True)
class _Feel:
    """How a song's beats fall in time; seconds. Off-beats come `swing` late, every stroke by about `loose`."""

    seconds_per_beat: float
    swing: float
    loose: float

    def sample(self, beat: float, rng: np.random.Generator) -> int:
        late = self.swing if beat * 2 % 2 == 1 else 0
        return int((beat * self.seconds_per_beat + late + abs(rng.normal(0, self.loose))) * SAMPLE_RATE)


class Band:
    """Plays one song in one style; timbres, pans, levels and muted sections drawn from `rng`. Notes are memoised by (part, pitch, length)."""

    def __init__(self, style: str, rng: np.random.Generator):
        self.style = STYLES[style]
        self.rng = rng
        self.tones = [float(rng.uniform(0, 1)) for _ in self.style.parts]
        self._memo: dict[tuple, np.ndarray] = {}

    def _note(self, slot: int, instrument: str, midi: int, seconds: float) -> np.ndarray:
        length = max(0.05, round(seconds * 20) / 20)
        key = (slot, instrument, midi, length)
        if key not in self._memo:
            n = int(length * SAMPLE_RATE)
            tone = self.tones[slot % len(self.tones)]
            wave = INSTRUMENTS[instrument](440 * 2 ** ((midi - 69) / 12), n, tone, self.rng)
            self._memo[key] = (wave / (np.sqrt(np.mean(wave[: SAMPLE_RATE // 4] ** 2)) + 1e-6) * 0.1).astype(np.float32)
        return self._memo[key]

    @staticmethod
    def _triad(key: Key, degree: int, octave: int) -> list[int]:
        return [key.degree_midi(degree + step) + 12 * octave - 12 * (degree + step > 6) for step in (0, 2, 4)]

    def _strikes(self, part: Part, score: Score, bar: int, density: float) -> list[Strike]:
        """Of one part in one bar."""
        start, spb, rng = bar * score.beats_per_bar, score.seconds_per_beat, self.rng
        triad = self._triad(score.key, score.chords[bar], part.octave)
        following = score.chords[bar + 1] if bar + 1 < len(score.chords) else score.chords[bar]
        if part.figure == "hold":
            return [Strike(start, midi, score.beats_per_bar * spb, 1.0) for midi in triad]
        step = score.beats_per_bar / len(part.pattern)
        hits = [index for index, mark in enumerate(part.pattern) if mark == "x"]
        out = []
        for order, index in enumerate(hits):
            if rng.random() > density:
                continue
            beat = start + index * step
            until = hits[order + 1] if order + 1 < len(hits) else len(part.pattern)
            seconds = min((until - index) * step * spb, 2.0) * 0.95
            gain = float(rng.uniform(0.75, 1.0))
            if part.figure == "root":
                out.append(Strike(beat, triad[0], seconds, gain))
            elif part.figure == "octave":
                out.append(Strike(beat, triad[0] + 12 * (order % 2), seconds, gain))
            elif part.figure == "walk":
                lead_in = order == len(hits) - 1 and rng.random() < 0.4
                pitch = (
                    self._triad(score.key, following, part.octave)[0] - 1 if lead_in and order else triad[(0, 2, 1, 2)[order % 4]]
                )
                out.append(Strike(beat, pitch, seconds, gain))
            elif part.figure == "arpeggio":
                out.append(Strike(beat, ([*triad, triad[0] + 12])[(0, 1, 2, 3, 2, 1)[order % 6]], max(seconds, 0.4), gain))
            else:
                lag = 0.014 / spb if part.figure == "strum" else 0.0
                notes = triad + ([triad[0] + 12] if part.figure == "strum" else [])
                out += [Strike(beat + lag * number, midi, seconds, gain * 0.7) for number, midi in enumerate(notes)]
        return out

    def _lead_line(self, score: Score, bars: list[int]) -> list[Strike]:
        """A simple tune over the given bars (intros, breaks, fills)."""
        out, degree = [], 7
        for bar in bars:
            beat = 0.0
            while beat < score.beats_per_bar:
                length = float(self.rng.choice([0.5, 0.5, 1.0, 1.5, 2.0]))
                degree = int(np.clip(degree + self.rng.integers(-2, 3), 2, 14))
                if beat == 0:
                    degree = min(
                        (d for d in range(2, 15) if (d - score.chords[bar]) % 7 in (0, 2, 4)), key=lambda d: abs(d - degree)
                    )
                if self.rng.random() < 0.85:
                    seconds = length * score.seconds_per_beat * 0.95
                    out.append(Strike(bar * score.beats_per_bar + beat, score.key.degree_midi(degree), seconds, 0.9))
                beat += length
        return out

    def play(self, score: Score) -> np.ndarray:
        """(2, n) float32, n as many samples as the score lasts; not level-matched."""
        rng, bars = self.rng, range(len(score.chords))
        mix = np.zeros((2, round(score.seconds * SAMPLE_RATE)), np.float32)
        section = {
            bar: name
            for name, a, b in score.sections
            for bar in range(int(a // score.beats_per_bar), int(b // score.beats_per_bar))
        }
        spb = score.seconds_per_beat
        feel = _Feel(spb, swing=float(rng.choice([0, 0, 0, 0.12, 0.3])) * spb / 2, loose=float(rng.uniform(0, 0.008)))
        lead_bars = [bar for bar in bars if section.get(bar) in ("intro", "break", "outro") or rng.random() < 0.12]
        players: list[tuple[int, Part | None]] = [
            (slot, part) for slot, part in enumerate(self.style.parts) if slot == 0 or rng.random() < 0.85
        ]
        if rng.random() < 0.7:
            players.append((len(self.style.parts), None))  # the lead
        for slot, part in players:
            density = float(rng.uniform(0.85, 1.0))
            if part is None:
                instrument, level = str(rng.choice(self.style.leads)), 0.7
                strikes = self._lead_line(score, lead_bars)
            else:
                instrument, level = part.instrument, part.level
                off = self._silent_sections() if slot > 0 else set()
                strikes = [s for bar in bars if section.get(bar) not in off for s in self._strikes(part, score, bar, density)]
            line = self._line(slot, instrument, strikes, feel, mix.shape[1])
            self._place(mix, line, level * float(rng.uniform(0.6, 1.3)), narrow=part is not None and part.octave < -1)
        self._drums(mix, score, section, feel)
        return mix

    def _silent_sections(self) -> set[str]:
        """In which one player, or the drums, do not play."""
        return {name for name in ("intro", "verse", "break", "outro") if self.rng.random() < 0.2}

    def _line(self, slot: int, instrument: str, strikes: Iterable[Strike], feel: _Feel, n: int) -> np.ndarray:
        """(n,) of one player."""
        line = np.zeros(n + SAMPLE_RATE * 4, np.float32)
        for strike in strikes:
            wave = self._note(slot, instrument, int(np.clip(strike.midi, 24, 100)), strike.seconds)
            at = feel.sample(strike.beat, self.rng)
            room = min(len(wave), len(line) - at)
            line[at : at + room] += wave[:room] * np.float32(strike.gain)
        return line[:n]

    def _place(self, mix: np.ndarray, line: np.ndarray, level: float, narrow: bool) -> None:
        """Add a mono line to the stereo mix: panned, some with a short delay between the sides."""
        rng = self.rng
        pan = 0.0 if narrow or rng.random() < 0.2 else float(rng.uniform(-0.85, 0.85))
        left, right = np.cos((pan + 1) * np.pi / 4) * level * 1.41, np.sin((pan + 1) * np.pi / 4) * level * 1.41
        delay = int(rng.uniform(0.006, 0.022) * SAMPLE_RATE) if not narrow and rng.random() < 0.35 else 0
        mix[0] += line * np.float32(left)
        mix[1, delay:] += line[: len(line) - delay] * np.float32(right)

    def _drums(self, mix: np.ndarray, score: Score, section: dict[int, str], feel: _Feel) -> None:
        rng, n = self.rng, mix.shape[1]
        if not self.style.drums or rng.random() < 0.12:
            return
        off = self._silent_sections()
        gain_all = float(rng.uniform(0.5, 1.2))
        for kind, pattern, level in self.style.drums:
            stroke = drum(kind, rng)
            stroke = (stroke / (np.abs(stroke).max() + 1e-9) * 0.5 * level * gain_all).astype(np.float32)
            pan = 0.0 if kind in ("kick", "snare", "clap") else float(rng.uniform(-0.5, 0.5))
            step = score.beats_per_bar / len(pattern)
            line = np.zeros(n + SAMPLE_RATE * 2, np.float32)
            for bar in range(len(score.chords)):
                if section.get(bar) in off:
                    continue
                for index, mark in enumerate(pattern):
                    if mark != "x" or rng.random() < 0.04:
                        continue
                    at = feel.sample(bar * score.beats_per_bar + index * step, rng)
                    if at < n:
                        line[at : at + len(stroke)] += stroke * np.float32(rng.uniform(0.7, 1.0))
                if bar % 4 == 3 and kind in ("snare", "tom") and rng.random() < 0.5:  # a fill
                    for index in range(int(rng.integers(2, 6))):
                        at = int(((bar + 1) * score.beats_per_bar - 0.25 * (index + 1)) * score.seconds_per_beat * SAMPLE_RATE)
                        if 0 <= at < n:
                            line[at : at + len(stroke)] += stroke * np.float32(rng.uniform(0.4, 0.9))
            mix[0] += line[:n] * np.float32(1 - max(0, pan))
            mix[1] += line[:n] * np.float32(1 + min(0, pan))
