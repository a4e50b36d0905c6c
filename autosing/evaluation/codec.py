"""How much of a voice the codec keeps: rendered songs (true F0), the same as separated stems, and real a-cappella singing.

Figures of one recording, all against the recording itself unless said otherwise:
- `log_mel_db`: mean absolute difference of 80-band log-mel spectra (amplitude, floor -110 dB re full scale, 10 ms hop), over frames that are
  not silent in the original. The same without coding (features straight to synthesis) is `log_mel_uncoded_db`.
- `f0_off_50`: share of truly voiced frames whose decoded F0 is off by more than 50 cents or which are not voiced; `f0_wrong_50`: the same
  among frames voiced on both sides. Truth is the rendered F0; for real singing what the pitch net hears in the original.
- `voicing_error`: share of all frames whose voicing differs.
- `encode_rtf`, `decode_rtf`: processor seconds (all threads together) a second of audio on this machine.
- phone error: a recogniser that is passed in, on the original, on features straight to synthesis, and on decoded codes; against the phones
  of the lyrics for rendered songs, against what it hears in the original for real ones. `added`: decoded codes less the original.
"""

import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from autosing.errors import AutoSingError, DataError
from autosing.evaluation import intervals
from autosing.evaluation.judge import added_error, phone_error_rate
from autosing.nn.spectra import mel_triangles
from autosing.perception.codec.builtin import BuiltinCodec
from autosing.perception.codec.leakage import through_mask
from autosing.perception.separation.base import vocals_of
from autosing.song import audio
from autosing.store import song_rows

F0_RATE = 200  # Hz, of the column `f0`
LEAK_DB = 12.0
REAL_VOICES = (
    "vocadito/Audio/vocadito_1.wav",
    "stems/everythingisfree_cc0/2.Lithium/vocals.flac",
    "stems/everythingisfree_cc0/3.Sodium/vocals.flac",
    "stems/everythingisfree_cc0/6.Caesium/vocals.flac",
)


class Listener(Protocol):
    """A recogniser: evaluation/judge.py."""

    def phones(self, wav: Tensor) -> tuple[str, ...]:
        """(n,) at 24 kHz -> phones."""
        ...


class Recording(NamedTuple):
    """(n,) at the codec's rate; `f0_hz` (T,) at frame centres, 0 = unvoiced, or None; `phones` of the lyrics, or None; `band` (C, n) or None."""

    name: str
    wav: Tensor
    f0_hz: np.ndarray | None
    phones: tuple[str, ...] | None
    band: Tensor | None = None


def log_mel(wav: Tensor, matrix: Tensor) -> Tensor:
    """(n,) -> (bands, frames) natural log of amplitude, floored at e^-7."""
    spectrum = torch.stft(wav, 1024, 240, window=torch.hann_window(1024), return_complex=True)
    return torch.log(matrix @ spectrum.abs() + 1e-4).clamp(min=-7.0)


def log_mel_distance(original: Tensor, other: Tensor) -> float:
    """dB; see the module. Both (n,)."""
    matrix = mel_triangles(24_000, 1024, 80, 40.0, 11_000.0)
    size = min(len(original), len(other))
    a, b = log_mel(original[:size], matrix), log_mel(other[:size], matrix)
    sounding = a.mean(0) > -6.5
    if not bool(sounding.any()):
        return 0.0
    return float((a - b)[:, sounding].abs().mean()) * 20 / math.log(10)


def pitch_errors(f0_hz: np.ndarray, voiced: np.ndarray, truth_hz: np.ndarray) -> dict[str, float]:
    """Decoded F0 and voicing (T,) against the truth (T,), 0 = unvoiced."""
    size = min(len(f0_hz), len(truth_hz))
    f0_hz, voiced, truth_hz = f0_hz[:size], voiced[:size], truth_hz[:size]
    sung = truth_hz > 0
    cents = np.abs(1200 * np.log2(f0_hz[sung] / truth_hz[sung]))
    wrong = cents > 50
    both = voiced[sung]
    return {
        "f0_off_50": float((wrong | ~both).mean()) if sung.any() else 0.0,
        "f0_wrong_50": float(wrong[both].mean()) if both.any() else 0.0,
        "voicing_error": float((voiced != sung).mean()),
    }


def rendered_recordings(
    songs: Path, codec: BuiltinCodec, limit: int | None = None, most_seconds: float = 40.0
) -> Iterator[Recording]:
    """Vocals of rendered songs, whole if they are short, so that phones and audio belong together.

    Raises:
        DataError: no table, or a damaged one.
    """
    spec, count = codec.spec, 0
    for row in song_rows(songs, ["id", "vocals", "accompaniment", "f0", "pron"]):
        wav = _mono(row["vocals"], spec.sample_rate)
        if len(wav) > most_seconds * spec.sample_rate or row["f0"] is None:
            continue
        f0 = np.frombuffer(row["f0"], np.float32)
        centres = (np.arange(len(wav) // spec.hop) + 0.5) * spec.hop / spec.sample_rate
        at_frames = f0[np.clip(np.round(centres * F0_RATE).astype(int), 0, len(f0) - 1)]
        band = _channels(row["accompaniment"], spec.sample_rate)[:, : len(wav)] if row["accompaniment"] else None
        yield Recording(row["id"], wav, at_frames, tuple(row["pron"] or ()) or None, band)
        count += 1
        if limit is not None and count >= limit:
            return


def separated(recordings: Iterable[Recording], codec: BuiltinCodec, separator: Any | None = None) -> Iterator[Recording]:
    """The same songs as a separator leaves them: a real one where given, else an imitation (leakage.py)."""
    for number, recording in enumerate(recordings):
        if recording.band is None or not bool(recording.band.any()):
            continue
        band = torch.nn.functional.pad(recording.band, (0, len(recording.wav) - recording.band.shape[1]))
        if separator is not None:
            heard = vocals_of(separator, recording.wav + band, codec.spec.sample_rate).mean(0)
        else:
            heard = through_mask(recording.wav[None], band.mean(0, keepdim=True), torch.Generator().manual_seed(number))[0]
        yield recording._replace(wav=heard)


def leaking(recordings: Iterable[Recording]) -> Iterator[Recording]:
    """The same songs with the whole band at LEAK_DB below the voice, the hard case of embedded-default studies."""
    for recording in recordings:
        if recording.band is None or not bool(recording.band.any()):
            continue
        band = torch.nn.functional.pad(recording.band, (0, len(recording.wav) - recording.band.shape[1])).mean(0)
        gain = (recording.wav.square().mean() / band.square().mean()).sqrt() * 10 ** (-LEAK_DB / 20)
        yield recording._replace(wav=recording.wav + gain * band)


def real_recordings(
    folder: Path, codec: BuiltinCodec, most_seconds: float = 45.0, most_recordings: int | None = None
) -> Iterator[Recording]:
    """Real a-cappella singing of the data folder; what is absent is left out."""
    for path in (Path(folder) / name for name in REAL_VOICES[:most_recordings]):
        if path.is_file():
            wav = _mono(path.read_bytes(), codec.spec.sample_rate)[: int(most_seconds * codec.spec.sample_rate)]
            yield Recording(path.parent.name if path.stem == "vocals" else path.stem, wav, None, None)


def _channels(data: bytes, rate: int) -> Tensor:
    """(C, n)."""
    song = audio.decode(data)
    return audio.resample(song.samples, song.sample_rate, rate)


def _mono(data: bytes, rate: int) -> Tensor:
    return _channels(data, rate).mean(0)


def measure(codec: BuiltinCodec, recordings: Iterable[Recording], judge: Listener | None = None) -> dict[str, Any]:
    """Figures over recordings; per recording under "songs".

    Args:
        codec: the codec of voices.
        recordings: what is coded.
        judge: a recogniser; None leaves phone errors out.

    Raises:
        DataError: no recording.
    """
    rows: list[dict[str, Any]] = []
    heard: dict[str, list[tuple[str, ...]]] = {"original": [], "uncoded": [], "coded": []}
    written: list[tuple[str, ...]] = []
    encode_seconds = decode_seconds = audio_seconds = 0.0
    for recording in recordings:
        wav = recording.wav
        start = time.process_time()
        codes = codec.encode(wav[None, None])
        middle = time.process_time()
        coded = codec.decode(codes)[0, 0]
        end = time.process_time()
        encode_seconds, decode_seconds = encode_seconds + middle - start, decode_seconds + end - middle
        audio_seconds += len(wav) / codec.spec.sample_rate
        features = codec.features(wav)
        uncoded = codec.resynthesise(features)[0]
        truth = recording.f0_hz
        if truth is None:
            truth = torch.where(features.voiced, features.f0_hz, torch.zeros_like(features.f0_hz))[0].numpy()
        decoded = codec.books.decode([level[0] for level in _levels(codes, codec)])
        rows.append({
            "song": recording.name,
            "log_mel_db": log_mel_distance(wav, coded[: len(wav)]),
            "log_mel_uncoded_db": log_mel_distance(wav, uncoded[: len(wav)]),
            **pitch_errors(decoded.f0_hz[0].numpy(), decoded.voiced[0].numpy(), truth),
        })  # fmt: skip
        if judge is not None:
            takes = {"original": wav, "uncoded": uncoded[: len(wav)], "coded": coded[: len(wav)]}
            for name, take in takes.items():
                heard[name].append(judge.phones(take))
            written.append(recording.phones or heard["original"][-1])
    if not rows:
        raise DataError("nothing to judge the codec on: no recording was found")
    names = [name for name in rows[0] if name != "song"]
    figures: dict[str, Any] = intervals.means(rows, names)
    figures |= {
        "recordings": len(rows), "seconds": round(audio_seconds, 1),
        "encode_rtf": round(encode_seconds / audio_seconds, 4), "decode_rtf": round(decode_seconds / audio_seconds, 4),
        "songs": [{k: v if k == "song" else round(v, 4) for k, v in row.items()} for row in rows],
    }  # fmt: skip
    if judge is not None:
        rates = {name: phone_error_rate(takes, written) for name, takes in heard.items()}
        rates["added"] = added_error(heard["original"], heard["coded"], written)
        figures["phone_error"] = {name: rate.figures() for name, rate in rates.items()}
    return figures


def _levels(codes: Tensor, codec: BuiltinCodec) -> list[Tensor]:
    return [codes[:, level, ::stride] for level, stride in enumerate(codec.spec.strides)]


def evaluate_codec(
    songs: Path,
    real: Path | None,
    judge: Listener | None = None,
    limit: int | None = None,
    separator: Any | None = None,
    real_limit: int | None = None,
) -> dict[str, Any]:
    """All figures of the embedded codec of voices.

    Args:
        songs: folder of unseen rendered songs.
        real: folder of real recordings, or None.
        judge: a recogniser for phone errors.
        limit: rendered songs at most.
        separator: makes the separated stems; None = an imitation of one.
        real_limit: real recordings at most.
    """
    codec = BuiltinCodec()
    rendered = list(rendered_recordings(songs, codec, limit))
    figures: dict[str, Any] = {
        "kbps": round(codec.spec.bits_per_second / 1000, 4),
        "rendered": measure(codec, rendered, judge),
        "rendered_separated": measure(codec, separated(rendered, codec, separator), judge),
        "rendered_leak_12db": measure(codec, leaking(rendered), judge),
    }
    voices = list(real_recordings(real, codec, most_recordings=real_limit)) if real else []
    if voices:
        figures["real"] = measure(codec, voices, judge)
    return figures


def main(argv: list[str] | None = None) -> int:
    """`python -m autosing.evaluation.codec --songs <test songs> [--shared ../shared/data]`: one JSON object as the last line; 2: a mistake in the request."""
    import argparse
    import json
    import sys

    parser = argparse.ArgumentParser(prog="python -m autosing.evaluation.codec", description="Judge the embedded codec.")
    parser.add_argument("--songs", type=Path, required=True)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--judge", help="a recogniser's checkpoint folder")
    options = parser.parse_args(argv)
    try:
        judge = None
        if options.judge:
            from autosing.evaluation.judge import Judge

            judge = Judge(options.judge)
        print(json.dumps(evaluate_codec(options.songs, options.shared, judge, options.limit)))
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
