"""Parts of other projects: their packages and where their weights lie.

Weights are looked for where the user says (`name:PLACE`, a folder or a hub id), else in the folder `$AUTOSING_MODELS/<name>`, else in the Hugging Face
cache under the id that their makers publish them by. Nothing is downloaded, and no pickle is read: one is converted once, by
`autosing-train convert`. What is not there is one line that says so and names the command that fetches it.
"""

import hashlib
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from autosing.errors import ConfigError, WeightsError
from autosing.models.places import HUB_ID, fetch_command, hub_cache, snapshot

MODELS_VARIABLE = "AUTOSING_MODELS"
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
SAID_LETTERS = 200
"""How much of a library's own words an error repeats."""
TRAINING_ONLY = ("masked_spec_embed",)
"""Ends of names of tensors that published files may lack, since nothing is heard with them."""
_PIECE, _PIECES = 1 << 16, 64


def load_package(module: str, extra: str, what: str) -> Any:
    """Import a package that is not of the core.

    Raises:
        ConfigError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{what} needs the package '{error.name}', which is not installed: pip install 'autosing[{extra}]'") from error


@contextmanager
def loading(what: str, place: Path) -> Iterator[None]:
    """What a library makes of files that are cut off, or of another model, as one line.

    Raises:
        WeightsError: a file in `place` is damaged or does not fit. ConfigError: the model needs a package that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"{what}: '{place}' needs the package '{error.name}', which is not installed: pip install '{error.name}'") from error
    except (SafetensorError, OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        said = said if len(said) <= SAID_LETTERS else f"{said[:SAID_LETTERS]} ..."
        raise WeightsError(f"{what}: '{place}' is damaged or holds another model ({said}); fetch it again or give other weights") from error


def from_pretrained(model: Any, folder: Path, what: str) -> Any:
    """A network of `transformers` from its folder, float32, in eval mode.

    Raises:
        WeightsError: see `loading`; or tensors are missing, which the library would draw at random.
    """
    with loading(what, folder):
        net, report = model.from_pretrained(folder, local_files_only=True, use_safetensors=True, output_loading_info=True)
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(TRAINING_ONLY))
    if missing:
        raise WeightsError(f"{what}: '{folder}' is no whole {model.__name__}: tensor '{missing[0]}' is missing ({len(missing)} in all); give other weights")
    return net.float().eval()


@dataclass(frozen=True)
class Weights:
    """Files of another project.

    Attributes:
        what: how errors name the part ("codec 'snac_24khz'").
        name: folder below `$AUTOSING_MODELS`.
        hub: hub id of its makers; "" where there is none, and then `fetch` says where to get it.
        files: names of the files that are needed.
        pickle: the file its makers publish instead of the last of `files`, to be converted.
        fetch: the command that fetches it; "" = by `hub`.
    """

    what: str
    name: str
    hub: str = ""
    files: tuple[str, ...] = (CONFIG_FILE, WEIGHTS_FILE)
    pickle: str = ""
    fetch: str = ""

    def find(self, given: str | Path | None = None) -> Path:
        """The folder that holds all files.

        Raises:
            WeightsError: a file is missing, or is there as a pickle alone; says which, where it was looked for, and the command to type.
        """
        places = self.places(given)
        for place in places:
            if all((place / file).is_file() for file in self.files):
                return place
        for place in places:
            if self.pickle and (place / self.pickle).is_file():
                convert = self._convert(f"'{place / self.pickle}'", given)
                raise WeightsError(f"{self.what}: '{place / self.pickle}' is a pickle, which is not read here; convert it once: {convert}")
        there = next((place for place in places if place.is_dir()), None)
        missing = next((file for file in self.files if there is None or not (there / file).is_file()), self.files[-1])
        looked = ", ".join(f"'{place}'" for place in places) or "no place, since none was named"
        unset = "" if given is not None or os.environ.get(MODELS_VARIABLE) else f" ({MODELS_VARIABLE} names no folder)"
        raise WeightsError(f"{self.what} lacks its weights: '{missing}' was looked for in {looked}{unset}; fetch it: {self._fetch(given)}")

    def paths(self, given: str | Path | None = None) -> tuple[Path, ...]:
        """The files themselves; raises as `find`."""
        folder = self.find(given)
        return tuple(folder / file for file in self.files)

    def places(self, given: str | Path | None = None) -> list[Path]:
        """Where they are looked for, best first."""
        if given is not None:
            path = Path(given)
            hub_id = HUB_ID.fullmatch(str(given))
            if hub_id is None or path.exists():
                return [path.parent if path.is_file() else path]
            return [path, snapshot(hub_id["name"], hub_id["revision"]) or hub_cache() / f"models--{hub_id['name'].replace('/', '--')}"]
        models = os.environ.get(MODELS_VARIABLE)
        places = [Path(os.path.expanduser(models)) / self.name] if models else []
        if self.hub:
            places.append(snapshot(self.hub) or hub_cache() / f"models--{self.hub.replace('/', '--')}")
        return places

    def _convert(self, pickle: str, given: str | Path | None) -> str:
        """The command that makes of the pickle what is found next time."""
        models = os.environ.get(MODELS_VARIABLE)
        out = f"'{Path(os.path.expanduser(models)) / self.name}'" if models else f"MODELS/{self.name}"
        then = f", and give that folder in place of '{given}'" if given is not None else "" if models else f"  (and set {MODELS_VARIABLE}=MODELS)"
        return f"autosing-train convert {pickle} {out}{then}"

    def _fetch(self, given: str | Path | None) -> str:
        if self.fetch:
            return self.fetch
        hub_id = HUB_ID.fullmatch(str(given)) if given is not None and not Path(given).exists() else None
        name, revision = (hub_id["name"], hub_id["revision"]) if hub_id else (self.hub, None)
        if not self.pickle:
            return f"{fetch_command(name, revision)}  (pip install 'autosing[hub]')"
        return f"{fetch_command(name, revision)} --local-dir FOLDER, then {self._convert(f'FOLDER/{self.pickle}', given)}"


def sampled_hash(path: Path) -> str:
    """A short hash of a file's size and of 64 pieces of it: enough to tell one training's weights from another's, quick for gigabytes."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_PIECES):
            file.seek(number * max(0, size - _PIECE) // max(1, _PIECES - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]
