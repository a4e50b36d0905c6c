"""Other projects' models with random weights: the real architecture, small where its configuration allows, saved as their makers publish them.

Each function writes into a folder what a loader expects there, and skips the test where the package is not installed.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file


def write_demucs(folder: Path, models: int = 1, weights: list[list[float]] | None = None, name: str = "htdemucs") -> list[Any]:
    """A bag of tiny Hybrid Transformer Demucs networks of one second; returns the networks."""
    pytest.importorskip("demucs", reason="needs demucs (pip install 'autosing[demucs]')")
    from demucs.htdemucs import HTDemucs

    folder.mkdir(parents=True, exist_ok=True)
    kwargs: dict[str, Any] = {
        "sources": ["drums", "bass", "other", "vocals"], "channels": 8, "nfft": 1024, "depth": 4, "bottom_channels": 16, "t_layers": 1, "t_heads": 2,
        "samplerate": 44100, "segment": 1,
    }  # fmt: skip
    nets = []
    for number in range(models):
        torch.manual_seed(number)
        net = HTDemucs(**kwargs).eval()
        metadata = {"klass": "demucs.htdemucs.HTDemucs", "args": "[]", "kwargs": json.dumps(kwargs)}
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, folder / f"net{number}.safetensors", metadata=metadata)
        nets.append(net)
    bag = {"models": [f"net{number}" for number in range(models)], **({"weights": weights} if weights else {})}
    (folder / f"{name}.yaml").write_text(json.dumps(bag))  # JSON is YAML
    return nets


def write_codec(folder: Path, name: str, **changed: Any) -> Any:
    """A tiny codec of the family of `name` with its rates, levels and codebook sizes; returns the network. `changed` goes into its configuration."""
    torch.manual_seed(0)
    return CODECS[name.split("_")[0]](folder, name, changed)


def _write_snac(folder: Path, name: str, changed: dict[str, Any]) -> Any:
    SNAC = pytest.importorskip("snac", reason="needs snac (pip install 'autosing[snac]')").SNAC
    rate, rates, window, strides = {
        "snac_24khz": (24_000, [2, 4, 8, 8], None, [4, 2, 1]),
        "snac_32khz": (32_000, [2, 3, 8, 8], 32, [8, 4, 2, 1]),
        "snac_44khz": (44_100, [2, 4, 8, 8], 32, [8, 4, 2, 1]),
    }[name]
    config = {
        "sampling_rate": rate, "encoder_dim": 4, "encoder_rates": rates, "decoder_dim": 64, "decoder_rates": rates[::-1], "attn_window_size": window,
        "codebook_size": 4096, "codebook_dim": 8, "vq_strides": strides, "noise": True, "depthwise": True, **changed,
    }  # fmt: skip
    net = SNAC(**config).eval()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(net.state_dict(), folder / "model.safetensors")
    return net


def _write_encodec(folder: Path, name: str, changed: dict[str, Any]) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers (pip install 'autosing[transformers]')")
    own = {
        "encodec_24khz": {},
        "encodec_32khz": {
            "sampling_rate": 32_000, "upsampling_ratios": [8, 5, 4, 4], "codebook_size": 2048, "target_bandwidths": [2.2], "use_causal_conv": False,
            "use_conv_shortcut": False,
        },
    }[name]  # fmt: skip
    net = transformers.EncodecModel(transformers.EncodecConfig(**{"num_filters": 2, "hidden_size": 16, **own, **changed})).eval()
    for layer in net.quantizer.layers:
        layer.codebook.embed.normal_()
    net.save_pretrained(folder)
    return net


def _write_dac(folder: Path, name: str, changed: dict[str, Any]) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers (pip install 'autosing[transformers]')")
    config = {"sampling_rate": 44_100, "encoder_hidden_size": 4, "decoder_hidden_size": 32, **changed}
    net = transformers.DacModel(transformers.DacConfig(**config)).eval()
    net.save_pretrained(folder)
    return net


CODECS = {"snac": _write_snac, "encodec": _write_encodec, "dac": _write_dac}
