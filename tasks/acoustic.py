"""Train the recogniser (autosing/models/recogniser.py) on songs and speech with known truth.

Rows are those of autosing.rendering (`songs.parquet`): vocals with phone times, or speech with its phone sequence alone. Rows with times learn
phones by frame cross-entropy; rows without learn by CTC and, from their own energy, where nobody speaks; with `self_align` they also learn
from the phone times that the model itself finds for their transcript (Viterbi), which wants a model that already reads speech.

Bands are paired with voices at random: `example` yields vocals and band apart, `losses` mixes them over the whole batch and disturbs the
result (autosing/nn/disturb.py). Letters: B rows, R crops a row, N = B R crops, n samples, F frames, P phones.

    python train.py --task_name acoustic --dataset-config '{"path": ["<songs>", "<speech>"]}' --batch-size 4
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from autosing.config import nearest, require_at_least, require_shares, to_mapping
from autosing.errors import ConfigError
from autosing.models.recogniser import BLANK, CLASS_OF, SILENCE, SIZES, Recogniser, RecogniserOutput
from autosing.nn.disturb import Disturbance, mix_batch, warp_formants
from autosing.perception.alignment.viterbi import best_path
from autosing.song import audio
from autosing.training import augment
from autosing.training.task import Batch, DatasetMeta, Losses, OptimTunables, ParamRule, Row

HIDDEN = -100
"""Frame label: nothing is known."""
SOUNDING = -1
"""Frame label: some phone, not known which."""
MAX_SPEED = 1.22
RATE, HOP = Recogniser.sample_rate, Recogniser.hop


@dataclass(frozen=True)
class AcousticArgs:
    """
    Attributes:
        size: a row of `autosing.models.recogniser.SIZES`.
        features: another front end than the size's (a row of `autosing.nn.spectra.FRONT_ENDS`).
        crop_seconds: length of a training example.
        crops: examples drawn from one row at a time (a row is costly to read).
        self_align: learn frame labels of speech from the model's own alignment.
        ctc_weight: of the CTC loss beside the frame loss.
        stereo: mix in two channels, for a recogniser that hears the sides too.
    """

    size: str = "base"
    features: str = ""
    crop_seconds: float = 6.0
    crops: int = 4
    self_align: bool = False
    ctc_weight: float = 0.3
    stereo: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 0.1, "crop_seconds")
        require_at_least(self, 1, "crops")
        require_at_least(self, 0, "ctc_weight")


@dataclass(frozen=True)
class AcousticTunables(OptimTunables):
    """`disturb` scales how often each disturbance happens (0 = clean); `voice_tone_db`, `dark` and `muted` are `Disturbance`'s.

    `warp` moves the formants of every example (`warp_formants`; 0 = not at all), which a front end of bands allows, not one of cepstra. Bands are
    played at a speed between 1 / `band_speed` and `band_speed`, whatever the voice's.
    """

    lr0: float = 2e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 60
    clip_gradient_norm: float = 1.0
    beta2: float = 0.98
    label_smoothing: float = 0.05
    disturb: float = 1.0
    voice_tone_db: float = 5.0
    dark: float = 0.0
    warp: float = 0.0
    band_speed: float = 1.0
    muted: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "label_smoothing", "dark", "muted")
        require_at_least(self, 1, "band_speed")
        require_at_least(self, 0, "disturb", "voice_tone_db", "warp")


class Acoustic:
    """See the module. Implements `autosing.training.task.Task`."""

    name: ClassVar[str] = "acoustic"
    model_kind: ClassVar[str] = "recogniser"
    Args: ClassVar[type] = AcousticArgs
    Tunables: ClassVar[type] = AcousticTunables
    parts: tuple[str, ...] = ("songs",)
    columns: tuple[str, ...] = ("id", "kind", "vocals", "accompaniment", "phones", "pron")

    def __init__(self, args: AcousticArgs, tunables: AcousticTunables, meta: DatasetMeta):
        self.args, self.tunables, self.meta = args, tunables, meta
        self.samples = round(args.crop_seconds * RATE) // HOP * HOP
        self.frames = self.samples // HOP

    @staticmethod
    def args_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a checkpoint's model; its config says what it hears, also of a mean of several runs."""
        return {**checkpoint.get("meta", {}).get("args", {}), "stereo": checkpoint["config"].get("stereo", False)}

    def example(self, row: Row, rng: np.random.Generator) -> Batch | None:
        """Crops of one row: vocals (R, n); band (R, 1, n), or (R, 2, n) in stereo; labels (R, F); phones (R, P) padded, their count and whether they are timed (R,)."""
        crops = []
        for _ in range(self.args.crops):
            crop = self._crop(row, rng)
            if crop is None:
                return None
            crops.append(crop)
        return {key: torch.from_numpy(np.stack([crop[key] for crop in crops])) for key in crops[0]}

    def _crop(self, row: Row, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
        phones = row.get("phones") or ()
        speed = float(np.exp(rng.uniform(-np.log(MAX_SPEED), np.log(MAX_SPEED))))  # > 1: faster, higher, a smaller head
        with audio.opened(row["vocals"]) as file:
            total = file.frames
            if not phones:  # the whole utterance must fit
                speed = max(speed, total / self.samples)
                if not row.get("pron") or speed > MAX_SPEED:
                    return None
            needed = int(self.samples * speed) + 1
            start = int(rng.integers(0, max(1, total - needed))) if phones else 0
            lead = 0 if phones else int(rng.integers(0, needed - total + 1))
            file.seek(start)
            vocals = augment.stretched(_padded(file.read(needed - lead, dtype="float32"), lead, needed), self.samples)
        seconds_at = start / RATE
        if phones:
            starts = (np.array([p["start"] for p in phones]) - seconds_at) / speed
            ends = (np.array([p["end"] for p in phones]) - seconds_at) / speed
            classes = np.array([CLASS_OF[p["phone"]] for p in phones])
            labels = frame_labels(starts, ends, classes, self.frames)
            middle = (starts + ends) / 2
            spoken = classes[(middle >= 0) & (middle < self.args.crop_seconds)]
        else:
            labels = energy_labels(vocals, self.frames)
            spoken = np.array([CLASS_OF[p] for p in row["pron"]])
        if len(spoken) > self.frames // 2:
            return None
        padded = np.zeros(self.frames // 2, dtype=np.int64)
        padded[: len(spoken)] = spoken
        return {
            "vocals": vocals,
            "band": self._band(row, start, rng),
            "labels": labels,
            "phones": padded,
            "phone_count": np.array(len(spoken)),
            "timed": np.array(bool(phones)),
        }

    def _band(self, row: Row, start: int, rng: np.random.Generator) -> np.ndarray:
        """(1, n), or (2, n) in stereo."""
        channels = 2 if self.args.stereo else 1
        if row.get("accompaniment") is None:
            return np.zeros((channels, self.samples), dtype=np.float32)
        widest = np.log(self.tunables.band_speed)
        needed = self.samples if not widest else round(self.samples * float(np.exp(rng.uniform(-widest, widest))))
        with audio.opened(row["accompaniment"]) as file:
            file.seek(min(start, max(0, file.frames - needed)))
            sound = file.read(needed, dtype="float32", always_2d=True).T
        if not self.args.stereo:
            sound = sound.mean(0, keepdims=True)
        sides = [_padded(side, 0, needed) for side in np.broadcast_to(sound, (channels, sound.shape[1]))]
        return augment.stretched(np.stack(sides), self.samples)

    def build_model(self) -> nn.Module:
        if self.args.size not in SIZES:
            raise ConfigError(f"acoustic has no size '{self.args.size}'{nearest(self.args.size, SIZES)}")
        config = SIZES[self.args.size]
        config = replace(config, features=self.args.features or config.features, stereo=self.args.stereo)
        if self.tunables.warp and config.features == "cepstrum":
            raise ConfigError("'warp' moves bands along the frequency axis, which cepstra do not have; set warp 0 or other features")
        return Recogniser(config)

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        batch = {key: value.flatten(0, 1) for key, value in batch.items()}  # (B, R, ...) -> (N, ...)
        drawn = self.tunables
        how = Disturbance(drawn.disturb, voice_tone_db=drawn.voice_tone_db, dark=drawn.dark, muted=drawn.muted)
        wav, muted = mix_batch(batch["vocals"], batch["band"], how)
        labels = torch.where(muted[:, None], SILENCE, batch["labels"])
        counts = torch.where(muted, 0, batch["phone_count"])
        out = self._hear(model, wav)
        log_frames = nnf.log_softmax(out.frames.float(), dim=-1)
        if self.args.self_align:
            labels = self_labels(log_frames.detach(), labels, batch["phones"], counts)
        frame = frame_loss(log_frames, labels, self.tunables.label_smoothing)
        ctc = ctc_loss(out.ctc.float(), batch["phones"], counts)
        with torch.no_grad():
            known, guess = labels >= 0, log_frames.argmax(-1)
            heard = labels != HIDDEN
            metrics = {
                "frame_accuracy": (guess == labels)[known].float().mean(),
                "activity_accuracy": ((guess != SILENCE) == (labels != SILENCE))[heard].float().mean(),
            }
        parts = {"frame": frame, "ctc": ctc}
        terms = ((frame, (known | (labels == SOUNDING)).sum()), (self.args.ctc_weight * ctc, (counts > 0).sum()))
        return Losses(frame + self.args.ctc_weight * ctc, {k: v.detach() for k, v in parts.items()}, metrics, terms)

    def _hear(self, model: Any, wav: Tensor) -> RecogniserOutput:
        if not (self.tunables.warp and model.training):
            return model(wav)
        return model.read(model.trunk(warp_formants(model.heard(wav), model.spectra.centres_hz(), self.tunables.warp)))

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        return [ParamRule(r"bias$|norm|scale$", decay=False), ParamRule("")]

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"task": self.name, "args": to_mapping(self.args)}


def frame_labels(starts: np.ndarray, ends: np.ndarray, classes: np.ndarray, frames: int) -> np.ndarray:
    """Phone intervals in seconds -> class of each frame (F,) int64: the phone that sounds at the frame's middle, else silence."""
    labels = np.full(frames, SILENCE, dtype=np.int64)
    first = np.clip(np.ceil(starts * Recogniser.frame_rate - 0.5), 0, frames).astype(int)
    last = np.clip(np.ceil(ends * Recogniser.frame_rate - 0.5), 0, frames).astype(int)
    for begin, end, value in zip(first, last, classes, strict=True):
        labels[begin:end] = value
    return labels


def energy_labels(vocals: np.ndarray, frames: int) -> np.ndarray:
    """Clean speech (n,) -> (F,) SILENCE below -45 dB of its loud frames, SOUNDING above -22 dB, HIDDEN between."""
    power = np.square(vocals[: frames * HOP].reshape(frames, HOP)).mean(1)
    level_db = 10 * np.log10(power / (np.quantile(power, 0.95) + 1e-9) + 1e-9)
    quiet_db = np.maximum(np.maximum(level_db, np.roll(level_db, 1)), np.roll(level_db, -1))
    return np.where(quiet_db < -45, SILENCE, np.where(level_db > -22, SOUNDING, HIDDEN)).astype(np.int64)


def frame_loss(log_frames: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy (N, F, C) against labels (N, F); SOUNDING frames are asked only not to be silent; HIDDEN ones nothing."""
    known, sounding = labels >= 0, labels == SOUNDING
    picked = log_frames.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    cross = -(1 - smoothing) * picked - smoothing * log_frames.mean(-1)
    not_silent = -torch.log1p(-log_frames[..., SILENCE].exp().clamp(max=1 - 1e-5))
    total = (cross * known).sum() + (not_silent * sounding).sum()
    return total / (known | sounding).sum().clamp(min=1)


def ctc_loss(logits: Tensor, phones: Tensor, counts: Tensor) -> Tensor:
    """Mean over the crops that hold phones of CTC per frame (N, F, C + 1) x 10, so that its size is that of the frame loss."""
    frames = logits.shape[1]
    log_probs = nnf.log_softmax(logits, dim=-1).transpose(0, 1)
    lengths = torch.full_like(counts, frames)
    each = nnf.ctc_loss(log_probs, phones, lengths, counts, blank=BLANK, reduction="none", zero_infinity=True)
    used = counts > 0
    return (each * used).sum() / used.sum().clamp(min=1) / frames * 10


def self_labels(log_frames: Tensor, labels: Tensor, phones: Tensor, counts: Tensor) -> Tensor:
    """Replace SOUNDING and HIDDEN labels of untimed crops by the model's own best path through their phones (silence optional)."""
    untimed = ((labels == SOUNDING).any(1) & (counts > 0)).nonzero()[:, 0].tolist()
    labels = labels.clone()
    for item in untimed:
        sequence = phones[item, : counts[item]].cpu().numpy()
        states = np.full(2 * len(sequence) + 1, SILENCE)
        states[1::2] = sequence
        optional = np.arange(len(states)) % 2 == 0
        path = best_path(log_frames[item].cpu().numpy(), states, optional)
        found = torch.from_numpy(states[path]).to(labels)
        labels[item] = torch.where(labels[item] == SILENCE, labels[item], found)
    return labels


def _padded(piece: np.ndarray, lead: int, length: int) -> np.ndarray:
    out = np.zeros(length, dtype=np.float32)
    piece = piece[: length - lead]
    out[lead : lead + len(piece)] = piece
    return out


TASK = Acoustic
