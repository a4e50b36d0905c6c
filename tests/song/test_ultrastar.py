"""UltraStar sheets -> stamped lyrics."""

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autosing.song.lyrics import format_lrc, parse_lrc
from autosing.song.ultrastar import is_sheet, parse_ultrastar

HEAD = "#TITLE:T\n#BPM:60\n#GAP:1000\n"  # a beat is a quarter of a second


def words(text: str, head: str = HEAD) -> list[list[tuple[str, float | None]]]:
    lines = parse_ultrastar(head + text).lyrics.lines
    return [list(zip(line.text.split(), line.word_starts or [None] * 99, strict=False)) for line in lines]


def test_real_sheets_give_the_known_words_and_times(shared: Path) -> None:
    for folder in sorted((shared / "ultrastar_cc").iterdir()):
        lyrics = parse_ultrastar((folder / "song.txt").read_text(encoding="utf-8")).lyrics
        with open(folder / "words.derived.csv", encoding="utf-8") as file:
            known = list(csv.DictReader(file))
        found = [pair for line in lyrics.lines for pair in zip(line.text.split(), line.word_starts or (), strict=True)]
        assert [word for word, _ in found] == [row["word"] for row in known]
        assert [start for _, start in found] == pytest.approx([float(row["word_start"]) for row in known], abs=0.001)
        ends = [float(row["line_end"]) for row in known if row["line_end"]]
        assert [line.end for line in lyrics.lines] == pytest.approx(ends, abs=0.001)
        assert parse_lrc(format_lrc(lyrics)).lines == lyrics.lines


def test_syllables_join_and_tilde_and_hyphen_hold() -> None:
    assert words(": 0 1 2 be\n: 1 1 2 lieve\n: 2 1 2 ~\n: 3 1 2  it\n: 4 1 2 -\n: 5 2 2 ~s\n- 8\n* 8 1 2 to \nF 9 1 2 day\nE\n: 20 1 1 no") == [
        [("believe", 1.0), ("its", 1.75)],
        [("to", 3.0), ("day", 3.25)],
    ]
    assert parse_ultrastar(HEAD + ": 0 1 2 a\n: 4 4 2 ~").lyrics.lines[0].end == 3.0


def test_hyphens_that_part_syllables_go_and_others_stay() -> None:
    assert words(": 0 1 1 beau-\n: 1 1 1 ti-\n: 2 1 1 ful\n: 3 1 1  day") == [[("beautiful", 1.0), ("day", 1.75)]]
    assert words(": 0 1 1 twen\n: 1 1 1 ty-\n: 2 1 1 one\n: 3 1 1  ha\n: 4 1 1 ven") == [[("twenty-one", 1.0), ("haven", 1.75)]]


def test_relative_beats_decimal_commas_and_tempo_changes() -> None:
    relative = "#BPM:59,9999999\n#GAP:500,4\n#RELATIVE:YES\n#VIDEOGAP:7\n: 0 1 1 a\n- 2 4\n: 0 1 1 b\n- 2\n: 1 1 1 c"
    assert [pairs[0][1] for pairs in words(relative, "")] == [0.5, 1.5, 2.25]
    assert words(": 0 1 1 a\n- 3\nB 4 120\n: 8 1 1 b") == [[("a", 1.0)], [("b", 2.5)]]


def test_voices_are_merged_and_what_both_sing_stands_once() -> None:
    text = "P1\n: 0 2 1 one\n- 3\n: 8 2 1 both\nP 2\n: 4 2 1 two\n- 7\n: 8 2 1 both\nE"
    assert words(text) == [[("one", 1.0)], [("two", 2.0)], [("both", 3.0)]]
    relative = "#BPM:60\n#RELATIVE:yes\nP1\n: 0 1 1 a\n- 1 8\nP2\n: 1 1 1 b\nP1\n: 0 1 1 c"
    assert [pairs[0] for pairs in words(relative, "")] == [("a", 0.0), ("b", 0.25), ("c", 2.0)]  # each voice its own shift


def test_without_a_tempo_there_are_lines_without_stamps() -> None:
    lyrics = parse_ultrastar("#TITLE:T\n#BPM:0\n: 0 1 1 hel\n: 1 1 1 lo\n- 2\n: 3 1 1 you").lyrics
    assert lyrics.text == "hello\nyou" and not lyrics.stamped
    assert not is_sheet("hello\n#TITLE:no") and is_sheet("\ufeff#title:yes")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([HEAD, "#BPM:1,5\n", "#BPM:inf\n", "#GAP:-9\n", "#RELATIVE:yes\n", "P1\n", "P2\n", "E\n"]) | st.builds(
    "{} {} {} {} {}\n".format, st.sampled_from(":*FRGB-~"), st.integers(-50, 50), st.integers(-3, 50), st.integers(-9, 9), st.text("a~- \t[<>\r", max_size=6),
) | st.text(max_size=9)))  # fmt: skip
def test_never_raises_and_times_are_sane(pieces: list[str]) -> None:
    lyrics = parse_ultrastar("".join(pieces)).lyrics
    starts = [line.start for line in lyrics.lines if line.start is not None]
    assert starts == sorted(starts) and all(0 <= start < 1e9 for start in starts)
    parse_lrc(format_lrc(lyrics))
