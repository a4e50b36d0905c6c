"""Learn what levels 2 and 3 of the embedded codec say: a vector-quantised autoencoder over vocoder features, judged by a reader of phones.

The features around a frame go through the encoders, two codes and the decoder back to features (van den Oord, Vinyals, Kavukcuoglu 2017,
codebooks as moving averages). What counts is the distance in the features, how they move, and above all what a small network that reads
phones off true features makes of the decoded ones: its answers and its inner states. That reader is taught here first, by what a
recogniser hears in the audio. The draft that the decoder makes without level 3 is judged alike, with less weight, so that level 2 alone
already tells the phone and so that singing survives poor codes of level 3.

Letters: T frames, M cepstra, A aperiodicity bands, Z latents, K codes a level, C phone classes, B batch, F frames of a crop.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autosing.nn.convnext import ConvNeXtStack
from autosing.perception.codec.builtin import F0_REFERENCE_HZ, STATE_SCALE, VoiceBooks
from autosing.perception.codec.quantise import kmeans, nearest
from autosing.perception.codec.vocoder import Frames

GRAIN = 8
HELD_BACK = 12  # one part in so many is for measuring


@dataclass(frozen=True)
class Plan:
    """How long and how hard to learn.

    Attributes:
        reader_steps, free_steps, steps: of the reader of phones; of the autoencoder before anything is quantised; after that.
        batch, crop: crops a step, frames a crop (a multiple of 8).
        learning_rate: the highest; rises over 50 steps, falls as a cosine.
        reading: weight of what the reader makes of the decoded features.
        draft: weight of all that is asked of the draft.
        decay: of the codebooks' moving averages, a step.
    """

    reader_steps: int = 1000
    free_steps: int = 300
    steps: int = 2900
    batch: int = 8
    crop: int = 256
    learning_rate: float = 2e-3
    reading: float = 15.0
    draft: float = 0.3
    decay: float = 0.99
    seed: int = 0


class Material:
    """Features of many songs one behind the other as the networks see them, and (T, C) what a recogniser heard; crops of both."""

    def __init__(self, books: VoiceBooks, frames: Frames, phones: Tensor):
        cepstra = frames.cepstra[0]
        state, activity = books.state(cepstra), books.activity(cepstra)
        code0 = nearest(books.context(state, activity), books.book0)
        self.columns = {
            "state": state, "context": books.unpack_context(code0), "noise": books.noise(frames.aperiodicity_db[0]),
            "voiced": frames.voiced[0].float()[:, None], "octaves": torch.log2(frames.f0_hz[0] / F0_REFERENCE_HZ)[:, None],
            "activity": activity[:, None], "phones": phones,
        }  # fmt: skip
        self.length = len(state)
        self.held_back = self.length // HELD_BACK // GRAIN * GRAIN

    def at(self, first: Tensor | list[int], crop: int) -> dict[str, Tensor]:
        """(B, F, ...) of each column, crops that start at frames `first`."""
        return {name: torch.stack([column[f : f + crop] for f in first]) for name, column in self.columns.items()}

    def draw(self, plan: Plan, generator: torch.Generator) -> dict[str, Tensor]:
        low, high = self.held_back // GRAIN, (self.length - plan.crop) // GRAIN
        return self.at(torch.randint(low, high + 1, (plan.batch,), generator=generator) * GRAIN, plan.crop)

    def measured(self, plan: Plan) -> Iterator[dict[str, Tensor]]:
        """The held-back part, batch by batch, once."""
        starts = list(range(0, self.held_back - plan.crop + 1, plan.crop))
        for first in range(0, len(starts), plan.batch):
            yield self.at(starts[first : first + plan.batch], plan.crop)


def seen_by_reader(state: Tensor, voiced: Tensor) -> Tensor:
    return torch.cat([state / STATE_SCALE, voiced], -1)


def _schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * max(0.02, 0.5 * (1 + math.cos(math.pi * step / steps)))
    )


Watch = Callable[[range], Iterable[int]]
"""What goes over the steps; a progress bar, or `iter`."""


def learn_reader(material: Material, plan: Plan, watch: Watch = iter) -> ConvNeXtStack:
    """A network that reads phones off features: (B, F, M + 1) -> logits (B, F, C). Frozen, in eval mode."""
    width = material.columns["state"].shape[1]
    torch.manual_seed(plan.seed)
    reader = ConvNeXtStack(width + 1, 128, material.columns["phones"].shape[1], 9, (1, 2, 2), dropout=0.1)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=plan.learning_rate, weight_decay=0.02)
    schedule, generator = _schedule(optimizer, plan.reader_steps), torch.Generator().manual_seed(plan.seed)
    tone = torch.full((width,), 0.5)
    tone[:4] = torch.tensor([4.0, 2.0, 1.5, 1.0])
    for _ in watch(range(plan.reader_steps)):
        batch = material.draw(plan, generator)
        state = batch["state"]  # another tone a crop, and noise: the reader is to go by the phone, not by the recording
        other = torch.randn(len(state), 1, width, generator=generator) * tone + 0.6 * torch.randn(state.shape, generator=generator)
        logits = reader(seen_by_reader(state + other, batch["voiced"]))
        loss = -(batch["phones"] * logits.log_softmax(-1)).sum(-1).mean()
        _step(loss, reader, optimizer, schedule)
    return reader.eval().requires_grad_(False)


def _step(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


class MovingBook:
    """A codebook as moving averages of what its codes stood for; a code that nothing chooses moves to a point that was seen."""

    def __init__(self, book: Tensor, decay: float, generator: torch.Generator):
        self.book, self.decay, self.generator = book, decay, generator
        self.mass, self.total = torch.ones(len(book)), book.clone()

    def follow(self, codes: Tensor, points: Tensor) -> None:
        """(N,), (N, Z): what was coded in this step."""
        counts = torch.zeros(len(self.book)).index_add_(0, codes, torch.ones(len(codes)))
        sums = torch.zeros_like(self.book).index_add_(0, codes, points)
        self.mass.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.total.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        self.book.copy_(self.total / self.mass.clamp(min=1e-3)[:, None])
        dead = (self.mass < 0.02).nonzero()[:, 0]
        if len(dead) and len(points):
            seen = points[torch.randint(len(points), (len(dead),), generator=self.generator)]
            self.book[dead], self.mass[dead], self.total[dead] = seen, 0.3, seen * 0.3


def distances(reader: ConvNeXtStack, batch: dict[str, Tensor], state: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Decoded features against the true ones, each a number: `spectrum`, `movement`, `noise`, and by the reader `phones` (Kullback-Leibler
    divergence in nats) and `states`."""
    weight, voiced = batch["activity"], batch["voiced"]
    error = state - batch["state"]
    moved = error[:, 1:] - error[:, :-1]
    sung = weight * voiced
    with torch.no_grad():
        true_states = reader.states(seen_by_reader(batch["state"], voiced))
        truth = reader.read(true_states[-1]).log_softmax(-1)
    states = reader.states(seen_by_reader(state, voiced))
    answer = reader.read(states[-1]).log_softmax(-1)
    return {
        "spectrum": (error.square() * weight).sum() / weight.sum() / error.shape[-1],
        "movement": (moved.square() * weight[:, 1:]).sum() / weight.sum() / error.shape[-1],
        "noise": ((noise - batch["noise"]).square() * sung).sum() / sung.sum().clamp(min=1.0) / noise.shape[-1],
        "phones": (truth.exp() * (truth - answer)).sum(-1).mean(),
        "states": torch.stack([(a - b).square().mean() / b.square().mean() for a, b in zip(states, true_states, strict=True)]).mean(),
    }


def learn(books: VoiceBooks, material: Material, plan: Plan, watch: Watch = iter, fresh: bool = True) -> dict[str, float]:
    """Fill the encoders, the decoder and the books of levels 2 and 3; returns `distances` over the held-back part.

    Levels 0 and 1 must be there; unless `fresh`, so must all the rest, and is learnt on. Same material, plan and machine: same result.
    """
    reader = learn_reader(material, plan, watch)
    torch.manual_seed(plan.seed + 1)
    nets = nn.ModuleList([books.encoder, books.detail, books.decoder])
    for module in nets.modules():
        if fresh and isinstance(module, nn.Linear | nn.Conv1d):
            module.reset_parameters()
    free = plan.free_steps if fresh else 0
    optimizer = torch.optim.AdamW(nets.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = _schedule(optimizer, free + plan.steps)
    generator = torch.Generator().manual_seed(plan.seed + 1)
    coder = Coder(books)
    for step in watch(range(free + plan.steps)):
        if step == free:
            if fresh:
                coder.first_books(material, plan, generator)
            coder.quantise(plan.decay, generator)
        batch = material.draw(plan, generator)
        coded = coder(batch)
        loss = coded.loss
        for weight, spectrum in ((1.0, coded.final), (plan.draft, coded.draft)):
            found = distances(reader, batch, *spectrum)
            loss = loss + weight * (found["spectrum"] + 0.3 * found["movement"] + 0.3 * found["noise"])
            loss = loss + weight * plan.reading * (found["phones"] + found["states"])
        _step(loss, nets, optimizer, schedule)
    coder.followers = []
    with torch.no_grad():
        parts = [distances(reader, batch, *coder(batch).final) for batch in material.measured(plan)]
    return {name: round(float(torch.stack([part[name] for part in parts]).mean()), 4) for name in parts[0]} if parts else {}


class Coded(NamedTuple):
    """State (B, F, M) and noise (B, F, A) read off levels 0 to 2, and off all; what keeps latents near their codes."""

    draft: tuple[Tensor, Tensor]
    final: tuple[Tensor, Tensor]
    loss: Tensor


class Coder:
    """A batch of features through levels 2 and 3 and back, with gradients; as they are until `quantise`, then as codes."""

    def __init__(self, books: VoiceBooks):
        self.books = books
        self.quantises = False
        self.followers: list[MovingBook] = []  # of level 2, of level 3 voiced, and unvoiced

    def __call__(self, batch: dict[str, Tensor]) -> Coded:
        pairs, loss = self._coded(self._pairs(batch), None)
        pairs = pairs.repeat_interleave(2, -2)
        draft = self._read(batch, pairs, torch.zeros_like(pairs))
        rest, more = self._coded(self._rest(batch, draft), batch["voiced"])
        return Coded(draft, self._read(batch, pairs, rest), loss + more)

    def _pairs(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, F/2, Z) latents of level 2."""
        books = self.books
        return books.of_pairs(books.encoder(books.heard(batch["state"], batch["context"], batch["noise"], batch["voiced"])))

    def _rest(self, batch: dict[str, Tensor], draft: tuple[Tensor, Tensor]) -> Tensor:
        """(B, F, Z) latents of level 3, whose gradient does not reach the draft."""
        seen = draft[0].detach(), draft[1].detach()
        return self.books.detail(self.books.beside(batch["state"], batch["noise"], seen, batch["voiced"]))

    def _read(self, batch: dict[str, Tensor], pairs: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        told = self.books.told(batch["context"], pairs, rest, batch["voiced"], batch["octaves"])
        return self.books.spectrum(self.books.decoder(told), batch["context"])

    def _coded(self, latents: Tensor, voiced: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, F, Z) latents of level 2, or of level 3 with `voiced` (B, F, 1) -> what their codes stand for, with the gradient of the
        latents, and the loss; the books follow what they code."""
        if not self.quantises:
            return latents, 0.02 * latents.square().mean()
        points = latents.detach().flatten(0, -2)
        if voiced is None:
            codes = nearest(points, self.books.book2)
            vectors = self.books.book2[codes].reshape(latents.shape)
            if self.followers:
                self.followers[0].follow(codes, points)
        else:
            sung, cut = voiced.flatten() > 0.5, self.books.config.voiced_codes
            codes = self.books.code_rest(points, sung)
            vectors = self.books.book3[codes].reshape(latents.shape)
            if self.followers:
                self.followers[1].follow(codes[sung], points[sung])
                self.followers[2].follow(codes[~sung] - cut, points[~sung])
        return vectors + latents - latents.detach(), 0.25 * (latents - vectors).square().mean()

    def quantise(self, decay: float, generator: torch.Generator) -> None:
        """From now on latents are coded, and the books follow them."""
        books, cut = self.books, self.books.config.voiced_codes
        self.quantises = True
        self.followers = [MovingBook(book, decay, generator) for book in (books.book2, books.book3[:cut], books.book3[cut:])]

    @torch.no_grad()
    def first_books(self, material: Material, plan: Plan, generator: torch.Generator) -> None:
        """Books of levels 2 and 3 as k-means over the latents of nine batches."""
        books, cut = self.books, self.books.config.voiced_codes
        coarse, rest = [], []
        for _ in range(9):
            batch = material.draw(plan, generator)
            coarse.append(self._pairs(batch))
            pairs = coarse[-1].repeat_interleave(2, -2)
            rest.append(self._rest(batch, self._read(batch, pairs, torch.zeros_like(pairs))))
        fine = torch.cat(rest).flatten(0, 1)
        books.book2.copy_(kmeans(torch.cat(coarse).flatten(0, 1), len(books.book2), None, 8, plan.seed))
        books.book3[:cut].copy_(kmeans(fine, cut, None, 8, plan.seed + 1))
        books.book3[cut:].copy_(kmeans(fine, len(books.book3) - cut, None, 8, plan.seed + 2))
