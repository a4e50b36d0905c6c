"""Tiny stand-ins for every ear, quick and exact enough to be checked by hand. All work at 8 kHz.

`register` puts them into the tables of backends as "fake"; run as a script, this file is `autosing-process` with them in place.
"""

import sys

import torch
from torch import Tensor

from autosing import perception
from autosing.errors import AlignmentError
from autosing.perception.separation.base import Stems
from autosing.song.alignment import Alignment, Word
from autosing.song.lyrics import Lyrics
from autosing.tokens.specs import CodecSpec, SemanticSpec, VoiceSpec

RATE = 8000


class FakeSeparator:
    name, sample_rate = "fake", RATE

    def __init__(self, device: torch.device):
        del device

    def separate(self, mix: Tensor) -> Stems:
        vocals = 0.6 * mix.mean(dim=0, keepdim=True).expand_as(mix)
        return Stems(vocals, mix - vocals)


class OtherSeparator(FakeSeparator):
    name = "other"


class FakeAligner:
    name, sample_rate, stereo = "fake", RATE, False

    def __init__(self, device: torch.device):
        del device

    def align(self, wav: Tensor, lyrics: Lyrics) -> Alignment:
        texts = [(word, number) for number, line in enumerate(lyrics.lines) for word in line.text.split()]
        seconds = len(wav) / self.sample_rate
        if len(texts) > 10 * seconds:
            raise AlignmentError("too_many_words", f"{len(texts)} words do not fit in {seconds:.0f} s")
        step = seconds / len(texts)
        words = tuple(Word(t, i * step, (i + 0.9) * step, 1.0, line) for i, (t, line) in enumerate(texts))
        return Alignment(words, (), 1.0 if lyrics.stamped else 0.9)

    def activity(self, wav: Tensor) -> Tensor:
        frame = self.sample_rate // 50
        return (wav[: len(wav) // frame * frame].reshape(-1, frame).abs().amax(dim=1) > 0.02).float()


class FakeCodec:
    spec = CodecSpec("fake", RATE, 80, (8, 4, 2, 1), 64, 8)
    accompaniment = "fake_band"

    def __init__(self, device: torch.device):
        del device

    def codebooks(self) -> tuple[Tensor, ...]:
        return ()

    def encode(self, wav: Tensor) -> Tensor:
        grain = self.spec.hop * self.spec.grain
        wav = torch.nn.functional.pad(wav[:, 0], (0, -wav.shape[-1] % grain))
        level = wav.reshape(wav.shape[0], -1, self.spec.hop).abs().mean(dim=2)
        fine = (level * 63).round().clamp(0, 63).long()
        codes = fine[:, None].repeat(1, self.spec.levels, 1)
        for number, stride in enumerate(self.spec.strides):
            off = torch.arange(fine.shape[1]) % stride != 0
            codes[:, number, off] = CodecSpec.HOLE
        return codes


class FakeBandCodec(FakeCodec):
    spec = CodecSpec("fake_band", RATE, 160, (8, 4, 2, 1), 64, 8)


class FakeSemantic:
    spec = SemanticSpec("fake", RATE, 25, 32, 4)

    def __init__(self, device: torch.device):
        del device

    def encode(self, wav: Tensor) -> Tensor:
        hop = self.spec.sample_rate // self.spec.token_rate
        frames = wav[:, : wav.shape[1] // hop * hop].reshape(wav.shape[0], -1, hop)
        return (frames.abs().mean(dim=2) * 31).round().clamp(0, 31).long()


class FakeVoice:
    spec = VoiceSpec("fake", RATE, 4)

    def __init__(self, device: torch.device):
        del device

    def embed(self, vocals: Tensor) -> Tensor:
        rms = vocals.square().mean(dim=1).sqrt()
        values = torch.stack([rms, vocals.abs().amax(dim=1), (vocals[:, 1:] * vocals[:, :-1] < 0).float().mean(dim=1), rms * 0 + 0.1], 1)
        return torch.nn.functional.normalize(values, dim=1)


ENTRIES = (
    (perception.SEPARATORS, {"fake": "fake_ears:FakeSeparator", "other": "fake_ears:OtherSeparator"}),
    (perception.ALIGNERS, {"fake": "fake_ears:FakeAligner"}),
    (perception.CODECS, {"fake": "fake_ears:FakeCodec", "fake_band": "fake_ears:FakeBandCodec"}),
    (perception.SEMANTIC, {"fake": "fake_ears:FakeSemantic"}),
    (perception.VOICES, {"fake": "fake_ears:FakeVoice"}),
)
FLAGS = ["--separator", "fake", "--aligner", "fake", "--codec", "fake", "--semantic", "fake", "--voice", "fake", "--device", "cpu"]


def register() -> None:
    for registry, entries in ENTRIES:
        registry._entries.update(entries)


if __name__ == "__main__":
    from autosing.cli.process import main

    register()
    sys.exit(main(sys.argv[1:]))
