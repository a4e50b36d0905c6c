"""Every error a user can cause, as one clear line: what, where, what to do.

Commands catch `AutoSingError` alone and print its message; anything else is a defect and keeps its traceback.
"""


def one_line(error: Exception, first: bool = False) -> str:
    """What another library's error says, on one line; with `first` its first line alone. Its type's name where it says nothing."""
    text = str(error).strip()
    return " ".join((text.partition("\n")[0] if first else text).split()) or type(error).__name__


class AutoSingError(Exception):
    """Base of all errors that a command reports in one line with exit code 2."""


class ConfigError(AutoSingError):
    """A flag, JSON key or value is wrong; the message names it and the nearest valid choice."""


class DataError(AutoSingError):
    """A table, column, file or row is missing, mistyped or damaged; the message names it."""


class MismatchError(AutoSingError):
    """Two parts do not belong together (codec of a checkpoint and of a dataset, ...); the message names both."""


class WeightsError(AutoSingError):
    """A weight file is missing or damaged; the message names the file, where it was looked for and how to get it."""


class SongError(AutoSingError):
    """A song cannot be used. `code` is the machine-readable reason written to `rejected.parquet`."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.code, str(self))  # a worker process hands it over with its code


class AudioError(SongError):
    """Audio cannot be used."""


class AlignmentError(SongError):
    """Lyrics cannot be aligned with a recording."""
