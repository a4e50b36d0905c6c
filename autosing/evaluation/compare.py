"""An evaluation beside an earlier one: for each figure before -> now, and what got better or worse beyond the intervals.

Beyond the intervals means that each value lies outside the other's interval. A figure that moved and lacks an interval on one side (counts, times,
most areas under curves) is said to be better or worse without that claim, in brackets. `shipped.json` holds the figures of the weights in this package;
`python -m autosing.evaluation card` writes it. No model is imported here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autosing.errors import DataError
from autosing.evaluation.figures import BY_NAME, FIGURES, Figure, Measured, all_measured

SHIPPED = Path(__file__).with_name("shipped.json")
NOTHING = "none"
FORMAT = "autosing-figures/1"


@dataclass(frozen=True)
class Earlier:
    """What an earlier run found.

    Attributes:
        where: the file.
        figures: by name.
        protocols: section -> what it was measured with (`songs_hash`, `limit`, ...).
        weights: part -> hash.
    """

    where: str
    figures: Mapping[str, Measured]
    protocols: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, str]


def read_result(path: str | Path) -> dict[str, Any]:
    """The JSON object of an evaluation's last line, or of a file that is one.

    Raises:
        DataError: no file, or no such object in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"no figures at '{path}' ({error.strerror}); give the file that an evaluation's output was kept in") from error
    for part in (text, text.strip().rpartition("\n")[2]):
        try:
            found = json.loads(part)
        except ValueError:
            continue
        if isinstance(found, dict) and "figures" in found:
            return found
    raise DataError(f"'{path}' holds no evaluation; give the output of `python -m autosing.evaluation builtin` or a shipped.json")


def read_earlier(path: str | Path) -> Earlier | None:
    """An earlier run; None where the package has no figures of its own yet.

    Raises:
        DataError: see `read_result`.
    """
    if Path(path) == SHIPPED and not SHIPPED.is_file():
        return None
    return earlier_of(read_result(path), str(path))


def earlier_of(result: Mapping[str, Any], where: str) -> Earlier:
    """Of a run's JSON object, or of a `shipped.json`."""
    if result.get("format") == FORMAT:
        figures = {name: Measured(**value) for name, value in result["figures"].items() if name in BY_NAME}
        return Earlier(where, figures, result["protocols"], result["weights"])
    protocol = result.get("protocol", {})
    return Earlier(where, all_measured(result["figures"]), {name: protocol for name in result["figures"]}, result.get("weights", {}))


def against(earlier: Earlier, result: Mapping[str, Any]) -> str:
    """The comparison as a Markdown table with what differs in protocol and weights above it; it fits a commit message."""
    now = earlier_of(result, "now")
    shared = [figure for figure in FIGURES if figure.name in earlier.figures and figure.name in now.figures]
    if not shared:
        return f"compared with {earlier.where}: no figure in common"
    rows = [(f.name, *map(_said, (earlier.figures[f.name], now.figures[f.name])), verdict(f, earlier.figures[f.name], now.figures[f.name])) for f in shared]
    lines = [f"compared with {earlier.where}", *_differences(earlier, now, [figure.path[0] for figure in shared])]
    lines += ["", "| figure | before | now | |", "| --- | --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    for word in ("better", "worse"):
        names = [row[0] for row in rows if row[3] == word]
        lines.append(f"{word} beyond the intervals: {', '.join(names) or 'nothing'}")
    return "\n".join(lines)


def verdict(figure: Figure, before: Measured, now: Measured) -> str:
    """`better` or `worse` beyond the intervals, `(better)` or `(worse)` where not both have one, `same` or `within`."""
    if before.value is None or now.value is None:
        return "" if before.value is now.value else "no longer measured" if now.value is None else "not measured before"
    if before.value == now.value:
        return "same"
    word = "better" if (now.value > before.value) == (figure.better == ">=") else "worse"
    if before.low is None or before.high is None or now.low is None or now.high is None:
        return f"({word})"
    return "within" if before.low <= now.value <= before.high or now.low <= before.value <= now.high else word


def _said(value: Measured) -> str:
    if value.value is None:
        return "-"
    interval = "" if value.low is None or value.high is None else f" [{value.low:.3g}, {value.high:.3g}]"
    return f"{value.value:.4g}{interval}"


def _differences(earlier: Earlier, now: Earlier, sections: Sequence[str]) -> list[str]:
    """Lines on the weights that changed, and on sections that were measured otherwise."""
    lines = []
    parts = [name for name in now.weights if name != "all" and name in earlier.weights]
    changed = [name for name in parts if now.weights[name] != earlier.weights[name]]
    if parts:
        lines.append(f"weights that differ: {', '.join(changed) or 'none'}")
    for what, said in (("songs_hash", "other songs"), ("limit", "another number of songs"), ("windows", "another number of windows")):
        others = [
            section
            for section in dict.fromkeys(sections)
            if earlier.protocols.get(section, {}).get(what) != now.protocols.get(section, {}).get(what)
        ]
        if others:
            lines.append(f"measured on {said} than before: {', '.join(others)}")
    return lines
