"""Alignment measures against mir_eval's published cases, the even-spread baseline, and reading the real songs."""

import json

import numpy as np
import pytest
import torch

from autosing.errors import DataError
from autosing.evaluation.alignment import main, measure, summary
from autosing.evaluation.known_songs import KnownSong, TimedWord, real_songs, with_separated
from autosing.evaluation.ranking import auc
from autosing.evaluation.timing import activity_f1, errors, even_spread
from autosing.perception.alignment.builtin import BuiltinAligner
from autosing.perception.separation.builtin import BuiltinSeparator
from autosing.song.alignment import Alignment, Word
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
    cut = KnownSong("x", {"mixture": torch.zeros(240_000)}, 24000, words).excerpt(2.5)
    assert cut.words == words[:2] and cut.seconds == 3.5


def test_activity_closes_short_gaps_and_counts_frames():
    words = (TimedWord("a", 1.0, 1.5, 0), TimedWord("b", 1.9, 3.0, 0), TimedWord("c", 4.0, 5.0, 1))  # a gap of 0.4 s, one of a second
    sung = np.zeros(300)
    sung[50:150] = sung[200:250] = 0.9
    assert activity_f1(sung, words) == 1.0
    sung[90:110] = 0.1  # 0.4 s of doubt
    assert activity_f1(sung, words) == 1.0
    assert activity_f1(np.ones(300), words) == pytest.approx(2 * 150 / (150 + 300))
    assert activity_f1(np.zeros(300), words) == 0.0


class _Counting:
    """Places words evenly over the recording, hears singing everywhere."""

    name, sample_rate, stereo = "counting", 24_000, False

    def align(self, wav, lyrics):
        words = [(text, number) for number, line in enumerate(lyrics.lines) for text in line.text.split()]
        step = len(wav) / self.sample_rate / len(words)
        return Alignment(tuple(Word(text, i * step, (i + 1) * step, 0.5, line) for i, (text, line) in enumerate(words)))

    def activity(self, wav):
        return torch.ones(len(wav) // 480)


def test_figures_of_an_aligner_have_means_and_intervals():
    words = (TimedWord("one", 0.0, 1.0, 0), TimedWord("two", 1.0, 2.0, 0), TimedWord("three", 2.5, 3.0, 1))
    songs = [KnownSong(name, {"mixture": torch.zeros(72_000)}, 24_000, words) for name in "ab"]
    rows = measure(_Counting(), songs, ("none", "starts"))
    found = summary(rows)["mixture/none"]
    assert found["songs"] == 2 and found["pco"] == pytest.approx(2 / 3, abs=1e-3) and found["intervals"]["pco"] == [found["pco"]] * 2
    assert found["activity_f1"] == pytest.approx(5 / 5.5, abs=1e-4)  # a gap of half a second stays open
    assert found["one_core_real_time_factor"] >= 0
    assert summary(rows)["mixture/starts"]["songs_worse_than_even"] in (0, 2)
    assert rows[0]["language"] == "English"


def test_the_embedded_aligner_listens_once_and_finds_the_same():
    aligner = BuiltinAligner(adapt_steps=1)
    wav = 0.1 * torch.randn(72_000, generator=torch.Generator().manual_seed(0))
    song = KnownSong("a", {"mixture": wav}, 24_000, (TimedWord("la", 0.1, 0.4, 0), TimedWord("moon", 1.0, 1.4, 1)))
    for row in measure(aligner, [song], ("none", "starts")):
        begins = [word.start for word in aligner.align(wav, song.lyrics(row["stamps"])).words]
        assert row["errors"] == pytest.approx(np.array(begins) - song.starts(), abs=1e-3)


@pytest.mark.long
def test_real_songs_can_be_read(shared):
    songs = {song.name: song for song in real_songs(shared)}
    assert len(songs) == 12
    assert len(songs["Confession_-_Quesabe"].words) == 336 and songs["Confession_-_Quesabe"].language == "French"
    assert sum(song.language == "English" for song in songs.values()) == 7
    assert len(songs["Jonathan Coulton - Code Monkey"].words) == 298


def test_separated_vocals_are_a_further_input():
    mixture = 0.1 * torch.randn(24_000, generator=torch.Generator().manual_seed(0))
    song = KnownSong("a", {"mixture": mixture}, 24_000, (TimedWord("la", 0.1, 0.4, 0),))
    (found,) = with_separated([song], BuiltinSeparator(mask_floor=1.0))
    torch.testing.assert_close(found.wavs["separated"], mixture[None], atol=1e-5, rtol=1e-4)
    assert set(found.wavs) == {"mixture", "separated"} and found.words == song.words


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "songs.parquet").write_bytes(b"PAR1 cut off")
    for flags, said in (
        ([], "give --rendered, --real or both"),
        (["--fit"], "--fit needs --rendered"),
        (["--rendered", str(tmp_path)], "songs.parquet' is damaged"),
        (["--rendered", str(tmp_path), "--aligner", "biultin"], "builtin"),
    ):
        assert main(flags) == 2
        said_line = capsys.readouterr().err.splitlines()
        assert len(said_line) == 1 and said_line[0].startswith("error: ") and said in said_line[0]
