"""What a lyrics text is: LRC, plain lines, an UltraStar sheet, or the one-line syntax of song generators.

That syntax parts sections with ` ; `, begins each with a tag such as `[verse]` or `[intro-short]` and ends sentences, which are sung lines,
with full stops: `[verse] A line. Another ; [chorus] A third`. It becomes lines, with the tags on lines of their own.
"""

import re
from typing import Any

from autosing.song.lyrics import format_lrc, parse_lrc, parse_raw
from autosing.song.ultrastar import is_sheet, parse_ultrastar

_TAG = re.compile(r"\s*;?\s*(\[[^\[\]\n]*\])\s*;?\s*")
_SEMICOLON = re.compile(r"\s+;\s+|\s*;\s*$")
_SENTENCE_END = re.compile(r"\.(?:\s+|$)|(?<=[a-z])\.(?=[A-Z])|。\s*|(?<=[\u3040-\u9fff])\.(?=[\u3040-\u9fff])")


def lyrics_columns(text: Any, sections: bool = False) -> dict[str, str | None]:
    """The columns `lrc_lyrics` and `raw_lyrics` of a lyrics text.

    Args:
        text: a text, a list of lines, or None.
        sections: the text may be in the one-line syntax.
    """
    if isinstance(text, list | tuple):
        text = "\n".join(str(line) for line in text if line is not None)
    text = "" if text is None else str(text)
    if not text.strip():
        return {"lrc_lyrics": None, "raw_lyrics": None}
    if is_sheet(text):
        return sheet_columns(text)
    if is_lrc(text):
        return {"lrc_lyrics": text, "raw_lyrics": None}
    return {"lrc_lyrics": None, "raw_lyrics": section_lines(text) if sections else text}


def is_lrc(text: str) -> bool:
    """Whether it is stamped throughout, and not plain lines of which one happens to have a stamp."""
    stamped = len(parse_lrc(text).lines)
    return stamped > 1 or (stamped == 1 and len(parse_raw(text).lines) == 1)


def sheet_columns(text: str) -> dict[str, str | None]:
    """The lyrics of an UltraStar sheet: LRC with word stamps, or plain lines where it has no tempo."""
    lyrics = parse_ultrastar(text).lyrics
    if lyrics.stamped:
        return {"lrc_lyrics": format_lrc(lyrics), "raw_lyrics": None}
    return {"lrc_lyrics": None, "raw_lyrics": lyrics.text or None}


def section_lines(text: str) -> str:
    """Lyrics in the one-line syntax as lines; other lyrics as they are."""
    if "\n" in text.strip() or not (_TAG.search(text) or _SEMICOLON.search(text)):
        return text
    lines: list[str] = []
    for index, part in enumerate(_TAG.split(text)):
        if index % 2:
            lines.append(part)
        else:
            pieces = (piece for section in _SEMICOLON.split(part) for piece in _SENTENCE_END.split(section))
            lines += [piece.strip() for piece in pieces if piece.strip()]
    return "\n".join(lines)
