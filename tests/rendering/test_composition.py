"""Lyrics, melody, band and mixing: no engine needed."""

import itertools

import numpy as np
import pytest

from autosing.errors import AudioError
from autosing.rendering import mixing, recordings
from autosing.rendering.band import Band
from autosing.rendering.lyrics import FUNCTION, HELD_OUT, is_held_out, vocabulary, write_line
from autosing.rendering.melody import SCALES, Composer, Key
from autosing.rendering.styles import STYLES
from autosing.rendering.voices import BINS, POINTS, SAMPLE_RATE, VOICES, expansion, singers


def compose(seed=0, seconds=20.0, beats=4, mode="minor"):
    rng = np.random.default_rng(seed)
    words = vocabulary("train")
    composer = Composer(singers("train")[seed % 75], Key(3, mode), 96.0, beats, rng)
    return composer.write(seconds, lambda: write_line(words, rng), lambda word: 1 + len(word) // 5)


def test_splits_share_no_content_word_voice_or_singer():
    train, test = vocabulary("train"), vocabulary("test")
    for kind in train.kinds:
        assert train.kinds[kind] and test.kinds[kind]
        assert not set(train.kinds[kind]) & set(test.kinds[kind])
    share = len(test.kinds["any"]) / (len(test.kinds["any"]) + len(train.kinds["any"]))
    assert abs(share - HELD_OUT) < 0.05
    assert not set(VOICES["train"]) & set(VOICES["test"])
    assert len(singers("train")) >= 60 and len(singers("test")) >= 12
    assert len({singer.name for split in VOICES for singer in singers(split)}) == len(singers("train")) + len(singers("test"))


def test_lines_are_of_natural_length_and_of_the_split():
    rng, words = np.random.default_rng(1), vocabulary("test")
    for _ in range(200):
        line = write_line(words, rng)
        assert 3 <= len(line) <= 9
        assert all(is_held_out(word) or word in FUNCTION or word in ("after", "under") for word in line)


@pytest.mark.parametrize("seed", range(6))
def test_notes_are_in_the_key_in_order_and_in_range(seed):
    score = compose(seed, beats=3 + seed % 2, mode=("major", "minor")[seed % 2])
    notes = [note for word in score.words for syllable in word.syllables for note in syllable]
    assert len(score.lines) >= 1 and len(notes) >= 3
    assert {(note.midi - score.key.tonic) % 12 for note in notes} <= set(SCALES[score.key.mode])
    assert all(a.end <= b.start + 1e-9 and a.start < a.end for a, b in itertools.pairwise(notes))
    assert notes[-1].end * score.seconds_per_beat <= score.seconds + 1e-6
    singer = singers("train")[seed % 75]
    assert all(abs(note.midi - singer.centre_midi) <= singer.reach for note in notes)
    assert [word.text for word in score.words] == " ".join(score.lines).split()


@pytest.mark.parametrize("style", sorted(STYLES))
def test_every_style_plays_the_whole_song_in_stereo(style):
    score = compose(2, seconds=6.0, beats=STYLES[style].beats)
    music = Band(style, np.random.default_rng(0)).play(score)
    assert music.shape == (2, round(score.seconds * SAMPLE_RATE))
    assert np.isfinite(music).all() and np.abs(music).max() > 0.01


def test_estimate_key_finds_the_key_of_a_synthetic_band():
    found = 0
    for seed in range(4):
        score = compose(seed, seconds=14.0, mode="major")
        music = Band("piano", np.random.default_rng(seed)).play(score)
        key = recordings.estimate_key(music)
        scale = {(key.tonic + step) % 12 for step in SCALES[key.mode]}
        found += len(scale & {(3 + step) % 12 for step in SCALES["major"]}) >= 6
    assert found >= 3


def test_real_stretch_loops_a_short_file(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).standard_normal((44_100, 2)) * 0.1, 44_100)
    music = recordings.real_stretch(tmp_path / "a.wav", 3.5, np.random.default_rng(1))
    assert music.shape == (2, 84_000) and music.dtype == np.float32
    assert np.sqrt((music[:, -24_000:] ** 2).mean()) > 0.02
    (tmp_path / "b.mp3").write_bytes(bytes(range(256)))
    with pytest.raises(AudioError, match=r"b.mp3' cannot be decoded"):
        recordings.real_stretch(tmp_path / "b.mp3", 3.5, np.random.default_rng(1))


def test_balance_sets_the_ratio_and_the_peak():
    rng = np.random.default_rng(0)
    vocals, music = rng.standard_normal(48_000).astype(np.float32), rng.standard_normal((2, 48_000)).astype(np.float32)
    active = np.arange(48_000) < 24_000
    vocals[~active] = 0
    vocals, music = mixing.balance(vocals, music, active, 5.0, 0.9)
    ratio = 20 * np.log10(np.sqrt((vocals[active] ** 2).mean() / (music[:, active] ** 2).mean()))
    assert ratio == pytest.approx(5.0, abs=0.1)
    assert np.abs(vocals + music).max() <= 0.9 + 1e-6


def test_dressing_keeps_length_and_timing():
    rng = np.random.default_rng(0)
    x = np.zeros(24_000, np.float32)
    x[12_000:] = 0.1 * rng.standard_normal(12_000)
    for seed in range(8):
        y = mixing.dress_vocals(x, np.random.default_rng(seed))
        assert y.shape == x.shape and np.isfinite(y).all()
        assert np.abs(y[:11_900]).max() < 1e-4  # nothing sounds early


def test_expansion_moves_formants_up():
    points = np.exp(-0.5 * ((np.arange(POINTS) - 60) / 2) ** 2)
    plain, warped = points @ expansion(1.0), points @ expansion(1.2)
    assert plain.shape == (BINS,)
    assert np.argmax(warped) == pytest.approx(1.2 * np.argmax(plain), abs=1)
