"""What an import did, song by song: `import-<name>.jsonl` of a dataset, and the first of each kind in memory for the command's last lines."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from autosing.errors import DataError
from autosing.store import Dataset, atomic_path, remove_temporaries, writing
from processing.formats.base import LeftOut

_SHOWN = 20


class ImportReport:
    """`import-<name>.jsonl` of a dataset, one line a song or file; appears when the import ends, even by an error of the user's."""

    def __init__(self, dataset: Dataset, name: str):
        safe = re.sub(r"[^\w.-]+", "_", name)[:60] or "songs"
        self.path = dataset.path / f"import-{safe}.jsonl"
        self.codes: Counter[str] = Counter()
        self.left_out: list[LeftOut] = []
        self.not_unicode: list[str] = []
        self.gone: list[str] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "ImportReport":
        with writing(self.path):
            remove_temporaries(self.path.parent)
            temporary = self._stack.enter_context(atomic_path(self.path))
            self._file = self._stack.enter_context(open(temporary, "w", encoding="utf-8"))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, DataError):
            kind = error = trace = None
        with writing(self.path):
            self._stack.__exit__(kind, error, trace)

    def song(self, state: str, path: str, identity: str | None) -> None:
        self._line({"state": state, "path": path, "id": identity})

    def is_gone(self, path: str, identity: str | None) -> None:
        if len(self.gone) < _SHOWN:
            self.gone.append(path)
        self.song("gone", path, identity)

    def leave_out(self, item: LeftOut) -> None:
        self.codes[item.code] += 1
        if len(self.left_out) < _SHOWN:
            self.left_out.append(item)
        self._line({"state": "left_out", **item._asdict()})

    def note(self, path: str) -> None:
        if len(self.not_unicode) < _SHOWN and path not in self.not_unicode:
            self.not_unicode.append(path)

    def _line(self, values: Mapping[str, Any]) -> None:
        with writing(self.path):
            self._file.write(json.dumps(values, ensure_ascii=False) + "\n")
