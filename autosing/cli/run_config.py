"""A run's flags as a YAML file: `--config run.yaml` reads one, every run writes the one that it came to, `config.yaml`.

A key is a flag's name (with `_` or `-`), a value what the flag takes; JSON flags take mappings. What is given as a flag wins over the file, whole
flag by whole flag. Files are written so that each value is JSON, which YAML contains, so writing needs no package.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autosing.config import nearest
from autosing.errors import ConfigError, one_line

FILE = "config.yaml"
NUMBER = re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?([eE][-+]?\d+)$|^[-+]?\d[\d_]*\.\d*$|^[-+]?\.\d+([eE][-+]?\d+)?$")


def read_words(path: Path, flags: Sequence[str]) -> list[str]:
    """The words of a command line that a file stands for.

    Args:
        flags: that the command knows, as `--batch-size`.

    Raises:
        ConfigError: no such file, no YAML, an unknown key (with the nearest one), a value that no flag takes; the package is missing.
    """
    words = []
    for key, value in _read(path).items():
        flag = "--" + str(key).replace("_", "-")
        if flag not in flags or flag == "--config":
            raise ConfigError(f"'{path}' has no key '{key}'{nearest(flag, flags).replace('--', '')}")
        if isinstance(value, list):
            raise ConfigError(f"'{path}': '{key}' cannot be a list, found {value!r}")
        if value is not None:
            plain = isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool))
            try:
                words.append(f"{flag}={value if plain else json.dumps(value)}")
            except TypeError as error:  # YAML knows more than JSON
                raise ConfigError(f"'{path}': '{key}' holds what no flag takes, a date for one, found {value!r}; put it in quotes") from error
    return words


def _read(path: Path) -> Mapping[Any, Any]:
    try:
        import yaml  # type: ignore[import-not-found] - an optional extra
    except ImportError as error:
        raise ConfigError("--config needs the package PyYAML; pip install 'autosing[yaml]', or give the flags themselves") from error

    class Loader(yaml.SafeLoader):  # YAML 1.1 takes 4e-3, which has no dot, for a text
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise ConfigError(f"--config: '{path}' cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--config: '{path}' is not YAML ({one_line(error)})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config: '{path}' must hold keys and values like 'batch_size: 16'")
    return values


def config_text(values: Mapping[str, Any]) -> str:
    """A file's text; None is left out."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items() if value is not None]
    return "\n".join(["# what this run trains with; train.py --config <this file> --name <another> repeats it", *lines, ""])
