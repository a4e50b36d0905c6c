"""Who makes a table, as a JSON value: a backend's name and options, and the hash of the weights it reads.

So new weights, or another configuration of the same ones, make the tables of the old ones due again. What a checkpoint says about its
training (`meta` of its `config.json`) changes nothing that it computes and is not hashed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from autosing.perception import chosen
from autosing.perception.outside import sampled_hash
from autosing.registry import Registry, split_choice
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


def identity(registry: Registry, choice: str) -> dict[str, Any]:
    """The identity of a backend; where its weights lie is none of it, but what they are.

    Raises:
        ConfigError: no such backend or option.
        WeightsError: its weights are not there.
    """
    name, _ = split_choice(choice)
    backend, options = chosen(registry, choice)
    said = {key: value for key, value in sorted(options.items()) if key != "weights"}
    about = {"name": name, **({"options": said} if said else {})}
    if hasattr(backend, "files"):
        return {**about, "weights": [sampled_hash(path) for path in backend.files(**options)]}
    if "weights" in options:
        folders = [Path(options["weights"])]
    elif name.startswith("builtin"):
        folders = [weights_folder(kind) for kind in _READS[registry.what]]
    else:
        return about
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    return {**about, "weights": [mark for path in files if (mark := _mark(path))]}


def _mark(path: Path) -> str:
    """A short hash of what a file of weights changes; "" if it changes nothing."""
    if path.name == "config.json":
        config = json.loads(path.read_text(encoding="utf-8")).get("config")
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    return sha256_of(path)[:16] if path.suffix in (".safetensors", ".xz") else ""
