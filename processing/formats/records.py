"""Tables of songs as streams of records: CSV (any of `,` `;` tab `|`), JSONL, a JSON array, Parquet.

One record is in memory at a time. Of columns of one name in CSV the second is called `name_2`, and so on. A record that cannot be read is left out with its line or number, and the next one is read.
"""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow as pa

from autosing.errors import DataError
from autosing.store import TableReader
from processing.formats.base import LeftOut, Unusable
from processing.formats.columns import clean
from processing.formats.files import MAX_TEXT_BYTES, encoding_of
from processing.formats.folder import json_object

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_BLOCK = 1 << 16


class Record(NamedTuple):
    """`place` names it in reports: line 7, or the 7th of an array."""

    place: str
    values: dict[str, Any]


def records(path: Path, encoding: str | None) -> Iterator[Record | LeftOut]:
    """The records of a table, by the ending of its name.

    Raises:
        DataError: it cannot be read at all.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet(path)
        return
    read = {".csv": _csv, ".tsv": _csv, ".json": _array}.get(kind, _lines)
    try:
        with open(path, encoding=encoding_of(path, encoding)[0], errors="replace", newline="" if read is _csv else "\n") as file:
            yield from read(path.name, file)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror})") from error


def columns_of(path: Path, encoding: str | None) -> set[str]:
    """The columns of the first record; none if there is no table or no record."""
    try:
        first = next((r for r in records(path, encoding) if isinstance(r, Record)), None)
    except DataError:
        return set()
    return set(first.values) if first else set()


def _csv(name: str, file: TextIO) -> Iterator[Record | LeftOut]:
    csv.field_size_limit(MAX_TEXT_BYTES)
    header = file.readline(MAX_TEXT_BYTES)
    delimiter = max(",;\t|", key=header.count)
    names: list[str] = []
    for i, cell in enumerate(next(csv.reader([header], delimiter=delimiter), [])):
        column = clean(cell.strip()) or f"column_{i}"
        names.append(next(n for n in itertools.chain([column], (f"{column}_{k}" for k in itertools.count(2))) if n not in names))
    reader = csv.reader(file, delimiter=delimiter)
    while True:
        place = f"{name}, line {reader.line_num + 2}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield LeftOut(place, "bad_csv", f"is no CSV ({error})")
            continue
        if row is None:
            return
        if len(row) > len(names):
            yield LeftOut(place, "bad_csv", f"has {len(row)} cells, the header {len(names)}; quote cells that hold '{delimiter}'")
        elif any(row):
            cells = [cell if cell else None for cell in row] + [None] * (len(names) - len(row))
            yield Record(place, dict(zip(names, cells, strict=True)))


def _lines(name: str, file: TextIO) -> Iterator[Record | LeftOut]:
    number = 0
    while line := file.readline(MAX_TEXT_BYTES):
        number += 1
        place = f"{name}, line {number}"
        if len(line) >= MAX_TEXT_BYTES and not line.endswith("\n"):
            while (rest := file.readline(MAX_TEXT_BYTES)) and not rest.endswith("\n"):
                pass
            yield LeftOut(place, "too_large", f"is longer than {MAX_TEXT_BYTES >> 20} MiB")
        elif line.strip():
            try:
                yield Record(place, json_object(line))
            except Unusable as error:
                yield LeftOut(place, error.code, error.reason)


def _array(name: str, file: TextIO) -> Iterator[Record | LeftOut]:
    """The objects of a JSON array; a file of objects without brackets, one after the other, is read too."""
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    text, number, step = "", 0, _BLOCK
    begun = False
    while True:
        text = text.lstrip(" \t\r\n," if begun else " \t\r\n")
        if not begun and text:
            begun, text = True, text.removeprefix("[")
            continue
        if text.startswith("]"):
            return
        value, end = None, 0
        if text:
            try:
                value, end = decoder.raw_decode(text)
            except (ValueError, RecursionError):
                end = 0
        if not end or (end == len(text) and not text.endswith("}")):
            block = file.read(step)
            if block and len(text) < MAX_TEXT_BYTES:
                text, step = text + block, step * 2  # a long value is not tried again and again
                continue
            if text.strip():
                yield LeftOut(f"{name}, number {number + 1}", "bad_json", "is no JSON object, nor can anything after it be read")
            return
        text, step = text[end:], _BLOCK
        number += 1
        if isinstance(value, dict):
            yield Record(f"{name}, number {number}", clean(value))
        else:
            yield LeftOut(f"{name}, number {number}", "bad_json", f"must be a JSON object, found {type(value).__name__}")


def _parquet(path: Path) -> Iterator[Record]:
    with TableReader(path) as reader:
        names = [field.name for field in reader.schema if not _is_binary(field.type)]
        for number, row in enumerate(reader.rows(names), 1):
            yield Record(f"{path.name}, row {number}", row)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
