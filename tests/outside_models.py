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


def small_bundle(monkeypatch: pytest.MonkeyPatch, name: str = "WAV2VEC2_ASR_BASE_960H") -> Any:
    """Puts a tiny network in the place of torchaudio's bundle of that name, with its letters; returns the bundle."""
    import dataclasses

    import torchaudio

    bundle = getattr(torchaudio.pipelines, name)
    layers = [(8, kernel, stride) for _, kernel, stride in bundle._params["extractor_conv_layer_config"]]
    params = {
        **bundle._params, "extractor_conv_layer_config": layers, "encoder_embed_dim": 16, "encoder_num_layers": 1, "encoder_num_heads": 2,
        "encoder_ff_interm_features": 16, "encoder_pos_conv_kernel": 8, "encoder_pos_conv_groups": 2,
    }  # fmt: skip
    small = dataclasses.replace(bundle, _params=params)
    monkeypatch.setattr(torchaudio.pipelines, name, small)
    return small


def write_bundle(folder: Path, bundle: Any) -> Any:
    """Random weights of a bundle as its makers publish them: with rows that stand for nothing; returns the network."""
    import torchaudio

    torch.manual_seed(0)
    net = torchaudio.models.wav2vec2_model(**bundle._params).eval()
    torch.nn.init.normal_(net.aux.weight, std=3.0)
    state = dict(net.state_dict())
    for key in ("aux.weight", "aux.bias"):
        rows = iter(state[key])
        total = len(state[key]) + len(bundle._remove_aux_axis)
        state[key] = torch.stack([torch.full_like(state[key][0], 99.0) if row in bundle._remove_aux_axis else next(rows) for row in range(total)])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    return net


def write_wav2vec2(folder: Path) -> Any:
    """A tiny `Wav2Vec2ForCTC` with Spanish letters, as on the hub; returns the network."""
    transformers = pytest.importorskip("transformers", reason="needs transformers (pip install 'autosing[transformers]')")
    torch.manual_seed(0)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyzáéíñóúü"]
    config = transformers.Wav2Vec2Config(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    net = transformers.Wav2Vec2ForCTC(config).eval()
    torch.nn.init.normal_(net.lm_head.weight, std=3.0)
    net.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({letter: column for column, letter in enumerate(letters)}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    return net


def write_artist(folder: Path) -> Any:
    """A small model of the task `artist` on the embedded codec; returns it."""
    from autosing.models.artist import ArtistConfig, ArtistNet
    from autosing.models.io import save_model
    from autosing.perception import load_codec

    torch.manual_seed(0)
    net = ArtistNet(ArtistConfig(heads=1, depth=2, codec=load_codec("builtin").spec, artists=3, width=32)).eval()
    save_model(net, folder, {"task": "artist", "args": {"crop_seconds": 4.0}})
    return net


def write_ecapa(folder: Path) -> Any:
    """A small ECAPA-TDNN; returns the network."""
    pytest.importorskip("speechbrain", reason="needs speechbrain (pip install 'autosing[speechbrain]')")
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    torch.manual_seed(0)
    net = ECAPA_TDNN(80, lin_neurons=24, channels=[16, 16, 16, 16, 48], attention_channels=8, se_channels=4, res2net_scale=4).eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    return net


def write_whisper_vq(folder: Path) -> Any:
    """A small Whisper's encoder with a bottleneck, as `autosing-train convert` writes it; returns the model."""
    from autosing.models.io import save_model
    from autosing.models.whisper_vq import WhisperVq, WhisperVqConfig

    torch.manual_seed(0)
    net = WhisperVq(WhisperVqConfig(mels=80, width=16, heads=2, layers=1, codes=65, code_width=8)).eval()
    net.encoder.positional_embedding.normal_()
    net.codes.copy_(torch.nn.functional.normalize(torch.randn(65, 8), dim=1))
    save_model(net, folder, {})
    return net


def write_faster_whisper(folder: Path) -> None:
    """A tiny Whisper of English letters as faster-whisper reads it: CTranslate2's file and a tokenizer of bytes."""
    pytest.importorskip("faster_whisper", reason="needs whisperx (pip install 'autosing[whisperx]')")
    import tokenizers
    import transformers
    from ctranslate2.converters.transformers import WhisperLoader

    torch.manual_seed(0)
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>",
               "<|notimestamps|>"]  # fmt: skip
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = tokenizers.pre_tokenizers.ByteLevel(), tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    first = len(letters)
    config = transformers.WhisperConfig(
        vocab_size=first + len(special) + 1501, num_mel_bins=80, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=first, bos_token_id=first, eos_token_id=first,
        decoder_start_token_id=first + 1, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = []
    model.get_input_embeddings().weight.data[first:] = 0.0  # so that letters are likelier than marks, and it says something
    with torch.no_grad():
        spec = WhisperLoader()(model, transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    spec.validate()
    spec.optimize()
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
