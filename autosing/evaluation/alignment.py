"""Judging an aligner: word begins against known times, on rendered songs and on real ones, beside words spread evenly.

Conventions: times are seconds; an estimate and its reference have the same number of words in the same order. `aae` is the mean and `mae` the
median absolute error of the begins, `pco` the share within 0.3 s (mir_eval.alignment: percentage_correct, absolute_error). `even_spread` is
the baseline: each line's words by letters from its stamp to its end. `activity_f1` compares the aligner's singing activity with the reference:
frames of 20 ms inside a word, or in a gap under 0.5 s between words, against frames above one half; gaps under 0.5 s are closed in both.
`one_core_real_time_factor`: processor seconds (all threads together) of one alignment for a second of audio. Real songs are read from the folders
`ultrastar_cc` and `jamendolyrics`; no number of the aligner was fitted to them, but they were looked at while it was written.

    python -m autosing.evaluation.alignment --rendered <songs dataset> --real <folder> --json
    python -m autosing.evaluation.alignment --aligner ctc:/models/WAV2VEC2_ASR_BASE_960H --real <folder>
"""

import argparse
import csv
import io
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from autosing.errors import AutoSingError, ConfigError, DataError
from autosing.evaluation import intervals
from autosing.perception import ALIGNERS, load_aligner, load_separator
from autosing.perception.alignment import confidence
from autosing.perception.alignment.base import Aligner, ears_of
from autosing.perception.alignment.builtin import BuiltinAligner, Heard, read_lines
from autosing.perception.separation.base import Separator, vocals_of
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Line, Lyrics
from autosing.store import song_rows
from autosing.tokens.specs import Seconds

PCO_WINDOW: Seconds = 0.3
ACTIVITY_RATE = 50  # Hz, of `Aligner.activity`
LEAST_GAP: Seconds = 0.5
"""Shorter gaps between words belong to the singing."""
ENGLISH = "English"


class Errors(NamedTuple):
    """`aae` mean, `mae` median absolute error in seconds; `pco` share of begins within 0.3 s."""

    aae: float
    mae: float
    pco: float


def validate(reference: np.ndarray, estimate: np.ndarray) -> None:
    """Refuse begins that cannot be compared.

    Raises:
        DataError: empty, unequal in number, not finite, negative, or a reference that goes back in time.
    """
    if len(reference) == 0 or len(reference) != len(estimate):
        raise DataError(f"{len(reference)} reference and {len(estimate)} estimated begins cannot be compared; align the same words")
    if not (np.isfinite(reference).all() and np.isfinite(estimate).all()):
        raise DataError("begins must be finite; some are not a number")
    if min(reference.min(), estimate.min()) < 0:
        raise DataError("begins must not be negative")
    if (np.diff(reference) < 0).any():
        raise DataError("reference begins must not go back in time; sort them")


def errors(reference: Sequence[Seconds] | np.ndarray, estimate: Sequence[Seconds] | np.ndarray) -> Errors:
    """How far estimated begins lie from the reference.

    Raises:
        DataError: see `validate`.
    """
    reference, estimate = np.asarray(reference, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    validate(reference, estimate)
    away = np.abs(estimate - reference)
    return Errors(float(away.mean()), float(np.median(away)), float((away <= PCO_WINDOW).mean()))


def auc(scores: Sequence[float] | np.ndarray, good: Sequence[bool] | np.ndarray) -> float:
    """Probability that a good item scores higher than a bad one (ties count half); NaN where all are good or all bad."""
    good = np.asarray(good, dtype=bool)
    count = int(good.sum())
    if count in (0, len(good)):
        return float("nan")
    values = np.asarray(scores, dtype=np.float64)
    in_order = np.sort(values)
    ranks = (np.searchsorted(in_order, values, "left") + np.searchsorted(in_order, values, "right") + 1) / 2
    return float((ranks[good].sum() - count * (count + 1) / 2) / (count * (len(good) - count)))


class TimedWord(NamedTuple):
    """A reference word; `line` counts from 0."""

    text: str
    start: Seconds
    end: Seconds
    line: int


@dataclass(frozen=True)
class KnownSong:
    """A recording with reference times.

    Attributes:
        name: of the song, unique in its collection.
        wavs: what is aligned, by kind ("mixture", "vocals"): (n,), or (2, n) in stereo, float32 at `sample_rate`.
        words: the reference.
        language: in English.
    """

    name: str
    wavs: dict[str, Tensor]
    sample_rate: int
    words: tuple[TimedWord, ...]
    language: str = ENGLISH

    @property
    def seconds(self) -> Seconds:
        return next(iter(self.wavs.values())).shape[-1] / self.sample_rate

    def starts(self) -> np.ndarray:
        return np.array([w.start for w in self.words])

    def excerpt(self, seconds: Seconds) -> "KnownSong":
        """The song to `seconds` after its first word begins."""
        end = self.words[0].start + seconds
        wavs = {kind: wav[..., : round(end * self.sample_rate)] for kind, wav in self.wavs.items()}
        return replace(self, wavs=wavs, words=tuple(word for word in self.words if word.end <= end) or self.words[:1])

    def lyrics(self, stamps: str) -> Lyrics:
        """The words as lyrics with `stamps` "none", "starts" (of lines) or "ends" (starts and ends of lines)."""
        by_line: dict[int, list[TimedWord]] = {}
        for word in self.words:
            by_line.setdefault(word.line, []).append(word)
        lines = []
        for line in by_line.values():
            start = None if stamps == "none" else line[0].start
            end = max(w.end for w in line) if stamps == "ends" else None
            lines.append(Line(" ".join(w.text for w in line), start, end))
        return Lyrics(tuple(lines))


def even_spread(lyrics: Lyrics, song_seconds: Seconds) -> np.ndarray:
    """(words,) begins: each line's words by their letters, from its start to its end where known, else to the next line's start.

    Raises:
        DataError: a line without a stamp.
    """
    starts = [line.start for line in lyrics.lines]
    out: list[float] = []
    for number, line in enumerate(lyrics.lines):
        if line.start is None:
            raise DataError(f"line {number} has no stamp to spread its words from; give stamped lyrics")
        following = starts[number + 1] if number + 1 < len(starts) else song_seconds
        end = line.end if line.end is not None else following
        letters = np.array([len(word) for word in line.text.split()], dtype=np.float64)
        before = np.concatenate([[0.0], np.cumsum(letters)[:-1]]) / letters.sum()
        out += (line.start + before * max(0.0, (end or 0.0) - line.start)).tolist()
    return np.array(out)


def rendered_songs(folder: Path, limit: int | None = None) -> Iterator[KnownSong]:
    """Rendered songs with their true words, heard alone and, where there is a band, with it.

    Raises:
        DataError: no table, or a damaged one.
    """
    from autosing.song.audio import load, mono

    count = 0
    for row in song_rows(folder, ["id", "vocals", "accompaniment", "words"]):
        if limit is not None and count >= limit:
            return
        words = tuple(TimedWord(w["text"], w["start"], w["end"], w["line"]) for w in row["words"] or ())
        if not words:
            continue
        count += 1
        vocals = mono(load(row["vocals"], 24000))
        wavs = {"vocals": vocals}
        if row["accompaniment"] is not None:
            wavs["mixture"] = vocals + load(row["accompaniment"], 24000)[:, : len(vocals)]
        yield KnownSong(row["id"], wavs, 24000, words)


def with_separated(songs: Iterable[KnownSong], separator: Separator) -> Iterator[KnownSong]:
    """The same songs with the vocals that `separator` finds in their mixture as a further input, "separated": what processing aligns on."""
    for song in songs:
        if "mixture" in song.wavs:
            vocals = vocals_of(separator, torch.atleast_2d(song.wavs["mixture"]), song.sample_rate)
            song = replace(song, wavs={**song.wavs, "separated": vocals})
        yield song


def real_songs(folder: Path, sample_rate: int = 24000, limit: int | None = None) -> Iterator[KnownSong]:
    """The songs of `<folder>/ultrastar_cc` and `<folder>/jamendolyrics` with their published word times, as mixtures; `limit` of either."""
    from autosing.song.audio import load

    for song in sorted((Path(folder) / "ultrastar_cc").glob("*/words.derived.csv"))[:limit]:
        audio = next(p for p in song.parent.iterdir() if p.stem == "audio")
        rows = list(csv.DictReader(io.StringIO(song.read_text(encoding="utf-8"))))
        words = _known_words(rows, [row["word"] for row in rows])
        yield KnownSong(song.parent.name, {"mixture": load(audio.read_bytes(), sample_rate)}, sample_rate, words)
    lyrics = Path(folder) / "jamendolyrics" / "lyrics"
    annotated = sorted((Path(folder) / "jamendolyrics" / "annotations" / "words").glob("*.csv"))[:limit]
    languages = _languages(Path(folder) / "jamendolyrics" / "JamendoLyrics.csv") if annotated else {}
    for song in annotated:
        audio = Path(folder) / "jamendolyrics" / "mp3" / f"{song.stem}.mp3"
        rows = list(csv.DictReader(io.StringIO(song.read_text(encoding="utf-8"))))
        texts = (lyrics / f"{song.stem}.words.txt").read_text(encoding="utf-8").split("\n")
        words = _known_words(rows, texts[: len(rows)])
        wavs = {"mixture": load(audio.read_bytes(), sample_rate)}
        yield KnownSong(song.stem, wavs, sample_rate, words, languages.get(song.stem, "unknown"))


def _languages(table: Path) -> dict[str, str]:
    """Song -> its language, as the table of a collection says; empty where there is no table."""
    if not table.is_file():
        return {}
    rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8")))
    return {Path(row["Filepath"]).stem: row["Language"] for row in rows}


def _known_words(rows: Sequence[dict[str, str]], texts: Sequence[str]) -> tuple[TimedWord, ...]:
    words, line = [], 0
    for row, text in zip(rows, texts, strict=True):
        words.append(TimedWord(text.strip().replace(" ", ""), float(row["word_start"]), float(row["word_end"]), line))
        line += row["line_end"] not in ("", "nan")
    return tuple(words)


class LineJudgement(NamedTuple):
    """Trust in a line and whether its words were right: their mean error at most 0.3 s."""

    trust: float
    good: bool


def judge_lines(alignment: Alignment, song: KnownSong) -> list[LineJudgement]:
    """Every line's trust (mean score of its words) beside the truth."""
    out = []
    for line in sorted({w.line for w in song.words}):
        pairs = [(w, r) for w, r in zip(alignment.words, song.words, strict=True) if r.line == line]
        away = np.mean([abs(w.start - r.start) for w, r in pairs])
        out.append(LineJudgement(float(np.mean([w.score for w, _ in pairs])), bool(away <= PCO_WINDOW)))
    return out


def activity_f1(activity: Sequence[float] | np.ndarray, words: Sequence[TimedWord]) -> float:
    """F1 of (F,) activity in [0, 1], `ACTIVITY_RATE` a second, against the words of the reference; see the module."""
    activity = np.asarray(activity)
    centres = (np.arange(len(activity)) + 0.5) / ACTIVITY_RATE
    sung = np.zeros(len(activity), dtype=bool)
    for word in words:
        sung |= (centres >= word.start) & (centres < word.end)
    least = round(LEAST_GAP * ACTIVITY_RATE)
    sung, heard = without_short_gaps(sung, least), without_short_gaps(activity > 0.5, least)
    both = float((sung & heard).sum())
    return 2 * both / max(1.0, float(sung.sum() + heard.sum()))


def without_short_gaps(flags: np.ndarray, least: int) -> np.ndarray:
    """(F,) flags with gaps of fewer than `least` frames between two runs closed."""
    flags = flags.copy()
    inside = np.flatnonzero(flags)
    for first, last in itertools.pairwise(inside):
        if last - first - 1 < least:
            flags[first:last] = True
    return flags


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


MEANS = (*Errors._fields, "activity_f1", "one_core_real_time_factor")


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
