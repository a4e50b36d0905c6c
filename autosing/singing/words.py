"""What of the lyrics can be sung, and how long it takes: text in, lines out. When they are sung is `plan.py`'s business.

Words are as long as a front end's `pronounce` says: word -> its sounds. What is left out, no stamp or sound being there for it, is told in sentences
for a person.
"""

from collections.abc import Callable, Sequence
from unicodedata import category

from autosing.errors import ConfigError
from autosing.song.lyrics import SIGNS, Lyrics, parse_lrc, parse_raw, passed_over
from autosing.tokens.pronounce import UNKNOWN_PHONE
from autosing.tokens.specs import Seconds
from autosing.tokens.text import expected_seconds

SUNG_STRETCH = 1.6  # a sung sound at an easy pace lasts about this much longer than a spoken one
FASTEST_SOUNDS = 14.0  # sounds a second that nobody sings over many lines, and that cannot be followed

Need = Callable[[str], Seconds]
"""How long the sounds of a line take when they are sung at an easy pace."""


def need_of(pronounce: Callable[[str], Sequence[str]]) -> Need:
    """`Need` by a text front end's `pronounce`."""
    return lambda text: max(0.4, SUNG_STRETCH * sum(expected_seconds(sound) for word in text.split() for sound in pronounce(word)))


def read_lyrics(text: str) -> Lyrics:
    """LRC where the text has stamped lines, else plain lines."""
    timed = parse_lrc(text)
    return timed if timed.lines else parse_raw(text)


def unread(text: str) -> str:
    """A sentence on the lines that `read_lyrics` does not find in `text` though something stands in them ("" if there are none)."""
    told = []
    for lines, lacking in zip(passed_over(text), ("no stamp where others have one", "no word"), strict=True):
        if lines:
            have = "has" if len(lines) == 1 else f"and {len(lines) - 1} more have"
            told.append(f"the line '{short(lines[0])}' {have} {lacking}")
    return "; ".join(told)


def openings(text: str) -> tuple[bool, ...]:
    """For each sung line of unstamped `text` whether it opens a verse or chorus: a tag or an empty line comes before it."""
    found: list[bool] = []
    opens = True
    for raw in text.splitlines():
        *sung, probe = parse_raw(raw + "\nla").lines  # the section that `raw` names is that of what follows
        opens = opens or probe.section is not None or not raw.strip()
        for _ in sung:
            found.append(opens)
            opens = False
    return tuple(found)


def singable(lyrics: Lyrics, pronounce: Callable[[str], Sequence[str]]) -> tuple[Lyrics, str]:
    """The lyrics without what has no sound in the model's alphabet, and a sentence on what that is ("" if nothing).

    A word loses the letters that cannot be sung, a line its words without sound, the lyrics their lines without words.
    """
    characters = {c for line in lyrics.lines for c in line.text if not c.isspace()}
    without_sound = {c for c in characters if UNKNOWN_PHONE in pronounce(c) or category(c) in SIGNS}
    left_out = set(without_sound)
    lines = []
    for line in lyrics.lines:
        words, starts = [], []
        for word, start in zip(line.text.split(), line.word_starts or [None] * len(line.text), strict=False):
            rest = "".join(c for c in word if c not in without_sound)
            if pronounce(rest):
                words.append(rest)
                starts.append(start)
            else:
                left_out |= {c for c in rest if c.isalnum()}
        if words:
            timed = tuple(starts) if any(start is not None for start in starts) else None
            lines.append(line._replace(text=" ".join(words), word_starts=timed))
    strange = [c for c in dict.fromkeys("".join(line.text for line in lyrics.lines)) if c in left_out]
    if not strange:
        return Lyrics(tuple(lines), lyrics.tags), ""
    named = " ".join(strange[:12]) + (f" and {len(strange) - 12} more" if len(strange) > 12 else "")
    return Lyrics(tuple(lines), lyrics.tags), f"this model has no sound for {len(strange)} of the lyrics' characters: {named}"


def read_singable(text: str, pronounce: Callable[[str], Sequence[str]]) -> tuple[Lyrics, str]:
    """What of the lyrics in `text` can be sung, and a sentence on what of them is left out ("" if nothing)."""
    lyrics, without_sound = singable(read_lyrics(text), pronounce)
    return lyrics, "; ".join(filter(None, (without_sound, unread(text))))


def check_amount(
    lines: Sequence[str], seconds: Seconds, pronounce: Callable[[str], Sequence[str]], instead: str = "more time with --length"
) -> None:
    """Refuse more words than the time holds; `instead`: what a person may give instead of fewer words.

    Raises:
        ConfigError: says how many would fit.
    """
    words = [word for line in lines for word in line.split()]
    most = int(FASTEST_SOUNDS * seconds)
    sounds = 0
    for held, word in enumerate(words):
        sounds += len(pronounce(word))
        if sounds > most:
            raise ConfigError(
                f"--lyrics: {len(words)} words do not fit into {seconds:.1f} s, which hold about {held} of them sung fast; "
                f"give fewer words, or {instead}"
            )


def short(text: str, longest: int = 40) -> str:
    """`text` as a note names it."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
