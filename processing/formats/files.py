"""Reading files of songs with care: what is no plain file, too large or outside its folder is `Unusable`, with the reason.

Texts are UTF-8 or UTF-16, or what the user says, else they are taken for Windows-1252 and that is told. Paths that a table gives lead
nowhere but below the folder they begin in, links included.
"""

import codecs
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from autosing.errors import ConfigError
from processing.formats.base import LeftOut, Unusable

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".3gp")
UNREADABLE_SUFFIXES = (
    ".m4a", ".m4b", ".aac", ".wma", ".ape", ".wv", ".alac", ".ac3", ".amr", ".dsf", ".dff", ".mpc", ".tta", ".mp2", ".caf", ".au", ".mka", *VIDEO_SUFFIXES,
)  # fmt: skip
MAX_FILE_BYTES = 1 << 30
"""Larger files are left out: a Parquet cell must stay below 2 GiB, and nothing that long is accepted anyway."""
MAX_TEXT_BYTES = 16 << 20
"""Lyrics, or what a table says about one song, are never larger."""


def decodable(path: str) -> str:
    """The path as text that every encoder takes, whatever bytes a file name has."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def below(folder: Path, path: Path) -> str:
    return decodable(path.relative_to(folder).as_posix())


def walk(folder: Path, left_out: list[LeftOut]) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder below with its files, hidden ones left out; folders that are links or cannot be read are noted in `left_out`."""

    def failed(error: OSError) -> None:
        left_out.append(LeftOut(below(folder, Path(error.filename)), "unreadable", f"cannot be read ({error.strerror})"))

    for root, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in folders:
            path = Path(root) / name
            if path.is_symlink():
                reason = "a link to a folder is not followed; import that folder itself"
                left_out.append(LeftOut(below(folder, path), "link", reason))
        yield Path(root), [Path(root) / name for name in sorted(names) if not name.startswith(".")]


def within(folder: Path) -> list[Path]:
    """What is directly in a folder, hidden ones left out; nothing where it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def check_audio(path: Path) -> None:
    """
    Raises:
        Unusable: a link to nothing, a pipe, a format that cannot be read, too large.
    """
    suffix = path.suffix.lower()
    if suffix in UNREADABLE_SUFFIXES:
        raise Unusable("format", f"{path.suffix} cannot be read; convert it to flac, ogg or mp3")
    if suffix not in AUDIO_SUFFIXES:
        raise Unusable("format", f"is no {', '.join(s[1:] for s in AUDIO_SUFFIXES)} file")
    if _size(path) > MAX_FILE_BYTES:
        raise Unusable("too_large", f"larger than {MAX_FILE_BYTES >> 20} MiB; cut it")


def read_audio(path: Path) -> bytes:
    """
    Raises:
        Unusable: as `check_audio`; or it is the stand-in that git-lfs leaves for a file.
    """
    check_audio(path)
    data = _bytes(path)
    if data.startswith(b"version https://git-lfs"):
        raise Unusable("lfs_pointer", "is only git-lfs's pointer to the audio; fetch it with `git lfs pull`")
    return data


def read_text(path: Path, encoding: str | None) -> tuple[str, bool]:
    """-> the text, and whether its encoding was sure.

    Raises:
        Unusable: cannot be read, is in no such encoding, or is too large.
    """
    if _size(path) > MAX_TEXT_BYTES:
        raise Unusable("too_large", f"larger than {MAX_TEXT_BYTES >> 20} MiB, which no lyrics are")
    return decode_text(_bytes(path), encoding)


def inside(root: Path, name: str) -> Path:
    """The audio file that a table calls `name`.

    Names may begin with `root`'s own name, as those written beside the folder do, and have `\\` for `/`.

    Raises:
        Unusable: it is nowhere below `root`.
    """
    if "://" in name:
        raise Unusable("not_a_file", "is an address; download it and name the file")
    if not name.strip() or "\0" in name or len(name) > 4096:
        raise Unusable("missing_audio", "names no audio file")
    slashed = name.replace("\\", "/")
    spellings = [name, slashed]
    first, *rest = PurePosixPath(slashed).parts or ("",)
    if rest and first == root.resolve().name:
        spellings.append("/".join(rest))
    base, outside = root.resolve(), False
    for spelling in dict.fromkeys(spellings):
        try:
            path = (root / spelling).resolve()
            if not path.is_relative_to(base):
                outside = True
            elif path.is_file():
                return path
        except (OSError, RuntimeError, ValueError):  # too long a name, a loop of links
            continue
    if outside:
        raise Unusable("outside", f"leads out of '{root}'; give --audio-folder with the folder that holds the audio")
    raise Unusable("missing_audio", f"is not in '{root}'; give --audio-folder if the audio is elsewhere")


def decode_text(data: bytes, encoding: str | None = None) -> tuple[str, bool]:
    """The bytes of a text file as text.

    Args:
        encoding: of text that is neither UTF-8 nor UTF-16; None = Windows-1252, whatever comes of it.

    Returns:
        The text; whether it was Unicode, or in the encoding that was asked for.

    Raises:
        Unusable: it is not in `encoding` either.
    """
    if wide := _utf16(data):
        return data.decode(wide, errors="replace"), True
    try:
        return data.decode("utf-8-sig"), True
    except UnicodeDecodeError:
        if encoding is None:
            return data.decode("cp1252", errors="replace"), False
    try:
        return data.decode(encoding), True
    except UnicodeError as error:
        raise Unusable("encoding", f"cannot be read (neither UTF-8 nor {encoding})") from error


def encoding_of(path: Path, encoding: str | None) -> tuple[str, bool]:
    """As `decode_text`, for a file of any size: the name of its encoding, and whether that is sure."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        if wide := _utf16(file.read(1 << 16)):
            return wide, True
        file.seek(0)
        try:
            while block := file.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
            return "utf-8-sig", True
        except UnicodeDecodeError:
            return (encoding, True) if encoding else ("cp1252", False)


def check_encoding(encoding: str | None) -> None:
    """
    Raises:
        ConfigError: no text encoding has that name.
    """
    try:
        b"a".decode(encoding or "utf-8")
    except UnicodeError:  # known, but it needs more bytes
        pass
    except LookupError as error:
        raise ConfigError(f"--lyrics-encoding: no text encoding is called '{encoding}'; try gbk, shift_jis, cp1251 or big5") from error


def _utf16(data: bytes) -> str | None:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    first, second = data[0::2].count(0), data[1::2].count(0)  # UTF-16 without its mark: spaces and digits have a zero on one side
    if max(first, second) > 4 * min(first, second) and 40 * max(first, second) > len(data):
        return "utf-16-be" if first > second else "utf-16-le"
    return None


def _size(path: Path) -> int:
    try:
        about = path.stat()
    except OSError as error:
        raise Unusable("unreadable", f"cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(about.st_mode):
        raise Unusable("unreadable", "cannot be read (not a file)")
    return about.st_size


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable("unreadable", f"cannot be read ({error.strerror})") from error
