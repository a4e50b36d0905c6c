"""`--filter`: what the language means, what it refuses, and what construct_dataset does with it."""

import datetime
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_songs import SMALL, read

from autosing.cli.construct_dataset import main as construct
from autosing.cli.process import main as process
from autosing.errors import ConfigError
from processing.filtering import RowFilter

COLUMNS = ("trust", "sung_share", "bleed", "artist", "year")
ROW = {"trust": 0.9, "sung_share": 0.5, "bleed": None, "artist": "Ada", "year": 1999}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("trust > 0.85 and sung_share > 0.6", False),
        ("trust > 0.85 and sung_share >= 0.5", True),
        ("trust > 0.95 or sung_share < 0.6", True),
        ("not trust > 0.95", True),
        ("0.8 < trust <= 0.9", True),
        ("artist == 'Ada'", True),
        ("artist in ['Bram', 'Ada'] and year not in (2000, 2001)", True),
        ("'d' in artist", True),
        ("bleed > 10", False),
        ("not bleed > 10", False),
        ("bleed is None or bleed > 10", True),
        ("bleed is not None", False),
        ("bleed > 10 or trust > 0.5", True),
        ("year - 1900 > 98 and trust * 2 / 1.0 + -1 > 0.7", True),
        ("trust / (year - 1999) > 0", False),
        ("True and not False", True),
        ("bleed in [1, 2]", False),
        ("bleed == None", False),
    ],
)
def test_what_expressions_mean(text: str, kept: bool) -> None:
    assert RowFilter(text, COLUMNS).keeps(ROW) is kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("day >= '2021-01-01' and day < '2022-01-01'", True),
        ("day in ['2021-03-01']", True),
        ("day == '2021-03-02'", False),
        ("heard > '2021-03-01' and heard < '2021-03-01 13:00:00'", True),
        ("price * 2 >= 3", True),
        ("took > 60", True),
        ("'live' in tags and 2 in counts", True),
        ("'studio' in tags or counts == []", False),
    ],
)
def test_dates_are_texts_and_columns_of_lists_hold_values(text: str, kept: bool) -> None:
    row = {
        "day": datetime.date(2021, 3, 1),
        "heard": datetime.datetime(2021, 3, 1, 12, 30),
        "price": Decimal("1.50"),
        "took": datetime.timedelta(minutes=2),
        "tags": ["live", "short"],
        "counts": np.array([1, 2]),
    }
    assert RowFilter(text, tuple(row)).keeps(row) is kept


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trsut > 0.8", "no column 'trsut'; did you mean 'trust'?"),
        ("__import__('os').system('touch x')", "'__import__('os').system('touch x')' is not understood"),
        ("trust.__class__ == 1", "'trust.__class__' is not understood"),
        ("[x for x in [1]]", "is not understood"),
        ("(lambda: 1)() > 0", "is not understood"),
        ("trust ** 99 > 0", "is not understood"),
        ("artist[0] == 'A'", "is not understood"),
        ("trust > 1e400j", "is not understood"),
        (f"trust > {'9' * 30}", "is not understood"),
        ("trust >", "is not a condition"),
        ("trust = 1", "is not a condition"),
        ("", "is not a condition"),
        ("trust is 1", "asks for None alone"),
        ("trust > 0" + " and trust > 0" * 100, "more than 1000"),
    ],
)
def test_what_is_not_understood_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="--filter") as caught:
        RowFilter(text, COLUMNS)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("artist > 3", "compares 'Ada' with 3"),
        ("artist == 3", "compares 'Ada' with 3"),
        ("trust", "is no condition"),
        ("trust and year", "is no condition"),
        ("not artist", "takes 'Ada' for true or false"),
        ("artist + 1 > 2", "which is no number"),
        ("1 in trust", "holds no values"),
    ],
)
def test_values_that_do_not_fit_are_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RowFilter(text, COLUMNS).keeps(ROW)
    assert said in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.text("()[]{}<>=!'\"\\+-*/,. notadrisuTNe0123456789", max_size=60))
def test_any_text_is_a_filter_or_one_line(text: str) -> None:
    try:
        RowFilter(text, COLUMNS).keeps(ROW)
    except ConfigError as error:
        assert "--filter" in str(error)


def test_deep_nesting_is_refused_or_read() -> None:
    for text in ("(" * 400 + "trust" + ")" * 400 + " > 0", "not " * 240 + "trust > 0", "-" * 900 + "trust > 0"):
        try:
            RowFilter(text, COLUMNS).keeps(ROW)
        except ConfigError as error:
            assert "is not a condition" in str(error)


def test_conditions_are_counted_apart_and_in_order() -> None:
    made = RowFilter("trust > 0.5 and (bleed > 10 and year >= 2000)", COLUMNS)
    rows = [(0.9, 20, 2001), (0.1, 20, 2001), (0.9, None, 2001), (0.9, 5, 1990)]
    kept = [made.keeps({"trust": t, "bleed": b, "year": y}) for t, b, y in rows]
    assert kept == [True, False, False, False] and made.columns == ("bleed", "trust", "year")
    counts = [(c.condition, c.removed, c.unknown, c.left) for c in made.counts()]
    assert counts == [("trust > 0.5", 1, 0, 3), ("bleed > 10", 2, 1, 1), ("year >= 2000", 1, 0, 1)]


FLAGS = ["--codec", "fake", "--num-out-partitions", "1"]


def test_rows_are_left_out_before_the_split_and_the_table_says_why(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert construct([str(processed), "2", str(out), *FLAGS, "--filter", "trust > 0.95 and year == 2000"]) == 0
    rows = read(out / "0" / "main.parquet") + read(out / "1" / "main.parquet")
    assert rows and {row["song"] for row in rows} == {"beta"}
    windows = [row for path in processed.glob("*/chunked.parquet") for row in read(path)]
    alpha, gamma, delta = (sum(row["song"] == song for row in windows) for song in ("alpha", "gamma", "delta"))
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["trust", ">", "0.95", f"{alpha + gamma}", f"{gamma}", f"{len(windows) - alpha - gamma}"] in said
    assert ["year", "==", "2000", f"{alpha + gamma + delta}", f"{gamma + delta}", f"{len(rows)}"] in said
    description = json.loads((out / "dataset.json").read_text())
    assert description["filter"]["expression"] == "trust > 0.95 and year == 2000" and description["filter"]["rows_before"] == len(windows)
    assert description["songs"] == {"train": 1, "validation": 0}


def test_a_filter_is_part_of_what_the_dataset_was_made_from(processed: Path, tmp_path: Path) -> None:
    hashes = []
    for name, text in (("a", ""), ("b", "seconds > 0"), ("c", "seconds > 0 ")):
        assert construct([str(processed), "2", str(tmp_path / name), *FLAGS, "--filter", text]) == 0
        hashes.append(json.loads((tmp_path / name / "dataset.json").read_text())["source_hash"])
    assert hashes[0] != hashes[1] == hashes[2]


def test_rows_carry_what_may_be_filtered_on(processed: Path, tmp_path: Path) -> None:
    assert construct([str(processed), "2", str(tmp_path / "out"), *FLAGS]) == 0
    rows = {row["id"]: row for path in (tmp_path / "out").glob("*/main.parquet") for row in read(path)}
    for partition in ("0", "1"):
        windows = {row["id"]: row for row in read(processed / partition / "chunked.parquet")}
        for quality in read(processed / partition / "quality.parquet"):
            row, window = rows[quality["id"]], windows[quality["id"]]
            assert row["sung_share"] == window["occupancy"]
            assert all(row[name] == quality[name] for name in ("signal_to_bleed", "silence_share", "clipped_share"))
            scores = window["alignment"]["scores"]
            assert row["align_score"] == (pytest.approx(sum(scores) / len(scores)) if scores else None)


def test_mistakes_are_one_line(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, said in (
        ("sung_shar > 0.6", "no column 'sung_shar'; did you mean 'sung_share'?"),
        ("trust > 2", "keeps none of"),
        ("artist > 2", "both must be numbers"),
    ):
        assert construct([str(processed), "2", str(tmp_path / "out"), *FLAGS, "--filter", text]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "out" / "dataset.json").exists()


def test_a_dataset_of_before_stays_usable(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without quality.parquet: constructed with a note, filtered by what is known; the named command fills the rest."""
    for path in processed.glob("*/quality.parquet"):
        path.unlink()
    assert construct([str(processed), "2", str(tmp_path / "out"), *FLAGS, "--filter", "trust > 0.5 and sung_share > 0.1"]) == 0
    said = capsys.readouterr().out
    assert "signal_to_bleed, silence_share, clipped_share, duplicate_of are unknown there" in said and f"`autosing-process quality {processed}` fills them" in said
    assert all(row["silence_share"] is None and row["sung_share"] > 0.1 for row in read(tmp_path / "out" / "0" / "main.parquet"))
    assert construct([str(processed), "2", str(tmp_path / "out"), *FLAGS, "--filter", "silence_share < 0.5"]) == 2
    assert "--filter asks about silence_share, but" in capsys.readouterr().err
    assert process(["quality", str(processed), *SMALL]) == 0
    assert construct([str(processed), "2", str(tmp_path / "out"), *FLAGS, "--filter", "silence_share < 0.5"]) == 0
    assert "fills them" not in capsys.readouterr().out


def test_copies_are_named_and_stay_on_one_side(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = processed / "1" / "quality.parquet"
    table = pq.read_table(path)
    original = read(processed / "0" / "quality.parquet")[0]["fingerprint"]
    prints = [original if song == "delta" else "00" * 16 + "ff" * 16 for song in table["song"].to_pylist()]
    kept = {row["song"]: row["fingerprint"] for row in read(processed / "0" / "quality.parquet")}
    assert kept["alpha"] == original
    rows = [{**row, "fingerprint": mark} for row, mark in zip(table.to_pylist(), prints, strict=True)]
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    for seed in range(4):
        out = tmp_path / f"out{seed}"
        assert construct([str(processed), "2", str(out), *FLAGS, "--validation-share", "0.5", "--seed", str(seed)]) == 0
        sides = [{row["song"] for row in read(out / name / "main.parquet")} for name in ("0", "1")]
        assert any({"alpha", "delta"} <= side for side in sides)
    assert "'delta' of 'alpha'" in capsys.readouterr().out
    assert construct([str(processed), "2", str(tmp_path / "out"), *FLAGS, "--filter", "duplicate_of is None"]) == 0
    rows = [row for name in ("0", "1") for row in read(tmp_path / "out" / name / "main.parquet")]
    assert rows and "delta" not in {row["song"] for row in rows}
