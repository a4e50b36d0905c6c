"""The aligner and transcriber Protocols. Letters: n samples, F recogniser frames."""

from typing import Protocol

from torch import Tensor

from autosing.song.alignment import Alignment
from autosing.song.lyrics import Lyrics


class Aligner(Protocol):
    """Known lyrics + recording -> word times. Line stamps, where given, anchor the words; raw lyrics alone work."""

    name: str
    sample_rate: int

    def align(self, wav: Tensor, lyrics: Lyrics) -> Alignment:
        """(n,) float32 mono at `sample_rate` -> words of every line in order.

        Raises:
            AlignmentError: no sung line, or more words than the recording can hold.
        """
        ...

    def activity(self, wav: Tensor) -> Tensor:
        """(n,) -> (F,) probability of singing, 50 frames a second."""
        ...


class Transcriber(Protocol):
    """Recording -> lyrics nobody wrote down."""

    name: str
    sample_rate: int

    def transcribe(self, wav: Tensor) -> Lyrics:
        """(n,) float32 mono at `sample_rate` -> lines in order; a line that opens a stretch of singing has a stamp. No lines: nothing was sung."""
        ...
