"""UltraStar karaoke sheets -> lyrics with line and word stamps.

A sheet is `#KEY:value` headers, then notes `: beat length pitch syllable` (`:` and `*` sung, `R` and `G` rapped, `F` free), phrase ends `-`,
voices `P1`, `P2`, tempo changes `B beat bpm` and an end `E`. Seconds = GAP / 1000 + beats * 60 / (4 * BPM); numbers may have a decimal
comma. A space before or after a syllable parts words; `~` holds the syllable before it. In relative mode a phrase's beats count from the
shift that the phrase end before it gives, each voice for itself. `#VIDEOGAP`, `#START` and `#END` concern the player, not the notes.

Reading never raises: lines that are none of these are passed over. Which file a sheet's audio is, is not decided here.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from autosing.song.lyrics import Line, Lyrics
from autosing.tokens.specs import Seconds

_HEADER = re.compile(r"\s*#\s*([^:\r\n]+?)\s*:(.*)")
_NOTE = re.compile(r"\s*[:*FRG]\s*(-?\d{1,9})\s+(\d{1,9})\s+(-?\d{1,9})(?:\s(.*))?", re.S)
_PHRASE_END = re.compile(r"\s*-\s*(-?\d{1,9})(?:\s+(-?\d{1,9}))?\s*")
_VOICE = re.compile(r"\s*P\s*(\d)\s*")
_TEMPO = re.compile(r"\s*B\s*(-?\d{1,9}(?:[.,]\d+)?)\s+(\d{1,9}(?:[.,]\d+)?)\s*")
_MARKS = str.maketrans("", "", "~<>[]")  # what LRC gives a meaning, and the sign for holding
_HELD = "~-"
_SAME_SECONDS: Seconds = 0.05
"""Two voices that begin the same words within this sing one line."""


@dataclass(frozen=True)
class Sheet:
    """`headers` by upper-case key, empty ones left out; `lyrics` with word stamps, without any stamps where the sheet has no tempo."""

    headers: Mapping[str, str]
    lyrics: Lyrics

    @property
    def audio(self) -> str | None:
        """The name of the file with the whole song, as the sheet gives it."""
        return self.headers.get("AUDIO") or self.headers.get("MP3")


@dataclass
class _Voice:
    shift: int = 0  # beats, of relative mode
    phrase: list[tuple[int, int, str]] = field(default_factory=list)  # (first beat, beat after the last, syllable)
    phrases: list[list[tuple[int, int, str]]] = field(default_factory=list)

    def end_phrase(self) -> None:
        if self.phrase:
            self.phrases.append(self.phrase)
            self.phrase = []


def is_sheet(text: str) -> bool:
    """Whether the text is an UltraStar sheet: its first line is a header, and one names the tempo, title or audio."""
    bare = text.lstrip("\ufeff \t\r\n")
    return bare.startswith("#") and bool(re.search(r"^\s*#\s*(TITLE|ARTIST|BPM|GAP|MP3|AUDIO)\s*:", bare, re.M | re.I))


def parse_ultrastar(text: str) -> Sheet:
    """Read a sheet. Voices are merged in order of time; what two voices sing together stands once."""
    headers, body = _split(text)
    tempo = _number(headers.get("BPM"))
    changes = [(0.0, tempo)] if tempo and tempo > 0 else []
    relative = headers.get("RELATIVE", "").lower() == "yes"
    voices: dict[str, _Voice] = {}
    voice = voices.setdefault("1", _Voice())
    for line in body:
        if found := _NOTE.fullmatch(line):
            beat = voice.shift + int(found.group(1))
            voice.phrase.append((beat, beat + int(found.group(2)), found.group(4) or ""))
        elif found := _PHRASE_END.fullmatch(line):
            voice.end_phrase()
            if relative:
                voice.shift += int(found.group(2) or found.group(1))
        elif found := _VOICE.fullmatch(line):
            voice = voices.setdefault(found.group(1), _Voice())
        elif found := _TEMPO.fullmatch(line):
            beat, tempo = _number(found.group(1)), _number(found.group(2))
            if beat is not None and tempo and changes and beat >= changes[-1][0]:
                changes.append((beat, tempo))
        elif line.strip() == "E":
            break
    for one in voices.values():
        one.end_phrase()
    gap = (_number(headers.get("GAP")) or 0.0) / 1000
    phrases = [phrase for one in voices.values() for phrase in one.phrases]
    drop_hyphens = _hyphens_part_syllables(phrases)
    lines = [line for phrase in phrases if (line := _line(phrase, changes, gap, drop_hyphens)) is not None]
    if changes:
        lines = _once(sorted(lines, key=lambda line: line.start or 0.0))
    return Sheet(headers, Lyrics(tuple(lines)))


def _split(text: str) -> tuple[dict[str, str], list[str]]:
    headers: dict[str, str] = {}
    body: list[str] = []
    for line in re.split(r"\r\n|\r|\n", text.lstrip("\ufeff")):
        found = _HEADER.fullmatch(line)
        if found:
            value = found.group(2).strip()
            if value:
                headers.setdefault(found.group(1).upper(), value)
        elif line.strip():
            body.append(line)
    return headers, body


def _number(text: str | None) -> float | None:
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) < 1e9 else None


def _seconds(beat: int, changes: list[tuple[float, float]], gap: Seconds) -> Seconds:
    total = gap
    for index, (begin, tempo) in enumerate(changes):
        end = changes[index + 1][0] if index + 1 < len(changes) else math.inf
        if index and beat <= begin:
            break
        total += (min(beat, end) - begin) * 15 / tempo
    return round(max(0.0, total), 3)


def _syllables(phrase: list[tuple[int, int, str]]) -> Iterable[tuple[int, int, str, bool]]:
    """-> first beat, beat after the last, bare syllable ("" = the one before is held), whether a word begins with it."""
    parted = True
    for begin, end, text in phrase:
        bare = text.strip()
        held = bool(bare) and all(c in _HELD for c in bare)
        sung = "" if held else bare.translate(_MARKS).strip()
        yield begin, end, sung, bool(sung) and (parted or text[:1].isspace())
        parted = text[-1:].isspace() or (parted and not sung)


def _hyphens_part_syllables(phrases: list[list[tuple[int, int, str]]]) -> bool:
    """Whether "beau-" "ti-" "ful" is meant, as in sheets where most syllables within words end so, and not "twenty-" "one"."""
    joins = hyphens = 0
    for phrase in phrases:
        before = ""
        for _, _, text, begins in _syllables(phrase):
            if text and not begins:
                joins += 1
                hyphens += before.endswith("-")
            before = text or before
    return hyphens > joins / 2


def _line(phrase: list[tuple[int, int, str]], changes: list[tuple[float, float]], gap: Seconds, drop_hyphens: bool) -> Line | None:
    words: list[str] = []
    starts: list[int] = []
    last = 0
    for begin, end, text, begins in _syllables(phrase):
        if begins:
            words.append("")
            starts.append(begin)
        if words:
            before = words[-1].removesuffix("-") if drop_hyphens and text else words[-1]
            words[-1] = before + text
            last = max(last, end)
    pieces = [(piece, start if first else None) for word, start in zip(words, starts, strict=True) for piece, first in _pieces(word)]
    if not any(c.isalnum() for piece, _ in pieces for c in piece):
        return None
    line = " ".join(piece for piece, _ in pieces)
    if not changes:
        return Line(line)
    times = tuple(None if beat is None else _seconds(beat, changes, gap) for _, beat in pieces)
    return Line(line, times[0], _seconds(last, changes, gap), None, times)


def _pieces(word: str) -> Iterable[tuple[str, bool]]:
    """A syllable may hold whole words ("on the"): each with whether it begins at the word's beat."""
    return ((piece, index == 0) for index, piece in enumerate(word.split()))


def _once(lines: list[Line]) -> list[Line]:
    kept: list[Line] = []
    for line in lines:
        near = (other for other in reversed(kept) if (line.start or 0.0) - (other.start or 0.0) <= _SAME_SECONDS)
        if not any(other.text.casefold() == line.text.casefold() for other in near):
            kept.append(line)
    return kept
