"""Rendered songs as a separator leaves them: the truth stays, the voice is what it found, the band is gone."""

from pathlib import Path

import pyarrow.parquet as pq
import torch

from autosing.evaluation.separation import si_sdr
from autosing.rendering.__main__ import main
from autosing.rendering.dataset import decode
from autosing.store import song_tables

TEST_SONGS = Path(__file__).parents[2] / "demo" / "test_songs"


def test_the_voice_is_what_a_separator_finds_and_the_truth_stays(tmp_path, capsys):
    command = ["separated", "--songs", str(TEST_SONGS), "--out", str(tmp_path / "out"), "--limit", "1"]
    assert main(command) == 0
    (table,) = song_tables(tmp_path / "out")
    before = pq.read_table(next(iter(song_tables(TEST_SONGS)))).to_pylist()
    after = pq.read_table(table).to_pylist()
    assert [row["id"] for row in after] == [row["id"] for row in before if row["accompaniment"]]
    gains = []
    for row, old in zip(after, before, strict=True):
        assert row["kind"] == "separated" and row["accompaniment"] is None
        assert all(row[name] == old[name] for name in ("words", "phones", "notes", "f0", "artist"))
        voice, band, found = (torch.from_numpy(decode(data)) for data in (old["vocals"], old["accompaniment"], row["vocals"]))
        assert found.shape == voice.shape
        mix = voice + band[:, : voice.shape[1]].mean(0, keepdim=True)
        gains.append(si_sdr(found, voice) - si_sdr(mix, voice))
    assert min(gains) > 1 and sum(gains) / len(gains) > 4
    assert main(command) == 0 and "0 rows" in capsys.readouterr().out  # a committed partition is passed over
