"""How a take is heard: words and phones by one pass of the recogniser, the same as by two; which words are wrong."""

from itertools import groupby

import pytest
import torch

from autosing.models.io import load_model
from autosing.models.recogniser import BLANK, CLASSES, SILENCE, Recogniser
from autosing.perception import load_aligner, load_codec
from autosing.singing.score import HeardPhone, Listener, Score, Take, phone_error, phones_right, word_edits, word_score
from autosing.song.alignment import Alignment, Word
from autosing.song.lyrics import Line, Lyrics
from autosing.tokens.text import load_text

RATE = 24000
LYRICS = Lyrics((Line("sing the morning song"), Line("carry me along")))
PRONOUNCE = load_text("phones").pronounce


def takes() -> torch.Tensor:
    """(3, n) of codes drawn by chance: no words, but phones are heard in them."""
    codec, generator = load_codec("builtin"), torch.Generator().manual_seed(0)
    codes = torch.full((3, codec.spec.levels, codec.spec.frames(5.0)), codec.spec.HOLE)
    for level, stride in enumerate(codec.spec.strides):
        drawn = codes[:, level, ::stride]
        drawn.copy_(torch.randint(0, codec.spec.num_codes, drawn.shape, generator=generator))
    with torch.inference_mode():
        return codec.decode(codes)[:, 0]


def test_one_pass_chooses_what_two_passes_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    aligner = load_aligner("builtin", adapt_steps=0)
    passes: list[int] = []
    trunk = Recogniser.trunk
    monkeypatch.setattr(Recogniser, "trunk", lambda self, spectra: (passes.append(1), trunk(self, spectra))[1])
    found = [Listener(aligner).take(wav, RATE, LYRICS, PRONOUNCE) for wav in takes()]
    assert len(passes) == 3
    apart, _ = load_model("builtin", "recogniser")
    for take, wav in zip(found, takes(), strict=True):
        with torch.inference_mode():
            path = apart(wav[None]).ctc[0].argmax(-1).tolist()
        phones = [CLASSES[c] for c, _ in groupby(path) if c not in (BLANK, SILENCE)]
        words = aligner.align(wav, LYRICS)
        error = phone_error(phones, [line.text for line in LYRICS.lines], PRONOUNCE)
        assert error is not None and [phone for phone, _ in take.phones] == phones and len(phones) > 3
        assert take.words == words and len(phones_right(take, PRONOUNCE)) == len(words.words) and take.score == Score(round(error, 4), word_score(words))


def test_another_aligner_finds_the_words_and_the_phones_are_heard_all_the_same() -> None:
    class Elsewhere:
        name, sample_rate = "elsewhere", 16000

        def align(self, wav: torch.Tensor, lyrics: Lyrics) -> Alignment:
            return Alignment((Word("la", 0.0, len(wav) / 16000, 0.7, 0),))

        def activity(self, wav: torch.Tensor) -> torch.Tensor:
            return torch.zeros(0)

    wav = takes()[0]
    own, other = (Listener(aligner).take(wav, RATE, LYRICS, PRONOUNCE) for aligner in (load_aligner("builtin", adapt_steps=0), Elsewhere()))
    assert [word.text for word in other.words.words] == ["la"] and other.phones == own.phones
    assert Listener(Elsewhere()).take(wav[:100], RATE, LYRICS, PRONOUNCE).phones == ()


def test_an_aligner_that_gets_used_to_the_words_finds_them_itself() -> None:
    aligner, wav = load_aligner("builtin", adapt_steps=1), takes()[0]
    found = Listener(aligner).take(wav, RATE, LYRICS, PRONOUNCE)
    assert found.words == aligner.align(wav, LYRICS) != Listener(load_aligner("builtin", adapt_steps=0)).take(wav, RATE, LYRICS, PRONOUNCE).words


@pytest.mark.parametrize(
    ("heard", "edits"),
    [
        ("S IH NG M AO N", [0, 0]),
        ("S IH NG M UW N", [0, 1]),
        ("S NG M AO N", [1, 0]),
        ("", [3, 3]),
        ("T S IH NG M AO N", [1, 0]),
        ("S IH NG M AO N T T", [0, 2]),
    ],
)
def test_edits_fall_on_the_words_that_are_wrong(heard: str, edits: list[int]) -> None:
    sounds = {"sing": ["S", "IH", "NG"], "morn": ["M", "AO", "N"]}
    words = [Word("sing", 0.0, 0.5, 1.0, 0), Word("...", 0.5, 0.5, 0.0, 0), Word("morn", 0.5, 1.0, 1.0, 0)]
    phones = [HeardPhone(phone, 0.1 * number) for number, phone in enumerate(heard.split())]
    found = word_edits(words, phones, lambda word: sounds.get(word, []))
    assert [found[0], found[2]] == edits and found[1] == 0
    error = phone_error([phone for phone, _ in phones], ["sing morn"], sounds.__getitem__)
    assert error is not None and sum(found) == pytest.approx(6 * error)


def test_a_phone_too_many_is_of_the_word_in_whose_time_it_is() -> None:
    words = [Word("a", 0.0, 0.5, 1.0, 0), Word("b", 0.5, 1.0, 1.0, 0)]
    heard = lambda at: [HeardPhone("A", 0.1), HeardPhone("X", at), HeardPhone("B", 0.8)]  # noqa: E731
    assert word_edits(words, heard(0.4), lambda word: [word.upper()]) == [1, 0]
    assert word_edits(words, heard(0.6), lambda word: [word.upper()]) == [0, 1]
    assert word_edits([], heard(0.6), lambda word: [word]) == []


def test_the_share_of_right_phones_is_each_words_own() -> None:
    words = Alignment((Word("ab", 0.0, 0.5, 0.99, 0), Word("cd", 0.5, 1.0, 0.99, 0)))
    heard = lambda letters: Take(words, tuple(HeardPhone(p, 0.3 * i) for i, p in enumerate(letters)), Score(None, None))  # noqa: E731
    shares = {letters: phones_right(heard(letters), list) for letters in ("abcd", "axcd", "cd", "")}
    assert shares == {"abcd": [1.0, 1.0], "axcd": [0.5, 1.0], "cd": [0.0, 1.0], "": [0.0, 0.0]}
