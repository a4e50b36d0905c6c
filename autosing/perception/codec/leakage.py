"""What separators leave in a stem, imitated: used to fit and train what must work on separated vocals. Letters: B batch, n samples."""

import torch
import torch.nn.functional as F
from torch import Tensor

FFT_SIZE, HOP = 1024, 256


def through_mask(vocals: Tensor, band: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """What a soft time-frequency mask, right on average but blurred and never quite shut, takes from a mixture.

    Args:
        vocals, band: (B, n) each.
        generator: of the mask's errors; None = torch's own.

    Returns:
        (B, n): the voice with holes, and what leaks of the band as musical noise.
    """
    window = torch.hann_window(FFT_SIZE, device=vocals.device)
    voice, other = (torch.stft(x, FFT_SIZE, HOP, window=window, return_complex=True) for x in (vocals, band))
    power_v, power_o = voice.real.square() + voice.imag.square(), other.real.square() + other.imag.square()
    mask = power_v / (power_v + power_o + 1e-8)
    mask = F.avg_pool2d(mask[:, None], (5, 3), 1, (2, 1))[:, 0]
    rows, bins, frames = mask.shape
    jitter = torch.randn(rows, 1, bins // 8 + 1, frames // 4 + 1, generator=generator).to(mask.device)
    jitter = F.interpolate(jitter, size=(bins, frames), mode="bilinear", align_corners=False)[:, 0]
    shut = 0.02 + 0.13 * torch.rand(rows, 1, 1, generator=generator).to(mask.device)
    mask = torch.sigmoid(torch.logit(mask.clamp(1e-3, 1 - 1e-3)) + jitter) * (1 - shut) + shut
    return torch.istft((voice + other) * mask, FFT_SIZE, HOP, window=window, length=vocals.shape[1])
