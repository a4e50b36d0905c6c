"""`stoks`: windows of the vocals -> semantic tokens, stoks.parquet (id, values).

The two halves of a window are encoded apart, so that cutting a row in two (`construct_dataset --split`) gives exactly the tokens
the halves have on their own. The tokenizer's spec is in the schema metadata under "semantic".
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch

from autosing.perception import SEMANTIC, load_semantic
from autosing.tokens.specs import spec_to_json
from processing.fingerprint import identity
from processing.step import Done, Rejected, Song, each
from processing.windows import WINDOW_COLUMNS, WINDOWS_TABLE, load_windows, window_seconds

SCHEMA = pa.schema([("id", pa.string()), ("song", pa.string()), ("values", pa.list_(pa.int32()))])


class SemanticTokens:
    """Windows -> semantic tokens."""

    name = key = "stoks"
    version = "1"
    writes = ("stoks",)

    def __init__(self, semantic: str = "builtin", batch_size: int = 8):
        self._name, self._batch_size = semantic, batch_size
        self.reads = {"vocals": ("audio",), WINDOWS_TABLE: WINDOW_COLUMNS}

    def settings(self) -> dict[str, Any]:
        return {"semantic": identity(SEMANTIC, self._name)}

    def setup(self, device: torch.device) -> None:
        self._tokenizer = load_semantic(self._name, device)

    def schemas(self) -> dict[str, tuple[pa.Schema, dict[str, str]]]:
        return {"stoks": (SCHEMA, {"semantic": spec_to_json(self._tokenizer.spec)})}

    def rows(self, songs: Iterator[Song]) -> Iterator[Done | Rejected]:
        return each(songs, self._encode)

    def _encode(self, song: Song) -> Done:
        spec = self._tokenizer.spec
        ids, wav = load_windows(song, "vocals", spec.sample_rate)
        half_seconds = window_seconds(song) / 2
        half = round(half_seconds * spec.sample_rate)
        halves = wav[:, : 2 * half].reshape(-1, half)
        step = 2 * max(1, self._batch_size // 2)
        with torch.inference_mode():
            tokens = torch.cat([self._tokenizer.encode(halves[b : b + step]).cpu() for b in range(0, len(halves), step)])
        values = tokens[:, : spec.tokens(half_seconds)].reshape(len(ids), -1).to(torch.int32).numpy()
        return Done(song.id, {"stoks": [{"id": i, "song": song.id, "values": v} for i, v in zip(ids, values, strict=True)]})
