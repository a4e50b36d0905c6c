"""Which folder each name at the beginning of `source` stands for: `sources.json` of a dataset.

A folder keeps the name that it had when it was first imported, also where it is moved or renamed later (`--moved`), and one name never stands for two.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autosing.errors import DataError
from autosing.store import Dataset, TableReader, atomic_path, writing
from processing.formats.files import decodable

SOURCES_FILE = "sources.json"
SOURCES_FORMAT = "autosing-sources/1"


def sources_of(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Folder's name -> where it is and the encoding of its texts.

    Raises:
        DataError: the file that remembers it is damaged.
    """
    path = dataset.path / SOURCES_FILE
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8"))["sources"]) if path.exists() else {}
        return {name: {key: about[key] for key in ("folder", "lyrics_encoding")} for name, about in found.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{path}' is damaged ({error}); delete it, then import each folder from where it was") from error


def name_of(dataset: Dataset, folder: Path, moved: bool) -> str:
    """What a folder is called in `source`: its own name, or the one that it had when it was first imported.

    Args:
        moved: it may be one that is gone from where it was, if it holds the files of half of that one's songs.
    """
    sources, place = sources_of(dataset), decodable(str(folder.resolve()))
    own = next((name for name, about in sources.items() if about["folder"] == place), decodable(folder.resolve().name))
    for name, about in sources.items() if moved else ():
        if name != own and not Path(about["folder"]).exists():
            keys = [key.removeprefix(f"{name}/") for key in _told_sources(dataset) if key.startswith(f"{name}/")]
            if keys and 2 * sum(os.path.exists(folder / key) for key in keys) >= len(keys):
                return name
    return own


def remember(dataset: Dataset, name: str, folder: Path, moved: bool, encoding: str | None) -> None:
    """Note which folder a name stands for in `source`.

    Raises:
        DataError: it stands for another one, whose songs those of this would replace.
    """
    sources, place = sources_of(dataset), decodable(str(folder.resolve()))
    about = {"folder": place, "lyrics_encoding": encoding}
    before = sources.get(name, about)["folder"]
    if before != place and not moved:
        raise DataError(
            f"'{name}' of '{dataset.path}' stands for '{before}', not for '{place}'; rename one of the two folders, or give --moved if it "
            "is the same folder at another place"
        )
    if sources.get(name) != about:
        others = {other: known for other, known in sources.items() if known["folder"] != place}  # one folder has one name
        text = json.dumps({"format": SOURCES_FORMAT, "sources": {**others, name: about}}, indent=1, sort_keys=True, ensure_ascii=False)
        with writing(dataset.path / SOURCES_FILE), atomic_path(dataset.path / SOURCES_FILE) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _told_sources(dataset: Dataset) -> Iterator[str]:
    """The `source` of every song that has one."""
    for path in dataset.path.glob("*/index.parquet"):
        with TableReader(path) as reader:
            yield from filter(None, reader.column("source") if "source" in reader.schema.names else ())
