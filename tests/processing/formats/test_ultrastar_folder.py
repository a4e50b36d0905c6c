"""A folder of UltraStar songs: sheets find their audio, whatever its ending became, and nothing is lost."""

from pathlib import Path

import pytest
from small_songs import audio_bytes, read, tone

from autosing.cli.process import main

SOUNDS = [audio_bytes(tone(1, 200 + 10 * n)) for n in range(5)]
NOTES = "#BPM:60\n#GAP:0\n: 0 1 1 la\n: 4 1 1  ñá\nE\n"


def test_sheets_and_their_audio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "Duo/song.txt": f"#ARTIST:A\n#TITLE:T\n#MP3:audio.mp3\n#VOCALS:v.flac\n#YEAR:1999\n{NOTES}".encode("utf-16"),
        "Duo/audio.flac": SOUNDS[0],  # converted since
        "Duo/v.flac": SOUNDS[1],
        "Old/x.txt": f"#ENCODING:CP1250\n#MP3:x.flac\n{NOTES}".replace("ñ", "ć").encode("cp1250"),
        "Old/x.flac": SOUNDS[2],
        "Gone/song.txt": f"#MP3:gone.mp3\n{NOTES}".encode(),
        "Evil/song.txt": f"#MP3:../../secret.flac\n{NOTES}".encode(),
        "Old/x.avi": b"what it is shown with",
        "Plain/video.mkv": b"may be a song",
        "Plain/other.flac": SOUNDS[3],
        "Plain/other.lrc": b"[00:01.00]as in any folder",
        "../secret.flac": SOUNDS[4],
    }
    for name, data in files.items():
        path = tmp_path / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert main(["import", str(tmp_path / "music"), str(tmp_path / "ds")]) == 0
    out = capsys.readouterr().out
    assert "left out Gone/song.txt: its audio 'gone.mp3' is not in" in out and "left out Evil/song.txt: its audio" in out
    assert "left out Plain/video.mkv: .mkv cannot be read" in out and "x.avi" not in out
    rows = {row["source"].removeprefix("music/"): row for row in read(tmp_path / "ds" / "0" / "index.parquet")}
    assert set(rows) == {"Duo/audio.flac", "Old/x.flac", "Plain/other.flac"}
    duo = rows["Duo/audio.flac"]
    assert (duo["artist"], duo["title"], duo["year"]) == ("A", "T", "1999")
    assert duo["lrc_lyrics"] == "[00:00.00]<00:00.00>la <00:01.00>ñá\n[00:01.25]\n"
    assert "ćá" in rows["Old/x.flac"]["lrc_lyrics"] and "any folder" in rows["Plain/other.flac"]["lrc_lyrics"]
