"""What a singer is made of: espeak voices, words analysed with WORLD, and the table of singers.

`WordBank.get(voice, word)` speaks a word once, analyses it and keeps the frames on disk under (version, voice, word); writes are atomic, so
several workers may share a folder. Frames are 5 ms apart at 24 kHz: log power spectrum on 128 mel-spaced points, WORLD band aperiodicity,
voicing by phone class. A `Singer` is a voice with a formant warp, a range and a manner; `SINGERS["train"]` and `SINGERS["test"]` share
neither a voice nor a warp.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy import signal

from autosing.errors import ConfigError
from autosing.rendering.espeak import Espeak, Utterance
from autosing.rendering.phones import SONORANTS, STOPS, VOICED_CONSONANTS, VOWELS, to_arpabet
from autosing.store import atomic_path

SAMPLE_RATE = 24_000
FRAME_RATE = 200
FRAME_MS = 1000 / FRAME_RATE
FFT_SIZE = 1024
BINS = FFT_SIZE // 2 + 1
POINTS = 128
CACHE_VERSION = "1"
_CLOSURE_FRAMES = 24  # the longest silence before a release that is counted as the stop's own closure


def mel_points() -> np.ndarray:
    """The POINTS frequencies in Hz, even on the mel scale (2595 log10(1 + f/700)), from 0 to the Nyquist frequency."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    return 700 * (10 ** (np.linspace(0, top, POINTS) / 2595) - 1)


@functools.cache
def expansion(warp: float) -> np.ndarray:
    """(POINTS, BINS) linear interpolation from the mel points to FFT bins, formants moved up by the factor `warp`."""
    points = mel_points()
    wanted = np.clip(np.arange(BINS) * SAMPLE_RATE / FFT_SIZE / warp, 0, points[-1])
    right = np.clip(np.searchsorted(points, wanted, side="right"), 1, POINTS - 1)
    share = (wanted - points[right - 1]) / (points[right] - points[right - 1])
    matrix = np.zeros((POINTS, BINS), np.float32)
    matrix[right - 1, np.arange(BINS)] = 1 - share
    matrix[right, np.arange(BINS)] += share
    return matrix


@dataclass(frozen=True)
class WordFrames:
    """One analysed word. n frames, p phones; `edges` are frame numbers, phone i is frames edges[i] to edges[i + 1]."""

    log_power: np.ndarray  # (n, POINTS) float16, natural log
    aperiodicity: np.ndarray  # (n, 3) float16, WORLD's coded band aperiodicity in dB
    voiced: np.ndarray  # (n,) bool
    phones: tuple[str, ...]
    edges: tuple[int, ...]  # p + 1 frame numbers, rising


def phone_edges(utterance: Utterance, level_db: np.ndarray) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Phones of a spoken word and their p + 1 frame edges.

    espeak counts the silence before a release as part of the preceding phone: here it belongs to the stop, and the word's last phone ends
    where the level has fallen 45 dB.

    Args:
        utterance: the word with its events.
        level_db: (n,) level of each 5 ms frame.
    """
    phones: list[str] = []
    starts: list[float] = []
    end = len(level_db) / FRAME_RATE
    onsets = [time for time, _ in utterance.events] + [end]
    for (onset, symbol), after in zip(utterance.events, onsets[1:], strict=True):
        parts = to_arpabet(symbol)
        if not parts:
            end = min(end, onset) if phones else end
            continue
        if after - onset < 0.004:
            continue
        for phone, share in parts:
            phones.append(phone)
            starts.append(onset)
            onset += share * (after - onset if share == 1.0 else (after - starts[-1]) if phone == parts[0][0] else 0.0)
    if len(phones) > 1 and phones[-1] == "HH":
        phones.pop()
        starts.pop()
    frames = [round(start * FRAME_RATE) for start in starts]
    loud = level_db > level_db.max() - 45
    last = min(round(end * FRAME_RATE), int(np.flatnonzero(loud)[-1]) + 2, len(level_db))
    for index, phone in enumerate(phones):
        if phone in STOPS:
            floor = max(frames[index - 1] + 4 if index else 0, frames[index] - _CLOSURE_FRAMES)
            quiet = level_db < level_db.max() - 32
            frame = frames[index]
            while frame > max(floor, frames[index] - 4) and not quiet[frame - 1]:  # the release smears over some frames
                frame -= 1
            while frame > floor and quiet[frame - 1]:
                frame -= 1
                frames[index] = frame
    edges = [*frames, max(last, frames[-1] + 3)] if frames else [0]
    for index in range(1, len(edges)):
        edges[index] = max(edges[index], edges[index - 1] + 2)
    return tuple(phones), tuple(edges)


class WordBank:
    """Words as WORLD frames, analysed on first use and kept under `folder`. Needs espeakng-loader and pyworld (extra ``render``)."""

    def __init__(self, folder: Path):
        """
        Raises:
            ConfigError: WORLD is not installed.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pyworld imports the deprecated pkg_resources
                import pyworld
        except ImportError as error:
            raise ConfigError("rendering songs needs WORLD: pip install 'autosing[render]'") from error
        self._world = pyworld
        self._folder = Path(folder) / f"words-v{CACHE_VERSION}"
        self._espeak: Espeak | None = None
        self._memory: dict[tuple[str, str], WordFrames] = {}

    def get(self, voice: str, word: str) -> WordFrames:
        """The word's frames, from memory, disk or a fresh analysis; ConfigError if espeak does not speak the word."""
        key = (voice, word)
        if key in self._memory:
            return self._memory[key]
        if len(self._memory) > 3000:
            self._memory.clear()
        path = self._folder / voice.replace("+", "_") / f"{word.replace(chr(39), '_')}.npz"
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as kept:
                    frames = WordFrames(
                        kept["log_power"],
                        kept["aperiodicity"],
                        kept["voiced"],
                        tuple(kept["phones"].tolist()),
                        tuple(kept["edges"].tolist()),
                    )
            except (zipfile.BadZipFile, KeyError, ValueError, EOFError):
                frames = self._store(path, self.analyse(voice, word))
        else:
            frames = self._store(path, self.analyse(voice, word))
        self._memory[key] = frames
        return frames

    def _store(self, path: Path, frames: WordFrames) -> WordFrames:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file, log_power=frames.log_power, aperiodicity=frames.aperiodicity, voiced=frames.voiced,
                phones=np.array(frames.phones), edges=np.array(frames.edges),
            )  # fmt: skip
        return frames

    def analyse(self, voice: str, word: str) -> WordFrames:
        """Speak and analyse a word now, without the cache.

        Raises:
            ConfigError: espeak gives no sound or no phones for it.
        """
        self._espeak = self._espeak or Espeak()
        utterance = self._espeak.say(word, voice)
        if len(utterance.samples) < 0.05 * utterance.sample_rate:
            raise ConfigError(f"espeak says nothing for {word!r} as {voice!r}: leave the word out of the vocabulary")
        samples = np.ascontiguousarray(resample(utterance.samples, utterance.sample_rate))
        f0_hz, times = self._world.dio(samples, SAMPLE_RATE, f0_floor=55, f0_ceil=500, frame_period=FRAME_MS)
        f0_hz = self._world.stonemask(samples, f0_hz, times, SAMPLE_RATE)
        level_db = frame_level_db(samples, len(f0_hz))
        phones, edges = phone_edges(utterance, level_db)
        if not phones:
            raise ConfigError(f"espeak gives no phones for {word!r} as {voice!r}: leave the word out of the vocabulary")
        found = f0_hz > 0
        steady = (
            np.interp(np.arange(len(f0_hz)), np.flatnonzero(found), f0_hz[found]) if found.any() else np.full(len(f0_hz), 110.0)
        )
        voiced = np.zeros(len(f0_hz), bool)
        for phone, start, end in zip(phones, edges, edges[1:], strict=False):
            if phone in VOWELS or phone in SONORANTS:
                voiced[start:end] = True
            elif phone in VOICED_CONSONANTS:
                voiced[start:end] = found[start:end]
        f0_hz = np.where(voiced | found, np.where(found, f0_hz, steady), 0.0)
        power = self._world.cheaptrick(samples, f0_hz, times, SAMPLE_RATE, fft_size=FFT_SIZE)
        aperiodicity = self._world.d4c(samples, f0_hz, times, SAMPLE_RATE, threshold=0.0, fft_size=FFT_SIZE)
        bins = np.arange(BINS) * SAMPLE_RATE / FFT_SIZE
        position = np.interp(mel_points(), bins, np.arange(BINS))
        left = np.minimum(position.astype(int), BINS - 2)
        share = position - left
        log_power = np.log(power + 1e-13)
        log_power = log_power[:, left] * (1 - share) + log_power[:, left + 1] * share
        coded = self._world.code_aperiodicity(aperiodicity, SAMPLE_RATE)
        return WordFrames(log_power.astype(np.float16), coded.astype(np.float16), voiced, phones, edges)


def resample(samples: np.ndarray, rate: int, up: int = 1, down: int = 1) -> np.ndarray:
    """(..., n) audio of `rate` Hz at 24 kHz, played `down / up` times as long (a tape's speed: pitch changes with it)."""
    return signal.resample_poly(samples, *Fraction(SAMPLE_RATE * down, rate * up).as_integer_ratio(), axis=-1)


def frame_level_db(samples: np.ndarray, frames: int) -> np.ndarray:
    """(frames,) RMS level in dB of 10 ms around each frame's time."""
    hop = SAMPLE_RATE // FRAME_RATE
    padded = np.pad(samples, (hop, frames * hop + 2 * hop))
    energy = np.concatenate([[0.0], np.cumsum(padded * padded)])
    at = np.arange(frames) * hop
    return 10 * np.log10((energy[at + 2 * hop] - energy[at]) / (2 * hop) + 1e-10)


@dataclass(frozen=True)
class Singer:
    """A voice with its manner. Pitches are MIDI numbers, depths cents, times seconds."""

    name: str
    voice: str  # espeak language+variant
    warp: float  # formants times this
    centre_midi: float
    reach: int  # semitones up and down from the centre
    vibrato_cents: float
    vibrato_hz: float
    vibrato_onset: float  # seconds of straight tone first
    glide: float  # seconds a change of pitch takes
    jitter_cents: float
    tilt_db: float  # dB per octave above 500 Hz
    breath: float  # 0 to 0.4, share of noise added above 2 kHz
    consonants: float  # length of consonants, times speech
    scoops: float  # share of phrase starts that slide up from below
    legato: float  # share of a note that sounds


VOICES: dict[str, tuple[str, ...]] = {
    "train": (
        "en-us", "en-us+m1", "en-us+m3", "en-us+m4", "en-us+m5", "en-us+m7", "en-us+Andy", "en-us+Michael", "en-us+klatt", "en-us+klatt2",
        "en-us+klatt4", "en-us+david", "en-us+travis", "en-us+rob", "en-gb-x-rp+m3", "en-us+f1", "en-us+f2", "en-us+f3", "en-us+f5",
        "en-us+steph", "en-us+linda", "en-us+Annie", "en-us+shelby", "en-us+Andrea", "en-gb-x-rp+f5",
        "en-us+adam", "en-us+Mario", "en-us+Hugo", "en-us+ed", "en-us+quincy", "en-us+Gene", "en-us+Denis", "en-us+max",
        "en-us+m6", "en-us+Mike", "en-us+victor", "en-us+Alex", "en-us+Diogo", "en-us+Henrique", "en-us+Nguyen", "en-us+Reed",
        "en-us+antonio", "en-us+benjamin", "en-us+edward", "en-us+grandpa", "en-us+gustave", "en-us+ian", "en-us+iven",
        "en-us+iven2", "en-us+iven4", "en-us+john", "en-us+marcelo", "en-us+michel", "en-us+miguel", "en-us+norbert", "en-us+paul",
        "en-us+pedro", "en-us+sandro", "en-us+zac", "en-us+Jacky", "en-us+pablo", "en-us+kaukovalta", "en-us+klatt5",
        "en-us+grandma", "en-us+Alicia", "en-us+belinda", "en-us+aunty", "en-us+steph3", "en-us+Storm",
    ),
    "test": ("en-us+m8", "en-us+m2", "en-us+robert", "en-us+f4", "en-us+anika", "en-us+steph2"),
}  # fmt: skip
_FEMALE = {"f1", "f2", "f3", "f4", "f5", "steph", "steph2", "linda", "Annie", "shelby", "Andrea", "anika", "grandma", "Alicia", "belinda", "aunty",
    "steph3",
}  # fmt: skip
_WARPS = {"train": {"m": (0.87, 0.97, 1.09), "f": (0.94, 1.04, 1.17)}, "test": {"m": (0.91, 1.04), "f": (0.98, 1.11)}}


def make_singer(voice: str, warp: float) -> Singer:
    """The singer with this voice and warp; the manner follows from the name alone."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{voice}*{warp:.3f}".encode()).digest()[:8], "little"))
    female = voice.rpartition("+")[2] in _FEMALE
    warp = round(warp * float(rng.uniform(0.99, 1.01)), 3)
    return Singer(
        name=f"{voice}*{warp:.3f}", voice=voice, warp=warp,
        centre_midi=(63.0 if female else 52.5) + 24 * (warp - (1.05 if female else 0.98)) + float(rng.uniform(-2.5, 2.5)),
        reach=int(rng.integers(7, 11)), vibrato_cents=float(rng.choice([0, 20, 35, 50, 70, 100])), vibrato_hz=float(rng.uniform(4.6, 6.6)),
        vibrato_onset=float(rng.uniform(0.1, 0.45)), glide=float(rng.uniform(0.035, 0.13)), jitter_cents=float(rng.uniform(3, 16)),
        tilt_db=float(rng.uniform(-2.5, 2.0)), breath=float(rng.choice([0, 0, 0.05, 0.12, 0.25])), consonants=float(rng.uniform(0.75, 1.25)),
        scoops=float(rng.uniform(0, 0.5)), legato=float(rng.uniform(0.82, 1.0)),
    )  # fmt: skip


@functools.cache
def singers(split: str) -> tuple[Singer, ...]:
    """All singers of "train" (207) or "test" (12), in a fixed order."""
    return tuple(
        make_singer(voice, warp)
        for voice in VOICES[split]
        for warp in _WARPS[split]["f" if voice.rpartition("+")[2] in _FEMALE else "m"]
    )
