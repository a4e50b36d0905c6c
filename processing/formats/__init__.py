"""Formats of collections of songs: each is one file here and one row of the tables below.

A reader turns a source (a folder or file) into a stream of songs, `processing/importing.py` turns the stream into index tables;
`processing/exporting.py` turns index tables into a stream of rows, and a writer those into files. `base.py` says what both are. Formats
know no dataset, no ids and no partitions. A source is recognised by the first row that knows it, so the special come before the general.
"""

from autosing.registry import Registry

READERS = Registry(
    "format",
    {
        "webdataset": "processing.formats.webdataset:READER",
        "songgeneration": "processing.formats.songgeneration:READER",
        "songgen": "processing.formats.songgen:READER",
        "hf": "processing.formats.hf:READER",
        "table": "processing.formats.table:READER",
        "ultrastar": "processing.formats.ultrastar:READER",
        "folder": "processing.formats.folder:READER",
    },
)
WRITERS = Registry(
    "format to export to",
    {
        "webdataset": "processing.formats.webdataset:write",
        "hf": "processing.formats.hf:write",
        "folder": "processing.formats.folder:write",
    },
)
