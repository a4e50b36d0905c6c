"""SNAC (pip package `snac`): residual codes at several rates, as their makers publish them: snac_24khz, snac_32khz, snac_44khz.

    --codec snac_32khz
    --codec snac_32khz:/models/snac_32khz

The makers publish pickles; `autosing-train convert` makes the safetensors file that is read here. The decoder adds noise, which is drawn from a seed: the
same codes give the same samples. Its attention works on whole windows of frames, so the codes are filled up by their last ones and the rest is cut off.
"""

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from autosing.perception.codec.neural import NeuralCodec, require_config
from autosing.perception.outside import CONFIG_FILE, WEIGHTS_FILE, Weights, load_package, loading
from autosing.tokens.specs import CodecSpec

NUM_CODES = 4096
PICKLE = "pytorch_model.bin"


class SnacCodec(NeuralCodec):
    """See the module; implements `Codec`."""

    layout: ClassVar[CodecSpec]

    def __init__(self, device: torch.device | str = "cpu", weights: str | None = None, noise_seed: int = 0):
        """
        Args:
            weights: folder or hub id; None = `$AUTOSING_MODELS/<name>`, then the cache of the hub.
            noise_seed: of the noise in decoded audio.

        Raises:
            ConfigError: the package is not installed.
            WeightsError, MismatchError: files are missing, or of another codec.
        """
        super().__init__(self.layout, device)
        spec = self.spec
        config_file, tensors = self.files(weights)
        what = f"codec '{spec.name}'"
        with loading(what, config_file):
            config = json.loads(config_file.read_text(encoding="utf-8"))
            found = {**config, "hop": math.prod(config.get("encoder_rates", ()))}
        wanted = {"sampling_rate": spec.sample_rate, "hop": spec.hop, "vq_strides": list(spec.strides), "codebook_size": spec.num_codes}
        require_config(spec, found, wanted, config_file.parent)
        package = load_package("snac", "snac", what)
        with loading(what, tensors):
            self._net = package.SNAC(**config)
            self._net.load_state_dict(load_file(tensors))
        self._net.to(self.device).eval()
        self._whole = math.lcm(max(spec.strides), config.get("attn_window_size") or 1)
        self._seed = noise_seed

    @classmethod
    def files(cls, weights: str | None = None, **_: Any) -> tuple[Path, ...]:
        """Configuration and tensors; raises as `outside.Weights.find`."""
        name = cls.layout.name
        return Weights(f"codec '{name}'", name, f"hubertsiuzdak/{name}", (CONFIG_FILE, WEIGHTS_FILE), PICKLE).paths(weights)

    def codebooks(self) -> tuple[Tensor, ...]:
        """The books themselves, from which the decoder's inputs are projected."""
        return tuple(level.codebook.weight.detach() for level in self._net.quantizer.quantizers)

    def _encode_row(self, wav: Tensor) -> list[Tensor]:
        return [codes[0] for codes in self._net.encode(wav)]

    def _decode_row(self, levels: list[Tensor]) -> Tensor:
        frames = levels[-1].shape[1] * self.spec.strides[-1]
        missing = -frames % self._whole
        filled = [
            torch.cat([codes, codes[:, -1:].expand(-1, missing // stride)], 1) for codes, stride in zip(levels, self.spec.strides, strict=True)
        ]
        own = self.device.type != "cpu"
        with torch.random.fork_rng([self.device.index or 0] if own else [], device_type=self.device.type if own else "cuda"):
            (torch.manual_seed if own else torch.default_generator.manual_seed)(self._seed)
            return self._net.decode(filled)[0, 0]


class Snac24khz(SnacCodec):
    layout = CodecSpec("snac_24khz", 24_000, 512, (4, 2, 1), NUM_CODES, 4)


class Snac32khz(SnacCodec):
    layout = CodecSpec("snac_32khz", 32_000, 384, (8, 4, 2, 1), NUM_CODES, 8)


class Snac44khz(SnacCodec):
    layout = CodecSpec("snac_44khz", 44_100, 512, (8, 4, 2, 1), NUM_CODES, 8)
