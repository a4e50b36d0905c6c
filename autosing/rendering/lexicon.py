"""A pronouncing lexicon: the most frequent words of some texts with espeak's en-us phones.

Input are files or folders: ``.csv`` with columns ``ngram,freq`` (counts of a corpus) and texts (``.txt .tsv .jsonl .abc .ly``, also ``.gz``),
whose tokens are counted. Frequency lists come first, then words of the texts, then regular inflections of the frequent words, until
`limit` words are found. Output is a table of lines ``word<TAB>PH ON ES``, most frequent first.
"""

from __future__ import annotations

import collections
import csv
import gzip
import re
from collections.abc import Iterable
from pathlib import Path

from autosing.errors import DataError
from autosing.rendering.espeak import Espeak
from autosing.store import atomic_path

_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?")
_WORD = re.compile(r"[a-z][a-z']*[a-z]|[ai]")
_TEXTS = (".txt", ".tsv", ".jsonl", ".abc", ".ly")
CONTRACTIONS = """i'm i'll i've i'd you're you'll you've you'd he's he'll he'd she's she'll she'd it's it'll we're we'll we've we'd they're
they'll they've they'd that's that'll there's here's what's who's where's how's when's let's don't doesn't didn't won't wouldn't can't
couldn't shouldn't isn't aren't wasn't weren't haven't hasn't hadn't ain't y'all o'clock ma'am could've would've should've might've
gonna wanna gotta gimme lemme kinda sorta cause ooh oh yeah hey la na whoa woah baby babe ah uh huh nah""".split()  # noqa: SIM905


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"no word list at {path}: pass a .csv with columns ngram,freq, a text, or a folder of them")
    return found


def word_counts(paths: Iterable[Path]) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """(counts of the frequency lists, counts of the texts) of lower-case words made of a-z and '."""
    listed: collections.Counter[str] = collections.Counter()
    read: collections.Counter[str] = collections.Counter()
    for path in _files(paths):
        if path.suffix == ".csv":
            with open(path, encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    word = row["ngram"].lower().replace("\u2019", "'")
                    if _WORD.fullmatch(word):
                        listed[word] += int(row["freq"])
            continue
        name = path.name.removesuffix(".gz")
        if not name.endswith(_TEXTS):
            continue
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8", errors="replace") as file:
            for line in file:
                read.update(_TOKEN.findall(line.lower().replace("\u2019", "'")))
    return listed, read


def inflections(word: str) -> tuple[str, ...]:
    """Regular plural, possessive, past and progressive spellings of a word of four letters or more."""
    if len(word) < 4 or "'" in word or word.endswith(("s", "ing", "ed", "ly")):
        return ()
    if word.endswith("er"):
        return (word + "s", word + "'s")
    if word.endswith("e"):
        return (word + "s", word + "'s", word + "d", word[:-1] + "ing")
    if word.endswith("y") and word[-2] not in "aeiou":
        return (word[:-1] + "ies", word + "'s", word[:-1] + "ied", word + "ing")
    plural = word + ("es" if word.endswith(("x", "z", "ch", "sh")) else "s")
    return (plural, word + "'s", word + "ed", word + "ing")


def frequent_words(paths: Iterable[Path], limit: int) -> list[str]:
    """Up to `limit` distinct words, most frequent first (see the module docstring for the order of the sources)."""
    listed, read = word_counts(paths)
    ordered = [word for word, _ in listed.most_common()]
    words = dict.fromkeys(ordered[:200] + CONTRACTIONS + ordered)
    words.update(dict.fromkeys(word for word, count in read.most_common() if count > 1 or not ordered))
    for word in ordered:
        if len(words) >= limit:
            break
        words.update(dict.fromkeys(inflections(word)))
    return list(words)[:limit]


def write_lexicon(paths: Iterable[Path], out: Path, limit: int = 30_000, voice: str = "en-us") -> int:
    """Write ``word<TAB>phones`` lines to `out` (atomically) and return how many; words that espeak spells out silently are left out."""
    espeak = Espeak()
    count = 0
    with atomic_path(Path(out)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for word in frequent_words(paths, limit):
            phones = espeak.pronounce(word, voice)
            if phones:
                file.write(f"{word}\t{' '.join(phones)}\n")
                count += 1
    return count
