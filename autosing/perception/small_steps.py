"""Adam for a few steps: models that get used to one recording."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """torch's Adam by its function: the class loads torch's compiler the first time, three seconds."""

    def __init__(self, parameters: Sequence[Tensor], rate: float):
        self.parameters, self.rate = list(parameters), rate
        self._first = [torch.zeros_like(p) for p in self.parameters]
        self._second = [torch.zeros_like(p) for p in self.parameters]
        self._steps = [torch.zeros(()) for _ in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move every parameter by its gradient, at `rate`."""
        adam(
            self.parameters, list(gradients), self._first, self._second, [], self._steps,
            amsgrad=False, beta1=0.9, beta2=0.999, lr=self.rate, weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip
