"""Who sings what, where the source does not say: the audio file's tags, an "Artist - Title" name, the folder's name."""

import io
import re
from pathlib import PurePosixPath

from processing.formats.files import AUDIO_SUFFIXES, UNREADABLE_SUFFIXES

_PLAIN_NAMES = {"audio", "song", "mix", "mixture", "fullmix", "full_mix", "track", "music", "songs", "tracks", "albums"}
_PLAIN_NAMES |= {"data", "train", "validation", "test", "audios", "clips", "wavs", "mp3s"}
_PLAIN_NAMES |= {s[1:] for s in AUDIO_SUFFIXES + UNREADABLE_SUFFIXES}


def who(audio: bytes, relative: PurePosixPath, artist_folder: bool) -> tuple[str | None, str]:
    """-> artist, title; `artist_folder` as in `Song`."""
    tags = _tags(audio)
    parts = relative.with_suffix("").parts
    names = [parts[-1], *(parts[-2:-1])]
    artist, title = tags.get("artist"), tags.get("title")
    for name in names:
        pieces = [p.strip() for p in re.split(r"\s+-\s+|_-_", name)]
        pieces = pieces[1:] if len(pieces) > 1 and pieces[0].isdecimal() else pieces  # a track number
        if len(pieces) >= 2:
            artist, title = artist or pieces[0], title or " - ".join(pieces[1:])
            break
    if not artist and artist_folder and len(names) > 1 and _plain(names[1]) not in _PLAIN_NAMES:
        artist = names[1]
    return artist, title or (names[-1] if _plain(names[0]) in _PLAIN_NAMES else names[0])


def _tags(audio: bytes) -> dict[str, str]:
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(audio)) as file:
            tags = file.copy_metadata()
    except (OSError, soundfile.LibsndfileError, RuntimeError, ValueError, TypeError):
        return {}
    return {key: value.strip() for key, value in tags.items() if value.strip()}


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")
