"""The map from espeak's symbols to ARPAbet."""

import pytest

from autosing.rendering.phones import DIPHTHONGS, STOPS, TABLE, VOWELS, UnknownSymbol, syllables, to_arpabet
from autosing.tokens.text import PHONES


def test_every_entry_is_in_the_inventory_and_shares_add_up():
    for symbol, parts in TABLE.items():
        assert all(phone in PHONES for phone, _ in parts), symbol
        assert sum(share for _, share in parts) == pytest.approx(1), symbol
    assert {phone for parts in TABLE.values() for phone, _ in parts} == set(PHONES)
    assert set(PHONES) >= VOWELS | STOPS | DIPHTHONGS


@pytest.mark.parametrize(
    ("symbol", "phones"),
    [("ˈeɪ", ["EY"]), ("əl", ["AH", "L"]), ("ˈɔːɹ", ["AO", "R"]), ("aɪɚ", ["AY", "ER"]), ("dʒ", ["JH"]), ("", []), ("ˈa:", ["AA"])],
)
def test_symbols(symbol, phones):
    assert [phone for phone, _ in to_arpabet(symbol)] == phones


def test_unknown_symbol_is_named():
    with pytest.raises(UnknownSymbol, match="ʘ"):
        to_arpabet("ʘ")


@pytest.mark.parametrize(
    ("word", "parts"),
    [("HH AE P IY", ["HH AE", "P IY"]), ("W IH N D OW", ["W IH N", "D OW"]), ("F AY ER", ["F AY", "ER"]), ("S T R EH NG TH", ["S T R EH NG TH"]),
     ("HH M", ["HH M"])],
)  # fmt: skip
def test_syllables(word, parts):
    phones = word.split()
    assert [" ".join(phones[i] for i in part) for part in syllables(phones)] == parts
