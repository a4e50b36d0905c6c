"""A `Report` as one HTML page that needs nothing beside it: styles, script, pictures and audio are inside.

Charts are SVG with a table of the same numbers behind them. What other pages have too is in processing/page_parts.py.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from processing.page_parts import clock, document, escaped, line_article
from processing.report import Report, SongFacts

MAX_SONGS = 400
"""So many songs are listed, the least trusted first."""
MAX_ROWS = 20_000
"""So many rows are kept in the page to try filters on; of more, every n-th."""
MAX_REFUSED = 25
"""So many songs are named for a code."""


@dataclass(frozen=True)
class Measure:
    """A column as the page shows it.

    Attributes:
        edges: of the bins; the last bin includes its upper edge, values beyond fall into the outer bins.
        unit: behind a number.
        wish: ">" or "<": whether filters ask for more or for less; `start` is where the slider stands.
    """

    name: str
    title: str
    explains: str
    edges: tuple[float, ...]
    unit: str
    wish: str
    start: float


def _even(low: float, high: float, bins: int) -> tuple[float, ...]:
    return tuple(low + (high - low) * i / bins for i in range(bins + 1))


MEASURES = (
    Measure("trust", "Trust", "share of the song's lines that fit what is heard", _even(0, 1, 20), "", ">", 0.0),
    Measure("sung_share", "Singing share", "sung seconds of the window", _even(0, 1, 20), "", ">", 0.0),
    Measure("align_score", "Alignment score", "chance that a word is placed right, mean of the window", _even(0, 1, 20), "", ">", 0.0),
    Measure("signal_to_bleed", "Singing over bleed", "in the separated vocals, estimated", _even(-10, 40, 20), " dB", ">", -10.0),
    Measure("silence_share", "Silence", "share of the window below -60 dBFS", _even(0, 1, 20), "", "<", 1.0),
    Measure("clipped_share", "Clipping", "samples in runs at full scale (scale cut at 1 %)", _even(0, 0.01, 20), "", "<", 0.01),
)


def page(report: Report) -> str:
    """The page as text."""
    sections = (
        ("summary", "Summary", _summary(report)),
        ("rows", "Rows", _rows(report)),
        ("worst", "Worst-aligned lines", _worst(report)),
        ("songs", "Songs", _songs(report.songs)),
        ("refused", "Rejected", _refused(report)),
    )
    return document(f"Dataset {report.dataset}", report.dataset, sections)


def _hours(seconds: float) -> str:
    """Seconds as hours, or minutes where they are less than one hour."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _summary(report: Report) -> str:
    accepted = [song for song in report.songs if song.refused is None]
    windows = len(report.rows)
    in_windows, sung = (sum(getattr(song, name) for song in accepted) for name in ("window_seconds", "sung_seconds"))
    artists = {song.artist for song in accepted if song.artist}
    aligned = [song for song in accepted if song.words]
    copies = sum(song.duplicate_of is not None for song in accepted)
    tiles = [
        ("songs accepted", len(accepted), f"of {len(report.songs)} in {report.partitions} partition{'s' * (report.partitions != 1)}"),
        ("songs rejected", len(report.songs) - len(accepted), "see Rejected" if len(report.songs) > len(accepted) else ""),
        ("of music", _hours(sum(song.seconds or 0 for song in accepted)), "accepted songs"),
        ("in windows", _hours(in_windows), f"{windows} windows, {_hours(sung)} of them sung"),
        ("songs with aligned words", len(aligned), f"{sum(song.words for song in aligned)} words"),
        ("artists", len(artists), f"{sum(song.artist is None for song in accepted)} without one"),
        ("copies of other songs", copies, "as far as fingerprints tell"),
    ]
    boxes = "".join(f"<div><dt>{escaped(what)}</dt><dd>{escaped(count)}</dd><dd class=note>{escaped(note)}</dd></div>" for what, count, note in tiles)
    to_do = "".join(f"<li>{_code(line)}</li>" for line in report.to_do)
    return f"<dl class=tiles>{boxes}</dl>" + (f'<div class=todo><h3>Not done yet</h3><ul>{to_do}</ul></div>' if to_do else "")


def _code(line: str) -> str:
    """Text with `...` as code."""
    return "".join(f"<code>{escaped(part)}</code>" if i % 2 else escaped(part) for i, part in enumerate(line.split("`")))


def _rows(report: Report) -> str:
    if not report.rows:
        return "<p>No window was cut yet.</p>"
    charts = "".join(_histogram(measure, [row[measure.name] for row in report.rows]) for measure in MEASURES)
    return f"<p>What training may filter on, one value a window.</p><div class=charts>{charts}</div>{_tryout(report)}"


def _histogram(measure: Measure, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    edges = measure.edges
    counts = [0] * (len(edges) - 1)
    for value in known:
        place = int((value - edges[0]) / (edges[-1] - edges[0]) * len(counts) + 1e-6)
        counts[min(max(place, 0), len(counts) - 1)] += 1
    top = max(*counts, 1)
    width, height, left = 300, 110, 34
    step = (width - left) / len(counts)
    labels = [f"{_number(a)} to {_number(b)}{measure.unit}" for a, b in itertools.pairwise(edges)]
    bars = "".join(
        f'<rect x="{left + i * step + 0.5:.1f}" y="{height - 90 * count / top:.1f}" width="{step - 1:.1f}" height="{90 * count / top:.1f}">'
        f"<title>{label}: {count}</title></rect>"
        for i, (count, label) in enumerate(zip(counts, labels, strict=True))
        if count
    )
    middle = edges[len(edges) // 2]
    marks = "".join(
        f'<text x="{x:.0f}" y="{height + 15}" text-anchor="{anchor}">{_number(value)}{measure.unit}</text>'
        for x, value, anchor in ((left, edges[0], "start"), ((left + width) / 2, middle, "middle"), (width, edges[-1], "end"))
    )
    axis = (
        f'<line x1="{left}" y1="{height}" x2="{width}" y2="{height}"/>'
        f'<text x="{left - 5}" y="{height - 83}" text-anchor="end">{top}</text><text x="{left - 5}" y="{height}" text-anchor="end">0</text>'
    )
    ordered = sorted(known)
    quantiles = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.1, 0.5, 0.9)] if ordered else []
    said = (
        f"a tenth below {_number(quantiles[0])}, half below {_number(quantiles[1])}, a tenth above {_number(quantiles[2])}{measure.unit}"
        if ordered
        else "no value is known"
    )
    unknown = len(values) - len(known)
    cells = "".join(f"<tr><td>{label}</td><td>{count}</td></tr>" for label, count in zip(labels, counts, strict=True) if count)
    return (
        f'<figure><figcaption><b>{measure.title}</b> <code>{measure.name}</code><br><span class=note>{measure.explains}</span></figcaption>'
        f'<svg viewBox="0 0 {width + 8} {height + 20}" role="img" aria-label="{measure.title}: {said}">{axis}{bars}{marks}</svg>'
        f"<p class=note>{said}{f'; <b>{unknown} unknown</b>' if unknown else ''}</p>"
        f"<details><summary>Numbers</summary><table><tr><th>{measure.name}</th><th>windows</th></tr>{cells}</table></details></figure>"
    )


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) >= 0.095 or value == 0 else f"{value:.4f}".rstrip("0").rstrip(".")


def _tryout(report: Report) -> str:
    """Sliders that say what a filter would keep; the rows' numbers travel as JSON."""
    stride = -(-len(report.rows) // MAX_ROWS)
    names = [measure.name for measure in MEASURES]
    data = [
        [*(None if row[name] is None else round(row[name], 4) for name in names), round(row["seconds"], 2), row["duplicate_of"] is not None]
        for row in report.rows[::stride]
    ]
    sliders = "".join(
        f'<label for="f-{m.name}"><span><code>{m.name}</code> {"at least" if m.wish == ">" else "at most"}</span>'
        f'<input type=range id="f-{m.name}" data-name="{m.name}" data-wish="{m.wish}" min="{m.edges[0]:g}" max="{m.edges[-1]:g}" '
        f'step="{(m.edges[-1] - m.edges[0]) / 100:g}" value="{m.start:g}" data-off="{m.start:g}"><output for="f-{m.name}">any</output></label>'
        for m in MEASURES
    )
    sample = f"<p class=note>Reckoned on every {stride}th row.</p>" if stride > 1 else ""
    return (
        '<div class=tryout><h3>Try a filter</h3><p class=note>A row whose value is unknown is kept only while that slider is at its end.</p>'
        f'<div class=sliders>{sliders}<label for="f-copies"><span>leave out copies</span><input type=checkbox id="f-copies"><output></output></label></div>'
        f'<p id=kept role=status aria-live=polite>{len(report.rows)} windows</p><p><code id=expression>no filter</code> '
        f'<button type=button id=copy hidden>Copy</button></p>{sample}'
        f'<script type="application/json" id=rows-data data-stride="{stride}">{json.dumps(data, separators=(",", ":"))}</script></div>'
    )


def _worst(report: Report) -> str:
    if not report.worst:
        return "<p>No song has aligned words.</p>"
    names = _names(report.songs)
    typical = "".join(line_article(line, f"typical {i}", names) for i, line in enumerate(report.typical, 1))
    compare = f"<h3>For comparison: lines of an ordinary score</h3>{typical}" if typical else ""
    return (
        "<p>The lines whose words have the lowest mean score, at most three of a song. Each word stands where the aligner placed it, with its score: the "
        "chance that it begins within 0.3 s of there. Press a word to hear from there on. Where words and sound agree, the score is too "
        "careful; where they do not, the lyrics do not belong, or lie elsewhere.</p>"
        + "".join(line_article(line, str(i), names) for i, line in enumerate(report.worst, 1))
        + compare
    )


def _songs(songs: Sequence[SongFacts]) -> str:
    accepted = [song for song in songs if song.refused is None]
    if not accepted:
        return "<p>None was accepted.</p>"
    ordered = sorted(accepted, key=lambda song: (song.trust is None, song.trust or 0.0, song.score or 0.0, song.id))
    heads = ("song", "length", "trust", "score", "words", "windows", "sung", "over bleed", "clipped", "remarks")
    titles = "".join(f'<th scope=col aria-sort="none"><button type=button>{head}</button></th>' for head in heads)
    names = _names(songs)
    lines = "".join(_song(song, names) for song in ordered[:MAX_SONGS])
    more = f"<p class=note>The {MAX_SONGS} least trusted of {len(accepted)} songs.</p>" if len(accepted) > MAX_SONGS else ""
    return (
        f"<p>The least trusted first; press a heading to sort.</p>{more}<div class=scroll tabindex=0 role=group aria-label='Songs'>"
        f"<table class=sortable><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _names(songs: Sequence[SongFacts]) -> dict[str, str]:
    """Id -> how the page calls a song: by its name and, as commands need it, its id."""
    return {song.id: f"{song.name} ({song.id})" if song.name and song.name != song.id else song.id for song in reversed(songs)}


def _song(song: SongFacts, names: Mapping[str, str]) -> str:
    remarks = []
    if song.duplicate_of is not None:
        remarks.append(f"copy of {names.get(song.duplicate_of, song.duplicate_of)}")
    if not song.has_lyrics:
        remarks.append("no lyrics")
    elif not song.words:
        remarks.append("no word aligned")
    if not song.windows:
        remarks.append("no window")
    cells: Iterable[tuple[object, str]] = (
        (song.seconds, "" if song.seconds is None else clock(song.seconds)),
        (song.trust, "" if song.trust is None else f"{song.trust:.2f}"),
        (song.score, "" if song.score is None else f"{song.score:.2f}"),
        (song.words, str(song.words)),
        (song.windows, str(song.windows)),
        (song.sung_seconds, clock(song.sung_seconds)),
        (song.signal_to_bleed, "" if song.signal_to_bleed is None else f"{song.signal_to_bleed:.0f} dB"),
        (song.clipped_share, "" if song.clipped_share is None else f"{100 * song.clipped_share:.2f} %"),
    )
    numbers = "".join(f'<td class=number data-value="{"" if value is None else value}">{text}</td>' for value, text in cells)
    return f"<tr><th scope=row>{escaped(names[song.id])}</th>{numbers}<td>{escaped(', '.join(remarks))}</td></tr>"


def _refused(report: Report) -> str:
    if not report.rejected:
        return "<p>No song was rejected.</p>"
    counts, names = Counter(row.code for _, row in report.rejected), _names(report.songs)
    parts = []
    for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        mine = [(step, row) for step, row in report.rejected if row.code == code]
        rows = "".join(
            f"<tr><th scope=row>{escaped('(none)' if row.id is None else names.get(row.id, row.id))}</th><td>{escaped(step)}</td><td>{escaped(row.reason)}</td></tr>"
            for step, row in mine[:MAX_REFUSED]
        )
        more = f"<p class=note>and {count - MAX_REFUSED} more in rejected.parquet</p>" if count > MAX_REFUSED else ""
        opened = " open" if len(counts) <= 6 else ""
        parts.append(
            f"<details{opened}><summary><code>{escaped(code)}</code> {count} song{'s' * (count != 1)}</summary><div class=scroll tabindex=0 role=group "
            f'aria-label="Songs rejected as {escaped(code)}"><table><thead><tr><th scope=col>song</th><th scope=col>step</th><th scope=col>why, and what to do</th></tr>'
            f"</thead><tbody>{rows}</tbody></table></div>{more}</details>"
        )
    return "".join(parts)
