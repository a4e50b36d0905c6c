"""Codecs whose levels all have one rate, through `transformers`: encodec_24khz, encodec_32khz (Meta), dac_44khz (Descript).

    --codec encodec_32khz
    --codec dac_44khz:/models/dac_44khz

Their pattern is the delayed one: a lane a level, each one frame later than the level above (`tokens.patterns.bricks`). How many levels are coded is part
of the name: 8 of encodec_24khz (6 kbit/s), all 4 and all 9 of the others.
"""

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from autosing.perception.codec.neural import NeuralCodec, require_config
from autosing.perception.outside import CONFIG_FILE, Weights, from_pretrained, load_package, loading
from autosing.tokens.specs import CodecSpec


class FlatCodec(NeuralCodec):
    """What these have in common: where they are found, and that they fit their name."""

    layout: ClassVar[CodecSpec]
    hub: ClassVar[str]
    model: ClassVar[str]
    rates: ClassVar[str]
    """The setting whose product is the hop."""

    def __init__(self, device: torch.device | str = "cpu", weights: str | None = None):
        """
        Args:
            weights: folder or hub id; None = `$AUTOSING_MODELS/<name>`, then the cache of the hub.

        Raises:
            ConfigError: transformers is not installed.
            WeightsError, MismatchError: files are missing, or of another codec.
        """
        super().__init__(self.layout, device)
        spec, folder = self.spec, self.files(weights)[0].parent
        what = f"codec '{spec.name}'"
        package = load_package("transformers", "transformers", what)
        with loading(what, folder / CONFIG_FILE):
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            found = {**config, "hop": math.prod(config.get(self.rates, ()))}
        wanted = {"sampling_rate": spec.sample_rate, "hop": spec.hop, "codebook_size": spec.num_codes}
        require_config(spec, found, wanted, folder)
        self._net = from_pretrained(getattr(package, self.model), folder, what).to(self.device)

    @classmethod
    def files(cls, weights: str | None = None, **_: Any) -> tuple[Path, ...]:
        """Configuration and tensors; raises as `outside.Weights.find`."""
        return Weights(f"codec '{cls.layout.name}'", cls.layout.name, cls.hub).paths(weights)


class EncodecCodec(FlatCodec):
    """EnCodec at one bandwidth."""

    model, rates = "EncodecModel", "upsampling_ratios"
    kilobits: ClassVar[float]

    def codebooks(self) -> tuple[Tensor, ...]:
        return tuple(layer.codebook.embed.detach() for layer in self._net.quantizer.layers[: self.spec.levels])

    def _encode_row(self, wav: Tensor) -> list[Tensor]:
        return list(self._net.encode(wav, bandwidth=self.kilobits).audio_codes[0, 0])

    def _decode_row(self, levels: list[Tensor]) -> Tensor:
        return self._net.decode(torch.stack(levels, 1)[None], [None]).audio_values[0, 0]


class DacCodec(FlatCodec):
    """Descript Audio Codec with all of its levels."""

    model, rates = "DacModel", "downsampling_ratios"

    def codebooks(self) -> tuple[Tensor, ...]:
        return tuple(level.codebook.weight.detach() for level in self._net.quantizer.quantizers)

    def _encode_row(self, wav: Tensor) -> list[Tensor]:
        return list(self._net.encode(wav).audio_codes[0])

    def _decode_row(self, levels: list[Tensor]) -> Tensor:
        return self._net.decode(audio_codes=torch.stack(levels, 1)).audio_values[0]


class Encodec24khz(EncodecCodec):
    layout = CodecSpec("encodec_24khz", 24_000, 320, (1,) * 8, 1024, 1)
    hub, kilobits = "facebook/encodec_24khz", 6.0


class Encodec32khz(EncodecCodec):
    layout = CodecSpec("encodec_32khz", 32_000, 640, (1,) * 4, 2048, 1)
    hub, kilobits = "facebook/encodec_32khz", 2.2


class Dac44khz(DacCodec):
    layout = CodecSpec("dac_44khz", 44_100, 512, (1,) * 9, 1024, 1)
    hub = "descript/dac_44khz"
