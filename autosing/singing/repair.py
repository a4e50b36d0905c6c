"""Wrong words sung again: their codes are masked and filled in by a parallel model, what stands around them stays and is heard.

A round masks every word in which the recogniser hears other phones than are written, fills in all masks together, and takes of
what is new the words that are better now. What comes of it is listened to as a whole, and stays only if its score is better than
that of the song before. Letters: K codec levels, T finest codec frames, n samples.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from autosing.singing.score import Take, word_edits
from autosing.song.alignment import Word
from autosing.tokens.specs import CodecSpec, Seconds

MARGIN_SECONDS: Seconds = 0.05  # a mask reaches so far beyond its word: sounds lean on their neighbours, and times are not exact


class Version(NamedTuple):
    """A song as (K, T) `codes`, as (n,) `vocals`, and as it is heard."""

    codes: Tensor
    vocals: Tensor
    take: Take


def repair(
    version: Version,
    *,
    rounds: int,
    spec: CodecSpec,
    sing: Callable[[Tensor], Tensor],
    listen: Callable[[Tensor], Version],
    pronounce: Callable[[str], Sequence[str]],
    first: int = 0,
) -> tuple[Version, list[dict[str, Any]]]:
    """Sing wrong words again for so many `rounds`, or until none is wrong.

    Args:
        sing: fills the holes of a template, (1, K, T) -> (1, K, T); every call sings them in another way.
        listen: decodes and hears (K, T) codes.
        first: frames before it stay as they are.

    Returns:
        The best version, and for each round how many words were wrong, how many of them came out better, whether anything of it was
        kept, and the phone error after it.
    """
    told = []
    for _ in range(rounds):
        words = version.take.words.words
        edits = word_edits(words, version.take.phones, pronounce)
        masks = {i: word_frames(words[i], spec, first, version.codes.shape[1]) for i, wrong in enumerate(edits) if wrong}
        masks = {i: frames for i, frames in masks.items() if frames.start < frames.stop}
        if not masks:
            break
        template = version.codes.clone()
        for frames in masks.values():
            template[:, frames] = spec.HOLE
        tried = listen(sing(template[None])[0])
        now = word_edits(tried.take.words.words, tried.take.phones, pronounce)
        better = [i for i in masks if i < len(now) and now[i] < edits[i]]
        versions = [version]
        if 0 < len(better) < len(masks):
            mixed = version.codes.clone()
            for i in better:
                mixed[:, masks[i]] = tried.codes[:, masks[i]]
            versions.append(listen(mixed))
        best = min([*versions, tried], key=lambda v: v.take.score.badness)  # of equal ones the one with the least that is new
        outcome = {"kept": best is not version, "phone_error": best.take.score.phone_error}
        told.append({"wrong": len(masks), "better": len(better), **outcome})
        version = best
    return version, told


def word_frames(word: Word, spec: CodecSpec, first: int, last: int) -> slice:
    """The frames in [first, last) that hold all codes of a sung word: whole blocks of them, so that no level's code is cut."""
    block = math.lcm(*spec.strides)
    begin = math.floor((word.start - MARGIN_SECONDS) * spec.frame_rate / block) * block
    end = math.ceil((word.end + MARGIN_SECONDS) * spec.frame_rate / block) * block
    return slice(max(first, begin), min(last, end))
