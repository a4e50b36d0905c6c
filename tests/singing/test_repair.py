"""Wrong words sung again: what is masked, what stays, what is kept; and the same by the models of a song."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tasks.sm2a_parallel
from autosing.errors import ConfigError
from autosing.models.io import load_model, save_model
from autosing.models.t2s import SIZES, Size
from autosing.singing.codes import check_settings
from autosing.singing.pipeline import Singer
from autosing.singing.repair import Version, repair, word_frames
from autosing.singing.request import SingRequest
from autosing.singing.score import HeardPhone, Score, Take, word_edits
from autosing.song.alignment import Alignment, Word
from autosing.tokens.specs import CodecSpec
from autosing.tokens.text import load_text
from autosing.training.task import DatasetMeta

SPEC = CodecSpec("toy", 800, 10, (8, 4, 2, 1), 16, 8)  # 80 frames a second
FRAMES = 240
WORDS = [Word(text, start, start + 0.2, 1.0, 0) for text, start in (("a", 0.3), ("b", 1.1), ("c", 1.9), ("d", 2.4))]
PHONES = {"a": 1, "b": 2, "c": 3, "d": 4}


def spoken(codes: torch.Tensor) -> Version:
    """A song whose code on the finest level, in the middle of a word, is the phone that is heard there."""
    said = [int(codes[3, int((word.start + 0.1) * 80)]) for word in WORDS]
    phones = tuple(HeardPhone(str(phone), word.start) for phone, word in zip(said, WORDS, strict=True))
    wrong = sum(PHONES[word.text] != phone for word, phone in zip(WORDS, said, strict=True))
    return Version(codes, torch.zeros(0), Take(Alignment(tuple(WORDS)), phones, Score(wrong / 4, 1.0)))


def each(hear: Callable[[torch.Tensor], Version]) -> Callable[[torch.Tensor], list[Version]]:
    return lambda several: [hear(codes) for codes in several]


def song(*said: int) -> Version:
    codes = torch.full((4, FRAMES), SPEC.HOLE)
    for level, stride in enumerate(SPEC.strides):
        codes[level, ::stride] = 0
    for word, phone in zip(WORDS, said, strict=True):
        codes[3, int(word.start * 80) : int(word.end * 80)] = phone
    return spoken(codes)


class Singing:
    """Fills holes with what it is told to say next, in so many `ways` at once; keeps the templates."""

    def __init__(self, *songs: Version, ways: int = 1):
        self.songs, self.ways, self.templates = list(songs), ways, []

    def __call__(self, template: torch.Tensor) -> torch.Tensor:
        self.templates.append(template[0])
        return torch.cat([torch.where(template < 0, self.songs.pop(0).codes, template) for _ in range(self.ways)])


def mend(version: Version, sing: Singing, rounds: int, first: int = 0) -> tuple[Version, list[dict]]:
    return repair(version, rounds=rounds, spec=SPEC, sing=sing, listen=each(spoken), pronounce=lambda word: [str(PHONES[word])], first=first)


def test_only_wrong_words_are_masked_and_the_better_ones_kept() -> None:
    before, sing = song(1, 9, 3, 9), Singing(song(7, 2, 7, 8))
    after, told = mend(before, sing, 1)
    (template,) = sing.templates
    hole = (template < 0) & (before.codes >= 0)
    frames = hole.any(0).nonzero()[:, 0].tolist()
    assert set(frames) <= {*range(80, 112), *range(184, 216)} and hole[0].sum() == 8  # words b and d in whole blocks, all levels
    assert torch.equal(template[~hole], before.codes[~hole])
    assert [p.phone for p in after.take.phones] == ["1", "2", "3", "9"]  # of d, no better than before, the old codes are there
    assert told == [{"wrong": 2, "better": 1, "kept": True, "phone_error": 0.25}]


def test_what_is_no_better_is_not_kept() -> None:
    before = song(1, 9, 3, 9)
    after, told = mend(before, Singing(song(7, 8, 7, 8), song(7, 8, 7, 8)), 2)
    assert after is before and [entry["better"] for entry in told] == [0, 0]


def test_each_word_is_taken_from_the_way_in_which_it_is_sung_best() -> None:
    before, sing = song(9, 9, 3, 9), Singing(song(1, 8, 7, 8), song(7, 8, 7, 4), song(8, 2, 8, 8), ways=3)
    after, told = mend(before, sing, 1)
    assert [p.phone for p in after.take.phones] == ["1", "2", "3", "4"]
    assert told == [{"wrong": 3, "better": 3, "kept": True, "phone_error": 0.0}]


def test_of_equally_right_words_the_surer_is_kept_and_doubtful_ones_are_sung_again() -> None:
    """Word b is right, but nobody is sure of it; the second way sings it as rightly and more surely."""

    def heard(codes: torch.Tensor) -> Version:
        version = spoken(codes)
        sure = float(codes[2, 92]) / 10  # what another level says in its middle
        words = [word._replace(score=sure) if word.text == "b" else word for word in WORDS]
        return version._replace(take=version.take._replace(words=Alignment(tuple(words)), score=Score(version.take.score.phone_error, sure)))

    def sung(sure: int) -> torch.Tensor:
        codes = song(1, 2, 3, 4).codes
        codes[2, 80:112] = sure
        return codes

    sing = lambda template: torch.cat([torch.where(template < 0, sung(sure), template) for sure in (3, 8)])  # noqa: E731
    mend = lambda sure: repair(heard(sung(sure)), rounds=1, spec=SPEC, sing=sing, listen=each(heard), pronounce=lambda word: [str(PHONES[word])])  # noqa: E731
    after, told = mend(4)
    assert int(after.codes[2, 92]) == 8 and told == [{"wrong": 1, "better": 1, "kept": True, "phone_error": 0.0}]
    assert mend(6)[1] == []  # sure enough


def test_a_way_in_which_no_word_is_found_is_passed_over() -> None:
    def deaf(codes: torch.Tensor) -> Version:
        version = spoken(codes)
        return version if int(codes[3, 92]) == 2 else version._replace(take=Take(Alignment(()), (), Score(1.0, None)))

    sing = Singing(song(7, 8, 7, 8), song(7, 2, 7, 8), ways=2)
    after, _ = repair(song(1, 9, 3, 4), rounds=1, spec=SPEC, sing=sing, listen=each(deaf), pronounce=lambda word: [str(PHONES[word])])
    assert after.take.score.phone_error == 0.0


def test_rounds_go_on_with_the_better_song_and_end_when_no_word_is_wrong() -> None:
    sing = Singing(song(7, 2, 7, 8), song(7, 7, 7, 4), song(7, 7, 7, 7))
    after, told = mend(song(1, 9, 3, 9), sing, 3)
    assert [entry["wrong"] for entry in told] == [2, 1] and after.take.score.phone_error == 0
    assert int(sing.templates[1][3, 92]) == 2  # the word that the first round mended is given to the second


def test_what_was_sung_before_stays() -> None:
    before, sing = song(9, 9, 3, 4), Singing(song(1, 2, 7, 7))
    after, _ = mend(before, sing, 1, first=88)
    assert torch.equal(sing.templates[0][:, :88], before.codes[:, :88]) and (sing.templates[0][:, 88:104] < 0).all()
    assert torch.equal(after.codes[:, :88], before.codes[:, :88])
    untouched, told = mend(song(9, 2, 3, 4), Singing(), 1, first=88)
    assert told == [] and untouched.take.score.phone_error == 0.25


def test_the_frames_of_a_word_are_whole_blocks_around_it() -> None:
    assert word_frames(Word("a", 1.0, 1.5, 1.0, 0), SPEC, 0, FRAMES) == slice(72, 128)
    assert word_frames(Word("a", 0.0, 5.0, 1.0, 0), SPEC, 16, FRAMES) == slice(16, FRAMES)


@pytest.fixture(scope="module")
def singer(tmp_path_factory: pytest.TempPathFactory) -> Singer:
    """The shipped models with an sm2a_parallel that nobody trained in place of sm2a."""
    folder: Path = tmp_path_factory.mktemp("models") / "parallel"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "micro", Size(1, 2))
        _, meta = load_model("builtin", "sm2a")
        args = tasks.sm2a_parallel.SM2AParallelArgs(size="micro", semantic_guidance=1.0)
        task = tasks.sm2a_parallel.TASK(args, tasks.sm2a_parallel.SM2AParallelTunables(), DatasetMeta.from_json(meta["dataset"]))
        torch.manual_seed(0)
        save_model(task.build_model(), folder, meta)
    return Singer(sm2a_model=str(folder))


def test_a_song_with_repair_differs_from_the_same_without_in_wrong_words_alone(singer: Singer) -> None:
    sing = lambda rounds: singer.sing(SingRequest("carry me along", tts=True, length_seconds=4.0, candidates=2, seed=1, repair=rounds))  # noqa: E731
    plain, mended = sing(0), sing(1)
    assert plain.report["repairs"] == [] and len(mended.report["repairs"]) == 1
    assert plain.report["chosen"] == mended.report["chosen"]
    chosen = plain.report["chosen"]
    assert mended.report["phone_errors"][chosen] <= plain.report["phone_errors"][chosen]
    assert plain.report["phone_errors"][1 - chosen] == mended.report["phone_errors"][1 - chosen]
    codec = singer.meta.codec
    assert codec is not None
    pronounce = load_text("phones").pronounce
    take = singer.listener.take(plain.vocals[0], plain.sample_rate, SingRequest("carry me along", tts=True).parsed, pronounce)
    allowed = torch.zeros(codec.frames(4.0), dtype=torch.bool)
    for word, wrong in zip(take.words.words, word_edits(take.words.words, take.phones, pronounce), strict=True):
        if wrong or word.score < 0.5:
            allowed[word_frames(word, codec, 0, len(allowed))] = True
    changed = (plain.tokens["codes"] != mended.tokens["codes"]).any(0)
    assert not (changed & ~allowed).any()
    assert bool(changed.any()) == mended.report["repairs"][0]["kept"]


def test_settings_are_checked_by_the_kind_of_model(singer: Singer) -> None:
    assert check_settings(singer.sm2a, 16, 3) == 3 and check_settings(singer.sm2a, None, None) == 2
    assert check_settings(load_model("builtin", "sm2a")[0], None, None) == 0
    with pytest.raises(ConfigError, match="--steps 3 is less than one pass"):
        check_settings(singer.sm2a, 3, 0)
    assert math.lcm(*singer.sm2a.config.codec.strides) == singer.sm2a.pattern.hop
