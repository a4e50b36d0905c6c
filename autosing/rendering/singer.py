"""A score sung: phones laid on notes, a living pitch, WORLD synthesis; every label exact on the 5 ms grid.

Vowels begin on the beat; the consonants before them are taken from the time before it, as singers do. The middle of a vowel is stretched and
its transitions keep their speed; diphthongs glide late. Pitch: notes joined by glides, vibrato after a straight start, slow drift and jitter,
scoops into phrases. `f0_hz` is the very array that was synthesised (200 Hz, 0 = unvoiced). Lines are synthesised one by one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from autosing.rendering.melody import Score
from autosing.rendering.phones import DIPHTHONGS, VOWELS, syllables
from autosing.rendering.voices import (
    BINS,
    FFT_SIZE,
    FRAME_MS,
    FRAME_RATE,
    SAMPLE_RATE,
    Singer,
    WordBank,
    expansion,
)  # fmt: skip

_SILENT = -26.0  # natural log power of a frame with nothing in it
_LONGEST_CONSONANT = {"S": 36, "SH": 36, "F": 30, "Z": 30, "M": 28, "N": 28, "L": 26, "NG": 28, "R": 24}  # frames
_FADE_FRAMES = 5


@dataclass(frozen=True)
class PhoneSpan:
    """A phone on the frame grid: frames start to end of the song, word number, and the bank frames it is made of."""

    phone: str
    start: int
    end: int
    word: int
    source: tuple[int, int]


@dataclass(frozen=True)
class Sung:
    """A vocal with its truth. n samples at 24 kHz, m frames at 200 Hz; times are frame numbers."""

    vocals: np.ndarray  # (n,) float32
    f0_hz: np.ndarray  # (m,) float32, 0 = unvoiced
    phones: tuple[PhoneSpan, ...]
    words: tuple[tuple[str, int, int, int], ...]  # text, start, end, line
    notes: tuple[tuple[int, int, int], ...]  # start, end, midi


def source_map(source: tuple[int, int], length: int, phone: str) -> np.ndarray:
    """(length,) source frame positions of a phone stretched or squeezed to `length` frames.

    Vowels longer than spoken keep the speed of their ends (up to 50 ms each, or half of the phone for the glide of a diphthong) and stretch
    what is between; everything else is linear.
    """
    first, last = source[0], max(source[1] - 1, source[0])
    spoken = last - first
    if phone not in VOWELS or length <= spoken + 1 or spoken < 6:
        return np.linspace(first, last, length)
    head = min(10.0, 0.25 * spoken)
    tail = min(30.0, 0.5 * spoken) if phone in DIPHTHONGS else min(10.0, 0.25 * spoken)
    knots_out = np.array([0, head, length - 1 - tail, length - 1])
    knots_in = np.array([first, first + head, last - tail, last])
    return np.interp(np.arange(length), knots_out, knots_in)


def lay_out(
    score: Score, singer: Singer, bank: WordBank, rng: np.random.Generator
) -> tuple[list[PhoneSpan], list, list, list[np.ndarray]]:
    """Phones, words and notes on the frame grid; and the features of the words used, in bank order.

    Returns:
        (phones, words, notes, offsets): see `Sung`; `PhoneSpan.source` counts frames in the concatenation of `bank.get` over `offsets`'s keys.
    """
    frames_per_beat = score.seconds_per_beat * FRAME_RATE
    offsets: dict[str, int] = {}
    total = 0
    for word in score.words:
        if word.text not in offsets:
            offsets[word.text] = total
            total += len(bank.get(singer.voice, word.text).voiced)
    plan = []  # per syllable: word, phones with sources, onset count, beat frame, end frame, notes
    for number, word in enumerate(score.words):
        frames = bank.get(singer.voice, word.text)
        base = offsets[word.text]
        for part, notes in zip(syllables(frames.phones), word.syllables, strict=True):
            pieces = [(frames.phones[i], (base + frames.edges[i], base + frames.edges[i + 1])) for i in part]
            onset = next((i for i, (phone, _) in enumerate(pieces) if phone in VOWELS), 0)
            plan.append(
                (number, word.line, pieces, onset, notes[0].start * frames_per_beat, notes[-1].end * frames_per_beat, notes)
            )

    def length(piece: tuple[str, tuple[int, int]]) -> float:
        phone, (a, b) = piece
        return min(max(3.0, (b - a) * singer.consonants * float(rng.uniform(0.85, 1.15))), _LONGEST_CONSONANT.get(phone, 24))

    phones: list[PhoneSpan] = []
    notes_out: list[tuple[int, int, int]] = []
    onsets = [[length(piece) for piece in entry[2][: entry[3]]] for entry in plan]
    previous_beat = -1e9
    for i, entry in enumerate(plan):  # consonants before the beat take at most 40 % of the time since the last one
        room = 0.4 * min(entry[4] - previous_beat, entry[4] + 1e-3)
        need = sum(onsets[i])
        if need > room:
            onsets[i] = [value * room / need for value in onsets[i]]
        previous_beat = entry[4]
    cursor = 0
    for i, (number, line, pieces, onset, beat, end, notes) in enumerate(plan):
        last_of_line = i + 1 == len(plan) or plan[i + 1][1] != line
        reach = beat + (end - beat) * (
            float(rng.uniform(0.9, 1.0)) if last_of_line else singer.legato if rng.random() < 0.8 else 1.0
        )
        if i + 1 < len(plan):
            reach = min(reach, plan[i + 1][4] - sum(onsets[i + 1]))
        at = beat - sum(onsets[i])
        times = [at]
        for value in onsets[i]:
            at += value
            times.append(at)
        coda = [length(piece) for piece in pieces[onset + 1 :]]
        room = 0.45 * (reach - at)
        if sum(coda) > room:
            coda = [value * room / sum(coda) for value in coda]
        at = reach - sum(coda)
        times.append(at)
        for value in coda:
            at += value
            times.append(at)
        edges = [max(cursor, round(times[0]))]
        for value in times[1:]:
            edges.append(max(edges[-1], round(value)))
        for (phone, source), a, b in zip(pieces, edges, edges[1:], strict=False):
            if b > a:
                phones.append(PhoneSpan(phone, a, b, number, source))
        cursor = edges[-1]
        for note in notes:
            a, b = round(note.start * frames_per_beat), min(round(note.end * frames_per_beat), cursor)
            if b > a:
                notes_out.append((a, b, note.midi))
    words_out: list[tuple[str, int, int, int]] = []
    bounds: dict[int, tuple[int, int]] = {}
    for span in phones:
        first, _ = bounds.get(span.word, (span.start, span.end))
        bounds[span.word] = (first, span.end)
    for number, word in enumerate(score.words):
        if number not in bounds:
            raise ValueError(f"word {word.text!r} got no time: the rhythm is too dense")
        words_out.append((word.text, *bounds[number], word.line))
    return phones, words_out, notes_out, list(offsets)


def pitch_curve(
    notes: list[tuple[int, int, int]], frames: int, line_starts: list[int], singer: Singer, rng: np.random.Generator
) -> np.ndarray:
    """(frames,) MIDI pitch at 200 Hz, defined everywhere (voicing is the caller's)."""
    curve = np.zeros(frames)
    edges = [0] + [start for start, _, _ in notes[1:]] + [frames]
    for (_, _, midi), a, b in zip(notes, edges, edges[1:], strict=False):
        curve[a:b] = midi
    width = max(3, int(singer.glide * FRAME_RATE)) | 1
    kernel = np.hanning(width + 2)[1:-1]
    kernel /= kernel.sum()
    lead = width // 4  # glides begin a little before the beat
    curve = np.convolve(np.pad(curve, width // 2, mode="edge"), kernel, "valid")
    curve = np.concatenate([curve[lead:], np.full(lead, curve[-1])])
    rough = np.convolve(rng.standard_normal(frames + 6), np.hanning(9)[1:-1] / 2.6, "valid")[:frames]
    drift_knots = rng.standard_normal(frames // 60 + 3)
    drift = np.interp(np.arange(frames) / 60, np.arange(len(drift_knots)), drift_knots)
    curve += singer.jitter_cents / 100 * (0.35 * rough + 0.9 * drift)
    for start, end, _ in notes:
        length = end - start
        seconds = np.arange(length) / FRAME_RATE
        if length > 0.3 * FRAME_RATE and singer.vibrato_cents:
            depth = singer.vibrato_cents / 100 * float(rng.uniform(0.6, 1.2))
            rate = singer.vibrato_hz * float(rng.uniform(0.92, 1.08))
            ramp = np.clip((seconds - singer.vibrato_onset) / 0.25, 0, 1) * np.clip((length - np.arange(length)) / 12, 0, 1)
            curve[start:end] += ramp * depth * np.sin(2 * np.pi * rate * seconds + float(rng.uniform(0, 6.28)))
    for start in line_starts:
        if rng.random() < singer.scoops:
            length = min(int(rng.uniform(0.06, 0.16) * FRAME_RATE), frames - start)
            curve[start : start + length] -= float(rng.uniform(0.7, 2.5)) * np.linspace(1, 0, length) ** 1.5
    return curve


class Voice:
    """Sings scores with WORLD (extra ``render``)."""

    def __init__(self, bank: WordBank):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pyworld
        self._world = pyworld
        self.bank = bank

    def count_syllables(self, singer: Singer):
        """A function word -> number of syllables as `singer` says it."""
        return lambda word: len(syllables(self.bank.get(singer.voice, word).phones))

    def sing(self, score: Score, singer: Singer, rng: np.random.Generator) -> Sung:
        """The whole score, peak at most 1; silence where nothing is sung."""
        phones, words, notes, used = lay_out(score, singer, self.bank, rng)
        frames = int(np.ceil(score.seconds * FRAME_RATE)) + 1
        samples = round(score.seconds * SAMPLE_RATE)
        bank = [self.bank.get(singer.voice, word) for word in used]
        log_power = np.concatenate([item.log_power for item in bank]).astype(np.float32)
        aperiodicity = np.concatenate([item.aperiodicity for item in bank]).astype(np.float32)
        voiced_bank = np.concatenate([item.voiced for item in bank])
        position = np.full(frames, -1.0)
        for span in phones:
            end = min(span.end, frames)
            if end > span.start:
                position[span.start : end] = source_map(span.source, span.end - span.start, span.phone)[: end - span.start]
        active = position >= 0
        voiced = np.zeros(frames, bool)
        voiced[active] = voiced_bank[np.round(position[active]).astype(int)]
        line_spans = self._line_spans(words, frames)
        line_starts = [start for start, _ in line_spans]
        midi = pitch_curve(notes, frames, line_starts, singer, rng)
        f0_hz = np.where(voiced, 440 * 2 ** ((midi - 69) / 12), 0.0)
        level = self._dynamics(frames, active, notes, singer, rng)
        vocals = np.zeros(samples + SAMPLE_RATE, np.float64)
        matrix = expansion(singer.warp)
        octaves = np.log2(np.maximum(np.arange(BINS) * SAMPLE_RATE / FFT_SIZE, 250) / 500).clip(-1, 4)
        tilt = (singer.tilt_db * octaves * np.log(10) / 10).astype(np.float32)
        air = np.clip(np.arange(BINS) / BINS * 3 - 0.4, 0, 1)
        hop = SAMPLE_RATE // FRAME_RATE
        previous_end = 0
        for start, end in line_spans:
            a, b = max(0, start - 8), min(frames, end + 12)
            at = np.maximum(position[a:b], 0)
            left = at.astype(int)
            right = np.minimum(left + 1, len(log_power) - 1)
            share = (at - left).astype(np.float32)[:, None]
            points = log_power[left] * (1 - share) + log_power[right] * share
            points[~active[a:b]] = _SILENT
            coded = aperiodicity[left] * (1 - share) + aperiodicity[right] * share
            points[1:-1] = 0.25 * points[:-2] + 0.5 * points[1:-1] + 0.25 * points[2:]
            spectrum = points @ matrix + tilt + level[a:b, None]
            noise = self._world.decode_aperiodicity(np.ascontiguousarray(coded, np.float64), SAMPLE_RATE, FFT_SIZE)
            if singer.breath:
                noise = np.clip(noise + singer.breath * air, 0, 1)
            power = np.exp(spectrum.astype(np.float64))
            wave = self._world.synthesize(np.ascontiguousarray(f0_hz[a:b]), power, noise, SAMPLE_RATE, FRAME_MS)
            room = min(len(wave), len(vocals) - a * hop)
            vocals[a * hop : a * hop + room] += wave[:room]
            if rng.random() < 0.35:
                breath = self._breath(a - previous_end, np.abs(wave).max(), rng)
                vocals[a * hop - len(breath) : a * hop] += breath
            previous_end = b
        vocals = vocals[:samples]
        peak = np.abs(vocals).max()
        vocals = (vocals / max(peak, 1e-9)).astype(np.float32)
        return Sung(vocals, f0_hz.astype(np.float32), tuple(phones), tuple(words), tuple(notes))

    @staticmethod
    def _line_spans(words: list, frames: int) -> list[tuple[int, int]]:
        spans: dict[int, tuple[int, int]] = {}
        for _, start, end, line in words:
            first, _ = spans.get(line, (start, end))
            spans[line] = (first, min(end, frames))
        return [span for span in spans.values() if span[1] > span[0]]

    @staticmethod
    def _dynamics(frames: int, active: np.ndarray, notes: list, singer: Singer, rng: np.random.Generator) -> np.ndarray:
        """(frames,) natural log power: slow swells, louder high notes, shimmer, short fades at the ends of sound, held notes dying away."""
        knots = rng.standard_normal(frames // 200 + 3) * 2.0
        level_db = np.interp(np.arange(frames) / 200, np.arange(len(knots)), knots)
        for start, end, midi in notes:
            level_db[start:end] += 0.25 * np.clip(midi - singer.centre_midi, -10, 10)
            if end - start > 120 and rng.random() < 0.5:
                length = int((end - start) * 0.4)
                level_db[end - length : end] -= np.linspace(0, float(rng.uniform(3, 12)), length)
        level_db += np.convolve(rng.standard_normal(frames), np.ones(7) / 7, "same") * 1.0
        inside = active.astype(np.float32)
        steps = np.flatnonzero(np.diff(np.concatenate([[0.0], inside, [0.0]])))
        for a, b in zip(steps[::2], steps[1::2], strict=True):
            fade = min(_FADE_FRAMES, (b - a) // 3)
            level_db[b - fade : b] -= np.linspace(0, 18, fade)
        return level_db * np.log(10) / 10

    @staticmethod
    def _breath(room_frames: int, level: float, rng: np.random.Generator) -> np.ndarray:
        """An inhalation of at most 0.45 s for the silence before a line; empty if there is no room."""
        frames = min(room_frames, int(rng.uniform(0.15, 0.45) * FRAME_RATE))
        if frames < 20:
            return np.zeros(0)
        n = frames * SAMPLE_RATE // FRAME_RATE
        shape = np.clip(np.linspace(0, 1, n) / 0.7, 0, 1) * np.clip(np.linspace(1, 0, n) / 0.25, 0, 1)
        return np.diff(rng.standard_normal(n + 1)) * shape * level * float(rng.uniform(0.004, 0.02))
