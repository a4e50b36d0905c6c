"""Signals that end a run: noted when they come, agreed on by all ranks once a step, acted on between two steps.

A scheduler may signal one rank or all of them, in different steps. So every rank's number goes through an exchange that the step makes anyway, and
all stop after the same step. Saving and exit codes are not here.
"""

import signal
import threading
from types import FrameType
from typing import Any

import torch
from torch import Tensor

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # the last: a scheduler's warning before its time limit


class StopRequest:
    """Notes `STOP_SIGNALS` inside its block; a second one takes its usual course.

    Attributes:
        signal: the number of the one that this process was sent; 0: none.
        agreed: of all ranks the same, and the one to act on where there are several.
    """

    def __init__(self) -> None:
        self.signal = self.agreed = 0
        self._before: dict[int, Any] = {}
        self._unread: tuple[Tensor, torch.cuda.Event] | None = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in STOP_SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._before[number])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agree(self, largest: Tensor) -> None:
        """Take as agreed the `largest` of the ranks' signals, (), wherever the ranks found it.

        On CUDA it is read a step late, when the device has long had it: no step waits for the device, and all ranks read the same.
        """
        if largest.device.type == "cuda":
            copy, event = largest.to("cpu", non_blocking=True), torch.cuda.Event()
            event.record()
            before, self._unread = self._unread, (copy, event)
            if before is None:
                return
            largest = before[0]
            before[1].synchronize()
        self.agreed = int(largest)
