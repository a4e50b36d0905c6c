"""Ears: what turns audio into stems, times, tokens and embeddings.

Each kind of ear is a folder: `base.py` holds its Protocol, one file per backend, `builtin` is the embedded default whose weights are
in the package. The tables below are the only place that names backends; a backend is imported when it is asked for, and what it needs of other
projects is found by `outside.py`. A choice is a name, or a name with options (`autosing.registry.split_choice`).
"""

from collections.abc import Mapping
from typing import Any

import torch

from autosing.config import check_options
from autosing.perception.alignment.base import Aligner, Transcriber
from autosing.perception.codec.base import Codec
from autosing.perception.semantic.base import SemanticTokenizer
from autosing.perception.separation.base import Separator
from autosing.perception.voice.base import VoiceEmbedder
from autosing.registry import Registry, split_choice

CODECS = Registry(
    "codec",
    {
        "builtin": "autosing.perception.codec.builtin:BuiltinCodec",
        "builtin_band": "autosing.perception.codec.band:BandCodec",
        "snac_24khz": "autosing.perception.codec.snac:Snac24khz",
        "snac_32khz": "autosing.perception.codec.snac:Snac32khz",
        "snac_44khz": "autosing.perception.codec.snac:Snac44khz",
        "encodec_24khz": "autosing.perception.codec.flat:Encodec24khz",
        "encodec_32khz": "autosing.perception.codec.flat:Encodec32khz",
        "dac_44khz": "autosing.perception.codec.flat:Dac44khz",
    },
)
TRANSCRIBERS = Registry("transcriber", {"whisperx": "autosing.perception.alignment.whisperx:WhisperxTranscriber"})
SEMANTIC = Registry(
    "semantic tokenizer",
    {
        "builtin": "autosing.perception.semantic.builtin:BuiltinSemantic",
        "whisper_vq": "autosing.perception.semantic.whisper_vq:WhisperVqTokenizer",
    },
)
SEPARATORS = Registry(
    "separator",
    {
        "builtin": "autosing.perception.separation.builtin:BuiltinSeparator",
        "demucs": "autosing.perception.separation.demucs:DemucsSeparator",
    },
)
ALIGNERS = Registry(
    "aligner",
    {
        "builtin": "autosing.perception.alignment.builtin:BuiltinAligner",
        "ctc": "autosing.perception.alignment.ctc:CtcAligner",
        "whisperx": "autosing.perception.alignment.whisperx:WhisperxAligner",
    },
)
VOICES = Registry(
    "voice embedder",
    {
        "builtin": "autosing.perception.voice.builtin:BuiltinVoice",
        "artist": "autosing.perception.voice.artist:ArtistVoice",
        "ecapa": "autosing.perception.voice.ecapa:EcapaVoice",
    },
)


def load_codec(choice: str = "builtin", device: torch.device | str = "cpu", **options: Any) -> Codec:
    return _load(CODECS, choice, device, options)


def load_semantic(choice: str = "builtin", device: torch.device | str = "cpu", **options: Any) -> SemanticTokenizer:
    return _load(SEMANTIC, choice, device, options)


def load_separator(choice: str = "builtin", device: torch.device | str = "cpu", **options: Any) -> Separator:
    return _load(SEPARATORS, choice, device, options)


def load_aligner(choice: str = "builtin", device: torch.device | str = "cpu", **options: Any) -> Aligner:
    return _load(ALIGNERS, choice, device, options)


def load_transcriber(choice: str, device: torch.device | str = "cpu", **options: Any) -> Transcriber:
    return _load(TRANSCRIBERS, choice, device, options)


def load_voice(choice: str = "builtin", device: torch.device | str = "cpu", **options: Any) -> VoiceEmbedder:
    return _load(VOICES, choice, device, options)


def _load(registry: Registry, choice: str, device: torch.device | str, options: Mapping[str, Any]) -> Any:
    """The backend of a choice (`registry.split_choice`); `options` of the caller go before those of the choice."""
    backend, given = chosen(registry, choice)
    return backend(device=torch.device(device), **{**given, **options})


def chosen(registry: Registry, choice: str) -> tuple[Any, dict[str, Any]]:
    """The class of a choice and its checked options.

    Raises:
        ConfigError: no such backend or option, or an option of the wrong type.
    """
    name, options = split_choice(choice)
    backend = registry.get(name)
    return backend, check_options(backend, options, f"{registry.what} '{name}'")
