"""Learn the filter behind the vocoder (postfilter.py): voices that were coded, synthesised and filtered are to sound like the originals.

Three listeners judge. Log-mel spectrograms of four resolutions, and the loudness; the inner states and the answers of a recogniser, which should hear in both
the same (a perceptual loss, Johnson et al. 2016); and critics that learn to tell filtered from real spectrograms (least-margin adversarial
training with feature matching as in Kumar et al. 2019, MelGAN), which are asked every few steps because they cost as much as all else.

Letters: B batch, n samples, T vocoder frames, J frames of a spectrogram, F bands.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from autosing.models.recogniser import Recogniser
from autosing.perception.codec.postfilter import PostFilter
from autosing.perception.codec.vocoder import Frames, VocoderConfig

SAMPLE_RATE = 24_000
RESOLUTIONS = ((256, 32), (512, 64), (1024, 100), (2048, 128))
"""(samples of a window, mel bands) of what spectrograms are compared in; a hop is a quarter of a window."""
CRITICS = ((512, 64), (1024, 96))
GRAIN = 8


@dataclass(frozen=True)
class FilterPlan:
    """How long and how hard to learn.

    Attributes:
        steps, batch: crops a step.
        crop: vocoder frames a crop.
        learning_rate: the highest; rises over 50 steps, stays for half of the steps and falls to nothing. The critics' is half of it.
        level_db: deviation of the levels at which crops are heard.
        loudness: weight of the loudness of every tenth of a second, against the spectrograms'.
        hearing: weight of what the recogniser makes of it, against the spectrograms'.
        critics: weight of what the critics say, in steps in which they are asked.
        critics_from, critics_every: the step from which they are, and how often.
        held_back: songs for measuring.
    """

    steps: int = 2500
    batch: int = 6
    crop: int = 192
    learning_rate: float = 1e-3
    level_db: float = 5.0
    loudness: float = 0.25
    hearing: float = 2.5
    critics: float = 0.2
    critics_from: int = 150
    critics_every: int = 3
    held_back: int = 8
    seed: int = 0


class Pair(NamedTuple):
    """(T * hop,) `original` and `synthesised`, of (B = 1) `frames`."""

    original: Tensor
    synthesised: Tensor
    frames: Frames


class Batch(NamedTuple):
    original: Tensor
    synthesised: Tensor
    frames: Frames
    noise: Tensor


class LogMel(nn.Module):
    """(B, n) -> (B, J, F) log-mel spectrogram."""

    window: Tensor
    mel: Tensor

    def __init__(self, size: int, bands: int):
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        bank = melscale_fbanks(size // 2 + 1, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE, norm="slaney")
        self.register_buffer("mel", bank, persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        spectrum = torch.stft(wave, self.size, self.size // 4, window=self.window, return_complex=True)
        return torch.log(spectrum.abs().square().transpose(1, 2) @ self.mel + 1e-6)


class Critic(nn.Module):
    """(B, n) -> scores of patches of the log-mel spectrogram, high = real, and what its layers see."""

    def __init__(self, size: int, bands: int, channels: int = 24):
        super().__init__()
        self.spectra = LogMel(size, bands)
        shapes = ((1, channels, 5, (1, 2)), (channels, channels, 5, 2), (channels, 2 * channels, 5, 2), (2 * channels, 2 * channels, 3, 1))
        normed = nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(normed(nn.Conv2d(i, o, k, stride, padding=k // 2)) for i, o, k, stride in shapes)
        self.score = normed(nn.Conv2d(2 * channels, 1, 3, padding=1))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = (self.spectra(wave)[:, None] + 5) / 4
        seen = []
        for layer in self.layers:
            x = nnf.leaky_relu(layer(x), 0.1)
            seen.append(x)
        return self.score(x), seen


class Listeners(nn.Module):
    """How far (B, n) voices are from the originals: by spectrograms, and by the recogniser, which stays as it is."""

    def __init__(self, recogniser: Recogniser):
        super().__init__()
        self.recogniser = recogniser.requires_grad_(False)
        self.spectra = nn.ModuleList(LogMel(*shape) for shape in RESOLUTIONS)

    def distances(self, made: Tensor, original: Tensor) -> dict[str, Tensor]:
        """`mel`: mean difference of log-mel power in nepers; `states`: relative difference of the recogniser's states; `phones`: nats by which
        it hears other phones; `loudness`: mean difference in nepers of the power of every tenth of a second."""
        mel = torch.stack([(of(made) - of(original)).abs().mean() for of in self.spectra]).mean()
        with torch.no_grad():
            wanted, truth = self._heard(original)
        states, answer = self._heard(made)
        apart = [(mine - theirs).abs().mean() / theirs.abs().mean() for mine, theirs in zip(states, wanted, strict=True)]
        loudness = (_loudness(made) - _loudness(original)).abs().mean()
        return {"mel": mel, "loudness": loudness, "states": torch.stack(apart).mean(), "phones": (truth.exp() * (truth - answer)).sum(-1).mean()}

    def _heard(self, wave: Tensor) -> tuple[list[Tensor], Tensor]:
        net = self.recogniser
        *states, last = net.layers(net.heard(wave))
        return states, net.frame_head(last).log_softmax(-1)


def _loudness(wave: Tensor) -> Tensor:
    """(B, n) -> (B, tenths of a second, about) natural log of power."""
    return torch.log(nnf.avg_pool1d(wave.square()[:, None], 2048, 512) + 1e-6)


def draw(pairs: Sequence[Pair], plan: FilterPlan, generator: torch.Generator) -> Batch:
    """Crops of random songs, at random levels."""
    rows = []
    for number in torch.randint(len(pairs), (plan.batch,), generator=generator).tolist():
        pair = pairs[number]
        last = (pair.frames.voiced.shape[1] - plan.crop) // GRAIN
        crop = _crop(pair, int(torch.randint(last + 1, (1,), generator=generator)) * GRAIN, plan.crop)
        rows.append(_louder(crop, plan.level_db * float(torch.randn((), generator=generator))))
    return _batch(rows, generator)


def _crop(pair: Pair, first: int, count: int) -> Pair:
    hop = len(pair.original) // pair.frames.voiced.shape[1]
    samples = slice(first * hop, (first + count) * hop)
    return Pair(pair.original[samples], pair.synthesised[samples], pair.frames.cut(slice(first, first + count)))


def _louder(pair: Pair, gain_db: float) -> Pair:
    gain = 10 ** (gain_db / 20)
    cepstra = pair.frames.cepstra.clone()
    cepstra[..., 0] += 2 * math.log(gain) * math.sqrt(VocoderConfig.mel_points)  # the mean of log power, times the root of their number
    return Pair(pair.original * gain, pair.synthesised * gain, replace(pair.frames, cepstra=cepstra))


def _batch(rows: Sequence[Pair], generator: torch.Generator) -> Batch:
    original, synthesised = torch.stack([row.original for row in rows]), torch.stack([row.synthesised for row in rows])
    frames = Frames.join([row.frames for row in rows], 0)
    return Batch(original, synthesised, frames, torch.randn(original.shape, generator=generator))


def learn_filter(
    net: PostFilter, pairs: Sequence[Pair], recogniser: Recogniser, plan: FilterPlan, watch: Callable[[range], Iterable[int]] = iter
) -> dict[str, dict[str, float]]:
    """Teach `net`; it ends as the moving average of what it was.

    Args:
        pairs: songs, each at least `plan.crop` frames long; the first `plan.held_back` are for measuring alone.
        watch: what goes over the steps; a progress bar, or `iter`.

    Returns:
        Distances of the held-back songs, `before` (nothing filtered) and `after`.
    """
    torch.manual_seed(plan.seed)
    listeners, critics = Listeners(recogniser), nn.ModuleList(Critic(*shape) for shape in CRITICS)
    average = {name: value.clone() for name, value in net.state_dict().items()}
    learner = torch.optim.AdamW(net.parameters(), plan.learning_rate, betas=(0.8, 0.99))
    teacher = torch.optim.AdamW(critics.parameters(), plan.learning_rate / 2, betas=(0.8, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(learner, lambda step: min(1.0, (step + 1) / 50, 2 * (1 - step / plan.steps) + 0.01))
    generator = torch.Generator().manual_seed(plan.seed)
    taught = pairs[plan.held_back :] or pairs
    net.train()
    for step in watch(range(plan.steps)):
        batch = draw(taught, plan, generator)
        made = net(batch.synthesised, batch.frames, batch.noise)
        asked = plan.critics and step >= plan.critics_from and step % plan.critics_every == 0
        if asked:
            loss = torch.stack([_margin(critic, made.detach(), batch.original) for critic in critics]).sum()
            teacher.zero_grad()
            loss.backward()
            teacher.step()
        apart = listeners.distances(made, batch.original)
        loss = apart["mel"] + plan.loudness * apart["loudness"] + plan.hearing * (apart["states"] + apart["phones"])
        if asked:
            loss = loss + plan.critics * _pleased(critics.requires_grad_(False), made, batch.original)
            critics.requires_grad_(True)
        learner.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        learner.step()
        schedule.step()
        for name, value in net.state_dict().items():
            average[name].lerp_(value, 0.01 if step >= 100 else 0.1)
    net.load_state_dict(average)
    net.eval()
    held = pairs[: plan.held_back] or pairs
    return {"before": _measure(None, held, listeners, plan), "after": _measure(net, held, listeners, plan)}


def _margin(critic: nn.Module, made: Tensor, original: Tensor) -> Tensor:
    return nnf.relu(1 - critic(original)[0]).mean() + nnf.relu(1 + critic(made)[0]).mean()


def _pleased(critics: Any, made: Tensor, original: Tensor) -> Tensor:
    losses = []
    for critic in critics:
        score, seen = critic(made)
        with torch.no_grad():
            _, wanted = critic(original)
        matched = torch.stack([(mine - theirs).abs().mean() for mine, theirs in zip(seen, wanted, strict=True)]).mean()
        losses.append(2 * matched - score.mean())
    return torch.stack(losses).mean()


@torch.no_grad()
def _measure(net: PostFilter | None, pairs: Sequence[Pair], listeners: Listeners, plan: FilterPlan) -> dict[str, float]:
    sums: dict[str, float] = {}
    generator = torch.Generator().manual_seed(plan.seed)
    for pair in pairs:
        batch = _batch([_crop(pair, 0, plan.crop)], generator)
        made = batch.synthesised if net is None else net(batch.synthesised, batch.frames, batch.noise)
        for name, value in listeners.distances(made, batch.original).items():
            sums[name] = sums.get(name, 0.0) + float(value) / len(pairs)
    return {name: round(value, 4) for name, value in sums.items()}
