"""Who sings, heard from codec tokens: the model that `--task_name artist` trains, as a voice embedder.

    autosing-process run data/songs --voice artist:models/artist/mine/best
    autosing-process run data/songs --voice 'artist:{"weights": "models/artist/mine/best", "codec": "snac_32khz:/models/snac_32khz"}'

Its codec is the one it was trained on. A recording is heard in passages as long as those it was trained on, each at one level. Letters: B batch, n samples.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from autosing.errors import ConfigError
from autosing.models.artist import ArtistNet
from autosing.models.io import load_model
from autosing.perception.outside import Weights
from autosing.perception.voice.base import as_vocals
from autosing.registry import split_choice
from autosing.tokens.specs import Seconds, VoiceSpec, require_same

PASSAGE_SECONDS: Seconds = 10.0
SHORTEST_SECONDS: Seconds = 1.0
"""A last passage shorter than this is left out where there are others."""
LEVEL, SILENCE = 0.1, 1e-6
"""RMS that every passage is brought to, and what is none."""


class ArtistVoice:
    """See the module; implements `VoiceEmbedder`."""

    def __init__(self, device: torch.device | str = "cpu", weights: str | None = None, codec: str | None = None):
        """
        Args:
            weights: checkpoint folder or hub id; None = `$AUTOSING_MODELS/artist`.
            codec: choice of its codec, to say where its weights lie; None = by its name.

        Raises:
            ConfigError, MismatchError: `codec` is not the one it was trained on. WeightsError: files are missing.
        """
        from autosing.perception import load_codec  # the table of backends, which this is a row of

        self.device = torch.device(device)
        self._net: ArtistNet
        self._net, meta = load_model(self.files(weights)[0].parent, ArtistNet.kind, self.device)
        wanted = self._net.config.codec
        if codec is not None and split_choice(codec)[0] != wanted.name:
            raise ConfigError(f"voice embedder 'artist': 'codec' must be '{wanted.name}', on whose tokens it was trained, found '{codec}'")
        self._codec = load_codec(codec or wanted.name, self.device)
        require_same("codec", self._codec.spec, "this installation", wanted, "the artist model")
        self._seconds = float(meta.get("args", {}).get("crop_seconds", PASSAGE_SECONDS))
        self.spec = VoiceSpec("artist", wanted.sample_rate, self._net.config.width)

    @classmethod
    def files(cls, weights: str | None = None, **_: Any) -> tuple[Path, ...]:
        """Configuration and tensors; raises as `outside.Weights.find`."""
        fetch = "train it (train.py --task_name artist) and give its folder, artist:models/artist/NAME/best"
        return Weights("voice embedder 'artist'", "artist", fetch=fetch).paths(weights)

    @torch.no_grad()
    def embed(self, vocals: Tensor) -> Tensor:
        """(B, n) float32 at `spec.sample_rate` -> (B, D), unit norm, on the CPU: the mean over passages.

        Raises:
            ValueError: another shape.
        """
        pieces = as_vocals(vocals).split(int(self._seconds * self.spec.sample_rate), dim=1)
        kept = [piece for piece in pieces if piece.shape[1] >= SHORTEST_SECONDS * self.spec.sample_rate] or [pieces[0]]
        return normalize(torch.stack([self._passage(piece) for piece in kept]).mean(0), dim=1)

    def _passage(self, piece: Tensor) -> Tensor:
        """(B, n) -> (B, D), unit norm; each row by itself."""
        rms = piece.square().mean(1, keepdim=True).sqrt()
        level = torch.where(rms > SILENCE, LEVEL / rms.clamp(min=SILENCE), 1.0)
        codes = self._codec.encode((piece * level)[:, None].to(self.device))
        return normalize(torch.cat([self._net(row[None]) for row in codes]).float(), dim=1).cpu()
