"""The codec of accompaniments: harmony is heard, in any tuning, and follows transposition; audio is rough but real."""

import numpy as np
import pytest
import torch

from autosing.perception.codec.band import CLASSES, NO_HARMONY, BandBooks, BandBooksConfig, BandCodec, BandEars
from autosing.perception.codec.fit import fit_band


def chord(notes: list[int], seconds: float = 1.5, cents: float = 0.0) -> torch.Tensor:
    """(n,) MIDI notes with harmonics."""
    time = np.arange(int(seconds * 24_000)) / 24_000
    hz = [440 * 2 ** ((note - 69 + cents / 100) / 12) for note in notes]
    wave = sum(np.sin(2 * np.pi * f * k * time) / k**1.5 for f in hz for k in range(1, 6))
    return torch.from_numpy(0.08 * wave).float()


@pytest.mark.parametrize("cents", [0, 30, -30])
def test_harmony_hears_chord_and_bass(cents):
    harmony, _ = BandEars(BandBooksConfig())(chord([43, 67, 71, 74], cents=cents), 120)
    upper, bass = harmony[6, :CLASSES], harmony[6, CLASSES:]
    assert set(upper.topk(3).indices.tolist()) == {7, 11, 2}  # G B D
    assert int(bass.argmax()) == 7


def test_silence_and_noise_have_little_harmony():
    ears = BandEars(BandBooksConfig())
    silent, _ = ears(torch.zeros(24_000), 80)
    assert float(silent.abs().max()) == 0


def test_level_0_follows_transposition():
    codec = BandCodec()
    pitch_classes = codec.harmony()
    for shift in (0, 3, 7):
        codes = codec.encode(chord([n + shift for n in (48, 64, 67, 72)])[None, None])[0, 0, ::8]
        heard = pitch_classes[codes[4], :CLASSES]
        wanted = {(p + shift) % 12 for p in (0, 4, 7)}
        assert set(heard.topk(3).indices.tolist()) == wanted
    assert int(codec.encode(torch.zeros(1, 1, 24_000))[0, 0, 0]) == NO_HARMONY
    assert pitch_classes.shape == (1024, 24)


def test_decoded_band_resembles_the_band():
    codec = BandCodec()
    wav = chord([48, 64, 67, 72], 3.0)
    again = codec.decode(codec.encode(wav[None, None]))[0, 0, : len(wav)]
    ears = BandEars(codec.books.config)
    frames = len(wav) // 288 // 8 * 8
    difference = (ears(wav, frames)[1] - ears(again, frames)[1]).abs().mean() * 8.686
    assert float(difference) < 9.0
    assert abs(float(10 * torch.log10(again.square().mean() / wav.square().mean()))) < 4


def test_fit_on_few_songs():
    generator = torch.Generator().manual_seed(0)
    harmony, mel = torch.rand(400, 24, generator=generator), torch.randn(3200, 16, generator=generator)
    config = BandBooksConfig(mel_bands=16, num_codes=32)
    books = fit_band(harmony, mel, config, seed=0, iterations=4)
    assert isinstance(books, BandBooks)
    error = (books.decode(books.encode(harmony, mel)) - mel).square().mean()
    assert float(error) < 0.9 * float(mel.square().mean())
    assert torch.equal(books.book1, fit_band(harmony, mel, config, seed=0, iterations=4).book1)
