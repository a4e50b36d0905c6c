"""`autosing-train merge`, `blend` and `convert`: checkpoints made of other checkpoints, without training.

    autosing-train merge models/t2s/mine/best merged
    autosing-train blend models/t2s/mine/best blended --share 0.5
    autosing-train convert --i-trust-this-file t2s-tiny.model converted
    autosing-train convert snac_32khz/pytorch_model.bin $AUTOSING_MODELS/snac_32khz
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from autosing.config import to_mapping
from autosing.errors import ConfigError, WeightsError
from autosing.models import KINDS
from autosing.models.averaging import average
from autosing.models.convert import convert as converted
from autosing.models.io import MODEL_FILE, load_model, read_adapter, read_kind, resolve, save_model
from autosing.models.ship import without_folders
from autosing.models.whisper_vq import convert as converted_tokenizer
from autosing.models.whisper_vq import is_tokenizer
from autosing.store import atomic_path, sha256_of, writing

READER = "autosing.cli.unpickle"
READER_SECONDS = 1800
JSON_BYTES = 1 << 24
CONVERTED = """# {kind}

Converted from a `.model` file of WhisperSpeech or AutoSing (`{source}`) by `autosing-train convert`: the same arithmetic, the same logits.
It is read with `autosing.models.io.load_model(folder, "{kind}")`; it neither sings with `sing.py` nor is trained further, since it speaks
other tokens than the embedded codec and tokenizer.
"""
TOKENIZER = """# {kind}

Converted from WhisperSpeech's semantic tokenizer (`{source}`) and the encoder of the Whisper it was trained on, by `autosing-train convert`: the same
tokens. Used as `--semantic whisper_vq:FOLDER`.
"""
MERGED = """# {kind}

An adapter folded into its base: W + alpha / r * B A for {layers} layers. Written by `autosing-train merge`.
"""

BLENDED = """# {kind}

The mean of a fine-tuned checkpoint ({share:g}) and what it was trained on from ({rest:g}). Written by `autosing-train blend`.
"""


def merge(argv: Sequence[str]) -> int:
    """Fold an adapter into its base and write the whole model.

    Raises:
        ConfigError: the folder holds no adapter, or `out` is there already.
        WeightsError: missing or damaged files. DataError: `out` cannot be written.
    """
    parser = argparse.ArgumentParser(prog="autosing-train merge", description="Fold an adapter into its base and write the whole model.")
    parser.add_argument("adapter", help="folder written by a run with --lora, or a hub id")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args(argv)
    folder = resolve(options.adapter, "adapter")
    kind = _known_kind(folder)
    adapter = read_adapter(folder, kind)
    if adapter is None:
        raise ConfigError(f"'{folder}' holds a whole {kind} model, no adapter: there is nothing to merge")
    require_new(options.out)
    model, meta = load_model(folder, kind)
    meta = {**meta, "merged": without_folders(to_mapping(adapter))}
    with writing(options.out):
        save_model(model, options.out, meta, MERGED.format(kind=kind, layers=len(adapter.target_modules)))
    print(f"{kind}: '{folder}' and its base '{adapter.base}' -> {options.out}")
    return 0


def blend(argv: Sequence[str]) -> int:
    """Write the weighted mean of a checkpoint and what it was trained on from.

    Raises:
        ConfigError: a share that is none, or `out` is there already.
        WeightsError: missing or damaged files. MismatchError: two shapes. DataError: `out` cannot be written.
    """
    parser = argparse.ArgumentParser(prog="autosing-train blend", description="Draw a fine-tuned checkpoint back towards what it began with.")
    parser.add_argument("checkpoint", help="folder of a checkpoint or an adapter, or a hub id")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--base", default="builtin", help="what it was trained on from: a folder, a hub id, or 'builtin'")
    parser.add_argument("--share", type=float, default=0.5, help="of the checkpoint in the mean, 0 to 1")
    options = parser.parse_args(argv)
    if not 0 <= options.share <= 1:
        raise ConfigError(f"--share must lie between 0 and 1, found {options.share:g}")
    require_new(options.out)
    folder = resolve(options.checkpoint, "checkpoint")
    kind = _known_kind(folder)
    model, (meta, _) = average(kind, [folder, options.base], [options.share, 1 - options.share])
    meta = {**meta, "blend": without_folders({"base": options.base, "share": options.share})}
    with writing(options.out):
        save_model(model, options.out, meta, BLENDED.format(kind=kind, share=options.share, rest=1 - options.share))
    print(f"{kind}: {options.share:g} of '{folder}', {1 - options.share:g} of '{options.base}' -> {options.out}")
    return 0


def convert(argv: Sequence[str]) -> int:
    """Read a `.model` file in a process of its own and write it as a checkpoint.

    Raises:
        ConfigError: no such file, no --whisper for a tokenizer, or `out` is there already.
        WeightsError, MismatchError: what cannot be read or converted. DataError: `out` cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="autosing-train convert", description="A pickled checkpoint -> our format (AutoSing, WhisperSpeech), or safetensors (all others)."
    )
    parser.add_argument("file", type=Path, help="a .model file (config, tunables and state_dict), or any pickle of torch with named tensors")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--whisper", type=Path, metavar="FILE", help="of a semantic tokenizer's .model: the .pt file of the Whisper it was trained on")
    parser.add_argument(
        "--i-trust-this-file", action="store_true", help="also read a pickle that may run programs: only one whose maker you trust"
    )
    options = parser.parse_args(argv)
    if not options.file.is_file():
        raise ConfigError(f"there is no file '{options.file}'")
    require_new(options.out)
    values, tensors = read_apart(options.file, options.i_trust_this_file)
    if not values.keys() >= {"config", "tunables"}:
        return _convert_tensors(options.file, options.out, tensors)
    if is_tokenizer(tensors):
        if options.whisper is None:
            raise ConfigError(f"'{options.file}' is a semantic tokenizer, a part of Whisper {values['config'].get('whisper_model_name', '')}: add --whisper FILE.pt")
        whisper = read_apart(options.whisper, options.i_trust_this_file)
        found = converted_tokenizer(values, tensors, *whisper, f"'{options.file}'")
    else:
        found = converted(values["config"], values["tunables"], tensors, f"'{options.file}'")
    model: Any = found.model
    origin = {"class": found.source, "sha256": sha256_of(options.file), "config": values["config"], "tunables": values["tunables"]}
    card = TOKENIZER if options.whisper else CONVERTED
    with writing(options.out):
        save_model(model, options.out, {"converted": without_folders(origin)}, card.format(kind=model.kind, source=found.source))
    print(f"{found.source} '{options.file}' -> {model.kind} in {options.out}")
    return 0


def _convert_tensors(file: Path, out: Path, tensors: dict[str, Tensor]) -> int:
    """Write another project's tensors as they are, and beside them what its makers put beside the file as JSON."""
    beside = sorted(path for path in file.parent.glob("*.json") if path.stat().st_size < JSON_BYTES)
    with writing(out):
        with atomic_path(out / MODEL_FILE) as path:
            save_file(tensors, path)
        for source in beside:
            with atomic_path(out / source.name) as path:
                path.write_bytes(source.read_bytes())
    names = ", ".join([MODEL_FILE, *(path.name for path in beside)])
    print(f"{len(tensors)} tensors of '{file}' -> {out}: {names}")
    return 0


def read_apart(file: Path, trusted: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON values (`config`, `tunables`, `dims`, those that are there) and the tensors of a pickled file, read in a process of its own.

    Raises:
        ConfigError: there is no such file.
        WeightsError: it is no checkpoint, or it holds more than tensors and plain values and is not trusted.
    """
    if not file.is_file():
        raise ConfigError(f"there is no file '{file}'")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "read.safetensors"
        command = [sys.executable, "-m", READER, str(file.absolute()), str(out), *(["--trusted"] if trusted else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=READER_SECONDS, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as error:
            raise WeightsError(f"'{file}' was not read within {READER_SECONDS} s; it is no checkpoint") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"the reading process ended with {done.returncode}"]
            raise WeightsError(f"'{file}' cannot be read: {lines[-1]}")
        with safe_open(out, framework="pt") as read:
            return json.loads(read.metadata()["values"]), {name: read.get_tensor(name) for name in read.keys()}  # noqa: SIM118 - not a mapping


def _known_kind(folder: Path) -> str:
    """The kind of a checkpoint, which is one of this project's.

    Raises:
        ConfigError: it is a model of the user's own task.
    """
    kind = read_kind(folder)
    if kind not in KINDS.names():
        raise ConfigError(
            f"'{folder}' holds a model of your own task ({kind}), which this command cannot build; load it in Python: load_model('{folder}', YOUR_CLASS)"
        )
    return kind


def require_new(folder: Path) -> None:
    """
    Raises:
        ConfigError: there is something at `folder` already.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"'{folder}' is there already; name another folder to write to")


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {"merge": merge, "blend": blend, "convert": convert}
