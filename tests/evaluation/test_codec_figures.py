"""The codec's evaluation hears separated stems as processing makes them: of the stereo mixture."""

from types import SimpleNamespace

import torch

from autosing.evaluation.codec import Recording, leaking, separated
from autosing.perception.separation.base import Stems
from autosing.tokens.specs import CodecSpec


class Sides:
    """Takes what both channels share for the voice, exactly right where the band is the same but for its sign."""

    sample_rate = 12_000

    def separate(self, mix: torch.Tensor) -> Stems:
        vocals = mix.mean(0, keepdim=True).expand(2, -1)
        return Stems(vocals, mix - vocals)


def test_a_band_of_sides_alone_is_taken_away() -> None:
    codec = SimpleNamespace(spec=CodecSpec("toy", 24_000, 300, (8, 4, 2, 1), 16, 8))
    time = torch.arange(24_000) / 24_000
    voice, band = torch.sin(2 * torch.pi * 440 * time), torch.sin(2 * torch.pi * 660 * time)
    song = Recording("a", voice, None, None, torch.stack([band, -band]))
    (heard,) = separated([song], codec, Sides())  # type: ignore[arg-type]
    torch.testing.assert_close(heard.wav[500:-500], voice[500:-500], atol=1e-2, rtol=0)
    assert heard.band is song.band and not list(separated([song._replace(band=None)], codec, Sides()))  # type: ignore[arg-type]


def test_leaks_are_of_both_channels() -> None:
    voice, band = torch.randn(2, 24_000)
    (heard,) = leaking([Recording("a", voice, None, None, torch.stack([band, torch.zeros_like(band)]))])
    assert torch.corrcoef(torch.stack([heard.wav - voice, band]))[0, 1] > 0.999
