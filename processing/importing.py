"""A folder of songs -> `index.parquet`: audio files with lyrics of the same name, found recursively.

Lyrics of `a/b.mp3` are `a/b.lrc` and `a/b.txt`; or a file of that name anywhere under a lyrics folder; or, where a folder holds a single
audio file, its only `.lrc`, and its only `lyrics*.txt`. The artist is the tag's, or that of an "Artist - Title" name, or the folder's.
Ids are made from the relative path, safe in file names, and stay with their file: `source`, the path from the imported folder's own name on
(so folders brought into one dataset need different names, and `sources.json` of the dataset remembers which folder each name stands
for). Importing again adds new songs in new partitions, rewrites only partitions whose
files changed, and otherwise does nothing. Audio is stored as it is and not decoded; what is
wrong with it is found by the first step.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from autosing.errors import ConfigError, DataError
from autosing.song.lyrics import parse_lrc
from autosing.store import Dataset, TableReader, TableWriter, atomic_path, locked, remove_temporaries

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff")
UNREADABLE_SUFFIXES = (".m4a", ".aac", ".wma", ".mp4", ".mka", ".webm")
MAX_FILE_BYTES = 1 << 30
"""Larger files are left out: a Parquet cell must stay below 2 GiB, and nothing that long is accepted anyway."""
SOURCES_FILE = "sources.json"
SOURCES_FORMAT = "autosing-sources/1"
INDEX_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.binary()),
        ("lrc_lyrics", pa.string()),
        ("raw_lyrics", pa.string()),
        ("artist", pa.string()),
        ("title", pa.string()),
        ("source", pa.string()),
    ]
)
_PLAIN_NAMES = {"audio", "song", "mix", "mixture", "fullmix", "full_mix", "track", "music", "songs", "tracks", "albums"}
_PLAIN_NAMES |= {s[1:] for s in AUDIO_SUFFIXES + UNREADABLE_SUFFIXES}
_ULTRASTAR = re.compile(r"^\s*#(TITLE|ARTIST|BPM|GAP|MP3):", re.M | re.I)


@dataclass(frozen=True)
class Imported:
    """What an import did: numbers of songs, the partitions written, and (path, reason) of files left out."""

    added: int
    changed: int
    unchanged: int
    with_lyrics: int
    partitions: tuple[int, ...]
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Found:
    source: str  # "/"-path from the imported folder's name on
    relative: PurePosixPath  # below that folder
    path: Path
    lyrics: tuple[Path, ...]


def import_songs(
    folder: Path,
    dataset: Dataset,
    partition_size: int = 64,
    lyrics_folder: Path | None = None,
    seen: Callable[[int, int], None] = lambda done, total: None,
    moved: bool = False,
) -> Imported:
    """Bring a folder of songs into a dataset.

    Args:
        folder: searched recursively, hidden files left out.
        dataset: created if missing.
        partition_size: songs a partition.
        lyrics_folder: where lyrics of the same name are also looked for.
        seen: told how many of how many files are done.
        moved: the folder is the one imported before under the same name from another place.

    Raises:
        ConfigError: no such folder, or a size below 1.
        DataError: no audio file in it; another folder of the same name was imported before; the dataset cannot be written.
    """
    if partition_size < 1:
        raise ConfigError(f"--partition-size must be at least 1, found {partition_size}")
    for path in (folder, lyrics_folder):
        if path is not None and not path.is_dir():
            raise ConfigError(f"there is no folder '{path}'")
    found, left_out = _search(folder, lyrics_folder)
    if not found:
        raise DataError(f"no audio file under '{folder}'; it must hold {', '.join(s[1:] for s in AUDIO_SUFFIXES)} files")
    try:
        dataset.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the dataset '{dataset.path}' ({error.strerror}); name a folder that is there or can be made") from error
    with locked(dataset.path):
        _remember(dataset, folder, moved)
        return _import(found, left_out, dataset, partition_size, seen)


def _import(
    found: list[_Found], left_out: list[tuple[str, str]], dataset: Dataset, partition_size: int, seen: Callable[[int, int], None]
) -> Imported:
    there = _partitions(dataset)
    by_source = {f.source: f for f in found}
    taken: set[str] = set()
    known: set[str] = set()
    changed, written = 0, []
    for number in there:
        sources, ids, changes = _refresh(dataset, number, by_source)
        known |= sources
        taken |= ids
        changed += changes
        written += [number] if changes else []
        seen(len(known & by_source.keys()), len(found))
    fresh = [f for f in found if f.source not in known]
    with_lyrics = done = 0
    for begin in range(0, len(fresh), partition_size):
        number = next(n for n in itertools.count() if not dataset.folder(n).exists())
        with _new_partition(dataset, number) as writer:
            for item in fresh[begin : begin + partition_size]:
                row = _row(item)
                row["id"] = _new_id(item, taken)
                taken.add(row["id"])
                with_lyrics += bool(row["lrc_lyrics"] or row["raw_lyrics"])
                writer.write(row)
                done += 1
                seen(len(found) - len(fresh) + done, len(found))
        written.append(number)
    unchanged = len(found) - len(fresh) - changed
    return Imported(len(fresh), changed, unchanged, with_lyrics, tuple(written), tuple(left_out))


def _partitions(dataset: Dataset) -> list[int]:
    """The partitions that have an index. Empty folders, left by an import that was killed, are removed, so that numbers have no gaps."""
    there = []
    for number in sorted(int(p.name) for p in dataset.path.iterdir() if p.is_dir() and p.name.isdecimal() and p.name.isascii()):
        if dataset.table(number, "index").is_file():
            there.append(number)
        elif dataset.folder(number).is_dir():
            remove_temporaries(dataset.folder(number))
            with contextlib.suppress(OSError):  # holds something else
                dataset.folder(number).rmdir()
    return there


@contextlib.contextmanager
def _new_partition(dataset: Dataset, number: int) -> Iterator[TableWriter]:
    """The index of a partition that is not there yet; of a failed one nothing remains."""
    try:
        with TableWriter(dataset.table(number, "index"), INDEX_SCHEMA) as writer:
            yield writer
    except BaseException:
        with contextlib.suppress(OSError):
            dataset.folder(number).rmdir()
        raise


def _remember(dataset: Dataset, folder: Path, moved: bool) -> None:
    """Note which folder its name stands for in `source` and refuse another one of that name, whose songs would replace the first's."""
    path = dataset.path / SOURCES_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["sources"] if path.exists() else {}
        sources = {str(name): {"folder": str(about["folder"])} for name, about in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"'{path}' is damaged ({error}); delete it, then import each folder from where it was") from error
    name, place = _base_name(folder), _decodable(str(folder.resolve()))
    known = sources.get(name, {}).get("folder", place)
    if known != place and not moved:
        raise DataError(
            f"'{name}' of '{dataset.path}' stands for '{known}', not for '{place}'; rename one of the two folders, or give --moved if it is "
            "the same folder at another place"
        )
    if sources.get(name) != {"folder": place}:
        sources[name] = {"folder": place}
        with atomic_path(path) as temporary:
            text = json.dumps({"format": SOURCES_FORMAT, "sources": sources}, indent=1, sort_keys=True, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")


def _base_name(folder: Path) -> str:
    return _decodable(folder.resolve().name)


def _refresh(dataset: Dataset, number: int, by_source: dict[str, _Found]) -> tuple[set[str], set[str], int]:
    """Compare a partition with the files it came from; rewrite it if some changed. -> sources, ids, changes"""
    path = dataset.table(number, "index")
    with TableReader(path) as reader:
        names = reader.schema.names
        if "source" not in names:
            return set(), {i for i in reader.column("id") if i is not None}, 0
        compared = [name for name in INDEX_SCHEMA.names if name not in ("id", "source") and name in names]
        changed: dict[str, dict[str, Any]] = {}
        sources: set[str] = set()
        ids: set[str] = set()
        for old in reader.rows(["id", "source", *compared]):
            ids.add(old["id"])
            sources.add(old["source"])
            item = by_source.get(old["source"])
            if item is not None:
                new = _row(item)
                if any(new[name] != old[name] for name in compared):
                    changed[old["source"]] = {name: new[name] for name in compared}
                    del new
        if changed:
            with locked(dataset.folder(number)), TableWriter(path, reader.schema.remove_metadata()) as writer:
                for row in reader.rows(names):
                    writer.write({**row, **changed.get(row["source"], {})})
    return sources, ids, len(changed)


def _search(folder: Path, lyrics_folder: Path | None) -> tuple[list[_Found], list[tuple[str, str]]]:
    elsewhere: dict[str, list[Path]] = defaultdict(list)
    for path in _files(lyrics_folder) if lyrics_folder else ():
        if path.suffix.lower() in (".lrc", ".txt"):
            elsewhere[path.stem].append(path)
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in _files(folder):
        by_folder[path.parent].append(path)
    found: list[_Found] = []
    left_out: list[tuple[str, str]] = []
    for paths in by_folder.values():
        audio = [p for p in paths if p.suffix.lower() in AUDIO_SUFFIXES]
        for path in paths:
            relative = _decodable(path.relative_to(folder).as_posix())
            source = f"{_base_name(folder)}/{relative}"
            if path.suffix.lower() in UNREADABLE_SUFFIXES:
                left_out.append((relative, f"{path.suffix} cannot be read; convert it to flac, ogg or mp3"))
            if path not in audio:
                continue
            if path.stat().st_size > MAX_FILE_BYTES:
                left_out.append((relative, f"larger than {MAX_FILE_BYTES >> 20} MiB; cut it"))
                continue
            same = [p for p in paths if p.stem == path.stem and p.suffix.lower() in (".lrc", ".txt")]
            lyrics = same or elsewhere.get(path.stem, [])
            if not lyrics and len(audio) == 1:
                lyrics = _lone([p for p in paths if p.suffix.lower() == ".lrc"]) + _lone(
                    [p for p in paths if p.suffix.lower() == ".txt" and p.name.lower().startswith("lyrics")]
                )
            found.append(_Found(source, PurePosixPath(relative), path, tuple(sorted(lyrics))))
    return sorted(found, key=lambda f: f.source), sorted(left_out)


def _decodable(path: str) -> str:
    """The path as text that every encoder takes, whatever bytes a file name has."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _lone(paths: list[Path]) -> list[Path]:
    return paths if len(paths) == 1 else []


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(root) / name for name in sorted(names) if not name.startswith("."))


def _row(item: _Found) -> dict[str, Any]:
    lrc, raw = None, None
    for path in item.lyrics:
        text = read_text(path)
        if path.suffix.lower() == ".lrc" or len(parse_lrc(text).lines) > 1:
            lrc = lrc or text
        elif not _ULTRASTAR.search(text):
            raw = text
    artist, title = _who(item)
    return {"audio": item.path.read_bytes(), "lrc_lyrics": lrc, "raw_lyrics": raw, "artist": artist, "title": title, "source": item.source}


def read_text(path: Path) -> str:
    """A text file in UTF-8 or UTF-16 (by its mark), else Windows-1252."""
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _who(item: _Found) -> tuple[str | None, str]:
    tags = _tags(item.path)
    parts = item.relative.with_suffix("").parts
    names = [parts[-1], *(parts[-2:-1])]
    artist, title = tags.get("artist"), tags.get("title")
    for name in names:
        pieces = [p.strip() for p in re.split(r"\s+-\s+|_-_", name)]
        pieces = pieces[1:] if len(pieces) > 1 and pieces[0].isdecimal() else pieces  # a track number
        if len(pieces) >= 2:
            artist, title = artist or pieces[0], title or " - ".join(pieces[1:])
            break
    if not artist and len(names) > 1 and _plain(names[1]) not in _PLAIN_NAMES:
        artist = names[1]
    return artist, title or (names[-1] if _plain(names[0]) in _PLAIN_NAMES else names[0])


def _tags(path: Path) -> dict[str, str]:
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            tags = file.copy_metadata()
    except (soundfile.LibsndfileError, RuntimeError, UnicodeDecodeError):
        return {}
    return {key: value.strip() for key, value in tags.items() if value.strip()}


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _new_id(item: _Found, taken: set[str]) -> str:
    """A safe id from a relative path: letters, digits, `_`, `-`, at most 120 characters."""
    parts = list(item.relative.with_suffix("").parts)
    if len(parts) > 1 and _plain(parts[-1]) in _PLAIN_NAMES:
        parts.pop()
    text = unicodedata.normalize("NFC", "--".join(parts))
    text = re.sub(r"[^\w-]+", "_", text).strip("_-") or "song"
    mark = hashlib.blake2b(item.source.encode(), digest_size=4).hexdigest()
    if len(text) > 120:
        text = f"{text[:111]}-{mark}"
    if unicodedata.normalize("NFC", text) in taken:
        text = f"{text}-{mark}"
    return text
