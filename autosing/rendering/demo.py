"""The demo songs that the repository ships: six short songs of four singers with synthesised bands.

Written as OGG Vorbis with line-stamped ``.lrc`` (one as plain ``.txt``), small enough for a repository. ``truth.json`` beside
them keeps word times and singers. The lyrics were written for this project; songs and lyrics are CC0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autosing.rendering.dataset import encode
from autosing.rendering.song import Studio
from autosing.rendering.voices import SAMPLE_RATE, make_singer
from autosing.store import atomic_path


@dataclass(frozen=True)
class DemoSong:
    """A title, who sings in which style, and the words."""

    title: str
    artist: str
    style: str
    number: int
    lines: tuple[str, ...]
    plain: bool = False  # lyrics as .txt, without stamps


ARTISTS = {"Ada": ("en-us+f2", 1.04), "Bram": ("en-us+m3", 0.97), "Cleo": ("en-us+steph", 0.94), "Dov": ("en-us+Michael", 1.09)}
SONGS = (
    DemoSong("Paper Boats", "Ada", "folk", 1, (
        "i fold a boat of paper", "and i set it on the stream", "it carries all my secrets", "to the ocean of a dream",
        "sail away my little one", "turn around the stone", "if you ever find the sea", "write a letter home")),
    DemoSong("Neon Rain", "Bram", "electro", 2, (
        "the city lights are burning", "in a puddle on the street", "a thousand broken windows", "are dancing to the beat",
        "oh neon rain fall over me", "paint my shadow blue", "every drop a memory", "every one is you")),
    DemoSong("Slow Train", "Cleo", "ballad", 3, (
        "there is a slow train leaving", "at the edge of the night", "with a window for the lonely", "and a silver thread of light",
        "take me home slow train", "over river and hill", "the world is never waiting", "but i know you will")),
    DemoSong("Kitchen Radio", "Dov", "funk", 4, (
        "turn up the kitchen radio", "the coffee is on the stove", "we are singing out of tune again", "and nobody needs to know",
        "hey move your feet on the tiles", "spin me around the chair", "dinner can wait for another song", "there is music in the air"), True),
    DemoSong("Lantern", "Ada", "waltz", 5, (
        "hold up your lantern my darling", "the path is narrow and long", "the owls have gone to the forest", "and taken with them their song",
        "one step and one step together", "the morning will open her eyes", "and we will be there by the water", "to see the sun as it flies")),
    DemoSong("Gravel Road", "Bram", "country", 6, (
        "a gravel road and a dusty sky", "my father drove this way", "he told me wait for the summer rain", "it always comes to stay",
        "so i keep on driving down the line", "with the window open wide", "every mile is a little less", "of the things i had to hide")),
)  # fmt: skip


def write_demo(out: Path, cache: Path, seconds: float = 48.0, seed: int = 7) -> Iterator[tuple[str, float]]:
    """Write the demo songs to `out` and their truth to ``truth.json`` there; yields (file name, seconds) as they are written."""
    studio = Studio("train", cache)
    truth = {}
    for demo in SONGS:
        song = studio.render(seed, demo.number, seconds, make_singer(*ARTISTS[demo.artist]), demo.style, demo.lines, ratio_db=4.0)
        name = f"{demo.artist} - {demo.title}"
        with atomic_path(Path(out) / f"{name}.ogg") as temporary:
            temporary.write_bytes(encode(song.mix, "OGG"))
        with atomic_path(Path(out) / (f"{name}.txt" if demo.plain else f"{name}.lrc")) as temporary:
            head = "" if demo.plain else f"[ti:{demo.title}]\n[ar:{demo.artist}]\n"
            temporary.write_text(head + (song.raw_lyrics if demo.plain else song.lrc_lyrics) + "\n", encoding="utf-8")
        truth[f"{name}.ogg"] = {
            "artist": demo.artist, "style": song.style, "bpm": song.bpm,
            "words": [[word.text, round(word.start, 3), round(word.end, 3), word.line] for word in song.words],
        }  # fmt: skip
        yield f"{name}.ogg", len(song.vocals) / SAMPLE_RATE
    with atomic_path(Path(out) / "truth.json") as temporary:
        songs = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in truth.items())
        temporary.write_text("{\n" + songs + "\n}\n", encoding="utf-8")
