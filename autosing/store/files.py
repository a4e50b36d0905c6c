"""Files that are whole or absent, and folders held against others on this machine.

A write goes `.<name>.<pid>.tmp` in the same folder -> fsync -> `os.replace` -> fsync of the folder; what a killed writer left is removed by the next
who holds the folder. What the files hold is not known here.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_IMODE

from safetensors import SafetensorError

from autosing.errors import DataError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`, on failure it is removed. Whoever may read a new file may
    read it: safetensors lets its owner alone."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        with contextlib.suppress(OSError):  # not every file system has modes
            temporary.chmod(S_IMODE(mode))
        fsync(temporary)
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says against writing `path` becomes one line.

    Raises:
        DataError: the disk is full, the folder cannot be written, or was removed, ....
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
            raise DataError(f"cannot write '{path}': the folder '{path.parent}' was removed meanwhile; put it back if it is wanted, then run again") from error
        raise DataError(f"cannot write '{path}' ({error}); make room or choose another folder, then run again") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold the folder against other processes on this machine; waits for its turn, and is let go when the process dies.

    Where the file system knows no locks the work goes on without, and False is yielded: tables are committed whole and are equal whoever writes them.

    Args:
        waiting: told that another process holds it.
    """
    import fcntl

    unsupported = {errno.ENOLCK, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        is_held = True
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in unsupported:
                raise
            is_held = False
        yield is_held
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left in `folder`; call it while holding `locked(folder)`."""
    for path in Path(folder).glob(".*.tmp"):
        path.unlink(missing_ok=True)


def temporary_of(path: Path) -> Path:
    """Where `path` is written before it has its name."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def fsync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(temporary: Path, path: Path) -> None:
    """Give a file its name for good."""
    os.replace(temporary, path)
    fsync(path.parent)
