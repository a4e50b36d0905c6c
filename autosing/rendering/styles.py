"""Twelve styles of bands as tables of parts, drums and lead instruments.

Patterns are strings of eighth or sixteenth notes a bar ("x" strike, "." rest); names of instruments and drums are those of `instruments.py`.
How a part is played is said in `band.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One player. `pattern` strikes chord notes (see `Band`); figures: "chord", "arpeggio", "strum", "hold", "root", "walk", "octave"."""

    instrument: str
    figure: str
    pattern: str
    octave: int
    level: float


@dataclass(frozen=True)
class Style:
    """A band: bars of `beats`, a range of tempi, parts, and drums as (kind, pattern, level)."""

    beats: int
    bpm: tuple[float, float]
    modes: tuple[str, ...]
    parts: tuple[Part, ...]
    drums: tuple[tuple[str, str, float], ...]
    leads: tuple[str, ...]


STYLES: dict[str, Style] = {
    "ballad": Style(4, (58, 84), ("major", "minor"), (
        Part("piano", "chord", "x.x.x.x.", 0, 0.8), Part("strings", "hold", "x", 0, 0.35), Part("round_bass", "root", "x...x...", -2, 0.9)),
        (("kick", "x...x...", 0.8), ("rim", "..x...x.", 0.5), ("hat", "xxxxxxxx", 0.3)), ("flute", "strings", "piano")),
    "rock": Style(4, (100, 150), ("major", "minor"), (
        Part("distorted", "root", "xxxxxxxx", -1, 0.75), Part("guitar", "strum", "x..xx.x.", 0, 0.5), Part("slap_bass", "root", "xxxxxxxx", -2, 0.8)),
        (("kick", "x..xx...", 1.0), ("snare", "..x...x.", 0.9), ("hat", "xxxxxxxx", 0.5)), ("distorted", "lead", "organ")),
    "folk": Style(4, (76, 120), ("major", "minor"), (
        Part("guitar", "strum", "x.xx.xxx", 0, 0.9), Part("guitar", "arpeggio", "xxxxxxxx", 0, 0.6), Part("round_bass", "walk", "x...x...", -2, 0.6)),
        (("shaker", "xxxxxxxx", 0.4), ("kick", "x...x...", 0.4)), ("flute", "guitar", "strings")),
    "electro": Style(4, (110, 132), ("minor", "major"), (
        Part("supersaw", "chord", "x..x..x.", 0, 0.6), Part("pad", "hold", "x", 0, 0.4), Part("saw_bass", "octave", ".x.x.x.x", -2, 0.9),
        Part("bell", "arpeggio", "xxxxxxxxxxxxxxxx", 1, 0.25)),
        (("kick", "x.x.x.x.", 1.0), ("clap", "..x...x.", 0.6), ("open", ".x.x.x.x", 0.3), ("hat", "xxxxxxxxxxxxxxxx", 0.25)), ("lead", "supersaw", "bell")),
    "funk": Style(4, (92, 116), ("minor", "major"), (
        Part("muted", "chord", "..x.x..x.xx.x.x.", 0, 0.6), Part("epiano", "chord", "x.....x.....x..", 0, 0.5),
        Part("slap_bass", "octave", "x..x..x.x.x..x..", -2, 0.9)),
        (("kick", "x..x....x.x.....", 0.9), ("snare", "....x.......x..x", 0.8), ("hat", "xxxxxxxxxxxxxxxx", 0.35)), ("organ", "lead", "epiano")),
    "orchestral": Style(4, (66, 110), ("minor", "major"), (
        Part("strings", "hold", "x", 0, 0.8), Part("strings", "arpeggio", "xxxxxxxx", 0, 0.4), Part("strings", "root", "x...x...", -2, 0.7),
        Part("flute", "arpeggio", "x...x...", 1, 0.3)),
        (("timpani", "x.......", 0.6),), ("flute", "strings", "bell")),
    "waltz": Style(3, (88, 168), ("major", "minor"), (
        Part("organ", "chord", "..x.x.", 0, 0.5), Part("guitar", "strum", "..x.x.", 0, 0.6), Part("round_bass", "walk", "x.....", -2, 0.9)),
        (("kick", "x.....", 0.5), ("brush", "..x.x.", 0.6)), ("flute", "organ", "piano")),
    "lofi": Style(4, (68, 90), ("minor", "major"), (
        Part("epiano", "chord", "x....x..", 0, 0.9), Part("pad", "hold", "x", 0, 0.25), Part("sub_bass", "root", "x..x....", -2, 0.8)),
        (("kick", "x....x..", 0.8), ("snare", "..x...x.", 0.5), ("hat", "x.xxx.xx", 0.3)), ("bell", "guitar", "flute")),
    "reggae": Style(4, (70, 96), ("major", "minor"), (
        Part("organ", "chord", ".x.x.x.x", 0, 0.6), Part("muted", "chord", "..x...x.", 0, 0.6), Part("round_bass", "walk", "x..xx.x.", -2, 1.1)),
        (("kick", "....x...", 0.9), ("rim", "....x...", 0.6), ("hat", "x.x.x.x.", 0.35)), ("organ", "flute", "lead")),
    "hiphop": Style(4, (76, 100), ("minor",), (
        Part("bell", "arpeggio", "x.x..x..", 0, 0.4), Part("strings", "hold", "x", 0, 0.3), Part("sub_bass", "root", "x.....x.", -2, 1.2)),
        (("kick", "x.....xx..x.....", 1.0), ("clap", "....x.......x...", 0.7), ("hat", "x.x.x.xxx.x.xxxx", 0.35)), ("lead", "bell", "piano")),
    "piano": Style(4, (60, 110), ("major", "minor"), (
        Part("piano", "arpeggio", "xxxxxxxx", 0, 0.9), Part("piano", "root", "x...x...", -2, 0.7), Part("piano", "chord", "x.......", 0, 0.4)),
        (), ("piano", "strings")),
    "country": Style(4, (96, 140), ("major",), (
        Part("guitar", "strum", "..x...x.", 0, 0.8), Part("muted", "arpeggio", "xxxxxxxx", 1, 0.4), Part("round_bass", "walk", "x...x...", -2, 0.9)),
        (("kick", "x...x...", 0.7), ("snare", "..x...x.", 0.5), ("brush", "xxxxxxxx", 0.4)), ("guitar", "organ", "piano")),
}  # fmt: skip
