"""The built-in separator: a 2-D convolutional U-Net with a recurrent waist that turns the spectrum of a mix into that of its vocals.

It sees compressed magnitudes of left, right, mid and side, and answers with a real 2x2 filter a time-frequency bin on (mid, side): two gains
in 0..1 and two cross terms in -1..1, which can cancel a panned instrument that shares a bin with the voice. Neighbouring bins are folded
into channels, so that the widest layers stay cheap; batch norm keeps the answer at a frame independent of the block it is computed in.
Letters: B batch, F bins, T frames, C channels. Waveform blocks, levels and sample rates are the business of
`autosing.perception.separation.builtin`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class SeparatorConfig:
    """
    Attributes:
        sample_rate: Hz of the waveforms.
        window, hop: samples of the periodic Hann window and between frames.
        fold: neighbouring bins that become channels of one row.
        widths: channels of each level, from fine to coarse; each level halves the rows, the third halves the frames as well.
        waist: width of the recurrent layer.
    """

    sample_rate: int = 24_000
    window: int = 2048
    hop: int = 512
    fold: int = 4
    widths: tuple[int, ...] = (32, 48, 64, 96, 128)
    waist: int = 256

    def __post_init__(self) -> None:
        rows = self.window // 2 // self.fold
        if self.window % (2 * self.fold) or rows % 2 ** (len(self.widths) - 1):
            raise ValueError(f"window {self.window} does not split into {self.fold} x 2^{len(self.widths) - 1} rows; use a power of two")
        if self.waist % (2 * self.waist_rows):
            raise ValueError(f"waist {self.waist} must be a multiple of twice the {self.waist_rows} rows of the coarsest level")

    @property
    def waist_rows(self) -> int:
        return self.window // 2 // self.fold // 2 ** (len(self.widths) - 1)


SIZES = {"tiny": SeparatorConfig(widths=(16, 16, 24, 24, 32), waist=64), "base": SeparatorConfig()}
_FRAME_STEP_LEVEL = 3  # the step down to this level halves the frames too


def spectrum(wav: Tensor, config: SeparatorConfig) -> Tensor:
    """(..., n) -> complex (..., F, T), T = n // hop + 1; centred frames, the ends zero-padded."""
    window = torch.hann_window(config.window, device=wav.device)
    flat = wav.reshape(-1, wav.shape[-1])
    out = torch.stft(flat, config.window, config.hop, window=window, pad_mode="constant", return_complex=True)
    return out.reshape(*wav.shape[:-1], *out.shape[-2:])


def waveform(spectrum_: Tensor, samples: int, config: SeparatorConfig) -> Tensor:
    """Inverse of `spectrum`: complex (..., F, T) -> (..., samples)."""
    window = torch.hann_window(config.window, device=spectrum_.device)
    flat = spectrum_.reshape(-1, *spectrum_.shape[-2:])
    return torch.istft(flat, config.window, config.hop, window=window, length=samples).reshape(*spectrum_.shape[:-2], samples)


def active_rms(wav: Tensor, sample_rate: int, floor: float = 1e-4, frame_seconds: float = 0.1) -> Tensor:
    """Level of the loud part: RMS over the frames within 30 dB of the loudest. (B, n) or (B, C, n) -> (B,), at least `floor`."""
    frame = max(1, min(int(frame_seconds * sample_rate), wav.shape[-1]))
    usable = wav.reshape(len(wav), -1, wav.shape[-1])[..., : wav.shape[-1] // frame * frame]
    power = usable.unflatten(-1, (-1, frame)).square().mean((1, 3))
    loud = power >= power.amax(-1, keepdim=True) * 1e-3
    return ((power * loud).sum(-1) / loud.sum(-1)).sqrt().clamp_min(floor)


class Errors(NamedTuple):
    """How far an estimate is from the truth.

    Attributes:
        log_error_db: (B,) power of the error over that of the mix; the same for both stems, since accompaniment = mix - vocals.
        magnitude: () mean distance of compressed magnitudes, both stems together.
    """

    log_error_db: Tensor
    magnitude: Tensor

    def total(self, magnitude_weight: float) -> Tensor:
        """What is minimised: a tenth of the mean log error, and the distance of the magnitudes by its weight."""
        return 0.1 * self.log_error_db.mean() + magnitude_weight * self.magnitude


def errors(estimate: Tensor, vocals: Tensor, accompaniment: Tensor) -> Errors:
    """Complex spectra (B, 2, F, T): the vocals that were found and the two true stems."""
    mix = vocals + accompaniment
    log_error = 10 * torch.log10(power(estimate - vocals) / power(mix).clamp_min(1e-6) + 1e-3)
    magnitude = (compressed(estimate) - compressed(vocals)).abs().mean() + (compressed(mix - estimate) - compressed(accompaniment)).abs().mean()
    return Errors(log_error, magnitude)


def power(x: Tensor) -> Tensor:
    """Mean |x|^2 of each complex example: (B, ...) -> (B,)."""
    return (x.real.square() + x.imag.square()).flatten(1).mean(1)


def compressed(x: Tensor) -> Tensor:
    """|x|^(1/2) of a complex tensor; flat below about -40 dB of a usual bin, where its slope would drown every other gradient."""
    return (x.real.square() + x.imag.square() + 0.1).sqrt().sqrt()


class _Block(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, width_in: int, width: int, step: tuple[int, int] = (1, 1)):
        rows = 5 if step[0] == 2 else 3
        super().__init__(
            nn.Conv2d(width_in, width, (rows, 3), stride=step, padding=(rows // 2, 1), bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.block = _Block(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class _Up(nn.Sequential):
    """Transposed convolution, batch norm, ReLU: twice the rows, and twice the frames when `step[1]` is 2."""

    def __init__(self, width_in: int, width: int, step: tuple[int, int]):
        frames = 4 if step[1] == 2 else 3
        super().__init__(
            nn.ConvTranspose2d(width_in, width, (4, frames), stride=step, padding=(1, 1), bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )


class SeparatorNet(nn.Module):
    """Complex mix spectrum -> complex vocals spectrum. The mix should have an RMS near 1; see `SeparatorConfig` for the layout."""

    kind: ClassVar[str] = "separator"
    Config: ClassVar[type] = SeparatorConfig

    def __init__(self, config: SeparatorConfig):
        super().__init__()
        self.config = config
        widths, rows = config.widths, config.window // 2 // config.fold
        steps = [(2, 2 if level == _FRAME_STEP_LEVEL else 1) for level in range(1, len(widths))]
        self.rows = nn.Parameter(torch.zeros(1, widths[0], rows, 1))  # where in frequency a row is
        self.stem = nn.Sequential(nn.Conv2d(4 * config.fold, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]))
        self.down = nn.ModuleList(
            nn.Sequential(_Block(a, b, step), _Residual(b)) for a, b, step in zip(widths, widths[1:], steps, strict=False)
        )
        narrow = config.waist // config.waist_rows
        self.waist_in = nn.Conv2d(widths[-1], narrow, 1)
        self.waist = nn.GRU(config.waist, config.waist // 2, bidirectional=True)
        self.waist_out = nn.Conv2d(narrow, widths[-1], 1)
        self.up = nn.ModuleList(
            _Up(a, b, step) for a, b, step in zip(widths[:0:-1], widths[-2::-1], steps[::-1], strict=True)
        )
        self.refine = nn.ModuleList(_Residual(width) for width in widths[-2::-1])
        self.filters = nn.Conv2d(widths[0], 4 * config.fold, 1)
        with torch.no_grad():  # begin near the plain half-open mask
            self.filters.weight.mul_(0.1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, mix: Tensor, lean: float = 0.0, warps: Sequence[float] = (1.0,)) -> Tensor:
        """Complex (B, 2, F, T) -> complex (B, 2, F, T), channels left and right; the Nyquist bin of the vocals is 0.

        Args:
            lean: added to the logits of both gains; more than 0 takes more for voice.
            warps: the spectrum is looked at once for each, as if all its frequencies were divided by it; the filters' mean is taken.
        """
        left, right = mix[:, 0, :-1], mix[:, 1, :-1]
        mid, side = (left + right) / 2, (left - right) / 2
        heard = torch.stack([_compress(x) for x in (mid, side, left, right)], 1)
        filters = [self._squashed(_warped(self._filters(_warped(heard, warp)).float(), 1 / warp), lean) for warp in warps]
        to_mid, to_side, from_side, from_mid = torch.stack(filters).mean(0).unbind(1)
        vocals_mid = to_mid * mid + from_side * side
        vocals_side = to_side * side + from_mid * mid
        vocals = torch.stack([vocals_mid + vocals_side, vocals_mid - vocals_side], 1)
        return functional.pad(vocals, (0, 0, 0, 1))

    @staticmethod
    def _squashed(filters: Tensor, lean: float) -> Tensor:
        """(B, 4, F - 1, T) -> the two gains and the two cross terms, within their bounds."""
        return torch.cat([torch.sigmoid(filters[:, :2] + lean), torch.tanh(filters[:, 2:])], 1)

    def _filters(self, features: Tensor) -> Tensor:
        """(B, 4, F - 1, T) -> (B, 4, F - 1, T) before the squashing."""
        batch, channels, bins, frames = features.shape
        fold = self.config.fold
        rows = features.reshape(batch, channels, bins // fold, fold, frames).permute(0, 1, 3, 2, 4)
        x = rows.reshape(batch, channels * fold, bins // fold, frames)
        x = functional.pad(x, (0, frames % 2)).to(memory_format=torch.channels_last)
        x = torch.relu(self.stem(x) + self.rows)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        x = x + self._recur(x)
        for up, refine in zip(self.up, self.refine, strict=True):
            x = refine(up(x) + skips.pop())
        x = self.filters(x)[..., :frames]
        return x.reshape(batch, channels, fold, bins // fold, frames).transpose(2, 3).reshape(batch, channels, bins, frames)

    def _recur(self, x: Tensor) -> Tensor:
        """Look along time, all rows at once: (B, C, rows, T) -> the same shape."""
        narrow = self.waist_in(x)
        batch, channels, rows, frames = narrow.shape
        sequence = narrow.permute(3, 0, 1, 2).reshape(frames, batch, channels * rows)
        sequence = sequence + self.waist(sequence)[0]
        return self.waist_out(sequence.reshape(frames, batch, channels, rows).permute(1, 2, 3, 0))


def _warped(x: Tensor, factor: float) -> Tensor:
    """(..., F, T) read at `factor` times each bin, between bins by a straight line; beyond the last bin it is held."""
    if factor == 1.0:
        return x
    bins = x.shape[-2]
    at = (torch.arange(bins, device=x.device) * factor).clamp(max=bins - 1)
    left = at.long().clamp(max=bins - 2)
    return torch.lerp(x[..., left, :], x[..., left + 1, :], (at - left)[:, None])


def _compress(x: Tensor) -> Tensor:
    """|x|^(1/4) of a complex tensor, by square roots (cheap) and without an infinite slope at 0."""
    return (x.real.square() + x.imag.square() + 1e-8).sqrt().sqrt().sqrt()
