"""``python -m autosing.cli.unpickle FILE OUT [--trusted]``: a pickled checkpoint of any project -> one safetensors file. The only place that reads a pickle.

It runs in a process of its own, started by `autosing-train convert`, and writes tensors and JSON values alone: what the file holds beside them
never reaches the process that asked. Without `--trusted` torch's restricted reader is used, which builds tensors and plain values and calls
nothing; with it, a file that the restricted reader refuses is unpickled as it is, and may run any program.
"""

import argparse
import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def read(file: Path, trusted: bool) -> dict[str, Any]:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not trusted:
            raise
    return torch.load(file, map_location="cpu", weights_only=False)


def plain(value: Any) -> Any:
    """As JSON: mappings, lists and plain values stay; anything else becomes its text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trusted", action="store_true")
    options = parser.parse_args(argv)
    try:
        spec = read(options.file, options.trusted)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, AttributeError, ImportError, ValueError, KeyError) as error:
        if isinstance(error, pickle.UnpicklingError) and not options.trusted:
            return _fail("it holds more than tensors and plain values; if you trust who made it, add --i-trust-this-file (it may run any program)")
        return _fail(f"it is no checkpoint of torch, or needs what is not installed ({(str(error) or type(error).__name__).splitlines()[0]})")
    if not isinstance(spec, dict):
        return _fail("it is no checkpoint: a dictionary of tensors, or of config, tunables and state_dict, is expected")
    holder = next((key for key in ("state_dict", "model_state_dict", "state", "model") if isinstance(spec.get(key), dict)), None)
    tensors = {name: value.contiguous().clone() for name, value in (spec[holder] if holder else spec).items() if isinstance(value, torch.Tensor)}
    if not tensors:
        return _fail("it is no checkpoint: it holds no tensors")
    values = {key: plain(spec[key]) for key in ("config", "tunables", "dims") if isinstance(spec.get(key), dict)}
    save_file(tensors, options.out, metadata={"values": json.dumps(values)})
    return 0


def _fail(reason: str) -> int:
    print(reason, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
