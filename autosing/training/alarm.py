"""A rank that fails tells the others why, and they end too: nobody waits in a collective for one that will not come.

The word goes through the store that the ranks met at. A thread of each rank looks there; it can end a process whose main thread waits
inside a collective. A rank killed without a word breaks the connections of gloo at once and those of NCCL after its timeout.
"""

import json
import os
import sys
import threading
import time
from types import TracebackType

import torch.distributed

from autosing.errors import AutoSingError
from autosing.training.dist import Ranks

LOOK_SECONDS = 0.5
GRACE_SECONDS = 10.0  # how long a failed rank waits for the others to hear it, and one that lost the store for its own end
_WORD, _HEARD = "word", "heard"
_EXIT_CODE = 2


class Alarm:
    """A block that all ranks are in together; an exception that leaves it on one rank ends the others with exit code 2."""

    def __init__(self, ranks: Ranks):
        self._ranks, self._over = ranks, threading.Event()

    def __enter__(self) -> "Alarm":
        if self._ranks.world > 1:
            self._store = self._ranks.store("alarm")
            threading.Thread(target=self._listen, args=(self._ranks.store("alarm"),), daemon=True).start()
        return self

    def _listen(self, store: torch.distributed.Store) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                if not store.check([_WORD]):
                    continue
                rank, reason = json.loads(store.get(_WORD))
                store.add(_HEARD, 1)
            except torch.distributed.DistError:
                if not self._over.wait(GRACE_SECONDS):
                    self._end("the store that the ranks met at is gone, and with it the process that kept it")
                return
            if rank != self._ranks.rank:
                self._end(f"rank {rank} stopped the run: {reason}")
            return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and self._ranks.world > 1:
            self._tell(str(error) if isinstance(error, AutoSingError) else f"{type(error).__name__}: {error}")
        self._over.set()

    def _tell(self, reason: str) -> None:
        own = json.dumps([self._ranks.rank, reason])
        try:
            rank, first = json.loads(self._store.compare_set(_WORD, "", own))
            if rank != self._ranks.rank:  # what failed here is that the other rank had left
                self._end(f"rank {rank} stopped the run: {first}")
            deadline = time.monotonic() + GRACE_SECONDS
            while self._store.add(_HEARD, 0) < self._ranks.world and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS / 5)
        except torch.distributed.DistError:
            return  # nobody is left to tell

    def _end(self, why: str) -> None:
        sys.stderr.write(f"error: {why}\n")
        sys.stderr.flush()
        os._exit(_EXIT_CODE)
