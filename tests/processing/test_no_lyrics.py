"""Songs without a word to sing: kept with a note, or rejected on request."""

from pathlib import Path

import pytest
from fake_ears import FakeAligner
from small_songs import SMALL, audio_bytes, read, tone, write_index

from autosing.cli.process import main
from autosing.errors import AlignmentError

LYRICS = {"none": None, "marks": "***\n[chorus]", "unspoken": "\u0301 x", "words": "la la"}


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    align = FakeAligner.align

    def finds_no_word(self, wav, lyrics):  # type: ignore[no-untyped-def]
        if lyrics.lines[0].text == LYRICS["unspoken"]:
            raise AlignmentError("no_lyrics", "the lyrics hold no sung word")
        return align(self, wav, lyrics)

    monkeypatch.setattr(FakeAligner, "align", finds_no_word)
    write_index(tmp_path / "ds" / "0", [{"id": name, "audio": audio_bytes(tone(5)), "raw_lyrics": text} for name, text in LYRICS.items()])
    return tmp_path / "ds"


def test_they_are_kept_with_a_note_or_rejected(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["src_sep", str(dataset), *SMALL]) == 0
    assert main(["align", str(dataset), *SMALL]) == 0
    assert "no_lyrics 3" in capsys.readouterr().out
    words = {row["id"]: row["alignment"]["words"] for row in read(dataset / "0" / "alignment.parquet")}
    assert words == {"none": [], "marks": [], "unspoken": [], "words": ["la", "la"]}
    assert main(["align", str(dataset), *SMALL, "--require_lyrics"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "accepted 1 songs (0 windows), rejected 3 (no_lyrics 3)"
    assert [row["id"] for row in read(dataset / "0" / "alignment.parquet")] == ["words"]


@pytest.mark.parametrize("minutes", ["inf", "nan", "0"])
def test_limits_that_are_no_number_are_one_line(dataset: Path, capsys: pytest.CaptureFixture[str], minutes: str) -> None:
    assert main(["align", str(dataset), *SMALL, "--max-minutes", minutes]) == 2
    assert "--max-minutes must be a number above 0" in capsys.readouterr().err
