"""What the step `quality` measures of a window, against sound whose bleed, clipping and copies are known."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_songs import SMALL, read, write_index

from autosing.cli.process import main
from autosing.song.alignment import Alignment, Word
from autosing.song.audio import Audio, decode
from processing.quality import clipped_share, copies, fingerprint, frame_power, leak, signal_to_bleed, sung_and_not

RATE = 8000


def music(seed: int, seconds: float = 40.0, rate: int = RATE) -> np.ndarray:
    """(n,) notes of random pitch and level, half a second each."""
    rng = np.random.default_rng(seed)
    time = np.arange(rate // 2) / rate
    notes = [level * np.sin(2 * np.pi * pitch * time) for pitch, level in zip(rng.uniform(300, 2400, int(2 * seconds)), rng.uniform(0.05, 0.4, int(2 * seconds)), strict=True)]
    return np.concatenate(notes)


@pytest.mark.parametrize("wanted", [0.0, 10.0, 25.0])
def test_the_estimate_of_bleed_finds_a_known_one(wanted: float) -> None:
    """Words of 2 s with 2 s between them; the vocals hold the accompaniment at a fixed share."""
    band = music(1)
    time = np.arange(len(band)) / RATE
    singing = 0.3 * np.sin(2 * np.pi * 440 * time) * (time % 4 < 2)
    words = tuple(Word("la", start, start + 2.0, 1.0, 0) for start in np.arange(0, 40, 4.0))
    share = np.mean(singing[time % 4 < 2] ** 2) / np.mean(band[time % 4 < 2] ** 2) / 10 ** (wanted / 10)
    vocals = singing + np.sqrt(share) * band
    powers = [frame_power(Audio(torch.from_numpy(wave)[None].float(), RATE)) for wave in (vocals, band)]
    sung, unsung = sung_and_not(Alignment(words), len(powers[0]))
    assert signal_to_bleed(powers[0][sung], powers[1][sung], leak(*powers, unsung)) == pytest.approx(wanted, abs=1.0)


def test_bleed_is_unknown_without_words_or_without_a_pause() -> None:
    power = np.ones(1000)
    for alignment in (Alignment(()), Alignment((Word("la", 0.0, 19.5, 1.0, 0),))):
        _, unsung = sung_and_not(alignment, 1000)
        assert leak(power, power, unsung) is None
    assert signal_to_bleed(power, power, None) is None and signal_to_bleed(power[:0], power[:0], 0.1) is None
    assert signal_to_bleed(power, 0 * power, 0.1) == pytest.approx(40) and signal_to_bleed(0 * power, power, 0.1) == pytest.approx(-40)


def test_only_runs_at_full_scale_are_clipped() -> None:
    wave = np.zeros((2, 1000), dtype=np.float32)
    assert clipped_share(wave) == 0
    wave[0, 10] = wave[0, 20:22] = 1.0
    assert clipped_share(wave) == 0
    wave[1, 100:110] = -1.0
    wave[1, 990:] = 1.2
    assert clipped_share(wave) == pytest.approx(20 / 2000)


def coded(wave: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> Audio:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return decode(buffer.getvalue())


def test_copies_are_found_in_other_formats_levels_and_rates() -> None:
    rate = 32000
    songs = {seed: music(seed, rate=rate) for seed in range(12)}
    prints = {f"song {seed}": fingerprint(coded(wave, rate, "FLAC")) for seed, wave in songs.items()}
    assert copies(prints) == {}
    padded = np.concatenate([np.zeros(1500), songs[3]])
    prints["mp3"] = fingerprint(coded(songs[3], rate, "MP3", "MPEG_LAYER_III"))
    prints["quiet ogg"] = fingerprint(coded(0.1 * songs[5], rate, "OGG", "VORBIS"))
    prints["later"] = fingerprint(coded(padded, rate, "WAV"))
    prints["half"] = fingerprint(coded(songs[7].reshape(-1, 2).mean(axis=1), rate // 2, "WAV"))
    assert copies(prints) == {"mp3": "song 3", "quiet ogg": "song 5", "later": "song 3", "half": "song 7"}


def test_the_step_writes_what_it_measures(tmp_path: Path) -> None:
    """A loud song clips, one with a silent end says so, and the lyrics' pause gives a figure of the bleed."""
    loud = np.clip(20 * music(1, 12), -1, 1)
    half = music(2, 12)
    half[6 * RATE :] = 0
    rows = [{"id": name, "audio": encoded(wave), "raw_lyrics": "one two three four"} for name, wave in (("loud", loud), ("half", half))]
    write_index(tmp_path / "ds" / "0", rows)
    assert main(["run", str(tmp_path / "ds"), *SMALL, "--min-occupancy", "0.3"]) == 0
    found = read(tmp_path / "ds" / "0" / "quality.parquet")
    windows = {row["id"]: row for row in read(tmp_path / "ds" / "0" / "chunked.parquet")}
    assert {row["id"] for row in found} == set(windows) and len({row["fingerprint"] for row in found}) == 2
    for row in found:
        assert (row["clipped_share"] > 0.01) == (row["song"] == "loud")
        silent = max(0.0, windows[row["id"]]["start"] + windows[row["id"]]["seconds"] - 6) / windows[row["id"]]["seconds"] if row["song"] == "half" else 0.0
        assert row["silence_share"] == pytest.approx(min(1.0, silent), abs=0.02)


def encoded(wave: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="FLAC")
    return buffer.getvalue()
