"""Which language lyrics are spelt in, and how that spelling sounds in the recogniser's English phones.

English goes to the text front end (lexicon and letters-to-sound). Spanish and French have rules of their own here, which give the nearest
English phones, or several ("HH|K") where none is near; other languages are read as English. The rules need only be good enough to tell one vowel or hiss from another.
"""

import re
import unicodedata
from collections.abc import Callable

from autosing.tokens.pronounce import VOWELS
from autosing.tokens.text import load_text

_MARKS = {
    "es": "que de la el los las en un una por con para mi tu su no yo te me es y como pero más sin se lo al del si",
    "fr": "que de la le les des un une et je tu il elle nous vous pas ne dans sur pour mon ton son ma ta sa mes est au du qui ce mais",
    "en": "the and you i to a my me it in of that is on your for with we be this all don't what no like up so",
}
"""Frequent little words of each language."""
_TELLING = {
    "es": "el los las una por para yo y pero más como con del",
    "fr": "le les des une et je nous vous pas dans sur pour est qui mais c'est j'ai",
    "en": "the and you my it of that your with this what",
}
"""Those among them that the other languages do not have; they count thrice."""

# Longest first; a look-ahead is written after the letters as (?=...).
_SPANISH = [
    ("cch", "K CH"), ("ch", "CH"), ("ll", "Y"), ("rr", "R"), ("qu", "K"), ("gue", "G EY"), ("gui", "G IY"), ("güe", "G W EY"), ("güi", "G W IY"),
    ("ce", "S EY"), ("ci(?=[aeou])", "S Y"), ("ci", "S IY"), ("ge", "HH EY"), ("gi", "HH IY"), ("hu(?=[aeiou])", "W"), ("h", ""),
    ("ai", "AY"), ("ay", "AY"), ("au", "AW"), ("ei", "EY"), ("ey", "EY"), ("oi", "OY"), ("oy", "OY"), ("eu", "EY W"),
    ("i(?=[aeou])", "Y"), ("u(?=[aeio])", "W"), ("y(?=[aeiou])", "Y"), ("y", "IY"),
    ("a", "AA"), ("e", "EH"), ("i", "IY"), ("o", "OW"), ("u", "UW"), ("b", "B"), ("c", "K"), ("d", "D"), ("f", "F"), ("g", "G"), ("j", "HH"),
    ("k", "K"), ("l", "L"), ("m", "M"), ("n", "N"), ("ñ", "N Y"), ("p", "P"), ("q", "K"), ("r", "R"), ("s", "S"), ("t", "T"), ("v", "B"), ("w", "W"),
    ("x", "K S"), ("z", "S"),
]  # fmt: skip
_V = "aeiouyâàéèêëîïôöûùü"
_FRENCH = [
    ("eaux$", "OW"), ("eau", "OW"), ("aux$", "OW"), ("au", "OW"), ("ouill", "UW Y"), ("eill", "EY Y"), ("euill", "UH Y"), ("aill", "AA Y"),
    ("ille", "IY Y"), ("oin(?![aeiouyé])", "W AE N"), ("oi", "W AA"), ("oî", "W AA"), ("oy", "W AA Y"), ("ou", "UW"), ("où", "UW"), ("oû", "UW"),
    ("ain(?![aeiouyé])", "AE N"), ("aim(?![aeiouyé])", "AE M"), ("ein(?![aeiouyé])", "AE N"), ("ien(?![aeiouyén])", "Y AE N"),
    ("^est$", "EH"), ("ent$", "?"), ("en(?![aeiouyén])", "AA N"), ("em(?![aeiouyém])", "AA M"), ("an(?![aeiouyén])", "AA N"), ("am(?![aeiouyém])", "AA M"),
    ("in(?![aeiouyén])", "AE N"), ("im(?![aeiouyém])", "AE M"), ("on(?![aeiouyén])", "AO N"), ("om(?![aeiouyém])", "AO M"),
    ("un(?![aeiouyén])", "AH N"), ("ais$", "EH"), ("ait$", "EH"), ("aient$", "EH"), ("ai$", "EY"), ("ai", "EH"), ("aî", "EH"), ("ei", "EH"),
    ("eux$", "UH"), ("eu", "UH"), ("œu", "UH"), ("oeu", "UH"), ("er$", "EY"), ("ez$", "EY"), ("et$", "EH"), ("es$", "?"), ("e$", "?"),
    ("ch", "SH"), ("ph", "F"), ("th", "T"), ("gn", "N Y"), ("qu", "K"), ("gu(?=[eiéèêy])", "G"), ("ge(?=[aou])", "ZH"), ("g(?=[eiéèêy])", "ZH"),
    ("c(?=[eiéèêy])", "S"), ("ç", "S"), ("sc(?=[ei])", "S"), ("ss", "S"), (f"(?<=[{_V}])s(?=[{_V}])", "Z"), ("tion", "S Y AO N"),
    ("(?<=[a-zéèêà])[sxtdzp]+$", ""), ("h", ""), ("ll", "L"), ("mm", "M"), ("nn", "N"), ("rr", "R"), ("tt", "T"), ("pp", "P"), ("ff", "F"), ("cc", "K"),
    ("bb", "B"), ("dd", "D"),
    ("i(?=[aeouéè])", "Y"), ("u(?=[i])", "W"), ("y(?=[aeiou])", "Y"),
    ("a", "AA"), ("à", "AA"), ("â", "AA"), ("é", "EY"), ("è", "EH"), ("ê", "EH"), ("ë", "EH"), ("e", "AH"), ("i", "IY"), ("î", "IY"), ("ï", "IY"),
    ("o", "AO"), ("ô", "OW"), ("u", "IY|UW|Y"), ("û", "IY|UW|Y"), ("ù", "IY|UW|Y"), ("ü", "IY|UW|Y"), ("y", "IY"), ("œ", "UH"), ("b", "B"), ("c", "K"), ("d", "D"),
    ("f", "F"), ("g", "G"), ("j", "ZH"), ("k", "K"), ("l", "L"), ("m", "M"), ("n", "N"), ("p", "P"), ("q", "K"), ("r", "R"), ("s", "S"), ("t", "T"),
    ("v", "V"), ("w", "W"), ("x", "K S"), ("z", "Z"),
]  # fmt: skip


def guess_language(text: str) -> str:
    """ "en", "es" or "fr", by the little words; "en" when nothing speaks for another."""
    words = re.findall(r"[\w']+", unicodedata.normalize("NFC", text).lower())
    if not words:
        return "en"
    scores = {
        language: sum(w in _MARKS[language].split() for w in words) + 2 * sum(w in told.split() for w in words)
        for language, told in _TELLING.items()
    }
    best = max(scores, key=lambda language: scores[language])
    told = any(w in _TELLING[best].split() for w in words)
    return best if told and scores[best] > 1.2 * scores["en"] + 1 else "en"


_NEAR = {
    "es": {
        "AA": "AA|AH|AE", "EH": "EH|EY|AE", "IY": "IY|IH", "OW": "OW|AO", "UW": "UW|UH", "R": "R|D|L|T", "HH": "HH|K|G", "Y": "Y|JH|ZH|IY",
        "B": "B|V|W", "D": "D|DH", "G": "G|W|HH", "S": "S|TH|Z",
    },
    "fr": {
        "AA": "AA|AE|AH", "EH": "EH|AE", "EY": "EY|IH|EH", "IY": "IY|IH", "OW": "OW|AO|UH", "AO": "AO|OW|AA", "UW": "UW|UH", "UH": "UH|AH|ER",
        "AH": "AH|UH|ER", "R": "R|HH|K|G", "AE": "AE|EH|AH",
    },
}  # fmt: skip
"""Phones that the vowels and consonants of a language may be heard as."""


def spell(word: str, rules: list[tuple[re.Pattern[str], tuple[str, ...]]]) -> tuple[str, ...]:
    """Phones of a word by the first rule that fits at each place; letters without a rule are passed over."""
    word = re.sub(r"[^\w]", "", word)
    phones: list[str] = []
    at = 0
    while at < len(word):
        for pattern, sounds in rules:
            match = pattern.match(word, at)
            if match and match.end() > at:
                phones += sounds
                at = match.end()
                break
        else:
            at += 1
    if phones and phones[-1] == "?":  # a last e is sung only where it is the only vowel
        phones[-1:] = [] if any(p in VOWELS for p in phones) else ["AH"]
    return tuple(p for p in phones if p != "?")


def pronouncer_for(text: str) -> Callable[[str], tuple[str, ...]]:
    """How the words of lyrics that read `text` are pronounced: word -> sounds (phones, or several as "B|V"), () when nothing of it is sung."""
    english = load_text("phones").pronounce
    language = guess_language(text)
    rules = _RULES.get(language)
    if rules is None:
        return english

    def pronounce(word: str) -> tuple[str, ...]:
        plain = unicodedata.normalize("NFC", word).lower()
        if any(c.isdigit() for c in plain):
            return english(word)
        if language == "es":
            plain = "".join(c if c in "ñü" else unicodedata.normalize("NFD", c)[0] for c in plain)
        near = _NEAR[language]
        return tuple(near.get(phone, phone) for phone in spell(plain, rules)) or english(word)

    return pronounce


_RULES = {
    language: [(re.compile(pattern), tuple(sounds.split())) for pattern, sounds in table]
    for language, table in (("es", _SPANISH), ("fr", _FRENCH))
}
