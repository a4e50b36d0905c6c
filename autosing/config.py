"""JSON settings -> frozen dataclasses.

One function reads every JSON a user writes (`--task_args`, `--dataset-config`, `--tunables`): unknown keys are refused with the
nearest valid key, wrong types and numbers that are not finite are refused by name, nothing is silently converted except int -> float.
"""

import dataclasses
import difflib
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from autosing.errors import ConfigError

T = TypeVar("T")


def nearest(name: str, choices: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` for the choice closest to `name`, or the list of choices when none is close."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; choose one of: {', '.join(choices)}"


def parse_json(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object given on the command line.

    Raises:
        ConfigError: the text is not JSON, or not an object.
    """
    try:
        value = json.loads(text)
    except ValueError as error:  # not JSON, or an integer of thousands of digits
        raise ConfigError(f"{where} is not valid JSON ({error}): {text!r}") from error
    if not isinstance(value, dict):
        raise ConfigError(f'{where} must be a JSON object like {{"key": value}}, found {type(value).__name__}')
    return value


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the frozen dataclass `cls` from `values`; fields left out keep their defaults.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a missing required key or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise ConfigError(f"{where} has no key '{key}'{nearest(key, fields)}")
    built = {key: _convert(value, hints[key], f"{where}: '{key}'") for key, value in values.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in built:
            raise ConfigError(f"{where} needs the key '{name}'")
    try:
        return cls(**built)
    except ValueError as error:  # a dataclass refuses its values in __post_init__
        raise ConfigError(f"{where}: {error}") from error


def check_options(function: Callable[..., Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as keyword arguments of `function`, checked against its annotations as `from_mapping` checks a dataclass; `device` is no option.

    Raises:
        ConfigError: an unknown name (with the nearest one), or a value of the wrong type.
    """
    known = [name for name in inspect.signature(function).parameters if name not in ("self", "device")]
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where} has no option '{key}'" + (nearest(key, known) if known else "; it has none"))
    return {key: _convert(value, hints.get(key, Any), f"{where}: '{key}'") for key, value in values.items()}


def require_fields(values: Any, must: str, ok: Callable[[Any], bool], *names: str) -> None:
    """For a dataclass's `__post_init__`: every named field that is not None is `ok`.

    Raises:
        ValueError: "'<name>' must be <must>, found <value>"; `from_mapping` makes a `ConfigError` of it.
    """
    for name in names:
        value = getattr(values, name)
        if value is not None and not ok(value):
            raise ValueError(f"'{name}' must be {must}, found {value!r}")


def require_shares(values: Any, *names: str) -> None:
    """`require_fields` for shares and probabilities."""
    require_fields(values, "between 0 and 1", lambda value: 0 <= value <= 1, *names)


def require_at_least(values: Any, least: float, *names: str) -> None:
    """`require_fields` for amounts."""
    require_fields(values, f"at least {least:g}", lambda value: value >= least, *names)


def require_dropout(values: Any, *names: str) -> None:
    """`require_fields` for shares that may not be everything."""
    require_fields(values, "at least 0 and below 1", lambda value: 0 <= value < 1, *names)


def to_mapping(value: Any) -> dict[str, Any]:
    """A frozen dataclass as plain JSON values; the inverse of `from_mapping`."""
    return dataclasses.asdict(value)


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The fields of `ours` that have other values, or none, in `theirs`, as "name: ... there, ... here"."""
    return [f"{name}: {theirs.get(name)!r} there, {value!r} here" for name, value in ours.items() if theirs.get(name) != value]


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        for option in options:
            try:
                return _convert(value, option, where)
            except ConfigError:
                continue
        names = " or ".join(_name(o) for o in options)
        raise ConfigError(f"{where} must be {names}, found {value!r}")
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where} has no choice {value!r}{nearest(str(value), map(str, typing.get_args(hint)))}")
        return value
    if origin in (tuple, list):
        args = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} must be a list, found {value!r}")
        if origin is tuple and args and args[-1] is not Ellipsis:
            if len(args) != len(value):
                raise ConfigError(f"{where} must have {len(args)} values, found {value!r}")
            return tuple(_convert(v, a, where) for v, a in zip(value, args, strict=True))
        return origin(_convert(v, args[0] if args else Any, where) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be an object, found {value!r}")
        return value
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be an object, found {value!r}")
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    if hint is type(None):
        if value is not None:
            raise ConfigError(f"{where} must be null, found {value!r}")
        return None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 1000 else math.inf
    if hint in (int, float, str, bool) and (type(value) is not hint):
        raise ConfigError(f"{where} must be {_name(hint)}, found {value!r}")
    if isinstance(value, float) and hint is float and not math.isfinite(value):
        raise ConfigError(f"{where} must be a finite number, found {value!r}")
    return value


def _name(hint: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(hint, str(hint))
