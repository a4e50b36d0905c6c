"""How well a separator finds the voice, where the stems are known: rendered songs and real multitrack recordings.

All figures are at the separator's sample rate, over all channels at once. SI-SDR (dB) is scale-invariant and has no other allowance:
Le Roux, Wisdom, Erdogan, Hershey, "SDR - half-baked or well done?" (2019), equation 3. Improvement = after separation - of the mix itself, both
against the true vocals. `real_time_factor` is by the clock, `one_core_real_time_factor` by processor seconds (all threads together).
Letters: C channels, n samples.
"""

import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from autosing.errors import DataError
from autosing.evaluation import intervals
from autosing.perception.separation.base import Separator
from autosing.song import audio
from autosing.store import song_rows


class StemPair(NamedTuple):
    """A song whose mix is vocals + accompaniment; each (C, n), C the same or 1, at `sample_rate` Hz."""

    name: str
    vocals: Tensor
    accompaniment: Tensor
    sample_rate: int


def si_sdr(estimate: Tensor, reference: Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB of two tensors of one shape; -inf for an estimate without any of the reference.

    With a = <estimate, reference> / |reference|^2: 10 log10(|a reference|^2 / |a reference - estimate|^2).

    Raises:
        ValueError: different shapes, or a silent reference.
    """
    if estimate.shape != reference.shape:
        raise ValueError(f"estimate {tuple(estimate.shape)} and reference {tuple(reference.shape)} differ in shape")
    found, true = estimate.double().flatten(), reference.double().flatten()
    energy = float(true @ true)
    if energy == 0:
        raise ValueError("the reference is silent, so its SI-SDR is not defined")
    target = float(found @ true) / energy * true
    wanted, rest = float(target @ target), float((target - found).square().sum())
    if wanted == 0:
        return -math.inf
    return 10 * math.log10(wanted / rest) if rest > 0 else math.inf


def song_figures(separator: Separator, pair: StemPair) -> dict[str, float]:
    """One song: SI-SDR of the vocals in the mix and after separation, the same for the accompaniment, and the real-time factors."""
    vocals, rest = (audio.resample(stem, pair.sample_rate, separator.sample_rate) for stem in (pair.vocals, pair.accompaniment))
    channels = max(vocals.shape[0], rest.shape[0])
    vocals, rest = vocals.expand(channels, -1), rest.expand(channels, -1)
    mix = vocals + rest
    start, worked = time.perf_counter(), time.process_time()
    found = separator.separate(mix)
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    before, after = si_sdr(mix, vocals), si_sdr(found.vocals, vocals)
    rest_before, rest_after = si_sdr(mix, rest), si_sdr(found.accompaniment, rest)
    return {
        "vocals_in_db": before,
        "vocals_out_db": after,
        "vocals_improvement_db": after - before,
        "accompaniment_improvement_db": rest_after - rest_before,
        "real_time_factor": seconds / (mix.shape[-1] / separator.sample_rate),
        "one_core_real_time_factor": worked / (mix.shape[-1] / separator.sample_rate),
    }


def separation_figures(separator: Separator, pairs: Iterable[StemPair]) -> dict[str, Any]:
    """`{"songs": {name: song_figures}, "mean": {... and their intervals}, "worst_improvement_db", "count", ...}` over all pairs.

    Raises:
        DataError: no pairs.
    """
    songs = {pair.name: {key: round(value, 4) for key, value in song_figures(separator, pair).items()} for pair in pairs}
    if not songs:
        raise DataError("no song to judge the separator on; check the paths")
    return {
        "songs": songs,
        "mean": intervals.means(songs.values(), list(next(iter(songs.values())))),
        "worst_improvement_db": min(song["vocals_improvement_db"] for song in songs.values()),
        "worst_accompaniment_improvement_db": min(song["accompaniment_improvement_db"] for song in songs.values()),
        "count": len(songs),
    }


def rendered_pairs(dataset: Path, most_songs: int | None = None) -> Iterator[StemPair]:
    """Songs of a rendered dataset (`<dataset>/<i>/songs.parquet`), one row at a time; rows without accompaniment are passed over.

    Raises:
        DataError: no tables there, or a damaged one.
    """
    given = 0
    for row in song_rows(dataset, ("id", "vocals", "accompaniment")):
        if most_songs is not None and given >= most_songs:
            return
        if row["accompaniment"]:
            given += 1
            vocals, rest = audio.decode(row["vocals"]), audio.decode(row["accompaniment"])
            yield StemPair(row["id"], vocals.samples, rest.samples, vocals.sample_rate)


def cc0_pairs(data: Path, most_songs: int | None = None) -> Iterator[StemPair]:
    """The real CC0 multitracks under `<data>/stems/everythingisfree_cc0`; nothing where they are absent."""
    for folder in sorted((Path(data) / "stems" / "everythingisfree_cc0").glob("*/"))[:most_songs]:
        vocals, rest = (audio.decode((folder / f"{stem}.flac").read_bytes()) for stem in ("vocals", "accompaniment"))
        yield StemPair(folder.name, vocals.samples, rest.samples, vocals.sample_rate)
