"""Audio bytes <-> samples, resampling, levels. Letters: C channels, n samples.

Reads wav, flac, mp3, ogg and opus from bytes with libsndfile (inside the soundfile wheel; no ffmpeg). Damaged input is an
`AudioError` with a code, found by comparing what the header promises with what was decoded: half a file mostly decodes silently.
"""

import contextlib
import io
import math
import re
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from autosing.errors import AudioError
from autosing.song import mp3
from autosing.tokens.specs import Seconds

MAX_SECONDS: Seconds = 30 * 60.0
"""Longer audio is refused before it is decoded."""
SILENCE_PEAK = 10 ** (-60 / 20)
"""A recording that never exceeds -60 dBFS is called silent."""
MIN_RATE = 1000
"""A lower sample rate is a damaged header."""
MAX_RATE = 96_000
"""Audio at a higher rate may last accordingly less, so that the limit bounds memory too (whatever rate a header claims)."""
_RATIO_STEPS = 1000  # resampling kernels grow with both terms of the ratio of rates; a standard pair has at most 640
_BLOCK = 1 << 18  # frames decoded or encoded at a time: bounds memory, and long Vorbis writes overflow libsndfile's stack
_WRITES: dict[str, Callable[[int], bool]] = {  # rates a format can hold; beyond 200 kHz libsndfile's Vorbis writer crashes
    "opus": (8000, 12000, 16000, 24000, 48000).__contains__,
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000).__contains__,
    "ogg": lambda rate: rate <= 192_000,
    "flac": lambda rate: rate <= 192_000,
    "wav": lambda rate: True,
}
_FALLBACK_RATE = 48_000
_FLAC_BEGINS = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # the name, and the header of the block of 34 bytes that says what the samples are


class Audio(NamedTuple):
    """`samples` (C, n) float32 in [-1, 1] by convention, at `sample_rate` Hz."""

    samples: Tensor
    sample_rate: int

    @property
    def seconds(self) -> Seconds:
        return self.samples.shape[-1] / self.sample_rate


class Stretch(NamedTuple):
    """A stretch of a recording: `samples` (C, n) at `sample_rate` Hz from `start` on. `whole`: how long all of the recording lasts."""

    samples: Tensor
    sample_rate: int
    start: Seconds
    whole: Seconds


class _Read(NamedTuple):
    """What was asked for of a recording, (C, n), and the length and the highest sample of all of it."""

    samples: Tensor
    sample_rate: int
    seconds: Seconds
    peak: float


def decode(data: bytes, max_seconds: Seconds = MAX_SECONDS) -> Audio:
    """Decode a whole recording; more than two channels are averaged to one. Of mp3, FLAC or Ogg files joined end to end each is read, and brought
    to the rate of the first.

    Args:
        data: the bytes of a wav, flac, mp3, ogg or opus file.
        max_seconds: longer recordings are refused, by their header and while decoding.

    Raises:
        AudioError: code `empty`, `not_audio`, `truncated`, `too_long`, `non_finite` or `no_samples`.
    """
    read = _read(data, max_seconds, 0.0, math.inf)
    return Audio(read.samples, read.sample_rate)


def decode_stretch(data: bytes, begin: Seconds, end: Seconds) -> Stretch:
    """The whole seconds around `begin` to `end` of a recording, all of which is checked as by `decode` and `require_sound`; memory is taken by the
    stretch alone.

    Raises:
        AudioError: as by those two.
    """
    start = float(math.floor(begin))
    read = _read(data, MAX_SECONDS, start, math.ceil(end))
    _require_peak(read.peak)
    return Stretch(read.samples, read.sample_rate, start, read.seconds)


def _read(data: bytes, max_seconds: Seconds, begin: Seconds, end: Seconds) -> _Read:
    """`decode` of the stretch from `begin` to `end`."""
    if not data:
        raise AudioError("empty", "the audio cell holds no bytes; give the bytes of a wav, flac, mp3, ogg or opus file")
    parts: list[_Read] = []
    seconds = 0.0
    for piece in _parts(data):
        parts.append(_decode(piece, max_seconds, begin - seconds, end - seconds))
        seconds += parts[-1].seconds
        if len(parts) > 1 and seconds > max_seconds:
            raise _too_long(seconds, max_seconds)
    if len(parts) == 1:
        return parts[0]
    rate, channels = parts[0].sample_rate, max(len(part.samples) for part in parts)
    asked = [part for part in parts if part.samples.shape[1]] or parts[:1]
    samples = torch.cat([resample(part.samples, part.sample_rate, rate).expand(channels, -1) for part in asked], 1)
    return _Read(samples, rate, seconds, max(part.peak for part in parts))


def _parts(data: bytes) -> list[bytes]:
    """The files that a recording was joined of, end to end."""
    if data[:4] == b"OggS":
        return _ogg_parts(data)
    return _flac_parts(data) if data.startswith(b"fLaC", mp3.after_tags(data)) else mp3.parts(data)


def _decode(data: bytes, max_seconds: Seconds, begin: Seconds, end: Seconds) -> _Read:
    """`_read` of what has one header."""
    rate = count = 0
    try:
        with soundfile.SoundFile(io.BytesIO(mp3.with_length(data))) as file:
            rate, channels, promised = file.samplerate, file.channels, file.frames
            if rate < MIN_RATE:
                raise AudioError("not_audio", f"its header says {rate} Hz, under the {MIN_RATE} Hz of any recording of a voice; export it again")
            max_seconds *= min(1.0, MAX_RATE / rate)
            limit = int(max_seconds * rate)
            unknown_length = promised <= 0 or promised >= 1 << 60
            if not unknown_length and promised > limit:
                raise _too_long(promised / rate, max_seconds)
            first, last = (round(min(max(0.0, at), max_seconds) * rate) for at in (begin, end))
            blocks: list[np.ndarray] = [np.zeros((0, 1 if channels > 2 else channels), np.float32)]
            peak = 0.0
            while True:
                block = file.read(_BLOCK, dtype="float32", always_2d=True)
                if not len(block):
                    break
                before, count = count, count + len(block)
                if count > limit:
                    raise _too_long(count / rate, max_seconds)
                block = block.mean(axis=1, keepdims=True) if channels > 2 else block
                peak = np.maximum(peak, np.abs(block).max())  # NaN stays NaN
                if first < count and before < last:
                    blocks.append(block[max(0, first - before) : last - before])
    except (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError) as error:
        reason = getattr(error, "error_string", error)  # without the address of the buffer: equal faults read equal
        if rate:  # its header can be read
            raise AudioError("truncated", f"the file is damaged or cut off: {count / rate:.1f} s decoded ({reason}); fetch or export it again") from error
        raise AudioError("not_audio", f"cannot be decoded as wav, flac, mp3, ogg or opus ({reason}); convert it") from error
    if not count:
        raise AudioError("no_samples", "the file has a header but no samples; record or export it again")
    missing = 0 if unknown_length or mp3.is_guessed(data) else promised - count
    if missing > max(0.05 * rate, 0.005 * promised) or _ends_early(data):
        raise AudioError("truncated", f"the file ends early: {count / rate:.1f} s decoded of what its header promises")
    if not np.isfinite(peak):
        raise AudioError("non_finite", "the samples hold NaN or infinity; export the file again")
    return _Read(torch.from_numpy(np.concatenate(blocks).T.copy()), rate, count / rate, float(peak))


@contextlib.contextmanager
def opened(source: Path | bytes) -> Iterator[soundfile.SoundFile]:
    """A file, or the bytes of one, to read parts of; nothing is checked but that it can be decoded.

    Raises:
        AudioError: code `not_audio`; a file is named.
    """
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as data, soundfile.SoundFile(data) as file:
            yield file
    except soundfile.LibsndfileError as error:
        what = "the audio" if isinstance(source, bytes) else f"'{source}'"
        raise AudioError("not_audio", f"{what} cannot be decoded as wav, flac, mp3, ogg or opus ({error.error_string}); convert it") from error


def require_sound(audio: Audio) -> Audio:
    """The audio itself, if it is not silent.

    Raises:
        AudioError: code `silent`.
    """
    _require_peak(float(audio.samples.abs().max()))
    return audio


def _require_peak(peak: float) -> None:
    if peak < SILENCE_PEAK:
        raise AudioError("silent", "the recording never exceeds -60 dBFS; check the file")


def encode(samples: Tensor, sample_rate: int, audio_format: str = "flac") -> bytes:
    """Samples (C, n) or (n,) -> bytes of `audio_format`: "wav" and "flac" (16 bit), "ogg" (Vorbis), "opus", "mp3".

    Samples are clipped to [-1, 1]; they are resampled to 48 kHz where the format cannot hold the rate.

    Raises:
        AudioError: code `format`: no such format.
    """
    subtypes = {
        "wav": ("WAV", "PCM_16"),
        "flac": ("FLAC", "PCM_16"),
        "ogg": ("OGG", "VORBIS"),
        "opus": ("OGG", "OPUS"),
        "mp3": ("MP3", "MPEG_LAYER_III"),
    }
    if audio_format not in subtypes:
        raise AudioError("format", f"cannot write audio as '{audio_format}'; choose one of: {', '.join(subtypes)}")
    samples = torch.atleast_2d(samples.detach().cpu().float())
    if not _WRITES[audio_format](sample_rate):
        samples, sample_rate = resample(samples, sample_rate, _FALLBACK_RATE), _FALLBACK_RATE
    values = samples.clamp(-1, 1).numpy().T
    container, subtype = subtypes[audio_format]
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", samplerate=sample_rate, channels=values.shape[1], format=container, subtype=subtype
    ) as file:
        for begin in range(0, len(values), _BLOCK):
            file.write(values[begin : begin + _BLOCK])
    return _with_fixed_serial(buffer.getvalue()) if container == "OGG" else buffer.getvalue()


def resample(samples: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """(..., n) at `from_rate` Hz -> (..., ceil(n * to / from)) at `to_rate` Hz, band-limited (windowed sinc)."""
    if from_rate == to_rate or not samples.shape[-1]:
        return samples
    ratio = Fraction(to_rate, from_rate)
    if ratio > 1:
        near = 1 / (1 / ratio).limit_denominator(_RATIO_STEPS)
    else:
        near = ratio.limit_denominator(_RATIO_STEPS)  # off by less than 1e-5 for rates nobody uses, exact for the others
    out = torchaudio.functional.resample(samples, near.denominator, near.numerator, lowpass_filter_width=24, rolloff=0.96)
    length = -(-samples.shape[-1] * to_rate // from_rate)
    return torch.nn.functional.pad(out, (0, max(0, length - out.shape[-1])))[..., :length]


def mono(samples: Tensor) -> Tensor:
    """(C, n) -> (n,), the mean of the channels."""
    return samples.mean(dim=0)


def load(data: bytes, sample_rate: int, max_seconds: Seconds = MAX_SECONDS) -> Tensor:
    """Decode, refuse silence, resample: bytes -> (C, n) float32 at `sample_rate` Hz, C 1 or 2."""
    audio = require_sound(decode(data, max_seconds))
    return resample(audio.samples, audio.sample_rate, sample_rate)


def _too_long(seconds: Seconds, limit: Seconds) -> AudioError:
    return AudioError("too_long", f"lasts {seconds / 60:.1f} minutes, more than the limit of {limit / 60:.0f}; cut it")


def _with_fixed_serial(data: bytes) -> bytes:
    """An Ogg stream with serial number 1 on every page instead of a random one: equal samples give equal bytes."""
    out = bytearray(data)
    position = 0
    while position < len(out):
        segments = out[position + 26]
        end = position + 27 + segments + sum(out[position + 27 : position + 27 + segments])
        out[position + 14 : position + 18] = (1).to_bytes(4, "little")
        out[position + 22 : position + 26] = bytes(4)
        out[position + 22 : position + 26] = _ogg_crc(bytes(out[position:end])).to_bytes(4, "little")
        position = end
    return bytes(out)


def _ogg_crc(page: bytes) -> int:
    """CRC-32 of RFC 3533 (polynomial 0x04c11db7, not reflected, start 0), by way of zlib's reflected one."""
    reflected = zlib.crc32(page.translate(_REFLECTED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


_REFLECTED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_parts(data: bytes) -> list[bytes]:
    """The streams that follow one another in an Ogg file: a page that begins one after a page that does not."""
    cuts, position, begins = [0], 0, True
    while data[position : position + 4] == b"OggS" and len(data) > position + 26:
        begun, begins = begins, bool(data[position + 5] & 2)
        if begins and not begun:
            cuts.append(position)
        segments = data[position + 26]
        position += 27 + segments + sum(data[position + 27 : position + 27 + segments])
    return [data[begin:end] for begin, end in pairwise([*cuts, len(data)])]


def _flac_parts(data: bytes) -> list[bytes]:
    """The streams that follow one another in a FLAC file, each with the tags after it."""
    cuts = [0, *(match.start() for match in _FLAC_BEGINS.finditer(data, mp3.after_tags(data) + 1)), len(data)]
    return [data[begin:end] for begin, end in pairwise(cuts)]


def _ends_early(data: bytes) -> bool:
    """Container-level signs of a cut file that libsndfile passes over in silence."""
    if data[:4] == b"OggS":  # the last page of a stream carries the end-of-stream flag
        last = data.rfind(b"OggS")
        return len(data) < last + 6 or not data[last + 5] & 4
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        position = 12
        while position + 8 <= len(data):
            size = int.from_bytes(data[position + 4 : position + 8], "little")
            if data[position : position + 4] == b"data":  # 0 and 2^32 - 1 mean "length unknown" in streams
                return size not in (0, 0xFFFFFFFF) and position + 8 + size > len(data)
            position += 8 + size + size % 2
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        size = int.from_bytes(data[4:8], "big")
        return size < 0x7F000000 and 8 + size > len(data) + 1  # more means "length unknown"; some leave out the last byte, of padding
    return False
