"""What t2s and both kinds of sm2a share: they listen to an accompaniment and place their states by rotary positions."""

from typing import Any

import torch
from torch import Tensor, nn

from autosing.nn.attention import rotary_table
from autosing.nn.blocks import Build, Decoder
from autosing.nn.decode import Map, affine
from autosing.nn.int8 import Int8Linear, linears_to_int8, require_int8
from autosing.tokens.patterns import TokenPattern

HEAD_WIDTH = 64


class ListeningModel(nn.Module):
    """Base of the sequence models. `music_pattern` is None for a model without music; `config` has `accompaniment`, `mup` and what `Build` is
    made of."""

    config: Any
    music_pattern: TokenPattern | None
    int8: bool = False

    def compiled_parts(self) -> list[nn.Module]:
        """The modules that compiling is worth it for."""
        raise NotImplementedError

    def use_int8(self) -> None:
        """Let the decoder, where there is one, take its steps in int8 from now on: for singing, the model can neither learn nor be saved after it.

        Raises:
            ConfigError: this machine has no fast int8.
        """
        require_int8(next(self.parameters()).device)
        self.int8 = True
        for part in self.compiled_parts():
            if isinstance(part, Decoder):
                linears_to_int8(part, but="key_value")  # of the sources, all of whose states go through it at once

    def _affine(self, matrix: Tensor, bias: Tensor) -> Map:
        """(B, in) x -> x M + b for the decoder's steps, of M (in, out)."""
        return Int8Linear(matrix.T.contiguous(), bias).forward if self.int8 else affine(matrix, bias)

    def _build(self) -> Build:
        c = self.config
        return Build(c.width, c.heads, c.mup, c.kv_heads, c.dropout, c.layer_dropout, c.checkpointing)

    def _rotary(self, positions: Tensor) -> Tensor | None:
        return rotary_table(positions, HEAD_WIDTH) if self.config.mup.rope else None

    def music_grid(self, codes: Tensor | None, batch: int, frames: int, device: torch.device) -> Tensor | None:
        """(B, K, T) accompaniment codes -> the grid the model reads; no codes = holes; None for a model without music."""
        if self.music_pattern is None or self.config.accompaniment is None:
            return None
        spec = self.config.accompaniment
        if codes is None:
            codes = torch.full((batch, spec.levels, frames), spec.HOLE, dtype=torch.long, device=device)
        return self.music_pattern.apply(codes, spec)
