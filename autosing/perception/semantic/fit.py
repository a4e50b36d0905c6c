"""Fit the semantic codebook to rendered songs; no gradients, a few minutes.

    python -m autosing.perception.semantic.fit --songs songs/train --out autosing/weights/semantic

1. The recogniser hears each song twice: its clean vocals, and vocals with some of the band left in (or as `--separator` leaves them).
2. The directions of its features that tell phones apart best (linear discriminants) are found from the true phones.
3. Pairs of frames, as phone probabilities and those directions, are clustered by k-means. With `--like`, k-means starts from what an
   earlier tokenizer calls by the same number, so that codes keep their meaning and models can be trained on (`train.py --allow-changed`).
4. A linear read-out is fitted: which phone is truly sung in each half of a token, told from its code and its neighbours'.

A song table is `<songs>/<i>/songs.parquet` as `autosing.rendering` writes it; rows without vocals or phones are passed over.
"""

import argparse
import io
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from autosing.errors import AutoSingError, DataError
from autosing.models.io import CONFIG_FILE, MODEL_FILE, load_model, resolve, save_model
from autosing.models.recogniser import CLASS_OF, CLASSES, SILENCE, Recogniser
from autosing.models.semantic import SemanticCodebook, SemanticConfig, nearest_code, neighbourhood
from autosing.perception.semantic.builtin import BuiltinSemantic, checksum, recogniser_blocks
from autosing.perception.separation.base import Separator
from autosing.store import TableReader, song_places

RUN_TOKENS = 100
"""Length of the pieces that the read-out is fitted to, two a song."""
READ_OUT_DECAY = 1e-5

COLUMNS = ("id", "artist", "sample_rate", "vocals", "accompaniment", "phones")
F0 = "f0"  # a column that need not be there: float32 bytes


class LabelledSong(NamedTuple):
    """A song with truth: `vocals` (n,), `accompaniment` (2, n) or None, at `sample_rate`; `phones` are (phone, start, end) in seconds.

    `f0_hz`: (m,), 200 a second, 0 = unvoiced, or None.
    """

    id: str
    artist: str
    sample_rate: int
    vocals: np.ndarray
    accompaniment: np.ndarray | None
    phones: tuple[tuple[str, float, float], ...]
    f0_hz: np.ndarray | None = None

    def labels(self, frames: int, rate: int = Recogniser.frame_rate) -> np.ndarray:
        """(frames,) class of the phone sung in the middle of each frame; 0 = silence."""
        labels = np.full(frames, SILENCE, dtype=np.int64)
        for phone, start, end in self.phones:
            labels[max(0, math.ceil(start * rate - 0.5)) : max(0, math.ceil(end * rate - 0.5))] = CLASS_OF[phone]
        return labels


def list_songs(folder: Path, limit: int | None = None, seed: int = 0) -> list[tuple[Path, int]]:
    """(table, position of a row) of up to `limit` songs of `<folder>/<i>/songs.parquet`, drawn by `seed`, in the order they are stored.

    Raises:
        DataError: no tables, or a damaged one.
    """
    places = song_places(folder)
    if limit is not None and limit < len(places):
        places = [places[i] for i in np.sort(np.random.default_rng(seed).permutation(len(places))[:limit])]
    return places


def read_songs(places: Iterable[tuple[Path, int]]) -> Iterator[LabelledSong]:
    """The songs of `list_songs`, one held at a time; rows without vocals or phones are passed over.

    Raises:
        DataError: a damaged table.
    """
    for path, position in places:
        with TableReader(path) as table:
            row = table.row(position, [*COLUMNS, *([F0] if F0 in table.schema.names else [])])
        if row["vocals"] is not None and row["phones"]:
            yield _song(row)


def _song(row: dict) -> LabelledSong:
    import soundfile

    def samples(data: bytes) -> np.ndarray:
        return soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0].T

    band = None if row["accompaniment"] is None else samples(row["accompaniment"])
    phones = tuple((p["phone"], p["start"], p["end"]) for p in row["phones"])
    f0 = np.frombuffer(row[F0], "<f4") if row.get(F0) else None
    return LabelledSong(row["id"], row["artist"], row["sample_rate"], samples(row["vocals"]).mean(0), band, phones, f0)


def with_leakage(song: LabelledSong, separator: Separator | None, rng: np.random.Generator) -> np.ndarray:
    """(n,) the vocals as a separator leaves them; without a separator, the band 8 to 25 dB below its level in the mixture."""
    if song.accompaniment is None:
        return song.vocals
    if separator is not None:
        stems = separator.separate(torch.from_numpy(song.vocals + song.accompaniment))
        return stems.vocals.mean(0).cpu().numpy()
    return song.vocals + song.accompaniment.mean(0) * np.float32(10 ** (-rng.uniform(8, 25) / 20))


@dataclass(frozen=True)
class Pairs:
    """M pairs of frames: features (M, 2, D), phone scores (M, 2, C), true classes (M, 2)."""

    features: Tensor
    scores: Tensor
    labels: Tensor

    def some(self, chosen: Tensor | slice) -> "Pairs":
        """Those pairs alone, as float16."""
        return Pairs(self.features[chosen].half(), self.scores[chosen].half(), self.labels[chosen])


@torch.inference_mode()
def listen(recogniser: Recogniser, wav: np.ndarray, song: LabelledSong, device: torch.device) -> Pairs:
    """What the recogniser makes of `wav`, beside the truth of `song`.

    Raises:
        DataError: the song is shorter than a token.
    """
    blocks = recogniser_blocks(recogniser, torch.from_numpy(np.ascontiguousarray(wav)).to(device))
    if not blocks:
        raise DataError(f"song '{song.id}' is shorter than a token (40 ms); leave it out")
    features, scores = (torch.cat(parts).cpu() for parts in zip(*blocks, strict=True))
    count = len(features) // 2
    labels = torch.from_numpy(song.labels(2 * count))
    return Pairs(features.reshape(count, 2, -1), scores.reshape(count, 2, -1), labels.reshape(count, 2))


def discriminants(features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Fisher's linear discriminants: (M, D), (M,) -> (D, count) directions with unit variance within classes, best first.

    Fisher 1936: eigenvectors of (within + eps)^-1 between, solved by whitening.
    """
    features = features.double()
    mean = features.mean(0)
    width = features.shape[1]
    within, between = torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for label in labels.unique():
        members = features[labels == label]
        centre = members.mean(0)
        within += (members - centre).T @ (members - centre)
        between += len(members) * torch.outer(centre - mean, centre - mean)
    within, between = within / len(features), between / len(features)
    within += 1e-3 * within.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(within)
    whiten = vectors / values.sqrt()
    _, rotation = torch.linalg.eigh(whiten.T @ between @ whiten)
    return (whiten @ rotation.flip(1)[:, :count]).float()


def kmeans(points: Tensor, count: int, iterations: int, rng: np.random.Generator, start: Tensor | None = None) -> Tensor:
    """Centres (count, W) of (M, W) points: k-means++ seeding (Arthur & Vassilvitskii 2007) unless `start` is given, then Lloyd's steps.

    A centre that no point is nearest to moves to the point farthest from its own.

    Raises:
        DataError: fewer points than centres.
    """
    if len(points) < count:
        raise DataError(f"{len(points)} tokens are too few to fit {count} codes; give more songs")
    centres = spread_points(points, count, rng) if start is None else start
    for _ in range(iterations):
        nearest = nearest_code(points, centres)
        distance = (points - centres[nearest]).square().sum(1)
        centres, empty = means_by(nearest, points, count)
        centres[empty] = points[distance.topk(int(empty.sum())).indices]
    return centres


def spread_points(points: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """(count, W): some of (M, W) points, each drawn with a chance that grows with its squared distance from those before it."""
    sample = points[torch.from_numpy(rng.permutation(len(points))[: 60 * count])]
    chosen = sample[:1]
    distance = (sample - chosen).square().sum(1)
    for _ in range(count - 1):
        chances = distance.double().clamp(min=0) + 1e-12
        index = int(torch.searchsorted(chances.cumsum(0), rng.random() * float(chances.sum())).clamp(max=len(sample) - 1))
        chosen = torch.cat([chosen, sample[index : index + 1]])
        distance = torch.minimum(distance, (sample - sample[index]).square().sum(1))
    return chosen


def means_by(names: Tensor, points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(count, W): the mean of the (M, W) points of each name 0 to count - 1, given (M,); (count,) True where a name has none, and its mean is 0."""
    members = torch.bincount(names, minlength=count)
    sums = points.new_zeros(count, points.shape[1]).index_add_(0, names, points)
    return sums / members.clamp(min=1)[:, None], members == 0


def linear_classifier(points: Tensor, classes: Tensor, count: int, decay: float = 1e-2, steps: int = 200) -> Tensor:
    """Multinomial logistic regression by L-BFGS: (M, W), (M,) -> (W, count) weights; give a column of ones for a bias."""
    weights = torch.zeros(points.shape[1], count, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nnf.cross_entropy(points @ weights, classes) + decay * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def fit_read_out(codes: Tensor, runs: Sequence[tuple[Tensor, Tensor]], classes: int) -> Tensor:
    """Runs of (N,) tokens and (N, 2) true classes -> `SemanticCodebook.read_out`."""
    points = torch.cat([neighbourhood(codes, tokens) for tokens, _ in runs])
    labels = torch.cat([labels for _, labels in runs])
    return torch.stack([linear_classifier(points, labels[:, half], classes, READ_OUT_DECAY, 100) for half in range(2)])


def fit_codebook(
    pairs: Pairs, runs: Sequence[Pairs], config: SemanticConfig, seed: int, iterations: int = 25, names: Tensor | None = None
) -> SemanticCodebook:
    """Discriminants and k-means from listened pairs, read-out from runs of them; values are rounded to float16, as they are stored.

    Args:
        names: (M,) what an earlier tokenizer of as many codes calls the pairs; k-means then starts from its clusters and keeps their numbers.
    """
    rng = np.random.default_rng(seed)
    book = SemanticCodebook(config)
    frames, labels = pairs.features.float().flatten(0, 1), pairs.labels.flatten()
    half = config.directions // 2
    basis = discriminants(frames, labels, half)
    book.mean.copy_(frames.mean(0).repeat(2).half())
    for side in range(2):
        rows = slice(side * config.features, (side + 1) * config.features)
        book.projection[rows, side * half : (side + 1) * half] = basis.half().float()
    points = book.embed(frames, pairs.scores.float().flatten(0, 1))
    start = None
    if names is not None:
        start, unused = means_by(names, points, config.num_codes)
        strangers = points[torch.from_numpy(rng.integers(len(points), size=config.num_codes))]
        start[unused] = strangers[unused]
    book.codes.copy_(kmeans(points, config.num_codes, iterations, rng, start).half())
    told = [(tokens_of(book, run), run.labels) for run in runs]
    book.read_out.copy_(fit_read_out(book.codes, told, config.classes).half())
    return book


def tokens_of(book: SemanticCodebook, pairs: Pairs) -> Tensor:
    """(M,) tokens of pairs of frames."""
    return book(pairs.features.float().flatten(0, 1), pairs.scores.float().flatten(0, 1))


def gather(
    recogniser: Recogniser,
    songs: Iterator[LabelledSong],
    separator: Separator | None,
    device: torch.device,
    seed: int,
    per_take: int,
    like: BuiltinSemantic | None = None,
) -> tuple[Pairs, list[Pairs], dict[str, float], Tensor | None]:
    """Listen to every song twice and keep up to `per_take` random pairs of each, and a run of pairs; also how much was heard, and the (M,)
    tokens that `like` gives to the kept pairs."""
    kept: list[Pairs] = []
    runs: list[Pairs] = []
    names: list[Tensor] = []
    heard = {"songs": 0, "seconds": 0.0}
    for number, song in enumerate(songs):
        rng = np.random.default_rng([seed, number])
        for wav in (song.vocals, with_leakage(song, separator, rng)):
            pairs = listen(recogniser, wav, song, device)
            chosen = torch.from_numpy(np.sort(rng.permutation(len(pairs.labels))[:per_take]))
            kept.append(pairs.some(chosen))
            if like is not None:
                names.append(like.encode(torch.from_numpy(np.ascontiguousarray(wav))[None])[0].cpu()[chosen])
            first = int(np.random.default_rng([seed, number, len(runs)]).integers(0, max(1, len(pairs.labels) - RUN_TOKENS + 1)))
            runs.append(pairs.some(slice(first, first + RUN_TOKENS)))
        heard["songs"] += 1
        heard["seconds"] += len(song.vocals) / song.sample_rate
    if not kept:
        raise DataError("no song has vocals and phones to fit to; render songs first: python -m autosing.rendering songs")
    pairs = Pairs(*(torch.cat([getattr(p, name) for p in kept]) for name in ("features", "scores", "labels")))
    return pairs, runs, heard, torch.cat(names) if names else None


def accuracy(book: SemanticCodebook, runs: Sequence[Pairs]) -> float:
    """Share of frames whose true class the read-out of the tokens names."""
    hits = [book.phone_logits(tokens_of(book, run)).argmax(-1) == run.labels for run in runs]
    return float(torch.cat(hits).float().mean())


CARD = """# Semantic tokenizer (builtin)

{num_codes} codes of width {width}, {token_rate} a second, from {sample_rate} Hz vocals: a codebook over the recogniser's phone
probabilities and features. Fitted by

    python -m autosing.perception.semantic.fit --songs <rendered songs> --out <this folder>{flags}

to {songs} rendered songs ({minutes:.0f} minutes), each heard as clean vocals and as {take}. On those songs the read-out names the true
phone of {accuracy:.1%} of the 20 ms frames. It belongs to the recogniser with SHA-256 {recogniser}.
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m autosing.perception.semantic.fit", description="Fit the semantic codebook.")
    parser.add_argument("--songs", type=Path, required=True, help="folder of <i>/songs.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder to write model.safetensors, config.json, README.md")
    parser.add_argument("--recogniser", default="builtin", help="checkpoint of the recogniser (default: the shipped one)")
    parser.add_argument("--keep-recogniser", action="store_true", help="copy the recogniser beside the codebook")
    parser.add_argument("--separator", help="name of a separator whose vocals are the second take of each song")
    parser.add_argument("--like", metavar="FOLDER", help="an earlier tokenizer with its recogniser beside it, or 'builtin': codes keep its numbers")
    parser.add_argument("--limit", type=int, default=120, help="songs to use (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=120_000, help="pairs of frames to fit to (default: %(default)s)")
    parser.add_argument("--num-codes", type=int, default=512)
    parser.add_argument("--feature-scale", type=float, default=SemanticConfig.feature_scale)
    parser.add_argument("--temperature", type=float, default=SemanticConfig.temperature)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        print(fit(args))
    except AutoSingError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def fit(args: argparse.Namespace) -> str:
    """Carry out the command; returns its last line."""
    from fastprogress.fastprogress import progress_bar

    from autosing.perception import load_separator

    device = torch.device(args.device)
    origin = resolve(args.recogniser, "recogniser")
    if args.keep_recogniser:  # copied first: what is kept is what is listened with, whatever happens to the original meanwhile
        kept = args.out / "recogniser"
        kept.mkdir(parents=True, exist_ok=True)
        for name in (MODEL_FILE, CONFIG_FILE):
            shutil.copyfile(origin / name, kept / name)
        origin = kept
    recogniser, _ = load_model(origin, "recogniser", device)
    fitted_with = checksum(origin)
    separator = load_separator(args.separator, device) if args.separator else None
    songs = read_songs(progress_bar(list_songs(args.songs, args.limit, args.seed)))
    per_take = max(1, args.pairs // (2 * max(1, args.limit)))
    like = BuiltinSemantic(device, args.like) if args.like else None
    num_codes = like.spec.num_codes if like else args.num_codes
    pairs, runs, heard, names = gather(recogniser, songs, separator, device, args.seed, per_take, like)
    config = SemanticConfig(features=recogniser.width, classes=len(CLASSES), num_codes=num_codes)
    config = replace(config, feature_scale=args.feature_scale, temperature=args.temperature)
    book = fit_codebook(pairs, runs, config, args.seed, names=names)
    meta = {
        "recogniser": fitted_with, "songs": heard["songs"], "minutes": round(heard["seconds"] / 60, 1), "seed": args.seed,
        "separator": args.separator, "read_out_accuracy": round(accuracy(book, runs), 4),
    }  # fmt: skip
    given = {"limit": args.limit, "pairs": args.pairs, "feature-scale": args.feature_scale, "seed": args.seed}
    given |= {name: value for name in ("separator", "like") if (value := getattr(args, name))}
    card = CARD.format(
        num_codes=config.num_codes, width=config.width, token_rate=config.token_rate, sample_rate=config.sample_rate,
        flags="".join(f" --{name} {value}" for name, value in given.items()) + " --keep-recogniser" * args.keep_recogniser,
        take="the separator's vocals" if separator else "vocals with the band 8 to 25 dB below its level in the mixture",
        accuracy=meta["read_out_accuracy"], songs=meta["songs"], minutes=meta["minutes"], recogniser=meta["recogniser"],
    )  # fmt: skip
    save_model(book, args.out, meta, card, torch.float16)
    used = len(torch.unique(tokens_of(book, pairs)))
    return f"{args.out}: {heard['songs']} songs, read-out {meta['read_out_accuracy']:.1%} of frames, {used}/{config.num_codes} codes used"


if __name__ == "__main__":
    main()
