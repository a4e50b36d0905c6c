"""The files that `sing.py` reads and writes: which they are, and whether they may be, said before an hour of singing rather than after it.

Errors name the flag that a person gave. How a song's files are written is `autosing.singing.output`.
"""

import argparse
import codecs
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autosing.errors import ConfigError

if TYPE_CHECKING:
    from autosing.singing.output import WavStream

ANY_VOICE = "any"
STANDARD_OUTPUT = "-"
SONG_FILES = ("mix.wav", "vocals.wav", "accompaniment.wav", "lyrics.lrc", "picture.png", "request.json", "song.safetensors")


def names_a_file(lyrics: str) -> bool:
    """Whether --lyrics names a file and is no text itself."""
    return "\n" not in lyrics and len(lyrics) <= 1000 and lyrics.lower().endswith((".lrc", ".txt"))


def read_lyrics(value: str) -> str:
    """The text of --lyrics, or of the .txt or .lrc file that it names.

    Raises:
        ConfigError: no such file, or no text in it; or a file of another kind.
    """
    if not names_a_file(value):
        if os.path.isfile(value):  # nobody wants its name sung
            raise ConfigError(f"--lyrics: the file '{value}' is no .txt or .lrc; save its words as one")
        return value
    try:
        data = Path(value).read_bytes()
        return data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--lyrics: '{value}' cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--lyrics: '{value}' is neither UTF-8 nor UTF-16 text; save it as UTF-8") from error


def recordings(folder: Path) -> list[Path]:
    """The audio files of a --reference that is a folder, without hidden ones; those of kinds that cannot be decoded too, for them to be named.

    Raises:
        ConfigError: there are none, or it cannot be read.
    """
    from processing.formats.files import AUDIO_SUFFIXES, UNREADABLE_SUFFIXES

    kinds = AUDIO_SUFFIXES + UNREADABLE_SUFFIXES
    try:
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in kinds and not p.name.startswith(".") and p.is_file())
    except OSError as error:
        raise ConfigError(f"--reference: the folder '{folder}' cannot be read ({error.strerror}); name another one") from error
    if not found:
        raise ConfigError(f"--reference: the folder '{folder}' holds no audio file ({', '.join(AUDIO_SUFFIXES)})")
    return found


def inputs_of(options: argparse.Namespace, references: Sequence[Path | None]) -> list[tuple[str, Path]]:
    """Every file that is read, after its flag."""
    files = [("--reference", path) for path in references if path is not None]
    files += [("--spkfile", Path(file)) for file in options.spkfile if file != ANY_VOICE]
    files += [("--semfile", Path(options.semfile))] if options.semfile else []
    return files + ([("--lyrics", Path(options.lyrics))] if names_a_file(options.lyrics) else [])


def folders_for(output: Path, references: Sequence[Path | None]) -> list[Path]:
    """Where each reference's song goes: `output` itself if there is one alone, else a folder named like the file.

    The suffix is kept where two files differ in it alone (or, for disks that do not tell them apart, in capitals).
    """
    if len(references) == 1:
        return [output]
    named = [p for p in references if p is not None]
    unique = len({p.stem.casefold() for p in named}) == len(named)
    return [output / (p.stem if unique else p.name) for p in named]


def check_outputs(folders: Sequence[Path], inputs: Sequence[tuple[str, Path]]) -> None:
    """
    Raises:
        ConfigError: one of the `inputs` is a file of a song in one of the `folders`, which would be written over.
    """
    from autosing.singing.output import CANDIDATES, is_candidate

    real = lambda path: Path(os.path.realpath(path))  # noqa: E731
    places = {real(place) for folder in folders for place in (folder, folder / CANDIDATES)}
    for flag, file in inputs:
        for path in (real(file), real(file.parent) / file.name):
            if path.parent in places and (path.name in SONG_FILES or is_candidate(path)):
                raise ConfigError(f"{flag}: '{file}' would be written over by the song; give another file, or another --output-dir")


def check_stream(place: str, inputs: Sequence[tuple[str, Path]]) -> None:
    """
    Raises:
        ConfigError: `place` is one of the `inputs`, or cannot be written.
    """
    path = Path(place)
    try:
        path.stat()
        for flag, file in inputs:
            if os.path.exists(file) and path.samefile(file):
                raise ConfigError(f"--stream: '{place}' is read as {flag}; name another file")
        wrong = "it is a folder" if path.is_dir() else "" if os.access(path, os.W_OK) else "it may not be written"
    except FileNotFoundError:
        wrong = "" if os.access(path.parent, os.W_OK | os.X_OK) else f"'{path.parent}' is no folder that may be written"
    except OSError as error:
        wrong = error.strerror
    if wrong:
        raise ConfigError(f"--stream: '{place}' cannot be written ({wrong}); name another file")


def check_writable(folder: Path) -> None:
    """
    Raises:
        ConfigError: `folder` is none, or cannot be made or written: better said before an hour of singing than after it.
    """
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise ConfigError(f"--output-dir '{folder}': '{there}' is a file, not a folder; name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--output-dir '{folder}': '{there}' may not be written; name another one")
    longest = os.pathconf(there, "PC_NAME_MAX")
    if any(len(os.fsencode(name)) > longest for name in folder.parts):
        raise ConfigError(f"--output-dir '{folder}': a name may have {longest} bytes there; name another one")


@contextlib.contextmanager
def stream_to(place: str | None) -> Iterator["WavStream | None"]:
    """Where --stream is written to. A file that it made is gone again if the song is not finished; one that was there before is not touched until there
    is something to write."""
    from autosing.singing.output import WavStream

    if place is None:
        yield None
        return
    if place == STANDARD_OUTPUT:
        stream = WavStream(lambda: sys.stdout.buffer, is_pipe=True)
        yield stream
        stream.finish()
        return
    path, was_there = Path(place), os.path.lexists(place)
    with contextlib.ExitStack() as opened:
        stream = WavStream(lambda: opened.enter_context(open(path, "wb")), is_pipe=path.exists() and not path.is_file())
        try:
            yield stream
            stream.finish()
        except BaseException:
            with contextlib.suppress(OSError):  # what could not be written before
                opened.close()
            if not was_there:
                path.unlink(missing_ok=True)
            raise
