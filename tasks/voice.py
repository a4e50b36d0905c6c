"""Train the built-in voice embedder: tell singers apart over songs, words, notes and rooms.

An example is a few crops of one row. Every crop is also a class of its singer at its playing speed: sound played faster or slower is
another, unheard singer. Classes are hashed names, so no list of singers has to be known; loss: additive-margin softmax (Wang, Cheng, Liu, Liu,
"Additive Margin Softmax for Face Verification", 2018, equation 6). Leaking bands, rooms, tone and noise are laid over the crops in `losses`.
Letters: B batch, P crops a row, n samples, D width.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autosing.config import require_at_least, require_fields, require_shares
from autosing.errors import MismatchError
from autosing.models.separator import active_rms
from autosing.models.voice import SIZES, VoiceNet
from autosing.song import audio
from autosing.tokens.specs import Seconds
from autosing.training import augment
from autosing.training.task import Batch, DatasetMeta, Losses, OptimTunables, ParamRule, Row
from tasks.separator import loud_crop, read_crop, stored_frames

NO_HEAD = "a shipped voice embedder has no head to train; start from a run's own checkpoint, or anew"


@dataclass(frozen=True)
class VoiceArgs:
    """
    Attributes:
        size: a row of models.voice.SIZES.
        shortest_seconds, longest_seconds: crops are cut to one length between them a batch.
        shortest_row_seconds: rows with less voice than this are passed over.
        crops: crops an example takes from one row.
        speeds: playing speeds; each makes a singer of its own.
        classes: buckets singers are hashed to; far more than there are, so that hardly two share one.
    """

    size: str = "base"
    shortest_seconds: Seconds = 2.5
    longest_seconds: Seconds = 4.0
    shortest_row_seconds: Seconds = 3.5
    crops: int = 3
    speeds: tuple[float, ...] = (1.0, 1.0, 0.9, 1.11)
    classes: int = 16_384

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"no voice size '{self.size}'; choose one of: {', '.join(SIZES)}")
        require_at_least(self, 0.1, "shortest_seconds")
        require_at_least(self, self.shortest_seconds, "longest_seconds")
        require_at_least(self, 1, "crops", "classes")
        require_fields(self, "above 0 each", lambda speeds: min(speeds, default=0.0) > 0, "speeds")


@dataclass(frozen=True)
class VoiceTunables(OptimTunables):
    """
    Attributes:
        scale, margin: of the additive-margin softmax.
        leak: share of crops with a band under the voice; `leak_low_db` to `leak_high_db` is how far under.
    """

    lr0: float = 2e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 40
    clip_gradient_norm: float = 2.0
    beta2: float = 0.98
    scale: float = 24.0
    margin: float = 0.15
    leak: float = 0.6
    leak_low_db: float = 5.0
    leak_high_db: float = 25.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_shares(self, "leak")


class VoiceTask:
    """Rows with `artist` and vocals -> a trained `VoiceNet` (with its training head; `shipped()` drops it)."""

    name: ClassVar[str] = "voice"
    Args: ClassVar[type] = VoiceArgs
    Tunables: ClassVar[type] = VoiceTunables
    parts: tuple[str, ...] = ("songs",)
    columns: tuple[str, ...] = ("id", "artist", "vocals", "accompaniment")

    def __init__(self, args: VoiceArgs, tunables: VoiceTunables, meta: DatasetMeta):
        self.args, self.tunables, self.meta = args, tunables, meta
        self.config = dataclasses.replace(SIZES[args.size], classes=args.classes)
        self.samples = int(args.longest_seconds * self.config.sample_rate)

    def example(self, row: Row, rng: np.random.Generator) -> Batch | None:
        """-> voice (P, n), band (n,) mono (zeros where there is none), singer (P,) int64; None for a row without artist, short or silent."""
        rate = self.config.sample_rate
        if not row["artist"] or stored_frames(row["vocals"]) < self.args.shortest_row_seconds * rate:
            return None
        voices, singers = [], []
        band = np.zeros(self.samples, np.float32)
        for _ in range(self.args.crops):
            speed = float(rng.choice(self.args.speeds))
            voice, start = loud_crop(row["vocals"], int(np.ceil(self.samples * speed)), rate, rng)
            if np.abs(voice).max() < 1e-3:
                return None
            if row["accompaniment"]:
                band = read_crop(row["accompaniment"], start, self.samples, rate).mean(0)
            sound = voice[0] if speed == 1.0 else audio.resample(torch.from_numpy(voice[0]), round(rate * speed), rate).numpy()
            voices.append(np.pad(sound, (0, max(0, self.samples - len(sound))))[: self.samples])
            singers.append(singer_class(f"{row['artist']} x {speed}", self.args.classes))
        return {"voice": torch.from_numpy(np.stack(voices)), "band": torch.from_numpy(band), "singer": torch.tensor(singers)}

    def build_model(self) -> nn.Module:
        return VoiceNet(self.config)

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        voice, singer = batch["voice"].flatten(0, 1).float(), batch["singer"].flatten()
        band = batch["band"].float()
        if model.training:
            with torch.no_grad():
                voice = self.heard(voice, band)
        embedding = model(voice)
        head = model.head
        if not isinstance(head, Tensor):
            raise MismatchError(NO_HEAD)
        cosine = embedding @ functional.normalize(head, dim=-1).T
        margin = self.tunables.margin if model.training else 0.0
        logits = self.tunables.scale * (cosine - margin * functional.one_hot(singer, cosine.shape[-1]))
        loss = functional.cross_entropy(logits, singer)
        with torch.no_grad():
            same = singer[:, None] == singer[None]
            alike = embedding @ embedding.T
            apart = ~torch.eye(len(singer), dtype=torch.bool, device=singer.device)
            metrics = {
                "accuracy": (cosine.argmax(-1) == singer).float().mean(),
                "cosine_same": (alike * (same & apart)).sum() / (same & apart).sum().clamp_min(1),
                "cosine_different": (alike * ~same).sum() / (~same).sum().clamp_min(1),
            }
        return Losses(loss, {"softmax": loss.detach()}, metrics)

    def heard(self, voice: Tensor, band: Tensor) -> Tensor:
        """Voices as they come out of recordings and separators: (B, n) with bands (B / P, n) of the rows -> (B, m), m <= n."""
        count, device, rate, settings = len(voice), voice.device, self.config.sample_rate, self.tunables
        step = rate // 4  # few different lengths: each costs the convolutions a new plan
        cut = int((self.args.longest_seconds - self.args.shortest_seconds) * rate) // step
        length = self.samples - step * int(torch.randint(cut + 1, (1,)))
        voice = voice[:, :length]
        voice = voice / active_rms(voice, rate)[:, None]
        wet = augment.decibels(augment.uniform((count,), -26, -8, device)) * augment.chance(count, 0.5, device)
        double = augment.decibels(augment.uniform((count,), -14, -4, device)) * augment.chance(count, 0.15, device)
        room = augment.impulse(count, rate, device, wet, double, torch.zeros(count, device=device))[:, :1]
        voice = augment.convolve(voice[:, None], room, augment.tone_curve(count, 33, rate, 2.5, device))[:, 0]
        other = torch.randint(len(band), (count,), device=device)
        leak = band[other, :length]
        leak = leak / active_rms(leak, rate)[:, None] * (leak.abs().amax(-1) > 1e-3)[:, None]
        under = augment.decibels(-augment.uniform((count,), settings.leak_low_db, settings.leak_high_db, device))
        voice = voice + leak * (under * augment.chance(count, settings.leak, device))[:, None]
        noise = augment.decibels(augment.uniform((count, 1), -70, -30, device))
        return voice + noise * torch.randn_like(voice)

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        return [ParamRule(r"^head$", decay=False), ParamRule(r"bias|\.1\.weight|\.4\.weight", decay=False)]

    @staticmethod
    def args_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a checkpoint was trained with; its config tells the number of classes.

        Raises:
            MismatchError: it has no head.
        """
        classes = checkpoint["config"].get("classes", 0)
        if not classes:
            raise MismatchError(NO_HEAD)
        return {**checkpoint.get("meta", {}).get("args", {}), "classes": classes}

    def checkpoint_meta(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "args": {"size": self.args.size, "speeds": list(self.args.speeds)},
            "sample_rate": self.config.sample_rate,
            "width": self.config.width,
        }


def singer_class(name: str, classes: int) -> int:
    """The bucket of a singer's name; the same in every process and run."""
    return zlib.crc32(name.encode()) % classes


TASK = VoiceTask
