"""ECAPA-TDNN speaker embeddings through `speechbrain` (Apache-2.0): what WhisperSpeech's models are conditioned on.

    autosing-process run data/songs --voice ecapa
    autosing-process run data/songs --voice ecapa:/models/ecapa

The makers publish a pickle, which `autosing-train convert` makes safetensors of. Only the network and its features come from the package: its own loader
runs what a YAML file names. The layers' sizes are read off the tensors. Letters: B batch, n samples, F frames, D width.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize, pad

from autosing.errors import WeightsError
from autosing.perception.outside import WEIGHTS_FILE, Weights, load_package, loading
from autosing.perception.voice.base import as_vocals
from autosing.tokens.specs import Seconds, VoiceSpec

SAMPLE_RATE, MELS = 16_000, 80
SHORTEST_SECONDS: Seconds = 0.5
LEVEL, SILENCE = 0.05, 1e-6
"""RMS that a recording is brought to, well above the floor of the features, and what is none."""
WHAT = "voice embedder 'ecapa'"


class EcapaVoice:
    """See the module; implements `VoiceEmbedder`."""

    def __init__(self, device: torch.device | str = "cpu", weights: str | None = None):
        """
        Args:
            weights: folder or hub id; None = `$AUTOSING_MODELS/ecapa`, then the cache of the hub.

        Raises:
            ConfigError: speechbrain is not installed. WeightsError: the file is missing or holds another network.
        """
        self.device = torch.device(device)
        (file,) = self.files(weights)
        network = load_package("speechbrain.lobes.models.ECAPA_TDNN", "speechbrain", WHAT).ECAPA_TDNN
        self._features = load_package("speechbrain.lobes.features", "speechbrain", WHAT).Fbank(n_mels=MELS).to(self.device).eval()
        with loading(WHAT, file):
            state = load_file(file)
        try:
            sizes = _sizes(state)
            self._net = network(MELS, **sizes)
            self._net.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{WHAT}: '{file}' holds no ECAPA-TDNN ({str(error).splitlines()[0]}); give its embedding_model, converted") from error
        self._net.to(self.device).eval()
        self.spec = VoiceSpec("ecapa", SAMPLE_RATE, sizes["lin_neurons"])

    @classmethod
    def files(cls, weights: str | None = None, **_: Any) -> tuple[Path, ...]:
        """The tensors; raises as `outside.Weights.find`."""
        return Weights(WHAT, "ecapa", "speechbrain/spkrec-ecapa-voxceleb", (WEIGHTS_FILE,), "embedding_model.ckpt").paths(weights)

    @torch.no_grad()
    def embed(self, vocals: Tensor) -> Tensor:
        """(B, n) float32 at 16 kHz -> (B, D), unit norm, on the CPU; each row by itself.

        Raises:
            ValueError: another shape.
        """
        vocals = as_vocals(vocals)
        wav = pad(vocals, (0, max(0, int(SHORTEST_SECONDS * SAMPLE_RATE) - vocals.shape[1])))
        rms = wav.square().mean(1, keepdim=True).sqrt()
        wav = (wav * torch.where(rms > SILENCE, LEVEL / rms.clamp(min=SILENCE), 1.0)).to(self.device)
        rows = []
        for row in wav:
            features = self._features(row[None])
            rows.append(self._net(features - features.mean(1, keepdim=True))[:, 0])
        return normalize(torch.cat(rows), dim=1).cpu() if rows else torch.zeros(0, self.spec.width)


def _sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """What the network is built with, read off its tensors."""
    blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    channels = [len(state["blocks.0.conv.conv.weight"]), *(len(state[f"blocks.{i}.tdnn1.conv.conv.weight"]) for i in range(1, blocks))]
    return {
        "channels": [*channels, len(state["mfa.conv.conv.weight"])],
        "attention_channels": len(state["asp.tdnn.conv.conv.weight"]),
        "se_channels": len(state["blocks.1.se_block.conv1.conv.weight"]),
        "res2net_scale": 1 + len({name.split(".")[4] for name in state if name.startswith("blocks.1.res2net_block.blocks.")}),
        "lin_neurons": len(state["fc.conv.weight"]),
    }
