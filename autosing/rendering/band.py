"""Accompaniments: twelve synthesised styles as tables of parts, and stretches of real instrumentals.

`Band.play(score)` gives (2, n) float32 at 24 kHz following the score's chords and sections. A style names its instruments, patterns and
drums; a song draws timbres, pans and levels around them. Patterns are strings of eighth or sixteenth notes a bar ("x" strike, "." rest).
`real_stretch` reads a stretch of a recording and `estimate_key` its key, so that a melody can at least share its scale.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import signal

from autosing.rendering.melody import Key, Score
from autosing.rendering.voices import SAMPLE_RATE, resample

_NYQUIST = SAMPLE_RATE / 2


def _envelope(n: int, attack: float, decay: float, release: float = 0.03) -> np.ndarray:
    """Linear attack, exponential decay (seconds to fall by e; 0 = none), linear release at the end."""
    time = np.arange(n) / SAMPLE_RATE
    shape = np.exp(-time / decay) if decay else np.ones(n)
    a, r = min(n, max(1, int(attack * SAMPLE_RATE))), min(n, max(1, int(release * SAMPLE_RATE)))
    shape[:a] *= np.linspace(0, 1, a)
    shape[-r:] *= np.linspace(1, 0, r)
    return shape


def _harmonics(
    hz: float, n: int, slope: float, count: int, rng: np.random.Generator, damping: float = 0.0, stretch: float = 0.0
) -> np.ndarray:
    """Sum of sines k hz with amplitude k^-slope, each dying `damping` k faster, made slightly sharp by `stretch` (strings)."""
    time = np.arange(n, dtype=np.float32) / SAMPLE_RATE
    wave = np.zeros(n, np.float32)
    for k in range(1, count + 1):
        partial = hz * k * np.sqrt(1 + stretch * k * k)
        if partial > 0.95 * _NYQUIST:
            break
        sine = np.sin(np.float32(2 * np.pi * partial) * time + np.float32(rng.uniform(0, 6.28)))
        wave += (sine * np.exp(-damping * k * time) if damping else sine) * np.float32(k**-slope)
    return wave


def _saw(hz: float, n: int, detune_cents: tuple[float, ...], rng: np.random.Generator, cutoff_hz: float) -> np.ndarray:
    """Detuned sawtooths through a one-pole low-pass."""
    wave = np.zeros(n)
    for cents in detune_cents:
        phase = (np.arange(n) * hz * 2 ** (cents / 1200) / SAMPLE_RATE + rng.random()) % 1
        wave += 2 * phase - 1
    pole = np.exp(-2 * np.pi * min(cutoff_hz, 0.45 * SAMPLE_RATE) / SAMPLE_RATE)
    return signal.lfilter([1 - pole], [1, -pole], signal.lfilter([1 - pole], [1, -pole], wave)) / len(detune_cents)


def _pluck(hz: float, n: int, brightness: float, sustain: float, rng: np.random.Generator) -> np.ndarray:
    """Karplus-Strong string: a noise burst in a damped delay loop."""
    period = SAMPLE_RATE / hz
    delay = int(period - 0.5)
    burst = rng.standard_normal(delay)
    burst = signal.lfilter([brightness], [1, brightness - 1], burst)
    burst -= burst.mean()
    x = np.zeros(n)
    x[: min(n, delay)] = burst[: min(n, delay)]
    loss = 0.001 ** (1 / (hz * sustain))
    fraction = period - 0.5 - delay
    denominator = np.zeros(delay + 2)
    denominator[0] = 1
    denominator[delay] = -loss * (1 - (0.5 * fraction + 0.25))
    denominator[delay + 1] = -loss * (0.5 * fraction + 0.25)
    return signal.lfilter([1.0], denominator, x)


def _piano(hz, n, tone, rng):
    return _harmonics(hz, n, 1.1 - 0.3 * tone, 14, rng, 0.45 + 0.0012 * hz, 3e-4) * _envelope(n, 0.003, 2.2, 0.06)


def _electric_piano(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    index = (1.0 + 2.0 * tone) * np.exp(-time * 4)
    return np.sin(2 * np.pi * hz * time + index * np.sin(2 * np.pi * hz * time) + 0.3 * index * np.sin(2 * np.pi * 14 * hz * time) * np.exp(-time * 20)) * _envelope(n, 0.004, 1.2, 0.05)  # fmt: skip


def _organ(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    wave = sum(a * np.sin(2 * np.pi * hz * r * time) for r, a in ((0.5, 0.6), (1, 1), (1.5, 0.5 * tone), (2, 0.6), (3, 0.4), (4, 0.4 * tone), (6, 0.2)) if hz * r < _NYQUIST)  # fmt: skip
    return wave * (1 + 0.15 * np.sin(2 * np.pi * 6.1 * time)) * _envelope(n, 0.008, 0, 0.03)


def _guitar(hz, n, tone, rng):
    return _pluck(hz, n, 0.35 + 0.5 * tone, 1.8, rng) * _envelope(n, 0.001, 0, 0.03)


def _muted(hz, n, tone, rng):
    return _pluck(hz, n, 0.4 + 0.4 * tone, 0.25, rng) * _envelope(n, 0.001, 0.15, 0.02)


def _distorted(hz, n, tone, rng):
    wave = _pluck(hz, n, 0.7, 4, rng) + _pluck(hz * 1.4983, n, 0.7, 4, rng)
    wave = np.tanh(wave * (6 + 10 * tone))
    return signal.lfilter(*_lowpass(3200 + 1800 * tone), wave) * _envelope(n, 0.002, 0, 0.03) * 0.6


@functools.cache
def _lowpass(hz: float):
    return signal.butter(2, hz / _NYQUIST)


def _pad(hz, n, tone, rng):
    return _saw(hz, n, (-9, 0, 8), rng, 500 + 1800 * tone) * _envelope(n, 0.18, 0, 0.2)


def _strings(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    wave = _saw(hz, n, (-6, 1, 5), rng, 1500 + 2500 * tone)
    return wave * (1 + 0.08 * np.sin(2 * np.pi * 5.3 * time)) * _envelope(n, 0.09, 0, 0.12)


def _supersaw(hz, n, tone, rng):
    return _saw(hz, n, (-14, -6, 0, 7, 13), rng, 2500 + 5000 * tone) * _envelope(n, 0.01, 0, 0.04)


def _bell(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    return np.sin(2 * np.pi * hz * time + 2.5 * np.exp(-time * 3) * np.sin(2 * np.pi * hz * 3.51 * time)) * _envelope(
        n, 0.002, 0.8, 0.05
    )


def _flute(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    bend = 0.006 * np.sin(2 * np.pi * 5 * time) * np.clip(time - 0.15, 0, 0.2) * 5
    phase = 2 * np.pi * np.cumsum(hz * (1 + bend)) / SAMPLE_RATE
    wave = np.sin(phase) + 0.35 * np.sin(2 * phase) + 0.12 * tone * np.sin(3 * phase)
    return (wave + 0.04 * rng.standard_normal(n)) * _envelope(n, 0.05, 0, 0.06)


def _lead(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    bend = 0.008 * np.sin(2 * np.pi * 5.5 * time) * np.clip(time - 0.15, 0, 0.2) * 5
    phase = np.cumsum(hz * (1 + bend)) / SAMPLE_RATE % 1
    return signal.lfilter(*_lowpass(1500 + 2500 * tone), np.where(phase < 0.5 - 0.3 * tone, 1.0, -1.0)) * _envelope(
        n, 0.01, 0, 0.04
    )


def _round_bass(hz, n, tone, rng):
    return _harmonics(hz, n, 1.6 - 0.5 * tone, 8, rng, 0.8) * _envelope(n, 0.006, 1.5, 0.02)


def _saw_bass(hz, n, tone, rng):
    return _saw(hz, n, (0, 4), rng, 250 + 700 * tone) * _envelope(n, 0.004, 1.0, 0.02) * 1.6


def _slap_bass(hz, n, tone, rng):
    return np.tanh(_pluck(hz, n, 0.8, 1.2, rng) * 2) * _envelope(n, 0.001, 0.6, 0.02)


def _sub_bass(hz, n, tone, rng):
    time = np.arange(n) / SAMPLE_RATE
    return np.tanh(1.8 * np.sin(2 * np.pi * hz * time + 3 * np.exp(-time * 30))) * _envelope(n, 0.004, 1.2, 0.05)


INSTRUMENTS = {
    "piano": _piano, "epiano": _electric_piano, "organ": _organ, "guitar": _guitar, "muted": _muted, "distorted": _distorted, "pad": _pad,
    "strings": _strings, "supersaw": _supersaw, "bell": _bell, "flute": _flute, "lead": _lead, "round_bass": _round_bass,
    "saw_bass": _saw_bass, "slap_bass": _slap_bass, "sub_bass": _sub_bass,
}  # fmt: skip


def _drum(kind: str, rng: np.random.Generator) -> np.ndarray:
    """One drum stroke with a drawn tuning."""
    lengths = {"kick": 0.3, "snare": 0.22, "hat": 0.07, "open": 0.3, "clap": 0.2, "rim": 0.06, "shaker": 0.09, "tom": 0.35, "ride": 0.6, "brush": 0.2, "timpani": 1.0}  # fmt: skip
    n = int(lengths[kind] * SAMPLE_RATE)
    time = np.arange(n) / SAMPLE_RATE
    noise = rng.standard_normal(n)
    bright = np.diff(noise, prepend=0.0)
    if kind in ("kick", "tom", "timpani"):
        base, sweep, decay = {"kick": (rng.uniform(42, 60), rng.uniform(50, 140), 9), "tom": (rng.uniform(80, 140), 40, 9), "timpani": (rng.uniform(70, 100), 6, 3.5)}[kind]  # fmt: skip
        body = np.sin(2 * np.pi * (base * time + sweep * (1 - np.exp(-time * 35)) / 35)) * np.exp(-time * decay)
        return body + 0.25 * noise * np.exp(-time * 180)
    if kind in ("snare", "rim"):
        tone = np.sin(2 * np.pi * rng.uniform(170, 240) * (4 if kind == "rim" else 1) * time) * np.exp(
            -time * (60 if kind == "rim" else 28)
        )
        return 0.5 * tone + 0.6 * noise * np.exp(-time * rng.uniform(16, 30)) * (0.3 if kind == "rim" else 1)
    if kind == "clap":
        bursts = sum(np.where(time > d, np.exp(-(time - d) * 120), 0) for d in (0, 0.011, 0.022)) + np.exp(-time * 22) * 0.5
        return signal.lfilter(*signal.butter(2, [900 / _NYQUIST, 4500 / _NYQUIST], "band"), noise) * bursts
    if kind == "brush":
        return 0.35 * bright * np.exp(-time * 14) * np.clip(time * 40, 0, 1)
    decay = {"hat": rng.uniform(55, 110), "open": 10, "shaker": 45, "ride": 6}[kind]
    ring = 0.25 * np.sin(2 * np.pi * 3417 * time) if kind == "ride" else 0
    rise = np.clip(time * 60, 0, 1) if kind == "shaker" else 1
    return 0.3 * (np.diff(bright, prepend=0.0) * 0.5 + ring) * np.exp(-time * decay) * rise


@dataclass(frozen=True)
class Part:
    """One player. `pattern` strikes chord notes (see `_strikes`); figures: "chord", "arpeggio", "strum", "hold", "root", "walk", "octave"."""

    instrument: str
    figure: str
    pattern: str
    octave: int
    level: float


@dataclass(frozen=True)
class Style:
    """A band: bars of `beats`, a range of tempi, parts, and drums as (kind, pattern, level)."""

    beats: int
    bpm: tuple[float, float]
    modes: tuple[str, ...]
    parts: tuple[Part, ...]
    drums: tuple[tuple[str, str, float], ...]
    leads: tuple[str, ...]


STYLES: dict[str, Style] = {
    "ballad": Style(4, (58, 84), ("major", "minor"), (
        Part("piano", "chord", "x.x.x.x.", 0, 0.8), Part("strings", "hold", "x", 0, 0.35), Part("round_bass", "root", "x...x...", -2, 0.9)),
        (("kick", "x...x...", 0.8), ("rim", "..x...x.", 0.5), ("hat", "xxxxxxxx", 0.3)), ("flute", "strings", "piano")),
    "rock": Style(4, (100, 150), ("major", "minor"), (
        Part("distorted", "root", "xxxxxxxx", -1, 0.75), Part("guitar", "strum", "x..xx.x.", 0, 0.5), Part("slap_bass", "root", "xxxxxxxx", -2, 0.8)),
        (("kick", "x..xx...", 1.0), ("snare", "..x...x.", 0.9), ("hat", "xxxxxxxx", 0.5)), ("distorted", "lead", "organ")),
    "folk": Style(4, (76, 120), ("major", "minor"), (
        Part("guitar", "strum", "x.xx.xxx", 0, 0.9), Part("guitar", "arpeggio", "xxxxxxxx", 0, 0.6), Part("round_bass", "walk", "x...x...", -2, 0.6)),
        (("shaker", "xxxxxxxx", 0.4), ("kick", "x...x...", 0.4)), ("flute", "guitar", "strings")),
    "electro": Style(4, (110, 132), ("minor", "major"), (
        Part("supersaw", "chord", "x..x..x.", 0, 0.6), Part("pad", "hold", "x", 0, 0.4), Part("saw_bass", "octave", ".x.x.x.x", -2, 0.9),
        Part("bell", "arpeggio", "xxxxxxxxxxxxxxxx", 1, 0.25)),
        (("kick", "x.x.x.x.", 1.0), ("clap", "..x...x.", 0.6), ("open", ".x.x.x.x", 0.3), ("hat", "xxxxxxxxxxxxxxxx", 0.25)), ("lead", "supersaw", "bell")),
    "funk": Style(4, (92, 116), ("minor", "major"), (
        Part("muted", "chord", "..x.x..x.xx.x.x.", 0, 0.6), Part("epiano", "chord", "x.....x.....x..", 0, 0.5),
        Part("slap_bass", "octave", "x..x..x.x.x..x..", -2, 0.9)),
        (("kick", "x..x....x.x.....", 0.9), ("snare", "....x.......x..x", 0.8), ("hat", "xxxxxxxxxxxxxxxx", 0.35)), ("organ", "lead", "epiano")),
    "orchestral": Style(4, (66, 110), ("minor", "major"), (
        Part("strings", "hold", "x", 0, 0.8), Part("strings", "arpeggio", "xxxxxxxx", 0, 0.4), Part("strings", "root", "x...x...", -2, 0.7),
        Part("flute", "arpeggio", "x...x...", 1, 0.3)),
        (("timpani", "x.......", 0.6),), ("flute", "strings", "bell")),
    "waltz": Style(3, (88, 168), ("major", "minor"), (
        Part("organ", "chord", "..x.x.", 0, 0.5), Part("guitar", "strum", "..x.x.", 0, 0.6), Part("round_bass", "walk", "x.....", -2, 0.9)),
        (("kick", "x.....", 0.5), ("brush", "..x.x.", 0.6)), ("flute", "organ", "piano")),
    "lofi": Style(4, (68, 90), ("minor", "major"), (
        Part("epiano", "chord", "x....x..", 0, 0.9), Part("pad", "hold", "x", 0, 0.25), Part("sub_bass", "root", "x..x....", -2, 0.8)),
        (("kick", "x....x..", 0.8), ("snare", "..x...x.", 0.5), ("hat", "x.xxx.xx", 0.3)), ("bell", "guitar", "flute")),
    "reggae": Style(4, (70, 96), ("major", "minor"), (
        Part("organ", "chord", ".x.x.x.x", 0, 0.6), Part("muted", "chord", "..x...x.", 0, 0.6), Part("round_bass", "walk", "x..xx.x.", -2, 1.1)),
        (("kick", "....x...", 0.9), ("rim", "....x...", 0.6), ("hat", "x.x.x.x.", 0.35)), ("organ", "flute", "lead")),
    "hiphop": Style(4, (76, 100), ("minor",), (
        Part("bell", "arpeggio", "x.x..x..", 0, 0.4), Part("strings", "hold", "x", 0, 0.3), Part("sub_bass", "root", "x.....x.", -2, 1.2)),
        (("kick", "x.....xx..x.....", 1.0), ("clap", "....x.......x...", 0.7), ("hat", "x.x.x.xxx.x.xxxx", 0.35)), ("lead", "bell", "piano")),
    "piano": Style(4, (60, 110), ("major", "minor"), (
        Part("piano", "arpeggio", "xxxxxxxx", 0, 0.9), Part("piano", "root", "x...x...", -2, 0.7), Part("piano", "chord", "x.......", 0, 0.4)),
        (), ("piano", "strings")),
    "country": Style(4, (96, 140), ("major",), (
        Part("guitar", "strum", "..x...x.", 0, 0.8), Part("muted", "arpeggio", "xxxxxxxx", 1, 0.4), Part("round_bass", "walk", "x...x...", -2, 0.9)),
        (("kick", "x...x...", 0.7), ("snare", "..x...x.", 0.5), ("brush", "xxxxxxxx", 0.4)), ("guitar", "organ", "piano")),
}  # fmt: skip


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

    def _strikes(self, part: Part, score: Score, bar: int, density: float) -> list[tuple[float, int, float, float]]:
        """(beat, midi, seconds, gain) of one part in one bar."""
        start, spb, rng = bar * score.beats_per_bar, score.seconds_per_beat, self.rng
        triad = self._triad(score.key, score.chords[bar], part.octave)
        following = score.chords[bar + 1] if bar + 1 < len(score.chords) else score.chords[bar]
        if part.figure == "hold":
            return [(start, midi, score.beats_per_bar * spb, 1.0) for midi in triad]
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
                out.append((beat, triad[0], seconds, gain))
            elif part.figure == "octave":
                out.append((beat, triad[0] + 12 * (order % 2), seconds, gain))
            elif part.figure == "walk":
                lead_in = order == len(hits) - 1 and rng.random() < 0.4
                pitch = (
                    self._triad(score.key, following, part.octave)[0] - 1 if lead_in and order else triad[(0, 2, 1, 2)[order % 4]]
                )
                out.append((beat, pitch, seconds, gain))
            elif part.figure == "arpeggio":
                out.append((beat, ([*triad, triad[0] + 12])[(0, 1, 2, 3, 2, 1)[order % 6]], max(seconds, 0.4), gain))
            else:
                lag = 0.014 / spb if part.figure == "strum" else 0.0
                notes = triad + ([triad[0] + 12] if part.figure == "strum" else [])
                out += [(beat + lag * number, midi, seconds, gain * 0.7) for number, midi in enumerate(notes)]
        return out

    def _lead_line(self, score: Score, bars: list[int]) -> list[tuple[float, int, float, float]]:
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
                    out.append(
                        (
                            bar * score.beats_per_bar + beat,
                            score.key.degree_midi(degree),
                            length * score.seconds_per_beat * 0.95,
                            0.9,
                        )
                    )
                beat += length
        return out

    def play(self, score: Score) -> np.ndarray:
        """(2, n) float32, n as many samples as the score lasts; not level-matched."""
        rng, spb = self.rng, score.seconds_per_beat
        n = round(score.seconds * SAMPLE_RATE)
        mix = np.zeros((2, n), np.float32)
        bars = range(len(score.chords))
        section = {
            bar: name
            for name, a, b in score.sections
            for bar in range(int(a // score.beats_per_bar), int(b // score.beats_per_bar))
        }
        swing = float(rng.choice([0, 0, 0, 0.12, 0.3])) * spb / 2
        loose = float(rng.uniform(0, 0.008))
        lead_bars = [bar for bar in bars if section.get(bar) in ("intro", "break", "outro") or rng.random() < 0.12]
        players: list[tuple[int, Part | None]] = [
            (slot, part) for slot, part in enumerate(self.style.parts) if slot == 0 or rng.random() < 0.85
        ]
        if rng.random() < 0.7:
            players.append((len(self.style.parts), None))
        for slot, part in players:
            line = np.zeros(n + SAMPLE_RATE * 4, np.float32)
            density = float(rng.uniform(0.85, 1.0))
            off = {name for name in ("intro", "verse", "break", "outro") if part is not None and slot > 0 and rng.random() < 0.2}
            if part is None:
                instrument = str(rng.choice(self.style.leads))
                strikes, level = self._lead_line(score, lead_bars), 0.7
            else:
                instrument, level = part.instrument, part.level
                strikes = [
                    strike
                    for bar in bars
                    if section.get(bar) not in off
                    for strike in self._strikes(part, score, bar, density)
                ]
            for beat, midi, seconds, gain in strikes:
                midi = int(np.clip(midi, 24, 100))
                wave = self._note(slot, instrument, midi, seconds)
                at = int((beat * spb + (swing if beat * 2 % 2 == 1 else 0) + abs(rng.normal(0, loose))) * SAMPLE_RATE)
                room = min(len(wave), len(line) - at)
                line[at : at + room] += wave[:room] * np.float32(gain)
            self._place(mix, line[:n], level * float(rng.uniform(0.6, 1.3)), narrow=part is not None and part.octave < -1)
        self._drums(mix, score, section, swing, loose)
        return mix

    def _place(self, mix: np.ndarray, line: np.ndarray, level: float, narrow: bool) -> None:
        """Add a mono line to the stereo mix: panned, some with a short delay between the sides."""
        rng = self.rng
        pan = 0.0 if narrow or rng.random() < 0.2 else float(rng.uniform(-0.85, 0.85))
        left, right = np.cos((pan + 1) * np.pi / 4) * level * 1.41, np.sin((pan + 1) * np.pi / 4) * level * 1.41
        delay = int(rng.uniform(0.006, 0.022) * SAMPLE_RATE) if not narrow and rng.random() < 0.35 else 0
        mix[0] += line * np.float32(left)
        mix[1, delay:] += line[: len(line) - delay] * np.float32(right)

    def _drums(self, mix: np.ndarray, score: Score, section: dict[int, str], swing: float, loose: float) -> None:
        rng, spb, n = self.rng, score.seconds_per_beat, mix.shape[1]
        if not self.style.drums or rng.random() < 0.12:
            return
        off = {name for name in ("intro", "verse", "break", "outro") if rng.random() < 0.2}
        gain_all = float(rng.uniform(0.5, 1.2))
        for kind, pattern, level in self.style.drums:
            stroke = _drum(kind, rng)
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
                    beat = bar * score.beats_per_bar + index * step
                    at = int((beat * spb + (swing if beat * 2 % 2 == 1 else 0) + abs(rng.normal(0, loose))) * SAMPLE_RATE)
                    if at < n:
                        line[at : at + len(stroke)] += stroke * np.float32(rng.uniform(0.7, 1.0))
                if bar % 4 == 3 and kind in ("snare", "tom") and rng.random() < 0.5:  # a fill
                    for index in range(int(rng.integers(2, 6))):
                        at = int(((bar + 1) * score.beats_per_bar - 0.25 * (index + 1)) * spb * SAMPLE_RATE)
                        if 0 <= at < n:
                            line[at : at + len(stroke)] += stroke * np.float32(rng.uniform(0.4, 0.9))
            mix[0] += line[:n] * np.float32(1 - max(0, pan))
            mix[1] += line[:n] * np.float32(1 + min(0, pan))


# Krumhansl and Kessler's key profiles (Krumhansl 1990, table 2.1)
_PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}  # fmt: skip


def estimate_key(music: np.ndarray) -> Key:
    """The key whose profile correlates best with the chroma of (2, n) audio at 24 kHz."""
    _, _, power = signal.stft(music.mean(0), SAMPLE_RATE, nperseg=8192, noverlap=4096)
    hz = np.arange(power.shape[0]) * SAMPLE_RATE / 8192
    use = (hz > 80) & (hz < 2000)
    pitch_class = np.round(69 + 12 * np.log2(hz[use] / 440)).astype(int) % 12
    magnitude = np.sqrt(np.abs(power[use])).mean(1)
    chroma = np.bincount(pitch_class, magnitude, 12) / np.maximum(np.bincount(pitch_class, minlength=12), 1)
    scores = {
        (tonic, mode): float(np.corrcoef(np.roll(profile, tonic), chroma)[0, 1])
        for mode, profile in _PROFILES.items()
        for tonic in range(12)
    }
    tonic, mode = max(scores, key=lambda key: scores[key])
    return Key(tonic, mode)


TRANSPOSITIONS = ((1, 1), (18, 17), (9, 8), (17, 18), (8, 9))  # speed ratios of 0, 1, 2, -1, -2 semitones within 5 cents


def real_stretch(path: Path, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """(2, n) float32: a random stretch of a recording at 24 kHz, transposed by up to 2 semitones with its tempo; short files loop.

    Raises:
        AudioError: code `not_audio`: it cannot be decoded; names it.
    """
    from autosing.song import audio  # which imports torch

    up, down = TRANSPOSITIONS[int(rng.integers(len(TRANSPOSITIONS)))]
    n = round(seconds * SAMPLE_RATE)
    with audio.opened(path) as file:
        wanted = int(seconds * up / down * file.samplerate) + file.samplerate
        if file.frames > wanted:
            file.seek(int(rng.integers(file.frames - wanted)))
        samples = file.read(wanted, dtype="float32", always_2d=True)
        rate = file.samplerate
    music = resample(samples[:, :2].T, rate, up, down)
    if len(music) == 1:
        music = np.repeat(music, 2, axis=0)
    if music.shape[1] < n:
        fade = SAMPLE_RATE // 4
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        piece, looped = music, music
        while looped.shape[1] < n:
            joined = looped[:, -fade:] * (1 - ramp) + piece[:, :fade] * ramp
            looped = np.concatenate([looped[:, :-fade], joined, piece[:, fade:]], axis=1)
        music = looped
    return np.ascontiguousarray(music[:, :n], np.float32)
