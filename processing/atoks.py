"""`atoks`: windows -> codec tokens, atoks_<source>_<codec>.parquet (id, values = K x T flattened, int16).

Sources: `vocals`, `no_vocals` (the accompaniment, by the codec that `codec.accompaniment` names) and `chunked` (the mixture). Each is cut
from the song-level audio. The spec of the codec that really made the codes is in the schema metadata under "codec".
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch

from autosing.errors import ConfigError
from autosing.perception import CODECS, load_codec
from autosing.registry import split_choice
from autosing.tokens.specs import spec_to_json
from processing.fingerprint import identity
from processing.step import Done, Rejected, Song, each
from processing.windows import WINDOW_COLUMNS, WINDOWS_TABLE, load_windows, window_seconds

SOURCES = {"vocals": "vocals", "no_vocals": "no_vocals", "chunked": "index"}
"""`--audio-src` -> the table whose whole songs are cut."""
SCHEMA = pa.schema([("id", pa.string()), ("song", pa.string()), ("values", pa.list_(pa.int16()))])


def tokens_table(source: str, codec: str) -> str:
    """The name of the table of a source's codes; of a codec's choice the name alone counts."""
    return f"atoks_{source}_{split_choice(codec)[0]}"


class AcousticTokens:
    """Windows -> codes."""

    name = "atoks"
    version = "1"

    def __init__(self, codec: str = "builtin", source: str = "vocals", batch_size: int = 8):
        self._name, self._source, self._batch_size = codec, source, batch_size
        self.key = tokens_table(source, codec)
        self.writes = (self.key,)
        self.reads = {SOURCES[source]: ("audio",), WINDOWS_TABLE: WINDOW_COLUMNS}

    def settings(self) -> dict[str, Any]:
        return {"codec": identity(CODECS, self._name), "source": self._source}

    def setup(self, device: torch.device) -> None:
        """
        Raises:
            ConfigError: the codec has more codes than tables hold.
        """
        self._codec = load_codec(self._name, device)
        if self._source == "no_vocals" and self._codec.accompaniment != split_choice(self._name)[0]:
            self._codec = load_codec(self._codec.accompaniment, device)
        if self._codec.spec.num_codes > 1 << 15:
            raise ConfigError(f"codec '{self._name}' has {self._codec.spec.num_codes} codes; tables hold at most {1 << 15}")

    def schemas(self) -> dict[str, tuple[pa.Schema, dict[str, str]]]:
        return {self.key: (SCHEMA, {"codec": spec_to_json(self._codec.spec), "asked": split_choice(self._name)[0]})}

    def rows(self, songs: Iterator[Song]) -> Iterator[Done | Rejected]:
        return each(songs, self._encode)

    def _encode(self, song: Song) -> Done:
        spec = self._codec.spec
        ids, wav = load_windows(song, SOURCES[self._source], spec.sample_rate)
        frames = spec.frames(window_seconds(song))
        rows = []
        with torch.inference_mode():
            for begin in range(0, len(ids), self._batch_size):
                codes = self._codec.encode(wav[begin : begin + self._batch_size, None])[..., :frames].cpu().to(torch.int16)
                for window, values in zip(ids[begin:], codes, strict=False):
                    rows.append({"id": window, "song": song.id, "values": values.reshape(-1).numpy()})
        return Done(song.id, {self.key: rows})
