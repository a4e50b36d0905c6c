"""`make samples`: the page from made-up results (no model), what is sung again and what is not, and how a browser shows it."""

import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from autosing.cli import samples
from autosing.singing.picture import draw
from autosing.song.alignment import Alignment, Word
from autosing.song.audio import Audio, encode
from tests.browser import look

RATE = 24_000
WORDS = (Word("we", 0.5, 0.9, 0.9, 0), Word("sing", 1.2, 1.9, 0.4, 0))


def tone(seconds: float = 4.0) -> Audio:
    return Audio(0.4 * torch.sin(2 * torch.pi * 220 * torch.arange(round(seconds * RATE)) / RATE)[None], RATE)


def made_up(work: Path, number: int) -> None:
    """What sing.py leaves, as far as the page reads it."""
    folder = work / "sung" / f"{number:02d}"
    folder.mkdir(parents=True)
    for name in ("mix", "vocals", "accompaniment"):
        (folder / f"{name}.wav").write_bytes(encode(tone().samples, RATE, "wav"))
    report = {"words": WORDS, "phone_errors": [0.5, 0.25], "chosen": 1, "voice": {"similarity": 0.8}}
    (folder / "request.json").write_text(json.dumps(report))
    draw(folder / "picture.png", tone().samples, tone().samples, RATE, Alignment(WORDS), "made up")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    lines = samples.LINES[:2]
    for number in (1, 2):
        made_up(tmp_path, number)
    songs = (samples.RealSong("A - B & C", "a.ogg", "a.lrc", "CC0"),)
    processed = [samples.shown_line("A - B & C", 0, WORDS, tone(), tone(), 0.0, 4.0)]
    (tmp_path / "index.html").write_text(samples.page(tmp_path, lines, songs, processed, {"A - B & C": "sung/01/picture.png"}), encoding="utf-8")
    return tmp_path


def test_the_page_has_players_words_figures_and_files_that_are_there(written: Path) -> None:
    text = (written / "index.html").read_text(encoding="utf-8")
    assert text.count("<audio ") == 2 * 3 and text.count('data-start="0.50"') == 3
    assert "phones heard wrong by the aligner&#x27;s recogniser: 0.25" in text and "likeness to the asked voice: 0.80" in text
    assert "A - B &amp; C" in text and "lyrics to waveform, phone error" in text
    links = re.findall(r'(?:href|src)="((?!data:|#)[^"]+)"', text)
    assert len(links) == 2 * 4 + 1 and all((written / link).is_file() for link in links)


def test_a_browser_shows_it(written: Path, tmp_path: Path, browser: str) -> None:
    picture = tmp_path / "page.png"
    look(browser, tmp_path / "profile", written / "index.html", "--window-size=1200,3000", f"--screenshot={picture}")
    image = (matplotlib.image.imread(picture)[..., :3] * 255).round().astype(int)
    assert image.shape[:2] == (3000, 1200)
    white, good, magma = (abs(image - np.array(colour)).sum(axis=2) < 12 for colour in ((255, 255, 255), (0xD7, 0xEF, 0xE1), (0, 0, 4)))
    assert good.sum() > 500, "no word of a good score is drawn"
    assert magma.sum() > 20_000, "no spectrogram is drawn"
    assert white.mean() > 0.1


def test_lines_that_were_sung_are_not_sung_again_unless_they_changed(tmp_path: Path, monkeypatch, capsys) -> None:
    sung = []

    class Singer:
        def __init__(self, **options):
            pass

    def write(folder, singer, request):
        sung.append((folder.name, request.lyrics))
        folder.mkdir(parents=True)
        (folder / "mix.wav").touch()

    monkeypatch.setattr("autosing.singing.pipeline.Singer", Singer)
    monkeypatch.setattr("autosing.cli.sing.write", write)
    samples.sing(tmp_path, samples.LINES[:2])
    assert sung == [("01", samples.LINES[0].words), ("02", samples.LINES[1].words)]
    samples.sing(tmp_path, samples.LINES[:2])
    assert len(sung) == 2 and "2 of 2 lines were sung before" in capsys.readouterr().out
    (tmp_path / "sung" / "02" / "mix.wav").unlink()
    (tmp_path / "sung" / "02").rmdir()
    samples.sing(tmp_path, samples.LINES[:2])
    assert sung[2:] == [("02", samples.LINES[1].words)]


def test_real_songs_are_taken_where_all_are_there_and_demo_songs_else(tmp_path: Path) -> None:
    demo = samples.chosen_songs(tmp_path, 4)
    assert len(demo) == 4 and all("demo song" in song.licence and Path(song.lyrics).is_file() for song in demo)
    for song in samples.REAL_SONGS:
        for name in (song.audio, song.lyrics):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    assert [song.name for song in samples.chosen_songs(tmp_path, 2)] == [song.name for song in samples.REAL_SONGS[:2]]


def test_lines_are_a_dozen_and_name_demo_songs() -> None:
    assert len(samples.LINES) == 12 and len({line.words for line in samples.LINES}) == 12 and len({line.seed for line in samples.LINES}) == 12
    assert all((samples.DEMO / f"{name}.ogg").is_file() for line in samples.LINES for name in (line.song, line.voice) if name)


def test_the_fullest_stretch() -> None:
    words = [Word("x", start, start + 0.1, 1.0, 0) for start in (1.0, 30.0, 31.0, 32.0, 60.0)]
    assert samples.fullest(words) == 29.5 and samples.fullest([]) == 0.0


def test_stems_of_other_rates_are_cut_to_the_same_length() -> None:
    whole, sung = (samples.cut(Audio(torch.zeros(channels, 4 * rate), rate), 1.0, 2.5, 24_000) for channels, rate in ((2, 44_100), (1, 24_000)))
    assert whole.shape == (2, 36_000) and sung.shape == (1, 36_000)
