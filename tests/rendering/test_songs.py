"""Rendered songs, sung speech, tables and commands; these need the extra `render`."""

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("espeakng_loader")
pytest.importorskip("pyworld")

import itertools

import soundfile

from autosing.rendering import dataset, song
from autosing.rendering.__main__ import main
from autosing.rendering.espeak import Espeak
from autosing.rendering.phones import VOWELS
from autosing.rendering.speech import SpeechSinger, cut_notes
from autosing.rendering.voices import WordBank, frame_level_db, resample
from autosing.tokens.text import PHONES


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("words")


@pytest.fixture(scope="module")
def rendered(cache):
    return song.Studio("test", cache).render(seed=3, number=1, seconds=10.0)


def test_words_keep_their_closures_and_are_read_back_from_the_cache(cache):
    first = WordBank(cache).get("en-us", "happy")
    again = WordBank(cache).get("en-us", "happy")
    assert first.phones == again.phones == ("HH", "AE", "P", "IY")
    assert np.array_equal(first.log_power, again.log_power)
    start, end = first.edges[2:4]
    assert end - start >= 10 and not first.voiced[start:end].any()  # the P has its silence


def test_pronounce():
    espeak = Espeak()
    assert espeak.pronounce("fire") == ("F", "AY", "ER")
    assert espeak.pronounce("a") == ("AH",)
    assert espeak.pronounce("yeah") == ("Y", "EH")


def test_truth_is_ordered_and_in_range(rendered):
    seconds = len(rendered.vocals) / 24_000
    for items in (rendered.words, rendered.phones, rendered.notes):
        assert items and all(0 <= item.start < item.end <= seconds for item in items)
        assert all(a.end <= b.start + 1e-6 for a, b in itertools.pairwise(items))
    assert {phone.phone for phone in rendered.phones} <= set(PHONES)
    for phone in rendered.phones:
        word = rendered.words[phone.word]
        assert word.start - 1e-6 <= phone.start and phone.end <= word.end + 1e-6
    assert " ".join(rendered.lines).lower().split() == [word.text for word in rendered.words]
    assert len(rendered.line_starts) == len(rendered.lines) == rendered.lrc_lyrics.count("[")


def test_mix_does_not_clip_and_sound_is_where_the_words_are(rendered):
    assert np.abs(rendered.mix).max() < 1
    level = frame_level_db(rendered.vocals, len(rendered.f0_hz))
    sung = np.zeros(len(level), bool)
    for phone in rendered.phones:
        if phone.phone in VOWELS:
            sung[round(phone.start * 200) + 1 : round(phone.end * 200) - 1] = True
    before = level[: max(1, round(rendered.words[0].start * 200) - 100)]
    assert np.median(level[sung]) > np.median(before) + 30


def test_pitch_truth_is_what_is_heard(rendered):
    import pyworld

    heard, _ = pyworld.harvest(rendered.vocals.astype(np.float64), 24_000, f0_floor=55, f0_ceil=1000, frame_period=5)
    n = min(len(heard), len(rendered.f0_hz))
    both = (heard[:n] > 0) & (rendered.f0_hz[:n] > 0)
    cents = 1200 * np.abs(np.log2(heard[:n][both] / rendered.f0_hz[:n][both]))
    assert both.sum() > 0.8 * (rendered.f0_hz > 0).sum()
    assert np.median(cents) < 20


def test_a_song_follows_from_its_seed_alone(cache, rendered):
    studio = song.Studio("test", cache)
    studio.render(seed=3, number=0, seconds=4.0)
    again = studio.render(seed=3, number=1, seconds=10.0)
    assert again.words == rendered.words and np.array_equal(again.mix, rendered.mix)


def test_command_commits_partitions_and_goes_on(cache, tmp_path, capsys):
    command = [
        "songs",
        "--out",
        str(tmp_path),
        "--hours",
        "0.01",
        "--seed",
        "5",
        "--partition-size",
        "1",
        "--cache",
        str(cache),
        "--index",
    ]
    assert main(command) == 0
    file = pq.ParquetFile(tmp_path / "0" / "songs.parquet")
    assert file.schema_arrow.equals(dataset.SONGS) and file.num_row_groups == 1
    row = file.read().to_pylist()[0]
    vocals, backing = dataset.decode(row["vocals"]), dataset.decode(row["accompaniment"])
    assert vocals.shape[0] == 1 and backing.shape == (2, vocals.shape[1])
    assert np.abs(vocals + backing).max() < 1
    assert row["pron"] == [phone["phone"] for phone in row["phones"]]
    index = pq.read_table(tmp_path / "0" / "index.parquet").to_pylist()[0]
    assert index["id"] == row["id"] and dataset.decode(index["audio"]).shape == backing.shape
    before = (tmp_path / "0" / "songs.parquet").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "0" / "songs.parquet").stat().st_mtime_ns == before
    assert "0 rows" in capsys.readouterr().out


def test_sung_speech_has_the_imposed_pitch():
    import pyworld

    utterance = Espeak().say("the morning river is running along", "en-us")
    sung = SpeechSinger().sing(resample(utterance.samples, utterance.sample_rate), np.random.default_rng(0))
    assert sung is not None
    assert len(sung.samples) / 24_000 > 1.1 * len(utterance.samples) / utterance.sample_rate
    heard, _ = pyworld.harvest(sung.samples.astype(np.float64), 24_000, f0_floor=55, f0_ceil=900, frame_period=5)
    n = min(len(heard), len(sung.f0_hz))
    both = (heard[:n] > 0) & (sung.f0_hz[:n] > 0)
    assert np.median(1200 * np.abs(np.log2(heard[:n][both] / sung.f0_hz[:n][both]))) < 20
    assert all(a < b for a, b, _ in sung.notes)


def test_notes_change_where_the_voice_is_weak():
    level = np.zeros(300)
    level[100] = level[200] = -9
    spans = cut_notes(level, np.ones(300, bool), np.random.default_rng(0))
    assert spans[0][0] == 0 and spans[-1][1] == 300
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert all(0.1 * 200 <= b - a <= 1.1 * 200 for a, b in spans)


def test_speech_command(tmp_path, cache):
    utterance = Espeak().say("hold me in the rain", "en-us")
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        soundfile.write(tmp_path / "in" / f"{name}.wav", utterance.samples, utterance.sample_rate)
    (tmp_path / "in" / "transcripts.tsv").write_text(
        "path\ttext\tspeaker\tduration_s\na.wav\tHold me, in the RAIN!\ts1\t2.0\nb.wav\t\ts2\t2.0\n", encoding="utf-8"
    )
    assert main(["speech", "--out", str(tmp_path / "out"), "--speech-dir", str(tmp_path / "in")]) == 0
    rows = {row["artist"]: row for row in pq.read_table(tmp_path / "out" / "0" / "songs.parquet").to_pylist()}
    assert {row["kind"] for row in rows.values()} == {"speech", "speech_sung"}
    assert rows["s1"]["raw_lyrics"] == "hold me in the rain" and rows["s1"]["pron"][:4] == ["HH", "OW", "L", "D"]
    assert rows["s2"]["pron"] == [] and rows["s1"]["accompaniment"] is None
    for row in rows.values():
        assert (row["f0"] is not None) == (row["kind"] == "speech_sung") == bool(row["notes"])


def test_mistakes_are_one_line(tmp_path, capsys):
    assert main(["speech", "--out", str(tmp_path), "--speech-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no transcripts.tsv in")
    assert main(["songs", "--out", str(tmp_path), "--hours", "0.01", "--music-dir", str(tmp_path)]) == 2
    assert "no instrumentals" in capsys.readouterr().err


def test_lexicon_command(tmp_path):
    (tmp_path / "w.csv").write_text("ngram,freq\nthe,9\nLove,8\nriver,3\nx2,5\n", encoding="utf-8")
    assert main(["lexicon", "--words", str(tmp_path / "w.csv"), "--out", str(tmp_path / "lexicon.tsv"), "--limit", "500"]) == 0
    entries = dict(line.split("\t") for line in (tmp_path / "lexicon.tsv").read_text(encoding="utf-8").splitlines())
    assert entries["river"] == "R IH V ER" and entries["rivers"] == "R IH V ER Z" and entries["don't"] == "D OW N T"
    assert "x2" not in entries


def test_excerpt_keeps_the_truth_and_shrinks_the_sound(tmp_path, capsys):
    stems = np.sin(2 * np.pi * 220 * np.arange(24_000) / 24_000).astype(np.float32) * 0.5
    rows = [
        {**dict.fromkeys(dataset.SONGS.names), "id": name, "vocals": dataset.encode(stems), "accompaniment": dataset.encode(np.stack([stems, stems])),
         "words": [{"text": "la", "start": 0.0, "end": 0.5, "line": 0}]}
        for name in "abc"
    ]  # fmt: skip
    dataset.write_rows(rows, tmp_path / "songs" / "0" / "songs.parquet")
    command = ["excerpt", "--songs", str(tmp_path / "songs"), "--out", str(tmp_path / "few"), "--ids"]
    assert main([*command, "c", "a"]) == 0
    found = pq.read_table(tmp_path / "few" / "0" / "songs.parquet").to_pylist()
    assert [row["id"] for row in found] == ["c", "a"] and found[0]["words"] == rows[0]["words"]
    assert len(found[0]["vocals"]) < len(rows[0]["vocals"]) / 3
    assert np.corrcoef(dataset.decode(found[0]["vocals"])[0], stems)[0, 1] > 0.99
    assert main([*command, "d"]) == 2 and "no song 'd'" in capsys.readouterr().err
