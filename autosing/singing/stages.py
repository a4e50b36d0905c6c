"""How long each stage of singing takes, and how far the whole is. What a stage does is `pipeline.py`'s business."""

import time
from collections.abc import Callable, Sequence

SHARES = {"separate": 0.1, "condition": 0.02, "t2s": 0.37, "sm2a": 0.05, "decode": 0.06, "align": 0.04, "repair": 0.36}
"""The stages of singing in order, each with about the share of the time that it takes; they sum to 1."""
ONCE = ("separate", "condition")
"""Stages that a song goes through once; the others come again with every window."""


class Stages:
    """Times the stages of `SHARES`, begun in that order, and tells how far the whole is; `parts`: how often those not in `ONCE` come."""

    def __init__(self, progress: Callable[[float, str], None] | None, without: Sequence[str] = ()) -> None:
        """`without`: stages that do not come."""
        self.laps: dict[str, float] = {}
        self._shares = {name: share for name, share in SHARES.items() if name not in without}
        self.parts = 1
        self.born = time.perf_counter()
        self._progress = progress
        self._name = ""
        self._before = 0.0
        self._begun = 0.0

    def begin(self, name: str) -> None:
        """End the stage at work, if any, and begin `name`."""
        if self._name:
            self.end()
        self._name, self._begun = name, time.perf_counter()
        self.within(0, 1)

    def _share(self) -> float:
        return self._shares.get(self._name, 0.0) / sum(self._shares.values()) / (1 if self._name in ONCE else self.parts)

    def within(self, done: int, total: int) -> None:
        """`done` of `total` of the stage at work."""
        if self._progress is not None:
            self._progress(min(1.0, self._before + self._share() * done / total), self._name)

    def end(self) -> None:
        self.laps[self._name] = round(self.laps.get(self._name, 0.0) + time.perf_counter() - self._begun, 3)
        self.within(1, 1)
        self._before += self._share()
        self._name = ""
