"""One fault injector for every test of "what must never go wrong".

`AUTOSING_FAULT=step:point:n:action` makes the n-th arrival (from 1) of `step` at `point` fail: `kill` (SIGKILL, nothing is cleaned
up), `raise` (RuntimeError, a defect) or `enospc` (the disk is full). `*` matches every step or point. An injector is built once by
a command and passed down; without the variable it does nothing.
"""

import errno
import os
import signal
from collections.abc import Mapping

from autosing.errors import ConfigError

VARIABLE = "AUTOSING_FAULT"
ACTIONS = ("kill", "raise", "enospc")


class Faults:
    """Counts arrivals at named points and fails at the one asked for."""

    def __init__(self, request: str = ""):
        """
        Args:
            request: "step:point:n:action", or "" for none.

        Raises:
            ConfigError: the request cannot be read.
        """
        self._count = 0
        self._target: tuple[str, str, int, str] | None = None
        if request:
            parts = request.split(":")
            if len(parts) != 4 or not parts[2].isdecimal() or parts[3] not in ACTIONS:
                raise ConfigError(f"{VARIABLE}={request!r} must be step:point:n:action, action one of: {', '.join(ACTIONS)}")
            self._target = (parts[0], parts[1], int(parts[2]), parts[3])

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Faults":
        return cls(environment.get(VARIABLE, ""))

    def reach(self, step: str, point: str) -> None:
        """Say that `step` is at `point`; fails if that was asked for."""
        if self._target is None:
            return
        want_step, want_point, nth, action = self._target
        if want_step not in (step, "*") or want_point not in (point, "*"):
            return
        self._count += 1
        if self._count != nth:
            return
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "enospc":
            raise OSError(errno.ENOSPC, "No space left on device (injected)")
        raise RuntimeError(f"injected fault at {step}:{point}")
