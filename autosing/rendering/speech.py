"""Real voices: rows of plain speech, and of the same kind of speech turned into singing with WORLD.

Input is a folder with ``transcripts.tsv`` (columns path, text, speaker; text may be empty). A sung row has its voiced frames slowed, notes of
0.25 to 0.9 s in the speaker's range imposed on F0 with vibrato, changing where the voice is weakest: real timbre and coarticulation with
known pitch. There are no word times; `pron` is the espeak pronunciation of the transcript, word by word, for training without times.
Each utterance appears once, spoken or sung by turns.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autosing.errors import ConfigError, DataError
from autosing.rendering.dataset import encode, write_rows
from autosing.rendering.espeak import Espeak
from autosing.rendering.melody import Key
from autosing.rendering.mixing import equalise, reverberate
from autosing.rendering.singer import pitch_curve
from autosing.rendering.voices import FRAME_MS, FRAME_RATE, SAMPLE_RATE, Singer, resample
from autosing.song.runs import spans_of

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*|[0-9]+")
_SLOWEST = 2.0


@dataclass(frozen=True)
class Utterance:
    """A recording with its words ("" = unknown) and its speaker."""

    path: Path
    text: str
    speaker: str
    seconds: float


def read_transcripts(folder: Path) -> list[Utterance]:
    """The utterances that ``transcripts.tsv`` lists; DataError where it is missing."""
    table = Path(folder) / "transcripts.tsv"
    if not table.is_file():
        raise DataError(f"no transcripts.tsv in {folder}: it needs the columns path, text, speaker, duration_s")
    with open(table, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Utterance(table.parent / row["path"], row["text"], row["speaker"], float(row["duration_s"])) for row in rows]


def words_of(text: str) -> list[str]:
    """Lower-case words of a transcript without punctuation."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


@dataclass(frozen=True)
class SpeechPlan:
    """A run of `python -m autosing.rendering speech`."""

    out: Path
    folder: Path
    hours: float
    seed: int
    partition_size: int

    def utterances(self) -> list[tuple[Utterance, bool]]:
        """(utterance, whether it is sung), shuffled by the seed and cut where about `hours` are reached."""
        found = read_transcripts(self.folder)
        order = np.random.default_rng(self.seed).permutation(len(found))
        chosen, seconds = [], 0.0
        for position, index in enumerate(order):
            sung = position % 2 == 1
            seconds += found[index].seconds * (1.4 if sung else 1.0)
            if seconds > self.hours * 3600:
                break
            chosen.append((found[index], sung))
        return chosen

    def partitions(self) -> list[range]:
        count = len(self.utterances())
        return [range(a, min(a + self.partition_size, count)) for a in range(0, count, self.partition_size)]

    def path(self, partition: int) -> Path:
        return self.out / str(partition) / "songs.parquet"


@dataclass(frozen=True)
class SungSpeech:
    """Speech turned into singing: (n,) float32 samples, (m,) float32 F0 at 200 Hz with 0 = unvoiced, notes as (start s, end s, midi)."""

    samples: np.ndarray
    f0_hz: np.ndarray
    notes: tuple[tuple[float, float, int], ...]


def cut_notes(level: np.ndarray, voiced: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Frame spans of notes of about 0.25 to 0.9 s over the voiced stretches, changing at the weakest frame near the wanted place."""
    spans: list[tuple[int, int]] = []
    for start, end in spans_of(voiced):
        at = int(start)
        while end - at > 0.4 * FRAME_RATE:
            wanted = at + int(rng.uniform(0.25, 0.9) * FRAME_RATE)
            if wanted > end - 0.12 * FRAME_RATE:
                break
            low, high = max(at + 20, wanted - 16), min(int(end), wanted + 16)
            cut = low + int(np.argmin(level[low:high]))
            spans.append((at, cut))
            at = cut
        spans.append((at, int(end)))
    return spans


class SpeechSinger:
    """Turns speech into singing with WORLD (extra ``render``)."""

    def __init__(self) -> None:
        """
        Raises:
            ConfigError: WORLD is not installed.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import pyworld
        except ImportError as error:
            raise ConfigError("rendering sung speech needs WORLD: pip install 'autosing[render]'") from error
        self._world = pyworld

    def sing(self, samples: np.ndarray, rng: np.random.Generator) -> SungSpeech | None:
        """Sing (n,) speech at 24 kHz; None where fewer than 0.3 s are voiced."""
        x = np.ascontiguousarray(samples, np.float64)
        f0_hz, times = self._world.dio(x, SAMPLE_RATE, f0_floor=60, f0_ceil=450, frame_period=FRAME_MS)
        f0_hz = self._world.stonemask(x, f0_hz, times, SAMPLE_RATE)
        voiced = f0_hz > 0
        if voiced.sum() < 0.3 * FRAME_RATE:
            return None
        power = self._world.cheaptrick(x, f0_hz, times, SAMPLE_RATE, fft_size=1024)
        aperiodicity = self._world.d4c(x, f0_hz, times, SAMPLE_RATE, fft_size=1024)
        level = np.log(power.mean(1) + 1e-12)
        slow = float(rng.uniform(1.2, _SLOWEST))
        steady = np.convolve(voiced.astype(float), np.ones(7) / 7, "same")  # transitions stretch less
        position_out = np.concatenate([[0], np.cumsum(1 + (slow - 1) * np.clip(steady * 1.5 - 0.5, 0, 1))])[:-1]
        frames = int(position_out[-1]) + 1
        source = np.interp(np.arange(frames), position_out, np.arange(len(f0_hz)))
        nearest = np.minimum(np.round(source).astype(int), len(f0_hz) - 1)
        left = np.minimum(source.astype(int), len(f0_hz) - 2)
        share = (source - left)[:, None]
        log_power = np.log(power + 1e-14)
        power = np.exp(log_power[left] * (1 - share) + log_power[left + 1] * share)
        aperiodicity = aperiodicity[left] * (1 - share) + aperiodicity[left + 1] * share
        voiced_out = voiced[nearest]
        spans = cut_notes(level[nearest], voiced_out, rng)
        spoken = float(np.median(69 + 12 * np.log2(f0_hz[voiced] / 440)))
        key = Key(int(rng.integers(12)), str(rng.choice(["major", "minor"])))
        centre = spoken + float(rng.uniform(1, 6))  # people sing above their speaking pitch
        scale = [key.degree_midi(d) for d in range(-28, 20) if abs(key.degree_midi(d) - centre) <= 7.5]
        at, notes = len(scale) // 2, []
        for start, end in spans:
            at = int(np.clip(at + rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3]), 0, len(scale) - 1))
            notes.append((start, end, scale[at]))
        manner = Singer(
            name="", voice="", warp=1.0, centre_midi=centre, reach=7, vibrato_cents=float(rng.choice([0, 25, 50, 80])),
            vibrato_hz=float(rng.uniform(4.6, 6.4)), vibrato_onset=float(rng.uniform(0.1, 0.3)), glide=float(rng.uniform(0.04, 0.11)),
            jitter_cents=float(rng.uniform(4, 14)), tilt_db=0.0, breath=0.0, consonants=1.0, scoops=0.2, legato=1.0,
        )  # fmt: skip
        starts = [span[0] for before, span in zip([(0, -99), *spans], spans, strict=False) if span[0] - before[1] > 60]
        midi = pitch_curve(notes, frames, starts, manner, rng)
        f0_out = np.where(voiced_out, 440 * 2 ** ((midi - 69) / 12), 0.0)
        wave = self._world.synthesize(f0_out, power, np.clip(aperiodicity, 0, 1), SAMPLE_RATE, FRAME_MS)
        seconds = [(a / FRAME_RATE, b / FRAME_RATE, pitch) for a, b, pitch in notes if b > a]
        return SungSpeech(wave.astype(np.float32), f0_out.astype(np.float32), tuple(seconds))


def speech_partition(plan: SpeechPlan, partition: int) -> tuple[int, float]:
    """Make and commit one partition of speech rows; returns (rows, seconds of audio)."""
    import soundfile

    espeak, singer = Espeak(), SpeechSinger()
    utterances = plan.utterances()
    total = 0.0

    def rows() -> Iterator[dict]:
        nonlocal total
        for number in plan.partitions()[partition]:
            utterance, sung = utterances[number]
            rng = np.random.default_rng([plan.seed, number, 2])
            samples, rate = soundfile.read(utterance.path, dtype="float32", always_2d=True)
            samples = resample(samples.mean(1), rate).astype(np.float32)
            turned = singer.sing(samples, rng) if sung else None
            if turned is not None:
                samples = turned.samples
            if rng.random() < 0.4:
                samples = equalise(samples, rng, 4.0)
            if rng.random() < 0.4:
                samples = reverberate(samples, rng, float(rng.uniform(-22, -9)), float(rng.uniform(0.25, 1.4)))
            samples = samples * (float(rng.uniform(0.3, 0.9)) / (np.abs(samples).max() + 1e-9))
            words = words_of(utterance.text)
            total += len(samples) / SAMPLE_RATE
            yield {
                "id": f"speech-{plan.seed}-{number:05d}", "artist": utterance.speaker, "kind": "speech" if turned is None else "speech_sung",
                "sample_rate": SAMPLE_RATE, "vocals": encode(samples), "accompaniment": None, "raw_lyrics": " ".join(words), "lrc_lyrics": None,
                "words": [], "phones": [],
                "notes": [] if turned is None else [{"start": a, "end": b, "midi": midi} for a, b, midi in turned.notes],
                "f0": None if turned is None else turned.f0_hz[: len(samples) * FRAME_RATE // SAMPLE_RATE].astype("<f4").tobytes(),
                "style": "", "language": "en", "pron": [phone for word in words for phone in espeak.pronounce(word)],
            }  # fmt: skip

    return write_rows(rows(), plan.path(partition)), total
