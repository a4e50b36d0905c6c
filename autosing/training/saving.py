"""Writing beside the training: a save is a list of writes, done in order by one thread while the loop goes on.

One save is in flight at most; the next one waits for it. What a write needs is handed over as a snapshot in CPU memory, so the loop may change
its weights meanwhile. A write that fails ends its save; the loop learns of it at its next step. What is written is `checkpoints.py`.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError

from autosing.errors import AutoSingError
from autosing.training.state import has_state


class SaveError(AutoSingError):
    """The state or a checkpoint could not be written; what was saved before is intact."""


class Saver:
    """The one thread that writes."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, step: int, folder: Path, writes: Sequence[Callable[[], None]]) -> None:
        """Begin a save, once the one before it is done.

        Args:
            step, folder: what is saved in which run, for an error.

        Raises:
            SaveError: the save before failed.
        """
        self.finish()
        self._thread = threading.Thread(target=self._write, args=(step, folder, tuple(writes)), name="saver")
        self._thread.start()

    def check(self) -> None:
        """Raise what a save has failed with, without waiting for one.

        Raises:
            SaveError: that a disk is full, ...
        """
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Until nothing is in flight."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def finish(self) -> None:
        """`wait` and `check`."""
        self.wait()
        self.check()

    def _write(self, step: int, folder: Path, writes: tuple[Callable[[], None], ...]) -> None:
        try:
            with saving(step, folder):
                for write in writes:
                    write()
        except BaseException as error:  # raised where the loop looks, with its traceback
            self._error = error


@contextlib.contextmanager
def saving(step: int, folder: Path) -> Iterator[None]:
    """Make a `SaveError` of what a disk refuses inside the block."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        onwards = f"go on with --resume-from '{folder}'" if has_state(folder / "state") else "start again"
        raise SaveError(f"step {step} could not be saved in '{folder}' ({error}); make room, then {onwards}") from error
