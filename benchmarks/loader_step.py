"""Reading training batches alone, one way of three, over the same random rows; a step is some batches.

Settings: `way` "ours" (row groups of Parquet in the order of a training run), "webdataset" (the same rows as tar files, shuffled by a buffer) or
"dataloader" (a plain torch DataLoader over the Parquet tables, held in memory); `folder`, `task`, `batch`, `batches` a step, `workers`.
What a row becomes is our task's `example` in all three, so that what differs is how rows are found and read.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import DataLoader, Dataset

from autosing.song.alignment import ALIGNMENT_TYPE, Alignment, Token, Word
from autosing.store import write_table
from autosing.tokens.text import PHONES
from autosing.training.batches import Plan, TrainBatches, collate
from autosing.training.loader import prefetch
from autosing.training.rows import ParquetRows
from benchmarks.our_step import CODECS, SEMANTIC, VOICE, make, random_codes
from benchmarks.turns import serve

ROWS, TABLES, SECONDS = 512, 8, 30.0
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("stoks", pa.list_(pa.int32())),
        ("atoks", pa.list_(pa.int16())),
        ("mtoks", pa.list_(pa.int16())),
        ("embs", pa.list_(pa.float32())),
        ("alignment", ALIGNMENT_TYPE),
    ]
)


def random_alignment(rng: np.random.Generator) -> Alignment:
    """Words of three phones, two a second."""
    words, tokens = [], []
    for number, start in enumerate(np.arange(0.2, SECONDS - 0.5, 0.5)):
        words.append(Word("word", start, start + 0.4, 1.0, number // 8))
        for part in range(3):
            phone = str(rng.choice(PHONES))
            tokens.append(Token(phone, start + 0.13 * part, start + 0.13 * (part + 1), 1.0, number))
    return Alignment(tuple(words), tuple(tokens), 1.0)


def write_rows(folder: Path) -> list[Path]:
    """Tables of random rows, 30 s each, as construct_dataset writes them."""
    rng, codec = np.random.default_rng(0), CODECS["builtin"]
    paths = [folder / str(number) / "main.parquet" for number in range(TABLES)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        rows = []
        for row in range(ROWS // TABLES):
            codes = random_codes(codec, 2, codec.frames(SECONDS)).numpy().reshape(2, -1).astype(np.int16)
            rows.append(
                {
                    "id": f"song{number}-{row}_at_0",
                    "stoks": rng.integers(0, SEMANTIC.num_codes, SEMANTIC.tokens(SECONDS)).astype(np.int32),
                    "atoks": codes[0],
                    "mtoks": codes[1],
                    "embs": rng.normal(size=3 * VOICE.width).astype(np.float32),
                    "alignment": random_alignment(rng).to_struct(),
                }
            )
        write_table(path, rows, SCHEMA)
    return paths


def write_shards(tables: list[Path], folder: Path) -> None:
    """The same rows for webdataset: a tar file a table, a .npy a list of numbers, JSON for the alignment."""
    import webdataset

    folder.mkdir()
    for number, table in enumerate(tables):
        with webdataset.TarWriter(str(folder / f"{number}.tar")) as shard:  # type: ignore[attr-defined]
            for row in pq.read_table(table).to_pylist():
                numbers = {f"{name}.npy": np.asarray(row[name]) for name in ("stoks", "atoks", "mtoks", "embs")}
                shard.write({"__key__": row["id"], **numbers, "alignment.json": json.dumps(row["alignment"]).encode()})


class InMemory(Dataset):
    """Rows of whole tables, in memory."""

    def __init__(self, tables: list[Path], columns: tuple[str, ...], task: Any):
        self._table, self._task = pa.concat_tables([pq.read_table(table, columns=list(columns)) for table in tables]), task

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Any:
        return self._task.example(self._table.slice(index, 1).to_pylist()[0], np.random.default_rng(index))


def endless_shards(folder: Path, task: Any, batch: int, workers: int) -> Iterator[Any]:
    import webdataset

    shards = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=False, resampled=True)  # type: ignore[attr-defined]
        .shuffle(256, initial=64)
        .decode()
        .map(lambda s: {"id": s["__key__"], **{key.split(".")[0]: value for key, value in s.items() if "." in key}})
        .map(lambda row: task.example(row, np.random.default_rng(0)))
    )
    tensors = lambda example: {key: value for key, value in example.items() if not key.startswith("__")}  # noqa: E731 - it adds its own keys
    return iter(DataLoader(dataset, batch, num_workers=workers, collate_fn=lambda examples: collate(task, list(map(tensors, examples)))))


def build(settings: dict[str, Any]) -> Any:
    task, _, _ = make({**settings, "codec": "builtin", "args": {"text": "phones"} if settings["task"] == "t2s" else {}, "music": True})
    folder, batch, workers = Path(settings["folder"]), settings["batch"], settings["workers"]
    tables = sorted(folder.glob("rows/*/main.parquet"))
    if settings["way"] == "ours":
        rows = ParquetRows([[table] for table in tables], task.columns)
        stream: Iterator[Any] = prefetch(TrainBatches(task, rows, Plan(len(rows), batch, 0)), range(1 << 40), workers)
    elif settings["way"] == "webdataset":
        stream = endless_shards(folder / "shards", task, batch, workers)
    else:
        loader = DataLoader(InMemory(tables, task.columns, task), batch, shuffle=True, num_workers=workers, collate_fn=lambda e: collate(task, e))
        stream = itertools.chain.from_iterable(itertools.repeat(loader))
    return lambda: [next(stream) for _ in range(settings["batches"])], {"rows": ROWS}


if __name__ == "__main__":
    serve(build)
