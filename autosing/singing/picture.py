"""Pictures of what was sung: log-mel of the vocals with the words at their times, above the waveform of the mix; or semantic tokens with their words."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autosing.nn.spectra import mel_filterbank
from autosing.song.alignment import Alignment, Word
from autosing.store import atomic_path
from autosing.training.task import Sample

WIDEST_INCHES = 160.0  # what is longer is drawn closer together


def draw(path: Path, mix: Tensor, vocals: Tensor, sample_rate: int, alignment: Alignment, title: str) -> None:
    """Write a PNG.

    Args:
        path: where.
        mix, vocals: (C, n) at `sample_rate` Hz.
        alignment: words in seconds.
        title: one line above the picture.
    """
    seconds = mix.shape[-1] / sample_rate
    n_fft = 2048
    spectrum = torch.stft(vocals.mean(0), n_fft, sample_rate // 100, window=torch.hann_window(n_fft), return_complex=True).abs()
    bank = mel_filterbank(sample_rate, n_fft, 96, 50.0, min(11_000.0, sample_rate / 2))
    image = torch.log(bank @ spectrum.square() + 1e-8).numpy()
    wave = mix.mean(0)
    step = max(1, wave.shape[0] // 4000)
    blocks = wave[: wave.shape[0] // step * step].reshape(-1, step)
    times = [seconds * i / max(1, len(blocks)) for i in range(len(blocks))]
    with _panels(path, seconds, 5.4, title) as (top, bottom):
        top.imshow(image, origin="lower", aspect="auto", extent=(0, seconds, 0, image.shape[0]), cmap="magma", vmin=image.max() - 14)
        _label(top, alignment.words, image.shape[0], "white", 0.07)
        top.set_ylabel("vocals, mel band")
        bottom.fill_between(times, blocks.amin(1).tolist(), blocks.amax(1).tolist(), color="#444477", linewidth=0)
        bottom.set(xlim=(0, seconds), ylim=(-1, 1), ylabel="mix")


def draw_tokens(path: Path, tokens: Tensor, token_rate: float, alignment: Alignment, heard: Iterable[Word], title: str) -> None:
    """Write a PNG of (N,) semantic tokens: their numbers over time with the words to sing, above what a read-out hears in them."""
    seconds = len(tokens) / token_rate
    height = float(tokens.max()) + 1 if len(tokens) else 1.0
    with _panels(path, seconds, 4.4, title) as (top, bottom):
        top.plot([step / token_rate for step in range(len(tokens))], tokens.tolist(), ".", markersize=3, color="#444477")
        _label(top, alignment.words, height, "black", 0.07)
        top.set_ylabel("semantic token")
        _label(bottom, heard, 1.0, "black", 0.25)
        bottom.set(xlim=(0, max(seconds, 1e-3)), ylim=(0, 1), yticks=[], ylabel="heard")


def draw_sample(path: Path, sample: Sample) -> None:
    """Write a PNG of what a model made while it trains."""
    if sample.audio is not None:
        draw(path, sample.audio, sample.audio, sample.sample_rate, sample.words, sample.title)
    elif sample.tokens is not None:
        draw_tokens(path, sample.tokens, sample.token_rate, sample.words, sample.heard, sample.title)


@contextlib.contextmanager
def _panels(path: Path, seconds: float, height: float, title: str) -> Iterator[tuple[Any, Any]]:
    """Two axes over one time, as wide as `seconds` need, to draw on; then the PNG is written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(WIDEST_INCHES, max(10.0, seconds * 0.55)), height), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.set_title(title, fontsize=9, parse_math=False)
    bottom.set_xlabel("seconds")
    yield top, bottom
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _label(axes: Any, words: Iterable[Word], height: float, color: str, spacing: float) -> None:
    """Words at their times, in three rows under `height`, a share `spacing` of it apart."""
    for index, word in enumerate(words):
        axes.axvline(word.start, color=color, linewidth=0.5, alpha=0.6)
        axes.text(
            word.start + 0.03, height * (0.97 - spacing * (index % 3)), word.text, color=color, fontsize=8, va="top", clip_on=True, parse_math=False
        )  # fmt: skip
