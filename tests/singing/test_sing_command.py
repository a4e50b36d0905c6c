"""What `sing.py` writes and says, with a singer that only pretends."""

from pathlib import Path

import pytest
import torch

from autosing.cli import sing as command
from autosing.errors import AudioError
from autosing.singing import pipeline
from autosing.singing.request import SingRequest, Sung
from autosing.song.alignment import Alignment, Word


class Pretender:
    """Sings a tone in no time; `made` counts how often the models would have been loaded."""

    made = 0

    def __init__(self, *_: object) -> None:
        type(self).made += 1

    def sing(self, request: SingRequest, progress=None) -> Sung:
        if progress is not None:
            progress(0.25, "t2s")
            progress(1.0, "align")
        if request.reference is not None and request.reference.read_bytes() == b"broken":
            raise AudioError("not_audio", "cannot be decoded")
        tone = torch.sin(torch.arange(16000) * 0.1)[None] * 0.1
        report = {"seconds": 1.0, "stage_seconds": {"t2s": 0.0}, "word_scores": [0.5]}
        others = (tone,) * (request.candidates - 1)
        return Sung(tone, tone, tone * 0, 16000, Alignment((Word("la", 0.1, 0.5, 0.9, 0),)), others, report)


@pytest.fixture(autouse=True)
def pretender(monkeypatch: pytest.MonkeyPatch) -> type[Pretender]:
    monkeypatch.setattr(pipeline, "Singer", Pretender)
    monkeypatch.setattr(Pretender, "made", 0)
    return Pretender


def song(folder: Path, name: str, data: bytes = b"song") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def test_how_far_it_is_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "[ 25 %] t2s" in told.err and "sung" in told.err.splitlines() and "mix.wav" in told.out


def test_the_bar_ends_before_an_error_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = song(tmp_path / "songs", "a.wav", b"broken")
    assert command.main([str(broken), "--lyrics", "la", "--output-dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == ["not sung", "error: cannot be decoded"]
