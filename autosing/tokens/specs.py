"""What tokens mean: rates, levels and sizes, as frozen values that travel with every table and checkpoint.

Letters: B batch, C channels, n samples, K codec levels, T finest codec frames, N semantic tokens. Times are seconds, positions are
frames. No number of a codec is ever learnt by building the codec: these specs are read from Parquet metadata, `dataset.json` or
a checkpoint's `config.json`.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from autosing.errors import MismatchError

Seconds = float


@dataclass(frozen=True)
class CodecSpec:
    """A residual or factored audio codec's token layout.

    Attributes:
        name: registry name, e.g. "builtin", "snac_32khz".
        sample_rate: Hz of the waveform in and out.
        hop: samples a finest frame (snac_32khz: 384).
        strides: finest frames a code of each level, coarse to fine: (8, 4, 2, 1).
        num_codes: codes a level.
        grain: `encode` yields a multiple of `grain` finest frames.
    """

    name: str
    sample_rate: int
    hop: int
    strides: tuple[int, ...]
    num_codes: int
    grain: int

    HOLE: ClassVar[int] = -1  # "no code here" (off stride); never a valid code

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides", tuple(self.strides))

    @property
    def levels(self) -> int:
        return len(self.strides)

    @property
    def frame_rate(self) -> float:
        """Finest frames a second."""
        return self.sample_rate / self.hop

    @property
    def bits_per_second(self) -> float:
        from math import log2

        return sum(self.frame_rate / stride for stride in self.strides) * log2(self.num_codes)

    def frames(self, seconds: Seconds) -> int:
        """Whole finest frames in `seconds`, floored to the grain; snac_32khz: frames(30) == 2496."""
        return int(seconds * self.sample_rate / self.hop + 1e-6) // self.grain * self.grain

    def seconds(self, frames: int) -> Seconds:
        return frames * self.hop / self.sample_rate


@dataclass(frozen=True)
class SemanticSpec:
    """A semantic tokenizer's layout: `token_rate` tokens a second from `sample_rate` Hz audio, `num_codes` codes of width `width`."""

    name: str
    sample_rate: int
    token_rate: int
    num_codes: int
    width: int

    def tokens(self, seconds: Seconds) -> int:
        return int(seconds * self.token_rate + 1e-6)


@dataclass(frozen=True)
class VoiceSpec:
    """A singer embedding's layout: `width` values, unit norm, from `sample_rate` Hz vocals."""

    name: str
    sample_rate: int
    width: int


def spec_to_json(spec: CodecSpec | SemanticSpec | VoiceSpec) -> str:
    return json.dumps({"kind": type(spec).__name__, **asdict(spec)}, sort_keys=True)


def spec_from_json(text: str | bytes) -> CodecSpec | SemanticSpec | VoiceSpec:
    values: dict[str, Any] = json.loads(text)
    kind = {c.__name__: c for c in (CodecSpec, SemanticSpec, VoiceSpec)}[values.pop("kind")]
    return kind(**values)


def require_same(what: str, a: object, where_a: str, b: object, where_b: str) -> None:
    """Refuse two parts made with different specs.

    Raises:
        MismatchError: names the field that differs, both values and both places.
    """
    if a == b:
        return
    fa, fb = (asdict(x) if x is not None else {} for x in (a, b))  # type: ignore[call-overload]
    fields = [f"{k}: {fa.get(k)!r} != {fb.get(k)!r}" for k in {**fa, **fb} if fa.get(k) != fb.get(k)]
    raise MismatchError(f"{what} of {where_a} and of {where_b} differ ({'; '.join(fields)}); make both with the same {what}")
