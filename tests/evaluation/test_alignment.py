"""Alignment measures against mir_eval's published cases, the even-spread baseline, and reading the real songs."""

import json

import numpy as np
import pytest
import torch

from autosing.errors import DataError
from autosing.evaluation.alignment import (
    KnownSong,
    TimedWord,
    auc,
    correct_segments,
    errors,
    even_spread,
    real_songs,
    with_separated,
)
from autosing.perception.separation.builtin import BuiltinSeparator
from autosing.song.lyrics import Line, Lyrics

CASES = ["00", "01", "02", "03_mirex", "04_mirex"]


@pytest.mark.parametrize("case", CASES)
def test_equals_mir_eval(shared, case):
    folder = shared / "mir_eval" / "alignment"
    reference, estimate = (np.loadtxt(folder / f"{side}{case}.txt", ndmin=2)[:, 0] for side in ("ref", "est"))
    expected = json.loads((folder / f"output{case}.json").read_text())
    found = errors(reference, estimate)
    assert found.pco == pytest.approx(expected["pc"])
    assert found.mae == pytest.approx(expected["mae"])
    assert found.aae == pytest.approx(expected["aae"])
    assert correct_segments(reference, estimate) == pytest.approx(expected["pcs"])


@pytest.mark.parametrize(
    ("reference", "estimate"), [([], []), ([1.0], [1.0, 2.0]), ([2.0, 1.0], [1.0, 2.0]), ([1.0], [float("nan")]), ([1.0], [-1.0])]
)
def test_refuses_what_cannot_be_compared(reference, estimate):
    with pytest.raises(DataError):
        errors(reference, estimate)


def test_auc():
    assert auc([0.9, 0.8, 0.1], [True, True, False]) == 1.0
    assert auc([0.5, 0.5], [True, False]) == 0.5
    assert np.isnan(auc([0.5], [True]))


def test_even_spread_goes_by_letters():
    lyrics = Lyrics((Line("a bb ccc", 1.0), Line("dd dd", 7.0, 9.0)))
    np.testing.assert_allclose(even_spread(lyrics, 20.0), [1.0, 2.0, 4.0, 7.0, 8.0])


def test_lyrics_of_a_known_song():
    words = (TimedWord("one", 1, 2, 0), TimedWord("two", 2, 3, 0), TimedWord("three", 5, 6, 1))
    song = KnownSong("x", {}, 24000, words)
    assert song.lyrics("none").text == "one two\nthree"
    assert [line.start for line in song.lyrics("starts").lines] == [1, 5]
    assert [line.end for line in song.lyrics("ends").lines] == [3, 6]


@pytest.mark.long
def test_real_songs_can_be_read(shared):
    songs = {song.name: song for song in real_songs(shared)}
    assert len(songs) == 12
    assert len(songs["Confession_-_Quesabe"].words) == 336
    assert len(songs["Jonathan Coulton - Code Monkey"].words) == 298


def test_separated_vocals_are_a_further_input():
    mixture = 0.1 * torch.randn(24_000, generator=torch.Generator().manual_seed(0))
    song = KnownSong("a", {"mixture": mixture}, 24_000, (TimedWord("la", 0.1, 0.4, 0),))
    (found,) = with_separated([song], BuiltinSeparator(mask_floor=1.0))
    torch.testing.assert_close(found.wavs["separated"], mixture, atol=1e-5, rtol=1e-4)
    assert set(found.wavs) == {"mixture", "separated"} and found.words == song.words
