"""Ears: what turns audio into stems, times, tokens and embeddings.

Each kind of ear is a folder: `base.py` holds its Protocol, one file per backend, `builtin` is the embedded default whose weights are
in the package. The tables below are the only place that names backends; a backend is imported when it is asked for.
"""

from typing import Any

import torch

from autosing.perception.alignment.base import Aligner
from autosing.perception.codec.base import Codec
from autosing.perception.semantic.base import SemanticTokenizer
from autosing.perception.separation.base import Separator
from autosing.perception.voice.base import VoiceEmbedder
from autosing.registry import Registry

CODECS = Registry(
    "codec",
    {
        "builtin": "autosing.perception.codec.builtin:BuiltinCodec",
        "builtin_band": "autosing.perception.codec.band:BandCodec",
    },
)
SEMANTIC = Registry("semantic tokenizer", {"builtin": "autosing.perception.semantic.builtin:BuiltinSemantic"})
SEPARATORS = Registry("separator", {"builtin": "autosing.perception.separation.builtin:BuiltinSeparator"})
ALIGNERS = Registry("aligner", {"builtin": "autosing.perception.alignment.builtin:BuiltinAligner"})
VOICES = Registry("voice embedder", {"builtin": "autosing.perception.voice.builtin:BuiltinVoice"})


def load_codec(name: str = "builtin", device: torch.device | str = "cpu", **options: Any) -> Codec:
    return CODECS.get(name)(device=torch.device(device), **options)


def load_semantic(name: str = "builtin", device: torch.device | str = "cpu", **options: Any) -> SemanticTokenizer:
    return SEMANTIC.get(name)(device=torch.device(device), **options)


def load_separator(name: str = "builtin", device: torch.device | str = "cpu", **options: Any) -> Separator:
    return SEPARATORS.get(name)(device=torch.device(device), **options)


def load_aligner(name: str = "builtin", device: torch.device | str = "cpu", **options: Any) -> Aligner:
    return ALIGNERS.get(name)(device=torch.device(device), **options)


def load_voice(name: str = "builtin", device: torch.device | str = "cpu", **options: Any) -> VoiceEmbedder:
    return VOICES.get(name)(device=torch.device(device), **options)
