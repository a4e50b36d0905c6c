"""Names -> things that are imported only when asked for.

Every choice a user makes by name (codec, aligner, task, model kind, ...) is one row of a `Registry`; an unknown name is answered
with the nearest one. Adding a backend is one new file and one row. Where a user may add options to a name, `split_choice` reads them.
"""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from autosing.config import nearest, parse_json
from autosing.errors import ConfigError


class Registry:
    """A table from name to `"module:attribute"`, resolved on first use."""

    def __init__(self, what: str, entries: Mapping[str, str]):
        """
        Args:
            what: what the names stand for, used in errors ("codec").
            entries: name -> "package.module:attribute".
        """
        self.what = what
        self._entries = dict(entries)

    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def get(self, name: str) -> Any:
        """The attribute behind `name`.

        Raises:
            ConfigError: no such name; or an optional package it needs is not installed.
        """
        if name not in self._entries:
            raise ConfigError(f"no {self.what} is called '{name}'{nearest(name, self._entries)}")
        module, attribute = self._entries[name].split(":")
        return getattr(importlib.import_module(module), attribute)


def split_choice(choice: str) -> tuple[str, dict[str, Any]]:
    """What a user wrote for a backend -> its name and options: `name`, `name:WEIGHTS` (a folder or a hub id) or `name:{"option": value}`.

    Raises:
        ConfigError: what follows the colon is empty, or is no JSON where it begins with a brace.
    """
    name, colon, rest = choice.partition(":")
    if not colon:
        return name, {}
    if not rest.strip():
        raise ConfigError(f"'{choice}' ends with a colon; write {name}, {name}:FOLDER or {name}:{{\"option\": value}}")
    options = parse_json(rest, f"what follows '{name}:'") if rest.lstrip().startswith("{") else {"weights": rest}
    if isinstance(options.get("weights"), str):
        options["weights"] = os.path.expanduser(options["weights"])  # a shell leaves a ~ behind the colon alone
    return name, options
