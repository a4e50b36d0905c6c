"""Where a checkpoint lies: a folder, a file in one, `builtin`, or a hub id `org/name[@revision]` in the Hugging Face cache.

A folder of that name comes before the hub. The cache is only read, as it lies on disk (`models--org--name/refs` and `snapshots`, below the folder
that HF_HUB_CACHE or HF_HOME name): nothing here reaches the network or needs a package. What the files hold is `io.py`.
"""

import os
import re
from pathlib import Path

from autosing.errors import WeightsError
from autosing.weights import weights_folder

MODEL_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
ADAPTER_FILE = "adapter.safetensors"
"""Instead of `MODEL_FILE` in the folder of an adapter (`adapters.py`)."""
HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")


def resolve(name: str | Path, kind: str) -> Path:
    """The folder of a checkpoint: `builtin`, a folder, a file inside one, or a hub id.

    Raises:
        WeightsError: nothing there; says where it was looked for, and how to fetch it.
    """
    folder = weights_folder(kind) if str(name) == "builtin" else Path(name)
    if os.path.isfile(folder):
        folder = folder.parent
    hub_id = HUB_ID.fullmatch(str(name))
    if hub_id is not None and ".." not in str(name) and not os.path.exists(folder):
        return _complete(_cached(hub_id["name"], hub_id["revision"], kind), kind)
    return _complete(folder, kind)


def weights_file(folder: Path) -> Path:
    """The file with the weights of a checkpoint's folder, be it a whole model or an adapter."""
    adapter = folder / ADAPTER_FILE
    return adapter if os.path.isfile(adapter) else folder / MODEL_FILE


def hub_cache() -> Path:
    """The folder in which Hugging Face's tools keep what they fetched; the environment decides, as it does for them."""
    names = {"HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}
    for name, below in names.items():
        if os.environ.get(name):
            return Path(os.path.expanduser(os.path.expandvars(os.environ[name]))) / below
    return Path(os.path.expanduser("~/.cache/huggingface/hub"))


def snapshot(name: str, revision: str | None = None) -> Path | None:
    """The folder of a hub id in the cache; None where it is not there."""
    place = hub_cache() / f"models--{name.replace('/', '--')}"
    reference = place / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if os.path.isfile(reference) else revision
    found = place / "snapshots" / (commit or "main")
    return found if os.path.isdir(found) else None


def fetch_command(name: str, revision: str | None = None) -> str:
    """What a person types to bring a hub id into the cache."""
    return f"hf download {name}" + (f" --revision {revision}" if revision else "")


def _cached(name: str, revision: str | None, kind: str) -> Path:
    """The snapshot of a hub id in the cache."""
    found = snapshot(name, revision)
    if found is None:
        raise WeightsError(
            f"no {kind} checkpoint '{name}'{f' at revision {revision}' if revision else ''}: neither a folder of that name nor in the "
            f"Hugging Face cache '{hub_cache()}'; fetch it: {fetch_command(name, revision)}  (pip install 'autosing[hub]')"
        )
    return found


def _complete(folder: Path, kind: str) -> Path:
    for file in (folder / CONFIG_FILE, weights_file(folder)):
        if not os.path.isfile(file):
            raise WeightsError(
                f"no {kind} checkpoint at '{folder}': {file.name} is missing; give a folder written by train.py, a hub id, or 'builtin'"
            )
    return folder
