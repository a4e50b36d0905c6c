"""Text as tokens: the phone inventory and the text front ends (characters, phones).

A front end turns sung lines into token ids, and aligned words into token ids with times (`TimedText`), so that training may know
which token is sung when. Every front end starts its vocabulary with PAD, LINE, PAUSE, UNKNOWN; the order of one text is always: the
tokens of a word, PAUSE, the next word ..., with LINE between lines (or between the halves of a window). Ids are stable: they are part of
checkpoints. Lyrics are never refused: what cannot be read becomes UNKNOWN.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autosing.registry import Registry
from autosing.song.alignment import Alignment
from autosing.tokens.pronounce import UNKNOWN_PHONE, VOWELS, Pronouncer, default_pronouncer, straight_apostrophes
from autosing.tokens.specs import Seconds

PHONES: tuple[str, ...] = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
"""ARPAbet without stress; diphthongs and affricates are one phone."""

PAD, LINE, PAUSE, UNKNOWN = 0, 1, 2, 3
SPECIAL = ("<pad>", "<line>", "<pause>", UNKNOWN_PHONE)
"""Names of the ids PAD, LINE, PAUSE, UNKNOWN: no token; line or half break; end of a word; a sound that could not be read."""

VOWEL_SECONDS = 0.11
CONSONANT_SECONDS = {
    **dict.fromkeys(("B", "D", "G", "DH", "T", "V", "HH"), 0.055),
    **dict.fromkeys(("P", "K", "L", "M", "N", "NG", "R", "W", "Y"), 0.07),
    **dict.fromkeys(("F", "TH", "Z", "ZH", "JH"), 0.085),
    **dict.fromkeys(("S", "SH", "CH"), 0.1),
}
"""Lengths of speech sounds at a moderate pace; in singing the vowels take what a long note adds."""


@dataclass(frozen=True)
class TimedText:
    """A text of L tokens.

    Attributes:
        ids: (L,) int64 token ids.
        starts, ends: (L,) float64 seconds, not decreasing; NaN when unknown.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class TextFrontEnd(Protocol):
    """Lyrics -> ids. `symbols[i]` names id i; `vocab_size == len(symbols)`."""

    name: str
    symbols: tuple[str, ...]

    @property
    def vocab_size(self) -> int: ...

    def pronounce(self, word: str) -> tuple[str, ...]:
        """The symbols of one written word; () when nothing in it is sung (bare punctuation)."""
        ...

    def ids_for(self, lines: Sequence[str]) -> TimedText:
        """Lines -> tokens without times; PAUSE after every word, LINE between lines (an empty line keeps its LINE)."""
        ...

    def from_alignment(self, alignment: Alignment, split_seconds: Seconds | None = None) -> TimedText:
        """Aligned words -> tokens with times.

        PAUSE covers the gap to the next word. With `split_seconds` there is exactly one LINE: between the words whose middle lies
        before it and the rest; without, none (the lines of the lyrics are not marked).
        """
        ...


def expected_seconds(phone: str) -> Seconds:
    """Length of a phone in speech; a prior for alignment and for spreading a word's time."""
    return CONSONANT_SECONDS.get(phone, VOWEL_SECONDS)


def spread_phones(phones: Sequence[str], start: Seconds, end: Seconds) -> np.ndarray:
    """Boundaries (len(phones) + 1,) of phones sung from `start` to `end`.

    A word shorter than spoken is squeezed evenly; a longer one keeps its consonants (up to 1.5 times as long) and stretches its vowels.
    """
    lengths = np.array([expected_seconds(p) for p in phones])
    spare = end - start - lengths.sum()
    vowel = np.array([p in VOWELS or p == UNKNOWN_PHONE for p in phones])
    if spare > 0 and vowel.any():
        lengths = lengths * np.where(vowel, 1.0, min(1.5, 1 + spare / (2 * lengths.sum())))
        lengths[vowel] += (end - start - lengths.sum()) / vowel.sum()
    edges = np.concatenate([[0.0], np.cumsum(lengths)])
    return start + edges * ((end - start) / edges[-1])


class _FrontEnd:
    """What phones and characters share; a subclass has `name`, `symbols`, `pronounce`, `_pieces`."""

    name: str
    symbols: tuple[str, ...]

    def __init__(self) -> None:
        self._ids = {symbol: index for index, symbol in enumerate(self.symbols)}

    @property
    def vocab_size(self) -> int:
        return len(self.symbols)

    def pronounce(self, word: str) -> tuple[str, ...]:
        raise NotImplementedError

    def _edges(self, symbols: Sequence[str], start: Seconds, end: Seconds) -> np.ndarray:
        return np.linspace(start, end, len(symbols) + 1)

    def _timed(self, alignment: Alignment) -> list[tuple[Sequence[str], np.ndarray, np.ndarray]]:
        """(symbols, starts, ends) of every word, () for words that are not sung."""
        timed: list[tuple[Sequence[str], np.ndarray, np.ndarray]] = []
        for word in alignment.words:
            symbols = self.pronounce(word.text)
            edges = self._edges(symbols, word.start, word.end) if symbols else np.zeros(1)
            timed.append((symbols, edges[:-1], edges[1:]))
        return timed

    def ids_for(self, lines: Sequence[str]) -> TimedText:
        ids: list[int] = []
        for number, line in enumerate(lines):
            if number:
                ids.append(LINE)
            for word in line.split():
                symbols = self.pronounce(word)
                if symbols:
                    ids += [self._ids[s] for s in symbols]
                    ids.append(PAUSE)
        unknown = np.full(len(ids), np.nan)
        return TimedText(np.array(ids, dtype=np.int64), unknown, unknown.copy())

    def from_alignment(self, alignment: Alignment, split_seconds: Seconds | None = None) -> TimedText:
        rows: list[tuple[int, Seconds, Seconds]] = []
        sung = [(word, piece) for word, piece in zip(alignment.words, self._timed(alignment), strict=True) if len(piece[0])]
        split = split_seconds
        for index, (word, (symbols, starts, ends)) in enumerate(sung):
            if split is not None and (word.start + word.end) / 2 >= split:  # true at the first word alone
                rows.append((LINE, min(split, word.start), word.start))
                split = None
            rows += zip((self._ids[s] for s in symbols), starts.tolist(), ends.tolist(), strict=True)
            following = sung[index + 1][0] if index + 1 < len(sung) else None
            gap_end = max(word.end, following.start if following else word.end)
            if split is not None and (following is None or (following.start + following.end) / 2 >= split):
                cut = max(word.end, split) if following is None else min(max(split, word.end), gap_end)
                rows += [(PAUSE, word.end, cut), (LINE, cut, max(cut, gap_end))]
                split = None
            else:
                rows.append((PAUSE, word.end, gap_end))
        if split is not None:
            rows.append((LINE, split, split))
        columns = [np.array(column) for column in zip(*rows, strict=True)] or [np.zeros(0)] * 3
        return TimedText(columns[0].astype(np.int64), columns[1].astype(np.float64), columns[2].astype(np.float64))


class PhoneText(_FrontEnd):
    """Words as ARPAbet phones: the shipped lexicon, letters-to-sound for the rest (any Latin spelling, read as English)."""

    name = "phones"
    symbols = (*SPECIAL, *PHONES)

    def __init__(self, pronouncer: Pronouncer | None = None):
        """`pronouncer` None = the shipped one."""
        super().__init__()
        self._pronouncer = pronouncer or default_pronouncer()

    def pronounce(self, word: str) -> tuple[str, ...]:
        """Phones of `PHONES`; `<unknown>` for a letter of a script that has no rule."""
        return self._pronouncer(word)

    def _edges(self, symbols: Sequence[str], start: Seconds, end: Seconds) -> np.ndarray:
        return spread_phones(symbols, start, end)

    def _timed(self, alignment: Alignment) -> list[tuple[Sequence[str], np.ndarray, np.ndarray]]:
        timed = super()._timed(alignment)
        known = set(PHONES)
        of_word: dict[int, list] = {}
        for token in alignment.tokens:
            of_word.setdefault(token.word, []).append(token)
        for index, tokens in of_word.items():
            if all(token.text in known for token in tokens):
                timed[index] = (
                    tuple(t.text for t in tokens), np.array([t.start for t in tokens]), np.array([t.end for t in tokens])
                )  # fmt: skip
        return timed


class CharacterText(_FrontEnd):
    """Words as lower-case characters of any language: a-z, digits and ' by themselves, the rest as the bytes of their UTF-8."""

    name = "characters"
    symbols = (*SPECIAL, *"abcdefghijklmnopqrstuvwxyz'0123456789", *(f"<{byte:02x}>" for byte in range(0x80, 0x100)))

    def pronounce(self, word: str) -> tuple[str, ...]:
        """The characters of a word that are letters, marks, digits or apostrophes; a non-ASCII one is 2 to 4 byte symbols."""
        text = straight_apostrophes(unicodedata.normalize("NFC", word).lower())
        symbols: list[str] = []
        for character in text:
            if character in self._ids:
                symbols.append(character)
            elif not character.isascii() and unicodedata.category(character)[0] in "LMN":
                symbols += (f"<{byte:02x}>" for byte in character.encode("utf-8", errors="replace"))
        return tuple(symbols) if any(s != "'" for s in symbols) else ()


TEXTS = Registry("text front end", {"phones": "autosing.tokens.text:PhoneText", "characters": "autosing.tokens.text:CharacterText"})


def load_text(name: str = "phones") -> TextFrontEnd:
    """The text front end called `name`.

    Raises:
        ConfigError: no such front end; names the nearest.
    """
    return TEXTS.get(name)()
