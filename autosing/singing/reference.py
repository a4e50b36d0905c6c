"""Recordings as a sing request uses them: the stretch that is sung over, taken apart, and whose voice is in it.

What was heard is kept by content (cache.py), so nothing here may depend on whether it was: what a cache would round is rounded always.
Letters: C channels, n samples, K codec levels, T finest codec frames, D width, F frames of activity.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import autosing
from autosing.errors import AudioError, DataError
from autosing.models.io import resolve, weights_file
from autosing.perception.alignment.base import Aligner
from autosing.perception.codec.base import Codec
from autosing.perception.separation.base import Separator, vocals_of
from autosing.perception.voice.base import VoiceEmbedder
from autosing.singing.cache import Cache, Tensors
from autosing.singing.mix import QUIETEST_VOCALS_DB
from autosing.singing.request import SHORTEST_SECONDS
from autosing.song import audio
from autosing.store import sha256_of
from autosing.tokens.specs import Seconds

CONTEXT_SECONDS: Seconds = 2.0  # the separator hears this much around the stretch that is sung over
VOICE_WINDOW_SECONDS: Seconds = 10.0
VOICE_SECONDS: Seconds = 60.0  # of a singer's recording, how much is listened to
PIECE_SECONDS: Seconds = 30.0  # a voice is looked for in pieces of this length
SEARCH_SECONDS: Seconds = 600.0  # and no further
SINGING_SHARE = 0.15  # below this share of frames with singing, a recording has no voice to copy
HIGHEST_RATE = 48_000  # nothing of a voice lies above what this rate holds
_LEAST = [SINGING_SHARE, QUIETEST_VOCALS_DB]
"""On which it depends whether somebody sings; what is kept of that goes by them."""
FINE = 16_384  # a stem is kept in steps of 1 / FINE, up to twice full scale


class Reference(NamedTuple):
    """The stretch of the reference.

    Attributes:
        rate: Hz of both stems, and of what is written.
        vocals, band: (C, n), its stems.
        has_voice: somebody sings in it.
        activity: (F,) probability of singing.
        voice: (D,) who sings; None without voice.
        codes: (1, K, T) of the band.
    """

    rate: int
    vocals: Tensor
    band: Tensor
    has_voice: bool
    activity: np.ndarray
    voice: Tensor | None
    codes: Tensor

    @property
    def seconds(self) -> Seconds:
        return self.band.shape[-1] / self.rate

    def cut(self, seconds: Seconds, codes: int) -> "Reference":
        """Its first `seconds`, with as many frames of `codes`."""
        n = round(seconds * self.rate)
        return self._replace(vocals=self.vocals[:, :n], band=self.band[:, :n], codes=self.codes[..., :codes])


class Hearing:
    """Separator, aligner, voice embedder and the accompaniment's codec, and what they have heard before."""

    def __init__(
        self, separator: Separator, aligner: Aligner, voice: VoiceEmbedder, band_codec: Codec, lowest_rate: int, cache: Cache,
        device: torch.device, choices: Sequence[str],
    ):  # fmt: skip
        """
        Args:
            lowest_rate: recordings of a lower rate are brought up to it, for the voice that is sung to keep its highs.
            choices: by which the ears were loaded; what others heard is not taken from the cache.
        """
        self.separator, self.aligner, self.voice, self.band_codec = separator, aligner, voice, band_codec
        self.lowest_rate, self.cache, self.device, self._choices = lowest_rate, cache, device, list(choices)
        self._ears: dict[str, object] | None = None

    def read(self, path: Path, start: Seconds, length: Seconds) -> Reference:
        """Up to `length` seconds of the recording from `start`.

        Raises:
            AudioError: it cannot be used; names the file.
            DataError: it cannot be read, or too little of it is left.
        """
        before = max(0.0, start - CONTEXT_SECONDS)
        data, song = self._decode(path, before, start + length + CONTEXT_SECONDS)
        if song.whole - start < SHORTEST_SECONDS - 1e-6:  # what rounding takes off is not missed
            raise DataError(
                f"--start-time {start:g} leaves less than {SHORTEST_SECONDS:g} s of '{path}', which lasts {song.whole:.1f} s; "
                "give an earlier start or a longer recording"
            )
        rate, end = song.sample_rate, min(song.whole, start + length)
        after = min(song.whole, end + CONTEXT_SECONDS)
        wide = song.samples[:, int(before * rate) - int(song.start * rate) : int(after * rate) - int(song.start * rate)]
        inner = slice(int((start - before) * rate), int((end - before) * rate))

        def listen() -> Tensors:
            stem = self.separate(wide, rate)[:, inner]
            rounded = (stem * FINE).round().clamp(-32768, 32767).to(torch.int16)
            vocals = rounded.float() / FINE
            band = wide[:, inner] - vocals
            return {"vocals": rounded, "activity": self._activity(vocals, rate), "codes": self.band_codes(band, rate).cpu(), "voice": self.embed(vocals, rate)}

        heard = self.cache.get(self._key("reference", data, start=start, end=end), listen)
        vocals = heard["vocals"].float() / FINE
        band = wide[:, inner] - vocals
        sung = _is_sung(heard["activity"], vocals, band)
        voice, codes = heard["voice"] if sung else None, heard["codes"].to(self.device)
        return Reference(rate, vocals, band, sung, heard["activity"].numpy(), voice, codes)

    def silence(self, length: Seconds) -> Tensor:
        """(1, K, T) codes of no band at all."""
        spec = self.band_codec.spec
        return self.band_codec.encode(torch.zeros(1, 1, spec.frames(length) * spec.hop, device=self.device))

    def singers(self, paths: Sequence[Path], tell: Callable[[str], None]) -> Tensor:
        """(D,) the voice between those of several recordings, each counting alike; `tell`: is told in which of them nobody is heard singing.

        Raises:
            AudioError, DataError: one cannot be used.
        """
        voices = []
        for path in paths:
            voice, is_sung = self._singer(path)
            voices.append(voice)
            if not is_sung:
                tell(f"--spkfile: nobody is heard singing in '{path}'; the voice is that of whatever sounds in its first {VOICE_SECONDS:g} s")
        return torch.nn.functional.normalize(torch.stack(voices).mean(0), dim=0)

    def voice_in(self, path: Path) -> Tensor | None:
        """(D,) whoever is first heard singing in a recording; None where nobody is in its first `SEARCH_SECONDS`."""
        data, song = self._decode(path, 0.0, SEARCH_SECONDS)
        rate = song.sample_rate

        def listen() -> Tensors:
            for piece in song.samples.split(int(PIECE_SECONDS * rate), 1):
                vocals = self.separate(piece, rate)
                if self._sings(vocals, piece, rate):
                    return {"voice": self.embed(vocals, rate)}
            return {"voice": torch.zeros(0)}

        voice = self.cache.get(self._key("voice", data, least=_LEAST), listen)["voice"]
        return voice if len(voice) else None

    def _singer(self, path: Path) -> tuple[Tensor, bool]:
        """(D,) the voice in the beginning of a recording, or of whoever is first heard singing later; and whether anybody sings."""
        data, song = self._decode(path, 0.0, VOICE_SECONDS)
        rate = song.sample_rate

        def listen() -> Tensors:
            vocals = self.separate(song.samples, rate)
            return {"voice": self.embed(vocals, rate), "is_sung": torch.tensor(self._sings(vocals, song.samples, rate))}

        heard = self.cache.get(self._key("speaker", data, least=_LEAST), listen)
        if heard["is_sung"]:
            return heard["voice"], True
        later = self.voice_in(path)
        return (heard["voice"], False) if later is None else (later, True)

    def _activity(self, vocals: Tensor, rate: int) -> Tensor:
        """(C, n) vocals -> (F,) probability of singing."""
        return self.aligner.activity(audio.resample(audio.mono(vocals), rate, self.aligner.sample_rate)).float()

    def _sings(self, vocals: Tensor, mix: Tensor, rate: int) -> bool:
        """Whether somebody sings in a mix (C, n) with these vocals."""
        return _is_sung(self._activity(vocals, rate), vocals, mix - vocals)

    def vocals_of(self, path: Path, length: Seconds) -> tuple[Tensor, int, bool]:
        """(C, n) the separated first `length` seconds of a recording, their rate, and whether anybody sings in them."""
        _, song = self._decode(path, 0.0, length)
        rate = song.sample_rate
        stretch = song.samples[:, : int(length * rate)]
        vocals = self.separate(stretch, rate)
        return vocals, rate, self._sings(vocals, stretch, rate)

    def separate(self, wav: Tensor, rate: int) -> Tensor:
        """(C, n) at `rate` -> its vocals (C, n) at `rate`; what lies above the separator's band stays with the instrumental."""
        return vocals_of(self.separator, wav.to(self.device), rate)

    def band_codes(self, band: Tensor, rate: int) -> Tensor:
        """(C, n) -> (1, K, T) codes of the instrumental."""
        spec = self.band_codec.spec
        n = spec.frames(band.shape[-1] / rate) * spec.hop
        wav = audio.resample(audio.mono(band), rate, spec.sample_rate)
        wav = torch.nn.functional.pad(wav, (0, max(0, n - wav.shape[-1])))[:n]
        return self.band_codec.encode(wav[None, None].to(self.device))

    def embed(self, vocals: Tensor, rate: int) -> Tensor:
        """(C, n) vocals -> (D,) unit vector, the mean over windows."""
        wav = audio.resample(audio.mono(vocals), rate, self.voice.spec.sample_rate).to(self.device)
        width = int(VOICE_WINDOW_SECONDS * self.voice.spec.sample_rate)
        pieces = [p for p in wav.split(width) if p.shape[0] >= self.voice.spec.sample_rate] or [wav]
        return torch.nn.functional.normalize(torch.stack([self.voice.embed(p[None])[0] for p in pieces]).mean(0), dim=0)

    def _decode(self, path: Path, begin: Seconds, end: Seconds) -> tuple[bytes, audio.Stretch]:
        """The bytes of a recording, and the whole seconds around a stretch of it, which is not silent as a whole.

        Raises:
            AudioError: it cannot be used; names the file.
            DataError: it cannot be read.
        """
        try:
            data = path.read_bytes()
            song = audio.decode_stretch(data, begin, end)
        except AudioError as error:
            raise AudioError(error.code, f"'{path}': {error}") from error
        except OSError as error:
            raise DataError(f"'{path}' cannot be read ({error.strerror})") from error
        rate = min(HIGHEST_RATE, max(self.lowest_rate, song.sample_rate))
        return data, song._replace(samples=audio.resample(song.samples, song.sample_rate, rate), sample_rate=rate)

    def _key(self, what: str, data: bytes, **settings: object) -> Mapping[str, object]:
        if self._ears is None:
            weights = {kind: sha256_of(weights_file(resolve("builtin", kind))) for kind in ("separator", "recogniser", "voice", "codec_band")}
            names = [self.separator.name, self.aligner.name, asdict(self.voice.spec), asdict(self.band_codec.spec)]
            self._ears = {"weights": weights, "ears": names, "choices": self._choices, "autosing": autosing.__version__, "torch": torch.__version__,
                          "device": str(self.device), "threads": torch.get_num_threads()}  # fmt: skip
        return {"what": what, "recording": sha256(data).hexdigest(), **settings, **self._ears}


def _is_sung(activity: Tensor, vocals: Tensor, band: Tensor) -> bool:
    """Whether somebody sings, by (F,) probabilities; vocals (C, n) that are fainter there than a voice is are what the separator left of the band."""
    active = activity > 0.5
    if not len(active) or float(active.float().mean()) < SINGING_SHARE:
        return False
    heard = active.repeat_interleave(-(-vocals.shape[-1] // len(active)))[: vocals.shape[-1]]
    power, other = (float(stem[:, heard].square().mean()) for stem in (vocals, band))
    return power >= other * 10 ** (QUIETEST_VOCALS_DB / 10)
