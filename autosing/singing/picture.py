"""A picture of what was sung: log-mel of the vocals with the words at their times, above the waveform of the mix."""

from pathlib import Path

import torch
from torch import Tensor

from autosing.nn.spectra import mel_filterbank
from autosing.song.alignment import Alignment
from autosing.store import atomic_path


def draw(path: Path, mix: Tensor, vocals: Tensor, sample_rate: int, alignment: Alignment, title: str) -> None:
    """Write a PNG.

    Args:
        path: where.
        mix, vocals: (C, n) at `sample_rate` Hz.
        alignment: words in seconds.
        title: one line above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = mix.shape[-1] / sample_rate
    n_fft = 2048
    spectrum = torch.stft(vocals.mean(0), n_fft, sample_rate // 100, window=torch.hann_window(n_fft), return_complex=True).abs()
    bank = mel_filterbank(sample_rate, n_fft, 96, 50.0, min(11_000.0, sample_rate / 2))
    image = torch.log(bank @ spectrum.square() + 1e-8).numpy()
    figure = Figure(figsize=(max(10.0, seconds * 0.55), 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.imshow(image, origin="lower", aspect="auto", extent=(0, seconds, 0, image.shape[0]), cmap="magma", vmin=image.max() - 14)
    for index, word in enumerate(alignment.words):
        top.axvline(word.start, color="white", linewidth=0.5, alpha=0.6)
        height = image.shape[0] * (0.93 - 0.07 * (index % 3))
        top.text(word.start + 0.03, height, word.text, color="white", fontsize=8, clip_on=True)
    top.set_title(title, fontsize=9)
    top.set_ylabel("vocals, mel band")
    wave = mix.mean(0)
    step = max(1, wave.shape[0] // 4000)
    blocks = wave[: wave.shape[0] // step * step].reshape(-1, step)
    times = [seconds * i / max(1, len(blocks)) for i in range(len(blocks))]
    bottom.fill_between(times, blocks.amin(1).tolist(), blocks.amax(1).tolist(), color="#444477", linewidth=0)
    bottom.set_ylim(-1, 1)
    bottom.set_xlim(0, seconds)
    bottom.set_ylabel("mix")
    bottom.set_xlabel("seconds")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
