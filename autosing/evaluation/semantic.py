"""How well semantic tokens carry the words, and how much of the singer they carry with them.

Measured on rendered songs with known truth, by song, never on the songs that a read-out was counted on:
- frame accuracy: share of 20 ms frames whose true phone (or silence) the read-out of their token names; a table from token to a pair of
  phones, which is the best linear read-out of one token. Two tables: the tokenizer's own, and one counted on half of the songs here.
- phone error: edits between the phones read from the tokens (runs of at least two frames, silence dropped) and those sung.
- singer: a linear classifier of the singer from the histogram of tokens in five seconds, learnt on some songs of every singer, tested
  on the others; beside it, the same classifier on mean log-mel spectra. Lower is better: words without a voice.
- melody: a linear regression of the pitch from a token and its neighbours, learnt on half of the songs, tested on the other; correlation with
  the true pitch within a song, mean over songs. Beside it, the same from log-mel spectra. Lower is better: what sings chooses the melody.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autosing.errors import DataError
from autosing.evaluation import intervals
from autosing.evaluation.codec import F0_RATE
from autosing.models.recogniser import CLASSES, SILENCE
from autosing.models.semantic import neighbourhood
from autosing.nn.spectra import FRONT_ENDS
from autosing.perception.semantic.base import SemanticTokenizer
from autosing.perception.semantic.fit import (
    LabelledSong,
    fit_read_out,
    linear_classifier,
    list_songs,
    read_songs,
    with_leakage,
)
from autosing.song.runs import runs_of
from autosing.tokens.edits import error_rate

PIECE_TOKENS = 125
MIN_RUN_FRAMES = 2
LEAST_VOICED_TOKENS = 25
"""A song with fewer has no melody to speak of."""
RIDGE = 1e-2


@dataclass(frozen=True)
class TokenisedSong:
    """Tokens (N,) of a song, the true classes of both halves of each (N, 2), the phones sung, and its mean log-mel pieces (pieces, 80).

    `mel` (N, 80) is the mean log-mel of each token, `pitch` (N,) its true pitch in semitones, NaN where nothing is voiced.
    """

    singer: str
    tokens: Tensor
    labels: Tensor
    phones: tuple[int, ...]
    spectra: Tensor
    mel: Tensor
    pitch: np.ndarray


def hear(tokenizer: SemanticTokenizer, song: LabelledSong, wav: np.ndarray) -> TokenisedSong:
    """Tokenise `wav` (n,), which is `song` or what a separator made of it.

    Raises:
        DataError: the tokenizer does not take the song's rate, or has no two frames of 20 ms a token.
    """
    if (tokenizer.spec.sample_rate, tokenizer.spec.token_rate) != (song.sample_rate, 25):
        raise DataError(f"song '{song.id}' has {song.sample_rate} Hz; resample it for {tokenizer.spec}")
    audio = torch.from_numpy(np.ascontiguousarray(wav))[None]
    tokens = tokenizer.encode(audio)[0].cpu()
    labels = torch.from_numpy(song.labels(2 * len(tokens))).reshape(-1, 2)
    spectra = FRONT_ENDS["mel"](80)(audio)[0].T
    step = len(spectra) * PIECE_TOKENS // max(1, len(tokens))
    pieces = [part.mean(0) for part in spectra.split(step)[: len(tokens) // PIECE_TOKENS]]
    sung = song.labels(2 * len(tokens))
    mel = F.adaptive_avg_pool1d(spectra.T[None], len(tokens))[0].T if len(tokens) else spectra.new_zeros(0, 80)
    return TokenisedSong(
        song.artist, tokens, labels, runs(sung, 1), torch.stack(pieces) if pieces else torch.zeros(0, 80), mel,
        token_pitch(song.f0_hz, len(tokens), tokenizer.spec.token_rate),
    )  # fmt: skip


def token_pitch(f0_hz: np.ndarray | None, tokens: int, token_rate: int) -> np.ndarray:
    """(m,) F0 at `F0_RATE`, 0 = unvoiced -> (tokens,) mean pitch of the voiced frames of each token in semitones; NaN without any."""
    if f0_hz is None:
        return np.full(tokens, np.nan)
    per_token = F0_RATE // token_rate
    frames = np.zeros(tokens * per_token)
    frames[: len(f0_hz)] = f0_hz[: len(frames)]
    frames = frames.reshape(tokens, per_token)
    voiced = frames > 0
    semitones = 12 * np.log2(np.where(voiced, frames, 1.0))
    count = voiced.sum(1)
    return np.where(count > 0, semitones.sum(1) / np.maximum(1, count), np.nan)


def runs(classes: Sequence[int] | np.ndarray | Tensor, least: int = MIN_RUN_FRAMES) -> tuple[int, ...]:
    """The phones of a row of frames: runs of at least `least` frames, equal neighbours joined, silence dropped."""
    long = [value for first, last, value in runs_of(classes) if last - first >= least]
    return tuple(c for i, c in enumerate(long) if c != SILENCE and (i == 0 or long[i - 1] != c))


def read_out_scores(read: Callable[[Tensor], Tensor], heard: Sequence[TokenisedSong]) -> dict[str, Any]:
    """Frame accuracy, the same over sung frames only, and phone error of a read-out: (N,) tokens -> (N, 2) classes; "intervals" of the first."""
    right, frames, right_sung, sung = [], [], 0, 0
    pairs = []
    for song in heard:
        found = read(song.tokens)
        hits, is_sung = found == song.labels, song.labels != SILENCE
        right.append(int(hits.sum()))
        frames.append(hits.numel())
        right_sung, sung = right_sung + int(hits[is_sung].sum()), sung + int(is_sung.sum())
        pairs.append((song.phones, runs(found.flatten())))
    return {
        "frame_accuracy": sum(right) / max(1, sum(frames)), "sung_frame_accuracy": right_sung / max(1, sung), "phone_error": error_rate(pairs),
        "intervals": {"frame_accuracy": intervals.rounded(intervals.of_rate(right, frames))},
    }  # fmt: skip


def crossed(heard: Sequence[TokenisedSong], fit: Callable[[Sequence[TokenisedSong]], Callable[[Tensor], Tensor]]) -> dict[str, float]:
    """Scores of read-outs fitted to one half of the songs and tested on the other, both ways, averaged."""
    scores = [read_out_scores(fit(heard[side::2]), heard[1 - side :: 2]) for side in range(2)]
    return {name: sum(s[name] for s in scores) / 2 for name in scores[0] if name != "intervals"}


def counted_read_out(heard: Sequence[TokenisedSong], num_codes: int) -> Callable[[Tensor], Tensor]:
    """The phones most often sung in each half of each code."""
    tokens, labels = torch.cat([s.tokens for s in heard]), torch.cat([s.labels for s in heard])
    cells = [torch.bincount(tokens * len(CLASSES) + labels[:, half], minlength=num_codes * len(CLASSES)) for half in range(2)]
    table = torch.stack([counts.reshape(num_codes, len(CLASSES)).argmax(-1) for counts in cells], 1)
    return lambda tokens: table[tokens]


def linear_read_out(heard: Sequence[TokenisedSong], codebook: Tensor) -> Callable[[Tensor], Tensor]:
    """Logistic regression on the code vectors (num_codes, W) of a token and its neighbours."""
    weights = fit_read_out(codebook, [(s.tokens, s.labels) for s in heard], len(CLASSES))
    return lambda tokens: torch.einsum("nw,hwc->nhc", neighbourhood(codebook, tokens), weights).argmax(-1)


def singer_accuracy(heard: Sequence[TokenisedSong], describe: Callable[[TokenisedSong], Tensor]) -> dict[str, float]:
    """Share of five-second pieces whose singer a linear classifier names; singers with one song are left out. `chance` is the largest class."""
    songs: dict[str, list[TokenisedSong]] = {}
    for song in heard:
        songs.setdefault(song.singer, []).append(song)
    names = sorted(name for name, of in songs.items() if len(of) > 1)
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    targets: tuple[list[int], list[int]] = ([], [])
    for number, name in enumerate(names):
        for index, song in enumerate(songs[name]):
            pieces = describe(song)
            sides[index % 2].append(pieces)
            targets[index % 2].extend([number] * len(pieces))
    if len(names) < 2 or not targets[1]:
        return {"singers": len(names), "accuracy": float("nan"), "chance": float("nan")}
    train, test = torch.cat(sides[0]), torch.cat(sides[1])
    mean, spread = train.mean(0), train.std(0) + 1e-3
    weights = linear_classifier(F.pad((train - mean) / spread, (0, 1), value=1.0), torch.tensor(targets[0]), len(names))
    found = F.pad((test - mean) / spread, (0, 1), value=1.0) @ weights
    truth = torch.tensor(targets[1])
    chance = float(torch.bincount(truth).max() / len(truth))
    return {"singers": len(names), "accuracy": float((found.argmax(1) == truth).float().mean()), "chance": chance}


def melody_correlation(heard: Sequence[TokenisedSong], describe: Callable[[TokenisedSong], Tensor]) -> dict[str, Any]:
    """How well a linear regression of `describe` (N, D) tells the pitch of songs that it was not fitted to; see the module.

    The correlation is NaN where fewer than two songs have a melody.
    """
    songs = [(describe(song).double(), torch.from_numpy(song.pitch)) for song in heard]
    voiced = [(values[~pitch.isnan()], pitch[~pitch.isnan()]) for values, pitch in songs]
    voiced = [(values, pitch) for values, pitch in voiced if len(pitch) >= LEAST_VOICED_TOKENS and float(pitch.std()) > 0]
    if len(voiced) < 2:
        return {"songs": len(voiced), "correlation": float("nan")}
    found: list[dict[str, float]] = []
    for side in range(2):
        values = torch.cat([v for v, _ in voiced[side::2]])
        pitch = torch.cat([p - p.mean() for _, p in voiced[side::2]])
        mean, scale = values.mean(0), values.std(0) + 1e-3
        weights = _ridge((values - mean) / scale, pitch)
        found += [{"correlation": _correlation((v - mean) / scale @ weights, p)} for v, p in voiced[1 - side :: 2]]
    return {"songs": len(voiced), **intervals.means(found, ["correlation"])}


def _ridge(values: Tensor, wanted: Tensor) -> Tensor:
    """(M, D), (M,) -> (D,) weights."""
    gram = values.T @ values / len(values)
    return torch.linalg.solve(gram + RIDGE * torch.eye(len(gram), dtype=gram.dtype), values.T @ wanted / len(values))


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's; 0 where one of the two does not vary."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0


def histograms(song: TokenisedSong, num_codes: int) -> Tensor:
    """(pieces, num_codes) square roots of the token shares of every five seconds."""
    pieces = song.tokens[: len(song.tokens) // PIECE_TOKENS * PIECE_TOKENS].reshape(-1, PIECE_TOKENS)
    return (F.one_hot(pieces, num_codes).float().mean(1)).sqrt()


def usage(heard: Sequence[TokenisedSong], num_codes: int) -> dict[str, float]:
    """How many codes occur, the entropy of their shares in bits, and the share of tokens that repeat the one before."""
    counts = torch.bincount(torch.cat([song.tokens for song in heard]), minlength=num_codes).double()
    shares = counts[counts > 0] / counts.sum()
    same = [(song.tokens[1:] == song.tokens[:-1]).float().mean().item() for song in heard if len(song.tokens) > 1]
    return {"used": int((counts > 0).sum()), "bits": float(-(shares * shares.log2()).sum()), "repeats": float(np.mean(same))}


def evaluate_folder(tokenizer: SemanticTokenizer, folder: Path, limit: int | None = None) -> dict[str, Any]:
    """All figures of a tokenizer on unseen rendered songs, on their vocals and on these with some of the band left in.

    Args:
        tokenizer: any; its own read-out is scored too where it has one (`phones`).
        folder: of song tables.
        limit: songs at most.

    Raises:
        DataError: fewer than two songs.
    """
    takes: dict[str, list[TokenisedSong]] = {"clean": [], "leaking": []}
    for number, song in enumerate(read_songs(list_songs(folder, limit))):
        leaking = with_leakage(song, None, np.random.default_rng([0, number]))
        for name, wav in zip(takes, (song.vocals, leaking), strict=True):
            takes[name].append(hear(tokenizer, song, wav))
    if len(takes["clean"]) < 2:
        raise DataError("a tokenizer is evaluated on two songs or more; give more songs")
    codes, codebook = tokenizer.spec.num_codes, tokenizer.codebook().cpu()
    own = getattr(tokenizer, "phones", None)  # of those that have a read-out
    figures: dict[str, Any] = {"songs": len(takes["clean"]), "usage": usage(takes["clean"], codes)}
    for name, heard in takes.items():
        figures[name] = {
            "counted": crossed(heard, lambda songs: counted_read_out(songs, codes)),
            "linear": crossed(heard, lambda songs: linear_read_out(songs, codebook)),
        }
        if own is not None:
            figures[name]["own"] = read_out_scores(lambda tokens: own(tokens).cpu().reshape(-1, 2), heard)
    figures["singer"] = {
        "tokens": singer_accuracy(takes["clean"], lambda song: histograms(song, codes)),
        "log_mel": singer_accuracy(takes["clean"], lambda song: song.spectra),
    }
    figures["melody"] = {
        "tokens": melody_correlation(takes["clean"], lambda song: neighbourhood(codebook, song.tokens)[:, :-1]),
        "log_mel": melody_correlation(takes["clean"], lambda song: song.mel),
    }
    return figures
