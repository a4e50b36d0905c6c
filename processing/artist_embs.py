"""`artist_embs`: windows of the vocals -> singer embeddings, artist_embs.parquet (id, embs = W x D flattened).

A window is embedded in W pieces of about 10 s (3 for 30 s), each of unit norm; readers take their mean. A piece without singing gets
the mean of the others, since an embedding of silence says nothing. The spec is in the schema metadata under "voice".
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from autosing.perception import VOICES, load_voice
from autosing.tokens.specs import Seconds, spec_to_json
from processing.fingerprint import identity
from processing.step import Done, Rejected, Song, each
from processing.windows import WINDOW_COLUMNS, WINDOWS_TABLE, load_windows, window_seconds

PIECE_SECONDS: Seconds = 10.0
QUIET = 10 ** (-30 / 20)
"""A piece this far below the loudest piece of its window (-30 dB in RMS) is taken as not sung."""
SCHEMA = pa.schema([("id", pa.string()), ("song", pa.string()), ("embs", pa.list_(pa.float32()))])


class ArtistEmbeddings:
    """Windows -> who sings."""

    name = key = "artist_embs"
    version = "1"
    writes = ("artist_embs",)

    def __init__(self, voice: str = "builtin"):
        self._name = voice
        self.reads = {"vocals": ("audio",), WINDOWS_TABLE: WINDOW_COLUMNS}

    def settings(self) -> dict[str, Any]:
        return {"voice": identity(VOICES, self._name)}

    def setup(self, device: torch.device) -> None:
        self._voice = load_voice(self._name, device)

    def schemas(self) -> dict[str, tuple[pa.Schema, dict[str, str]]]:
        return {"artist_embs": (SCHEMA, {"voice": spec_to_json(self._voice.spec)})}

    def rows(self, songs: Iterator[Song]) -> Iterator[Done | Rejected]:
        return each(songs, self._embed)

    def _embed(self, song: Song) -> Done:
        ids, wav = load_windows(song, "vocals", self._voice.spec.sample_rate)
        count = max(1, round(window_seconds(song) / PIECE_SECONDS))
        rows = []
        with torch.inference_mode():
            for window, samples in zip(ids, wav, strict=True):
                pieces = samples[: samples.shape[0] // count * count].reshape(count, -1)
                embs = _fill_quiet(self._voice.embed(pieces).cpu(), pieces)
                rows.append({"id": window, "song": song.id, "embs": embs.reshape(-1).float().numpy()})
        return Done(song.id, {"artist_embs": rows})


def _fill_quiet(embs: Tensor, pieces: Tensor) -> Tensor:
    """(W, D) embeddings of (W, n) pieces -> the quiet ones replaced by the unit mean of the others."""
    level = pieces.square().mean(dim=1).sqrt()
    sung = level >= QUIET * level.max()
    mean = torch.nn.functional.normalize(embs[sung].mean(dim=0), dim=0)
    return torch.where(sung[:, None], embs, mean)
