"""Steps that a spawned worker process can import."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from processing.step import Done, Rejected, Song, each

SCHEMA = pa.schema([("id", pa.string()), ("bytes", pa.int64())])


class CountBytes:
    """Writes how many bytes of audio a song has."""

    name = key = "counted"
    version = "1"
    reads = {"index": ("audio",)}  # noqa: RUF012
    writes = ("counted",)

    def settings(self) -> dict[str, Any]:
        return {}

    def setup(self, device: torch.device) -> None:
        del device

    def schemas(self) -> dict[str, tuple[pa.Schema, dict[str, str]]]:
        return {"counted": (SCHEMA, {})}

    def rows(self, songs: Iterator[Song]) -> Iterator[Done | Rejected]:
        return each(songs, self.count)

    def count(self, song: Song) -> Done:
        return Done(song.id, {"counted": [{"id": song.id, "bytes": len(song.row("index")["audio"])}]})


class DieOnce(CountBytes):
    """Ctrl-C is pressed at its first song; it is killed at its second, unless it was before (then `mark` exists)."""

    def __init__(self, mark: Path):
        self.mark = mark

    def count(self, song: Song) -> Done:
        if song.id == "alpha":
            os.kill(os.getpid(), signal.SIGINT)
        if song.id == "beta" and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().count(song)


class CountThreads(CountBytes):
    """Writes how many threads torch has."""

    def count(self, song: Song) -> Done:
        return Done(song.id, {"counted": [{"id": song.id, "bytes": torch.get_num_threads()}]})
