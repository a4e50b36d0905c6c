"""The `metadata.jsonl` of SongGeneration: `path`, `gt_lyric`, `descriptions`, `idx`.

`idx` is the id; `descriptions` is kept as a column of that name. Lyrics are in the one-line syntax.
"""

from processing.formats.table import AUDIO, LYRICS, OURS, Table

READER = Table(
    OURS | {"idx": "id", "path": AUDIO, "gt_lyric": LYRICS},
    ("metadata.jsonl",),
    frozenset({"path", "gt_lyric"}),
    sections=True,
)
