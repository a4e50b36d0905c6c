"""Whether a voice embedder tells singers apart: the area under the ROC curve of cosine similarity, same singer against different singers.

A recording is cut into windows of 10 s that hold enough voice; each window is embedded. A pair of windows is a trial; windows of one song are
compared apart from windows of different songs, because the same recording helps. Letters: B batch, n samples, D width.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from autosing.errors import DataError
from autosing.evaluation.ranking import auc
from autosing.perception.separation.base import Separator, vocals_of
from autosing.perception.voice.base import VoiceEmbedder
from autosing.song import audio
from autosing.store import song_rows
from autosing.tokens.specs import Seconds

WINDOW_SECONDS: Seconds = 10.0
ACTIVE_SHARE = 0.3  # of a window's tenths of a second, within 30 dB of the recording's loudest
ACTIVE_RANGE_DB = 30.0


class Recording(NamedTuple):
    """`vocals` (n,) at the embedder's sample rate; `song` and `singer` are names."""

    song: str
    singer: str
    vocals: Tensor


def rendered_recordings(
    dataset: Path, most_songs: int | None = None, separator: Separator | None = None, sample_rate: int = 24_000, longest: Seconds = 60.0
) -> Iterator[Recording]:
    """The first `longest` seconds of rendered songs: their true vocals, or what `separator` takes from the mix."""
    for number, row in enumerate(song_rows(dataset, ("id", "artist", "vocals", "accompaniment"))):
        if most_songs is not None and number >= most_songs:
            return
        vocals = audio.decode(row["vocals"])
        wav, rate = vocals.samples[:, : int(longest * vocals.sample_rate)], vocals.sample_rate
        if separator is not None and row["accompaniment"]:
            wav = vocals_of(separator, wav + audio.decode(row["accompaniment"]).samples[:, : wav.shape[1]], rate)
        yield Recording(row["id"], row["artist"], audio.resample(wav.mean(0, keepdim=True), rate, sample_rate)[0])


def real_recordings(
    data: Path, separator: Separator, sample_rate: int = 24_000, longest: Seconds = 180.0, most_songs: int | None = None
) -> Iterator[Recording]:
    """Separated vocals of the full mixes under `<data>/ultrastar_cc` and `<data>/jamendolyrics`; nothing where they are absent.

    The singer is the artist a file is named after; a song of several singers counts as one. `most_songs` of either folder.
    """
    for path, artist in real_songs(Path(data), most_songs):
        decoded = audio.decode(path.read_bytes())
        mix = audio.resample(decoded.samples[:, : int(longest * decoded.sample_rate)], decoded.sample_rate, separator.sample_rate)
        vocals = separator.separate(mix).vocals.mean(0, keepdim=True)
        yield Recording(f"{path.parent.name}/{path.name}", artist, audio.resample(vocals, separator.sample_rate, sample_rate)[0])


def real_songs(data: Path, most_songs: int | None = None) -> list[tuple[Path, str]]:
    """(audio file, artist) of the real full mixes, `most_songs` of either folder."""
    karaoke = [p for folder in sorted((data / "ultrastar_cc").glob("*/")) for p in sorted(folder.glob("audio.*"))][:most_songs]
    jamendo = sorted((data / "jamendolyrics" / "mp3").glob("*.mp3"))[:most_songs]
    return [(p, p.parent.name.split(" - ")[0]) for p in karaoke] + [(p, p.stem.split("_-_")[-1]) for p in jamendo]


def area_under_curve(same: Tensor, different: Tensor) -> float:
    """Chance that a same-singer similarity exceeds a different-singer one, ties counted half.

    Raises:
        DataError: one of the two is empty.
    """
    if not len(same) or not len(different):
        raise DataError(f"an AUC needs pairs of both kinds, found {len(same)} same and {len(different)} different")
    return auc(torch.cat([same, different]).numpy(), np.arange(len(same) + len(different)) < len(same))


def windows(vocals: Tensor, sample_rate: int, seconds: Seconds = WINDOW_SECONDS) -> Tensor:
    """The windows of a recording with enough voice, from its start without overlap: (n,) -> (B, seconds). A short recording is one window.

    A tail of less than half a window is left out.
    """
    length = int(seconds * sample_rate)
    if len(vocals) < length:
        return vocals[None]
    padded = functional.pad(vocals, (0, -len(vocals) % length if len(vocals) % length >= length / 2 else 0))
    cut = padded[: len(padded) // length * length].reshape(-1, length)
    frame = sample_rate // 10
    power = cut[:, : length // frame * frame].reshape(len(cut), -1, frame).square().mean(-1)
    active = (power > power.max() * 10 ** (-ACTIVE_RANGE_DB / 10)).float().mean(1)
    keep = active >= ACTIVE_SHARE
    return cut[keep] if keep.any() else cut[active.argmax()][None]


def voice_figures(embedder: VoiceEmbedder, recordings: Iterable[Recording]) -> dict[str, Any]:
    """AUCs over all pairs, and what they rest on.

    Returns: `auc_windows_across_songs` (10 s windows, same singer in another song against other singers), `auc_windows_within_song` (two
    windows of one song against other singers), `auc_halves` (the two halves of a song, each the mean of its windows, against halves of songs
    by others), and counts. An AUC without pairs of both kinds is None.

    Raises:
        DataError: no recording.
    """
    rows: list[tuple[str, str, Tensor]] = []
    halves: list[tuple[str, str, Tensor]] = []
    for recording in recordings:
        cut = windows(recording.vocals, embedder.spec.sample_rate)
        embedded = torch.cat([embedder.embed(window[None]) for window in cut])
        rows += [(recording.song, recording.singer, one) for one in embedded]
        if len(embedded) > 1:
            for half in (embedded[: len(embedded) // 2], embedded[len(embedded) // 2 :]):
                halves.append((recording.song, recording.singer, functional.normalize(half.mean(0), dim=0)))
    if not rows:
        raise DataError("no recording to judge the voice embedder on; check the paths")
    alike, same_song, same_singer = _pairs(rows)
    across, within, apart = alike[same_singer & ~same_song], alike[same_song], alike[~same_singer]
    figures: dict[str, Any] = {
        "auc_windows_across_songs": _auc_or_none(across, apart),
        "auc_windows_within_song": _auc_or_none(within, apart),
        "auc_halves": None,
        "auc_songs": _auc_songs(rows),
        "windows": len(rows),
        "songs": len({song for song, _, _ in rows}),
        "singers": len({singer for _, singer, _ in rows}),
    }
    if halves:
        alike, same_song, same_singer = _pairs(halves)
        figures["auc_halves"] = _auc_or_none(alike[same_song], alike[~same_singer])
    return figures


def _auc_songs(rows: list[tuple[str, str, Tensor]]) -> float | None:
    """Whole songs, the mean of their windows: same singer in another song against other singers."""
    songs: dict[tuple[str, str], list[Tensor]] = {}
    for song, singer, embedding in rows:
        songs.setdefault((song, singer), []).append(embedding)
    means = [(song, singer, functional.normalize(torch.stack(found).mean(0), dim=0)) for (song, singer), found in songs.items()]
    alike, _, same_singer = _pairs(means)
    return _auc_or_none(alike[same_singer], alike[~same_singer])


def _pairs(rows: list[tuple[str, str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Every unordered pair once: similarity, same song, same singer."""
    stacked = torch.stack([row[2] for row in rows])
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    songs, singers = [row[0] for row in rows], [row[1] for row in rows]
    same_song = torch.tensor([songs[a] == songs[b] for a, b in zip(first.tolist(), second.tolist(), strict=True)], dtype=torch.bool)
    same_singer = torch.tensor([singers[a] == singers[b] for a, b in zip(first.tolist(), second.tolist(), strict=True)], dtype=torch.bool)
    return (stacked @ stacked.T)[first, second], same_song, same_singer


def _auc_or_none(same: Tensor, different: Tensor) -> float | None:
    return round(area_under_curve(same, different), 4) if len(same) and len(different) else None
