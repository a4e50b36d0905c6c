"""Judging an aligner: word begins against known times, on rendered songs and on real ones, beside words spread evenly.

The measures and their conventions are in `timing.py`, the songs in `known_songs.py`. `one_core_real_time_factor`: processor seconds (all threads
together) of one alignment for a second of audio. No number of the aligner was fitted to the real songs, but they were looked at while it was written.

    python -m autosing.evaluation.alignment --rendered <songs dataset> --real <folder> --json
    python -m autosing.evaluation.alignment --aligner ctc:/models/WAV2VEC2_ASR_BASE_960H --real <folder>
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autosing.errors import AutoSingError, ConfigError, DataError
from autosing.evaluation import intervals
from autosing.evaluation.known_songs import KnownSong, real_songs, rendered_songs, with_separated
from autosing.evaluation.ranking import auc
from autosing.evaluation.timing import PCO_WINDOW, Errors, activity_f1, errors, even_spread, judge_lines
from autosing.perception import ALIGNERS, load_aligner, load_separator
from autosing.perception.alignment import confidence
from autosing.perception.alignment.base import Aligner, ears_of
from autosing.perception.alignment.builtin import BuiltinAligner, Heard, read_lines
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Lyrics

MEANS = (*Errors._fields, "activity_f1", "one_core_real_time_factor")


class _Listened:
    """A recording as an aligner hears it: the embedded one gets used to it and listens once, whatever stamps come with the words; others each time anew."""

    def __init__(self, aligner: Aligner, wav: Tensor):
        self._aligner, self._wav = aligner, wav
        self._heard: Heard | None = None
        self._worked = 0.0

    def align(self, lyrics: Lyrics) -> tuple[Alignment, float]:
        """The alignment, and the processor seconds that it takes with listening."""
        begin = time.process_time()
        if not isinstance(self._aligner, BuiltinAligner):
            return self._aligner.align(self._wav, lyrics), time.process_time() - begin
        if self._heard is None:
            self._heard = self._aligner.hear(self._wav, read_lines(lyrics))
            self._worked = time.process_time() - begin
            begin = time.process_time()
        found = self._aligner.align_heard(self._heard, lyrics)
        return found, self._worked + time.process_time() - begin


def measure(aligner: Aligner, songs: Iterable[KnownSong], stamps: Sequence[str], progress: Any = None) -> list[dict[str, Any]]:
    """One row a song, input kind and kind of stamps: errors, the baseline's errors where lines are stamped, trust, line judgements, activity."""
    rows: list[dict[str, Any]] = []
    for song in songs:
        for kind, wav in song.wavs.items():
            wav = ears_of(aligner, torch.atleast_2d(wav), song.sample_rate)
            listened, f1 = _Listened(aligner, wav), activity_f1(aligner.activity(wav).cpu().numpy(), song.words)
            for given in stamps:
                lyrics = song.lyrics(given)
                found, worked = listened.align(lyrics)
                row: dict[str, Any] = {"song": song.name, "language": song.language, "input": kind, "stamps": given, "words": len(song.words)}
                row |= errors(song.starts(), [w.start for w in found.words])._asdict()
                row["errors"] = (np.array([w.start for w in found.words]) - song.starts()).round(3).tolist()
                if given != "none":
                    row["even"] = errors(song.starts(), even_spread(lyrics, song.seconds))._asdict()
                row |= {"trust": found.trust, "offset": found.offset, "lines": judge_lines(found, song)}
                row |= {"activity_f1": f1, "one_core_real_time_factor": worked / song.seconds}
                rows.append(row)
                if progress is not None:
                    progress(row)
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over songs of each (input, stamps), the pooled AUC of line trust, how many songs are worse than even spread, and intervals.

    Raises:
        DataError: no rows.
    """
    if not rows:
        raise DataError("no song to judge the aligner on; check the folders")
    out: dict[str, Any] = {}
    for key in dict.fromkeys((row["input"], row["stamps"]) for row in rows):
        own = [row for row in rows if (row["input"], row["stamps"]) == key]
        lines = [line for row in own for line in row["lines"]]
        away = [np.abs(row["errors"]) for row in own]
        entry: dict[str, Any] = {
            "songs": len(own),
            "onset_mean": round(float(np.concatenate(away).mean()), 4),
            **intervals.means(own, MEANS),
            "line_auc": round(_line_auc(own, range(len(own))), 3),
            "good_lines": round(float(np.mean([g for _, g in lines])), 3),
        }
        entry["intervals"] |= {
            "onset_mean": intervals.rounded(intervals.of_rate([a.sum() for a in away], [len(a) for a in away])),
            "line_auc": intervals.rounded(intervals.of_statistic(len(own), lambda drawn, own=own: _line_auc(own, drawn)), 3),
        }
        if "even" in own[0]:
            entry["even"] = {n: round(float(np.mean([row["even"][n] for row in own])), 4) for n in Errors._fields}
            entry["worse_than_even"] = [row["song"] for row in own if row["pco"] < row["even"]["pco"]]
            entry["songs_worse_than_even"] = len(entry["worse_than_even"])
            entry["worse_aae_than_even"] = [row["song"] for row in own if row["aae"] > row["even"]["aae"]]
        out["/".join(key)] = entry
    return out


def _line_auc(rows: Sequence[dict[str, Any]], drawn: Iterable[int]) -> float:
    """AUC of line trust over the lines of the songs drawn."""
    lines = [line for index in drawn for line in rows[index]["lines"]]
    return auc([line.trust for line in lines], [line.good for line in lines])


def fit_confidence(aligner: BuiltinAligner, songs: Iterable[KnownSong]) -> dict[str, list[float]]:
    """Weights of `autosing.perception.alignment.confidence` from rendered songs: the voice alone, and under its band at three levels."""
    seen: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for song in songs:
        band = song.wavs["mixture"] - song.wavs["vocals"]
        for gain in (1.0, 0.6, 0.35, None):
            wav = song.wavs["vocals"] if gain is None else song.wavs["vocals"] * gain + band
            heard = aligner.hear(wav, read_lines(song.lyrics("none")))
            for stamps in ("none", "starts"):
                found = aligner.time(heard, read_lines(song.lyrics(stamps)))
                truth = song.starts()[list(found.lines.numbers)]
                kept = seen.setdefault(found.kind, ([], []))
                kept[0].append(found.measurements)
                kept[1].append(np.abs(found.timing.starts - truth) <= PCO_WINDOW)
    return {
        kind: confidence.fit(np.concatenate(rows), np.concatenate(right)).round(3).tolist() for kind, (rows, right) in seen.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table a song, then one JSON object as the last line; 2: a mistake in the request."""
    parser = argparse.ArgumentParser(prog="python -m autosing.evaluation.alignment", description="Judge an aligner.")
    parser.add_argument("--rendered", type=Path, help="dataset of rendered songs (<folder>/<i>/songs.parquet)")
    parser.add_argument("--real", type=Path, help="folder that holds ultrastar_cc and jamendolyrics")
    parser.add_argument("--aligner", default="builtin", metavar="NAME[:WEIGHTS]", help=", ".join(ALIGNERS.names()))
    parser.add_argument("--limit", type=int, help="rendered songs at most")
    parser.add_argument("--separator", help="also align the vocals that this separator finds in the mixture")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    parser.add_argument("--fit", action="store_true", help="fit the weights of the word scores to the rendered songs instead")
    given = parser.parse_args(argv)
    try:
        print(json.dumps(_fitted(given) if given.fit else _judged(given)))
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _fitted(given: argparse.Namespace) -> dict[str, list[float]]:
    if given.rendered is None:
        raise ConfigError("--fit needs --rendered: songs whose true words are known")
    aligner = load_aligner(given.aligner)
    if not isinstance(aligner, BuiltinAligner):
        raise ConfigError(f"--fit is for the builtin aligner, found --aligner {given.aligner}")
    return fit_confidence(aligner, rendered_songs(given.rendered, limit=given.limit))


def _judged(given: argparse.Namespace) -> dict[str, Any]:
    if given.rendered is None and given.real is None:
        raise ConfigError("no songs to judge it on; give --rendered, --real or both")
    aligner = load_aligner(given.aligner)

    def show(row: dict[str, Any]) -> None:
        if not given.json:
            even = row.get("even")
            beside = f"  even {even['aae']:.3f} {even['mae']:.3f} {even['pco']:.3f}" if even else ""
            figures = f"{row['aae']:.3f} {row['mae']:.3f} {row['pco']:.3f}"
            trust = "-" if row["trust"] is None else f"{row['trust']:.2f}"
            print(f"{row['song'][:36]:36} {row['input']:8} {row['stamps']:6} {figures}{beside}  trust {trust}")
            sys.stdout.flush()

    separator = load_separator(given.separator) if given.separator else None

    def heard(songs: Iterable[KnownSong]) -> Iterable[KnownSong]:
        return with_separated(songs, separator) if separator else songs

    result: dict[str, Any] = {"torch": torch.__version__, "aligner": given.aligner}
    if given.rendered:
        result["rendered"] = summary(measure(aligner, heard(rendered_songs(given.rendered, limit=given.limit)), ("none", "starts"), show))
    if given.real:
        result["real"] = summary(measure(aligner, heard(real_songs(given.real)), ("none", "starts", "ends"), show))
    return result


if __name__ == "__main__":
    sys.exit(main())
