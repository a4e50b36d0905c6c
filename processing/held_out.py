"""Which songs are held out for validation: by a hash of their group's name and the seed, so that no song changes sides when others are added.

A group is all that may never be on both sides: a song and its copies, and with `split_by` "artist" all songs of the artist.
"""

import hashlib
from collections.abc import Mapping, Sequence

from processing.inputs import Partition

SPLIT_BY = ("song", "artist")


def groups_of(songs: set[str], parts: Sequence[Partition], split_by: str, copy_of: Mapping[str, str]) -> dict[str, str]:
    """Song -> the name of all that is never on both sides of the split from it: its copies; of artists theirs too, and so on."""
    group_of = {song: f"song/{copy_of.get(song, song)}" for song in songs}
    if split_by != "artist":
        return group_of
    joined: dict[str, str] = {}

    def first(name: str) -> str:
        while name in joined:
            name = joined[name]
        return name

    for part in parts:
        for song, row in part.about(["artist"]).items():
            if song in songs and row.get("artist"):
                low, high = sorted((first(group_of[song]), first(f"artist/{row['artist']}")))
                if low != high:
                    joined[high] = low
    return {song: first(group) for song, group in group_of.items()}


def validation_groups(sizes: Mapping[str, int], seed: int, share: float) -> set[str]:
    """The groups held out, of the songs in each: those whose hash falls below `share`, never all; where none does and there are two or more, one of the
    smallest, so that most songs are trained on."""
    if share == 0 or len(sizes) < 2:
        return set()
    ordered = sorted(sizes, key=lambda group: (unit(seed, f"split/{group}"), group))
    count = sum(unit(seed, f"split/{group}") < share for group in ordered)
    return set(ordered[: min(count, len(ordered) - 1)]) or {min(ordered, key=lambda group: sizes[group])}


def unit(seed: int, text: str) -> float:
    """A hash of (seed, text) as a number in [0, 1)."""
    digest = hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
