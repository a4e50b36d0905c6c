"""The one-dimensional ConvNeXt block: a wide depthwise convolution over time, then a pointwise bottleneck, as a residual.

Channels last, so that the pointwise part is plain matrix products. After Liu et al. 2022 (ConvNeXt) as used over time by Siuzdak 2023
(Vocos). Letters: B batch, F frames, D width.
"""

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
