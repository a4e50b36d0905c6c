"""Training rows: a window's tokens and embeddings joined by id with all else that is known of it, whole or cut into two halves.

`FIXED` are the columns of every row; columns of the user's own in the index are carried along (categories as their values), except those that
`extra_columns` names. Which rows are kept, and where they go, is decided in processing/dataset.py.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import pyarrow as pa

from autosing.errors import DataError
from autosing.song.alignment import ALIGNMENT_TYPE, Alignment
from autosing.tokens.specs import CodecSpec, Seconds
from processing.index import AUDIO_HASH, INDEX
from processing.inputs import Partition, Specs
from processing.judged import JUDGED
from processing.placement import EDGE_SECONDS, window_id

MIN_HALF_SECONDS: Seconds = 1.0
"""`--split` leaves out a half that holds less of the song than this (the padding of a short window)."""
FIXED = pa.schema(
    [
        ("id", pa.string()),
        ("song", pa.string()),
        ("start", pa.float64()),
        ("seconds", pa.float64()),
        ("artist", pa.string()),
        ("stoks", pa.list_(pa.int32())),
        ("atoks", pa.list_(pa.int16())),
        ("mtoks", pa.list_(pa.int16())),
        ("embs", pa.list_(pa.float32())),
        ("alignment", ALIGNMENT_TYPE),
        *JUDGED,
    ]
)
_OURS = {"id", "audio", AUDIO_HASH, "lrc_lyrics", "raw_lyrics", "artist", "source"}
_KEPT_TYPES: tuple[Callable[[pa.DataType], bool], ...] = (
    pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_string, pa.types.is_large_string,
    pa.types.is_date, pa.types.is_time, pa.types.is_timestamp, pa.types.is_duration,
)  # fmt: skip


def extra_columns(parts: Sequence[Partition]) -> tuple[list[pa.Field], dict[str, str]]:
    """Columns of the index that are not ours, kept in every row (text where partitions differ in type), and why others are not."""
    kinds: dict[str, pa.DataType] = {}
    refused: dict[str, str] = {}
    for part in parts:
        with part.open(INDEX) as reader:
            for field in reader.schema:
                name = field.name
                if name in _OURS or pa.types.is_null(field.type):
                    continue
                kind = _carried(field.type)
                if name in FIXED.names:
                    refused[name] = "training rows have a column of that name of their own"
                elif kind is None:
                    refused[name] = f"{field.type} cannot be"
                elif kinds.setdefault(name, kind) != kind:
                    if pa.types.is_nested(kind) or pa.types.is_nested(kinds[name]):
                        refused[name] = f"it is {kinds[name]} in one partition and {kind} in another"
                    kinds[name] = pa.string()
    return [pa.field(name, kind) for name, kind in sorted(kinds.items()) if name not in refused], dict(sorted(refused.items()))


def _carried(kind: pa.DataType) -> pa.DataType | None:
    """The type that a column of type `kind` has in the rows; None if it is left out."""
    if pa.types.is_dictionary(kind):
        return _carried(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)  # Python's times end there
    if pa.types.is_nested(kind):
        inner = [kind.field(i).type for i in range(kind.num_fields)]
        return kind if not pa.types.is_union(kind) and all(_carried(part) == part for part in inner) else None
    if str(kind) in ("duration[ns]", "time64[ns]"):
        return None
    return kind if any(fits(kind) for fits in _KEPT_TYPES) else None


def described(part: Partition, extra: Sequence[pa.Field], copy_of: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """All that is known of each window of a partition without its tokens, in order; the cells of text columns are text."""
    about = part.about(["artist", *(field.name for field in extra)])
    texts = [field.name for field in extra if field.type == pa.string()]
    for window in part.judged(copy_of):
        row = {**about.get(window["song"], {}), **window}
        yield row | {name: None if row.get(name) is None else str(row[name]) for name in texts}


def joined(
    parts: Sequence[Partition],
    specs: Specs,
    extra: Sequence[pa.Field],
    kept: Set[str],
    copy_of: Mapping[str, str],
    halve: bool,
    lost: Counter[str],
    seen: Callable[[int, int], None],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The training rows of the windows that are kept, each with the id of its window.

    Args:
        extra: see `extra_columns`.
        kept: ids of windows.
        copy_of: see `processing.judged.duplicates`.
        halve: give every window as two rows.
        lost: counts halves left out, by reason.
        seen: told how many of how many windows are joined.

    Raises:
        DataError: a table is damaged, or holds too many or too few tokens of a window.
    """
    done = 0
    for part in parts:
        with contextlib.ExitStack() as stack:
            readers = {column: stack.enter_context(part.open(table)) for column, table in part.names.items()}
            for row in described(part, extra, copy_of):
                if row["id"] not in kept:
                    continue
                for column, reader in readers.items():
                    values = "embs" if column == "embs" else "values"
                    found = reader.get(row["id"], ["id", values])
                    assert found is not None
                    row[column] = found[values]
                _check_lengths(row, specs)
                alignment = Alignment.from_struct(row.pop("alignment"))
                for piece, words in _halves(row, alignment, specs, lost) if halve else [(row, alignment)]:
                    # a song without lyrics says nothing about its words; an empty alignment would say that there are none
                    nothing = words.trust is None and not alignment.words
                    yield row["id"], {**piece, "alignment": None if nothing else words.to_struct()}
                done += 1
                seen(done, len(kept))


def _check_lengths(row: Mapping[str, Any], specs: Specs) -> None:
    seconds = specs.window_seconds
    wanted = {
        "stoks": 2 * specs.semantic.tokens(seconds / 2),
        "atoks": specs.codec.levels * specs.codec.frames(seconds),
        "mtoks": specs.accompaniment.levels * specs.accompaniment.frames(seconds),
    }
    for column, count in wanted.items():
        if len(row[column]) != count:
            raise DataError(f"window '{row['id']}' has {len(row[column])} {column} where {seconds:g} s are {count}; run its step again")
    if len(row["embs"]) % specs.voice.width or not len(row["embs"]):
        raise DataError(f"window '{row['id']}' has {len(row['embs'])} embs, not a multiple of {specs.voice.width}; run artist_embs again")


def _halves(
    row: Mapping[str, Any], alignment: Alignment, specs: Specs, lost: Counter[str]
) -> Iterator[tuple[dict[str, Any], Alignment]]:
    """A row as two rows of half its length. Codes are cut where the coarsest codes of all levels begin."""
    half = specs.window_seconds / 2
    embs = np.asarray(row["embs"]).reshape(-1, specs.voice.width)
    tokens = specs.semantic.tokens(half)
    for number in range(2):
        begin = number * half
        available = min(half, row["seconds"] - begin)
        if available < MIN_HALF_SECONDS:
            lost["half window is padding"] += 1
            continue
        pieces = slice(int(len(embs) * number / 2), -int(-len(embs) * (number + 1) // 2))
        yield (
            {
                **row,
                "id": row["id"] if number == 0 else window_id(row["song"], row["start"] + begin),
                "start": row["start"] + begin,
                "seconds": available,
                "stoks": row["stoks"][number * tokens : (number + 1) * tokens],
                "atoks": _half_codes(row["atoks"], specs.codec, specs.window_seconds, number),
                "mtoks": _half_codes(row["mtoks"], specs.accompaniment, specs.window_seconds, number),
                "embs": embs[pieces].reshape(-1),
            },
            alignment.clip(begin, begin + half, EDGE_SECONDS),
        )


def _half_codes(values: Any, spec: CodecSpec, window_seconds: Seconds, number: int) -> np.ndarray:
    """(K x T,) -> (K x T',), T' = frames of half a window; the second half begins at the coarse code nearest to the middle."""
    codes = np.asarray(values).reshape(spec.levels, -1)
    block, frames = max(spec.strides), spec.frames(window_seconds / 2)
    begin = number * round(window_seconds / 2 * spec.frame_rate / block) * block
    begin = min(begin, (codes.shape[1] - frames) // block * block)
    return codes[:, begin : begin + frames].reshape(-1)
