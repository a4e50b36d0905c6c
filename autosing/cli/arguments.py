"""What every command shares: flags in `_` and `-` spelling, errors as one line, exit codes.

Exit codes: 0 done, 1 done but `--strict` found rejected rows or not every recording of a folder could be used, 2 a user's error (one line on stderr), 130 interrupted.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence

from autosing.errors import AutoSingError


def underscores_too(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Rewrite `--some_flag` and `--some-flag` to the spelling the parser declares; other words are untouched."""
    known = {option.replace("_", "-"): option for action in parser._actions for option in action.option_strings}
    out = []
    for word in argv:
        flag, equals, value = word.partition("=")
        out.append(known.get(flag.replace("_", "-"), flag) + equals + value if flag.startswith("--") else word)
    return out


DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS})
"""What a full disk, or one that may not be written, says."""


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Run `main(argv)`; a user's error, and a disk that is full or may not be written, becomes one line on stderr and exit code 2."""
    if sys.stderr is None:  # it was closed before we began; what is printed there would go to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    try:
        code = main(sys.argv[1:] if argv is None else argv)
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"error: {_disk_error(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    if sys.stdout is None:  # it was closed before we began
        return code
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left must not fail once more when Python ends
        if not isinstance(error, BrokenPipeError):  # else whoever read it has gone
            print(f"error: what was done could not be told on standard output ({error.strerror}); make room, or send it elsewhere", file=sys.stderr)
            code = 2
    return code


def _disk_error(error: OSError) -> str:
    name = error.filename if isinstance(error.filename, str) else ""
    if os.path.isfile(name) and not os.access(name, os.R_OK):
        return f"cannot read '{name}' ({error.strerror}); let its owner allow it"
    what = f"'{name}'" if name else "a file, or standard output"
    return f"cannot write {what} ({error.strerror}); make room or choose another folder, then run again"
