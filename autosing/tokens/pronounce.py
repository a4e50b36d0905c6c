"""Written words -> phones, without a model library and without ever failing.

A written word is cleaned (case, accents, apostrophes, digits, symbols), looked up in the shipped lexicon, then in the forms singers
write ("singin'", "sooooo", "ev'ry", possessives), and guessed from its letters where all of that fails. A letter of a script that has no
rule here becomes `UNKNOWN_PHONE`, so that every sung word has at least one token. The lexicon (`autosing/weights/lexicon`) is a list of
lines `word<TAB>PH ON ES` in xz, made by the renderer's own speech engine.
"""

import functools
import json
import lzma
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from autosing.errors import WeightsError
from autosing.weights import weights_folder

UNKNOWN_PHONE = "<unknown>"
LEXICON_FILE = "lexicon.tsv.xz"

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
"""What the letters-to-phones model reads."""

VOWELS = frozenset({"AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"})
_VOICELESS = frozenset({"P", "T", "K", "F", "TH"})
_SIBILANT = frozenset({"S", "Z", "SH", "ZH", "CH", "JH"})


def _table(text: str) -> dict[str, str]:
    """`"a x, b y z, c"` -> {"a": "x", "b": "y z", "c": ""}."""
    return {key: value for key, _, value in (entry.strip().partition(" ") for entry in text.split(","))}


_ONES = tuple(
    _table(
        "zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, sixteen, seventeen,"
        "eighteen, nineteen"
    )
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_UNITS = {1_000_000_000: "billion", 1_000_000: "million", 1000: "thousand", 100: "hundred"}
_ORDINALS = _table("one first, two second, three third, five fifth, eight eighth, nine ninth, twelve twelfth")
_SYMBOLS = _table("& and, % percent, $ dollars, € euros, £ pounds, @ at, + plus, ° degrees")
_AMOUNT = re.compile(r"([$€£])\s*(\d[\d,.]*)")
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘‛ʼʻ`´＇′", "'"))
_SPELLED = _table(
    "ß ss, æ e, œ e, ø o, đ d, ð th, þ th, ł l, ı i, ŋ ng, ħ h, ŧ t, ə a,"
    "α a, β v, γ g, δ d, ε e, ζ z, η i, θ th, ι i, κ k, λ l, μ m, ν n, ξ x, ο o, π p, ρ r, σ s, ς s, τ t, υ i, φ f, χ h, ψ ps, ω o,"
    "а a, б b, в v, г g, д d, е ye, ж zh, з z, и ee, й y, к k, л l, м m, н n, о o, п p, р r, с s, т t, у oo, ф f, х h, ц ts, ч ch, ш sh,"
    "щ sh, ъ, ы i, ь, э e, ю yu, я ya, і ee, ї yee, є ye, ґ g, ј y, љ ly, њ ny, ћ ch, џ j, ー"
)
"""Latin letters that have no plain letter inside, Greek and Cyrillic, in a rough English spelling."""
_LETTER_NAMES = _table(
    "a EY, b B IY, c S IY, d D IY, e IY, f EH F, g JH IY, h EY CH, i AY, j JH EY, k K EY, l EH L, m EH M, n EH N, o OW, p P IY, q K Y UW,"
    "r AA R, s EH S, t T IY, u Y UW, v V IY, w D AH B AH L Y UW, x EH K S, y W AY, z Z IY"
)
_PIECES = re.compile(
    r"(\d{1,3}(?:,\d{3})+|\d+)(st|nd|rd|th)?(?![^\W_])"  # a number that no letter follows
    r"|([^\W_]+(?:['\u0300-\u036f]+[^\W_]+)*'?|'[^\W_]+)"  # letters and digits with inner apostrophes
)


def straight_apostrophes(text: str) -> str:
    """`text` with every kind of apostrophe as '."""
    return text.translate(_APOSTROPHES)


def number_words(number: int) -> list[str]:
    """English words of 0 up to a billion; 1100..1999 are read in pairs, as years."""
    if number < 20:
        return [_ONES[number]]
    if number < 100:
        return [_TENS[number // 10]] + ([_ONES[number % 10]] if number % 10 else [])
    if 1100 <= number <= 1999:  # "nineteen oh five", "twelve hundred"
        rest = number_words(number % 100) if number % 100 else ["hundred"]
        return number_words(number // 100) + (["oh"] if 0 < number % 100 < 10 else []) + rest
    unit = next(unit for unit in _UNITS if number >= unit)
    return [*number_words(number // unit), _UNITS[unit], *(number_words(number % unit) if number % unit else [])]


def ordinal_words(number: int) -> list[str]:
    """English words of 1st, 2nd, ..."""
    *head, last = number_words(number)
    ending = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return [*head, _ORDINALS.get(last, ending)]


def _digits(written: str, suffix: str) -> list[str]:
    """Words of a number as written; long ones without commas, and 007, are read digit by digit."""
    digits = written.replace(",", "")
    if len(digits) > 9 or (len(digits) > 4 and "," not in written) or (len(digits) > 1 and int(digits[0]) == 0):
        return [_ONES[int(digit)] for digit in digits]
    return ordinal_words(int(digits)) if suffix else number_words(int(digits))


def _romanise(letter: str) -> str:
    """A lower-case letter as a-z; kana and Hangul by their Unicode name, accents dropped. Unknown letters stay themselves."""
    if letter in _SPELLED:
        return _SPELLED[letter]
    name = unicodedata.name(letter, "")
    if name.startswith(("HIRAGANA LETTER", "KATAKANA LETTER", "HANGUL SYLLABLE")):
        return name.rsplit(" ", 1)[-1].lower()
    plain = (c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))
    return "".join(_SPELLED.get(c, c) for c in plain)


def spoken_words(text: str) -> list[str]:
    """A piece of lyrics as the plain lower-case words that are spoken: a-z and inner or final apostrophes, numbers written out.

    Letters of a script that is not known here stay as they are. Never raises; punctuation alone gives [].
    """
    text = _AMOUNT.sub(r"\2 \1", straight_apostrophes(unicodedata.normalize("NFKC", text)).lower())
    for symbol, word in _SYMBOLS.items():
        text = text.replace(symbol, f" {word} ")
    words: list[str] = []
    for digits, suffix, run in _PIECES.findall(text):
        if digits:
            words += _digits(digits, suffix)
            continue
        for piece in re.findall(r"\d+|\D+", run):  # "u2", "80s"
            bare = "".join(map(_romanise, piece))
            if piece in ("s", "'s") and piece != run:  # "80s", "90's"
                words[-1] += "'s"
            else:
                words += _digits(piece, "") if piece.isdecimal() else [bare] if bare.strip("'") else []
    return words


class LettersToPhones:
    """Phones guessed from letters: the arithmetic of `autosing.models.g2p.G2P` in numpy.

    Letters: W letters, D width, S slots a letter, V classes (blank, then the phones).
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], phones: Sequence[str]):
        """
        Args:
            tensors: the model's tensors by name.
            phones: name of class 1, 2, ... of the head.
        """
        self._t = {name: value.astype(np.float32) for name, value in tensors.items()}
        self._phones = tuple(phones)
        self._blocks = sum(name.endswith(".out.weight") for name in tensors)

    def __call__(self, word: str) -> tuple[str, ...]:
        """Phones of the best path; letters outside `LETTERS` are not heard, an empty path is `UNKNOWN_PHONE`."""
        letters = np.array([LETTERS.index(c) + 1 for c in word if c in LETTERS], dtype=np.int64)
        if not len(letters):
            return (UNKNOWN_PHONE,)
        path = self.scores(letters).argmax(-1)
        kept = path[np.flatnonzero(np.diff(path, prepend=-1))]
        return tuple(self._phones[c - 1] for c in kept if c > 0) or (UNKNOWN_PHONE,)

    def scores(self, letters: np.ndarray) -> np.ndarray:
        """(W,) letter numbers -> (W * S, V)."""
        x = self._t["embed.weight"][letters]
        for block in range(self._blocks):
            name = f"blocks.{block}"
            kernel = self._t[f"{name}.conv.weight"]  # (D out, D in, taps)
            half = kernel.shape[2] // 2
            padded = np.pad(self._norm(x, f"{name}.norm"), ((half, half), (0, 0)))
            y = self._t[f"{name}.conv.bias"] + sum(
                padded[tap : tap + len(x)] @ kernel[:, :, tap].T for tap in range(kernel.shape[2])
            )
            y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
            x = x + self._linear(y, f"{name}.out")
        return self._linear(self._norm(x, "norm"), "head").reshape(-1, len(self._phones) + 1)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._t[f"{name}.weight"].T + self._t[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * self._t[f"{name}.weight"] + self._t[f"{name}.bias"]


def load_letters_to_phones(folder: Path) -> LettersToPhones:
    """The letters-to-phones model of a checkpoint folder.

    Raises:
        WeightsError: missing or damaged files.
    """
    try:
        phones = json.loads((folder / "config.json").read_text(encoding="utf-8"))["meta"]["phones"]
        return LettersToPhones(load_file(folder / "model.safetensors"), phones)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise WeightsError(
            f"the letters-to-phones model in '{folder}' cannot be read ({error}); install the package again"
        ) from error


@functools.cache
def load_lexicon() -> Mapping[str, tuple[str, ...]]:
    """The shipped lexicon: lower-case word -> phones; read once.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    path = weights_folder("lexicon") / LEXICON_FILE
    try:
        text = lzma.decompress(path.read_bytes()).decode("ascii")
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise WeightsError(f"the lexicon '{path}' cannot be read ({error}); install the package again") from error
    pairs = (line.split("\t") for line in text.splitlines())
    return {word: tuple(phones.split()) for word, phones in pairs}


class Pronouncer:
    """Words -> phones: lexicon, then sung forms of its words, then `guess` from the letters."""

    def __init__(self, lexicon: Mapping[str, tuple[str, ...]], guess: Callable[[str], tuple[str, ...]]):
        """
        Args:
            lexicon: lower-case word -> phones.
            guess: phones of a word of letters a-z that nothing else knows.
        """
        self._lexicon = lexicon
        self._guess = guess
        self._known: dict[str, tuple[str, ...]] = {}

    def __call__(self, written: str) -> tuple[str, ...]:
        """Phones of a written word (several when it has hyphens or digits); () when nothing in it is spoken."""
        if written not in self._known:
            if len(self._known) > 100_000:
                self._known.clear()
            self._known[written] = tuple(p for word in spoken_words(written) for p in self._word(word, written))
        return self._known[written]

    def _word(self, word: str, written: str) -> tuple[str, ...]:
        found = self._look_up(word)
        if found is not None:
            return found
        letters = word.replace("'", "")
        if letters.upper() in written and len(letters) <= 4 and letters.isascii() and not set(letters) & set("aeiouy"):
            return tuple(" ".join(_LETTER_NAMES[c] for c in letters if c in _LETTER_NAMES).split())
        vowelless = not set(letters) & set("aeiouy")  # "shhh", "brrr"
        letters = re.sub(r"(.)\1+", r"\1", letters) if vowelless else re.sub(r"(.)\1{2,}", r"\1\1", letters)
        phones: list[str] = []
        for part in re.findall(r"[a-z]+|[^a-z]", letters):
            phones += (self._look_up(part) or self._guess(part)) if part.isascii() and part.isalpha() else (UNKNOWN_PHONE,)
        return tuple(phones) or (UNKNOWN_PHONE,)

    def _look_up(self, word: str) -> tuple[str, ...] | None:
        """Phones of `word` if the lexicon has it or the word it is a sung form of."""
        for form in dict.fromkeys((word, word.strip("'"), word.replace("'", "e"))):  # the last: "ev'ry", "heav'n"
            if form in self._lexicon:
                return self._lexicon[form]
        if word.endswith("in'") and (full := self._lexicon.get(word[:-1] + "g")):
            return (*full[:-1], "N") if full[-1] == "NG" else full
        if word.endswith("'s") and (full := self._look_up(word[:-2])):
            return (*full, *(("IH", "Z") if full[-1] in _SIBILANT else ("S",) if full[-1] in _VOICELESS else ("Z",)))
        if word.endswith("'") and (full := self._look_up(word[:-1])):
            return full
        for run in (r"\1\1", r"\1"):  # "sooooo" -> "soo", "so"
            short = re.sub(r"(.)\1{2,}", run, word)
            if 1 < len(short) < len(word) and (full := self._look_up(short)):
                return full
        return None


@functools.cache
def default_pronouncer() -> Pronouncer:
    """The pronouncer of the shipped lexicon; built once."""
    return Pronouncer(load_lexicon(), load_letters_to_phones(weights_folder("g2p")))
