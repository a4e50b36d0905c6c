"""The evaluation command: its last line, sections that fail, and windows that are fair to compare."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from autosing.errors import DataError
from autosing.evaluation import builtin
from autosing.evaluation.chain import added_by_stage, asked_voice_auc
from autosing.evaluation.figures import Figure
from autosing.evaluation.windows import LEAST_PHONES, validation_rows
from autosing.rendering.tokens import MAIN
from autosing.store import song_rows
from tests.sequence_rows import toy_meta, toy_row


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    (tmp_path / "songs" / "0").mkdir(parents=True)
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "songs" / "0" / "songs.parquet")
    return tmp_path / "songs"


def run(songs: Path, capsys: pytest.CaptureFixture[str], *more: str, only: str = "good") -> tuple[int, dict]:
    code = builtin.main(["--songs", str(songs), "--work", str(songs.parent / "work"), "--shared", "nowhere", "--threads", "1", "--only", only, *more])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def figures(monkeypatch) -> None:
    rows = (Figure("x", "x", ("good", "x"), "<=", 0.4), Figure("y", "y", ("good", "y"), ">=", 1))
    monkeypatch.setattr(builtin, "FIGURES", rows)


def test_the_last_line_has_versions_machine_protocol_figures_and_bars(songs, capsys, monkeypatch, figures):
    monkeypatch.setattr(builtin, "SECTIONS", {"good": lambda m: {"wide": float("nan"), "x": 0.3, "y": float("nan")}})
    code, line = run(songs, capsys)
    assert code == 0 and {"versions", "machine", "protocol", "weights", "figures", "bars"} <= set(line)
    assert line["protocol"]["seed"] == 0 and len(line["protocol"]["songs_hash"]) == 16 and line["protocol"]["mode"] == "fast"
    assert {"all", "recogniser", "t2s"} <= set(line["weights"])
    assert line["bars"] == {"x": {"value": 0.3, "bar": "<= 0.4", "ok": True}, "y": {"value": None, "bar": ">= 1", "ok": False}}
    assert line["figures"]["good"]["wide"] is None


def test_fast_takes_few_songs_full_many_and_flags_go_before_both(songs, capsys, monkeypatch, figures):
    seen = []
    monkeypatch.setattr(builtin, "SECTIONS", {"good": lambda m: seen.append(m.mode) or {"x": 0.3}})
    for more in ([], ["full"], ["full", "--limit", "3", "--windows", "5"]):
        assert run(songs, capsys, *more)[0] == 0
    fast, full, given = seen
    assert fast.limit < full.limit and fast.windows < full.windows and fast.real is not None and full.real is None
    assert (given.limit, given.separated, given.windows, given.real) == (3, 3, 5, None)


def test_the_fast_look_needs_no_songs_of_its_own(tmp_path, capsys, monkeypatch, figures):
    monkeypatch.setattr(builtin, "SECTIONS", {"good": lambda m: {"x": len(list(song_rows(m.songs, ("id",))))}})
    code = builtin.main(["--work", str(tmp_path), "--shared", "nowhere", "--threads", "1", "--only", "good"])
    said = capsys.readouterr()
    assert code == 0 and json.loads(said.out.splitlines()[-1])["figures"]["good"]["x"] == 4
    assert "a quick look" in said.err and "what needs them is left out" in said.err


def test_a_section_that_fails_leaves_the_others_and_the_exit_code_tells(songs, capsys, monkeypatch, figures):
    def fails(material):
        raise DataError("no song here; bring one")

    monkeypatch.setattr(builtin, "SECTIONS", {"fails": fails, "good": lambda m: {"x": 0.1}})
    code, line = run(songs, capsys, only="fails,good")
    assert code == 1 and line["bars"]["x"]["ok"] and line["figures"]["fails"]["error"] == "no song here; bring one"


def test_a_fault_nobody_foresaw_loses_no_figures_either(songs, capsys, monkeypatch, figures):
    monkeypatch.setattr(builtin, "SECTIONS", {"fails": lambda m: {}["x"], "good": lambda m: {"x": 0.1}})
    code, line = run(songs, capsys, only="fails,good")
    assert code == 1 and line["bars"]["x"]["ok"] and "KeyError" in line["figures"]["fails"]["error"]


def test_a_run_is_compared_with_an_earlier_one(songs, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(builtin, "SECTIONS", {"codec": lambda m: {"kbps": 1.5}})
    (tmp_path / "old.json").write_text(json.dumps({"figures": {"codec": {"kbps": 1.8}}}))
    arguments = ["--songs", str(songs), "--work", str(tmp_path), "--shared", "nowhere", "--threads", "1", "--only", "codec"]
    assert builtin.main([*arguments, "--against", str(tmp_path / "old.json")]) == 0
    assert "| codec_kbps | 1.8 | 1.5 | (better) |" in capsys.readouterr().err
    assert builtin.main([*arguments, "--against", "none"]) == 0 and "compared with" not in capsys.readouterr().err
    assert builtin.main([*arguments, "--against", str(tmp_path / "missing.json")]) == 2
    assert "no figures at" in capsys.readouterr().err


def test_no_songs_is_one_line(tmp_path, capsys):
    assert builtin.main(["--songs", str(tmp_path / "none"), "--work", str(tmp_path / "w"), "--threads", "1", "--only", "codec"]) == 2
    assert "render songs first" in capsys.readouterr().err


def token_set(folder: Path, songs: list[str]) -> Path:
    """Windows of toy rows in the order given, all for validation."""
    rows = []
    for number, song in enumerate(songs):
        row = toy_row(number, 30.0)
        assert len(row["alignment"]["tokens"]) >= LEAST_PHONES
        rows.append({**row, "id": f"{song}_at_{number}", "song": song, "artist": song[0]})
    (folder / "0").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=MAIN), folder / "0" / "main.parquet")
    meta = {**toy_meta().to_json(), "partitions": {"train": [], "validation": [0]}, "rows": {"train": 0, "validation": len(rows)}}
    (folder / "dataset.json").write_text(json.dumps(meta))
    return folder


def test_every_song_gives_a_window_before_any_gives_two(tmp_path):
    rows, _ = validation_rows(token_set(tmp_path, ["a", "a", "a", "b", "c", "c"]), 4)
    assert [row["song"] for row in rows] == ["a", "b", "c", "a"]
    assert len(validation_rows(tmp_path, 100)[0]) == 6


def test_the_stages_sum_to_the_error_of_the_chain():
    written = [tuple("abcd"), tuple("efgh")]
    heard = {"original": [tuple("abcd"), tuple("efg")], "codec": [tuple("abc"), tuple("efg")], "sm2a": [tuple("ab"), tuple("ef")],
             "one_try": [tuple("ab"), ()], "chosen": [tuple("abc"), ()], "chain": [tuple("abc"), tuple("efg")]}  # fmt: skip
    added = added_by_stage(heard, written)
    assert list(added) == ["judge", "codec", "sm2a", "t2s", "choosing", "repair"]
    assert [added[stage]["value"] for stage in added] == [0.125, 0.125, 0.25, 0.25, -0.125, -0.375]
    assert sum(stage["value"] for stage in added.values()) == pytest.approx(0.25)
    assert sum(stage["share"] for stage in added.values()) == pytest.approx(1.0)


def test_a_voice_like_the_asked_one_is_told_from_others():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    found = asked_voice_auc([(a, a, "a"), (b, b, "b")])
    assert found == {"asked_voice_auc": 1.0, "intervals": {"asked_voice_auc": [1.0, 1.0]}}
    assert asked_voice_auc([(a, b, "a"), (b, a, "b")])["asked_voice_auc"] == 0.0
    assert asked_voice_auc([(a, a, "a")]) == {}
