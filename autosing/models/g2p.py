"""Letters to phones: a small convolutional model that gives every letter a few slots, read by connectionist temporal classification.

Used for words the lexicon lacks. `autosing.tokens.pronounce` runs the same arithmetic in numpy, so that text never needs torch; a test
holds the two together. Letters: B batch, W letters of a word, D width, V classes (blank, then the phones).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autosing.tokens.pronounce import LETTERS
from autosing.tokens.text import PHONES


@dataclass(frozen=True)
class G2PConfig:
    """
    Attributes:
        width: channels D.
        blocks: residual blocks.
        kernel: letters a block sees (odd).
        slots: phones a letter may become, blanks included.
        dropout: on every block's output and on whole input letters (half as often).
    """

    width: int = 160
    blocks: int = 4
    kernel: int = 5
    slots: int = 3
    dropout: float = 0.1


class Block(nn.Module):
    """x + linear(gelu(conv(norm(x)))); padding is zeroed before the convolution."""

    def __init__(self, config: G2PConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.conv = nn.Conv1d(config.width, config.width, config.kernel, padding=config.kernel // 2)
        self.out = nn.Linear(config.width, config.width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, W, D), (B, W, 1) -> (B, W, D)."""
        y = self.conv((self.norm(x) * mask).transpose(1, 2)).transpose(1, 2)
        return x + self.drop(self.out(F.gelu(y, approximate="tanh")))


class G2P(nn.Module):
    """Letters -> CTC scores."""

    kind: ClassVar[str] = "g2p"
    Config: ClassVar[type] = G2PConfig

    def __init__(self, config: G2PConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(len(LETTERS) + 1, config.width, padding_idx=0)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.slots * (len(PHONES) + 1))

    def forward(self, letters: Tensor) -> Tensor:
        """(B, W) int64 (0 = padding, 1 + index in `LETTERS`) -> (B, W * slots, V) scores; class 0 is the blank, 1 + i is PHONES[i]."""
        mask = (letters > 0).unsqueeze(-1).float()
        x = self.embed(letters)
        if self.training:
            x = x * (torch.rand_like(mask) >= self.config.dropout / 2)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x)).reshape(len(letters), letters.shape[1] * self.config.slots, len(PHONES) + 1)


def decode(scores: Tensor, lengths: Tensor) -> list[list[int]]:
    """Best path of every row: (B, S, V) scores and (B,) slots in use -> class indices without repeats and blanks."""
    found = []
    for path, length in zip(scores.argmax(-1), lengths.tolist(), strict=True):
        path = torch.unique_consecutive(path[:length])
        found.append(path[path > 0].tolist())
    return found
