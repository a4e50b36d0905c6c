"""What the train loop knows of a task. The loop knows no task names; a task knows no files, devices or ranks.

A module of `tasks/` exports `TASK`, a class that implements `Task` and is built as `TASK(args, tunables, meta)`: `args` from `--task_args`,
`tunables` from `--tunables` (both frozen dataclasses; unknown keys are refused), `meta` from the dataset.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from autosing.config import require_at_least, require_dropout
from autosing.song.alignment import Alignment, Word
from autosing.tokens.specs import CodecSpec, Seconds, SemanticSpec, VoiceSpec

Row = Mapping[str, Any]
Batch = dict[str, Tensor]
DRAWN_FROM = "drawn_from"
SPECS = {"codec": CodecSpec, "accompaniment_codec": CodecSpec, "semantic": SemanticSpec, "voice": VoiceSpec}
"""The fields of `DatasetMeta` that say which codes and embeddings rows hold."""


@dataclass(frozen=True)
class DatasetMeta:
    """What `dataset.json` says; the numbers a task needs without reading a row. Fields that do not apply are None or 0.

    Attributes:
        kind: "tokens" (made by construct_dataset) or "songs" (rendered songs with truth, made by autosing.rendering).
        window_seconds: nominal length of a row's window (30 or 15).
    """

    kind: str = "songs"
    codec: CodecSpec | None = None
    accompaniment_codec: CodecSpec | None = None
    semantic: SemanticSpec | None = None
    voice: VoiceSpec | None = None
    window_seconds: Seconds = 30.0
    rows: int = 0
    source_hash: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as written into `checkpoint_meta()["dataset"]`; the inverse of `from_json`."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "DatasetMeta":
        built: dict[str, Any] = {k: SPECS[k](**v) if k in SPECS and v is not None else v for k, v in values.items()}
        return DatasetMeta(**{f.name: built[f.name] for f in fields(DatasetMeta) if f.name in built})


class Losses(NamedTuple):
    """`total` is what is minimised; `parts` and `metrics` are only logged (a metric never adds to the loss). All scalars.

    `terms`: the addends of `total`, each with the number of things that it is a mean over. Several ranks weight them by these, so that each
    becomes the mean over the things of all ranks; without them every rank counts alike. So does a validation with its batches; the micro-batches
    of one step count alike. As many in every batch. What is logged of `parts` and `metrics` is in any case the mean over rows of what each rank's batch gave.
    """

    total: Tensor
    parts: dict[str, Tensor]
    metrics: dict[str, Tensor]
    terms: tuple[tuple[Tensor, Tensor], ...] = ()


@dataclass(frozen=True)
class ParamRule:
    """How the parameters whose name matches the regular expression `pattern` (`re.search`) learn; the first match wins.

    Attributes:
        lr_scale: factor on the learning rate (muP: base_width / width for hidden matrices).
        decay: weight decay applies.
        frozen: not trained at all.
    """

    pattern: str
    lr_scale: float = 1.0
    decay: bool = True
    frozen: bool = False


@dataclass(frozen=True)
class OptimTunables:
    """Tunables every task has; a task's own Tunables dataclass extends it. `clip_gradient_norm` 0 = no clipping.

    A field made with `drawn` takes part in a search: `{"random": true}` in `--tunables` draws it (`draw_tunables`).
    """

    lr0: float = 3e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 2000
    clip_gradient_norm: float = 2.0
    beta1: float = 0.9
    beta2: float = 0.95

    def __post_init__(self) -> None:
        require_at_least(self, 0, "lr0", "weight_decay", "warmup_steps", "clip_gradient_norm")
        require_dropout(self, "beta1", "beta2")


def drawn(default: Any, low: float, high: float) -> Any:
    """A tunable's field with the range that a random search draws it from, log-uniformly; both ends above 0."""
    return field(default=default, metadata={DRAWN_FROM: (low, high)})


def draw_tunables(cls: type, given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """`given` and a random value for everything else that a search varies: fields made with `drawn`, and the common ones around the task's
    own defaults (learning rate by up to 3, decay by up to 10, warm-up by up to 4, each way). The same seed draws the same values.
    """
    around = {"lr0": 3.0, "weight_decay": 10.0, "warmup_steps": 4.0}
    rng = np.random.default_rng([seed, 0x7DA])
    values: dict[str, Any] = {}
    for tunable in fields(cls):
        low, high = tunable.metadata.get(DRAWN_FROM, (0.0, 0.0))
        default: Any = tunable.default
        if tunable.name in around and not high:
            low, high = default / around[tunable.name], default * around[tunable.name]
        if low > 0:
            value = float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}")
            values[tunable.name] = round(value) if isinstance(default, int) else value
    return {**values, **given}


@dataclass(frozen=True)
class Sample:
    """What a model makes of a validation row now, for ears and eyes.

    Attributes:
        title: one line above its picture.
        words: what is sung when.
        heard: what a read-out of semantic tokens finds in them, where there is one.
        audio: (C, n) at `sample_rate`; None for a model that makes none.
        tokens: (N,) semantic tokens, `token_rate` a second; shown where there is no audio.
    """

    title: str
    words: Alignment
    heard: tuple[Word, ...] = ()
    audio: Tensor | None = None
    sample_rate: int = 0
    tokens: Tensor | None = None
    token_rate: float = 1.0


class Task(Protocol):
    """One trainable thing. It may also have `samples(model, batch) -> list[Sample]`: what the model makes of a collated batch, without chance
    (`--samples`); `tokens(batch) -> int`: how many targets it scores (`--plan`); and `open_rows`, `collate`, `check_loaded`, `args_of`, for which see where they are looked for.

    Attributes:
        name: registry name, e.g. "t2s".
        Args, Tunables: frozen dataclasses of the JSON settings; Tunables extends OptimTunables.
        parts: tables a row is joined from, e.g. ("main",) or ("songs",).
        columns: the columns of them that `example` reads (others are not loaded).
    """

    name: ClassVar[str]
    Args: ClassVar[type]
    Tunables: ClassVar[type]
    parts: tuple[str, ...]
    columns: tuple[str, ...]

    def example(self, row: Row, rng: np.random.Generator) -> Batch | None:
        """One row -> equal-shaped CPU tensors (no batch axis); None = unfit for this task, skipped and counted."""
        ...

    def build_model(self) -> nn.Module:
        """A freshly initialised model; it has `kind`, `Config` and `config` (see models/io.py). The loop has set the seed."""
        ...

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """A collated batch (leading axis B) on the model's device -> losses. Randomness of augmentation comes in `example`, or from
        torch's generator, which the loop seeds from (seed, step)."""
        ...

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        """Learning-rate scale and decay by parameter name; parameters no rule matches get `ParamRule("")`."""
        ...

    def checkpoint_meta(self) -> dict[str, Any]:
        """JSON values written into a checkpoint's `meta`: `{"task", "args", "dataset": DatasetMeta.to_json(), ...}`."""
        ...
