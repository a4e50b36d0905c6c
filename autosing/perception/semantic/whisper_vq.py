"""WhisperSpeech's semantic tokens: `autosing.models.whisper_vq` with weights that `autosing-train convert` made of theirs.

    autosing-train convert whisper-vq-stoks-v3-7lang.model --whisper medium.pt $AUTOSING_MODELS/whisper_vq
    autosing-process run data/songs --semantic whisper_vq

Whisper hears 30 s at a time; a longer recording is cut into such pieces, and what a piece's tokens are depends on all of it. Letters: B batch, n samples.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autosing.errors import ConfigError
from autosing.models.io import load_model
from autosing.models.whisper_vq import SECONDS, WhisperVq
from autosing.perception.outside import Weights

FETCH = (
    "hf download WhisperSpeech/WhisperSpeech whisper-vq-stoks-v3-7lang.model --local-dir FOLDER, take the Whisper it names (medium.pt) from "
    "https://github.com/openai/whisper, then autosing-train convert FOLDER/whisper-vq-stoks-v3-7lang.model --whisper medium.pt $AUTOSING_MODELS/whisper_vq"
)


class WhisperVqTokenizer:
    """See the module; implements `SemanticTokenizer`."""

    def __init__(self, device: torch.device | str = "cpu", weights: str | None = None):
        """
        Args:
            weights: folder that `autosing-train convert` wrote; None = `$AUTOSING_MODELS/whisper_vq`.

        Raises:
            WeightsError, MismatchError: missing or damaged files, or those of another model.
        """
        self.device = torch.device(device)
        self._net: WhisperVq
        self._net, _ = load_model(self.files(weights)[0].parent, WhisperVq.kind, self.device)
        self.spec = self._net.config.spec

    @classmethod
    def files(cls, weights: str | None = None, **_: Any) -> tuple[Path, ...]:
        """Configuration and tensors; raises as `outside.Weights.find`."""
        return Weights("semantic tokenizer 'whisper_vq'", "whisper_vq", fetch=FETCH).paths(weights)

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        """(B, n) float32 at 16 kHz -> (B, N) int64, N = n * 25 // 16000; n may be 0.

        Raises:
            ConfigError: `wav` has not two axes.
        """
        if wav.ndim != 2:
            raise ConfigError(f"a semantic tokenizer takes audio of shape (batch, samples), found {tuple(wav.shape)}")
        count = wav.shape[1] * self.spec.token_rate // self.spec.sample_rate
        wav = wav.to(self.device, torch.float32)
        rows = [torch.cat([self._net(piece[None])[0] for piece in row.split(int(SECONDS * self.spec.sample_rate))]) for row in wav if count]
        return torch.stack(rows) if rows else torch.zeros(len(wav), count, dtype=torch.long, device=self.device)

    def codebook(self) -> Tensor:
        """(num_codes, W) float32."""
        return self._net.codes
