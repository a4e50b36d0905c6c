"""Which model turns semantic tokens into codes, and how it is asked: a row of `CODE_SINGERS` for each kind that `--sm2a-model` may name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from autosing.errors import ConfigError
from autosing.models.io import read_kind
from autosing.models.places import resolve
from autosing.singing.parallel import PASSES, generate_codes_parallel, passes_per_level
from autosing.singing.stepwise import generate_codes


class CodeSinger(NamedTuple):
    """How one kind of model sings.

    Attributes:
        sing: (model, semantic, accompaniment, voice, **settings) -> (B, K, T) codes.
        check: (model, steps, repair) -> what `check_settings` raises.
        repair: rounds in which wrong words are sung again where nobody says how many.
    """

    sing: Callable[..., Tensor]
    check: Callable[[Any, int | None, int], None]
    repair: int


def _one_after_the_other(model: Any, *given: Any, steps: int | None = None, **settings: Any) -> Tensor:
    _has_no_passes(model, steps, 0)
    return generate_codes(model, *given, **settings)


def _has_no_passes(_: Any, steps: int | None, repair: int) -> None:
    instead = "this one sings step by step; leave it out, or give --sm2a-model builtin or another checkpoint of sm2a_parallel"
    if steps is not None:
        raise ConfigError(f"--steps is for a parallel sm2a model, {instead}")
    if repair:
        raise ConfigError(f"--repair needs a parallel sm2a model, which can sing between what stays, {instead}")


def _has_passes(model: Any, steps: int | None, _: int) -> None:
    passes_per_level(PASSES if steps is None else steps, model.config.codec.levels, model.config.pass_shares)


CODE_SINGERS: dict[str, CodeSinger] = {
    "sm2a": CodeSinger(_one_after_the_other, _has_no_passes, repair=0),
    "sm2a_parallel": CodeSinger(generate_codes_parallel, _has_passes, repair=2),
}
SINGS_BEST = "sm2a_parallel"
"""The kind whose shipped checkpoint goes by the name of `builtin` alone; that of any kind is `builtin_<kind>`."""


def find_code_singer(name: str) -> tuple[str | Path, str]:
    """What `load_model` is to be told of the checkpoint that `--sm2a-model` names: (its name or place, its kind).

    Raises:
        WeightsError: nothing there. What is there but does not sing, `load_model` refuses.
    """
    shipped = {"builtin": SINGS_BEST, **{f"builtin_{kind}": kind for kind in CODE_SINGERS}}
    if name in shipped:
        return "builtin", shipped[name]
    folder = resolve(name, "sm2a")
    kind = read_kind(folder)
    return folder, kind if kind in CODE_SINGERS else "sm2a"


def sing_codes(model: Any, semantic: Tensor, accompaniment: Tensor | None, voice: Tensor | None, **settings: Any) -> Tensor:
    """(B, N) semantic tokens -> (B, K, T) codes by a model of any kind of `CODE_SINGERS`; settings as in `generate_codes`.

    Raises:
        ConfigError: a setting that this kind of model has not.
    """
    return CODE_SINGERS[model.kind].sing(model, semantic, accompaniment, voice, **settings)


def check_settings(model: Any, steps: int | None, repair: int | None) -> int:
    """Rounds of repair: those asked for, or as many as are usual for this kind of model.

    Raises:
        ConfigError: this kind of model has no such number of passes (`steps`), or cannot sing single words again (`repair` rounds).
    """
    singer = CODE_SINGERS[model.kind]
    rounds = singer.repair if repair is None else repair
    singer.check(model, steps, rounds)
    return rounds
