"""Alignment by letters that are heard: a wav2vec 2.0 or MMS network and torchaudio's `forced_align`, nothing else.

    --aligner ctc
    --aligner 'ctc:{"model": "MMS_FA"}'
    --aligner ctc:/models/wav2vec2-large-xlsr-53-french

The whole song is heard once (`wav2vec2.py`) and all lyrics are aligned with it at once, so that no word is lost between windows. With stamps every line is
then aligned again where it must lie. Raw lyrics get no trust: there is nothing to compare them with. Letters: n samples, F frames, V letters.
"""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autosing.errors import AlignmentError
from autosing.perception.alignment import wav2vec2
from autosing.perception.alignment.lines import FoundWord, require_words, spans, to_alignment, vote
from autosing.perception.alignment.wav2vec2 import FRAME_RATE, LetterNet
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Lyrics
from autosing.tokens.specs import Seconds

WHAT = "aligner 'ctc'"


class CtcAligner:
    """See the module; implements `Aligner`."""

    name = "ctc"
    sample_rate = wav2vec2.SAMPLE_RATE
    stereo = False

    def __init__(self, device: torch.device | str = "cpu", weights: str | None = None, model: str | None = None):
        """
        Args:
            weights: folder or hub id of the network.
            model: a bundle of torchaudio, or a Hugging Face model; see `wav2vec2.find`.

        Raises:
            ConfigError, WeightsError: see `wav2vec2.find`.
        """
        self._net = wav2vec2.load(WHAT, device, model, weights)

    @classmethod
    def files(cls, weights: str | None = None, model: str | None = None, **_: Any) -> tuple[Path, ...]:
        return wav2vec2.find(WHAT, model, weights)

    def activity(self, wav: Tensor) -> Tensor:
        """(n,) -> (F,); see `LetterNet.activity`."""
        return self._net.activity(wav)

    def align(self, wav: Tensor, lyrics: Lyrics) -> Alignment:
        """See `Aligner.align`.

        Raises:
            AlignmentError: code `no_lyrics` or `too_many_words`.
        """
        song = hear(self._net, wav, lyrics)
        found = []
        for words, own, span in zip(song.lines, song.free, spans(lyrics, song.offset, len(song.heard) / FRAME_RATE), strict=True):
            times = None
            if span is not None:
                first, last = int(span.start * FRAME_RATE), int(span.end * FRAME_RATE)
                times = find_times(self._net, song.heard[first:last], words, first)
            found.append(own if times is None else times)
        return to_alignment(song.lines, found, song.trust, song.offset)


class Song(NamedTuple):
    """What is known of a song before its stamps are trusted: letters (F, V + 1), words and times of each line, the vote on the stamps."""

    heard: Tensor
    lines: list[list[str]]
    free: list[list[FoundWord | None]]
    offset: Seconds
    trust: float | None


def hear(net: LetterNet, wav: Tensor, lyrics: Lyrics) -> Song:
    """All lyrics aligned with the whole of (n,) at once, without their stamps.

    Raises:
        AlignmentError: code `no_lyrics` or `too_many_words`.
    """
    lines = require_words(lyrics)
    heard = net.log_probabilities(wav)
    flat = find_times(net, heard, [word for line in lines for word in line])
    if flat is None:
        count = sum(len(line) for line in lines)
        raise AlignmentError(
            "too_many_words", f"{count} words do not fit into {len(heard) / FRAME_RATE:.1f} s; check that the lyrics belong to the recording"
        )
    rest = iter(flat)
    free = [[next(rest) for _ in line] for line in lines]
    starts = [next((time.start for time in line if time), None) for line in free]
    return Song(heard, lines, free, *vote(starts, [line.start for line in lyrics.lines]))


def find_times(net: LetterNet, heard: Tensor, words: Sequence[str], first: int = 0) -> list[FoundWord | None] | None:
    """(F, V + 1), which begins at frame `first`, and words -> when each is sung, None where it is not; None as a whole where they do not fit."""
    from torchaudio.functional import forced_align, merge_tokens

    spelt = [net.spell(word) for word in words]
    names = {column: letter for letter, column in net.letters.items()}
    between = net.letters.get("|")
    targets: list[int] = []
    owners: list[int] = []
    for number, columns in enumerate(spelt):
        if columns and targets and between is not None:
            targets.append(between)
            owners.append(-1)
        targets += columns
        owners += [number] * len(columns)
    if not targets:
        return [None for _ in words]
    if len(targets) + sum(a == b for a, b in pairwise(targets)) > len(heard):
        return None
    with warnings.catch_warnings():  # torchaudio 2.8 says that 2.9 will lack it; 2.11 has it
        warnings.filterwarnings("ignore", message=".*has been deprecated")
        path, scores = forced_align(heard[None].contiguous(), torch.tensor([targets], dtype=torch.int32), blank=net.blank)
    found = merge_tokens(path[0], scores[0].exp(), blank=net.blank)
    letters: list[list[tuple[str, float, float, float]]] = [[] for _ in words]
    for owner, span in zip(owners, found, strict=True):
        if owner >= 0:
            begin, end = (first + span.start) / FRAME_RATE, (first + span.end) / FRAME_RATE
            letters[owner].append((names.get(span.token, "*"), begin, end, min(1.0, float(span.score))))
    return [FoundWord(parts[0][1], parts[-1][2], sum(part[3] for part in parts) / len(parts), tuple(parts)) if parts else None for parts in letters]
