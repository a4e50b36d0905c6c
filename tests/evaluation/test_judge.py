"""The judge's rates: pooled, with an interval that holds them; and silence holds no phones."""

import pytest
import torch

from autosing.evaluation.judge import Judge, added_error, mismatched_rate, phone_error_rate


def test_rates_are_pooled_over_recordings() -> None:
    written = [tuple("abcdefgh"), tuple("ab")]
    rate = phone_error_rate([tuple("abcdefgh"), ("x", "y")], written)
    assert rate.value == pytest.approx(2 / 10) and rate.recordings == 2
    assert rate.low <= rate.value <= rate.high
    assert rate.figures()["recordings"] == 2


def test_nothing_heard_is_all_wrong_and_repeats_are_insertions() -> None:
    assert phone_error_rate([()], [tuple("abc")]).value == 1.0
    assert phone_error_rate([tuple("abcabc")], [tuple("abc")]).value == 1.0


def test_what_is_added_is_the_difference_on_the_same_recordings() -> None:
    written = [tuple("abcd")] * 3
    before, after = [tuple("abcd"), tuple("abc"), tuple("abcd")], [tuple("abc"), tuple("ab"), tuple("abc")]
    added = added_error(before, after, written)
    assert added.value == pytest.approx(3 / 12) and (added.low, added.high) == pytest.approx((0.25, 0.25))  # one phone each, whatever is drawn
    assert added_error(after, before, written).value == pytest.approx(-3 / 12)


def test_silence_has_no_phones() -> None:
    assert Judge().phones(torch.zeros(48_000)) == ()


def test_other_lyrics_are_those_of_every_other_song():
    written = [tuple("ab"), tuple("abcd"), tuple("xy")]
    heard = [tuple("ab"), tuple("ab"), tuple("x")]
    rate = mismatched_rate(heard, written, ["a", "a", "b"])  # each of song a against "xy", "x" against both of song a
    assert rate.value == pytest.approx((2 + 2 + 2 + 4) / (2 + 2 + 2 + 4)) and rate.recordings == 3
    assert mismatched_rate([tuple("xa"), *heard[1:]], written, ["a", "a", "b"]).value == pytest.approx(9 / 10)
