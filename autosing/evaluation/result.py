"""What an evaluation or a benchmark says at its end: one JSON object with versions, machine, protocol, figures and bars; and the hashes in it."""

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import autosing
from autosing import weights


def result_of(
    kind: str, name: str, protocol: Mapping[str, Any], figures: Mapping[str, Any], bars: Mapping[str, Any], threads: int | None = None, **more: Any
) -> dict[str, Any]:
    """See the module docstring; numbers that are not finite become null.

    Args:
        kind: "evaluation" or "benchmark"; `name`: which.
        threads: of what was measured; None = this process's.
        more: stands behind the protocol.
    """
    machine: dict[str, Any] = {"cpus": os.cpu_count(), "threads": threads or torch.get_num_threads(), "processor": processor()}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return finite({
        kind: name,
        "versions": {"autosing": autosing.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": machine,
        "protocol": protocol,
        **more,
        "figures": figures,
        "bars": bars,
    })  # fmt: skip


def last_line(evaluation: str, protocol: Mapping[str, Any], figures: Mapping[str, Any], bars: Mapping[str, Any]) -> str:
    """`result_of` as an evaluation prints it, with the hash of all weights in its protocol."""
    return json.dumps(result_of("evaluation", evaluation, {"weights_hash": weights_hash(), **protocol}, figures, bars), allow_nan=False)


def hash_of(files: Sequence[Path]) -> str:
    """Of the contents of files, in order."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def weights_hash() -> str:
    """Of every weight in the package."""
    return hash_of(sorted(Path(weights.__file__).parent.rglob("*.safetensors")))


def weights_hashes() -> dict[str, str]:
    """Part -> hash of its weights; "all" of all together."""
    folders = sorted(folder for folder in Path(weights.__file__).parent.iterdir() if folder.is_dir())
    parts = {folder.name: sorted(folder.rglob("*.safetensors")) for folder in folders}
    return {"all": weights_hash(), **{name: hash_of(files) for name, files in parts.items() if files}}


def finite(value: Any) -> Any:
    """JSON values with what is no finite number as null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
