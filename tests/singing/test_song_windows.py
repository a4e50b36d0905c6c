"""Windows of a plan: none too long, whatever is planned is in them, text and schedule agree."""

from itertools import pairwise

import numpy as np
import pytest

from autosing.singing.pace import Pacer
from autosing.singing.plan import PlacedLine
from autosing.singing.windows import REST, Grid, SongText, Window, plan_windows
from autosing.tokens.specs import CodecSpec, SemanticSpec
from autosing.tokens.text import LINE, PAUSE, load_text

RATE = 25
GRID = Grid.of(SemanticSpec("s", 16000, RATE, 10, 4), CodecSpec("c", 24000, 288, (8, 4, 2, 1), 16, 8))


def song(count: int, every: float = 4.0, sung: float = 2.5) -> list[PlacedLine]:
    return [PlacedLine("la la la", 1.0 + i * every, 1.0 + i * every + sung) for i in range(count)]


@pytest.fixture(scope="module")
def front_end():
    return load_text("phones")


def test_cuts_are_whole_for_every_codec() -> None:
    assert GRID.block_steps == 12
    snac = CodecSpec("snac", 32000, 384, (8, 4, 2, 1), 4096, 32)
    both = Grid.of(SemanticSpec("s", 16000, RATE, 10, 4), CodecSpec("c", 24000, 288, (8, 4, 2, 1), 16, 8), snac)
    assert snac.seconds(snac.frames(both.block_steps / RATE)) == both.block_steps / RATE


@pytest.mark.parametrize("seconds", [10.0, 30.0, 47.3, 200.0, 1000.0])
def test_windows_are_short_enough_and_leave_nothing_out(seconds: float) -> None:
    steps = int(seconds * RATE)
    windows = plan_windows(song(int(seconds / 4)), 0, steps, GRID, 30.0)
    assert windows[0].start == windows[0].fresh == 0 and windows[-1].end == steps
    for before, after in pairwise(windows):
        assert after.fresh == before.end and 4.0 * RATE < after.fresh - after.start <= 5.0 * RATE and after.fresh % GRID.block_steps == 0
    assert all(w.end - w.start <= 30.0 * RATE + 1 and w.end > w.fresh for w in windows)


def test_cuts_lie_in_rests() -> None:
    lines = song(20)
    for window in plan_windows(lines, 0, 80 * RATE, GRID, 30.0)[:-1]:
        assert not any(line.start + 0.3 < window.end / RATE < line.end - 0.3 for line in lines)


def test_the_first_window_may_be_short() -> None:
    windows = plan_windows(song(20), 0, 80 * RATE, GRID, 30.0, 8.0)
    assert windows[0].end <= 8.0 * RATE and len(plan_windows(song(3), 0, 12 * RATE, GRID, 30.0, 8.0)) == 2


def follow(text, steps: int, eager: bool) -> np.ndarray:
    """The pointer of a model that always wants to move on, or never does."""
    import torch

    ids = np.concatenate([[LINE], text.text.ids])
    pacer = Pacer(ids, steps, 1, text.schedule)
    logits = torch.tensor([[0.0, 5.0, 0.0, 0.0]]) if eager else torch.tensor([[5.0, 0.0, 0.0, 0.0]])
    seen = []
    for step in range(steps):
        seen.append(int(pacer.pointer[0]))
        pacer.move(pacer.steer(logits, step).argmax(-1).numpy(), step)
    return np.array(seen)


@pytest.mark.parametrize("eager", [True, False])
def test_every_line_begins_when_it_should_and_is_sung_in_time(front_end, eager: bool) -> None:
    lines = song(7)
    text = SongText(front_end, lines, RATE)
    window = Window(0, 0, 30 * RATE)
    told = text.window(window, np.zeros(0, dtype=np.int64))
    track = told.of_song[follow(told, 30 * RATE, eager)]
    for i, line in enumerate(lines):
        first, last = int(text.firsts[i]), int(text.firsts[i + 1]) - 1
        assert track[round(line.start * RATE) - 1] < first <= track[round(line.start * RATE)]
        assert track[round(line.end * RATE)] >= last
    sung = {int(t) for t in track if t >= 0}
    assert {i for i, token in enumerate(text.ids) if token != PAUSE} <= sung
    assert (told.text.ids == LINE).sum() == 1


def test_stamped_words_begin_at_their_stamps(front_end) -> None:
    line = PlacedLine("la la la la", 1.0, 9.0, None, (1.0, 3.0, None, 7.0))
    text = SongText(front_end, [line], RATE)
    told = text.window(Window(0, 0, 250), np.zeros(0, dtype=np.int64))
    track = told.of_song[follow(told, 250, eager=True)]
    for word, start in ((0, 1.0), (1, 3.0), (3, 7.0)):
        assert track[round(start * RATE) - 1] < 3 * word <= track[round(start * RATE)]


@pytest.mark.parametrize("cut", [96, 108, 120, 132, 144])
def test_a_window_goes_on_where_the_one_before_stopped(front_end, cut: int) -> None:
    """In the middle of a word, of a rest, or of a line: the known part says what was sung, and nothing is sung twice or left out."""
    text = SongText(front_end, song(5), RATE)
    first = text.window(Window(0, 0, cut + 120), np.zeros(0, dtype=np.int64))
    track = first.of_song[follow(first, cut + 120, eager=True)]
    window = Window(cut, cut + 120, cut + 400)
    told = text.window(window, track)
    assert len(told.known) == 120 and (np.diff(told.known) >= 0).all() and told.known[0] >= 0
    back = told.of_song[told.known]
    at_rest = (track[cut : cut + 120] == REST) | np.isin(track[cut : cut + 120], np.flatnonzero(text.ids == PAUSE))
    assert (back[~at_rest] == track[cut : cut + 120][~at_rest]).all()
    assert set(range(max(0, int(track[cut + 119])), int(text.firsts[4]))) <= set(told.of_song.tolist())


def test_a_window_after_the_last_word_is_silent(front_end) -> None:
    text = SongText(front_end, song(1), RATE)
    track = np.full(500, len(text) - 1)
    told = text.window(Window(400, 500, 700), track)
    assert len(told.text) == 0 and (told.known == 0).all()
