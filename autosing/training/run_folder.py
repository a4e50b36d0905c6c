"""The folder of a run as a place: that it can be written, that one process trains in it, and whether it holds a run to go on with.

What is kept in it is `checkpoints.py` and `state.py`; where it lies is the command's affair.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from autosing.errors import ConfigError
from autosing.training.state import has_state

LOCK_FILE = ".lock"  # of the process that trains in the folder


def make_folder(folder: Path) -> None:
    """Make a run's folder.

    Raises:
        ConfigError: it, or a file in it, cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(f"a run cannot be written to '{folder}' ({why}); choose another --output-dir or --checkpoint-dir") from error


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder against other processes, also on other machines where the file system tells them; let go when this process ends.

    The lock is of a kind that the loader's workers do not inherit: a killed run's orphans do not keep the next one waiting.

    Raises:
        ConfigError: another process holds it.
    """
    import fcntl

    with open(folder / LOCK_FILE, "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError(
                f"another process trains in '{folder}'; wait until it has ended, or name another run with --name (if it went down with its machine, "
                f"remove '{file.name}')"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield


def resumable(folder: Path) -> bool:
    return has_state(folder / "state")
