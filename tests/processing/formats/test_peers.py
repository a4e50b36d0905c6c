"""What `webdataset` and `datasets` write we read, and what we write they read."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_songs import audio_bytes, read, tone

from autosing.store import Dataset
from processing.exporting import export_songs
from processing.importing import import_songs

SOUNDS = [audio_bytes(tone(1, 200 + 10 * n)) for n in range(3)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    folder.mkdir()
    rows = [{"file_name": f"{n}.flac", "id": f"s.{n}", "lyrics": "la", "artist": "A", "bpm": n} for n in range(3)]
    for number, audio in enumerate(SOUNDS):
        (folder / f"{number}.flac").write_bytes(audio)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_songs(folder, Dataset(tmp_path / "ds"), 2)
    return tmp_path / "ds"


def import_datasets() -> Any:
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    if int(datasets.__version__.split(".")[0]) >= 4:
        pytest.importorskip("torchcodec", reason="datasets needs torchcodec for audio", exc_type=Exception)
    return datasets


def rows(dataset: Path) -> list[dict]:
    return [row for path in sorted(dataset.glob("*/index.parquet")) for row in read(path)]


def test_webdataset_reads_ours(dataset: Path, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="needs the extra webdataset")
    export_songs(Dataset(dataset), "webdataset", tmp_path / "out")
    shards = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    found = list(wds.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert [sample["flac"] for sample in found] == SOUNDS and [sample["txt"] for sample in found] == [b"la"] * 3
    assert [json.loads(sample["json"])["id"] for sample in found] == ["s.0", "s.1", "s.2"]


def test_we_read_what_webdataset_writes(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset", reason="needs the extra webdataset")
    (tmp_path / "in").mkdir()
    with wds.ShardWriter(str(tmp_path / "in" / "s-%03d.tar"), maxcount=2, verbose=0) as writer:
        for number, audio in enumerate(SOUNDS):
            writer.write({"__key__": f"dir/{number:03d}", "flac": audio, "json": {"id": f"s.{number}", "bpm": number}, "txt": "la", "cls": number})
    report = import_songs(tmp_path / "in", Dataset(tmp_path / "ds"))
    assert (report.added, dict(report.codes)) == (3, {})
    assert [(row["id"], row["audio"], row["raw_lyrics"], row["bpm"]) for row in rows(tmp_path / "ds")] == [
        (f"s.{n}", audio, "la", n) for n, audio in enumerate(SOUNDS)
    ]


def test_datasets_reads_ours(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = import_datasets()
    export_songs(Dataset(dataset), "hf", tmp_path / "out")
    loaded = datasets.load_dataset("audiofolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    found = loaded.cast_column("audio", datasets.Audio(decode=False))
    assert [Path(row["audio"]["path"]).read_bytes() for row in found] == SOUNDS
    assert [(row["id"], row["raw_lyrics"], row["bpm"]) for row in found] == [("s.0", "la", 0), ("s.1", "la", 1), ("s.2", "la", 2)]


def test_we_read_what_datasets_writes(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = import_datasets()
    columns = {"audio": [{"bytes": audio, "path": f"{n}.flac"} for n, audio in enumerate(SOUNDS)], "id": ["s.0", "s.1", "s.2"], "bpm": [0, 1, 2]}
    features = datasets.Features({"audio": datasets.Audio(decode=False), "id": datasets.Value("string"), "bpm": datasets.Value("int32")})
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "hub" / "train-0.parquet"))
    import_songs(tmp_path / "hub" / "train-0.parquet", Dataset(tmp_path / "back"))
    assert [(row["id"], row["audio"], row["bpm"]) for row in rows(tmp_path / "back")] == [(f"s.{n}", a, n) for n, a in enumerate(SOUNDS)]
