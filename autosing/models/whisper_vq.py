"""WhisperSpeech's semantic tokenizer rebuilt: the encoder of a Whisper and the bottleneck trained on it (`RQBottleneckTransformer`), as one model.

log-mel spectrogram -> Whisper's encoder over 30 s -> mean of `downsample` frames -> a residual MLP -> projection -> the nearest code. Tokens are those of the
pip package `whisperspeech` for one recording at a time; what the bottleneck has for training alone (its transformer behind the codes) is left out. The
first AutoSing's tokenizer is of the same class. Letters: B batch, n samples, M mel bands, F mel frames (100 a second), N tokens, D width, W width of a code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autosing.errors import MismatchError
from autosing.models.convert import Converted, Tensors, Values
from autosing.tokens.specs import Seconds, SemanticSpec

SAMPLE_RATE, WINDOW, HOP = 16_000, 400, 160
SECONDS: Seconds = 30.0
FRAMES = int(SECONDS * SAMPLE_RATE) // HOP
MEL_PADDING = -1.5
"""What stands behind the end of a recording, in the log-mel spectrogram: WhisperSpeech's choice."""
CLASS = "RQBottleneckTransformer"


@dataclass(frozen=True)
class WhisperVqConfig:
    """
    Attributes:
        mels, width, heads, layers: of Whisper's encoder.
        codes, code_width: rows and columns of the codebook; where the bottleneck knows of padding, the last row stands for it.
        downsample: frames of the encoder (50 a second) a token.
        pooling: "mean" of these frames, the "first", or the first plus a "convolution".
        cosine: the nearest code by angle, not by distance.
        ffn_mult: of the residual MLP.
    """

    mels: int
    width: int
    heads: int
    layers: int
    codes: int
    code_width: int
    downsample: int = 2
    pooling: str = "mean"
    cosine: bool = True
    ffn_mult: int = 4

    @property
    def spec(self) -> SemanticSpec:
        return SemanticSpec("whisper_vq", SAMPLE_RATE, FRAMES // 2 // int(SECONDS) // self.downsample, self.codes, self.code_width)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _mlp(width: int, mult: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, mult * width), nn.GELU(), nn.Linear(mult * width, width))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn, self.attn_ln = _Attention(width, heads), nn.LayerNorm(width)
        self.mlp, self.mlp_ln = _mlp(width, 4), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class _Encoder(nn.Module):
    """Whisper's, under the names of its own files."""

    positional_embedding: Tensor

    def __init__(self, c: WhisperVqConfig):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(c.mels, c.width, 3, padding=1), nn.Conv1d(c.width, c.width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.zeros(FRAMES // 2, c.width))
        self.blocks = nn.ModuleList(_Block(c.width, c.heads) for _ in range(c.layers))
        self.ln_post = nn.LayerNorm(c.width)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, M, 3000) -> (B, 1500, D)"""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2) + self.positional_embedding
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x)


class WhisperVq(nn.Module):
    """See the module docstring."""

    kind: ClassVar[str] = "whisper_vq"
    Config: ClassVar[type] = WhisperVqConfig
    codes: Tensor

    def __init__(self, config: WhisperVqConfig):
        super().__init__()
        c = self.config = config
        self.encoder = _Encoder(c)
        self.mlp, self.mlp_ln = _mlp(c.width, c.ffn_mult), nn.LayerNorm(c.width)
        self.downsample_conv = nn.Conv1d(c.width, c.width, 3, stride=c.downsample, padding=1) if c.pooling == "convolution" else None
        self.project_in = nn.Linear(c.width, c.code_width) if c.code_width != c.width else None
        self.register_buffer("codes", torch.zeros(c.codes, c.code_width))

    def forward(self, wav: Tensor) -> Tensor:
        """(B, n) at 16 kHz, at most 30 s -> (B, N) tokens; each row is heard by itself."""
        mel = torch.stack([log_mel(row, self.config.mels) for row in wav])
        frames = mel.shape[-1]
        x = self.encoder(F.pad(mel, (0, FRAMES - frames), value=MEL_PADDING))
        return self.quantise(self.pool(x))[:, : frames // 2 // self.config.downsample]

    def pool(self, x: Tensor) -> Tensor:
        """(B, 1500, D) -> (B, 1500 / downsample, D)"""
        if self.downsample_conv is not None:
            return x[:, :: self.config.downsample] + self.downsample_conv(x.transpose(1, 2)).transpose(1, 2)
        if self.config.pooling == "first":
            return x[:, :: self.config.downsample]
        return x.unflatten(1, (-1, self.config.downsample)).mean(2)

    def quantise(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N) codes."""
        x = x + self.mlp(self.mlp_ln(x))
        if self.project_in is not None:
            x = self.project_in(x)
        if self.config.cosine:
            return (F.normalize(x, dim=-1) @ self.codes.T).argmax(-1)
        squares = x.square().sum(-1, keepdim=True) + self.codes.square().sum(-1) - 2 * x @ self.codes.T
        return squares.clamp(min=1e-8).sqrt().argmin(-1)  # the root rounds near codes to equals, of which the package takes the first


@cache
def _mel_bands(mels: int) -> Tensor:
    """(M, 201): triangles of equal area on Slaney's scale (linear to 1 kHz, then 27 steps to 6.4 kHz), rounded where Whisper's own filters are."""
    bins, step = np.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1), np.log(6.4) / 27
    top = 15 + np.log(SAMPLE_RATE / 2 / 1000) / step
    scale = np.linspace(0, top, mels + 2)
    hertz = np.where(scale >= 15, 1000 * np.exp(step * (scale - 15)), scale * 200 / 3)
    away, wide = hertz[:, None] - bins, np.diff(hertz)[:, None]
    bands = np.maximum(0, np.minimum(-away[:-2] / wide[:-1], away[2:] / wide[1:])).astype(np.float32)
    bands *= (2 / (hertz[2:] - hertz[:-2]))[:, None]
    return torch.from_numpy(bands)


def log_mel(wav: Tensor, mels: int) -> Tensor:
    """(n,) -> (M, n // 160), as Whisper hears it: the upper 8 decades of the recording."""
    if len(wav) < HOP:
        return wav.new_zeros(mels, 0)
    mode = "reflect" if len(wav) > WINDOW // 2 else "constant"  # nothing shorter can be reflected
    power = torch.stft(wav, WINDOW, HOP, window=torch.hann_window(WINDOW, device=wav.device), pad_mode=mode, return_complex=True)[:, :-1].abs().square()
    logs = (_mel_bands(mels).to(wav.device) @ power).clamp(min=1e-10).log10()
    return (logs.maximum(logs.max() - 8.0) + 4.0) / 4.0


def is_tokenizer(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are those of a bottleneck."""
    return any(name.startswith("rq.") for name in tensors)


def convert(values: Values, tensors: Tensors, whisper_values: Values, whisper: Tensors, where: str) -> Converted:
    """A bottleneck's `.model` file and Whisper's `.pt` file -> our model.

    Args:
        values, tensors: the bottleneck's `config` and `tunables`; its tensors.
        whisper_values, whisper: Whisper's `dims`; its tensors.
        where: how to name the bottleneck's file in errors.

    Raises:
        MismatchError: settings or tensors that are not known, or a Whisper of another size.
    """
    config, tunables, dims = values["config"], values["tunables"], whisper_values.get("dims", {})
    if not dims:
        raise MismatchError(f"{where}: the file given with --whisper is no Whisper of OpenAI's: it has no dims")
    if config.get("q_depth", 1) != 1:
        raise MismatchError(f"{where} cannot be converted: it has {config['q_depth']} codes a token, one is known")
    codes = next((value for name, value in tensors.items() if name.endswith("layers.0._codebook.embed")), None)
    width = tensors["mlp_ln.weight"].shape[0] if "mlp_ln.weight" in tensors else 0
    if codes is None or width != dims["n_audio_state"]:
        raise MismatchError(
            f"{where} cannot be converted: it was trained on Whisper '{config.get('whisper_model_name', '?')}' of width {width}, the one given has "
            f"{dims['n_audio_state']}"
        )
    codes = codes[0] if codes.ndim == 3 else codes
    pooling = "convolution" if "downsample_conv.weight" in tensors else "mean" if tunables.get("downsample_mean") else "first"
    ours = WhisperVqConfig(
        dims["n_mels"], width, dims["n_audio_head"], dims["n_audio_layer"], codes.shape[0], codes.shape[1], int(config.get("downsample", 1)), pooling,
        bool(config.get("use_cosine_sim", False)), tensors["mlp.0.weight"].shape[0] // width,
    )  # fmt: skip
    model = WhisperVq(ours)
    state: dict[str, Any] = {name: value for name, value in whisper.items() if name.startswith("encoder.")}
    state |= {name: value for name, value in tensors.items() if re.match(r"(mlp|mlp_ln|downsample_conv)\.", name)}
    state |= {re.sub(r".*(project_in\.)", r"\1", name): value for name, value in tensors.items() if "project_in." in name}
    state["codes"] = codes
    own = model.state_dict()
    for name in {**own, **state}:
        if name not in own or name not in state or own[name].shape != state[name].shape:
            raise MismatchError(f"{where} cannot be converted: tensor '{name}' is not as a {CLASS} on Whisper has it")
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return Converted(model.eval(), CLASS)
