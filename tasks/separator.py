"""Train the built-in separator on rendered songs, spoken and sung real voices, and real bands.

An example is a few short crops of one row: a mono voice and a stereo band. `losses` makes the mixtures: voices are placed, doubled, reverberated,
equalised and backed by other voices, bands are exchanged and layered within the batch, and one of the two is sometimes silent. Loss: log error-to-mix
ratio of the vocals' complex spectrum (the same error for both stems, since accompaniment = mix - vocals) plus the distance of compressed
magnitudes of both stems. Letters: B batch, P crops a row, n samples.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autosing.config import require_at_least, require_shares
from autosing.errors import ConfigError, DataError
from autosing.models.separator import SIZES, SeparatorNet, active_rms, errors, power, spectrum
from autosing.song import audio
from autosing.tokens.specs import Seconds
from autosing.training import augment
from autosing.training.task import Batch, DatasetMeta, Losses, OptimTunables, ParamRule, Row


@dataclass(frozen=True)
class SeparatorArgs:
    """
    Attributes:
        size: a row of models.separator.SIZES.
        crop_seconds, crops: length and number of crops an example takes from one row.
        music_dir: folder of instrumental recordings (searched deep) that serve as further bands; empty = none.
        music_skip: files whose names begin so are left out (artists kept for the test split of rendered songs).
        music_share: share of the crops of a song that get such a band; rows without accompaniment always get one.
    """

    size: str = "base"
    crop_seconds: Seconds = 3.0
    crops: int = 3
    music_dir: str = ""
    music_skip: tuple[str, ...] = ()
    music_share: float = 0.5

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"no separator size '{self.size}'; choose one of: {', '.join(SIZES)}")
        require_at_least(self, 0.1, "crop_seconds")
        require_at_least(self, 1, "crops")
        require_shares(self, "music_share")


@dataclass(frozen=True)
class SeparatorTunables(OptimTunables):
    """
    Attributes:
        level_low_db, level_high_db: voice level relative to the band, drawn evenly between them.
        magnitude_weight: weight of the compressed-magnitude distance beside the log error.
        silent_voice, silent_band: share of mixtures without one of the two.
        speed: voice and band are played, each on its own, at speeds between 1 / `speed` and `speed`.
        layered: share of the bands that play over another one.
        wide: share of the voices with copies on both sides, as doubled ones and those with a chorus have.
        tilt_db: most dB an octave by which two voices in three are made brighter.
    """

    lr0: float = 2e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 40
    clip_gradient_norm: float = 1.0
    beta2: float = 0.98
    level_low_db: float = -11.0
    level_high_db: float = 7.0
    magnitude_weight: float = 0.3
    silent_voice: float = 0.08
    silent_band: float = 0.04
    speed: float = 1.3
    layered: float = 0.3
    wide: float = 0.1
    tilt_db: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "silent_voice", "silent_band", "layered", "wide")
        require_at_least(self, 0, "magnitude_weight", "tilt_db")
        require_at_least(self, 1, "speed")


class SeparatorTask:
    """Rows of rendered songs (or speech without accompaniment) -> a trained `SeparatorNet`."""

    name: ClassVar[str] = "separator"
    Args: ClassVar[type] = SeparatorArgs
    Tunables: ClassVar[type] = SeparatorTunables
    parts: tuple[str, ...] = ("songs",)
    columns: tuple[str, ...] = ("id", "vocals", "accompaniment")

    def __init__(self, args: SeparatorArgs, tunables: SeparatorTunables, meta: DatasetMeta):
        self.args, self.tunables, self.meta = args, tunables, meta
        self.config = SIZES[args.size]
        self.samples = int(args.crop_seconds * self.config.sample_rate) // self.config.hop * self.config.hop

    @functools.cached_property
    def music(self) -> "MusicLibrary | None":
        """Decoded on first use, once a process; None without `music_dir`."""
        if not self.args.music_dir:
            return None
        return MusicLibrary(Path(self.args.music_dir), self.args.music_skip, self.config.sample_rate)

    def example(self, row: Row, rng: np.random.Generator) -> Batch | None:
        """-> voice (P, n), band (P, 2, n); None where the row has neither sound nor a band to go with it."""
        rate = self.config.sample_rate
        has_band = bool(row["accompaniment"])
        if not has_band and self.music is None:
            return None
        voices, bands, widest = [], [], np.log(self.tunables.speed)
        for _ in range(self.args.crops):
            voice_samples, band_samples = (round(self.samples * float(np.exp(rng.uniform(-widest, widest)))) for _ in range(2))
            voice, start = loud_crop(row["vocals"], voice_samples, rate, rng)
            use_music = self.music is not None and (not has_band or rng.random() < self.args.music_share)
            band = self.music.crop(band_samples, rng) if use_music else read_crop(row["accompaniment"], start, band_samples, rate)  # type: ignore[union-attr]
            voices.append(augment.stretched(voice[0], self.samples))
            bands.append(np.broadcast_to(augment.stretched(band, self.samples), (2, self.samples)))
        return {"voice": torch.from_numpy(np.stack(voices)), "band": torch.from_numpy(np.stack(bands))}

    def build_model(self) -> nn.Module:
        return SeparatorNet(self.config)

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        voice, band = batch["voice"].flatten(0, 1).float(), batch["band"].flatten(0, 1).float()
        with torch.no_grad():
            vocals, accompaniment = self.mixtures(voice, band) if model.training else self.plain(voice, band)
            target, rest = spectrum(vocals, self.config), spectrum(accompaniment, self.config)
            mix = target + rest
        estimate = model(mix)
        error = errors(estimate, target, rest)
        with torch.no_grad():
            both = (power(target) > 1e-3 * power(mix)) & (power(rest) > 1e-3 * power(mix))
            gain_db = 10 * torch.log10(power(rest).clamp_min(1e-6) / power(estimate - target).clamp_min(1e-6))
            metrics = {"snr_gain_db": (gain_db * both).sum() / both.sum().clamp_min(1)}
        parts = {"log_error_db": error.log_error_db.mean().detach(), "magnitude": error.magnitude.detach()}
        return Losses(error.total(self.tunables.magnitude_weight), parts, metrics)

    def plain(self, voice: Tensor, band: Tensor) -> tuple[Tensor, Tensor]:
        """The mixture for validation: the voice in the middle, 3 dB under its band. (B, n), (B, 2, n) -> two (B, 2, n)."""
        return self._level(voice[:, None].expand(-1, 2, -1), band, torch.full((len(voice),), -3.0, device=voice.device), 0.0)

    def mixtures(self, voice: Tensor, band: Tensor) -> tuple[Tensor, Tensor]:
        """Random mixtures: (B, n), (B, 2, n) -> vocals, accompaniment, each (B, 2, n). Some voices get backing voices of other crops."""
        count, device, settings = len(voice), voice.device, self.tunables
        rate = self.config.sample_rate
        band = torch.where(augment.chance(count, 0.5, device)[:, None, None], band, band.roll(self.args.crops, 0))
        layer = augment.decibels(augment.uniform((count,), -12, 0, device)) * augment.chance(count, settings.layered, device)
        band = band + layer[:, None, None] * band.roll(self.args.crops + 1, 0)
        band = band * augment.decibels(augment.uniform((count, 2, 1), -2, 2, device))
        band = torch.where(augment.chance(count, 0.5, device)[:, None, None], band.flip(1), band)
        narrow = augment.uniform((count, 1, 1), 0.0, 1.3, device).clamp_max(1) * augment.chance(count, 0.35, device)[:, None, None]
        band = band * (1 - narrow) + band.mean(1, keepdim=True) * narrow
        band = augment.equalise(band, augment.tone_curve(count, 33, rate, 3.0, device))

        voice = self._sung_otherwise(voice)
        voice = voice / active_rms(voice, rate)[:, None]
        vocals = self._place(voice, spread=0.35)
        backed = augment.chance(count, 0.3, device) & (count > 1)
        if backed.any():
            level = augment.decibels(augment.uniform((int(backed.sum()), 1, 1), -14, 0, device))
            vocals[backed] += level * self._place(voice.roll(1, 0)[backed], spread=0.8)
        level_db = augment.uniform((count,), settings.level_low_db, settings.level_high_db, device)
        silent = torch.rand(count, device=device)
        vocals = vocals * (silent >= settings.silent_voice)[:, None, None]
        band = band * (silent < 1 - settings.silent_band)[:, None, None]
        mono = augment.chance(count, 0.12, device)[:, None, None]
        vocals, band = (torch.where(mono, stem.mean(1, keepdim=True), stem) for stem in (vocals, band))
        return self._level(vocals, band, level_db, 10.0)

    def _sung_otherwise(self, voice: Tensor) -> Tensor:
        """Some of the voices (B, n) whispered or breathy, some sliding or trembling in pitch: what the rendered singers do too little."""
        count, device, rate = len(voice), voice.device, self.config.sample_rate
        whispered = augment.chance(count, 0.2, device)
        if whispered.any():
            share = augment.uniform((int(whispered.sum()),), 0.2, 1.0, device)
            voice = voice.index_put((whispered,), augment.whisper(voice[whispered], rate, share))
        swaying = augment.chance(count, 0.3, device)
        if swaying.any():
            number = int(swaying.sum())
            rate_hz = augment.decibels(augment.uniform((number,), -10, 17, device))  # 0.3 to 7 Hz
            semitones = augment.uniform((number,), 0.2, 2.0, device)
            voice = voice.index_put((swaying,), augment.sway(voice[swaying], rate, semitones, rate_hz))
        return voice

    def _place(self, voice: Tensor, spread: float) -> Tensor:
        """A mono voice in a random stereo room: (B, n) -> (B, 2, n), doubled and distorted now and then."""
        count, device, rate = len(voice), voice.device, self.config.sample_rate
        wet = augment.decibels(augment.uniform((count,), -26, -4, device)) * augment.chance(count, 0.65, device)
        double = augment.decibels(augment.uniform((count,), -14, -1, device)) * augment.chance(count, 0.25, device)
        pan = torch.randn(count, device=device).mul(spread).clamp(-1, 1) * augment.chance(count, 0.35, device)
        voice = augment.distort(voice, augment.uniform((count,), 0.2, 3.0, device) * augment.chance(count, 0.15, device))
        wide = augment.decibels(augment.uniform((count,), -10, 8, device)) * augment.chance(count, self.tunables.wide, device)
        slope_db = augment.uniform((count,), -1, self.tunables.tilt_db, device) * augment.chance(count, 2 / 3, device)
        tone = augment.tone_curve(count, 33, rate, 3.0, device) * augment.tilt(33, rate, slope_db)
        return augment.convolve(augment.widen(voice, rate, wide), augment.impulse(count, rate, device, wet, double, pan), tone)

    def _level(self, vocals: Tensor, band: Tensor, level_db: Tensor, play_db: float) -> tuple[Tensor, Tensor]:
        """Set the voice `level_db` over the band and the mix near an RMS of 1, give or take `play_db`."""
        rate = self.config.sample_rate
        loud, band_loud = active_rms(vocals, rate), active_rms(band, rate)
        vocals = vocals * (augment.decibels(level_db) / loud * (loud > 1e-4))[:, None, None]
        band = band * (1 / band_loud * (band_loud > 1e-4))[:, None, None]
        overall = (active_rms(vocals + band, rate) / augment.decibels(augment.uniform(loud.shape, -play_db, play_db, loud.device)))[:, None, None]
        return vocals / overall, band / overall

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        return [ParamRule(r"bias|\.1\.weight|rows", decay=False)]

    def checkpoint_meta(self) -> dict[str, Any]:
        args = {"size": self.args.size, "crop_seconds": self.args.crop_seconds}
        return {"task": self.name, "args": args, "sample_rate": self.config.sample_rate, "real_music": bool(self.args.music_dir)}


class MusicLibrary:
    """Recordings of a folder as int16 stereo in memory (about 5.8 MB a minute at 24 kHz), drawn from by length."""

    def __init__(self, folder: Path, skip: tuple[str, ...], sample_rate: int):
        """
        Raises:
            ConfigError: no recording in the folder.
            AudioError: code `not_audio`: one that cannot be decoded; names it.
        """
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".opus", ".ogg", ".flac", ".wav", ".mp3"})
        files = [file for file in files if not file.name.startswith(skip)]
        if not files:
            raise ConfigError(f"music_dir '{folder}' holds no instrumental (.opus, .ogg, .flac, .wav, .mp3) beyond those of music_skip")
        self.pieces: list[np.ndarray] = []
        for file in files:
            with audio.opened(file) as source:
                wav, rate = source.read(dtype="float32", always_2d=True), source.samplerate
            wav = audio.resample(torch.from_numpy(wav.T[:2].copy()), rate, sample_rate).numpy().T
            wav = np.broadcast_to(wav, (len(wav), 2))
            self.pieces.append((wav.T.clip(-1, 1) * 32767).astype(np.int16))
        self._ends = np.cumsum([piece.shape[1] for piece in self.pieces])

    def crop(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        """A random (2, samples) float32 crop; quiet ones are drawn again, up to four times."""
        crop = self._any_crop(samples, rng)
        for _ in range(3):
            if crop.std() > 0.005:
                break
            crop = self._any_crop(samples, rng)
        return np.pad(crop, ((0, 0), (0, samples - crop.shape[1])))

    def _any_crop(self, samples: int, rng: np.random.Generator) -> np.ndarray:
        piece = self.pieces[int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))]
        start = int(rng.integers(max(1, piece.shape[1] - samples)))
        return piece[:, start : start + samples].astype(np.float32) / 32768


def read_crop(data: bytes, start: int, samples: int, sample_rate: int) -> np.ndarray:
    """`samples` samples from `start` of an encoded file, padded with zeros after its end: float32 (C, samples).

    Raises:
        DataError: another sample rate. AudioError: code `not_audio`: it cannot be decoded.
    """
    with audio.opened(data) as file:
        if file.samplerate != sample_rate:
            raise DataError(f"a song is at {file.samplerate} Hz where {sample_rate} Hz is needed; render it again")
        file.seek(min(start, file.frames))
        wav = file.read(samples, dtype="float32", always_2d=True).T
    return np.pad(wav, ((0, 0), (0, samples - wav.shape[1])))


def stored_frames(data: bytes) -> int:
    """Samples a channel of an encoded file, by its header.

    Raises:
        AudioError: code `not_audio`: it cannot be decoded.
    """
    with audio.opened(data) as file:
        return file.frames


def loud_crop(data: bytes, samples: int, sample_rate: int, rng: np.random.Generator, tries: int = 4) -> tuple[np.ndarray, int]:
    """A random crop of an encoded file that is not silence (best of `tries`), float32 (C, samples), and where it starts."""
    frames = stored_frames(data)
    best: tuple[np.ndarray, int] | None = None
    for _ in range(tries):
        start = int(rng.integers(max(1, frames - samples + 1)))
        crop = read_crop(data, start, samples, sample_rate)
        if best is None or crop.std() > best[0].std():
            best = crop, start
        if (np.abs(crop[0]) > 0.01).mean() > 0.3:
            return crop, start
    assert best is not None
    return best


TASK = SeparatorTask
