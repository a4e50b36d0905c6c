"""Task artist: the artist file, passages, refusals. That it learns is tested in tests/contract/test_tasks.py."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from autosing.config import from_mapping
from autosing.errors import ConfigError, DataError, MismatchError
from tasks.artist import TASK, ArtistArgs, ArtistTunables, main, read_artists
from tests.sequence_rows import BAND, CODEC, toy_meta, toy_row

FIELDS = {"crop_seconds": 6.0, "depth": 1, "heads": 1, "width": 16}


@pytest.fixture
def artists(tmp_path: Path) -> str:
    (tmp_path / "artists.json").write_text('{"Ann": 0, "Bo": 1}')
    return str(tmp_path / "artists.json")


def made(artists: str, **values) -> TASK:
    return TASK(from_mapping(ArtistArgs, {**FIELDS, "artist_file": artists, **values}, "args"), ArtistTunables(), toy_meta(10.0))


def test_a_passage_starts_with_a_block_and_stays_within_its_row(artists: str) -> None:
    task, row = made(artists), {**toy_row(3, 10.0), "artist": "Bo"}
    whole = torch.tensor(row["atoks"]).view(4, -1)
    starts = set()
    for seed in range(12):
        example = task.example(row, np.random.default_rng(seed))
        assert example is not None and example["artist"] == 1 and example["codes"].shape == (4, CODEC.frames(6.0))
        found = [at for at in range(0, whole.shape[1] - task.frames + 1) if torch.equal(whole[:, at : at + task.frames], example["codes"])]
        assert any(at % task.block == 0 for at in found)
        starts |= set(found)
    assert len(starts) > 3


def test_rows_that_do_not_fit_are_passed_over(artists: str) -> None:
    task, rng = made(artists), np.random.default_rng(0)
    for unfit in ({"artist": "Cy"}, {"artist": None}, {"atoks": []}, {"atoks": toy_row(3, 5.0)["atoks"]}):
        assert task.example({**toy_row(3, 10.0), "artist": "Bo", **unfit}, rng) is None


def test_the_embedding_hears_what_went_before_and_nothing_of_names(artists: str) -> None:
    torch.manual_seed(0)
    task = made(artists)
    model = task.build_model().eval()
    codes = task.example({**toy_row(3, 10.0), "artist": "Bo"}, np.random.default_rng(0))["codes"][None]
    assert model(codes).shape == (1, 16)
    other = codes.clone()
    other[:, 0, 0] = (other[:, 0, 0] + 1) % CODEC.num_codes
    assert not torch.equal(model(codes), model(other))


@pytest.mark.parametrize("content, said", [('{"Ann": 0}', "two artists or more"), ('{"Ann": 0, "Bo": 2}', "classes 0, 1, 2"), ("[]", "cannot be read")])
def test_an_artist_file_that_cannot_be_used_is_told(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(DataError, match=said):
        read_artists(str(tmp_path / "bad.json"))
    with pytest.raises(ConfigError, match="needs --task-args"):
        read_artists("")
    with pytest.raises(DataError, match="cannot be read"):
        read_artists(str(tmp_path / "missing.json"))


def test_weights_of_another_codec_are_refused_by_name(artists: str) -> None:
    task = made(artists)
    task.check_loaded(task.checkpoint_meta(), "checkpoint 'a'")
    with pytest.raises(MismatchError, match=r"toy_band.*toy|toy.*toy_band"):
        TASK(task.args, task.tunables, toy_meta(10.0, codec=BAND)).check_loaded(task.checkpoint_meta(), "checkpoint 'a'")


def test_the_artist_file_lists_those_with_enough_rows(tmp_path: Path, capsys) -> None:
    names = ["Bo"] * 3 + ["Ann"] * 4 + ["Cy"] * 2 + [None]
    folder = tmp_path / "data" / "1"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"id": [f"s{i}_at_0" for i in range(10)], "artist": names, "atoks": [[1]] * 10}), folder / "main.parquet")
    about = {"format": "autosing-dataset/1", "codec": toy_meta().to_json()["codec"], "partitions": {"train": [1], "validation": []}}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(about))
    assert main([str(tmp_path / "data"), str(tmp_path / "out.json"), "--least", "3"]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text()) == {"Ann": 0, "Bo": 1}
    assert main([str(tmp_path / "data"), "/dev/null/out.json", "--least", "3"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write '/dev/null/out.json' (")
    assert main([str(tmp_path / "data"), str(tmp_path / "out.json"), "--least", "4"]) == 2
    assert "has 1 artists with at least 4 rows, of 3" in capsys.readouterr().err
