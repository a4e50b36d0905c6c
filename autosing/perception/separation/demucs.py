"""Demucs (pip package `demucs` 4.1): Hybrid Transformer Demucs and its kin, as their makers publish them.

    --separator demucs
    --separator demucs:/models/htdemucs_ft
    --separator 'demucs:{"model": "htdemucs_ft", "shifts": 4}'

A folder of weights holds what the hub does: `<model>.yaml` (which networks, how they are weighed) and one safetensors file a network. Of a bag only the
networks that are heard in the vocals run: one of the four of `htdemucs_ft`. Accompaniment = mix - vocals. Unlike Demucs' own, shifts are evenly spaced,
not drawn, so that a song has one answer. Letters: C channels, n samples.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autosing.errors import ConfigError, WeightsError
from autosing.perception.outside import Weights, load_package, loading
from autosing.perception.separation.base import Stems, as_mix
from autosing.tokens.specs import Seconds

NAMESPACE = "adefossez"
HUB_NAMES = {"htdemucs": "HTDemucs"}
MAX_SHIFT_SECONDS: Seconds = 0.5
SILENCE = 1e-5  # a deviation below this (-100 dB) has nothing to separate


class _Heard(NamedTuple):
    """A network of a bag, its weight in the vocals, and which of its outputs they are."""

    net: Any
    weight: float
    source: int


def hub_name(model: str) -> str:
    """Demucs' own name of a model -> its hub id: htdemucs_ft -> adefossez/HTDemucs-ft, mdx_extra -> adefossez/Demucs-mdx_extra."""
    other = f"HTDemucs-{model.removeprefix('htdemucs_')}" if model.startswith("htdemucs_") else f"Demucs-{model}"
    return f"{NAMESPACE}/{HUB_NAMES.get(model, other)}"


class DemucsSeparator:
    """See the module; implements `Separator`."""

    name = "demucs"

    def __init__(
        self,
        device: torch.device | str = "cpu",
        weights: str | None = None,
        model: str | None = None,
        segment: Seconds | None = None,
        overlap: float = 0.25,
        shifts: int = 1,
    ):
        """
        Args:
            weights: folder or hub id of the model's files; None = `$AUTOSING_MODELS/<model>`, then the cache of the hub.
            model: its name; None = that of the only `.yaml` of `weights`, or "htdemucs".
            segment: what a network sees at a time; None = what it was trained on, which a transformer cannot exceed.
            overlap: share of a segment that the next one sees too.
            shifts: average over so many shifts of the song by up to half a second; each costs a whole pass.

        Raises:
            ConfigError: demucs is not installed, or an option is out of range.
            WeightsError: files are missing or hold no separator of vocals.
        """
        if not 0 <= overlap < 1:
            raise ConfigError(f"separator 'demucs': 'overlap' must be at least 0 and below 1, found {overlap:g}")
        if shifts < 1:
            raise ConfigError(f"separator 'demucs': 'shifts' must be at least 1, found {shifts}")
        self.device = torch.device(device)
        self._apply = load_package("demucs.apply", "demucs", "separator 'demucs'")
        load = load_package("demucs.hf", "demucs", "separator 'demucs'").load_safetensors_model
        description, *files = self.files(weights, model)
        bag = _read_bag(description)
        nets = []
        for file in files:
            nets.append(_network(load, file).to(self.device).eval())
        for net, file in zip(nets, files, strict=True):
            if "vocals" not in net.sources:
                raise WeightsError(f"separator 'demucs': '{file}' separates {', '.join(net.sources)}, no vocals; give another model")
        self.sample_rate = int(nets[0].samplerate)
        rows = bag.get("weights") or [[1.0] * len(net.sources) for net in nets]
        heard = [_Heard(n, float(w[n.sources.index("vocals")]), n.sources.index("vocals")) for n, w in zip(nets, rows, strict=True)]
        self._heard = [one for one in heard if one.weight]
        self._overlap, self._shifts = overlap, shifts
        longest = min(float(one.net.segment) for one in self._heard)
        asked = segment if segment is not None else bag.get("segment")
        limited = any(type(one.net).__name__ == "HTDemucs" for one in self._heard)
        if asked is not None and (asked <= 0 or (limited and asked > longest)):
            raise ConfigError(f"separator 'demucs': 'segment' must lie between 0 and {longest:g} s for this model, found {asked:g}")
        self._segment = float(asked if asked is not None else longest)

    @classmethod
    def files(cls, weights: str | None = None, model: str | None = None, **_: Any) -> tuple[Path, ...]:
        """The description of the bag and the file of each network; raises as `outside.Weights.find`."""
        if model is None and weights is not None:
            there = next((place for place in Weights("separator 'demucs'", "").places(weights) if place.is_dir()), Path(weights))
            found = sorted(there.glob("*.yaml"))
            if len(found) > 1:
                raise WeightsError(
                    f"separator 'demucs': '{weights}' describes {len(found)} models ({', '.join(path.stem for path in found)}); name one: "
                    f'demucs:{{"weights": "{weights}", "model": "{found[0].stem}"}}'
                )
            model = found[0].stem if found else None
        model = model or "htdemucs"
        place = Weights(f"separator 'demucs' ({model})", model, hub_name(model), (f"{model}.yaml",))
        folder = place.find(weights)
        description = folder / f"{model}.yaml"
        nets = tuple(f"{signature}.safetensors" for signature in _read_bag(description)["models"])
        whole = Weights(place.what, model, place.hub, (*place.files, *nets))
        return whole.paths(folder)

    @torch.inference_mode()
    def separate(self, mix: Tensor) -> Stems:
        """(C, n) float32 at `sample_rate`, C 1 or 2 -> vocals and accompaniment, each (C, n) on the CPU.

        Raises:
            ValueError: another shape.
        """
        mix = as_mix(mix)
        middle = mix.mean(0)
        deviation = float(middle.std()) if mix.shape[1] > 1 else 0.0
        if deviation < SILENCE:  # also a song that is all in the difference of its channels: no voice stands there
            return Stems(torch.zeros_like(mix), mix.clone())
        stereo = ((mix - middle.mean()) / deviation).expand(2, -1)
        steps = [round(number * MAX_SHIFT_SECONDS * self.sample_rate / self._shifts) for number in range(self._shifts)]
        vocals = torch.zeros_like(stereo)
        for step in steps:
            shifted = torch.nn.functional.pad(stereo, (step, 0))
            for one in self._heard:
                vocals = vocals + one.weight * self._pass(one, shifted)[:, step:]
        vocals = vocals * (deviation / (len(steps) * sum(one.weight for one in self._heard)))
        if mix.shape[0] == 1:
            vocals = vocals.mean(0, keepdim=True)
        return Stems(vocals, mix - vocals)

    def _pass(self, one: _Heard, mix: Tensor) -> Tensor:
        """(2, n) -> its vocals (2, n): overlapping segments weighed by a triangle; only the vocals of a segment are kept."""
        samples, length = mix.shape[1], int(self.sample_rate * self._segment)
        stride = max(1, int((1 - self._overlap) * length))
        rise, fall = torch.arange(1, length // 2 + 1), torch.arange(length - length // 2, 0, -1)
        ramp = torch.cat([rise, fall]) / fall[0]
        vocals, weight = torch.zeros_like(mix), torch.zeros(samples)
        limit = self._segment if type(one.net).__name__ == "HTDemucs" else None
        for start in range(0, samples, stride):
            chunk = self._apply.TensorChunk(mix[None], start, length)
            found = self._apply.apply_model(one.net, chunk, shifts=0, split=False, device=self.device, segment=limit)[0, one.source].cpu()
            count = found.shape[1]
            vocals[:, start : start + count] += ramp[:count] * found
            weight[start : start + count] += ramp[:count]
        return vocals / weight


def _network(load: Callable[[Path], Any], file: Path) -> Any:
    """
    Raises:
        ConfigError: it is quantised, and needs a package that is not installed. WeightsError: see `loading`.
    """
    said = io.StringIO()
    try:
        with loading("separator 'demucs'", file), contextlib.redirect_stderr(said):
            return load(file)
    except SystemExit as error:  # Demucs' own way to say so
        why = said.getvalue().partition("\n")[0].strip().rstrip(".")
        advice = "pip install 'demucs[quantized]', or give a model whose name does not end in _q"
        raise ConfigError(f"separator 'demucs': '{file}' cannot be loaded ({why}): {advice}") from error


def _read_bag(path: Path) -> dict[str, Any]:
    """
    Raises:
        WeightsError: the file does not describe a bag of networks.
    """
    yaml = load_package("yaml", "demucs", "separator 'demucs'")
    try:
        bag = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WeightsError(f"'{path}' cannot be read ({error}); fetch it again") from error
    if not isinstance(bag, dict) or not isinstance(bag.get("models"), list) or not bag["models"]:
        raise WeightsError(f"'{path}' does not name the networks of a model ('models: [...]'); fetch it again")
    return bag
