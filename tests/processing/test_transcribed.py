"""Songs without lyrics: with a transcriber they get those it hears, and every table down to the training rows says so."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from small_songs import SMALL, audio_bytes, tone

from autosing import perception
from autosing.cli.construct_dataset import main as construct
from autosing.cli.process import main
from autosing.song.lyrics import Line, Lyrics
from processing.align import AlignLyrics
from processing.step import Done


class FakeTranscriber:
    name, sample_rate = "fake", 8000

    def __init__(self, device: torch.device):
        del device

    def transcribe(self, wav: torch.Tensor) -> Lyrics:
        return Lyrics((Line("la la", 0.5),)) if float(wav.abs().max()) > 0.02 else Lyrics(())


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(perception.TRANSCRIBERS._entries, "fake", f"{__name__}:FakeTranscriber")


def sources(folder: Path, table: str) -> dict[str, str | None]:
    rows = [row for path in sorted(folder.glob(f"*/{table}.parquet")) for row in pq.read_table(path, columns=["id", "lyrics_source"]).to_pylist()]
    return {row["id"].partition("_at_")[0]: row["lyrics_source"] for row in rows}


def test_lyrics_say_where_they_come_from(songs: Path, tmp_path: Path) -> None:
    assert main(["run", str(songs), *SMALL]) == 0
    before = sources(songs, "alignment")
    without = {song for song, source in before.items() if source is None}
    assert without == {"gamma"} and before == {"alpha": "raw", "beta": "lrc", "gamma": None, "delta": "lrc"}
    assert main(["run", str(songs), *SMALL, "--transcriber", "fake"]) == 0
    after = sources(songs, "alignment")
    assert {song for song, source in after.items() if source == "transcribed"} == without
    assert {song: source for song, source in after.items() if song not in without} == {s: v for s, v in before.items() if v is not None}
    assert set(sources(songs, "chunked").values()) <= {"lrc", "raw", "transcribed"}
    count = len(list(songs.glob("*/index.parquet")))
    assert construct([str(songs), str(count), str(tmp_path / "tokens"), "--num-out-partitions", "1", "--codec", "fake"]) == 0
    assert "transcribed" in sources(tmp_path / "tokens", "main").values()


class SongOfTwoSeconds:
    """A `step.Song` without lyrics."""

    id = "a"

    def row(self, table: str) -> dict[str, object]:
        return {"audio": audio_bytes(tone(2))} if table == "vocals" else {"lrc_lyrics": None}


def test_lyrics_that_were_heard_and_do_not_fit_do_not_reject_the_song(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTranscriber, "transcribe", lambda self, wav: Lyrics((Line("la " * 100),)))
    step = AlignLyrics("fake", transcriber="fake")
    step.setup(torch.device("cpu"))
    (done,) = step.rows(iter([SongOfTwoSeconds()]))
    assert isinstance(done, Done) and done.notes == ("no_lyrics",)
    assert done.tables["alignment"][0]["lyrics_source"] is None


def test_an_unknown_transcriber_is_a_mistake_in_the_request(songs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(songs), *SMALL, "--transcriber", "whisper"]) == 2
    assert "no transcriber is called 'whisper'; did you mean 'whisperx'?" in capsys.readouterr().err
