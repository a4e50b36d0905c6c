"""Train the pitch net (models/pitch.py) on rendered vocals, whose F0 is exact, made hard the way separated stems are hard.

A row gives a crop of vocals, of its accompaniment and the F0 of every frame. In `losses` each voice gets another song's band: as plain
leakage, or by way of a soft mask on their mixture, which leaves the holes and the musical noise of a separator. Vocals that a separator made
(`autosing.rendering separated`) have both already and get no more. Speed (and so pitch and formants), equaliser, reverb, noise and level vary too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autosing.config import require_at_least, require_fields, require_shares
from autosing.models.pitch import PitchConfig, PitchNet
from autosing.perception.codec.leakage import through_mask
from autosing.song import audio
from autosing.store import SEPARATED
from autosing.training.task import Batch, DatasetMeta, Losses, OptimTunables, ParamRule, Row

F0_RATE = 200  # Hz, of the column `f0`


@dataclass(frozen=True)
class PitchArgs:
    """Attributes:
    seconds: length of a crop.
    speed: a crop is played up to this much faster or slower.
    min_voiced: of three crops the first with this share of voiced frames is taken, else the last.
    long: the net also looks at frames farther away.
    """

    seconds: float = 1.536
    speed: float = 1.6
    min_voiced: float = 0.3
    long: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 0.1, "seconds")
        require_at_least(self, 1, "speed")
        require_shares(self, "min_voiced")


@dataclass(frozen=True)
class PitchTunables(OptimTunables):
    """Attributes:
    clean, leak: share of crops without and with plain leakage; the rest goes through a mask.
    blur_bins: standard deviation of the F0 target.
    voicing_weight: of the voicing loss.
    """

    lr0: float = 4e-3
    warmup_steps: int = 50
    weight_decay: float = 1e-4
    clip_gradient_norm: float = 1.0
    clean: float = 0.25
    leak: float = 0.35
    blur_bins: float = 0.9
    voicing_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "clean", "leak")
        require_fields(self, "above 0", lambda bins: bins > 0, "blur_bins")
        require_at_least(self, 0, "voicing_weight")


class PitchTask:
    """See the module."""

    name = "pitch"
    Args = PitchArgs
    Tunables = PitchTunables

    def __init__(self, args: PitchArgs, tunables: PitchTunables, meta: DatasetMeta):
        self.args, self.tunables, self.meta = args, tunables, meta
        self.config = PitchConfig(long=args.long)
        self.parts = ("songs",)
        self.columns = ("kind", "vocals", "accompaniment", "f0")

    @staticmethod
    def args_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a checkpoint's model."""
        return {"long": checkpoint["config"].get("long", False)}

    def example(self, row: Row, rng: np.random.Generator) -> Batch | None:
        if row["f0"] is None or row["vocals"] is None:
            return None
        config = self.config
        f0 = np.frombuffer(row["f0"], np.float32)
        samples = round(self.args.seconds * config.sample_rate) // config.hop * config.hop
        speed = float(np.exp(rng.uniform(-1, 1) * math.log(self.args.speed))) if rng.random() < 0.6 else 1.0
        source = int(samples * speed) + 2
        with audio.opened(row["vocals"]) as vocals:
            if vocals.frames < source + config.hop:
                return None
            starts = rng.integers(0, vocals.frames - source, 3).tolist()
            crops = [(first, self._frame_f0(f0, first, samples, speed)) for first in starts]
            first, hz = next((crop for crop in crops if (crop[1] > 0).mean() >= self.args.min_voiced), crops[-1])
            vocals.seek(first)
            wave = vocals.read(source, dtype="float32", always_2d=True).mean(1)
        wave = np.interp(np.arange(samples) * speed, np.arange(len(wave)), wave).astype(np.float32)
        return {
            "vocals": torch.from_numpy(wave),
            "accompaniment": torch.from_numpy(self._band(row["accompaniment"], samples, rng)),
            "f0_hz": torch.from_numpy(hz),
            "separated": torch.tensor(row.get("kind") == SEPARATED),
        }

    def _frame_f0(self, f0: np.ndarray, first_sample: int, samples: int, speed: float) -> np.ndarray:
        """(T,) F0 in Hz at the frame centres of a crop played `speed` times as fast; 0 where unvoiced or out of range."""
        config = self.config
        centres = (np.arange(samples // config.hop) + 0.5) * config.hop * speed + first_sample
        position = np.clip(centres / config.sample_rate * F0_RATE, 0, len(f0) - 1.001)
        left = position.astype(np.int64)
        share = position - left
        a, b = f0[left], f0[left + 1]
        both = (a > 0) & (b > 0)
        nearest = np.where(share < 0.5, a, b)
        hz = np.where(both, np.exp(np.log(np.maximum(a, 1)) * (1 - share) + np.log(np.maximum(b, 1)) * share), nearest) * speed
        return np.where((hz >= config.f0_min_hz) & (hz <= config.f0_max_hz), hz, 0).astype(np.float32)

    def _band(self, data: bytes | None, samples: int, rng: np.random.Generator) -> np.ndarray:
        """(samples,) of the accompaniment from anywhere in the song; silence where there is none."""
        if data is None:
            return np.zeros(samples, np.float32)
        with audio.opened(data) as file:
            if file.frames <= samples:
                return np.zeros(samples, np.float32)
            file.seek(int(rng.integers(0, file.frames - samples)))
            return file.read(samples, dtype="float32", always_2d=True).mean(1).astype(np.float32)

    def build_model(self) -> nn.Module:
        return PitchNet(self.config)

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        t = self.tunables
        wav = roughen(batch["vocals"], batch["accompaniment"], t.clean, t.leak, batch["separated"]) if model.training else batch["vocals"]
        logits, voicing = model(wav)
        hz = batch["f0_hz"]
        voiced = hz > 0
        position = self.config.bins_per_octave * torch.log2(hz.clamp(min=1.0) / self.config.f0_min_hz)
        distance = torch.arange(self.config.bins, device=hz.device) - position[..., None]
        target = torch.exp(-0.5 * (distance / t.blur_bins).square())
        target = target / target.sum(-1, keepdim=True).clamp(min=1e-6)
        count = voiced.sum().clamp(min=1)
        pitch = (-(target * logits.log_softmax(-1)).sum(-1) * voiced).sum() / count
        voice = F.binary_cross_entropy_with_logits(voicing, voiced.float())
        cents = (logits.argmax(-1) - position).abs() * 1200 / self.config.bins_per_octave
        metrics = {
            "off_by_50_cents": ((cents > 50) & voiced).sum() / count,
            "voicing_error": ((voicing > 0) != voiced).float().mean(),
        }
        terms = ((pitch, voiced.sum()), (t.voicing_weight * voice, torch.full_like(count, voiced.numel())))
        return Losses(pitch + t.voicing_weight * voice, {"pitch": pitch, "voicing": voice}, metrics, terms)

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        return [ParamRule(r"norms|bias", decay=False)]

    def checkpoint_meta(self) -> dict:
        return {"sample_rate": self.config.sample_rate, "hop": self.config.hop}


def roughen(vocals: Tensor, band: Tensor, clean: float, leak: float, separated: Tensor) -> Tensor:
    """Vocals (B, n) as a separator might deliver them, from (B, n) bands of other songs in the batch; levels vary. Of those that are
    `separated` already, (B,) bool, noise, equaliser and level alone vary."""
    rows, device = vocals.shape[0], vocals.device
    band = band.roll(1, 0)
    kind = torch.rand(rows, device=device)

    def scaled(wave: Tensor, low_db: float, high_db: float) -> Tensor:
        """`wave` at a random level below the vocals'."""
        loud = vocals.square().mean(1, keepdim=True).sqrt().clamp(min=1e-3)
        own = wave.square().mean(1, keepdim=True).sqrt().clamp(min=1e-5)
        ratio_db = torch.rand(rows, 1, device=device) * (high_db - low_db) + low_db
        return wave * loud / own * 10 ** (-ratio_db / 20) * (own > 1e-4)

    wet = torch.where(torch.rand(rows, 1, device=device) < 0.35, reverberated(vocals), vocals)
    leaking = wet + scaled(band, 3.0, 25.0)
    masked = through_mask(wet, scaled(band, -3.0, 6.0))
    wave = torch.where(separated[:, None], vocals, torch.where((kind < clean)[:, None], wet, torch.where((kind < clean + leak)[:, None], leaking, masked)))
    wave = wave + scaled(torch.randn_like(wave), 20.0, 60.0)
    wave = equalised(wave)
    peak = wave.abs().amax(1, keepdim=True).clamp(min=1e-4)
    return wave / peak * 10 ** (-torch.rand(rows, 1, device=device) * 1.5)


def reverberated(wave: Tensor) -> Tensor:
    """Each row in a random room: exponentially decaying noise, 0.2 to 1.2 s, 6 to 20 dB below the direct sound."""
    rows, samples = wave.shape
    time = torch.arange(samples, device=wave.device) / 24_000
    decay_seconds = 0.2 + torch.rand(rows, 1, device=wave.device)
    tail = torch.randn(rows, samples, device=wave.device) * torch.exp(-6.9 * time / decay_seconds)
    tail = F.pad(tail[:, :-240], (240, 0))
    tail = tail / tail.square().sum(1, keepdim=True).sqrt().clamp(min=1e-6)
    tail = tail * 10 ** (-(6 + 14 * torch.rand(rows, 1, device=wave.device)) / 20)
    size = 2 * samples
    spectrum = torch.fft.rfft(wave, n=size)
    return wave + torch.fft.irfft(spectrum * torch.fft.rfft(tail, n=size), n=size)[:, :samples]


def equalised(wave: Tensor) -> Tensor:
    """Each row through a random smooth equaliser of +-9 dB with 10 knots."""
    rows, samples = wave.shape
    bins = samples // 2 + 1
    knots = (torch.rand(rows, 1, 10, device=wave.device) * 2 - 1) * 9 * torch.rand(rows, 1, 1, device=wave.device)
    axis = torch.log2(1 + torch.arange(bins, device=wave.device) / bins * 63) / 6 * 2 - 1  # octave-like spacing of the knots
    grid = torch.stack([axis, torch.zeros_like(axis)], -1)[None, None].expand(rows, 1, -1, -1)
    gain_db = F.grid_sample(knots[:, :, None], grid, mode="bilinear", align_corners=True)[:, 0, 0]
    return torch.fft.irfft(torch.fft.rfft(wave) * 10 ** (gain_db / 20), n=samples)


TASK = PitchTask
