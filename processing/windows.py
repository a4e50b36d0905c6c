"""Windows of song-level audio: cut by offset from the stems themselves, so nothing is stored or coded twice.

Letters: B windows, C channels, n samples.
"""

import torch
from torch import Tensor

from autosing.errors import DataError
from autosing.song.audio import decode, resample
from autosing.tokens.specs import Seconds
from processing.step import Song

WINDOWS_TABLE = "chunked"
WINDOW_COLUMNS = ("id", "start")
WINDOW_META = "window_seconds"
_ANY_LENGTH: Seconds = 1e6  # stems are as long as the song, whose length was checked when it was separated


def cut(samples: Tensor, sample_rate: int, start_seconds: Seconds, window_seconds: Seconds) -> Tensor:
    """(C, n) or (n,) -> the window, padded with silence at the end where the song is over."""
    begin, length = round(start_seconds * sample_rate), round(window_seconds * sample_rate)
    piece = samples[..., begin : begin + length]
    return torch.nn.functional.pad(piece, (0, length - piece.shape[-1]))


def window_seconds(song: Song) -> Seconds:
    """The length of the windows of the table they came from.

    Raises:
        DataError: the table does not say.
    """
    found = song.meta(WINDOWS_TABLE).get(WINDOW_META)
    if found is None:
        raise DataError(f"{WINDOWS_TABLE}.parquet does not say how long its windows are; run vad_extract again")
    return float(found)


def load_windows(song: Song, table: str, sample_rate: int) -> tuple[list[str], Tensor]:
    """The ids of a song's windows and their audio (B, n), mono at `sample_rate` Hz, from the song-level audio of `table`."""
    audio = decode(song.row(table)["audio"], _ANY_LENGTH)
    whole = resample(audio.samples.mean(dim=0), audio.sample_rate, sample_rate)
    seconds = window_seconds(song)
    windows = song.rows(WINDOWS_TABLE)
    return [w["id"] for w in windows], torch.stack([cut(whole, sample_rate, w["start"], seconds) for w in windows])
