"""Partitions and tables on disk: schemas, atomic writes, verified reads.

A dataset is `<dataset>/<i>/<table>.parquet`, i = 0, 1, .... Every write goes `.<name>.<pid>.tmp` in the same folder -> close -> fsync ->
verify -> `os.replace` -> fsync of the folder, so a table is either whole or absent. Parquet pages carry checksums, which are checked
on every read. Writers and readers stream: memory is bounded by one row group, and no Arrow array ever holds 2 GiB of binary cells.
What was made from what is not known here (processing/manifest.py).
"""

from autosing.store.files import atomic_path, locked, remove_temporaries, sha256_of, writing
from autosing.store.partitions import Dataset, ranges_text
from autosing.store.reader import TableReader
from autosing.store.songs import SEPARATED, song_places, song_rows, song_tables
from autosing.store.writer import META_PREFIX, ROW_GROUP_BYTES, ROW_GROUP_ROWS, Row, TableInfo, TableWriter, write_table

__all__ = [
    "META_PREFIX",
    "ROW_GROUP_BYTES",
    "ROW_GROUP_ROWS",
    "SEPARATED",
    "Dataset",
    "Row",
    "TableInfo",
    "TableReader",
    "TableWriter",
    "atomic_path",
    "locked",
    "ranges_text",
    "remove_temporaries",
    "sha256_of",
    "song_places",
    "song_rows",
    "song_tables",
    "write_table",
    "writing",
]
