"""`--filter 'trust > 0.85 and sung_share > 0.6'`: a small language over the columns of a row, parsed with `ast` and never evaluated as Python.

Names of columns, numbers, texts, None, True, False and lists of them; `< <= > >= == !=`, `in`, `is None`, `+ - * /`, `and`, `or`, `not`,
parentheses. Dates and times are texts ('2021-03-01', '2021-03-01 12:30:00'), durations are seconds; of a column of lists `'live' in tags` asks for one
of its values. Nothing else is understood, and what is not is named. As in SQL, what compares with an unknown value (null) is itself
unknown, and a row is kept only if the whole is true. The conditions joined by the outermost `and` are counted one by one.
"""

import ast
import datetime
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from autosing.config import nearest
from autosing.errors import ConfigError

MAX_CHARACTERS = 1000
"""A longer filter is refused: it bounds how deep expressions nest."""
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
_MEMBER: dict[type[ast.cmpop], bool] = {ast.In: True, ast.NotIn: False}
_IDENTITY: dict[type[ast.cmpop], bool] = {ast.Is: True, ast.IsNot: False}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_UNDERSTOOD = "columns, numbers, texts, lists, comparisons, in, is None, + - * /, and, or, not"


@dataclass(frozen=True)
class Counted:
    """What one condition did.

    Attributes:
        condition: as written.
        removed: rows that do not fulfil it, whatever the others say.
        unknown: those of them where a column it needs is null.
        left: rows that fulfil it and every condition before it.
    """

    condition: str
    removed: int
    unknown: int
    left: int


class RowFilter:
    """A parsed filter; it counts the rows it is shown."""

    def __init__(self, text: str, columns: Collection[str]):
        """
        Args:
            columns: those that rows have.

        Raises:
            ConfigError: not of this language, or a column that rows do not have.
        """
        self.text = text = text.strip()
        self._parts = tuple(_conjuncts(_parse(text)))
        for part in self._parts:
            _check(part, columns, text)
        self._shown = tuple(ast.get_source_segment(text, part) or ast.unparse(part) for part in self._parts)
        self._removed, self._unknown, self._left = ([0] * len(self._parts) for _ in range(3))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it asks about."""
        return tuple(sorted({node.id for part in self._parts for node in ast.walk(part) if isinstance(node, ast.Name)}))

    def keeps(self, row: Mapping[str, Any]) -> bool:
        """Whether the row fulfils every condition.

        Raises:
            ConfigError: values that cannot be compared or reckoned with.
        """
        kept = True
        for place, part in enumerate(self._parts):
            found = _value(part, row, self._shown[place])
            if found is not None and not isinstance(found, bool):
                raise ConfigError(f"--filter: '{self._shown[place]}' is no condition but the value {found!r}; compare it with something")
            self._removed[place] += found is not True
            self._unknown[place] += found is None
            kept = kept and found is True
            self._left[place] += kept
        return kept

    def counts(self) -> tuple[Counted, ...]:
        """A row a condition, in order."""
        return tuple(Counted(*cells) for cells in zip(self._shown, self._removed, self._unknown, self._left, strict=True))


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"--filter has {len(text)} characters, more than {MAX_CHARACTERS}; say it more briefly")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        what = error.msg if isinstance(error, SyntaxError) else "it cannot be read"
        raise ConfigError(f"--filter {text!r} is not a condition ({what}); write it like 'trust > 0.85 and sung_share > 0.6'") from error


def _conjuncts(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return [part for value in node.values for part in _conjuncts(value)]
    return [node]


def _check(node: ast.AST, columns: Collection[str], text: str) -> None:
    """
    Raises:
        ConfigError: a part outside of the language, or an unknown column.
    """
    match node:
        case ast.Name(id=name):
            if name not in columns:
                raise ConfigError(f"--filter: rows have no column '{name}'{nearest(name, columns)}")
        case ast.Constant(value=value) if value is None or isinstance(value, bool | float | str) or _is_int64(value):
            pass
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.BoolOp(values=parts):
            for part in parts:
                _check(part, columns, text)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=part):
            _check(part, columns, text)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            _check(left, columns, text)
            _check(right, columns, text)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in {*_COMPARE, *_MEMBER, *_IDENTITY} for op in ops):
            for op, other in zip(ops, others, strict=True):
                if type(op) in _IDENTITY and not (isinstance(other, ast.Constant) and other.value is None):
                    raise ConfigError("--filter: 'is' asks for None alone; compare with ==")
            for part in (left, *others):
                _check(part, columns, text)
        case _:
            shown = ast.get_source_segment(text, node) or type(node).__name__
            raise ConfigError(f"--filter: '{shown}' is not understood; there are {_UNDERSTOOD}")


def _is_int64(value: object) -> bool:
    return isinstance(value, int) and abs(value) < 1 << 63


def _value(node: ast.AST, row: Mapping[str, Any], shown: str) -> Any:
    """The value of a checked expression in a row; None = unknown."""
    match node:
        case ast.Name(id=name):
            return _plain(row.get(name))
        case ast.Constant(value=value):
            return value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, row, shown) for part in parts]
        case ast.BoolOp(op=op, values=parts):
            values = [_truth(_value(part, row, shown), shown) for part in parts]
            decisive = isinstance(op, ast.Or)  # one True decides an `or`, one False an `and`; else one unknown makes it unknown
            return decisive if decisive in values else None if None in values else not decisive
        case ast.UnaryOp(op=ast.Not(), operand=part):
            truth = _truth(_value(part, row, shown), shown)
            return None if truth is None else not truth
        case ast.UnaryOp(op=op, operand=part):
            value = _value(part, row, shown)
            if value is None:
                return None
            return -_number(value, shown) if isinstance(op, ast.USub) else _number(value, shown)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, row, shown), _value(right, row, shown)
            if a is None or b is None or (isinstance(op, ast.Div) and b == 0):
                return None
            return _ARITHMETIC[type(op)](_number(a, shown), _number(b, shown))
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_value(part, row, shown) for part in (left, *others)]
            answers = [_compare(a, op, b, shown) for a, op, b in zip(values, ops, values[1:], strict=False)]
            return False if False in answers else None if None in answers else True
    raise AssertionError(f"{type(node).__name__} passed the check")


def _plain(cell: Any) -> Any:
    """A cell as this language knows it: numbers, texts, lists."""
    match cell:
        case datetime.date() | datetime.time():  # a datetime is a date
            return str(cell)
        case datetime.timedelta():
            return cell.total_seconds()
        case Decimal():
            return float(cell)
        case list() | np.ndarray():
            return [_plain(value) for value in (cell if isinstance(cell, list) else cell.tolist())]
    return cell


def _compare(a: Any, op: ast.cmpop, b: Any, shown: str) -> bool | None:
    if type(op) in _IDENTITY:
        return (a is None) == _IDENTITY[type(op)]
    if a is None or b is None:
        return None
    if type(op) in _MEMBER:
        if not isinstance(b, list | tuple | str) or (isinstance(b, str) and not isinstance(a, str)):
            raise ConfigError(f"--filter: '{shown}' looks for {a!r} in {b!r}, which holds no values; write a list")
        return (a in b) == _MEMBER[type(op)]
    try:
        return bool(_COMPARE[type(op)](a, b)) if not _differ(a, b) else _refuse(a, b, shown)
    except TypeError:
        return _refuse(a, b, shown)


def _differ(a: Any, b: Any) -> bool:
    """Text and number are never equal nor in order: a mistake, not an answer."""
    return isinstance(a, str) != isinstance(b, str)


def _refuse(a: Any, b: Any, shown: str) -> bool:
    raise ConfigError(f"--filter: '{shown}' compares {a!r} with {b!r}; both must be numbers, or both texts")


def _truth(value: Any, shown: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ConfigError(f"--filter: '{shown}' takes {value!r} for true or false; compare it with something")


def _number(value: Any, shown: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ConfigError(f"--filter: '{shown}' reckons with {value!r}, which is no number")
