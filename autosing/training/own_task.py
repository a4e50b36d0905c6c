"""A task in a file of one's own, loaded by its path, so that the file may be called anything.

Its module is named after the path and after what the file says, so that a notebook trains what stands there now. A process that reads rows
without being forked from this one knows no module of that name; so a task is pickled as its file's path and what it holds, and the file is
loaded before any of that is.
"""

import copyreg
import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import Any

from autosing.errors import ConfigError
from autosing.store import sha256_of
from autosing.training.log import hashed_name


def load_task(path: Path) -> Any:
    """`TASK` of the file at `path`, which is run once, and again after it changed; what lies beside it can be imported from it.

    Raises:
        ConfigError: it has none.
    """
    path = path.resolve()
    name = f"own_task_{hashed_name(path)}_{sha256_of(path)[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None, "a .py file has a loader"
        module = importlib.util.module_from_spec(spec)
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # last: a file there must not take the place of a package that others import
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    task = getattr(sys.modules[name], "TASK", None)
    if task is None:
        raise ConfigError(f"'{path}' has no TASK; see the README, 'Your own task'")
    if task.__module__ == name:
        copyreg.pickle(task, partial(_reduced, str(path)))
    return task


def _reduced(path: str, task: Any) -> tuple[Any, ...]:
    return _blank, (path,), task.__getstate__()


def _blank(path: str) -> Any:
    cls = load_task(Path(path))
    return cls.__new__(cls)
