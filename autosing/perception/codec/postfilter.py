"""What a vocoder's voice lacks, added by a small network: gains on its spectrogram, and noise beside it.

A vocoder makes every period of a frame alike and every noise stationary. The filter sees the spectrogram of what was synthesised and the
features it was made of, and says for each bin how much louder it should be and how much noise of the level around it should be added
(a ConvNeXt over frames as in Siuzdak 2023, Vocos, but on a signal that has its harmonics in place already, so that it needs to say nothing
of phases). Learnt in adversary.py. Works in pieces of one shape: what comes out depends neither on the batch nor on what is further away
than `reach_samples`.

Letters: B batch, n samples, T vocoder frames, J frames of the spectrogram (two a vocoder frame, and one more), F bins, M cepstra,
A aperiodicity bands.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from autosing.nn.convnext import ConvNeXtStack
from autosing.perception.codec.vocoder import F0_REFERENCE_HZ, Frames, VocoderConfig, frames_of

BLOCK = 256  # frames a piece
_MOST_GAIN = 4.0  # nepers, either way
_NOISE_AT_FIRST = -2.5  # nepers
_MOST_NOISE = 3.0
_AROUND = 17  # bins over which the level of noise is averaged
_LEAST_POWER = 1e-10


@dataclass(frozen=True)
class PostFilterConfig:
    """Attributes:
    vocoder: whose voice it is.
    fft_size: samples of a frame of the spectrogram.
    mel_bands: bands in which the network sees it.
    width, kernel, dilations: of the network, one block a dilation.
    """

    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    fft_size: int = 768
    mel_bands: int = 80
    width: int = 192
    kernel: int = 7
    dilations: tuple[int, ...] = (1, 2, 1, 2)

    @property
    def hop(self) -> int:
        """Samples between frames of the spectrogram."""
        return self.vocoder.hop // 2

    @property
    def bins(self) -> int:
        return self.fft_size // 2 + 1


class PostFilter(nn.Module):
    """See the module."""

    kind: ClassVar[str] = "codec_postfilter"
    Config = PostFilterConfig
    mel: Tensor
    window: Tensor

    def __init__(self, config: PostFilterConfig):
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        c, v = config, config.vocoder
        self.config = config
        bank = melscale_fbanks(c.bins, 0.0, v.sample_rate / 2, c.mel_bands, v.sample_rate, norm="slaney")
        self.register_buffer("mel", bank, persistent=False)
        self.register_buffer("window", torch.hann_window(c.fft_size), persistent=False)
        self.net = ConvNeXtStack(c.mel_bands + v.cepstra + 2 + v.bands, c.width, 2 * c.bins, c.kernel, c.dilations)
        with torch.no_grad():  # at first what comes in goes out, and some noise with it
            self.net.out.weight.zero_()
            self.net.out.bias.copy_(torch.tensor([0.0, _NOISE_AT_FIRST]).repeat_interleave(c.bins))

    @property
    def reach_samples(self) -> int:
        """How far a sample is heard."""
        return self.net.reach * self.config.hop + self.config.fft_size

    # -- the map, any number of rows at once -----------------------------------------------------------------------------------------

    def told(self, spectrum: Tensor, frames: Frames) -> Tensor:
        """(B, J, F) of what was synthesised of `frames` -> (B, J, inputs) of the network."""
        mel = torch.log(spectrum.abs().square() @ self.mel + 1e-8)
        octaves = torch.log2(frames.f0_hz / F0_REFERENCE_HZ)[..., None]
        features = torch.cat([frames.cepstra / 6, octaves, frames.voiced[..., None].to(octaves.dtype), frames.aperiodicity_db / 30], -1)
        count = features.shape[1]
        at = (torch.arange(spectrum.shape[1], device=spectrum.device) / 2 - 0.5).clamp(0, count - 1)  # frame j is centred on sample j * hop
        left = at.floor().long().clamp(max=max(count - 2, 0))
        share = (at - left)[:, None]
        between = features[:, left] * (1 - share) + features[:, (left + 1).clamp(max=count - 1)] * share
        return torch.cat([(mel + 6) / 4, between], -1)

    def apply_to(self, spectrum: Tensor, noise: Tensor, said: Tensor) -> Tensor:
        """(B, J, F) of what was synthesised and of white noise of unit variance, (B, J, 2 F) of the network -> (B, J, F)."""
        gain, louder = said.split(self.config.bins, -1)
        gain = _MOST_GAIN * torch.tanh(gain / _MOST_GAIN)
        level = nnf.avg_pool1d(spectrum.abs().square(), _AROUND, 1, _AROUND // 2, count_include_pad=False).clamp(min=_LEAST_POWER).sqrt()
        unit = noise / math.sqrt(self.config.fft_size * 3 / 8)  # the energy of the window
        return spectrum * torch.exp(gain) + unit * level * torch.exp(louder.clamp(max=_MOST_NOISE))

    def forward(self, wave: Tensor, frames: Frames, noise: Tensor) -> Tensor:
        """For learning: (B, T * hop) synthesised of `frames`, as much white noise -> (B, T * hop)."""
        spectrum, white = self._spectrum(wave), self._spectrum(noise)
        out = self.apply_to(spectrum, white, self.net(self.told(spectrum, frames)))
        c = self.config
        return torch.istft(out.transpose(1, 2), c.fft_size, c.hop, window=self.window, center=True, length=wave.shape[1])

    def _spectrum(self, wave: Tensor) -> Tensor:
        c = self.config
        return torch.stft(wave, c.fft_size, c.hop, window=self.window, center=True, return_complex=True).transpose(1, 2)

    # -- the same in pieces ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def polish(self, wave: Tensor, frames: Frames, seed: int = 0) -> Tensor:
        """(n,) synthesised of one row of `frames` -> (n,), with noise drawn from `seed`."""
        c = self.config
        count = len(wave) // c.hop + 1
        blocks = -(-count // BLOCK)
        padded = nnf.pad(wave, (c.fft_size, blocks * BLOCK * c.hop + c.fft_size))
        white = torch.cat([torch.zeros(c.fft_size, device=wave.device), *(_white(BLOCK * c.hop, seed, block, wave.device) for block in range(blocks + 1))])
        white = nnf.pad(white, (0, c.fft_size))
        spectra, noises = [], []
        for block in range(blocks):
            centres = (torch.arange(BLOCK, device=wave.device) + block * BLOCK) * c.hop
            spectrum, noise = (torch.fft.rfft(frames_of(row, centres, c.fft_size) * self.window) for row in (padded, white))
            spectra.append(spectrum)
            noises.append(noise)
        said = self.net.in_blocks(self.told(torch.cat(spectra)[None, :count], frames)[0])
        said = nnf.pad(said, (0, 0, 0, blocks * BLOCK - count))
        out = torch.zeros(blocks * BLOCK * c.hop + 2 * c.fft_size, device=wave.device)
        overlap, squares = torch.zeros_like(out), self.window.square()
        samples = torch.arange(c.fft_size, device=wave.device) + c.fft_size // 2
        for block, (spectrum, noise) in enumerate(zip(spectra, noises, strict=True)):
            part = slice(block * BLOCK, (block + 1) * BLOCK)
            cut = torch.fft.irfft(self.apply_to(spectrum[None], noise[None], said[None, part])[0], n=c.fft_size) * self.window
            here = min(BLOCK, count - part.start)
            starts = (torch.arange(here, device=wave.device) + part.start) * c.hop
            places = (starts[:, None] + samples).reshape(-1)
            out.index_add_(0, places, cut[:here].reshape(-1))
            overlap.index_add_(0, places, squares.repeat(here))
        return (out / overlap.clamp(min=1e-6))[c.fft_size : c.fft_size + len(wave)]


def _white(count: int, seed: int, block: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed((seed + 1) * 1_000_003 + block)
    return torch.randn(count, generator=generator).to(device)
