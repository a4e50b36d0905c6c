"""A user's own columns: one type a column over a whole source, found before anything is written.

A column whose values have no common type, or one that Parquet does not know, is text: texts as they are, other values as JSON.
"""

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from processing.formats.base import TAKEN

_AT_ONCE = 1024
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?(?:0|[1-9]\d*)\.\d+(?:[eE][+-]?\d+)?")


def own_name(name: str) -> str:
    """The column that a user's column of this name becomes."""
    name = clean(name.strip()) or "unnamed"
    return f"{name}_" if name in TAKEN else name


def infer(rows: Iterable[Mapping[str, Any]], texts: bool = False) -> dict[str, pa.DataType]:
    """Column -> type, of rows that need not all have the same columns.

    Args:
        texts: values are texts that may stand for numbers, as in CSV.
    """
    found: dict[str, pa.DataType] = {}
    stream = iter(rows)
    while some := list(itertools.islice(stream, _AT_ONCE)):
        for name in dict.fromkeys(key for row in some for key in row):
            values = [row.get(name) for row in some]
            kind = _type_of([_number(value) for value in values] if texts else values)
            found[name] = common(found[name], kind) if name in found else kind
    return {name: _storable(kind) for name, kind in found.items()}


def common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """A type that holds the values of both; text where there is none."""
    if one == other:
        return one
    try:
        schemas = [pa.schema([("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.string()


def fit(value: Any, kind: pa.DataType) -> Any:
    """The value as a cell of a column of this type."""
    if value is None:
        return None
    if pa.types.is_string(kind) and not isinstance(value, str):
        return json.dumps(plain(value), ensure_ascii=False)
    if isinstance(value, str):
        if pa.types.is_integer(kind):
            return int(value)
        if pa.types.is_floating(kind):
            return float(value)
    if isinstance(value, int) and not isinstance(value, bool) and pa.types.is_floating(kind):
        return float(value)
    return value


def plain(value: Any) -> Any:
    """A cell as a JSON value: what JSON lacks becomes text (times) or null (not a number)."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def clean(value: Any) -> Any:
    """A JSON value whose texts every encoder takes: halves of characters, which JSON can spell, are replaced."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return value
    if isinstance(value, dict):
        return {clean(key): clean(inner) for key, inner in value.items()}
    return [clean(inner) for inner in value] if isinstance(value, list) else value


def _number(value: Any) -> Any:
    if isinstance(value, str):
        if _INTEGER.fullmatch(value) and value != "-0":
            return int(value)
        if _DECIMAL.fullmatch(value):
            return float(value)
    return value


def _type_of(values: list[Any]) -> pa.DataType:
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        pass
    try:  # whole numbers among others
        return pa.array([float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.string()


def _storable(kind: pa.DataType) -> pa.DataType:
    """Nothing at all becomes text; what holds nothing of a nested kind has no type of its own and becomes text too."""
    return pa.string() if pa.types.is_null(kind) or _has_gaps(kind) else kind


def _has_gaps(kind: pa.DataType) -> bool:
    if pa.types.is_null(kind):
        return True
    if not pa.types.is_nested(kind):
        return False
    return not kind.num_fields or any(_has_gaps(kind.field(i).type) for i in range(kind.num_fields))
