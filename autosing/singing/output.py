"""Files of a song: all of them appear together or none does, and audio that is written while it grows."""

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from autosing.errors import ConfigError
from autosing.song import audio
from autosing.store import locked

CANDIDATES = "candidates"
"""The folder of the versions that were not chosen, which are called by their numbers."""
_DRAFT, _DRAFT_END = ".sing.", ".tmp"
_WHOLE = ".sing.whole"
"""What a draft is called once all of it is written: from then on the song is that one, whatever ends the run."""
HEADER_BYTES = 44  # of a plain wav file
_UNKNOWN = 0xFFFFFFFF  # the length of a wav that is not yet known


def is_candidate(path: Path) -> bool:
    """Whether a path is that of a numbered version, or would be."""
    return path.parent.name == CANDIDATES and path.suffix == ".wav" and path.stem.isdecimal()


def readable(text: str) -> str:
    """`text` as UTF-8 can hold it: the bytes of a file's name that are none become replacement characters."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def plain(value: object) -> object:
    """A value as JSON in UTF-8 knows it; a number that is not finite becomes None."""
    if isinstance(value, str | Path):
        return readable(str(value))
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def together(folder: Path) -> Iterator[Path]:
    """Yield an empty folder; what is written there takes its place in `folder` at the end, or is gone if anything fails. Songs of several runs are
    written one after the other, and one that was killed on its way there is put in place by `settle`, so that no files of two stand there together; what
    other killed runs left, and numbered candidates of the song before, go.

    Raises:
        ConfigError: it cannot be written, the disk being full for one.
    """
    folder = Path(folder)
    missing = [p for p in (folder, *folder.parents) if not os.path.exists(p)]
    draft: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as is_held:
            _put_in_place(folder)
            for left in folder.glob(f"{_DRAFT}*{_DRAFT_END}") if is_held else ():
                shutil.rmtree(left, ignore_errors=True)
            draft = Path(tempfile.mkdtemp(_DRAFT_END, _DRAFT, folder))
            yield draft
            for path in (p for p in draft.rglob("*") if p.is_file()):
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            os.rename(draft, folder / _WHOLE)
            _put_in_place(folder)
    except OSError as error:
        raise ConfigError(f"cannot write into '{folder}' ({error.strerror or error}); make room, or name another --output-dir") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        for path in missing:
            with contextlib.suppress(OSError):  # not empty: something was written
                path.rmdir()


def settle(folder: Path) -> None:
    """Put a song in its place that a run had written whole when it was killed.

    Raises:
        OSError: it cannot be.
    """
    if (folder / _WHOLE).is_dir():
        with locked(folder):
            _put_in_place(folder)


def _put_in_place(folder: Path) -> None:
    """Move the files of a whole song to their places in `folder`, candidates last: while others wait, those that stand there are of the song before."""
    whole = folder / _WHOLE
    waiting = sorted((p for p in whole.rglob("*") if p.is_file()), key=lambda path: (path.parent != whole, path))
    if waiting and waiting[0].parent == whole:
        for path in (folder / CANDIDATES).glob("*.wav"):
            if is_candidate(path):
                path.unlink()
    for path in waiting:
        target = folder / path.relative_to(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    shutil.rmtree(whole, ignore_errors=True)
    with contextlib.suppress(OSError):  # there is none, or something is in it
        (folder / CANDIDATES).rmdir()


class WavStream:
    """A 16-bit wav that can be played while it is written."""

    def __init__(self, opened: Callable[[], BinaryIO], is_pipe: bool):
        """
        Args:
            opened: gives the file, when there is something to write.
            is_pipe: it cannot be gone back in, so its length stays unknown.
        """
        self._opened, self._is_pipe = opened, is_pipe
        self._file: BinaryIO | None = None
        self._header = b""
        self._bytes = 0

    def write(self, piece: Tensor, rate: int) -> None:
        """Append (C, n) at `rate` Hz.

        Raises:
            ConfigError: it cannot be written, or its reader is gone.
        """
        data = audio.encode(piece, rate, "wav")
        with _told():
            if self._file is None:
                self._file, self._header = self._opened(), data[:HEADER_BYTES]
                self._file.write(_with_length(self._header, None))
            self._file.write(data[HEADER_BYTES:])
            self._file.flush()
        self._bytes += len(data) - HEADER_BYTES

    def finish(self) -> None:
        """Set the length."""
        if self._file is None or self._is_pipe:
            return
        with _told():
            self._file.seek(0)
            self._file.write(_with_length(self._header, self._bytes))
            self._file.flush()


def _with_length(header: bytes, length: int | None) -> bytes:
    whole, data = (_UNKNOWN, _UNKNOWN) if length is None else (length + HEADER_BYTES - 8, length)
    return header[:4] + whole.to_bytes(4, "little") + header[8:40] + data.to_bytes(4, "little")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--stream: cannot be written ({error.strerror or error}); make room, or read it to the end") from error
