"""Wrong words sung again: their codes are masked and filled in by a parallel model, what stands around them stays and is heard.

A round masks every word in which the recogniser hears other phones than are written, or of which it is unsure, fills in all masks together, in
several ways at once, and takes for each word the way in which it is sung best, if it is better than before. What comes of it is listened to as
a whole, and stays only if its score is better than that of the song before. Letters: B ways, K codec levels, T finest codec frames, n samples.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autosing.singing.score import Take, word_faults
from autosing.song.alignment import Word
from autosing.tokens.specs import CodecSpec, Seconds

DOUBTFUL = 0.5
"""Words less sure than this are sung again, whatever is heard in them."""
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
    listen: Callable[[Tensor], Sequence[Version]],
    pronounce: Callable[[str], Sequence[str]],
    first: int = 0,
) -> tuple[Version, list[dict[str, Any]]]:
    """Sing wrong words again for so many `rounds`, or until none is wrong.

    Args:
        sing: fills the holes of a template, (1, K, T) -> (B, K, T), in B ways; every call sings them in others.
        listen: decodes and hears (B, K, T) codes, each by itself.
        first: frames before it stay as they are.

    Returns:
        The best version, and for each round how many words were wrong, how many of them came out better, whether anything of it was
        kept, and the phone error after it.
    """
    told = []
    for _ in range(rounds):
        words, faults = version.take.words.words, word_faults(version.take, pronounce)
        wrong = [number for number, fault in enumerate(faults) if fault.edits or fault.doubt > DOUBTFUL]
        masks = {number: word_frames(words[number], spec, first, version.codes.shape[1]) for number in wrong}
        masks = {number: frames for number, frames in masks.items() if frames.start < frames.stop}
        if not masks:
            break
        template = version.codes.clone()
        for frames in masks.values():
            template[:, frames] = spec.HOLE
        ways = listen(sing(template[None]))
        now = [(word_faults(way.take, pronounce), way) for way in ways if way.take.words.words]
        mixed, better = version.codes.clone(), 0
        for number, frames in masks.items():
            fault, way = min(((found[number], way) for found, way in now), key=lambda pair: pair[0], default=(faults[number], version))
            if fault < faults[number]:
                mixed[:, frames] = way.codes[:, frames]
                better += 1
        new = [] if any(torch.equal(mixed, known.codes) for known in (version, *ways)) else listen(mixed[None])
        best = min([version, *new, *ways], key=lambda v: v.take.score.badness)  # of equal ones the one with the least that is new
        outcome = {"kept": best is not version, "phone_error": best.take.score.phone_error}
        told.append({"wrong": len(masks), "better": better, **outcome})
        version = best
    return version, told


def word_frames(word: Word, spec: CodecSpec, first: int, last: int) -> slice:
    """The frames in [first, last) that hold all codes of a sung word: whole blocks of them, so that no level's code is cut."""
    block = math.lcm(*spec.strides)
    begin = math.floor((word.start - MARGIN_SECONDS) * spec.frame_rate / block) * block
    end = math.ceil((word.end + MARGIN_SECONDS) * spec.frame_rate / block) * block
    return slice(max(first, begin), min(last, end))
