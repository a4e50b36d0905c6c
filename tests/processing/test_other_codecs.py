"""A codec of another project, chosen with the place of its weights, from songs to what a model is told."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_songs import SMALL

from autosing.cli.construct_dataset import main as construct
from autosing.cli.process import main
from autosing.store import TableReader
from autosing.tokens.specs import spec_from_json
from autosing.training.data import DatasetConfig, open_dataset, read_meta
from tests.outside_models import write_codec


@pytest.mark.parametrize("name", ["encodec_32khz"])
def test_its_spec_travels_from_the_tables_to_the_model(name: str, songs: Path, tmp_path: Path) -> None:
    import tasks.sm2a

    write_codec(tmp_path / "weights", name)
    place = SMALL.index("--codec") + 1
    flags = [*SMALL[:place], f"{name}:{tmp_path / 'weights'}", *SMALL[place + 1 :]]
    assert main(["run", str(songs), *flags]) == 0
    table = songs / "0" / f"atoks_vocals_{name}.parquet"
    with TableReader(table) as reader:
        spec = spec_from_json(reader.meta["codec"])
    assert (spec.name, spec.strides, spec.num_codes) == (name, (1, 1, 1, 1), 2048)
    assert all(len(row["values"]) == 4 * spec.frames(4.0) for row in pq.read_table(table).to_pylist())
    tokens = tmp_path / "tokens"
    assert construct([str(songs), "2", str(tokens), "--num-out-partitions", "1", "--codec", name]) == 0
    assert json.loads((tokens / "dataset.json").read_text())["codec"]["name"] == name
    config = DatasetConfig(path=str(tokens))
    meta = read_meta(config)
    assert meta.codec == meta.accompaniment_codec == spec
    task = tasks.sm2a.TASK(tasks.sm2a.SM2AArgs(size="micro", codebooks=False), tasks.sm2a.SM2ATunables(), meta)
    assert task.config().codec == spec
    rows = open_dataset(task, config, meta).train
    assert task.example(rows[0], np.random.default_rng(0))["codes"].shape == (4, spec.frames(4.0))

    write_codec(tmp_path / "weights", name, num_filters=4)  # other weights: the codes are due again, all else is not
    before = {path: path.stat().st_mtime_ns for path in songs.glob("0/*.parquet")}
    assert main(["run", str(songs), *flags]) == 0
    changed = {path.stem for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed >= {f"atoks_vocals_{name}", f"atoks_no_vocals_{name}"} and not changed & {"vocals", "alignment", "chunked", "stoks", "artist_embs"}
