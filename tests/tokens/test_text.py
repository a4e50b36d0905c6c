"""Text front ends: what is sung from what is written, and token times from aligned words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autosing.errors import ConfigError
from autosing.song.alignment import Alignment, Token, Word
from autosing.tokens.pronounce import load_lexicon, number_words, ordinal_words, spoken_words
from autosing.tokens.text import LINE, PAD, PAUSE, PHONES, SPECIAL, UNKNOWN, load_text, spread_phones

FRONT_ENDS = ("phones", "characters")


def words(*timed: tuple[str, float, float], line: int = 0) -> Alignment:
    return Alignment(tuple(Word(text, start, end, 1.0, line) for text, start, end in timed))


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_vocabulary_starts_with_the_special_tokens(name: str) -> None:
    text = load_text(name)
    assert text.name == name and text.symbols[:4] == SPECIAL
    assert (PAD, LINE, PAUSE, UNKNOWN) == (0, 1, 2, 3)
    assert text.vocab_size == len(text.symbols) == len(set(text.symbols))


def test_ids_of_phones_are_stable() -> None:
    assert load_text("phones").symbols[4:] == PHONES
    assert load_text("characters").symbols[4:7] == ("a", "b", "c") and load_text("characters").vocab_size == 4 + 37 + 128


def test_an_unknown_front_end_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'phones'"):
        load_text("phonemes")


@pytest.mark.parametrize(
    ("written", "phones"),
    [
        ("Love", "L AH V"),
        ("LOVE,", "L AH V"),
        ("don’t", "D OW N T"),
        ("singin'", "S IH NG IH N"),
        ("ev'ry", "EH V R IY"),
        ("sooooo", "S OW"),
        ("Yeeeah!", "Y EH"),
        ("heart's", "HH AA R T S"),
        ("kiss's", "K IH S IH Z"),
        ("(oh)", "OW"),
        ("TV", "T IY V IY"),
        ("self-control", "S EH L F K AH N T R OW L"),
        ("2", "T UW"),
        ("&", "AE N D"),
        ("\u0663", "TH R IY"),
        ("...", ""),
        ("—", ""),
        ("'", ""),
        ("", ""),
        ("愛", "<unknown>"),
    ],
)
def test_written_forms_are_pronounced(written: str, phones: str) -> None:
    assert " ".join(load_text("phones").pronounce(written)) == phones


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("U2", "u two"),
        ("24/7", "twenty four seven"),
        ("1,000,000", "one million"),
        ("80s", "eighty's"),
        ("the '90s", "the ninety's"),
        ("$5 or 10 €", "five dollars or ten euros"),
        ("1000m", "one thousand m"),
        ("007", "zero zero seven"),
        ("8675309", "eight six seven five three zero nine"),
        ("21st", "twenty first"),
        ("50%", "fifty percent"),
        ("Café", "cafe"),
        ("cafe\u0301", "cafe"),
        ("straße", "strasse"),
        ("любовь", "lyubov"),
        ("ά", "a"),
        ("がんばって", "ganbatute"),
        ("사랑", "sarang"),
        ("snake_case", "snake case"),
        ("Ｆｕｌｌ", "full"),
    ],
)
def test_numbers_accents_and_scripts_become_plain_words(written: str, spoken: str) -> None:
    assert " ".join(spoken_words(written)) == spoken


def test_numbers_in_words() -> None:
    said = {0: "zero", 17: "seventeen", 42: "forty two", 100: "one hundred", 110: "one hundred ten", 1905: "nineteen oh five"}
    said |= {
        1200: "twelve hundred",
        1984: "nineteen eighty four",
        2005: "two thousand five",
        9999: "nine thousand nine hundred ninety nine",
    }
    assert {number: " ".join(number_words(number)) for number in said} == said
    assert [ordinal_words(n)[-1] for n in (1, 2, 3, 4, 12, 20, 23)] == [
        "first",
        "second",
        "third",
        "fourth",
        "twelfth",
        "twentieth",
        "third",
    ]
    assert all(word in load_lexicon() for number in range(10_000) for word in number_words(number))


def test_common_words_come_from_the_lexicon() -> None:
    lexicon = load_lexicon()
    assert len(lexicon) > 25_000 and all(set(phones) <= set(PHONES) and phones for phones in lexicon.values())
    assert load_text("phones").pronounce("Yesterday") == lexicon["yesterday"]


@pytest.mark.parametrize(
    ("word", "sound"), [("blorfing", "B L AO R F IH NG"), ("skrattle", "S K R AE T AH L"), ("zimbo", "Z IH M B OW")]
)
def test_words_outside_the_lexicon_are_read_from_their_letters(word: str, sound: str) -> None:
    from autosing.tokens.edits import edit_distance

    assert word not in load_lexicon()
    assert edit_distance(sound.split(), load_text("phones").pronounce(word)) <= 1


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40))
def test_no_text_is_refused(text: str) -> None:
    for name in FRONT_ENDS:
        front = load_text(name)
        symbols = front.pronounce(text)
        assert set(symbols) <= set(front.symbols[3:])
        timed = front.ids_for(text.split("\n"))
        assert len(timed.ids) == len(timed.starts) == len(timed.ends)
        assert (timed.ids == LINE).sum() == text.count("\n")
        assert timed.ids.dtype == np.int64 and PAD not in timed.ids


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(categories=("Lu", "Ll", "Lo")), min_size=1, max_size=8))
def test_every_word_with_a_letter_has_a_token(word: str) -> None:
    for name in FRONT_ENDS:
        assert load_text(name).pronounce(word), name


def test_lines_are_words_pauses_and_breaks() -> None:
    text = load_text("phones")
    timed = text.ids_for(["Oh, I", "", "- no"])
    assert [text.symbols[i] for i in timed.ids] == ["OW", "<pause>", "AY", "<pause>", "<line>", "<line>", "N", "OW", "<pause>"]
    assert np.isnan(timed.starts).all() and np.isnan(timed.ends).all()


def test_characters_of_other_scripts_are_bytes_that_decode() -> None:
    symbols = load_text("characters").pronounce("Né愛'!")
    data = b"".join(bytes([int(s[1:3], 16)]) if s.startswith("<") else s.encode() for s in symbols)
    assert data.decode() == "né愛'"


def test_token_times_of_an_aligner_are_kept() -> None:
    alignment = Alignment(
        (Word("no", 1.0, 2.0, 1.0, 0),), (Token("N", 1.0, 1.25, 1.0, 0), Token("OW", 1.25, 2.0, 1.0, 0))
    )  # fmt: skip
    timed = load_text("phones").from_alignment(alignment)
    assert timed.starts.tolist() == [1.0, 1.25, 2.0] and timed.ends.tolist() == [1.25, 2.0, 2.0]
    letters = load_text("characters").from_alignment(alignment)
    assert letters.starts.tolist() == [1.0, 1.5, 2.0]


def test_tokens_that_are_no_phones_are_not_taken_for_phones() -> None:
    alignment = Alignment((Word("no", 1.0, 2.0, 1.0, 0),), (Token("n", 1.0, 1.5, 1.0, 0), Token("o", 1.5, 2.0, 1.0, 0)))
    assert [load_text("phones").symbols[i] for i in load_text("phones").from_alignment(alignment).ids] == ["N", "OW", "<pause>"]


def test_pauses_cover_the_gaps() -> None:
    timed = load_text("phones").from_alignment(words(("oh", 0.5, 1.0), ("!", 1.1, 1.2), ("I", 2.0, 3.0), ("a", 2.9, 3.5)))
    pause = timed.ids == PAUSE
    assert list(zip(timed.starts[pause], timed.ends[pause], strict=True)) == [(1.0, 2.0), (3.0, 3.0), (3.5, 3.5)]


@pytest.mark.parametrize(
    ("split", "place", "span"),
    [(15.0, 4, (15.0, 16.0)), (0.5, 0, (0.5, 1.0)), (2.6, 2, (2.5, 2.5)), (17.5, 6, (17.5, 17.5)), (15.99, 4, (15.99, 16.0))],
)
def test_one_break_where_the_halves_meet(split: float, place: int, span: tuple[float, float]) -> None:
    timed = load_text("phones").from_alignment(words(("oh", 1.0, 2.0), ("I", 2.5, 3.0), ("a", 16.0, 17.0)), split)
    assert np.flatnonzero(timed.ids == LINE).tolist() == [place]
    assert (timed.starts[place], timed.ends[place]) == span
    assert (np.diff(timed.starts) >= 0).all() and (timed.ends >= timed.starts).all()


def test_no_words_still_have_their_break() -> None:
    for name in FRONT_ENDS:
        assert load_text(name).from_alignment(Alignment(()), 15.0).ids.tolist() == [LINE]
        assert len(load_text(name).from_alignment(Alignment(()))) == 0


@pytest.mark.parametrize("length", [0.0, 0.1, 0.3, 2.0])
def test_a_long_note_is_held_on_its_vowel(length: float) -> None:
    edges = spread_phones(("S", "T", "AA", "R"), 1.0, 1.0 + length)
    assert edges[0] == 1.0 and edges[-1] == pytest.approx(1.0 + length) and (np.diff(edges) >= 0).all()
    if length == 2.0:
        assert np.diff(edges)[2] > 1.5


def test_numpy_and_torch_read_letters_alike() -> None:
    import torch

    from autosing.models.io import load_model
    from autosing.tokens.pronounce import LETTERS, load_letters_to_phones
    from autosing.weights import weights_folder

    model, _ = load_model("builtin", "g2p")
    small = load_letters_to_phones(weights_folder("g2p"))
    for word in ("a", "skrattle", "o'er", "antidisestablishmentarianism"):
        letters = np.array([LETTERS.index(c) + 1 for c in word])
        with torch.no_grad():
            np.testing.assert_allclose(small.scores(letters), model(torch.from_numpy(letters)[None])[0], atol=1e-3)
