"""WebDataset: tar archives whose neighbouring members of one basename, up to its first dot, are one song.

`a/b.flac`, `a/b.json`, `a/b.lrc`, `a/b.txt` are the audio, other columns, and lyrics of the song `a/b`; of several recordings the one
with the shortest ending counts (`mp3` before `vocals.mp3`), and one left out that may be another song (`Mr. A.mp3`, `Mr. B.mp3`) is named. Members are read one after the other and never extracted; names are keys,
never paths. Links, devices and sparse files are refused; sizes and numbers are bounded, of headers too, so that an archive costs no more
memory than one song. What is whole before an archive breaks off is kept.
"""

import gzip
import io
import lzma
import re
import tarfile
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from autosing.store import atomic_path
from processing.formats.base import Entry, LeftOut, Options, Outgoing, Song, Survey, Unusable
from processing.formats.columns import infer
from processing.formats.files import AUDIO_SUFFIXES, MAX_FILE_BYTES, MAX_TEXT_BYTES, UNREADABLE_SUFFIXES, decode_text, walk, within
from processing.formats.folder import json_line, json_object, lyrics_files, own_columns, text_columns
from processing.formats.words import lyrics_columns

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz")
MAX_HEADER_BYTES = 1 << 20
"""Names and other attributes of a member."""
MAX_MEMBERS = 10_000_000
MAX_SONG_TEXTS = 16
_BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError)
_KEY = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)", re.S)
_TEXTS = ("json", "lrc", "txt")


@dataclass
class _Group:
    key: str
    texts: dict[str, bytes] = field(default_factory=dict)  # ending -> bytes
    audio: bytes = b""
    ending: str = ""  # of the recording
    left_out: list[LeftOut] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)  # endings of further recordings


class WebDataset:
    """Reads tar archives."""

    def recognises(self, source: Path) -> bool:
        if source.is_file():
            return source.name.lower().endswith(SUFFIXES)
        names = [path.name.lower() for folder in (source, *filter(Path.is_dir, within(source))) for path in within(folder)]
        return any(name.endswith(SUFFIXES) for name in names) and not any(name.endswith(AUDIO_SUFFIXES) for name in names)

    def survey(self, source: Path, options: Options) -> Survey:
        count = 0

        def own() -> Iterator[Mapping[str, Any]]:
            nonlocal count
            for path, name in _archives(source, []):
                for group in _groups(path, name, audio=False):
                    if isinstance(group, _Group) and group.ending:
                        count += 1
                        yield _own(group, _record(group, []))

        return Survey(columns=infer(own()), songs=count)

    def entries(self, source: Path, options: Options) -> Iterator[Entry | LeftOut]:
        left_out: list[LeftOut] = []
        archives = _archives(source, left_out)
        yield from left_out
        for path, name in archives:
            for group in _groups(path, name, audio=True):
                if isinstance(group, LeftOut):
                    yield group
                elif group.ending:
                    yield from _passed_over(group)
                    yield Entry(group.key, lambda group=group: _song(group, options.encoding))
                else:
                    yield from group.left_out
                    if not group.left_out:
                        endings = ", ".join(sorted(group.texts)) or "nothing"
                        reason = f"has no audio ({endings}); the files of one song must be neighbours and have one name up to the first dot"
                        yield LeftOut(group.key, "missing_audio", reason)


READER = WebDataset()


def write(partitions: Iterator[tuple[int, Iterator[Outgoing]]], folder: Path) -> None:
    """Write each partition as one archive, the same bytes each time."""
    for partition, rows in partitions:
        path = folder / f"{partition:06d}.tar"
        if path.exists():
            continue
        with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
            for row in rows:
                columns = dict(row.columns)
                files = [(row.suffix, row.audio)]
                for ending, (column, text) in lyrics_files(columns).items():
                    files.append((ending, text))
                    del columns[column]
                for ending, data in (*files, (".json", json_line(columns))):
                    member = tarfile.TarInfo(row.name + ending)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def _archives(source: Path, left_out: list[LeftOut]) -> list[tuple[Path, str]]:
    if source.is_file():
        return [(source, source.name)]
    return [
        (path, path.relative_to(source).as_posix())
        for _, paths in walk(source, left_out)
        for path in paths
        if path.name.lower().endswith(SUFFIXES)
    ]


class _Bounded(io.RawIOBase):
    """A file that refuses to read more at once than `most`, which is what tarfile asks for where a header claims to be huge."""

    def __init__(self, file: IO[bytes]):
        super().__init__()
        self._file = file
        self.most = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self.most:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _open(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.open(path)
    return open(path, "rb")


def _groups(path: Path, name: str, audio: bool) -> Iterator[_Group | LeftOut]:
    """The songs of an archive, one at a time.

    Args:
        audio: read the recordings too; else they are passed over and their bytes are empty.
    """
    group: _Group | None = None
    try:
        with _open(path) as raw, _Bounded(raw) as file, tarfile.open(fileobj=file, mode="r:") as archive:  # type: ignore[call-overload]
            for number in range(MAX_MEMBERS + 1):
                member = archive.next()
                if member is None:
                    break
                archive.members = []  # type: ignore[misc]
                if number == MAX_MEMBERS:
                    yield LeftOut(name, "too_many", f"holds more than {MAX_MEMBERS} members; the others are not read")
                    break
                found = _sorted_out(member, name)
                if found is None:
                    continue
                if isinstance(found, LeftOut):
                    yield found
                    continue
                key, ending = found
                if group is None or group.key != key:
                    if group is not None:
                        yield group
                    group = _Group(key)
                _take(group, archive, member, ending, file, audio)
    except _BROKEN as error:
        if group is not None:
            yield group
        yield LeftOut(name, "damaged_archive", f"breaks off or is damaged ({error or type(error).__name__}); what came before is kept; fetch it again")
        return
    if group is not None:
        yield group


def _sorted_out(member: tarfile.TarInfo, archive: str) -> tuple[str, str] | LeftOut | None:
    """-> key and ending of a member that may be of a song; why it is refused; None for what is passed over in silence."""
    name = "".join(c if unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in member.name)
    shown = f"{archive}/{name[:500]}"
    if member.isdir():
        return None
    if not member.isreg() or member.issparse():
        return LeftOut(shown, "link", "is a link, a device or a sparse file, which are never followed")
    base = name.rsplit("/", 1)[-1]
    if base.startswith((".", "__")) or "__MACOSX/" in name:
        return None
    found = _KEY.fullmatch(name)
    if not found or ".." in name.split("/") or len(name) > 4096:
        return LeftOut(shown, "bad_name", "has a name that is no key and ending, such as song.flac")
    return f"{archive}/{found.group(1).lstrip('/')}", found.group(2).lower()


def _take(group: _Group, archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str, file: _Bounded, audio: bool) -> None:
    suffix = "." + ending.rsplit(".", 1)[-1]
    is_audio = suffix in AUDIO_SUFFIXES
    limit = MAX_FILE_BYTES if is_audio else MAX_TEXT_BYTES
    shown = f"{group.key}.{ending}"
    if suffix in UNREADABLE_SUFFIXES:
        group.left_out.append(LeftOut(shown, "format", f"{suffix} cannot be read; convert it to flac, ogg or mp3"))
    elif not is_audio and suffix[1:] not in _TEXTS:
        return
    elif member.size > limit:
        group.left_out.append(LeftOut(shown, "too_large", f"larger than {limit >> 20} MiB"))
    elif ending == group.ending or ending in group.texts or len(group.texts) == MAX_SONG_TEXTS:
        group.left_out.append(LeftOut(shown, "bad_name", "is a second file of that name, or one too many of its song"))
    elif not is_audio:
        group.texts[ending] = _read(archive, member, file)
    elif group.ending and len(ending) >= len(group.ending):
        group.passed_over.append(ending)
    else:
        group.passed_over += [group.ending] if group.ending else []
        group.audio = b""  # never two in memory
        group.audio, group.ending = _read(archive, member, file) if audio else b"", ending


def _passed_over(group: _Group) -> Iterator[LeftOut]:
    """Recordings that may be songs of their own: tracks have names without spaces beside a recording of the song itself."""
    for ending in group.passed_over:
        if _spaced(ending) or "." in group.ending:
            reason = f"is one song with '{group.key}.{group.ending}', for names count up to their first dot; rename it if it is another"
            yield LeftOut(f"{group.key}.{ending}", "extra_audio", reason)


def _spaced(ending: str) -> bool:
    return any(map(str.isspace, ending))


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, file: _Bounded) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None  # a plain file
    file.most = max(member.size, 1)
    try:
        return stream.read()
    finally:
        file.most = MAX_HEADER_BYTES


def _song(group: _Group, encoding: str | None) -> Song:
    left_out = list(group.left_out)
    not_unicode: list[str] = []
    columns: dict[str, Any] = {"lrc_lyrics": None, "raw_lyrics": None}
    for ending in _of_kind(group, "txt", "lrc"):
        try:
            text, sure = decode_text(group.texts[ending], encoding)
        except Unusable as error:
            left_out.append(LeftOut(f"{group.key}.{ending}", error.code, error.reason))
            continue
        not_unicode += [] if sure else [f"{group.key}.{ending}"]
        found = {"lrc_lyrics": text or None} if ending.endswith("lrc") else lyrics_columns(text)
        columns |= {name: value for name, value in found.items() if value}
    record = _record(group, left_out)
    columns |= _own(group, record) | text_columns(record)
    if _says_lyrics(group, record):
        columns |= lyrics_columns(record["lyrics"], sections=True)
    return Song(group.audio, columns, tuple(left_out), tuple(not_unicode))


def _record(group: _Group, left_out: list[LeftOut]) -> dict[str, Any]:
    for ending in _of_kind(group, "json"):
        try:
            return json_object(decode_text(group.texts[ending])[0])
        except Unusable as error:
            left_out.append(LeftOut(f"{group.key}.{ending}", error.code, error.reason))
    return {}


def _own(group: _Group, record: Mapping[str, Any]) -> dict[str, Any]:
    said = _says_lyrics(group, record)
    return own_columns({name: value for name, value in record.items() if name != "lyrics" or not said})


def _says_lyrics(group: _Group, record: Mapping[str, Any]) -> bool:
    """Whether the JSON member is where the lyrics are."""
    return "lyrics" in record and not _of_kind(group, "txt", "lrc") and not {"lrc_lyrics", "raw_lyrics"} & record.keys()


def _of_kind(group: _Group, *kinds: str) -> list[str]:
    """The endings of these kinds; of each the recording's own or else the shortest alone, since others are of separate tracks, languages or songs."""
    own = group.ending.rpartition(".")[0]
    endings = [ending for ending in group.texts if ending.rpartition(".")[0] == own or not _spaced(ending)]
    found = ([ending for ending in endings if ending.rpartition(".")[2] == kind] for kind in kinds)
    return [min(some, key=lambda ending: (ending.rpartition(".")[0] != own, len(ending))) for some in found if some]
