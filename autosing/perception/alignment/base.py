"""The aligner and transcriber Protocols. Letters: C channels, n samples, F recogniser frames."""

from typing import Protocol

from torch import Tensor

from autosing.song import audio
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Lyrics


class Aligner(Protocol):
    """Known lyrics + recording -> word times. Line stamps, where given, anchor the words; raw lyrics alone work.

    `stereo`: two channels tell it more than their mean; recordings are (n,), and for such an aligner (2, n) as well (see `ears_of`).
    """

    name: str
    sample_rate: int
    stereo: bool

    def align(self, wav: Tensor, lyrics: Lyrics) -> Alignment:
        """A float32 recording at `sample_rate` -> words of every line in order.

        Raises:
            AlignmentError: no sung line, or more words than the recording can hold.
        """
        ...

    def activity(self, wav: Tensor) -> Tensor:
        """A recording -> (F,) probability of singing, 50 frames a second."""
        ...


def ears_of(aligner: Aligner, samples: Tensor, sample_rate: int) -> Tensor:
    """(C, n) at `sample_rate` -> the recording as `aligner` wants it: two channels where both are there and it hears them, else their mean."""
    heard = samples if aligner.stereo and len(samples) == 2 else audio.mono(samples)
    return audio.resample(heard, sample_rate, aligner.sample_rate)


class Transcriber(Protocol):
    """Recording -> lyrics nobody wrote down."""

    name: str
    sample_rate: int

    def transcribe(self, wav: Tensor) -> Lyrics:
        """(n,) float32 mono at `sample_rate` -> lines in order; a line that opens a stretch of singing has a stamp. No lines: nothing was sung."""
        ...
