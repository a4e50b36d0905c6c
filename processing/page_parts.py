"""Parts that the pages share: the whole document, with styles and script inside, and a sung line with its words at their times and its players.

Everything works without the script except listening at a word, sorting and trying a filter. Colours have a light and a dark set, and whatever can be
clicked can be reached by keyboard. The dataset's own sections are in processing/page.py.
"""

import base64
import html
from collections.abc import Iterable, Mapping
from importlib import resources

from processing.lines import CLIP_FORMAT, Line

_MIME = {"mp3": "audio/mpeg", "ogg": "audio/ogg", "opus": "audio/ogg", "wav": "audio/wav", "flac": "audio/flac"}
_LINE_WIDTH = 860
"""Pixels that a line's timeline has at least; labels are laid out for it."""


def document(title: str, heading: str, sections: Iterable[tuple[str, str, str]]) -> str:
    """A whole page of (key, heading, HTML) sections, with styles and script inside."""
    style, script = (resources.files("processing").joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    sections = tuple(sections)
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    body = "".join(f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{title}</h2>{text}</section>' for key, title, text in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escaped(title)}</title><style>{style}</style></head>'
        f'<body><a class="skip" href="#main">Skip to content</a><header><h1>{escaped(heading)}</h1><nav aria-label="Sections">{links}</nav></header>'
        f'<main id="main">{body}</main><script>{script}</script></body></html>\n'
    )


def line_article(line: Line, label: str, names: Mapping[str, str], more: str = "") -> str:
    """A line with its words at their times and its players; `more` is HTML below them."""
    text = " ".join(word.text for word in line.words)
    peaks = "".join(f"{'M' if i == 0 else 'L'}{i},{50 - 48 * peak:.1f}" for i, peak in enumerate(line.wave))
    back = "".join(f"L{i},{50 + 48 * peak:.1f}" for i, peak in reversed(list(enumerate(line.wave))))
    scale = len(line.wave) / line.seconds
    spans = "".join(
        f'<rect x="{word.start * scale:.1f}" y="0" width="{max(1.0, (word.end - word.start) * scale):.1f}" height="100" class="{_grade(word.score)}"/>'
        for word in line.words
    )
    lanes, count = _lanes(line)
    buttons = "".join(
        f'<button type=button class="word {_grade(word.score)}" style="left:{left:.2f}%;top:{lane * 30}px" data-start="{word.start:.2f}" '
        f'data-end="{word.end:.2f}" aria-label="{escaped(word.text)}, {word.start:.2f} s, score {word.score:.2f}">'
        f"{escaped(word.text)}<small>{_score(word.score)}</small></button>"
        for word, (left, lane) in zip(line.words, lanes, strict=True)
    )
    every = 1 if line.seconds <= 8 else 2
    ticks = "".join(
        f'<span style="left:{100 * second / line.seconds:.2f}%">{clock(line.start + second)}</span>'
        for second in range(0, int(line.seconds) + 1, every)
        if second < line.seconds * 0.95
    )
    players = "".join(
        f'<label>{what} <audio controls preload=metadata aria-label="{what}, line {label}" src="data:{_MIME[CLIP_FORMAT]};base64,{base64.b64encode(clip).decode()}"></audio></label>'
        for what, clip in (("song", line.song_clip), ("vocals", line.vocals_clip))
        if clip
    )
    note = ' <span class=note>(cut: the line is longer)</span>' if line.cut else ""
    return (
        f'<article class=line><h3><span class="badge {_grade(line.score)}">{line.score:.2f}</span> {escaped(text)}</h3>'
        f"<p class=note>{escaped(names.get(line.song, line.song))}, line {line.number + 1}, from {clock(line.start)}{note}</p>"
        f'<div class=scroll tabindex=0 role=group aria-label="Words of line {label} at their times"><div class=time style="min-width:{_LINE_WIDTH}px">'
        f'<svg viewBox="0 0 {len(line.wave)} 100" preserveAspectRatio="none" aria-hidden="true">{spans}<path d="{peaks}{back}Z"/></svg>'
        f'<div class=cursor></div><div class=ticks aria-hidden="true">{ticks}</div><div class=words style="height:{count * 30}px">{buttons}</div></div></div>'
        f"<div class=players>{players}</div>{more}</article>"
    )


def _lanes(line: Line) -> tuple[list[tuple[float, int]], int]:
    """For each word its left edge in percent and the first lane where its label does not touch the one before; and how many lanes."""
    ends: list[float] = []
    placed = []
    for word in line.words:
        width = 100 * (_columns(word.text) * 8.6 + 50) / _LINE_WIDTH
        left = min(100 * word.start / line.seconds, 100 - width)
        lane = next((i for i, end in enumerate(ends) if end <= left), len(ends))
        ends[lane : lane + 1] = [left + width]
        placed.append((left, lane))
    return placed, len(ends)


def _columns(text: str) -> int:
    """Letters, those of East Asian scripts twice as wide."""
    return sum(2 if ord(letter) >= 0x1100 else 1 for letter in text)


def _score(score: float) -> str:
    return f"{score:.2f}".lstrip("0") if score < 0.995 else "1.0"


def _grade(score: float) -> str:
    return "good" if score >= 0.8 else "fair" if score >= 0.5 else "poor"


def clock(seconds: float) -> str:
    """Seconds as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def escaped(text: object) -> str:
    """Text as HTML, in an attribute too."""
    return html.escape(str(text), quote=True)
