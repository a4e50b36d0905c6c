"""The builtin aligner: its answers and refusals on made-up posteriors, and with the shipped weights on a real song."""

import numpy as np
import pytest
import torch

from autosing.errors import AlignmentError
from autosing.evaluation.known_songs import real_songs
from autosing.evaluation.ranking import auc
from autosing.evaluation.timing import errors, even_spread, judge_lines
from autosing.models.io import save_model
from autosing.models.recogniser import CLASS_OF, CLASSES, SIZES, Recogniser
from autosing.perception.alignment import confidence
from autosing.perception.alignment.builtin import BuiltinAligner, Heard, line_trust, read_lines
from autosing.song.lyrics import Line, Lyrics, parse_lrc, parse_raw

LINES = ("hello bright world", "sing the quiet song", "over all the hills", "nobody knows my name", "walk along the shore")
LYRICS = parse_raw("\n".join(LINES))


@pytest.fixture(scope="module")
def aligner(tmp_path_factory) -> BuiltinAligner:
    """With a tiny untrained recogniser: for what does not depend on what was learnt."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("recogniser")
    save_model(Recogniser(SIZES["micro"]), folder, {})
    return BuiltinAligner(weights=folder)


def _sung(lyrics: Lyrics, frames_a_phone: int = 6, gap: int = 40) -> tuple[np.ndarray, list[float], list[float]]:
    """Posteriors of a recogniser that hears everything, the words' begins and the lines' begins."""
    classes: list[int] = [0] * gap
    starts, line_starts, line = [], [], -1
    for word in read_lines(lyrics).words:
        if word.line != line:
            line = word.line
            classes += [0] * gap
            line_starts.append(len(classes) / 50)
        starts.append(len(classes) / 50)
        for phone in word.phones:
            classes += [CLASS_OF[phone]] * frames_a_phone
    classes += [0] * gap
    probabilities = np.full((len(classes), len(CLASSES)), 0.1 / len(CLASSES))
    probabilities[np.arange(len(classes)), classes] += 0.9
    return np.log(probabilities).astype(np.float32), starts, line_starts


def test_clear_singing_is_found_from_raw_lyrics(aligner):
    log_posteriors, starts, _ = _sung(LYRICS)
    found = aligner.align_heard(Heard(log_posteriors), LYRICS)
    np.testing.assert_allclose([w.start for w in found.words], starts, atol=0.04)
    assert [w.text for w in found.words] == LYRICS.text.split()
    assert [w.line for w in found.words] == [i for i, line in enumerate(LINES) for _ in line.split()]
    assert found.trust == 1.0 and found.offset == 0.0 and min(line_trust(found.words, range(len(found.words))).values()) > 0.5
    for word, count in enumerate(np.bincount([t.word for t in found.tokens])):
        own = [t for t in found.tokens if t.word == word]
        assert count == len(own) > 0
        assert own[0].start == found.words[word].start and own[-1].end == found.words[word].end


def test_stamps_that_are_all_late_are_moved(aligner):
    log_posteriors, starts, line_starts = _sung(LYRICS)
    lyrics = Lyrics(tuple(Line(text, t + 1.7) for text, t in zip(LINES, line_starts, strict=True)))
    found = aligner.align_heard(Heard(log_posteriors), lyrics)
    assert found.offset == pytest.approx(-1.7, abs=0.06)
    np.testing.assert_allclose([w.start for w in found.words], starts, atol=0.06)


@pytest.mark.parametrize("by", [9.0, -7.0, 25.0])
@pytest.mark.parametrize("every_word", [False, True])
def test_stamps_of_another_edit_are_moved_however_late_they_are(aligner, by, every_word):
    log_posteriors, starts, line_starts = _sung(LYRICS, gap=200)
    words = iter(starts)
    lines = [
        Line(text, t + by, word_starts=tuple(next(words) + by for _ in text.split()) if every_word else None)
        for text, t in zip(LINES, line_starts, strict=True)
    ]
    found = aligner.align_heard(Heard(log_posteriors), Lyrics(tuple(lines)))
    np.testing.assert_allclose([w.start for w in found.words], starts, atol=0.06)
    assert found.offset == pytest.approx(-by, abs=0.06)


@pytest.mark.parametrize("stamp", [lambda t: 2.0 * t, lambda t: 90.0 - t, lambda t: 3600.0 + t, lambda _: 0.0])
def test_stamps_that_no_recording_of_these_words_can_have_are_left_out(aligner, stamp):
    log_posteriors, starts, _ = _sung(LYRICS, gap=100)
    words = iter(starts)
    lines = [Line(text, None, word_starts=tuple(stamp(next(words)) for _ in text.split())) for text in LINES]
    found = aligner.align_heard(Heard(log_posteriors), Lyrics(tuple(line._replace(start=line.word_starts[0]) for line in lines)))
    np.testing.assert_allclose([w.start for w in found.words], starts, atol=0.06)
    assert found.offset == 0.0


def test_one_wrong_stamp_moves_no_word(aligner):
    log_posteriors, starts, line_starts = _sung(LYRICS, gap=100)
    line_starts[2] += 5.0  # behind the line that follows
    found = aligner.align_heard(Heard(log_posteriors), Lyrics(tuple(Line(text, t) for text, t in zip(LINES, line_starts, strict=True))))
    np.testing.assert_allclose([w.start for w in found.words], starts, atol=0.06)


def test_marks_that_nobody_sings_do_not_lower_the_trust_of_a_line(aligner):
    lyrics = parse_raw("\n".join(f"♪ ♪ ♪ {line} ♪ ♪" for line in LINES))
    log_posteriors, _, _ = _sung(LYRICS)
    found = aligner.align_heard(Heard(log_posteriors), lyrics)
    sung = [index for index, word in enumerate(found.words) if word.text != "♪"]
    assert found.trust == 1.0 and min(line_trust(found.words, sung).values()) > 0.5
    assert {token.word for token in found.tokens} == set(sung)


def test_without_evidence_stamps_hold(aligner):
    flat = np.full((1500, len(CLASSES)), -np.log(len(CLASSES)), dtype=np.float32)
    lyrics = Lyrics(tuple(Line(text, 3.0 + 4 * i) for i, text in enumerate(LINES)))
    found = aligner.align_heard(Heard(flat), lyrics)
    starts = {word.line: word.start for word in reversed(found.words)}
    np.testing.assert_allclose([starts[i] for i in range(len(LINES))], [3, 7, 11, 15, 19], atol=0.2)


def test_word_stamps_of_enhanced_lrc_are_used(aligner):
    flat = np.full((600, len(CLASSES)), -np.log(len(CLASSES)), dtype=np.float32)
    found = aligner.align_heard(Heard(flat), parse_lrc("[00:02.00]<00:02.00>hello <00:04.50>bright <00:05.00>world"))
    np.testing.assert_allclose([w.start for w in found.words], [2.0, 4.5, 5.0], atol=0.2)


def test_what_is_not_sung_keeps_its_place(aligner):
    lyrics = parse_raw("hello - world\n(oh!) *** sing")
    log_posteriors, _, _ = _sung(lyrics)
    found = aligner.align_heard(Heard(log_posteriors), lyrics)
    assert [w.text for w in found.words] == ["hello", "-", "world", "(oh!)", "***", "sing"]
    starts = [w.start for w in found.words]
    assert starts == sorted(starts)
    assert {t.word for t in found.tokens} == {0, 2, 3, 5}


@pytest.mark.parametrize("text", ["", "...\n--", "[verse]\n[chorus]"])
def test_lyrics_without_a_word_are_refused(aligner, text):
    with pytest.raises(AlignmentError) as caught:
        aligner.align(torch.zeros(48000), parse_raw(text))
    assert caught.value.code == "no_lyrics"


def test_more_words_than_time_are_refused(aligner):
    for samples in (0, 480, 24000):
        with pytest.raises(AlignmentError) as caught:
            aligner.align(torch.zeros(samples), LYRICS)
        assert caught.value.code == "too_many_words"


def test_noise_and_silence_give_finite_times(aligner):
    generator = torch.Generator().manual_seed(0)
    for wav in (torch.zeros(24000 * 30), torch.randn(24000 * 30, generator=generator) * 0.1):
        found = aligner.align(wav, LYRICS)
        times = np.array([(w.start, w.end, w.score) for w in found.words])
        assert np.isfinite(times).all() and times.min() >= 0 and times[:, :2].max() <= 30 and times[:, 2].max() <= 1
        assert aligner.activity(wav).shape == (1500,)


def test_long_audio_in_pieces_equals_the_whole(aligner):
    wav = torch.randn(24000 * 90, generator=torch.Generator().manual_seed(1)) * 0.1
    with torch.inference_mode():
        whole = torch.log_softmax(aligner._recogniser(wav[None]).frames[0], -1).numpy()
    np.testing.assert_allclose(aligner.log_posteriors(wav), whole, atol=2e-3)


def test_confidence_weights_can_be_fitted():
    rng = np.random.default_rng(0)
    measurements = np.concatenate([np.ones((4000, 1)), rng.standard_normal((4000, 2))], axis=1)
    chance = 1 / (1 + np.exp(-(0.5 + 2 * measurements[:, 1])))
    weights = confidence.fit(measurements, rng.random(4000) < chance)
    np.testing.assert_allclose(weights, [0.5, 2.0, 0.0], atol=0.2)
    assert all(len(row) == len(confidence.MEASUREMENTS) for row in confidence.WEIGHTS.values())


@pytest.mark.long
def test_a_real_song_beats_even_spread(shared):
    song = next(s for s in real_songs(shared) if "Monkey Shines" in s.name)
    aligner = BuiltinAligner()
    log_posteriors = aligner.log_posteriors(song.wavs["mixture"])
    stamped = aligner.align_heard(Heard(log_posteriors), song.lyrics("starts"))
    found = errors(song.starts(), [w.start for w in stamped.words])
    baseline = errors(song.starts(), even_spread(song.lyrics("ends"), song.seconds))
    assert found.pco >= baseline.pco and found.aae <= baseline.aae
    raw = aligner.align_heard(Heard(log_posteriors), song.lyrics("none"))
    assert errors(song.starts(), [w.start for w in raw.words]).pco > 0.8
    lines = judge_lines(raw, song)
    assert len(lines) == 14 and not auc([t for t, _ in lines], [g for _, g in lines]) < 0.5
