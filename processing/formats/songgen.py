"""The tables of SongGen: JSON or JSONL with `text`, `audio_path`, `lyrics`, `reference_audio`.

`text`, the description, and `reference_audio` are kept as columns of these names.
"""

from processing.formats.table import AUDIO, LYRICS, OURS, Table

READER = Table(
    OURS | {"audio_path": AUDIO, "lyrics": LYRICS},
    ("metadata.jsonl", "metadata.json", "train.json", "eval.json", "test.json"),
    frozenset({"audio_path", "lyrics", "text"}),
    sections=True,
)
