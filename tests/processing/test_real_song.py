"""One real song through every step with the embedded default."""

import json
from pathlib import Path

from small_songs import read

from autosing.cli.construct_dataset import main as construct
from autosing.cli.process import main


def test_a_real_song_becomes_training_rows(shared: Path, tmp_path: Path) -> None:
    song = shared / "ultrastar_cc" / "Jonathan Coulton - Monkey Shines"
    assert main(["import", str(song), str(tmp_path / "ds")]) == 0
    row = read(tmp_path / "ds" / "0" / "index.parquet")[0]
    assert row["artist"] == "Jonathan Coulton" and row["lrc_lyrics"]
    assert main(["run", str(tmp_path / "ds"), "--device", "cpu", "--strict"]) == 0
    assert construct([str(tmp_path / "ds"), "1", str(tmp_path / "out"), "--num-out-partitions", "1"]) == 0
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    rows = read(tmp_path / "out" / "0" / "main.parquet")
    assert len(rows) == description["rows"]["train"] >= 1 and description["codec"]["name"] == "builtin"
    for window in rows:
        assert len(window["stoks"]) == 30 * description["semantic"]["token_rate"]
        assert max(window["stoks"]) < description["semantic"]["num_codes"] and max(window["atoks"]) < description["codec"]["num_codes"]
        assert window["alignment"]["words"] and 0 <= window["trust"] <= 1
