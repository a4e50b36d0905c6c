"""When each line is sung: stamps hold, plain lines fit the phrases of a reference, tags steer."""

from itertools import pairwise

import numpy as np
import pytest

from autosing.errors import ConfigError
from autosing.singing.plan import LyricLine, phrases_of, place_evenly, place_in_halves, place_on_phrases, place_stamped
from autosing.singing.words import check_amount, need_of, openings, read_lyrics, read_singable, singable
from autosing.song.lyrics import Line, Lyrics, clock
from autosing.tokens.pronounce import UNKNOWN_PHONE


def spell(word: str) -> tuple[str, ...]:
    """A phone a letter; Latin alone."""
    return tuple("AA" if c.isascii() else UNKNOWN_PHONE for c in word if c.isalpha())


need = need_of(spell)


def lines(*texts: str, opens: tuple[int, ...] = (0,), section: str | None = None) -> list[LyricLine]:
    return [LyricLine(text, section, number in opens) for number, text in enumerate(texts)]


def test_stamped_lines_stay_where_they_are() -> None:
    plan = place_stamped(read_lyrics("[00:01.00]one two\n[00:04.50]three\n[00:06.00]\n[01:00.00]late"), 0.0, 30.0, need)
    assert [line.start for line in plan.lines] == [1.0, 4.5]
    assert plan.lines[0].end <= 4.5 and plan.lines[1].end == 6.0
    assert any("late" in note for note in plan.notes)


def test_stamps_are_of_the_reference_and_words_keep_theirs() -> None:
    plan = place_stamped(read_lyrics("[00:11.00]<00:11.00>one <00:12.50>two"), 10.0, None, need)
    assert plan.lines[0].start == pytest.approx(1.0) and plan.lines[0].word_starts == pytest.approx((1.0, 2.5))
    with pytest.raises(ConfigError, match="no line begins between 20 and the end s, the first at 11 s"):
        place_stamped(read_lyrics("[00:11.00]one"), 20.0, None, need)


@pytest.mark.parametrize(
    ("stamps", "kept"),
    [
        ((1.0, 2.0, 2.0, 3.0), (1.0, 2.0, 2.0, 3.0)),
        ((1.0, 3.9, 2.0, 3.0), (1.0, None, 2.0, 3.0)),
        ((1.0, 2.0, 99.0, 3.0), (1.0, 2.0, None, 3.0)),
        ((1.0, 0.2, 2.0, 3.0), (1.0, None, 2.0, 3.0)),
        ((1.0, 2.0, 1.5, 3.0), (1.0, None, 1.5, 3.0)),
        ((90.0, 91.0, 92.0, 93.0), None),
    ],
)
def test_word_stamps_out_of_their_line_or_order_are_left_out(stamps: tuple[float, ...], kept: tuple[float | None, ...] | None) -> None:
    words = " ".join(f"<{clock(t)}>w{'abcd'[i]}" for i, t in enumerate(stamps))
    for end, seconds in (("[00:04.50]end", 30.0), ("[00:04.50]", 30.0), ("", None), ("", 5.0)):
        plan = place_stamped(read_lyrics(f"[00:01.00]{words}\n{end}"), 0.0, seconds, need)
        assert plan.lines[0].word_starts == kept
        assert [note for note in plan.notes if "stamp of the word" in note] == [] if kept == stamps else len(plan.notes) == 1
    if kept is None:
        assert "'wa' and of 3 more" in plan.notes[0]


def test_lines_of_one_moment_become_one_and_haste_is_told() -> None:
    plan = place_stamped(read_lyrics("[00:01.00]one\n[00:01.05]two\n[00:01.50]a great many words for so little time\n[00:02.00]end"), 0, 30.0, need)
    assert plan.lines[0].text == "one two" and any("a great many" in note for note in plan.notes)


def test_phrases_are_what_is_sung_without_short_gaps() -> None:
    activity = np.zeros(500)
    activity[50:100] = activity[105:150] = activity[300:400] = 1.0
    activity[450:455] = 1.0
    assert phrases_of(activity) == [(1.0, 3.0), (6.0, 8.0)]
    assert phrases_of(np.zeros(0)) == []


def test_each_line_takes_a_phrase_of_its_length() -> None:
    short, long = "la la la", "la la la la la la la la la la la la"
    phrases = [(2.0, 2.0 + need(short)), (8.0, 8.0 + need(long)), (14.0, 14.0 + need(short)), (20.0, 20.0 + need(long))]
    placed = place_on_phrases(lines(short, long, short, long), phrases, 30.0, need)
    assert [line.start for line in placed] == [2.0, 8.0, 14.0, 20.0]
    placed = place_on_phrases(lines(long, long), phrases, 30.0, need)  # a line that is too long for a phrase passes over it
    assert [line.start for line in placed] == [8.0, 20.0]


def test_one_line_may_take_two_phrases_and_two_lines_one() -> None:
    line = "la la la la la la la la"
    half = need(line) / 2
    placed = place_on_phrases(lines(line), [(1.0, 1.0 + half), (1.4 + half, 1.4 + 2 * half)], 10.0, need)
    assert placed[0].start == 1.0 and placed[0].end >= 1.4 + 2 * half - 1e-6
    placed = place_on_phrases(lines(line, line, line), [(1.0, 1.0 + 3 * need(line))], 20.0, need)
    assert [one.start for one in placed] == pytest.approx([1.0, 1.0 + need(line), 1.0 + 2 * need(line)], abs=0.35 * need(line))
    assert all(a.end <= b.start + 1e-6 for a, b in pairwise(placed))


def test_a_verse_waits_for_a_rest_and_a_chorus_for_loud_music() -> None:
    length = need("la la la la")
    phrases = [(t, t + length) for t in (0.0, length + 0.5, 2 * length + 1.0, 20.0, 20.5 + length)]
    text = ["la la la la"] * 3
    plain = place_on_phrases(lines(*text), phrases, 40.0, need, fill=False)
    steered = place_on_phrases(lines(*text, opens=(0, 2)), phrases, 40.0, need, fill=False)
    assert plain[2].start == pytest.approx(2 * length + 1.0) and steered[2].start == 20.0
    loud = lambda t: 1.5 if t >= 20.0 else -1.5  # noqa: E731
    evenly = [(t, t + length) for t in (0.0, 10.0, 20.0)]
    for section, start in (("verse", 0.0), ("chorus", 20.0), (None, 0.0)):
        assert place_on_phrases(lines("la la la la", section=section), evenly, 30.0, need, loud, fill=False)[0].start == start


def test_a_verse_is_not_torn_apart_where_there_is_more_time_than_words() -> None:
    """Four lines, a chorus of four and two more over nineteen phrases: what is passed over lies between them."""
    phrases = [(5.0 * i, 5.0 * i + 4.0) for i in range(19)]
    texts = ["la la la la la la la la"] * 10
    tagged = place_on_phrases(lines(*texts, opens=(0, 4, 8)), phrases, 95.0, need)
    steps = [round((after.start - before.start) / 5.0) for before, after in pairwise(tagged)]
    inside = [step for number, step in enumerate(steps, start=1) if number not in (4, 8)]
    assert max(inside) <= min(2, max(steps) - 1)
    plain = place_on_phrases(lines(*texts), phrases, 95.0, need)  # nothing says what belongs together: they lie over all of it, none far from the next
    assert max(round((after.start - before.start) / 5.0) for before, after in pairwise(plain)) <= 3
    assert plain[0].start <= 10.0 and plain[-1].start >= 75.0


def test_tags_and_empty_lines_open_verses() -> None:
    assert openings("[verse]\none\ntwo\n\nthree\n[chorus] four\n[chorus]\nfive") == (True, False, True, True, True)


def test_without_phrases_lines_follow_each_other() -> None:
    placed = place_evenly(lines("la la", "la la la la", "la"), 0.0, 30.0, need, spread=False)
    assert all(a.end < b.start for a, b in pairwise(placed)) and placed[-1].end < 15.0
    assert place_evenly(lines("la la", "la"), 0.0, 30.0, need)[-1].end == pytest.approx(30.0, abs=2.0)
    few = [(1.0, 1.5)]
    assert place_on_phrases(lines("la", "la"), few, 60.0, need, fill=False)[-1].end < 10.0 < place_on_phrases(lines("la", "la"), few, 60.0, need)[-1].end


def test_what_has_no_sound_is_named_and_left_out() -> None:
    lyrics = Lyrics((Line("l爱a la 😀", 1.0, None, None, (1.0, 2.0, 3.0)), Line("שלום")))
    kept, note = singable(lyrics, spell)
    assert [line.text for line in kept.lines] == ["la la"] and kept.lines[0].word_starts == (1.0, 2.0)
    assert "爱" in note and "😀" in note and "ש" in note
    assert singable(Lyrics((Line("la"),)), spell) == (Lyrics((Line("la"),)), "")


def test_lines_that_are_not_read_are_named() -> None:
    header = "[ti:la]\n[by: la [la]]\n[offset:500]\n[verse]\n\n[00:01.00]la\n[00:02.00]\n<00:03.00>la\n...\n"
    assert read_singable(header, spell)[1] == "" and read_singable("[verse]\nla\n\n...\n[chorus]\nla", spell)[1] == ""
    lyrics, note = read_singable(header + "carry me\n[chorus] la la\n🎵🎵", spell)
    assert len(lyrics.lines) == 2
    assert note == "the line 'carry me' and 1 more have no stamp where others have one; the line '🎵🎵' has no word"
    lyrics, note = read_singable("la\n🎵🎵\nla", spell)
    assert len(lyrics.lines) == 2 and note == "the line '🎵🎵' has no word"


def test_a_word_of_letters_without_sound_is_named() -> None:
    mute = lambda word: spell(word.replace("ь", ""))  # noqa: E731
    kept, note = singable(Lyrics((Line("la ь"),)), mute)
    assert kept.lines[0].text == "la" and note.endswith("characters: ь")
    assert singable(Lyrics((Line("laь ..."),)), mute)[1] == ""


def test_more_words_than_the_time_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"10000 words do not fit into 15\.0 s, which hold about \d+"):
        check_amount(["la la la la"] * 2500, 15.0, spell)
    check_amount(["la la la la"] * 10, 15.0, spell)


def test_each_of_two_lines_is_sung_on_a_phrase_of_its_half() -> None:
    two, takes = lines("one", "two"), {"one": 2.0, "two": 4.0}.__getitem__
    first, second = place_in_halves(two, [(1.0, 4.0), (6.0, 8.2), (13.0, 19.0), (20.0, 26.0), (27.0, 30.0)], 30.0, takes)
    assert (first.start, first.end) == (6.0, pytest.approx(8.6)), "the phrase that fits best"
    assert (second.start, second.end) == (20.0, pytest.approx(26.0)), "not on what is left of a phrase that began before, nor where the line has no room"
    first, second = place_in_halves(two, [(20.0, 26.0)], 30.0, takes, lambda seconds: float(seconds > 9.0))
    assert 9.0 < first.start < 10.0 and second.start == 20.0, "where nothing is sung, where it is loud"
    (only,) = place_in_halves(two[:1], [(13.0, 19.0)], 30.0, takes)
    assert (only.start, only.end) == (13.0, 17.0)


@pytest.mark.parametrize("takes", [(14.9, 40.0), (0.4, 15.0), (3.0, 3.0)])
@pytest.mark.parametrize("phrases", [[], [(0.0, 30.0)], [(14.5, 15.5)], [(1.0, 4.0), (13.0, 19.0)]])
def test_no_line_leaves_its_half_or_has_less_time_than_it_takes(takes: tuple[float, float], phrases: list[tuple[float, float]]) -> None:
    wanted = dict(zip(("one", "two"), takes, strict=True))
    first, second = place_in_halves(lines("one", "two"), phrases, 30.0, wanted.__getitem__)
    assert first.start >= 0 and first.end <= 15.0 + 1e-9 and second.start >= 15.0 - 1e-9 and second.end <= 30.0
    for line in (first, second):
        assert line.end - line.start >= min(15.0, wanted[line.text]) - 1e-9
