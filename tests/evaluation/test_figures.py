"""The table of figures, comparing two runs, and the card: known answers, and the committed card is what the committed figures give."""

import json
from pathlib import Path

import pytest

from autosing.errors import ConfigError, DataError
from autosing.evaluation import card, compare, intervals
from autosing.evaluation.figures import BY_NAME, FIGURES, Measured, bars, measured


def chain(value: float, spread: float = 0.02, **more) -> dict:
    rate = {"value": value, "low": round(value - spread, 3), "high": round(value + spread, 3), "recordings": 9}
    return {"phone_error": {"chain": rate}, **more}


def run(figures: dict, songs: str = "s", weights: dict | None = None) -> dict:
    return {"figures": figures, "protocol": {"songs_hash": songs, "limit": 4}, "weights": weights or {"all": "1", "t2s": "a", "sm2a": "b"}}


def test_names_are_unique_and_directions_known() -> None:
    assert len(BY_NAME) == len(FIGURES)
    assert {figure.better for figure in FIGURES} == {"<=", ">="}


def test_a_value_is_a_number_with_its_interval_beside_it_or_an_object() -> None:
    found = {"codec": {"rendered": {"f0_off_50": 0.04, "intervals": {"f0_off_50": [0.03, 0.05]}}}, "chain": chain(0.3)}
    assert measured(found, BY_NAME["codec_f0_off_50"]) == Measured(0.04, 0.03, 0.05)
    assert measured(found, BY_NAME["chain_phone_error"]) == Measured(0.3, 0.28, 0.32)
    assert measured(found, BY_NAME["codec_kbps"]) is None
    assert measured({"codec": {"kbps": float("nan")}}, BY_NAME["codec_kbps"]) == Measured(None)


def test_bars_hold_on_their_side_and_what_was_not_measured_holds_none() -> None:
    found = bars({"codec": {"kbps": 1.5}, "chain": chain(0.25, asked_voice_auc=None)})
    assert found["codec_kbps"] == {"value": 1.5, "bar": "<= 2", "ok": True}
    assert found["chain_phone_error"] == {"value": 0.25, "bar": "<= 0.2", "ok": False, "low": 0.23, "high": 0.27}
    assert found["asked_voice_auc"] == {"value": None, "bar": ">= 0.9", "ok": False}
    assert "voice_auc_rendered" not in found


def test_intervals_hold_the_mean_shrink_with_more_songs_and_repeat() -> None:
    few, many = [0.1, 0.5, 0.3, 0.2], [0.1, 0.5, 0.3, 0.2] * 25
    (a, b), (c, d) = intervals.of_mean(few), intervals.of_mean(many)
    assert a < sum(few) / 4 < b and a < c < d < b
    assert intervals.of_mean(few) == (a, b)
    assert intervals.of_rate([1, 1], [2, 2]) == (0.5, 0.5)
    assert intervals.means([{"x": 1.0}, {"x": 1.0}], ["x"]) == {"x": 1.0, "intervals": {"x": [1.0, 1.0]}}


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (chain(0.40), chain(0.30), "better"),
        (chain(0.30), chain(0.40), "worse"),
        (chain(0.30), chain(0.31), "within"),
        (chain(0.30, 0.2), chain(0.40, 0.01), "within"),  # within the wide interval of before
        (chain(0.30), chain(0.30), "same"),
    ],
)
def test_a_change_counts_beyond_the_intervals(before, now, said) -> None:
    figure = BY_NAME["chain_phone_error"]
    assert compare.verdict(figure, *(measured({"chain": chain}, figure) for chain in (before, now))) == said


def test_a_change_without_an_interval_claims_less() -> None:
    assert compare.verdict(BY_NAME["asked_voice_auc"], Measured(0.8), Measured(0.9)) == "(better)"
    assert compare.verdict(BY_NAME["asked_voice_auc"], Measured(0.8), Measured(0.9, 0.85, 0.95)) == "(better)"
    assert compare.verdict(BY_NAME["codec_kbps"], Measured(1.5), Measured(1.6)) == "(worse)"
    assert compare.verdict(BY_NAME["codec_kbps"], Measured(1.5), Measured(None)) == "no longer measured"


def test_the_comparison_names_what_changed(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("some progress\n" + json.dumps(run({"chain": chain(0.4)})) + "\n")
    earlier = compare.read_earlier(tmp_path / "old.json")
    assert earlier is not None
    said = compare.against(earlier, run({"chain": chain(0.3)}, songs="other", weights={"all": "2", "t2s": "a", "sm2a": "c"}))
    assert "| chain_phone_error | 0.4 [0.38, 0.42] | 0.3 [0.28, 0.32] | better |" in said
    assert "weights that differ: sm2a" in said and "measured on other songs than before: chain" in said
    assert "better beyond the intervals: chain_phone_error" in said and "worse beyond the intervals: nothing" in said


def test_a_file_without_figures_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(DataError, match="holds no evaluation"):
        compare.read_earlier(tmp_path / "no.json")
    with pytest.raises(DataError, match="no figures at"):
        compare.read_earlier(tmp_path / "none.json")


def test_reduced_figures_keep_sections_that_were_not_measured_again() -> None:
    first = card.reduced([run({"chain": chain(0.4), "codec": {"kbps": 1.5}})])
    again = card.reduced([run({"chain": chain(0.3)}, songs="t")], first)
    assert again["figures"]["chain_phone_error"]["value"] == 0.3 and again["figures"]["codec_kbps"] == {"value": 1.5}
    assert again["protocols"]["chain"]["songs_hash"] == "t" and again["protocols"]["codec"]["songs_hash"] == "s"
    assert "weights 0, not those of today" in card.tables({**again, "protocols": {"codec": {"weights_hash": "0"}}})
    failed = card.reduced([run({"chain": {"error": "no songs"}})], first)
    assert failed["figures"] == first["figures"]
    assert compare.earlier_of(first, "").figures["chain_phone_error"] == Measured(0.4, 0.38, 0.42)


def test_figures_of_different_weights_are_not_mixed() -> None:
    with pytest.raises(ConfigError, match="different weights"):
        card.reduced([run({"chain": chain(0.4)}), run({"codec": {"kbps": 1.5}}, weights={"all": "3"})])


def test_the_card_is_rewritten_between_its_markers_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"before\n{card.BEGIN}\nold\n{card.END}\nafter\n"
    (tmp_path / "card.md").write_text(text)
    songs = [{"song": "A", "stamps": stamps, "aae": 0.1, "mae": 0.05, "pco": 0.9, "activity_f1": 0.8, "even": {"aae": 1, "mae": 1, "pco": 0}} for stamps in ("none", "starts")]
    (tmp_path / "full.json").write_text(json.dumps(run({"chain": chain(0.4), "alignment": {"real_songs": songs}})))
    where = ["--card", str(tmp_path / "card.md"), "--shipped", str(tmp_path / "shipped.json")]
    assert card.main([str(tmp_path / "full.json"), *where]) == 0
    written = (tmp_path / "card.md").read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert "| lyrics to waveform, phone error, as sing.py sings | 0.400 [0.380, 0.420] | <= 0.2 | **not met** |" in written
    assert "| A | 0.100 / 0.050 / 0.900 | 1.000 / 1.000 / 0.000 | 0.100 / 0.050 / 0.900 | 0.800 |" in written
    assert card.main(where) == 0 and (tmp_path / "card.md").read_text() == written
    (tmp_path / "card.md").write_text("no place")
    assert card.main(where) == 2 and "must hold the line" in capsys.readouterr().err


def test_the_committed_card_is_what_the_committed_figures_give() -> None:
    text = card.CARD.read_text(encoding="utf-8")
    shipped = compare.read_result(compare.SHIPPED)
    assert card.renewed(text, shipped) == text, "run `python -m autosing.evaluation card`"
    assert card.written(shipped) == compare.SHIPPED.read_text(encoding="utf-8")
    assert set(shipped["figures"]) <= set(BY_NAME)
