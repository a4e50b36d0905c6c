"""`autosing-process check`: the page, what it says, and how it looks in a browser."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from small_songs import SMALL, audio_bytes, read, tone, write_index

from autosing.cli.process import main
from autosing.song.audio import decode
from autosing.store import Dataset
from processing.lines import LINES_A_SONG
from processing.page import page
from processing.report import Report, SongFacts, _name, gather
from tests.browser import look


def checked(dataset: Path, *flags: str) -> str:
    assert main(["check", str(dataset), *flags]) == 0
    return (dataset / "report.html").read_text(encoding="utf-8")


def pieces(text: str) -> str:
    """The page without styles, script and sound."""
    return re.sub(r"<style>.*?</style>|<script>.*?</script>|base64,[^\"]*", "", text, flags=re.S)


class Tags(HTMLParser):
    """Every start tag with its attributes; open tags that were never closed are a fault."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.feed(text)
        assert not self.stack, self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "input", "br", "img"}:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_the_page_counts_what_the_tables_hold(processed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = pieces(checked(processed))
    windows = [row for path in processed.glob("*/chunked.parquet") for row in read(path)]
    assert f"checked 4 songs: 4 accepted, 0 rejected, {len(windows)} windows" in capsys.readouterr().out
    assert "<dt>songs accepted</dt><dd>4</dd>" in text and f"{len(windows)} windows" in text and "No song was rejected." in text
    assert "Not done yet" not in text and all(f"<th scope=row>{song}</th>" in text for song in ("alpha", "beta", "gamma", "delta"))
    data = json.loads(re.search(r'id=rows-data[^>]*>(.*?)</script>', checked(processed), re.S).group(1))  # type: ignore[union-attr]
    assert len(data) == len(windows)


def test_nothing_is_fetched_and_everything_has_a_name(processed: Path) -> None:
    """Offline: every source is inside the page. Accessible: players, sliders, charts and scrolling parts say what they are."""
    text = checked(processed)
    found = Tags(text).found
    for tag, attributes in found:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
        if tag in {"audio", "svg"}:
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if attributes.get("tabindex") == "0":
            assert attributes.get("aria-label") and attributes.get("role")
    assert "@import" not in text and "url(" not in text and "http" not in pieces(text)
    labelled = {attributes.get("for") for tag, attributes in found if tag == "label"}
    assert {attributes["id"] for tag, attributes in found if tag == "input"} <= labelled
    assert [attributes["lang"] for tag, attributes in found if tag == "html"] == ["en"]


def test_the_worst_lines_come_with_their_sound_and_words(processed: Path) -> None:
    report = gather(Dataset(processed), 20)
    assert {line.song for line in report.worst} == {"alpha", "beta", "delta"}
    assert all(sum(line.song == song for line in report.worst) <= LINES_A_SONG for song in ("alpha", "beta", "delta"))
    assert [line.score for line in report.worst] == sorted(line.score for line in report.worst)
    alignments = {row["id"]: row["alignment"] for n in ("0", "1") for row in read(processed / n / "alignment.parquet")}
    for line in report.worst:
        spoken = alignments[line.song]
        mine = [i for i, number in enumerate(spoken["lines"]) if number == line.number]
        assert [word.text for word in line.words] == [spoken["words"][i] for i in mine]
        assert np.allclose([word.start + line.start for word in line.words], [spoken["starts"][i] for i in mine], atol=1e-4)
        for clip in (line.song_clip, line.vocals_clip):
            audio = decode(clip)
            assert audio.seconds == pytest.approx(line.seconds, abs=0.1) and float(audio.samples.abs().max()) > 0.5
    assert len(gather(Dataset(processed), 2).worst) == 2


def test_songs_are_called_what_people_call_them() -> None:
    """Ids are hashes where the source gave none: titles come first, then files; a text from outside stays text."""
    songs = [
        SongFacts("a1", 0, name="<b>Singer - Song", windows=1),
        SongFacts("b2", 0, name="", windows=1, duplicate_of="a1"),
    ]
    table = page(Report("ds", 1, tuple(songs), (), (), (), ()))
    assert "<th scope=row>&lt;b&gt;Singer - Song (a1)</th>" in table and "<th scope=row>b2</th>" in table
    assert "copy of &lt;b&gt;Singer - Song (a1)" in table
    rows = (
        {"title": "Song", "artist": "Singer"}, {"title": "singer - Song", "artist": "Singer"}, {"title": "Song"},
        {"source": "mine/old/take 2.flac", "title": ""}, {},
    )  # fmt: skip
    assert [_name(row) for row in rows] == ["Singer - Song", "singer - Song", "Song", "take 2.flac", ""]


def test_rejected_songs_are_listed_by_code_and_names_are_only_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    rows = [
        {"id": "whole", "audio": audio_bytes(tone(8)), "raw_lyrics": f"one {evil} \"two\" 'three'"},
        {"id": evil, "audio": b"not audio"},
        {"id": "empty", "audio": b""},
        {"id": "whole", "audio": audio_bytes(tone(5))},
    ]
    write_index(tmp_path / "ds" / "0", rows)
    assert main(["run", str(tmp_path / "ds"), *SMALL]) == 0
    text = checked(tmp_path / "ds")
    Tags(text)
    assert evil not in text and "&lt;script&gt;alert(1)" in text
    for code in ("not_audio", "empty", "duplicate_id"):
        assert f"<code>{code}</code> 1 song</summary>" in text
    assert "<dt>songs accepted</dt><dd>1</dd>" in text and "<dt>songs rejected</dt><dd>3</dd>" in text


def test_an_id_of_an_earlier_partition_is_counted_as_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        write_index(tmp_path / "ds" / str(number), [{"id": "caf\u00e9" if number else "cafe\u0301", "audio": audio_bytes(tone(8 + number))}])
    assert main(["run", str(tmp_path / "ds"), *SMALL]) == 0
    assert "accepted 1 songs (2 windows), rejected 1 (duplicate_id 1)" in capsys.readouterr().out
    checked(tmp_path / "ds")
    assert "checked 2 songs: 1 accepted, 1 rejected, 2 windows" in capsys.readouterr().out


def test_what_is_not_done_is_named_with_its_command(processed: Path, songs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (processed / "1" / "quality.parquet").unlink()
    text = pieces(checked(processed))
    assert f"<code>autosing-process quality {processed}</code> fills them" in text and "unknown</b>" in text
    assert f"`autosing-process quality {processed}` fills them" in capsys.readouterr().out
    text = pieces(checked(songs))  # only imported
    assert "src_sep was done in no partition" in text and "No window was cut yet." in text and "No song has aligned words." in text


def test_tables_older_than_their_songs_are_named(processed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read(processed / "1" / "index.parquet")
    write_index(processed / "1", [{**rows[0], "lrc_lyrics": "[00:01.00]now with words"}, *rows[1:]])
    assert "alignment of partition 1 are older than what they were made from" in pieces(checked(processed))
    assert f"`autosing-process run {processed} --partitions 1`" in capsys.readouterr().out
    rows = read(processed / "0" / "index.parquet")
    write_index(processed / "0", [{**rows[0], "raw_lyrics": "other words"}, *rows[1:]])
    checked(processed)
    notes = [line for line in capsys.readouterr().out.splitlines() if "older than" in line]
    assert len(notes) == 1 and "partitions 0-1 are older" in notes[0] and f"`autosing-process run {processed} --partitions 0-1`" in notes[0]


def test_mistakes_are_one_line(processed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tokens" / "0").mkdir(parents=True)
    (tmp_path / "tokens" / "dataset.json").write_text("{}")
    (tmp_path / "file").write_text("x")
    for words, said in (
        (["check", str(tmp_path / "none")], "there is no dataset"),
        (["check", str(tmp_path / "tokens")], "is a constructed dataset, which holds no audio"),
        (["check", str(processed), "--lines", "-1"], "--lines must be at least 0"),
        (["check", str(processed), "--output", str(tmp_path / "file" / "a.html")], "cannot write"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_a_dataset_of_a_hundred_songs_stays_small() -> None:
    """The sound of 23 lines of 15 s, twice each, and the text around them: under 10 MB whatever the number of songs."""
    import torch

    from autosing.song.audio import encode
    from processing.lines import CLIP_FORMAT, CLIP_RATE, MAX_CLIP_SECONDS, TYPICAL_LINES

    noise = 0.3 * torch.randn(round(MAX_CLIP_SECONDS * CLIP_RATE), generator=torch.Generator().manual_seed(0))  # codes worst
    assert 2 * (20 + TYPICAL_LINES) * len(encode(noise, CLIP_RATE, CLIP_FORMAT)) * 4 / 3 < 9e6


def test_a_browser_shows_it(processed: Path, tmp_path: Path, browser: str) -> None:
    """Headless Chromium runs its script (the filter says what it keeps) and draws it: bars in the chart's colour, no empty picture."""
    import matplotlib.image

    text = checked(processed)
    windows = len(re.findall(r"\],\[|\]\]", re.search(r"id=rows-data[^>]*>(.*?)</script>", text, re.S).group(1)))  # type: ignore[union-attr]
    shown = look(browser, tmp_path / "profile", processed / "report.html", "--dump-dom").stdout
    assert f"keeps {windows} of {windows} windows" in shown
    picture = tmp_path / "page.png"
    look(browser, tmp_path / "profile", processed / "report.html", "--window-size=1200,2600", f"--screenshot={picture}")
    image = (matplotlib.image.imread(picture)[..., :3] * 255).round().astype(int)
    assert image.shape[:2] == (2600, 1200)
    bar, dark = np.array([0x3F, 0x7F, 0xB8]), image.sum(axis=2) < 200
    assert (abs(image - bar).sum(axis=2) < 12).sum() > 1000, "no bar of a histogram is drawn"
    assert 0.002 < dark.mean() < 0.2, "no text, or all of it black"


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as the WCAG define it."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in ((1, 3, 5) if len(colour) == 7 else ())] or [int(2 * c, 16) / 255 for c in colour[1:]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_in_both_colour_schemes() -> None:
    from importlib import resources

    style = resources.files("processing").joinpath("report.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--([a-z-]+):(#[0-9a-f]+)", block)) for block in re.findall(r":root\{(.*?)\}", style)]
    assert len(schemes) == 2
    for colours in schemes:
        for front, backs in {"text": ("back", "card"), "soft": ("back", "card"), "accent": ("back", "card")}.items():
            assert all(contrast(colours[front], colours[back]) >= 4.5 for back in backs), front
        for grade in ("good", "fair", "poor"):
            assert contrast(colours[grade], colours[f"{grade}-back"]) >= 4.5, grade


def test_labels_of_words_do_not_touch(processed: Path) -> None:
    """However close words follow each other, two labels of one lane are apart."""
    from autosing.song.alignment import Word
    from processing.lines import Line
    from processing.page_parts import _LINE_WIDTH, _columns, _lanes

    words = tuple(Word("la" * (1 + i % 5), 0.12 * i, 0.12 * i + 0.1, 0.5, 0) for i in range(24))
    placed, count = _lanes(Line("s", 0, 0.5, words, 0.0, 3.0, b"", b"", (0.0,) * 10))
    ends = [0.0] * count
    for word, (left, lane) in zip(words, placed, strict=True):
        assert left >= ends[lane] - 1e-9 and left <= 100
        ends[lane] = left + 100 * (_columns(word.text) * 8.6 + 50) / _LINE_WIDTH
    assert max(ends) <= 100 + 1e-6
    assert page(gather(Dataset(processed), 1)).count("<article class=line>") >= 1
