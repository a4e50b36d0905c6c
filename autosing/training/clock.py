"""How long a run has taken, how far that is where the clock bounds it (`minutes`), and how fast it goes. Several ranks go by the first one's clock."""

import time

import torch

from autosing.training import dist


class RunClock:
    """The time of one run.

    Attributes:
        before: seconds that the run took before it was resumed.
    """

    def __init__(self, minutes: float | None, ranks: dist.Ranks, device: torch.device):
        """
        Args:
            minutes: that the run may take; None = any.
            device: on which ranks exchange.
        """
        self.minutes, self.before = minutes, 0.0
        self._ranks, self._device = ranks, device
        self._agreed = 0.0  # minutes of several ranks, as the first one's clock said last
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self._begun = time.monotonic()

    def seconds(self) -> float:
        """That the run has taken, those before included."""
        return self.before + time.monotonic() - self._begun

    def agree(self) -> None:
        """Several ranks: take the first one's clock."""
        if self.minutes and self._ranks.world > 1:
            self._agreed = float(dist.from_first(torch.tensor(self.seconds() / 60, device=self._device), self._ranks))

    def share(self) -> float:
        """Of its minutes, that are over; of several ranks as they last agreed, so that no step waits for the first one's clock. 0 without a bound."""
        taken = self.seconds() / 60 if self._ranks.world == 1 else self._agreed
        return taken / self.minutes if self.minutes else 0.0


class Pace:
    """Of the steps since a mark: rows a second, and the share of the time in which they waited for batches.

    Attributes:
        waited: seconds, added to by whoever waits.
    """

    def __init__(self, step: int, rows_a_step: int):
        self._rows_a_step = rows_a_step
        self.begin(step)

    def begin(self, step: int) -> None:
        self._time, self._step, self.waited = time.monotonic(), step, 0.0

    def take(self, step: int) -> tuple[float, float]:
        """Both, from the mark to `step`, where the next mark is."""
        time_before, step_before, waited = self._time, self._step, self.waited
        self.begin(step)
        seconds = max(self._time - time_before, 1e-9)
        return (step - step_before) * self._rows_a_step / seconds, waited / seconds
