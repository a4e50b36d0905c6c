"""Rendered songs as a separator leaves them: the same truth, but `vocals` are what it finds in the mix, and there is no accompaniment.

For what must work on separated vocals and would learn too little from imitated ones. Letters: n samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from autosing.perception import load_separator
from autosing.perception.separation.base import vocals_of
from autosing.rendering.dataset import decode, encode, write_rows
from autosing.song import audio
from autosing.store import SEPARATED, TableReader, song_tables


@dataclass(frozen=True)
class SeparatedPlan:
    """A run over the first `most` tables of `songs` (None = all), one partition of `out` each."""

    songs: Path
    out: Path
    separator: str = "builtin"
    most: int | None = None

    def tables(self) -> list[Path]:
        """
        Raises:
            DataError: no tables there.
        """
        return list(song_tables(self.songs))[: self.most]

    def partitions(self) -> list[range]:
        """
        Raises:
            DataError: a damaged table.
        """
        partitions = []
        for table in self.tables():
            with TableReader(table) as reader:
                partitions.append(range(len(reader)))
        return partitions

    def path(self, partition: int) -> Path:
        return self.out / str(partition) / "songs.parquet"


def separate_partition(plan: SeparatedPlan, partition: int) -> tuple[int, float]:
    """Separate and commit one partition; returns (rows, seconds of audio). Rows without accompaniment are left out.

    Raises:
        DataError: a damaged table.
    """
    separator = load_separator(plan.separator)
    seconds = 0.0

    def rows() -> Iterator[dict]:
        nonlocal seconds
        with TableReader(plan.tables()[partition]) as reader:
            for row in reader.rows(reader.schema.names):
                if row["accompaniment"] is None:
                    continue
                rate, vocals = row["sample_rate"], torch.from_numpy(decode(row["vocals"]))
                mix = vocals + torch.from_numpy(decode(row["accompaniment"]))[:, : vocals.shape[1]]
                heard = audio.mono(vocals_of(separator, mix, rate))
                seconds += len(heard) / rate
                yield {**row, "kind": SEPARATED, "vocals": encode(heard.clamp(-1, 1).numpy()), "accompaniment": None}

    return write_rows(rows(), plan.path(partition)), seconds
