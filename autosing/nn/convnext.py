"""The one-dimensional ConvNeXt block: a wide depthwise convolution over time, then a pointwise bottleneck, as a residual.

Channels last, so that the pointwise part is plain matrix products. After Liu et al. 2022 (ConvNeXt) as used over time by Siuzdak 2023
(Vocos). Letters: B batch, F frames, D width.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class ConvNeXtBlock(nn.Module):
    """(B, F, D) -> (B, F, D).

    Args:
        width: D.
        kernel: taps of the depthwise convolution, odd.
        dilation: frames between taps.
        expansion: hidden width of the pointwise part / D.
        dropout: share of hidden units dropped in training.
        scale: initial residual gain a channel.
    """

    block_methods: ClassVar[tuple[str, ...]] = ()  # a block of `--strategy fsdp`, called by `forward` alone

    def __init__(
        self, width: int, kernel: int = 15, dilation: int = 1, expansion: int = 3, dropout: float = 0.0, scale: float = 0.3
    ):
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2 * dilation, dilation=dilation, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, width * expansion)
        self.narrow = nn.Linear(width * expansion, width)
        self.scale = nn.Parameter(torch.full((width,), scale))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        h = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        h = self.narrow(self.dropout(nnf.gelu(self.widen(self.norm(h)))))
        return x + self.scale * h


class ConvNeXtStack(nn.Module):
    """A linear map in, one block a dilation, a norm and a linear map out: (B, F, inputs) -> (B, F, outputs)."""

    def __init__(
        self, inputs: int, width: int, outputs: int, kernel: int, dilations: Sequence[int], expansion: int = 2, dropout: float = 0.0
    ):
        super().__init__()
        self.reach = kernel // 2 * sum(dilations)  # frames that are heard on either side
        self.into = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, kernel, dilation, expansion, dropout) for dilation in dilations)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, outputs)

    def states(self, x: Tensor) -> list[Tensor]:
        """What each block leaves, (B, F, width) each."""
        states = [self.into(x)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states[1:]

    def read(self, state: Tensor) -> Tensor:
        """The last of `states` -> outputs."""
        return self.out(self.norm(state))

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.states(x)[-1])

    def in_blocks(self, x: Tensor, frames: int = 256) -> Tensor:
        """(F, inputs) of any length -> (F, outputs), in pieces of one shape; the ends go on as they are.

        An output depends on the `reach` frames around it alone, to the bit: not on the length of the recording, nor on a batch.
        """
        if not len(x):
            return x.new_zeros(0, self.out.out_features)
        pieces = -(-len(x) // frames)
        before, after = x[:1].expand(self.reach, -1), x[-1:].expand(self.reach + pieces * frames - len(x), -1)
        padded = torch.cat([before, x, after])
        parts = [
            self(padded[None, first : first + frames + 2 * self.reach])[0, self.reach : self.reach + frames]
            for first in range(0, pieces * frames, frames)
        ]
        return torch.cat(parts)[: len(x)]
