"""Lyrics as lines with optional stamps, and the LRC reader and writer.

The LRC rule is the common specification: any number of stamps a line, 1-3 fraction digits after `.`, `,` or `:`, minutes of any width, hours where
a fraction after `.` or `,` says that they are (`[1:02:03.45]`; in `[01:02:03]` the last number is the fraction), `[offset:]` in milliseconds
(positive = lyrics appear earlier), header tags, enhanced `<mm:ss.xx>` word stamps (square ones inside a line too); a line with word stamps alone
begins at its first. A stamped line without text ends the line before it. Junk is ignored; parsing never raises and takes time in proportion to the
text. Section tags such as `[verse]` are kept as sections; nothing else in square brackets is sung either. Marks that show nothing (direction,
zero-width space) are dropped; the joiners that change letters are kept.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple
from unicodedata import category

from autosing.song.alignment import Alignment
from autosing.tokens.specs import Seconds


class Line(NamedTuple):
    """A sung line.

    `start` is its stamp; `end` is set only where the file says so (a stamped empty line follows); `word_starts` are enhanced stamps,
    one a word of `text.split()`, None where a word has none.
    """

    text: str
    start: Seconds | None = None
    end: Seconds | None = None
    section: str | None = None
    word_starts: tuple[Seconds | None, ...] | None = None


@dataclass(frozen=True)
class Lyrics:
    """Lines in singing order, stamped lines sorted by time; `tags` are the LRC header tags (ti, ar, ...)."""

    lines: tuple[Line, ...]
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def stamped(self) -> bool:
        """Every line has a start stamp."""
        return bool(self.lines) and all(line.start is not None for line in self.lines)

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


SIGNS = ("So", "Cs", "Co", "Cn")
"""Unicode categories of pictures and the like, which are no letters."""
_HOURS = r"(?:(\d+)\s*:\s*(?=\d+\s*:\s*\d+\s*[.,]))?"
_CLOCK = rf"\s*{_HOURS}(\d+)\s*:\s*(\d{{1,3}})(?:\s*[.,:]\s*(\d{{1,3}}))?\s*"
_STAMP = re.compile(rf"\[{_CLOCK}\]")
_LEADING_STAMP = re.compile(rf"\s*\[{_CLOCK}\]")
_LEADING_WORD_STAMP = re.compile(rf"\s*<{_CLOCK}>")
_WORD_STAMP = re.compile(rf"[<\[]{_CLOCK}[>\]]")
_TAG = re.compile(r"\[\s*([A-Za-z#][\w #-]*):(.*)\]\s*$")
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_INVISIBLE = dict.fromkeys(
    [0, 0x61C, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
_SECTIONS = [
    "verse",
    "chorus",
    "bridge",
    "intro",
    "outro",
    "prechorus",
    "pre-chorus",
    "pre chorus",
    "postchorus",
    "post-chorus",
    "post chorus",
    "hook",
    "refrain",
    "interlude",
    "instrumental",
    "inst",
    "break",
    "breakdown",
    "solo",
    "drop",
    "coda",
    "end",
    "start",
    "silence",
]
_SECTION = re.compile(rf"(?:{'|'.join(map(re.escape, _SECTIONS))})(?:[\s:_-]*(?:\d+|[ivx]+|[a-d]|short|medium|long))?(?:\s*[:,x(].*)?$", re.I)


def parse_lrc(text: str) -> Lyrics:
    """Read LRC text; lines without a stamp are ignored. Never raises; times are finite, >= 0 and sorted."""
    tags: dict[str, str] = {}
    stamped: list[tuple[Seconds, int, Line | None]] = []  # None: a stamped empty line
    section: str | None = None
    for order, raw in enumerate(_clean(text)):
        stamps, bare = _leading_stamps(raw)
        rest, found = _take_brackets(bare)
        section = found or section
        if not stamps and (first := _LEADING_WORD_STAMP.match(rest)):
            stamps = [_seconds(first)]
        if not stamps:
            tag = _TAG.match(bare)
            if tag and not found:
                tags[tag.group(1).strip().lower()] = tag.group(2).strip()
            continue
        words, word_starts = _words(rest)
        for stamp in stamps:
            if not words:
                if not found:
                    stamped.append((stamp, order, None))
                continue
            shifted = tuple(None if t is None else round(t - stamps[0] + stamp, 6) for t in word_starts)
            timed = shifted if any(t is not None for t in shifted) else None
            stamped.append((stamp, order, Line(" ".join(words), stamp, None, section, timed)))
    offset = _offset(tags.pop("offset", "0"))
    stamped.sort(key=lambda item: (item[0], item[2] is not None, item[1]))
    lines: list[Line] = []
    for stamp, _, line in stamped:
        if line is None:
            if lines and lines[-1].end is None and stamp >= (lines[-1].start or 0.0):
                lines[-1] = lines[-1]._replace(end=stamp)
        else:
            lines.append(line)
    return Lyrics(tuple(_shift(line, -offset) for line in lines), tuple(tags.items()))


def parse_raw(text: str) -> Lyrics:
    """Read plain lyrics: one sung line a line, `[verse]`-like lines become sections, other brackets and stamps are left out."""
    lines: list[Line] = []
    section: str | None = None
    for raw in _clean(text):
        rest, found = _take_brackets(raw)
        section = found or section
        sung = " ".join(_WORD_STAMP.sub(" ", rest).split())
        if any(c.isalnum() for c in sung):
            lines.append(Line(sung, section=section))
    return Lyrics(tuple(lines))


def passed_over(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lines of `text` that `parse_lrc`, or `parse_raw` where no line has a stamp, passes over though something stands in them: those with words but no
    stamp, and those of signs alone."""
    read = parse_lrc if parse_lrc(text).lines else parse_raw
    words: list[str] = []
    signs: list[str] = []
    for raw in _clean(text):
        bare = _WORD_STAMP.sub(" ", _take_brackets(raw)[0])
        if read(raw).lines or parse_lrc(raw).tags:
            continue
        if any(c.isalnum() for c in bare):
            words.append(raw)
        elif any(category(c) in SIGNS for c in bare):
            signs.append(raw)
    return tuple(words), tuple(signs)


def parse(lrc: str | None, raw: str | None) -> Lyrics:
    """The best of what a row has: stamped lines of `lrc`, else `raw` (or the text of an unstamped `lrc`) as plain lines."""
    if lrc:
        lyrics = parse_lrc(lrc)
        if lyrics.lines:
            return lyrics
    return parse_raw(raw or lrc or "")


def format_lrc(lyrics: Lyrics) -> str:
    """Write LRC text that `parse_lrc` reads back as the same value (times to the millisecond). Left out are unstamped lines, and ends that the next
    line overtakes, which LRC cannot say."""
    out = [f"[{name}:{value}]" for name, value in lyrics.tags]
    section: str | None = None
    stamped = [(line, line.start) for line in lyrics.lines if line.start is not None]
    for index, (line, start) in enumerate(stamped):
        if line.section != section and line.section is not None:
            out.append(f"[{line.section}]")
            section = line.section
        text = line.text
        if line.word_starts is not None:
            pairs = zip(line.word_starts, text.split(), strict=True)
            text = " ".join(word if t is None else f"<{clock(t)}>{word}" for t, word in pairs)
        out.append(f"[{clock(start)}]{text}")
        if line.end is not None and all(line.end <= later for _, later in stamped[index + 1 : index + 2]):
            out.append(f"[{clock(line.end)}]")
    return "\n".join(out) + "\n"


def from_alignment(alignment: Alignment) -> Lyrics:
    """Aligned words as lyrics with line and word stamps."""
    by_line: dict[int, list[int]] = {}
    for index, word in enumerate(alignment.words):
        by_line.setdefault(word.line, []).append(index)
    lines = []
    for indices in by_line.values():
        words = [alignment.words[i] for i in indices]
        text = " ".join(w.text for w in words)
        starts = tuple(t for w in words for t in (w.start, *[None] * (len(w.text.split()) - 1)))
        lines.append(Line(text, words[0].start, words[-1].end, None, starts))
    return Lyrics(tuple(lines))


def clock(seconds: Seconds) -> str:
    """Seconds as `mm:ss.xx`, or `mm:ss.xxx` where hundredths do not hold it; rounded, never truncated."""
    milliseconds = round(max(0.0, seconds) * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    whole, fraction = divmod(rest, 1000)
    digits = f"{fraction // 10:02d}" if fraction % 10 == 0 else f"{fraction:03d}"
    return f"{minutes:02d}:{whole:02d}.{digits}"


def _clean(text: str) -> Iterable[str]:
    lines = text.translate(_INVISIBLE).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return (line.strip() for line in lines)


def _seconds(match: re.Match[str]) -> Seconds:
    hours, minutes, seconds, fraction = match.groups()
    whole = int((hours or "0")[-7:]) * 3600 + int(minutes[-9:]) * 60 + int(seconds)
    return round(whole + (int(fraction) / 10 ** len(fraction) if fraction else 0.0), 3)


def _leading_stamps(line: str) -> tuple[list[Seconds], str]:
    stamps: list[Seconds] = []
    position = 0
    while match := _LEADING_STAMP.match(line, position):
        stamps.append(_seconds(match))
        position = match.end()
    return stamps, line[position:].strip()


def _take_brackets(line: str) -> tuple[str, str | None]:
    """-> the line without square brackets that are not stamps, and the section named before its first word, if any."""
    pieces: list[str] = []
    section: str | None = None
    position, sung = 0, False
    for match in _BRACKET.finditer(line):
        if _STAMP.fullmatch(match.group()):
            continue
        pieces.append(line[position : match.start()])
        position = match.end()
        sung = sung or any(c.isalnum() for c in _WORD_STAMP.sub("", pieces[-1]))
        name = match.group(1).strip()
        if section is None and not sung and _SECTION.match(name):
            section = name.lower()
    pieces.append(line[position:])
    return " ".join(pieces).strip(), section


def _words(text: str) -> tuple[list[str], list[Seconds | None]]:
    words: list[str] = []
    starts: list[Seconds | None] = []
    stamp: Seconds | None = None
    position = 0
    pieces: list[tuple[Seconds | None, str]] = []
    for match in _WORD_STAMP.finditer(text):
        pieces.append((stamp, text[position : match.start()]))
        stamp, position = _seconds(match), match.end()
    pieces.append((stamp, text[position:]))
    for begin, piece in pieces:
        for index, word in enumerate(piece.split()):
            words.append(word)
            starts.append(begin if index == 0 else None)
    return words, starts


def _offset(value: str) -> Seconds:
    match = re.fullmatch(r"\s*([+-]?\s*\d{1,9})\s*(?:ms)?\s*", value)
    return int(match.group(1).replace(" ", "")) / 1000 if match else 0.0


def _shift(line: Line, by: Seconds) -> Line:
    if not by:
        return line

    def moved(t: Seconds | None) -> Seconds | None:
        return None if t is None else round(max(0.0, t + by), 6)

    starts = None if line.word_starts is None else tuple(moved(t) for t in line.word_starts)
    return line._replace(start=moved(line.start), end=moved(line.end), word_starts=starts)
