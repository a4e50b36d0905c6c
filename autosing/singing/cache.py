"""What was heard in a recording, kept on disk by what it was heard in: the next request on the same reference need not listen again.

An entry is a file whose name is the hash of everything that its tensors depend on (the recording's bytes, the stretch, the weights of the ears,
versions): the SHA-256 of what follows, and the tensors as safetensors. Entries are written whole or not at all; a damaged one is as good as none. Runs side by side may
share a folder: equal keys hold equal values whoever writes them, and one that another run removes was read whole or is missing.
A cache that cannot be written costs time, never the song.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from autosing.store import atomic_path

MOST_BYTES = 2 << 30
"""The entries that were used longest ago go when all together take more."""
VARIABLE = "AUTOSING_CACHE"
_DIGEST_BYTES = 32

Tensors = dict[str, Tensor]


def default_folder() -> Path | None:
    """AUTOSING_CACHE, else `autosing` in the user's cache folder; None where that is below a home folder and there is none."""
    try:
        if os.environ.get(VARIABLE):
            return Path(os.environ[VARIABLE]).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "autosing" / "references"
    except RuntimeError:  # a user without an entry and without HOME, as in many containers
        return None


class Cache:
    """Tensors by key."""

    def __init__(self, folder: Path | None, most_bytes: int = MOST_BYTES):
        """`folder` None: nothing is kept."""
        self.folder, self.most_bytes = None if folder is None else Path(folder), most_bytes
        self.hits = self.misses = 0

    def get(self, key: Mapping[str, object], make: Callable[[], Tensors]) -> Tensors:
        """The tensors of `key`, made only where they are not kept."""
        if self.folder is None:
            return make()
        path = self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.tensors"
        found = _read(path)
        if found is not None:
            self.hits += 1
            return found
        self.misses += 1
        made = {name: tensor.contiguous() for name, tensor in make().items()}
        try:
            with atomic_path(path) as temporary:
                content = save(made)
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
            self._trim()
        except OSError:  # full or forbidden
            pass
        return made

    def _trim(self) -> None:
        assert self.folder is not None
        entries = []
        for path in (*self.folder.glob("*.tensors"), *self.folder.glob(".*.tmp")):  # what killed runs left counts too
            try:
                status = path.stat()
            except FileNotFoundError:  # another run was here
                continue
            entries.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.most_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


def _read(path: Path) -> Tensors | None:
    """The tensors of an entry, marked as used now; None where there is none or it is damaged."""
    try:
        data = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return load(content) if hashlib.sha256(content).digest() == digest else None
