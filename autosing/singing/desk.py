"""The vocals of a song laid over the band of its reference: at once when all of it is sung, or piece by piece while it is.

Levels and peaks are `mix.py`'s business; here is which level is asked for, where edges are faded, and how long the mix is.
Letters: C channels, n samples.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from autosing.singing.mix import AUDIBLE, Gains, Mixed, Seam, active_level, choose_gains, fade_edges, mix_with, sounding
from autosing.singing.reference import Reference
from autosing.singing.request import SingRequest
from autosing.song import audio
from autosing.tokens.specs import Seconds

FADE_SECONDS: Seconds = 0.01
SETTLED_SECONDS: Seconds = 3.0  # of a voice from which its level is known
STREAM_MARGIN: Seconds = 0.6  # the end of what was decoded may still change with what follows

Listening = Callable[[Tensor, int], None]
"""Is given the mix (C, n) as it grows, piece after piece, and its rate."""


class Desk:
    """Where vocals and band come together.

    Attributes:
        vocals_rate, rate: Hz of what is sung and of the mix.
        edge: samples of a fade.
        music_volume: factor on the band.
    """

    def __init__(self, vocals_rate: int, request: SingRequest, reference: Reference | None, seconds: Seconds):
        """
        Args:
            vocals_rate: Hz of what is sung, the codec's.
            seconds: how long the song will be.
        """
        self.vocals_rate, self._seconds = vocals_rate, seconds
        self._sung_over = None if request.tts else reference
        self.rate = vocals_rate if reference is None else reference.rate
        self.edge = int(FADE_SECONDS * self.rate)
        self.music_volume = request.music_volume

    @property
    def band(self) -> Tensor | None:
        """(C, n) all of the band; None = none."""
        return None if self._sung_over is None else self._sung_over.band

    def tracks(self, vocals: Tensor, is_whole: bool) -> tuple[Tensor, Tensor, float]:
        """(1, n) vocals at the codec's rate -> vocals and band (C, n) at the rate of the mix, as long as the song where the vocals are its `whole` and
        their last whole frame ends before; and the level wanted of the vocals."""
        vocals = audio.resample(vocals, self.vocals_rate, self.rate)
        if is_whole and (missing := round(self._seconds * self.rate) - vocals.shape[-1]) > 0:
            vocals = torch.nn.functional.pad(fade_edges(vocals, self.edge, start=False), (0, missing))
        n = vocals.shape[-1]
        reference = self._sung_over
        if reference is None:
            return vocals, torch.zeros(1, n), 0.0
        band = torch.nn.functional.pad(reference.band, (0, max(0, n - reference.band.shape[-1])))[:, :n]
        return vocals, band, active_level(reference.vocals) if reference.has_voice else 0.0

    def mix(self, vocals: Tensor) -> Mixed:
        """(1, n) all vocals at the codec's rate, over the band."""
        vocals, band, level = self.tracks(vocals, is_whole=True)
        vocals, band = fade_edges(vocals, self.edge), fade_edges(band, self.edge)
        return mix_with(vocals, band, choose_gains(vocals, band, self.rate, level, self.music_volume), self.rate)


class Stream:
    """The mix as it grows: the band's level is settled with the first piece, the voice's once enough of it is heard, and what was given out stays."""

    def __init__(self, desk: Desk, listening: Listening):
        self._desk, self._listening = desk, listening
        self._seam = Seam(desk.vocals_rate)
        self._gains: Gains | None = None
        self._is_settled = False
        self._given = 0  # samples of the mix
        self._pieces: list[Mixed] = []
        self.first_at = 0.0
        self.done = False

    @property
    def vocals(self) -> Tensor:
        """(n,) at the codec's rate, as given out."""
        return self._seam.whole

    @property
    def mixed(self) -> Mixed:
        """All that was given out."""
        mix, vocals, band = (torch.cat(parts, 1) for parts in zip(*((p.mix, p.vocals, p.accompaniment) for p in self._pieces), strict=True))
        return Mixed(mix, vocals, band, self._pieces[-1].gains)

    def feed(self, decoded: Tensor, last: bool) -> None:
        """(n,) all vocals so far, whose end may still change unless they are the `last`."""
        self._seam.grow(decoded, 0 if last else int(STREAM_MARGIN * self._desk.vocals_rate))
        vocals, band, level = self._desk.tracks(self._seam.whole[None], is_whole=last)
        before = self._gains
        gains = self._settle(vocals, band, level)
        if before is not None and before != gains:
            vocals = vocals * self._turned(before, gains, vocals.shape[-1])
        mixed = self._piece(vocals, band, gains, last)
        self.done = last
        self._pieces.append(mixed)
        if not self.first_at:
            self.first_at = time.perf_counter()
        self._listening(mixed.mix, self._desk.rate)

    def _settle(self, vocals: Tensor, band: Tensor, level: float) -> Gains:
        """The gains from here on."""
        rate, whole = self._desk.rate, self._desk.band
        if not self._is_settled:
            self._gains = choose_gains(vocals, band if whole is None else whole, rate, level, self._desk.music_volume, apart=True)
            self._is_settled = active_level(vocals) > AUDIBLE and float(sounding(vocals[0]).sum()) >= SETTLED_SECONDS * rate
        assert self._gains is not None
        return self._gains

    def _turned(self, before: Gains, after: Gains, n: int) -> Tensor:
        """(n,) factor on vocals whose gain is `after`, that leads from the gain `before` to it where the next piece begins."""
        turned, edge = torch.ones(n), self._desk.edge
        turned[self._given : self._given + edge] = torch.linspace(before.vocals / after.vocals, 1, edge)[: len(turned) - self._given]
        return turned

    def _piece(self, vocals: Tensor, band: Tensor, gains: Gains, last: bool) -> Mixed:
        """What of all vocals and band (C, n) can be given out now and was not yet."""
        rate, edge = self._desk.rate, self._desk.edge
        end = vocals.shape[-1] if last else max(self._given, vocals.shape[-1] - rate // 50)  # what resampling, and peaks that are held, may still change
        if last:
            vocals, band = fade_edges(vocals, edge, start=False), fade_edges(band, edge, start=False)
        begin = max(0, self._given - rate // 50)  # peaks before it may be held into the piece
        vocals, band = fade_edges(vocals, edge, end=False)[:, begin:], fade_edges(band, edge, end=False)[:, begin:]
        mixed = mix_with(vocals, band, gains, rate)
        piece = slice(self._given - begin, end - begin)
        self._given = end
        return Mixed(mixed.mix[:, piece], mixed.vocals[:, piece], mixed.accompaniment[:, piece], mixed.gains)
