"""What a person asks `sing.py` for, validated before any model is loaded, and what comes back."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from autosing.errors import ConfigError
from autosing.registry import split_choice
from autosing.singing.words import read_lyrics
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Lyrics
from autosing.tokens.specs import Seconds

SHORTEST_SECONDS: Seconds = 4.0  # less is not sung, and no shorter stretch of a reference is sung over
DEFAULT_SECONDS: Seconds = 30.0  # of two plain lines
LONGEST_SECONDS: Seconds = 1800.0  # what may be decoded of a recording
QUICK_SEPARATOR = 'builtin:{"passes": 0}'
"""It does not get used to the song, which for half a minute would take as long as separating it."""


class Ears(NamedTuple):
    """Choices of backends (`registry.split_choice`). None = what the models were trained on; else that, with the place of its weights."""

    separator: str = QUICK_SEPARATOR
    aligner: str = "builtin"
    codec: str | None = None
    semantic: str | None = None
    voice: str | None = None

    def trained(self, part: str, name: str) -> str:
        """The choice for a part that the models were trained on, which is called `name`.

        Raises:
            ConfigError: the choice is another one.
        """
        choice = getattr(self, part) or name
        if split_choice(choice)[0] != name:
            raise ConfigError(f"--{part} must be '{name}', which the models were trained on, found '{choice}'")
        return choice


LIMITS: dict[str, tuple[float, float]] = {
    "--start-time": (0.0, 24 * 3600.0),
    "--length": (SHORTEST_SECONDS, LONGEST_SECONDS),
    "--music-volume": (0.0, 4.0),
    "--temp": (0.01, 2.0),
    "--steps": (1, 1000),
    "--candidates": (1, 64),
    "--repair": (0, 64),
    "--spk-alpha": (0.0, 1.0),
    "--seed": (-(2**63), 2**64 - 1),  # what torch's generators take
}


def check_limits(values: Mapping[str, float | None]) -> None:
    """
    Raises:
        ConfigError: a flag's value lies outside its `LIMITS`; None is none.
    """
    for flag, value in values.items():
        low, high = LIMITS[flag]
        if value is not None and not low <= value <= high:
            low, high, value = (n if isinstance(n, int) else f"{n:g}" for n in (low, high, value))
            raise ConfigError(f"{flag} must lie between {low} and {high}, found {value}")


@dataclass(frozen=True)
class SingRequest:
    """New words over a reference's instrumental.

    Attributes:
        reference: recording whose instrumental is sung over; None only with `tts`. Paths may be given as texts.
        lyrics: the words, as LRC or as plain lines. Of two plain lines the first governs the first half of the time and the other the
            rest, each on a phrase that is sung there in the reference; more of them are laid over its phrases (`plan.py`), stamped ones stay
            where their stamps say.
        start_seconds, length_seconds: which stretch of the reference; length None = 30 s for two plain lines, else what the lyrics, or the
            voice in `semantic_file`, take.
        music_volume: factor on the instrumental in the mix.
        temperature: of both models' sampling.
        steps: passes of a parallel sm2a model; None = 16. A model that sings step by step has none.
        candidates: versions sung at once, of half as many melodies where their tokens can be read; the one whose words are recognised best is
            kept as the result.
        repair: rounds in which the wrong words of that one are sung again, in as many ways as there are candidates, by a parallel sm2a model;
            None = 2, or none where the model sings step by step.
        speaker_files: recordings whose singer is asked for (averaged).
        any_voice: sing with whatever voice the model finds where neither a speaker file nor the reference gives one.
        speaker_alpha: 1 = the speaker files' voice, 0 = the reference's voice.
        semantic_file: take the semantic tokens (words and timing) of this recording instead of generating them.
        tts: no instrumental at all, neither as condition nor in the mix.
        seed: the same request with the same seed on the same machine gives the same bytes.
        strict: refuse lyrics of which something cannot be sung, instead of singing the rest.
        stream: sing in short windows from the first, so that the first audio is soon there.
    """

    lyrics: str
    reference: Path | None = None
    t2s_model: str = "builtin"
    sm2a_model: str = "builtin"
    start_seconds: Seconds = 0.0
    length_seconds: Seconds | None = None
    music_volume: float = 0.8
    temperature: float = 0.7
    steps: int | None = None
    candidates: int = 4
    repair: int | None = None
    speaker_files: tuple[Path, ...] = ()
    speaker_alpha: float = 1.0
    semantic_file: Path | None = None
    tts: bool = False
    seed: int = 0
    any_voice: bool = False
    strict: bool = False
    stream: bool = False

    def __post_init__(self) -> None:
        for name in ("reference", "semantic_file"):  # a notebook gives texts
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        object.__setattr__(self, "speaker_files", tuple(Path(path) for path in self.speaker_files))
        if self.reference is None and not self.tts:
            raise ConfigError("--reference is missing; give a recording to sing over, or --tts to sing without one")
        for what, path in (("--reference", self.reference), ("--semfile", self.semantic_file)):
            if path is not None and not os.path.isfile(path):
                raise ConfigError(f"{what}: no file at '{path}'")
        for path in self.speaker_files:
            if not os.path.isfile(path):
                raise ConfigError(f"--spkfile: no file at '{path}'")
        if self.semantic_file is None and not self.parsed.lines:
            raise ConfigError("--lyrics holds no word to sing; give a line or more, for example $'la la la la\\nla la la la'")
        check_limits({
            "--start-time": self.start_seconds, "--length": self.length_seconds, "--music-volume": self.music_volume, "--temp": self.temperature,
            "--steps": self.steps, "--candidates": self.candidates, "--repair": self.repair, "--spk-alpha": self.speaker_alpha, "--seed": self.seed,
        })  # fmt: skip

    @property
    def text(self) -> str:
        """The lyrics with a written `\\n` as a line break."""
        return self.lyrics.replace("\\n", "\n")

    @property
    def parsed(self) -> Lyrics:
        return read_lyrics(self.text)

    @property
    def in_halves(self) -> bool:
        """One plain line governs all of the time, of two the first governs the first half."""
        lyrics = self.parsed
        return not lyrics.stamped and len(lyrics.lines) <= 2

    @property
    def most_seconds(self) -> Seconds:
        """What of the reference could be sung over."""
        if self.length_seconds is not None:
            return self.length_seconds
        return DEFAULT_SECONDS if self.in_halves or self.semantic_file is not None else LONGEST_SECONDS


def halves(lines: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lines of the first and of the second half of the time; one line governs all of it (the second half is empty)."""
    middle = (len(lines) + 1) // 2
    return tuple(lines[:middle]), tuple(lines[middle:])


@dataclass(frozen=True)
class Sung:
    """The result. Waveforms are (C, n) float32 at `sample_rate`, all of one length, peaks <= 1.

    Attributes:
        mix, vocals, accompaniment: mix == vocals + accompaniment as they stand here (levels baked in).
        alignment: the words at the times at which they are sung, found by aligning the vocals.
        others: the candidates that were not chosen, as mixes, best first; none of a song that takes several windows.
        report: JSON values (no NaN or infinity): scores of every candidate (None: no word of it was found), chosen one, seconds spent
            on each stage, versions, and the plan that `tokens` were sung to.
        tokens: `semantic` (N,), `codes` (K, T), `track` (N,) and, of what was sung to, `band` (1, K, T) and `voice` (1, 1, D): enough to
            sing a passage of it again (`passage.py`).
    """

    mix: Tensor
    vocals: Tensor
    accompaniment: Tensor
    sample_rate: int
    alignment: Alignment
    others: tuple[Tensor, ...]
    report: dict
    tokens: dict[str, Tensor]
