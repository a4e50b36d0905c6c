"""Songs whose letters are written into their samples, and a network that reads them: what an aligner by letters must find is known to the frame."""

import torch

from autosing.perception.alignment.wav2vec2 import HOP

LETTERS = {"-": 0, "|": 1, **{letter: 2 + number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}}


class Reader(torch.nn.Module):
    """Hears column k where a frame's samples are k / 100."""

    def forward(self, wav: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, None]:
        columns = (wav[0, : len(wav[0]) // HOP * HOP : HOP] * 100).round().long().clamp(0, len(LETTERS) - 1)
        return torch.nn.functional.one_hot(columns, len(LETTERS)).float()[None] * 12, None


def written(words: list[tuple[str, float]], seconds: float) -> torch.Tensor:
    """Samples that say each word from its time on, a letter a frame."""
    frames = torch.zeros(int(seconds * 50))
    for word, start in words:
        for number, letter in enumerate(word.lower()):
            if letter in LETTERS:
                frames[round(start * 50) + 2 * number] = LETTERS[letter] / 100
    return frames.repeat_interleave(HOP)
