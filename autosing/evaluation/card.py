"""The tables of MODEL_CARD.md, made from an evaluation: `python -m autosing.evaluation card FILE.json ...`.

    python -m autosing.evaluation builtin full --songs <rendered test songs> > full.json
    python -m autosing.evaluation card full.json

The figures are first reduced to `shipped.json` beside this file, which is committed with the weights that they belong to: what later runs compare with.
Of several files a later one's sections replace an earlier one's, and sections that no file measured stay as they are. Then the text between the
markers in MODEL_CARD.md is written anew from `shipped.json`; the prose around it is anyone's. Without a file only that. No model is imported here.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autosing.errors import AutoSingError, ConfigError
from autosing.evaluation.compare import FORMAT, SHIPPED, earlier_of, read_result
from autosing.evaluation.figures import FIGURES, Figure, Measured, holds
from autosing.store import atomic_path

CARD = Path(__file__).resolve().parents[2] / "MODEL_CARD.md"
BEGIN = "<!-- figures: written by `python -m autosing.evaluation card` from autosing/evaluation/shipped.json; edit neither by hand -->"
END = "<!-- end of figures -->"
SECTION_TITLES = {
    "codec": "Codec of voices", "alignment": "Aligner", "semantic": "Semantic tokens", "separation": "Separator (improvement of SI-SDR)",
    "voice": "Singer embedding", "chain": "Lyrics to waveform", "sing": "sing.py",
}  # fmt: skip
_SONG_COLUMNS = ("aae", "mae", "pco")


def reduced(results: Sequence[Mapping[str, Any]], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `shipped.json` holds: the figures of `results`, the last of which counts for each section, over those of `before`.

    Raises:
        ConfigError: the results were measured with different weights.
    """
    kept: dict[str, Any] = {"format": FORMAT, "weights": {}, "protocols": {}, "figures": {}, "real_songs": [], **(before or {})}
    figures, protocols, songs = dict(kept["figures"]), dict(kept["protocols"]), list(kept["real_songs"])
    weights = {json.dumps(result.get("weights", {}), sort_keys=True) for result in results}
    if len(weights) > 1:
        raise ConfigError("these files were measured with different weights; give files of one set of weights")
    for result in results:
        measured = {name: section for name, section in result["figures"].items() if "error" not in section}
        figures = {figure.name: figures[figure.name] for figure in FIGURES if figure.name in figures and figure.path[0] not in measured}
        figures |= {name: _plain(value) for name, value in earlier_of({**result, "figures": measured}, "").figures.items()}
        machine = result.get("machine", {}).get("processor")
        protocols |= {name: {**result.get("protocol", {}), "machine": machine} for name in measured}
        songs = _real_songs(measured.get("alignment", {}).get("real_songs", [])) or songs
    ordered = {figure.name: figures[figure.name] for figure in FIGURES if figure.name in figures}
    all_weights = results[-1].get("weights", {}) if results else kept["weights"]
    return {"format": FORMAT, "weights": all_weights, "protocols": protocols, "figures": ordered, "real_songs": songs}


def _plain(value: Measured) -> dict[str, float | None]:
    return {key: None if number is None else round(number, 4) for key, number in value._asdict().items() if number is not None or key == "value"}


def _real_songs(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Song -> (aae, mae, pco) with line starts, of even spread, and of raw lyrics alone, and the F1 of its activity."""
    songs: dict[str, dict[str, Any]] = {}
    for row in rows:
        song = songs.setdefault(row["song"], {"song": row["song"], "activity_f1": _rounded(row.get("activity_f1"))})
        if row["stamps"] in ("starts", "none"):
            song[row["stamps"]] = [_rounded(row[name]) for name in _SONG_COLUMNS]
        if row["stamps"] == "starts":
            song["even"] = [_rounded(row["even"][name]) for name in _SONG_COLUMNS]
    return list(songs.values())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def tables(shipped: Mapping[str, Any]) -> str:
    """Markdown: a table of every figure, one of the real songs, and what was measured how."""
    lines = ["| what | measured | asked | |", "| --- | --- | --- | --- |"]
    for section, title in SECTION_TITLES.items():
        rows = [figure for figure in FIGURES if figure.path[0] == section and figure.name in shipped["figures"]]
        lines += [f"| **{title}** | | | |"] if rows else []
        lines += [_row(figure, Measured(**shipped["figures"][figure.name])) for figure in rows]
    if shipped["real_songs"]:
        lines += [
            "", "Aligner on real songs (mixtures; mean error s / median s / share within 0.3 s):", "",
            "| song | line start stamps | even spread | raw lyrics | activity F1 |", "| --- | --- | --- | --- | --- |",
        ]  # fmt: skip
        lines += [_song(song) for song in shipped["real_songs"]]
    return "\n".join([*lines, "", *_protocol(shipped)])


def _row(figure: Figure, value: Measured) -> str:
    asked = "reported" if figure.asked is None else f"{figure.better} {figure.asked:g}"
    verdict = "" if figure.asked is None else "met" if holds(figure, value) else "**not met**"
    return f"| {figure.title} | {shown(figure, value)} | {asked} | {verdict} |"


def shown(figure: Figure, value: Measured) -> str:
    """A value as people read it, with its unit and interval."""
    if value.value is None:
        return "not measured"
    unit = f" {figure.unit}" if figure.unit else ""
    number = f"{value.value:.{figure.digits}f}{unit}"
    return number if value.low is None or value.high is None else f"{number} [{value.low:.{figure.digits}f}, {value.high:.{figure.digits}f}]"


def _song(song: Mapping[str, Any]) -> str:
    cells = [" / ".join("-" if x is None else f"{x:.3f}" for x in song[key]) if key in song else "-" for key in ("starts", "even", "none")]
    f1 = song.get("activity_f1")
    return f"| {song['song']} | {' | '.join(cells)} | {'-' if f1 is None else f'{f1:.3f}'} |"


def _protocol(shipped: Mapping[str, Any]) -> list[str]:
    """A line for each way in which sections were measured, and one on the weights."""
    ways: dict[str, list[str]] = {}
    for section, protocol in shipped["protocols"].items():
        keys = ("songs", "songs_hash", "real_hash", "limit", "windows", "seed", "machine")
        said = [f"{key} {protocol[key]}" for key in keys if protocol.get(key) is not None]
        if (other := protocol.get("weights_hash")) and other != shipped["weights"].get("all"):
            said.append(f"weights {other}, not those of today")
        ways.setdefault(", ".join(said), []).append(section)
    lines = [f"- {', '.join(sections)}: {how}" for how, sections in ways.items()]
    weights = ", ".join(f"{name} `{digest}`" for name, digest in shipped["weights"].items())
    return [
        "In brackets: 95 % intervals, bootstrap over songs or windows. Measured with (songs: rendered, unseen; `limit`: songs a section at most):", "",
        *lines, "", *([f"Weights (first digits of SHA-256 over their files): {weights}."] if weights else []),
    ]  # fmt: skip


def renewed(card: str, shipped: Mapping[str, Any]) -> str:
    """The text of a card with the tables between its markers written anew.

    Raises:
        ConfigError: the markers are not there once each, in order.
    """
    head, begin, rest = card.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in tail:
        raise ConfigError(f"the card has not one place for the figures: it must hold the line '{BEGIN}' and, below it, '{END}'")
    return f"{head}{BEGIN}\n\n{tables(shipped)}\n\n{END}{tail}"


def main(argv: Sequence[str] | None = None) -> int:
    """0: written; 2: a mistake in the request."""
    parser = argparse.ArgumentParser(prog="python -m autosing.evaluation card", description="Write shipped.json and the tables of MODEL_CARD.md.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.json", help="outputs of `python -m autosing.evaluation builtin`; without one only the tables are written anew")
    parser.add_argument("--card", type=Path, default=CARD, help="default: that of this checkout")
    parser.add_argument("--shipped", type=Path, default=SHIPPED, help="default: that of this checkout")
    options = parser.parse_args(argv)
    try:
        before = read_result(options.shipped) if options.shipped.is_file() else None
        shipped = reduced([read_result(path) for path in options.files], before)
        if not options.card.is_file():
            raise ConfigError(f"no card at '{options.card}'; run this in a checkout of the project, or name one with --card")
        card = renewed(options.card.read_text(encoding="utf-8"), shipped)
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with atomic_path(options.shipped) as path:
        path.write_text(written(shipped), encoding="utf-8")
    with atomic_path(options.card) as path:
        path.write_text(card, encoding="utf-8")
    print(f"{options.shipped}: {len(shipped['figures'])} figures\n{options.card}: tables")
    return 0


def written(shipped: Mapping[str, Any]) -> str:
    """`shipped.json` as text: a line a figure, song or protocol, so that changes can be read."""

    def lines(value: Any) -> str:
        items = [f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()] if isinstance(value, Mapping) else [f"  {json.dumps(i)}" for i in value]
        brackets = "{}" if isinstance(value, Mapping) else "[]"
        if not items:
            return brackets
        return f"{brackets[0]}\n" + ",\n".join(items) + f"\n {brackets[1]}"

    return "{\n" + ",\n".join(f' {json.dumps(key)}: {json.dumps(value) if isinstance(value, str) else lines(value)}' for key, value in shipped.items()) + "\n}\n"
