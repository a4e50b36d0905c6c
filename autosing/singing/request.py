"""What a person asks `sing.py` for, validated before any model is loaded, and what comes back."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from autosing.errors import ConfigError
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Lyrics, parse_raw
from autosing.tokens.specs import Seconds

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga")
SHORTEST_SECONDS: Seconds = 4.0  # less is not sung, and no shorter stretch of a reference is sung over


@dataclass(frozen=True)
class SingRequest:
    """New words over a reference's instrumental.

    Attributes:
        reference: recording whose instrumental is sung over; None only with `tts`.
        lyrics: the words; the first half of the lines governs the first half of the time, the rest the second half.
        start_seconds, length_seconds: which stretch of the reference.
        music_volume: factor on the instrumental in the mix.
        temperature: of both models' sampling.
        steps: passes of a parallel sm2a model; None = 16. A model that sings step by step has none.
        candidates: versions sung at once; the one whose words are recognised best is kept as the result.
        speaker_files: recordings whose singer is asked for (averaged).
        speaker_alpha: 1 = the speaker files' voice, 0 = the reference's voice.
        semantic_file: take the semantic tokens (words and timing) of this recording instead of generating them.
        tts: no instrumental at all, neither as condition nor in the mix.
        seed: the same request with the same seed on the same machine gives the same bytes.
    """

    lyrics: str
    reference: Path | None = None
    t2s_model: str = "builtin"
    sm2a_model: str = "builtin"
    start_seconds: Seconds = 0.0
    length_seconds: Seconds = 30.0
    music_volume: float = 0.8
    temperature: float = 0.7
    steps: int | None = None
    candidates: int = 4
    speaker_files: tuple[Path, ...] = ()
    speaker_alpha: float = 1.0
    semantic_file: Path | None = None
    tts: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.reference is None and not self.tts:
            raise ConfigError("--reference is missing; give a recording to sing over, or --tts to sing without one")
        for what, path in (("--reference", self.reference), ("--semfile", self.semantic_file)):
            if path is not None and not path.is_file():
                raise ConfigError(f"{what}: no file at '{path}'")
        for path in self.speaker_files:
            if not path.is_file():
                raise ConfigError(f"--spkfile: no file at '{path}'")
        if self.semantic_file is None and not self.parsed.lines:
            raise ConfigError("--lyrics holds no word to sing; give one or two lines, for example $'la la la la\\nla la la la'")
        limits = {
            "--start-time": (self.start_seconds, 0.0, 24 * 3600.0),
            "--length": (self.length_seconds, SHORTEST_SECONDS, 30.0),
            "--music-volume": (self.music_volume, 0.0, 4.0),
            "--temp": (self.temperature, 0.01, 2.0),
            "--steps": (1 if self.steps is None else self.steps, 1, 1000),
            "--batch-size": (self.candidates, 1, 64),
            "--spk-alpha": (self.speaker_alpha, 0.0, 1.0),
            "--seed": (self.seed, -(2**63), 2**64 - 1),  # what torch's generators take
        }
        for flag, (value, low, high) in limits.items():
            if not low <= value <= high:
                low, high, value = (n if isinstance(n, int) else f"{n:g}" for n in (low, high, value))
                raise ConfigError(f"{flag} must lie between {low} and {high}, found {value}")

    @property
    def parsed(self) -> Lyrics:
        return parse_raw(self.lyrics.replace("\\n", "\n"))

    @property
    def halves(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Lines of the first and of the second half of the time; one line governs all of it (the second half is empty)."""
        lines = tuple(line.text for line in self.parsed.lines)
        middle = (len(lines) + 1) // 2
        return lines[:middle], lines[middle:]


@dataclass(frozen=True)
class Sung:
    """The result. Waveforms are (C, n) float32 at `sample_rate`, all of one length, peaks <= 1.

    Attributes:
        mix, vocals, accompaniment: mix == vocals + accompaniment as they stand here (levels baked in).
        alignment: the words at the times at which they are sung, found by aligning the vocals.
        others: the candidates that were not chosen, as mixes, best first.
        report: JSON values (no NaN or infinity): scores of every candidate (None: no word of it was found), chosen one, seconds spent
            on each stage, versions.
    """

    mix: Tensor
    vocals: Tensor
    accompaniment: Tensor
    sample_rate: int
    alignment: Alignment
    others: tuple[Tensor, ...]
    report: dict
