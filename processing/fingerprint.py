"""Who makes a table, as a JSON value: a backend's name, and for the embedded default the hash of the weights it reads.

So new weights make the tables of the old ones due again.
"""

from typing import Any

from autosing.registry import Registry
from autosing.store import sha256_of
from autosing.weights import weights_folder

_READS = {
    "separator": ("separator",),
    "aligner": ("recogniser", "lexicon", "g2p"),
    "codec": ("codec", "codec_band", "pitch"),
    "semantic tokenizer": ("semantic", "recogniser"),
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
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".xz")]
    return {"name": name, "weights": [sha256_of(path)[:16] for path in files]}
