"""A folder of songs -> `index.parquet`: audio files with lyrics of the same name, found recursively.

Lyrics of `a/b.mp3` are `a/b.lrc` and `a/b.txt`; or a file of that name anywhere under a lyrics folder; or, where a folder holds a single
audio file, its only `.lrc`, and its only `lyrics*.txt`. The artist is the tag's, or that of an "Artist - Title" name, or the folder's.
Ids are made from the relative path, safe in file names, and stay with their file: `source`, the path from the imported folder's own name on
(so folders brought into one dataset need different names, and `sources.json` of the dataset remembers which folder each name stands
for). Importing again adds new songs in new partitions, rewrites only partitions whose
files changed, and otherwise does nothing. Audio is stored as it is and not decoded; what is wrong with it is found by the first step.

What cannot be read (a link to nothing, a file without permission, lyrics in another encoding than said) is left out, named with the reason,
and hinders nothing else. Lyrics are UTF-8, or UTF-16, or what `lyrics_encoding` says, else they are taken for Windows-1252 and reported.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
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
    """What an import did: numbers of songs, the partitions written, (path, reason) of files left out, lyrics that were not Unicode."""

    added: int
    changed: int
    unchanged: int
    with_lyrics: int
    partitions: tuple[int, ...]
    left_out: tuple[tuple[str, str], ...]
    not_unicode: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    source: str  # "/"-path from the imported folder's name on
    relative: PurePosixPath  # below that folder
    path: Path
    lyrics: tuple[tuple[str, Path], ...]  # each with the name it is called by in reports


class _Unreadable(Exception):
    """A file cannot be read; says why. Never leaves this module."""


class _Rows:
    """Makes the rows of songs, and keeps what could not be read on the way."""

    def __init__(self, encoding: str | None, left_out: list[tuple[str, str]]):
        self.left_out = left_out
        self.not_unicode: list[str] = []
        self._encoding = encoding

    def fresh(self, items: Iterable[_Found]) -> Iterator[tuple[_Found, dict[str, Any] | None]]:
        """Each song with its row; None where its audio cannot be read."""
        for item in items:
            row, _ = self.row(item)
            yield item, row

    def row(self, item: _Found) -> tuple[dict[str, Any] | None, bool]:
        """-> the row without an id, None where the audio cannot be read; whether all of it could be read."""
        try:
            audio = _bytes(item.path)
        except _Unreadable as error:
            self.left_out.append((str(item.relative), str(error)))
            return None, False
        lrc, raw, whole = None, None, True
        for name, path in item.lyrics:
            try:
                text, unicode = decode_text(_bytes(path), self._encoding)
            except _Unreadable as error:
                self.left_out.append((name, str(error)))
                whole = False
                continue
            if not unicode:
                self.not_unicode.append(name)
            if path.suffix.lower() == ".lrc" or len(parse_lrc(text).lines) > 1:
                lrc = lrc or text
            elif not _ULTRASTAR.search(text):
                raw = text
        artist, title = _who(item)
        row = {"audio": audio, "lrc_lyrics": lrc, "raw_lyrics": raw, "artist": artist, "title": title, "source": item.source}
        return row, whole


def import_songs(
    folder: Path,
    dataset: Dataset,
    partition_size: int = 64,
    lyrics_folder: Path | None = None,
    seen: Callable[[int, int], None] = lambda done, total: None,
    moved: bool = False,
    lyrics_encoding: str | None = None,
) -> Imported:
    """Bring a folder of songs into a dataset.

    Args:
        folder: searched recursively, hidden files left out.
        dataset: created if missing.
        partition_size: songs a partition.
        lyrics_folder: where lyrics of the same name are also looked for.
        seen: told how many of how many files are done.
        moved: the folder is the one imported before under the same name from another place.
        lyrics_encoding: of lyrics that are neither UTF-8 nor UTF-16, such as "gbk"; remembered for this folder. None = as remembered.

    Raises:
        ConfigError: no such folder or encoding, or a size below 1.
        DataError: no audio file in it; another folder of the same name was imported before; the dataset cannot be written.
    """
    if partition_size < 1:
        raise ConfigError(f"--partition-size must be at least 1, found {partition_size}")
    for path in (folder, lyrics_folder):
        if path is not None and not path.is_dir():
            raise ConfigError(f"there is no folder '{path}'")
    _check_encoding(lyrics_encoding)
    found, left_out = _search(folder, lyrics_folder)
    if not found:
        why = f" ({len(left_out)} left out, such as '{left_out[0][0]}': {left_out[0][1]})" if left_out else ""
        raise DataError(f"no audio file under '{folder}'{why}; it must hold {', '.join(s[1:] for s in AUDIO_SUFFIXES)} files")
    try:
        dataset.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the dataset '{dataset.path}' ({error.strerror}); name a folder that is there or can be made") from error
    with locked(dataset.path):
        rows = _Rows(_remember(dataset, folder, moved, lyrics_encoding), left_out)
        return _import(found, rows, dataset, partition_size, seen)


def _import(found: list[_Found], rows: _Rows, dataset: Dataset, partition_size: int, seen: Callable[[int, int], None]) -> Imported:
    by_source = {f.source: f for f in found}
    taken: set[str] = set()
    known: set[str] = set()
    changed, written = 0, []
    for number in _partitions(dataset):
        sources, ids, changes = _refresh(dataset, number, by_source, rows)
        known |= sources
        taken |= ids
        changed += changes
        written += [number] if changes else []
        seen(len(known & by_source.keys()), len(found))
    fresh = [f for f in found if f.source not in known]
    added = with_lyrics = 0
    behind = itertools.count(len(found) - len(fresh) + 1)

    def readable() -> Iterator[dict[str, Any]]:
        nonlocal added, with_lyrics
        for item, row in rows.fresh(fresh):
            seen(next(behind), len(found))
            if row is not None:
                row["id"] = _new_id(item, taken)
                taken.add(row["id"])
                added += 1
                with_lyrics += bool(row["lrc_lyrics"] or row["raw_lyrics"])
                yield row

    songs = readable()
    for first in songs:
        number = next(n for n in itertools.count() if not dataset.folder(n).exists())
        with _new_partition(dataset, number) as writer:
            for row in itertools.chain([first], itertools.islice(songs, partition_size - 1)):
                writer.write(row)
        written.append(number)
    unchanged = len(found) - len(fresh) - changed
    left_out, not_unicode = tuple(sorted(set(rows.left_out))), tuple(sorted(set(rows.not_unicode)))
    return Imported(added, changed, unchanged, with_lyrics, tuple(written), left_out, not_unicode)


def _partitions(dataset: Dataset) -> list[int]:
    """The partitions that have an index. Empty folders, left by an import that was killed, are removed, so that numbers have no gaps."""
    there = []
    names = {p.name for p in dataset.path.iterdir() if p.is_dir() and p.name.isascii() and p.name.isdecimal()}
    for number in sorted(int(name) for name in names if str(int(name)) == name):
        if dataset.table(number, "index").is_file():
            there.append(number)
        else:
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


def _remember(dataset: Dataset, folder: Path, moved: bool, encoding: str | None) -> str | None:
    """Note which folder its name stands for in `source`, and refuse another one of that name, whose songs would replace the first's.

    Returns:
        The encoding of the folder's lyrics: the one given, else the one given before.
    """
    path = dataset.path / SOURCES_FILE
    try:
        sources = dict(json.loads(path.read_text(encoding="utf-8"))["sources"]) if path.exists() else {}
        name, place = _base_name(folder), _decodable(str(folder.resolve()))
        known = sources.get(name, {"folder": place, "lyrics_encoding": None})
        about = {"folder": place, "lyrics_encoding": encoding or known["lyrics_encoding"]}
        before = known["folder"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{path}' is damaged ({error}); delete it, then import each folder from where it was") from error
    if before != place and not moved:
        raise DataError(
            f"'{name}' of '{dataset.path}' stands for '{before}', not for '{place}'; rename one of the two folders, or give --moved if it "
            "is the same folder at another place"
        )
    if sources.get(name) != about:
        text = json.dumps({"format": SOURCES_FORMAT, "sources": {**sources, name: about}}, indent=1, sort_keys=True, ensure_ascii=False)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    return about["lyrics_encoding"]


def _base_name(folder: Path) -> str:
    return _decodable(folder.resolve().name)


def _refresh(dataset: Dataset, number: int, by_source: dict[str, _Found], rows: _Rows) -> tuple[set[str], set[str], int]:
    """Compare a partition with the files it came from; rewrite it if some changed. -> sources, ids, changes

    A song that cannot be read whole stays as it was.
    """
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
                new, whole = rows.row(item)
                if new is not None and whole and any(new[name] != old[name] for name in compared):
                    changed[old["source"]] = {name: new[name] for name in compared}
                del new
        if changed:
            with locked(dataset.folder(number)), TableWriter(path, reader.schema.remove_metadata()) as writer:
                for row in reader.rows(names):
                    writer.write({**row, **changed.get(row["source"], {})})
    return sources, ids, len(changed)


def _search(folder: Path, lyrics_folder: Path | None) -> tuple[list[_Found], list[tuple[str, str]]]:
    left_out: list[tuple[str, str]] = []
    elsewhere: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for path in _files(lyrics_folder, left_out) if lyrics_folder else ():
        if path.suffix.lower() in (".lrc", ".txt"):
            elsewhere[_stem(path)].append((_decodable(str(path)), path))
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in _files(folder, left_out):
        by_folder[path.parent].append(path)
    found: list[_Found] = []
    for paths in by_folder.values():
        audio = [p for p in paths if p.suffix.lower() in AUDIO_SUFFIXES]
        texts = [(_below(folder, p), p) for p in paths if p.suffix.lower() in (".lrc", ".txt")]
        for path in paths:
            relative = _below(folder, path)
            if path.suffix.lower() in UNREADABLE_SUFFIXES:
                left_out.append((relative, f"{path.suffix} cannot be read; convert it to flac, ogg or mp3"))
            if path not in audio:
                continue
            try:
                size = _size(path)
            except _Unreadable as error:
                left_out.append((relative, str(error)))
                continue
            if size > MAX_FILE_BYTES:
                left_out.append((relative, f"larger than {MAX_FILE_BYTES >> 20} MiB; cut it"))
                continue
            same = [(name, p) for name, p in texts if _stem(p) == _stem(path)]
            lyrics = same or elsewhere.get(_stem(path), [])
            if not lyrics and len(audio) == 1:
                lyrics = _lone([text for text in texts if text[1].suffix.lower() == ".lrc"]) + _lone(
                    [text for text in texts if text[1].suffix.lower() == ".txt" and text[1].name.lower().startswith("lyrics")]
                )
            lyrics = sorted(lyrics, key=lambda text: text[1])
            found.append(_Found(f"{_base_name(folder)}/{relative}", PurePosixPath(relative), path, tuple(lyrics)))
    return sorted(found, key=lambda f: f.source), sorted(left_out)


def _below(folder: Path, path: Path) -> str:
    return _decodable(path.relative_to(folder).as_posix())


def _stem(path: Path) -> str:
    """The name without its ending; names that differ only in how Unicode composes them are one."""
    return unicodedata.normalize("NFC", path.stem)


def _size(path: Path) -> int:
    """Bytes of a file.

    Raises:
        _Unreadable: a link to nothing, a pipe, ...
    """
    try:
        about = path.stat()
    except OSError as error:
        raise _Unreadable(f"cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(about.st_mode):
        raise _Unreadable("cannot be read (not a file)")
    return about.st_size


def _bytes(path: Path) -> bytes:
    _size(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _Unreadable(f"cannot be read ({error.strerror})") from error


def _decodable(path: str) -> str:
    """The path as text that every encoder takes, whatever bytes a file name has."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _lone(texts: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    return texts if len(texts) == 1 else []


def _files(folder: Path, left_out: list[tuple[str, str]]) -> Iterator[Path]:
    """Every file below, hidden ones left out; folders that are links or cannot be read are noted in `left_out`."""

    def failed(error: OSError) -> None:
        left_out.append((_below(folder, Path(error.filename)), f"cannot be read ({error.strerror})"))

    for root, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        linked = [path for f in folders if (path := Path(root) / f).is_symlink()]
        left_out += [(_below(folder, path), "a link to a folder is not followed; import that folder itself") for path in linked]
        yield from (Path(root) / name for name in sorted(names) if not name.startswith("."))


def decode_text(data: bytes, encoding: str | None = None) -> tuple[str, bool]:
    """The bytes of a text file as text.

    Args:
        encoding: of text that is neither UTF-8 nor UTF-16; None = Windows-1252, whatever comes of it.

    Returns:
        The text; whether it was Unicode, or in the encoding that was asked for.

    Raises:
        _Unreadable: it is not in `encoding` either.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace"), True
    first, second = data[0::2].count(0), data[1::2].count(0)  # UTF-16 without its mark: spaces and digits have a zero on one side
    if max(first, second) > 4 * min(first, second) and 40 * max(first, second) > len(data):
        return data.decode("utf-16-be" if first > second else "utf-16-le", errors="replace"), True
    try:
        return data.decode("utf-8-sig"), True
    except UnicodeDecodeError:
        if encoding is None:
            return data.decode("cp1252", errors="replace"), False
    try:
        return data.decode(encoding), True
    except UnicodeError as error:
        raise _Unreadable(f"cannot be read (neither UTF-8 nor {encoding})") from error


def _check_encoding(encoding: str | None) -> None:
    try:
        b"a".decode(encoding or "utf-8")
    except UnicodeError:  # known, but it needs more bytes
        pass
    except LookupError as error:
        raise ConfigError(f"--lyrics-encoding: no text encoding is called '{encoding}'; try gbk, shift_jis, cp1251 or big5") from error


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
        with open(path, "rb") as data, soundfile.SoundFile(data) as file:  # libsndfile itself takes no name that is not UTF-8
            tags = file.copy_metadata()
    except (OSError, soundfile.LibsndfileError, RuntimeError, UnicodeError):
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
