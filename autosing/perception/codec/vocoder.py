"""A source-filter vocoder in batched torch: waveform + F0 -> mel-cepstra and band aperiodicity, and back. No compiled or GPL part.

Letters: B batch, n samples, T frames, M cepstral coefficients, A aperiodicity bands, F frequency bins. Frame t is centred on sample
(t + 0.5) * hop, so T frames tile T * hop samples. F0 and voicing come from outside (models/pitch.py).

Methods: the envelope is CheapTrick (Morise, "CheapTrick, a spectral envelope estimator for high-quality speech synthesis", Speech
Communication 67, 2015); the analysis-synthesis frame is that of WORLD (Morise et al., IEICE Trans. E99-D, 2016); aperiodicity is the
share of each band that does not repeat one period later. Every row is worked off in blocks of a fixed number of frames or pulses, so
results do not depend on the batch or on the length of the file, and memory does not grow with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from autosing.nn.spectra import hz_to_mel, mel_to_hz


@dataclass(frozen=True)
class VocoderConfig:
    """Layout of the features.

    Attributes:
        sample_rate: Hz.
        hop: samples a frame.
        fft_size: samples of an analysis frame; three periods of `f0_floor_hz` must fit.
        cepstra: M, mel-cepstral coefficients kept.
        mel_points: points of the mel axis that the cepstra are taken on.
        band_edges_hz: A + 1 edges of the aperiodicity bands.
        f0_floor_hz, f0_ceiling_hz: range of F0 that windows adapt to.
        unvoiced_f0_hz: stands for F0 in unvoiced frames (12 ms window).
        floor_db: power density added before logs, dB re full scale; digital silence becomes this.
    """

    sample_rate: int = 24_000
    hop: int = 288
    fft_size: int = 1024
    cepstra: int = 40
    mel_points: int = 96
    band_edges_hz: tuple[float, ...] = (0.0, 1000.0, 2000.0, 4000.0, 7000.0, 12000.0)
    f0_floor_hz: float = 71.0
    f0_ceiling_hz: float = 1200.0
    unvoiced_f0_hz: float = 250.0
    floor_db: float = -90.0

    @property
    def bins(self) -> int:
        return self.fft_size // 2 + 1

    @property
    def bands(self) -> int:
        return len(self.band_edges_hz) - 1


@dataclass(frozen=True)
class Frames:
    """What the vocoder knows of a voice.

    Attributes:
        f0_hz: (B, T) float32, positive everywhere; where `voiced` is False it only says what F0 would be.
        voiced: (B, T) bool.
        cepstra: (B, T, M) float32, orthonormal mel-cepstrum of the natural-log power envelope.
        aperiodicity_db: (B, T, A) float32 <= 0, share of noise in each band's power; meaningless where not voiced.
    """

    f0_hz: Tensor
    voiced: Tensor
    cepstra: Tensor
    aperiodicity_db: Tensor

    def cut(self, part: slice) -> "Frames":
        """Frames `part` of all rows."""
        return Frames(*(column[:, part] for column in self.columns()))

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.f0_hz, self.voiced, self.cepstra, self.aperiodicity_db

    @staticmethod
    def join(parts: "Sequence[Frames]", axis: int) -> "Frames":
        """Rows beside each other (axis 0), or frames one after the other (axis 1)."""
        return Frames(*(torch.cat(column, axis) for column in zip(*(part.columns() for part in parts), strict=True)))


FRAMES_A_BLOCK = 256
PULSES_A_BLOCK = 256
LOWEST_APERIODICITY_DB = -30.0
F0_REFERENCE_HZ = 220.0
"""From which octaves are counted."""
_LAG_STEPS = 9  # fractional lags tried around one period
_LAG_SPREAD = 0.012  # of a period, each way
_FLOOR_MARGIN = 1.3  # times the floor: quantised silence is not exactly the floor
_Q1 = -0.15  # CheapTrick's compensation, its default


def interpolation(positions: Tensor, points: int) -> Tensor:
    """(len(positions), points) matrix that reads `points` equally spaced values at fractional `positions`, linearly, ends held."""
    positions = positions.clamp(0, points - 1).double()
    left = positions.floor().long().clamp(max=points - 2)
    share = positions - left
    matrix = torch.zeros(len(positions), points, dtype=torch.float64)
    rows = torch.arange(len(positions))
    matrix[rows, left] = 1 - share
    matrix[rows, left + 1] += share
    return matrix


def frames_of(padded: Tensor, centres: Tensor, size: int) -> Tensor:
    """Cut windows of `size` samples centred on samples `centres` of a row that was padded by `size` on both sides. -> (T, size)."""
    return padded.unfold(0, size, 1)[centres + (size - size // 2)]


class Vocoder:
    """Analysis and synthesis for one `VocoderConfig`. Holds only constant tables; float32 on one device."""

    def __init__(self, config: VocoderConfig | None = None, device: torch.device | str = "cpu"):
        self.config = config or VocoderConfig()
        self.device = torch.device(device)

    # -- constant tables ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _mel_of_bins(self) -> Tensor:
        """(M, F) float64: log power on linear bins -> orthonormal cepstrum on the mel axis (cosine transform of `mel_points`)."""
        c = self.config
        top = float(hz_to_mel(torch.tensor(c.sample_rate / 2)))
        edges_hz = mel_to_hz(torch.linspace(0, top, c.mel_points, dtype=torch.float64))
        bin_hz = c.sample_rate / c.fft_size
        # average over the width of a mel step where that is wider than a bin, so that fine detail does not alias
        step = torch.diff(edges_hz, prepend=-edges_hz[1:2]) / bin_hz
        rows = []
        for centre, width in zip(edges_hz / bin_hz, step, strict=True):
            taps = torch.linspace(-0.5, 0.5, 9, dtype=torch.float64) * max(float(width) - 1.0, 0.0)
            rows.append(interpolation((centre + taps).abs(), c.bins).mean(0))
        return self._cosines @ torch.stack(rows)

    @cached_property
    def _cosines(self) -> Tensor:
        """(M, mel_points) float64, first rows of the orthonormal DCT-II."""
        c = self.config
        k = torch.arange(c.cepstra, dtype=torch.float64)[:, None]
        p = torch.arange(c.mel_points, dtype=torch.float64)[None]
        table = torch.cos(math.pi * k * (p + 0.5) / c.mel_points) * math.sqrt(2.0 / c.mel_points)
        table[0] /= math.sqrt(2.0)
        return table

    @cached_property
    def _log_power_of(self) -> Tensor:
        """(M, F) float32: cepstrum -> log power on linear bins."""
        c = self.config
        top = float(hz_to_mel(torch.tensor(c.sample_rate / 2)))
        bins_hz = torch.arange(c.bins, dtype=torch.float64) * c.sample_rate / c.fft_size
        positions = hz_to_mel(bins_hz) / top * (c.mel_points - 1)
        return (interpolation(positions, c.mel_points) @ self._cosines.T).T.float().contiguous().to(self.device)

    @cached_property
    def _phase_of(self) -> Tensor:
        """(M, F) float32: cepstrum -> phase of the minimum-phase filter with that envelope (folded real cepstrum)."""
        c = self.config
        log_amplitude = 0.5 * self._log_power_of.double().cpu()
        real = torch.fft.irfft(log_amplitude.to(torch.complex128), n=c.fft_size)
        fold = torch.zeros(c.fft_size, dtype=torch.float64)
        fold[0] = fold[c.fft_size // 2] = 1.0
        fold[1 : c.fft_size // 2] = 2.0
        return torch.fft.rfft(real * fold).imag.float().contiguous().to(self.device)

    @cached_property
    def _cepstrum_of_quefrency(self) -> Tensor:
        """(F, M) float32: real cepstrum (one side) of the log power on linear bins -> mel-cepstrum."""
        c = self.config
        sides = torch.full((c.bins, 1), 2.0, dtype=torch.float64)
        sides[0] = sides[-1] = 1.0
        k = torch.arange(c.bins, dtype=torch.float64)
        cosines = torch.cos(2 * math.pi * k[:, None] * k[None] / c.fft_size) * sides  # quefrency -> bins
        return (cosines @ self._mel_of_bins.T).float().contiguous().to(self.device)

    @cached_property
    def _bands_of_bins(self) -> Tensor:
        """(F, A) float32 of 0 and 1: which band a bin belongs to."""
        c = self.config
        hz = torch.arange(c.bins) * c.sample_rate / c.fft_size
        edges = torch.tensor(c.band_edges_hz)
        inside = (hz[:, None] >= edges[None, :-1]) & (hz[:, None] < edges[None, 1:])
        inside[-1, -1] = True
        return inside.float().to(self.device)

    @cached_property
    def _bins_of_bands(self) -> Tensor:
        """(A, F) float32: band values -> bins, linear between band centres."""
        c = self.config
        edges = torch.tensor(c.band_edges_hz, dtype=torch.float64)
        centres = (edges[1:] + edges[:-1]) / 2
        hz = torch.arange(c.bins, dtype=torch.float64) * c.sample_rate / c.fft_size
        right = torch.searchsorted(centres, hz).clamp(1, c.bands - 1)
        share = ((hz - centres[right - 1]) / (centres[right] - centres[right - 1])).clamp(0, 1)
        matrix = torch.zeros(c.bands, c.bins, dtype=torch.float64)
        columns = torch.arange(c.bins)
        matrix[right - 1, columns] = 1 - share
        matrix[right, columns] += share
        return matrix.float().to(self.device)

    @cached_property
    def _fade(self) -> Tensor:
        """(fft_size,) float32: takes the end of a response to zero, so that what wraps around makes no click."""
        return self._fade_in.flip(0).contiguous()

    @cached_property
    def _fade_in(self) -> Tensor:
        length = self.config.fft_size // 8
        rise = 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(length) + 0.5) / length)
        return torch.cat([rise, torch.ones(self.config.fft_size - length)]).to(self.device)

    # -- analysis ----------------------------------------------------------------------------------------------------------------

    def analyse(self, wav: Tensor, f0_hz: Tensor, voiced: Tensor) -> Frames:
        """Features of a voice whose F0 is known.

        Args:
            wav: (B, n) float32.
            f0_hz: (B, T) positive, also where unvoiced.
            voiced: (B, T) bool.
        """
        rows = [self._analyse_row(*row) for row in zip(wav, f0_hz, voiced, strict=True)]
        cepstra, aperiodicity = (torch.stack(part) for part in zip(*rows, strict=True))
        return Frames(f0_hz, voiced, cepstra, aperiodicity)

    def _analyse_row(self, wav: Tensor, f0_hz: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config
        frames = f0_hz.shape[0]
        blocks = -(-frames // FRAMES_A_BLOCK)
        pad = blocks * FRAMES_A_BLOCK - frames
        window_f0 = torch.where(voiced, f0_hz, torch.full_like(f0_hz, c.unvoiced_f0_hz))
        window_f0 = window_f0.clamp(c.f0_floor_hz, c.f0_ceiling_hz)
        window_f0 = torch.nn.functional.pad(window_f0, (0, pad), value=c.unvoiced_f0_hz)
        centres = torch.arange(blocks * FRAMES_A_BLOCK, device=wav.device) * c.hop + c.hop // 2
        padded = torch.nn.functional.pad(wav, (c.fft_size, max(0, int(centres[-1]) - wav.shape[0]) + c.fft_size))
        cepstra, aperiodicity = [], []
        for first in range(0, blocks * FRAMES_A_BLOCK, FRAMES_A_BLOCK):
            block = slice(first, first + FRAMES_A_BLOCK)
            cepstra.append(self._envelope(padded, centres[block], window_f0[block]))
            aperiodicity.append(self._aperiodicity(padded, centres[block], window_f0[block]))
        noise = torch.zeros(frames, c.bands, device=wav.device)
        return torch.cat(cepstra)[:frames], torch.where(voiced[:, None], torch.cat(aperiodicity)[:frames], noise)

    def _window(self, f0: Tensor, periods: float) -> Tensor:
        """Hann windows `periods` / F0 long, unit energy. (T,) -> (T, fft_size)."""
        c = self.config
        offsets = torch.arange(-(c.fft_size // 2), c.fft_size // 2, device=f0.device, dtype=torch.float32)
        position = offsets[None] * f0[:, None] / (c.sample_rate * periods)
        window = (0.5 + 0.5 * torch.cos(2 * math.pi * position)) * (position.abs() <= 0.5)
        return window / window.square().sum(1, keepdim=True).sqrt()

    def _envelope(self, padded: Tensor, centres: Tensor, f0: Tensor) -> Tensor:
        """CheapTrick's envelope as mel-cepstra. (T,), (T,) -> (T, M)."""
        c = self.config
        window = self._window(f0, 3.0)
        cut = frames_of(padded, centres, c.fft_size) * window
        cut = cut - window * (cut.sum(1, keepdim=True) / window.sum(1, keepdim=True))
        spectrum = torch.fft.rfft(cut)
        power = (spectrum.real.square() + spectrum.imag.square()).double()
        bin_hz = c.sample_rate / c.fft_size
        f0_bins = f0.double() / bin_hz
        # below F0 the window sees nothing: mirror what lies between F0 and 0 (WORLD's DC correction)
        low = int(c.f0_ceiling_hz / bin_hz) + 2
        k = torch.arange(low, device=padded.device)
        position = (f0_bins[:, None] - k).clamp(min=0)
        left = position.floor().long()
        share = position - left
        replica = power.gather(1, left) * (1 - share) + power.gather(1, left + 1) * share
        power[:, :low] += replica * (k < f0_bins[:, None])
        smooth = self._smooth(power, f0_bins * (2.0 / 3.0))
        log_power = torch.log(smooth.clamp(min=0) + 10 ** (c.floor_db / 10)).float()
        real = torch.fft.irfft(torch.complex(log_power, torch.zeros_like(log_power)), n=c.fft_size)[:, : c.bins]
        quefrency = torch.arange(c.bins, device=padded.device, dtype=torch.float32) / c.sample_rate
        lifter = torch.sinc(f0[:, None] * quefrency) * ((1 - 2 * _Q1) + 2 * _Q1 * torch.cos(2 * math.pi * f0[:, None] * quefrency))
        return (real * lifter) @ self._cepstrum_of_quefrency

    def _smooth(self, power: Tensor, width_bins: Tensor) -> Tensor:
        """Running mean over frequency, `width_bins` wide, the spectrum mirrored at both ends. (T, F) float64."""
        c = self.config
        reach = int(c.f0_ceiling_hz / 3 / (c.sample_rate / c.fft_size)) + 3
        mirrored = torch.cat([power[:, 1 : reach + 1].flip(1), power, power[:, -reach - 1 : -1].flip(1)], 1)
        total = torch.nn.functional.pad(mirrored.cumsum(1), (1, 0))  # total[:, i] = power below edge i - 0.5 - reach
        k = torch.arange(c.bins, device=power.device) + reach + 0.5

        def up_to(edge: Tensor) -> Tensor:
            left = edge.floor().long()
            share = edge - left
            return total.gather(1, left) * (1 - share) + total.gather(1, left + 1) * share

        half = width_bins[:, None] / 2
        return (up_to(k + half) - up_to(k - half)) / width_bins[:, None]

    def _aperiodicity(self, padded: Tensor, centres: Tensor, f0: Tensor) -> Tensor:
        """Noise share of each band in dB: what differs between two windows one period apart. (T,), (T,) -> (T, A).

        With X, Y the spectra of two-period windows half a period before and after the centre, the share is
        1 - max over lags near the period of 2 Re sum(X* Y e^(i w lag)) / sum(|X|^2 + |Y|^2), each sum over one band; fractional
        lags are phase ramps on the cross spectrum.
        """
        c = self.config
        period = c.sample_rate / f0
        before = (period / 2).round().long()
        after = (period - before).round().long()
        window = self._window(f0, 2.0)
        early = torch.fft.rfft(frames_of(padded, centres - before, c.fft_size) * window)
        late = torch.fft.rfft(frames_of(padded, centres + after, c.fft_size) * window)
        power = (early.real.square() + early.imag.square() + late.real.square() + late.imag.square()) @ self._bands_of_bins
        cross = early.conj() * late
        omega = torch.arange(c.bins, device=padded.device, dtype=torch.float32) * (2 * math.pi / c.fft_size)
        rest = period - (before + after)
        alike = torch.full_like(power, -1.0)
        for spread in torch.linspace(-_LAG_SPREAD, _LAG_SPREAD, _LAG_STEPS).tolist():
            angle = (rest + spread * period)[:, None] * omega
            real = cross.real * torch.cos(angle) - cross.imag * torch.sin(angle)
            alike = torch.maximum(alike, 2 * (real @ self._bands_of_bins) / power.clamp(min=1e-12))
        share = (1 - alike).clamp(10 ** (LOWEST_APERIODICITY_DB / 10), 1.0)
        return torch.where(power > 1e-12, 10 * torch.log10(share), torch.zeros_like(share))

    # -- synthesis ---------------------------------------------------------------------------------------------------------------

    def synthesise(self, frames: Frames, seed: int = 0) -> Tensor:
        """Waveform of `frames`: minimum-phase pulses at every period plus filtered noise.

        Args:
            frames: see `Frames`.
            seed: of the noise; the same frames and seed give the same samples.

        Returns:
            (B, T * hop) float32.
        """
        parts = zip(frames.f0_hz, frames.voiced, frames.cepstra, frames.aperiodicity_db, strict=True)
        return torch.stack([self._pulses(*row) + self._noise(*row, seed) for row in parts])

    def _at(self, values: Tensor, position: Tensor) -> Tensor:
        """Read (T, D) values at fractional frames (P,), linearly, ends held -> (P, D)."""
        last = values.shape[0] - 1
        position = position.clamp(0, last)
        left = position.floor().long().clamp(max=max(last - 1, 0))
        share = (position - left).to(values.dtype)[:, None]
        return values[left] * (1 - share) + values[(left + 1).clamp(max=last)] * share

    def _amplitude(self, coefficients: Tensor) -> Tensor:
        """(P, M) -> (P, F) amplitude of the envelope, less the floor that analysis added: what was silent is silent again."""
        log_power = coefficients @ self._log_power_of
        floor = _FLOOR_MARGIN * 10 ** (self.config.floor_db / 10)
        return torch.exp(0.5 * log_power) * (1 - floor * torch.exp(-log_power)).clamp(min=1e-4).sqrt()

    def _above(self, corner_hz: Tensor) -> Tensor:
        """(P,) -> (P, F) gain of a high-pass of fourth order, zero phase."""
        c = self.config
        hz = torch.arange(c.bins, device=corner_hz.device, dtype=torch.float32) * (c.sample_rate / c.fft_size)
        return 1 / (1 + (corner_hz[:, None] / hz.clamp(min=1.0)) ** 4)

    def pulse_times(self, f0_hz: Tensor, voiced: Tensor) -> tuple[Tensor, Tensor]:
        """Where the glottal pulses of one row lie.

        Returns:
            (P,) float64 positions in samples and (P,) F0 in Hz there; a pulse stands wherever the running phase passes an integer
            inside a voiced frame.
        """
        c = self.config
        fine = 8  # grid points a frame
        frames = f0_hz.shape[0]
        step = c.hop // fine
        times = torch.arange(frames * fine + 1, device=f0_hz.device, dtype=torch.float64) * step
        log_f0 = torch.log(f0_hz.double())[:, None]
        hz = torch.exp(self._at(log_f0, times / c.hop - 0.5)[:, 0])
        hz = hz.clamp(30.0, c.sample_rate / 8)
        phase = torch.nn.functional.pad(((hz[1:] + hz[:-1]) / 2 * step / c.sample_rate).cumsum(0), (1, 0))
        count = int(phase[-1].floor()) if frames else 0
        wanted = torch.arange(1, count + 1, device=f0_hz.device, dtype=torch.float64) - 0.5
        right = torch.searchsorted(phase, wanted).clamp(1, len(times) - 1)
        share = (wanted - phase[right - 1]) / (phase[right] - phase[right - 1])
        position = times[right - 1] + share * step
        rate = hz[right - 1] + share * (hz[right] - hz[right - 1])
        keep = voiced[(position / c.hop).long().clamp(max=frames - 1)]
        return position[keep], rate[keep].float()

    def _pulses(self, f0_hz: Tensor, voiced: Tensor, cepstra: Tensor, aperiodicity_db: Tensor) -> Tensor:
        c = self.config
        samples = f0_hz.shape[0] * c.hop
        position, rate = self.pulse_times(f0_hz, voiced)
        lead = c.fft_size // 8  # room for what zero-phase gains and fractional delays send ahead of a pulse
        out = torch.zeros(samples + 2 * c.fft_size, device=cepstra.device)
        omega = torch.arange(c.bins, device=cepstra.device, dtype=torch.float32) * (2 * math.pi / c.fft_size)
        sample_index = torch.arange(c.fft_size, device=cepstra.device)
        noisy = torch.where(voiced[:, None], aperiodicity_db, torch.zeros_like(aperiodicity_db))
        for first in range(0, len(position), PULSES_A_BLOCK):
            place, hz = position[first : first + PULSES_A_BLOCK], rate[first : first + PULSES_A_BLOCK]
            here = len(place)
            place = torch.nn.functional.pad(place, (0, PULSES_A_BLOCK - here))  # a fixed shape gives the same bits in any file
            hz = torch.nn.functional.pad(hz, (0, PULSES_A_BLOCK - here), value=100.0)
            frame = place / c.hop - 0.5
            coefficients = self._at(cepstra, frame)
            share = 10 ** (self._at(noisy, frame) @ self._bins_of_bands / 10)
            amplitude = self._amplitude(coefficients) * (1 - share).clamp(min=0).sqrt()
            amplitude = amplitude * (c.sample_rate / hz[:, None]).sqrt() * self._above(0.4 * hz)
            whole = place.floor()
            angle = coefficients @ self._phase_of - ((place - whole).float()[:, None] + lead) * omega
            wave = torch.fft.irfft(torch.polar(amplitude, angle), n=c.fft_size) * (self._fade * self._fade_in)
            index = (whole.long()[:, None] + (c.fft_size - lead) + sample_index)[:here]
            out.index_add_(0, index.reshape(-1), wave[:here].reshape(-1))
        return out[c.fft_size : c.fft_size + samples]

    def _noise(self, f0_hz: Tensor, voiced: Tensor, cepstra: Tensor, aperiodicity_db: Tensor, seed: int) -> Tensor:
        c = self.config
        frames, step = voiced.shape[0], c.hop // 2  # features are read at twice the frame rate
        segment = 2 * step
        segments = 2 * frames + 1
        out = torch.zeros((segments + 2) * step + c.fft_size, device=cepstra.device)
        hann = torch.hann_window(segment, periodic=True, device=cepstra.device)
        noisy = torch.where(voiced[:, None], aperiodicity_db, torch.zeros_like(aperiodicity_db))
        lowest = torch.where(voiced, 0.6 * f0_hz, torch.full_like(f0_hz, 20.0))[:, None]
        sample_index = torch.arange(c.fft_size, device=cepstra.device)
        block = FRAMES_A_BLOCK
        for first in range(0, segments, block):
            count = min(block, segments - first)
            generator = torch.Generator().manual_seed((seed + 1) * 1_000_003 + first)
            white = torch.randn(block, step, generator=generator).to(cepstra.device)
            following = torch.Generator().manual_seed((seed + 1) * 1_000_003 + first + block)
            bridge = torch.randn(1, step, generator=following).to(cepstra.device)
            cut = torch.cat([white, torch.cat([white[1:], bridge])], 1) * hann  # segments overlap by half and share their noise
            frame = (torch.arange(first, first + block, device=cepstra.device) * step) / c.hop - 0.5
            coefficients = self._at(cepstra, frame)
            share = 10 ** (self._at(noisy, frame) @ self._bins_of_bands / 10)
            # what the envelope says below F0 is a mirror image
            amplitude = self._amplitude(coefficients) * share.sqrt() * self._above(self._at(lowest, frame)[:, 0])
            angle = coefficients @ self._phase_of
            wave = torch.fft.irfft(torch.fft.rfft(cut, n=c.fft_size) * torch.polar(amplitude, angle), n=c.fft_size) * self._fade
            index = (torch.arange(first, first + block, device=cepstra.device)[:, None] * step + sample_index)[:count]
            out.index_add_(0, index.reshape(-1), wave[:count].reshape(-1))
        return out[step : step + frames * c.hop]
