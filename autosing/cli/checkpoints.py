"""`autosing-train merge` and `autosing-train convert`: checkpoints made of other checkpoints, without training.

    autosing-train merge models/t2s/mine/best merged
    autosing-train convert --i-trust-this-file t2s-tiny.model converted
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autosing.config import to_mapping
from autosing.errors import ConfigError
from autosing.models.io import load_model, read_adapter, read_kind, resolve, save_model
from autosing.models.ship import without_folders

MERGED = """# {kind}

An adapter folded into its base: W + alpha / r * B A for {layers} linear layers. Written by `autosing-train merge`.
"""


def merge(argv: Sequence[str]) -> int:
    """Fold an adapter into its base and write the whole model."""
    parser = argparse.ArgumentParser(prog="autosing-train merge", description="Fold an adapter into its base and write the whole model.")
    parser.add_argument("adapter", help="folder written by a run with --lora, or a hub id")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args(argv)
    folder = resolve(options.adapter, "adapter")
    kind = read_kind(folder)
    adapter = read_adapter(folder, kind)
    if adapter is None:
        raise ConfigError(f"'{folder}' holds a whole {kind} model, no adapter: there is nothing to merge")
    require_new(options.out)
    model, meta = load_model(folder, kind)
    meta = {**meta, "merged": without_folders(to_mapping(adapter))}
    save_model(model, options.out, meta, MERGED.format(kind=kind, layers=len(adapter.target_modules)))
    print(f"{kind}: '{folder}' and its base '{adapter.base}' -> {options.out}")
    return 0


def require_new(folder: Path) -> None:
    """
    Raises:
        ConfigError: there is something at `folder` already.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"'{folder}' is there already; name another folder to write to")


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {"merge": merge}
