"""Tables with faults: every fault is a code and a reason, and costs its own row alone."""

import json
from collections import Counter
from pathlib import Path

import pytest
from small_songs import audio_bytes, read, tone

from autosing.cli.process import main
from autosing.song.lyrics import parse
from processing.formats.words import lyrics_columns, section_lines

SOUNDS = [audio_bytes(tone(1, 200 + 10 * n)) for n in range(5)]


@pytest.fixture
def music(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    folder.mkdir()
    for number, audio in enumerate(SOUNDS):
        (folder / f"{number}.flac").write_bytes(audio)
    (tmp_path / "outside.flac").write_bytes(audio_bytes(tone(1, 500)))
    return folder


def rows(dataset: Path) -> list[dict]:
    return [row for path in sorted(dataset.glob("*/index.parquet")) for row in read(path)]


def report(dataset: Path) -> list[dict]:
    return [json.loads(line) for line in (dataset / "import-music.jsonl").read_text().splitlines()]


def test_paths_lead_nowhere_else(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (music / "link.flac").symlink_to(tmp_path / "outside.flac")
    names = ["0.flac", "../outside.flac", str(tmp_path / "outside.flac"), "link.flac", "gone.flac", "https://x.y/z.mp3", "", "songs.jsonl", "a\0b", "./1.flac", "music\\2.flac", str(music / "3.flac"), "x" * 9999]  # fmt: skip
    (music / "songs.jsonl").write_text("".join(json.dumps({"file_name": name}) + "\n" for name in names))
    assert main(["import", str(music / "songs.jsonl"), str(tmp_path / "ds"), "--strict"]) == 1
    assert [row["source"] for row in rows(tmp_path / "ds")] == [f"music/{n}.flac" for n in range(4)]
    assert Counter(line.get("code") for line in report(tmp_path / "ds")) == {
        None: 4, "outside": 3, "missing_audio": 4, "not_a_file": 1, "format": 1,
    }  # fmt: skip
    assert "give --audio-folder with the folder that holds the audio" in capsys.readouterr().out
    (music / "songs.jsonl").write_text(json.dumps({"file_name": "outside.flac"}))
    assert main(["import", str(music / "songs.jsonl"), str(tmp_path / "ds"), "--audio-folder", str(tmp_path)]) == 0
    assert len(rows(tmp_path / "ds")) == 5


def test_broken_records_cost_only_themselves(music: Path, tmp_path: Path) -> None:
    (music / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"path": "0.flac", "x": "\\ud800"}\r\n{"path": \n\n[1]\n{"path": "1.flac", "x": NaN}\n' + b'{"path": "2.flac", "x": 1e400}')
    assert main(["import", str(music / "a.jsonl"), str(tmp_path / "ds")]) == 0
    assert [row["source"][-6:] for row in rows(tmp_path / "ds")] == ["0.flac", "1.flac", "2.flac"]
    assert [(line["path"], line["code"]) for line in report(tmp_path / "ds") if "code" in line] == [("a.jsonl, line 2", "bad_json"), ("a.jsonl, line 4", "bad_json")]
    (music / "b.json").write_text('[{"path": "3.flac"}, 7, {"path": "4.flac"}, {"pa')
    assert main(["import", str(music / "b.json"), str(tmp_path / "ds")]) == 0
    assert len(rows(tmp_path / "ds")) == 5
    assert [line["code"] for line in report(tmp_path / "ds") if "code" in line] == ["bad_json", "bad_json"]
    (music / "c.csv").write_bytes('path,artist,n\n0.flac,"Bj\xf6rk, x",7\n1.flac,a,b,c\n\n2.flac'.encode("cp1252"))
    assert main(["import", str(music / "c.csv"), str(tmp_path / "ds")]) == 0
    assert rows(tmp_path / "ds")[0]["artist"] == "Björk, x" and rows(tmp_path / "ds")[0]["n"] == 7
    assert [(line["path"], line["code"]) for line in report(tmp_path / "ds") if "code" in line] == [("c.csv, line 3", "bad_csv")]


def test_no_column_of_csv_is_lost_to_another_of_its_name(music: Path, tmp_path: Path) -> None:
    (music / "a.csv").write_text("file_name,lyrics,note,note,lyrics\n0.flac,la,first,second,lo\n")
    assert main(["import", str(music / "a.csv"), str(tmp_path / "ds")]) == 0
    assert [[row[name] for name in ("raw_lyrics", "note", "note_2", "lyrics_2")] for row in rows(tmp_path / "ds")] == [["la", "first", "second", "lo"]]


def test_columns_are_named_as_people_spell_them(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (music / "a.csv").write_text("file_name,Song Text,by-whom\n0.flac,la la,Ann\n")
    for number, columns in enumerate(('{"Song Text": "lyrics", "by-whom": "artist"}', '{"song_text": "lyrics", "By Whom": "artist"}')):
        assert main(["import", str(music / "a.csv"), str(tmp_path / f"ds{number}"), "--columns", columns]) == 0
        assert [(row["raw_lyrics"], row["artist"]) for row in rows(tmp_path / f"ds{number}")] == [("la la", "Ann")]
    assert main(["import", str(music / "a.csv"), str(tmp_path / "ds"), "--columns", '{"song tekst": "lyrics"}']) == 2
    assert "has a column 'song tekst'; did you mean 'Song Text'?" in capsys.readouterr().err
    (music / "a.csv").unlink()
    assert main(["import", str(music), str(tmp_path / "ds"), "--columns", '{"lyric": "lyrics"}']) == 2
    assert "--columns says what a table's columns stand for" in capsys.readouterr().err


def test_ids_are_kept_and_collisions_refused(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["a", "a", "e\u0301", "\u00e9", None]
    (music / "a.jsonl").write_text("".join(json.dumps({"file": f"{n}.flac", "id": one}) + "\n" for n, one in enumerate(given)))
    assert main(["import", str(music / "a.jsonl"), str(tmp_path / "ds")]) == 0
    found = rows(tmp_path / "ds")
    assert [row["id"] for row in found] == ["a", "e\u0301", found[2]["audio_hash"]]
    assert "left out 1.flac: its id 'a' is that of 'music/0.flac'; give one of them another" in capsys.readouterr().out
    (music / "a.jsonl").write_text(json.dumps({"file": "0.flac", "id": "new"}) + "\n" + json.dumps({"file": "1.flac", "id": "x" * 999}))
    assert main(["import", str(music / "a.jsonl"), str(tmp_path / "ds")]) == 0
    assert [row["id"] for row in rows(tmp_path / "ds")] == ["new", "e\u0301", found[2]["audio_hash"]]
    assert "duplicate_id" not in capsys.readouterr().out


def test_own_columns_keep_one_type_and_come_later_too(music: Path, tmp_path: Path) -> None:
    first = [{"file": "0.flac", "n": 1, "mixed": 1, "about": {"a": 1}, "none": None, "source": "web"}, {"file": "1.flac", "n": 2.5, "mixed": "x", "about": {"b": []}}]  # fmt: skip
    (music / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in first))
    assert main(["import", str(music / "a.jsonl"), str(tmp_path / "ds"), "--partition-size", "1"]) == 0
    one, two = rows(tmp_path / "ds")
    assert (one["n"], two["n"], one["mixed"], two["mixed"], one["source_"]) == (1.0, 2.5, "1", "x", "web")
    assert json.loads(one["about"]) == {"a": 1} and one["none"] is None
    (music / "a.jsonl").write_text(json.dumps({"file": "0.flac", "n": "many", "late": [1]}))
    assert main(["import", str(music / "a.jsonl"), str(tmp_path / "ds")]) == 0
    one, two = rows(tmp_path / "ds")
    assert (one["n"], one["late"], one["mixed"], two["n"]) == ("many", [1], "1", 2.5)


def test_columns_can_be_named_and_lyrics_stand_beside(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (music / "0.txt").write_text("la la")
    (music / "a.csv").write_text("clip\twords\n0.flac\t\n1.flac\t[00:01.00]a b\n")
    assert main(["import", str(music / "a.csv"), str(tmp_path / "ds"), "--columns", '{"clip": "audio"}']) == 0
    assert [row["raw_lyrics"] for row in rows(tmp_path / "ds")] == ["la la", None]
    assert main(["import", str(music / "a.csv"), str(tmp_path / "ds"), "--columns", '{"clip": "audio", "words": "lyrics"}']) == 0
    assert [row["lrc_lyrics"] for row in rows(tmp_path / "ds")] == [None, "[00:01.00]a b"]
    for columns in ("[", '{"clip": "sound"}'):
        assert main(["import", str(music / "a.csv"), str(tmp_path / "ds"), "--columns", columns]) == 2
    assert main(["import", str(music / "a.csv"), str(tmp_path / "ds"), "--format", "webdatset"]) == 2
    assert "webdataset" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("[intro-short] ; [verse] A b. C d. ; [chorus]E f.G h ; [outro-short]", [("A b", "verse"), ("C d", "verse"), ("E f", "chorus"), ("G h", "chorus")]),
        ("[verse] 夜晚的街灯闪烁。我漫步.熟悉的角落 ; [inst-medium]", [("夜晚的街灯闪烁", "verse"), ("我漫步", "verse"), ("熟悉的角落", "verse")]),
        ("[verse] hello world", [("hello world", "verse")]),
        ("one ; two", [("one", None), ("two", None)]),
        ("Mr. X sang 3.5 songs", [("Mr. X sang 3.5 songs", None)]),
        ("[Verse 1]\nOne. Two\n[Chorus]\nThree", [("One. Two", "verse 1"), ("Three", "chorus")]),
    ],
)  # fmt: skip
def test_the_one_line_syntax_becomes_sections(text: str, sections: list) -> None:
    assert [(line.text, line.section) for line in parse(None, section_lines(text)).lines] == sections
    assert lyrics_columns("[00:01.00]a\n[00:02.00]b", True)["raw_lyrics"] is None


def test_nothing_that_can_be_used_is_an_error_with_a_report(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (music / "a.jsonl").write_text('{"path": "gone.flac"}\n')
    assert main(["import", str(music / "a.jsonl"), str(tmp_path / "ds")]) == 2
    assert "no song of" in capsys.readouterr().err and report(tmp_path / "ds")[0]["code"] == "missing_audio"
    (music / "b.csv").write_text("")
    assert main(["import", str(music / "b.csv"), str(tmp_path / "ds")]) == 2


def test_songs_beside_a_table_that_does_not_name_them_are_named(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (music / "album").mkdir()
    (music / "0.flac").rename(music / "album" / "0.flac")
    (music / "album" / "metadata.csv").write_text("file_name,mood\n0.flac,happy\n")
    assert main(["import", str(music), str(tmp_path / "ds")]) == 0
    assert [row["mood"] for row in rows(tmp_path / "ds")] == ["happy"]
    left_out = [(line["path"], line["code"]) for line in report(tmp_path / "ds") if "code" in line]
    assert left_out == [(path.name, "no_row") for path in sorted(music.glob("*.flac"))] and left_out
    assert "left out 1.flac: no table names it as a song; --format folder" in capsys.readouterr().out
