"""LRC: the specification's cases, cases other parsers publish, and properties."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autosing.song.alignment import Alignment, Word
from autosing.song.lyrics import Line, Lyrics, clock, format_lrc, from_alignment, parse, parse_lrc, parse_raw

CASES = [
    ("[00:12.5]a", [(12.5, "a")]),
    ("[0:12.05]a", [(12.05, "a")]),
    ("[123:00.123]a", [(7380.123, "a")]),
    ("[00:12:34]a", [(12.34, "a")]),
    ("[00:12]a", [(12.0, "a")]),
    ("[00:12,34]a", [(12.34, "a")]),
    ("[1:02:03.45]a", [(3723.45, "a")]),
    ("[00:01:02,5][01:00:00.0]a", [(62.5, "a"), (3600.0, "a")]),
    ("[00:20.00][00:10.00] a", [(10.0, "a"), (20.0, "a")]),
    ("\ufeff[ar:x]\r\n  [00:01.00]a\r\n[00:02.00]b", [(1.0, "a"), (2.0, "b")]),
    ("[00:03.00]b\n[00:01.00]a", [(1.0, "a"), (3.0, "b")]),
    ("[offset:500]\n[00:10.00]a", [(9.5, "a")]),
    ("[offset: -500]\n[00:10.00]a", [(10.5, "a")]),
    ("[offset:9999]\n[00:01.00]a", [(0.0, "a")]),
    ("[00:01.00]夜空ノムコウ\n[00:02.00]שלום עולם", [(1.0, "夜空ノムコウ"), (2.0, "שלום עולם")]),
    ("junk\n[invalid]junk\n[:]\n[00:01.00]a", [(1.0, "a")]),
    ("", []),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_specification(text, expected):
    lines = parse_lrc(text).lines
    assert [line.text for line in lines] == [text for _, text in expected]
    assert [line.start for line in lines] == pytest.approx([start for start, _ in expected])


def test_sections_are_kept_and_never_sung():
    lyrics = parse_lrc("[Verse 1]\n[00:01.00]one two\n[00:03.00][chorus]\n[00:04.00]la la\n[00:06.00]")
    found = [(line.section, line.text, line.end) for line in lyrics.lines]
    assert found == [("verse 1", "one two", None), ("chorus", "la la", 6.0)]
    raw = parse_raw("[verse]\nhello you\n\n[Chorus: x2]\nla la\n[guitar plays]\n...")
    assert [(line.section, line.text) for line in raw.lines] == [("verse", "hello you"), ("chorus: x2", "la la")]


@pytest.mark.parametrize(
    ("text", "words", "section"),
    [
        ("[00:01.00]a b [chorus]", "a b", None),
        ("[00:01.00]<00:01.00>[Chorus] hello", "hello", "chorus"),
        ("[00:01.00][Chorus] [x2] hello", "hello", "chorus"),
        ("[00:01.00][Pre Chorus]hello", "hello", "pre chorus"),
        ("[00:01.00][Post Chorus 2]hello", "hello", "post chorus 2"),
        ("[00:01.00]a [guitar] b", "a b", None),
    ],
)
def test_nothing_in_brackets_is_sung(text, words, section):
    assert [(line.text, line.section) for line in parse_lrc(text).lines] == [(words, section)]
    assert [(line.text, line.section) for line in parse_raw(text).lines] == [(words, section)]


def test_lines_with_word_stamps_alone():
    lyrics = parse_lrc("<00:01.00>Hello <00:01.80>world\n[chorus] <00:03.00>again\n<00:04.00>")
    found = [(line.text, line.start, line.end, line.word_starts) for line in lyrics.lines]
    assert found == [("Hello world", 1.0, None, (1.0, 1.8)), ("again", 3.0, 4.0, (3.0,))]
    assert parse_raw("<00:01.00>Hello <00:01.80>world").text == "Hello world"


MARKS = "\u200f\u200e\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c\u200b\u2060\ufeff"


@pytest.mark.parametrize("mark", MARKS)
def test_marks_that_show_nothing_do_not_hide_a_line(mark):
    line = parse_lrc(f"{mark}[00:01.00]{mark}שלום{mark}").lines[0]
    assert (line.text, line.start) == ("שלום", 1.0)
    assert parse_raw(f"{mark}[chorus]{mark}\nשלום{mark}").lines[0] == Line("שלום", section="chorus")


def test_joiners_that_change_letters_are_kept():
    assert parse_raw("می\u200cخواهم क्\u200dष").text == "می\u200cخواهم क्\u200dष"


@pytest.mark.parametrize("junk", ["[" + " " * 200_000, "[a" + " " * 200_000, "[ " * 100_000, "[00:01.00]" * 20_000, "[verse" + ": " * 100_000])
def test_junk_is_read_at_once(junk):
    for text in (junk, junk + "x", "[00:01.00]" + junk):
        parse(text, None)
        parse_raw(text)


def test_word_stamps_square_and_angle():
    angle = parse_lrc("[00:12.00]<00:12.50>Word<00:13.00>by word").lines[0]
    assert angle.text == "Word by word" and angle.word_starts == (12.5, 13.0, None)
    square = parse_lrc("[00:05.000] hello [00:06.000] world").lines[0]
    assert square.text == "hello world" and square.word_starts == (None, 6.0)


def test_empty_stamp_ends_the_line_before():
    lines = parse_lrc("[00:01.00]a\n[00:02.00]\n[00:05.00]b").lines
    assert [(line.start, line.end) for line in lines] == [(1.0, 2.0), (5.0, None)]


def test_published_cases(shared):
    for case in json.loads((shared / "lrc_cases" / "cases.json").read_text()):
        got = parse_lrc(case["input"])
        expected = case["expected_by_origin"].get("lines")
        if expected is None or case["id"] in ("openlyrics:same_stamp_lines", "subforge:offset_not_applied"):
            continue  # a printer's case; merging of equal stamps and ignoring the offset are other rules than ours
        if case["id"] == "subforge:enhanced":  # no spaces between stamped words: we keep them as three words
            assert got.lines[0].text == "Word by word"
            continue
        assert [line.text for line in got.lines] == [line["text"] for line in expected], case["id"]
        assert [line.start for line in got.lines] == pytest.approx([line["start_s"] for line in expected]), case["id"]


@given(st.text(alphabet="[]<>:.0123456789 abé\n\r\ufeffoffset-+", max_size=200))
def test_never_raises_and_times_are_sane(text):
    for lyrics in (parse_lrc(text), parse(text, None), parse_raw(text)):
        starts = [line.start for line in lyrics.lines if line.start is not None]
        assert starts == sorted(starts) and all(math.isfinite(t) and t >= 0 for t in starts)


words = st.lists(st.text(alphabet="abcdé夜", min_size=1, max_size=5), min_size=1, max_size=5)


rows = st.tuples(words, st.integers(1, 4000), st.booleans(), st.booleans())


@given(st.lists(rows, max_size=8), st.sampled_from([(), (("ti", "x"),)]))
def test_format_then_parse_is_the_same(items, tags):
    lines, now = [], 0
    for tokens, gap, has_end, has_words in items:
        now += gap
        starts = tuple((now + i) / 1000 for i in range(len(tokens))) if has_words else None
        line = Line(" ".join(tokens), now / 1000, None, None, starts)
        if has_end:
            now += gap
            line = line._replace(end=now / 1000)
        lines.append(line)
    lyrics = Lyrics(tuple(lines), tags)
    again = parse_lrc(format_lrc(lyrics))
    assert again.tags == lyrics.tags and [x.text for x in again.lines] == [x.text for x in lyrics.lines]
    for a, b in zip(again.lines, lyrics.lines, strict=True):
        assert (a.start, a.end) == pytest.approx((b.start, b.end))
        assert (a.word_starts is None) == (b.word_starts is None)
        assert a.word_starts is None or a.word_starts == pytest.approx(b.word_starts)


def test_an_end_that_the_next_line_overtakes_is_left_out():
    lyrics = Lyrics((Line("oh yeah", 6.0, 14.0), Line("two voices", 8.0, 12.0)))
    again = parse_lrc(format_lrc(lyrics))
    assert [(line.start, line.end) for line in again.lines] == [(6.0, None), (8.0, 12.0)]


def test_clock_rounds():
    assert [clock(t) for t in (5.999, 18.31, 0.0005, 3600)] == ["00:05.999", "00:18.31", "00:00.00", "60:00.00"]


def test_alignment_becomes_word_stamped_lyrics():
    alignment = Alignment((Word("hi", 1.0, 1.5, 1.0, 0), Word("you", 1.5, 2.0, 1.0, 0), Word("yes", 3.0, 3.5, 1.0, 1)))
    expected = ("[00:01.00]<00:01.00>hi <00:01.50>you", "[00:02.00]", "[00:03.00]<00:03.00>yes", "[00:03.50]", "")
    assert format_lrc(from_alignment(alignment)) == "\n".join(expected)
