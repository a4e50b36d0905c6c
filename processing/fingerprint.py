"""Who makes a table, as a JSON value: a backend's name, and for the embedded default the hash of the weights it reads.

So new weights, or another configuration of the same ones, make the tables of the old ones due again. What a checkpoint says about its
training (`meta` of its `config.json`) changes nothing that it computes and is not hashed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from autosing.registry import Registry
from autosing.store import sha256_of
from autosing.weights import weights_folder

_READS = {
    "separator": ("separator",),
    "aligner": ("recogniser", "lexicon", "g2p"),
    "codec": ("codec", "codec_band", "pitch"),
    "semantic tokenizer": ("semantic", "semantic/recogniser"),
    "voice embedder": ("voice",),
}
"""What a builtin backend of each kind reads of `autosing/weights`."""


def identity(registry: Registry, name: str) -> dict[str, Any]:
    """The identity of a backend.

    Raises:
        ConfigError: no such backend.
    """
    if name not in registry.names():
        registry.get(name)  # raises, with the nearest name
    if not name.startswith("builtin"):
        return {"name": name}
    folders = [weights_folder(kind) for kind in _READS[registry.what]]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    return {"name": name, "weights": [mark for path in files if (mark := _mark(path))]}


def _mark(path: Path) -> str:
    """A short hash of what a file of weights changes; "" if it changes nothing."""
    if path.name == "config.json":
        config = json.loads(path.read_text(encoding="utf-8")).get("config")
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    return sha256_of(path)[:16] if path.suffix in (".safetensors", ".xz") else ""
