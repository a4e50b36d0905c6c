"""The embedded codec of the voice: vocoder features in four factored levels of 1024 codes, 1.56 kbit/s at 24 kHz, hop 288.

| level | stride | a code says                                                                                  |
|-------|--------|----------------------------------------------------------------------------------------------|
| 0     | 8      | loudness of each half of 96 ms, and the mean spectral shape: energy and timbre in context     |
| 1     | 4      | log F0 of four frames, absolute; code 0 = no pitch here. Codes 1, 2, ... rise with mean pitch |
| 2     | 2      | two frames as a small network hears them: what phone it is                                    |
| 3     | 1      | what the draft lacks in each frame, with aperiodicity; codes below `voiced_codes` are voiced  |

Levels 0 and 1 are plain vectors of what they name; the F0 contour is apart from all of it, so a code of pitch never carries timbre.
Level 2 codes the latents of a convolutional encoder, and a convolutional decoder reads a draft of the spectrum off levels 0 to 2. A second
encoder hears the voice beside that draft; level 3 codes what it finds missing, and the same decoder reads the spectrum off all levels. So
what neighbouring codes say of each other is used on both sides, and no bits go into what is known already (a hierarchy as in Razavi, van
den Oord, Vinyals 2019, VQ-VAE-2). The networks see `reach` frames around a frame and work in pieces of one shape: codes depend neither on
the batch nor on what is further away. What is decoded is synthesised and goes through a filter that learnt what the vocoder lacks
(postfilter.py). Fitting is in fit.py, learn.py and adversary.py. Letters: B batch, n samples,
K levels, T frames, M cepstra, A aperiodicity bands, Z latents.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autosing.config import from_mapping
from autosing.errors import ConfigError, MismatchError
from autosing.models.io import CONFIG_FILE, load_model, load_weights, read_config, resolve
from autosing.models.pitch import PitchNet
from autosing.nn.convnext import ConvNeXtStack
from autosing.perception.codec.postfilter import PostFilter
from autosing.perception.codec.quantise import nearest
from autosing.perception.codec.vocoder import F0_REFERENCE_HZ, LOWEST_APERIODICITY_DB, Frames, Vocoder, VocoderConfig
from autosing.tokens.specs import CodecSpec

STRIDES = (8, 4, 2, 1)
NO_PITCH = 0  # the code of level 1 for four unvoiced frames
STATE_SCALE = 6.0  # about the deviation of the larger cepstra; what the networks see is divided by it


@dataclass(frozen=True)
class VoiceBooksConfig:
    """Attributes:
    vocoder: layout of the features.
    num_codes: codes a level.
    voiced_codes: codes of level 3 that are voiced; the rest is unvoiced.
    context_weight: weight of the mean shape against loudness in level 0.
    aperiodicity_weight: of a dB of band aperiodicity against a neper of cepstrum.
    quiet_db: mean log power at which a frame counts half; what is quieter hardly bends the codebooks.
    latents: Z, numbers a frame that levels 2 and 3 code.
    encoder_width, encoder_kernel, encoder_dilations: of the encoders of levels 2 and 3, one block a dilation; decoder_...: of the decoder.
    """

    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    num_codes: int = 1024
    voiced_codes: int = 768
    context_weight: float = 0.5
    aperiodicity_weight: float = 0.12
    quiet_db: float = -75.0
    latents: int = 24
    encoder_width: int = 128
    encoder_kernel: int = 7
    encoder_dilations: tuple[int, ...] = (1, 1, 1)
    decoder_width: int = 160
    decoder_kernel: int = 9
    decoder_dilations: tuple[int, ...] = (1, 2, 1, 2)


class VoiceBooks(nn.Module):
    """Codebooks and networks: `Frames` of one row <-> codes of the four levels. fit.py fills levels 0 and 1, learn.py the rest."""

    kind: ClassVar[str] = "codec"
    Config = VoiceBooksConfig
    mean: Tensor
    scale: Tensor
    aperiodicity_mean: Tensor
    book0: Tensor
    book1: Tensor
    book2: Tensor
    book3: Tensor

    def __init__(self, config: VoiceBooksConfig):
        super().__init__()
        c = self.config = config
        m, a, k, z = c.vocoder.cepstra, c.vocoder.bands, c.num_codes, c.latents
        self.register_buffer("mean", torch.zeros(m))  # of active frames
        self.register_buffer("scale", torch.ones(m))  # perceptual weight of each cepstrum
        self.register_buffer("aperiodicity_mean", torch.zeros(a))
        self.register_buffer("book0", torch.zeros(k, m + 1))  # loudness of two halves, weighted mean shape
        self.register_buffer("book1", torch.zeros(k, 4))  # octaves above F0_REFERENCE_HZ
        self.register_buffer("book2", torch.zeros(k, z))
        self.register_buffer("book3", torch.zeros(k, z))
        encoder = c.encoder_width, z, c.encoder_kernel, c.encoder_dilations
        self.encoder = ConvNeXtStack(2 * m + a + 1, *encoder)
        self.detail = ConvNeXtStack(2 * (m + a) + 1, *encoder)
        self.decoder = ConvNeXtStack(m + 2 * z + 2, c.decoder_width, m + a, c.decoder_kernel, c.decoder_dilations)

    # -- spaces: `state` is (T, M), the weighted cepstrum; coordinate 0 is loudness --------------------------------------------------

    def state(self, cepstra: Tensor) -> Tensor:
        return (cepstra - self.mean) * self.scale

    def noise(self, aperiodicity_db: Tensor) -> Tensor:
        return (aperiodicity_db - self.aperiodicity_mean) * self.config.aperiodicity_weight

    def activity(self, cepstra: Tensor) -> Tensor:
        """(T,) in 0 to 1: how much a frame matters, by its mean log power."""
        level_db = cepstra[:, 0] * (10 / 2.302585) / self.config.vocoder.mel_points**0.5
        return torch.sigmoid((level_db - self.config.quiet_db) / 4) + 0.02

    def context(self, state: Tensor, activity: Tensor) -> Tensor:
        """(T, M) -> (T/8, M + 1), the vector of level 0."""
        halves = state[:, 0].reshape(-1, 2, 4).mean(2)
        weight = activity.reshape(-1, 8, 1)
        shape = (state[:, 1:].reshape(-1, 8, state.shape[1] - 1) * weight).sum(1) / weight.sum(1)
        return torch.cat([halves, shape * self.config.context_weight], 1)

    def unpack_context(self, codes: Tensor) -> Tensor:
        """(T/8,) codes of level 0 -> (T, M): loudness and mean shape around every frame."""
        vector = self.book0[codes]
        loudness = vector[:, :2].reshape(-1, 1).repeat_interleave(4, 0)
        shape = (vector[:, 2:] / self.config.context_weight).repeat_interleave(8, 0)
        return torch.cat([loudness, shape], 1)

    def contour(self, f0_hz: Tensor) -> Tensor:
        """(T,) -> (T/4, 4), the vector of level 1 in octaves."""
        return torch.log2(f0_hz / F0_REFERENCE_HZ).reshape(-1, 4)

    # -- what the networks read; any leading axes ------------------------------------------------------------------------------------

    @staticmethod
    def heard(state: Tensor, context: Tensor, noise: Tensor, voiced: Tensor) -> Tensor:
        """(..., T, M), (..., T, M), (..., T, A), (..., T, 1) of 0 and 1 -> (..., T, 2 M + A + 1), the input of the encoder of level 2."""
        return torch.cat([state - context, context, noise * voiced, voiced], -1) / STATE_SCALE

    @staticmethod
    def beside(state: Tensor, noise: Tensor, draft: tuple[Tensor, Tensor], voiced: Tensor) -> Tensor:
        """State (..., T, M) and noise (..., T, A), the same of the draft, (..., T, 1) -> (..., T, 2 (M + A) + 1), that of level 3."""
        return torch.cat([state - draft[0], draft[0], (noise - draft[1]) * voiced, draft[1] * voiced, voiced], -1) / STATE_SCALE

    @staticmethod
    def told(context: Tensor, pairs: Tensor, rest: Tensor, voiced: Tensor, octaves: Tensor) -> Tensor:
        """(..., T, M), latents of level 2 and of level 3 (..., T, Z), (..., T, 1), (..., T, 1) -> the decoder's input."""
        return torch.cat([context / STATE_SCALE, pairs, rest, voiced, octaves], -1)

    @staticmethod
    def of_pairs(latents: Tensor) -> Tensor:
        """(..., T, Z) -> (..., T/2, Z), what level 2 codes: the mean of two frames."""
        return (latents[..., 0::2, :] + latents[..., 1::2, :]) / 2

    def code_rest(self, rest: Tensor, voiced: Tensor) -> Tensor:
        """(T, Z) latents of level 3, (T,) bool -> (T,) its codes."""
        cut = self.config.voiced_codes
        return torch.where(voiced, nearest(rest, self.book3[:cut]), cut + nearest(rest, self.book3[cut:]))

    def spectrum(self, decoded: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """(..., T, M + A) of the decoder and the context -> state (..., T, M), noise (..., T, A)."""
        m = self.config.vocoder.cepstra
        return context + decoded[..., :m] * STATE_SCALE, decoded[..., m:] * STATE_SCALE

    # -- codes -----------------------------------------------------------------------------------------------------------------------

    def encode(self, frames: Frames) -> list[Tensor]:
        """Codes of one row (B = 1, T a multiple of 8): four tensors (T / stride,)."""
        cepstra, voiced = frames.cepstra[0], frames.voiced[0]
        state = self.state(cepstra)
        code0 = nearest(self.context(state, self.activity(cepstra)), self.book0)
        code1 = 1 + nearest(self.contour(frames.f0_hz[0]), self.book1[1:])
        code1 = torch.where(voiced.reshape(-1, 4).any(1), code1, torch.full_like(code1, NO_PITCH))
        context, noise, sung = self.unpack_context(code0), self.noise(frames.aperiodicity_db[0]), voiced[:, None].to(state.dtype)
        code2 = nearest(self.of_pairs(self.encoder.in_blocks(self.heard(state, context, noise, sung))), self.book2)
        draft = self.read(context, code2, None, sung, self.octaves(code1))
        code3 = self.code_rest(self.detail.in_blocks(self.beside(state, noise, draft, sung)), voiced)
        return [code0, code1, code2, code3]

    def octaves(self, code1: Tensor) -> Tensor:
        """(T/4,) codes of level 1 -> (T, 1) octaves above F0_REFERENCE_HZ, also where there is no pitch."""
        return through_gaps(self.book1[code1].flatten(), (code1 != NO_PITCH).repeat_interleave(4))[:, None]

    def read(self, context: Tensor, code2: Tensor, code3: Tensor | None, sung: Tensor, octaves: Tensor) -> tuple[Tensor, Tensor]:
        """State (T, M) and noise (T, A) that the decoder reads off the codes; without those of level 3, the draft."""
        pairs = self.book2[code2].repeat_interleave(2, 0)
        rest = torch.zeros_like(pairs) if code3 is None else self.book3[code3]
        return self.spectrum(self.decoder.in_blocks(self.told(context, pairs, rest, sung, octaves)), context)

    def decode(self, codes: list[Tensor]) -> Frames:
        """The inverse, one row."""
        code0, code1, code2, code3 = codes
        voiced, octaves = code3 < self.config.voiced_codes, self.octaves(code1)
        state, noise = self.read(self.unpack_context(code0), code2, code3, voiced[:, None].to(octaves.dtype), octaves)
        noise_db = noise / self.config.aperiodicity_weight + self.aperiodicity_mean
        return Frames(
            f0_hz=(F0_REFERENCE_HZ * torch.exp2(octaves[:, 0]))[None],
            voiced=voiced[None],
            cepstra=(state / self.scale + self.mean)[None],
            aperiodicity_db=noise_db.clamp(LOWEST_APERIODICITY_DB, 0.0)[None],
        )


def through_gaps(values: Tensor, known: Tensor) -> Tensor:
    """(T,) `values` with what is not known read off a line between its neighbours; the ends are held; 0 where nothing is known."""
    if not bool(known.any()):
        return torch.zeros_like(values)
    where = known.nonzero()[:, 0]
    index = torch.arange(len(values), device=values.device)
    right = torch.searchsorted(where, index).clamp(max=len(where) - 1)
    left = torch.where(where[right] <= index, right, (right - 1).clamp(min=0))
    a, b = where[left], where[right]
    share = ((index - a) / (b - a).clamp(min=1)).clamp(0, 1)
    return values[a] + (values[b] - values[a]) * share


def check_wave(wav: Tensor) -> None:
    """Raises ConfigError unless `wav` is (B, 1, n)."""
    if wav.ndim != 3 or wav.shape[1] != 1:
        raise ConfigError(f"a codec takes audio of shape (batch, 1, samples), found {tuple(wav.shape)}")


def split_levels(codes: Tensor, spec: CodecSpec) -> list[Tensor]:
    """(B, K, T) with holes -> K tensors (B, T / stride).

    Raises:
        ConfigError: another shape, or a code that is not one.
    """
    if codes.ndim != 3 or codes.shape[1] != spec.levels or codes.shape[2] % spec.grain:
        raise ConfigError(
            f"codes of '{spec.name}' are (batch, {spec.levels}, a multiple of {spec.grain}), found {tuple(codes.shape)}"
        )
    levels = [codes[:, level, ::stride] for level, stride in enumerate(spec.strides)]
    for number, level in enumerate(levels):
        if not level.numel():
            continue
        low, high = int(level.min()), int(level.max())
        if low < 0 or high >= spec.num_codes:
            wrong = low if low < 0 else high
            raise ConfigError(f"{wrong} is no code of level {number} of '{spec.name}'; codes are 0 to {spec.num_codes - 1}")
    return levels


def join_levels(levels: list[Tensor], spec: CodecSpec) -> Tensor:
    """K tensors (T / stride,) -> (K, T) with holes off stride."""
    frames = len(levels[-1]) * spec.strides[-1]
    grid = torch.full((spec.levels, frames), spec.HOLE, dtype=torch.long, device=levels[0].device)
    for level, (stride, codes) in enumerate(zip(spec.strides, levels, strict=True)):
        grid[level, ::stride] = codes
    return grid


def whole_grains(samples: int, spec: CodecSpec) -> int:
    """T for `samples` samples: ceil to whole grains."""
    step = spec.hop * spec.grain
    return -(-samples // step) * spec.grain


class BuiltinCodec:
    """See the module; implements `Codec`."""

    accompaniment = "builtin_band"

    def __init__(
        self,
        device: torch.device | str = "cpu",
        weights: str | Path = "builtin",
        pitch: str | Path = "builtin",
        noise_seed: int = 0,
    ):
        """
        Args:
            device: where to run.
            weights: `builtin` or a folder written by `python -m autosing.perception.codec.fit`; a filter in its subfolder `postfilter` is used.
            pitch: `builtin` or a checkpoint of the pitch net.
            noise_seed: of the noise in decoded audio; the same codes and seed give the same samples.

        Raises:
            WeightsError: missing or damaged files.
            MismatchError: the filter is of another vocoder.
        """
        self.device = torch.device(device)
        self.books: VoiceBooks = load_books(VoiceBooks, weights, "codec").to(self.device)
        self._pitch: PitchNet
        self._pitch, _ = load_model(pitch, "pitch", self.device)
        config = self.books.config
        self._vocoder = Vocoder(config.vocoder, self.device)
        self._filter = load_filter(weights, config.vocoder, self.device)
        self._seed = noise_seed
        self.spec = CodecSpec("builtin", config.vocoder.sample_rate, config.vocoder.hop, STRIDES, config.num_codes, max(STRIDES))

    def codebooks(self) -> tuple[Tensor, ...]:
        """The four books; pitch and finest level with a column that says whether a code is voiced."""
        books, number = self.books, torch.arange(self.spec.num_codes, device=self.device)[:, None]
        sung = (number != NO_PITCH) * 1.0
        voiced = (number < books.config.voiced_codes) * 3.0 * books.book3.std(0).max()
        return books.book0, torch.cat([books.book1, sung], 1), books.book2, torch.cat([books.book3, voiced], 1)

    @torch.no_grad()
    def encode(self, wav: Tensor) -> Tensor:
        """(B, 1, n) float32 -> (B, 4, T) int64, `spec.HOLE` off stride; T = n / hop, ceil to whole grains.

        Raises:
            ConfigError: `wav` is not (B, 1, n).
        """
        check_wave(wav)
        frames = whole_grains(wav.shape[2], self.spec)
        grids = [join_levels(self.books.encode(self.features(row[0], frames)), self.spec) if frames else None for row in wav]
        empty = torch.full((len(wav), self.spec.levels, frames), self.spec.HOLE, dtype=torch.long, device=self.device)
        return torch.stack(grids) if grids and frames else empty  # type: ignore[arg-type]

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(B, 4, T) -> (B, 1, T * hop) float32.

        Raises:
            ConfigError: another shape, or a value that is no code.
        """
        levels = split_levels(codes.to(self.device), self.spec)
        if codes.shape[0] == 0 or codes.shape[2] == 0:
            return torch.zeros(codes.shape[0], 1, codes.shape[2] * self.spec.hop, device=self.device)
        rows = [self.books.decode(list(row)) for row in zip(*levels, strict=True)]
        return torch.stack([self.resynthesise(row) for row in rows])

    @torch.no_grad()
    def features(self, wav: Tensor, frames: int | None = None) -> Frames:
        """What is coded, before it is coded: (n,) -> `Frames` with B = 1; padded with silence to `frames` (whole grains by default)."""
        frames = whole_grains(len(wav), self.spec) if frames is None else frames
        return listen(wav.to(self.device, torch.float32), frames, self._pitch, self._vocoder)

    @torch.no_grad()
    def synthesise(self, frames: Frames) -> Tensor:
        """What the vocoder alone makes of features with B = 1 -> (1, T * hop)."""
        return self._vocoder.synthesise(frames, self._seed)

    @torch.no_grad()
    def resynthesise(self, frames: Frames) -> Tensor:
        """Waveform of features with B = 1; of features that were not coded, the ceiling of what the codes can reach. -> (1, T * hop)."""
        wave = self.synthesise(frames)
        return wave if self._filter is None else self._filter.polish(wave[0], frames, self._seed)[None]


def listen(wav: Tensor, frames: int, pitch: PitchNet, vocoder: Vocoder) -> Frames:
    """(n,) -> `Frames` with B = 1 and T = `frames`, padded with silence."""
    wav = torch.nn.functional.pad(wav, (0, max(0, frames * vocoder.config.hop - len(wav))))
    f0_hz, voiced = pitch.track(wav)
    return vocoder.analyse(wav[None], f0_hz[None, :frames], voiced[None, :frames])


def load_filter(weights: str | Path, vocoder: VocoderConfig, device: torch.device | str = "cpu") -> PostFilter | None:
    """The filter beside a codec's books, in its subfolder `postfilter`; None where there is none.

    Raises:
        WeightsError: damaged files.
        MismatchError: it is of another vocoder.
    """
    folder = resolve(weights, "codec") / "postfilter"
    if not (folder / CONFIG_FILE).is_file():
        return None
    net = load_books(PostFilter, folder, PostFilter.kind).to(device)
    if net.config.vocoder != vocoder:
        raise MismatchError(f"'{folder}' was learnt for another vocoder than its codec's; fit it again with --what postfilter")
    return net


def load_books(cls: Any, weights: str | Path, kind: str) -> Any:
    """Codebooks from a checkpoint folder (see models/io.py), float32, in eval mode.

    Raises:
        WeightsError: missing or damaged files.
        MismatchError: another kind of checkpoint.
    """
    folder = resolve(weights, kind)
    values = read_config(folder, kind)
    books = cls(from_mapping(cls.Config, values["config"], f"'{folder}/config.json'"))
    load_weights(books, folder)
    return books.eval().requires_grad_(False)
