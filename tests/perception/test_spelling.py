"""Guessing the language of lyrics, and Spanish and French spelling as sounds."""

import pytest

from autosing.perception.alignment.spelling import guess_language, pronouncer_for

SPANISH = "yo te quiero y no me voy\nporque el cielo es para los dos"
FRENCH = "je chante dans la nuit\net les étoiles sont pour nous"
ENGLISH = "I sing in the night\nand all the stars are for you"


@pytest.mark.parametrize(("text", "language"), [(SPANISH, "es"), (FRENCH, "fr"), (ENGLISH, "en"), ("", "en"), ("la la la", "en")])
def test_the_little_words_tell(text, language):
    assert guess_language(text) == language


@pytest.mark.parametrize(
    ("text", "word", "phones"),
    [
        (SPANISH, "corazón", "K OW R AA S OW N"),
        (SPANISH, "llorar,", "Y OW R AA R"),
        (SPANISH, "guitarra", "G IY T AA R AA"),
        (SPANISH, "hoy", "OY"),
        (FRENCH, "chante", "SH AA N T"),
        (FRENCH, "beaucoup", "B OW K UW"),
        (FRENCH, "est", "EH"),
        (FRENCH, "j'ai", "ZH EY"),
        (ENGLISH, "night", "N AY T"),
    ],
)
def test_words_as_sounds(text, word, phones):
    heard = [sound.split("|")[0] for sound in pronouncer_for(text)(word)]
    assert heard == phones.split()


def test_every_letter_gives_known_phones():
    from autosing.models.recogniser import CLASS_OF

    for text in (SPANISH, FRENCH):
        pronounce = pronouncer_for(text)
        for word in (text + " où ça gêné noël œuvre àâäç ñandú pingüino 42 l'été").split():
            assert all(phone in CLASS_OF for sound in pronounce(word) for phone in sound.split("|")), word


def test_punctuation_is_not_sung():
    for text in (SPANISH, FRENCH, ENGLISH):
        assert pronouncer_for(text)("--") == ()
