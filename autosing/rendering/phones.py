"""espeak-ng's IPA symbols -> ARPAbet without stress (39 phones).

One espeak symbol may stand for several phones (``əl`` -> AH L): each entry is a tuple of (phone, share of the symbol's duration), shares
adding to 1. Diphthongs are one phone. Covers the English voices of espeak-ng 1.52 that the renderer uses; an unknown symbol is an error,
never silently dropped. Sounds between two phones follow the CMU dictionary: the flap of "water" is T, the reduced vowel of "roses" is IH.
"""

from __future__ import annotations

import itertools

VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())  # noqa: SIM905
DIPHTHONGS = frozenset("AW AY EY OW OY".split())  # noqa: SIM905
STOPS = frozenset("P B T D K G CH JH".split())  # noqa: SIM905
VOICED_CONSONANTS = frozenset("B D DH G JH L M N NG R V W Y Z ZH".split())  # noqa: SIM905
SONORANTS = frozenset("L M N NG R W Y".split())  # noqa: SIM905

_SINGLE = """
p P, b B, t T, d D, k K, ɡ G, g G, f F, v V, θ TH, ð DH, s S, z Z, ʃ SH, ʒ ZH, h HH, tʃ CH, dʒ JH, m M, n N, ŋ NG, l L, ɫ L, ɹ R, r R, j Y, w W,
ʍ W, ɾ T, ʔ T, t̪ T, d̪ D, x K, ç HH, ɬ L,
iː IY, i IY, ɪ IH, ᵻ IH, ɨ IH, ɛ EH, e EH, eʲ EY, æ AE, a AE, aa AE, aː AA, ɑː AA, ɑ AA, ɒ AA, ɔː AO, ɔ AO, o AO, ʌ AH, ə AH, ɐ AH, ʊ UH, uː UW, u UW,
ʉ UW, ʉː UW, ɜː ER, ɜ ER, ɚ ER, ɝ ER, əɹ ER, ʌɹ ER, ɜːɹ ER, eɪ EY, eː EY, aɪ AY, ɔɪ OY, aʊ AW, ʌʉ AW, oʊ OW, əʊ OW, oː OW, əɪ ER
"""
_SHARED = {
    "əl": (("AH", 0.45), ("L", 0.55)), "n̩": (("AH", 0.3), ("N", 0.7)), "m̩": (("AH", 0.3), ("M", 0.7)),
    "aɪɚ": (("AY", 0.6), ("ER", 0.4)), "aɪə": (("AY", 0.6), ("AH", 0.4)), "aʊɚ": (("AW", 0.6), ("ER", 0.4)),
    "aɪʊ": (("AY", 0.6), ("UH", 0.4)), "iə": (("IY", 0.5), ("AH", 0.5)), "eə": (("EH", 0.6), ("AH", 0.4)),
    "ɛə": (("EH", 0.6), ("AH", 0.4)), "ʊə": (("UH", 0.6), ("AH", 0.4)), "ɔə": (("AO", 0.6), ("AH", 0.4)),
    "oə": (("AO", 0.6), ("AH", 0.4)), "ɑə": (("AA", 0.6), ("AH", 0.4)), "ɔːɹ": (("AO", 0.6), ("R", 0.4)),
    "oːɹ": (("AO", 0.6), ("R", 0.4)), "ɑːɹ": (("AA", 0.6), ("R", 0.4)), "ɛɹ": (("EH", 0.6), ("R", 0.4)),
    "ɪɹ": (("IH", 0.6), ("R", 0.4)), "ʊɹ": (("UH", 0.6), ("R", 0.4)), "ʉɹ": (("UW", 0.6), ("R", 0.4)),
    "ks": (("K", 0.5), ("S", 0.5)), "juː": (("Y", 0.3), ("UW", 0.7)),
}  # fmt: skip
TABLE: dict[str, tuple[tuple[str, float], ...]] = {
    **{symbol: ((phone, 1.0),) for symbol, phone in (entry.split() for entry in _SINGLE.split(","))},
    **_SHARED,
}
_STRESS = str.maketrans("", "", "ˈˌ'̃͡| \u200d")


class UnknownSymbol(KeyError):
    """An espeak symbol that the table lacks; the message names it."""


def bare(symbol: str) -> str:
    """The symbol without stress, tie and space marks; ASCII colons become length marks. Empty for silences."""
    symbol = symbol.translate(_STRESS).replace(":", "ː")
    return "" if symbol.startswith(("_", "(")) else symbol


def to_arpabet(symbol: str) -> tuple[tuple[str, float], ...]:
    """Phones of one espeak IPA symbol with the share of its duration each takes; () for silences and marks.

    Raises:
        UnknownSymbol: the table has no such symbol.
    """
    symbol = bare(symbol)
    if not symbol:
        return ()
    found = TABLE.get(symbol) or TABLE.get(symbol.replace("ː", ""))
    if found is None:
        raise UnknownSymbol(symbol)
    return found


def syllables(phones: list[str] | tuple[str, ...]) -> list[range]:
    """Index ranges of the syllables of a word, one per vowel; consonants between vowels go to the next one, two or more are split.

    A word without a vowel is one syllable ("hmm").
    """
    nuclei = [index for index, phone in enumerate(phones) if phone in VOWELS]
    if not nuclei:
        return [range(len(phones))]
    cuts = [0]
    for left, right in itertools.pairwise(nuclei):
        between = right - left - 1
        cuts.append(right if between == 0 else left + 1 if between == 1 else left + 2)
    cuts.append(len(phones))
    return [range(a, b) for a, b in itertools.pairwise(cuts)]
