"""Where the tables of a dataset are: `<dataset>/<i>/<table>.parquet`, i = 0, 1, ...."""

from collections.abc import Sequence
from pathlib import Path

from autosing.errors import DataError


class Dataset:
    """A folder of numbered partitions."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Dataset('{self.path}')"

    def partitions(self) -> tuple[int, ...]:
        """The numbers of the partition folders, ascending.

        Raises:
            DataError: no such folder, or no partition in it.
        """
        if not self.path.is_dir():
            raise DataError(f"there is no dataset at '{self.path}'; make one with `autosing-process import <folder> {self.path}`")
        numbers = sorted(int(p.name) for p in self.path.iterdir() if is_partition(p))
        if not numbers:
            raise DataError(f"'{self.path}' has no partition folder 0, 1, ...; each must hold an index.parquet")
        return tuple(numbers)

    def folder(self, partition: int) -> Path:
        return self.path / str(partition)

    def table(self, partition: int, name: str) -> Path:
        return self.folder(partition) / f"{name}.parquet"


def ranges_text(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 9] -> `0-2,9`."""
    pieces: list[str] = []
    ordered = sorted(numbers)
    begin = 0
    for end in range(1, len(ordered) + 1):
        if end == len(ordered) or ordered[end] != ordered[end - 1] + 1:
            pieces.append(f"{ordered[begin]}" if end - begin == 1 else f"{ordered[begin]}-{ordered[end - 1]}")
            begin = end
    return ",".join(pieces)


def is_partition(path: Path) -> bool:
    return path.is_dir() and path.name.isascii() and path.name.isdigit() and str(int(path.name)) == path.name
