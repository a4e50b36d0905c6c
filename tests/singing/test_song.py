"""Songs of several windows with the shipped weights: no seam, in time, the same again, heard while it grows, changed in one passage."""

from pathlib import Path

import pytest
import torch

import autosing.device
from autosing.cli import sing as command
from autosing.errors import ConfigError, DataError, MismatchError
from autosing.singing.mix import sounding
from autosing.singing.passage import Earlier, replace_passage
from autosing.singing.pipeline import Singer
from autosing.singing.request import SingRequest, Sung
from autosing.singing.score import IN_TIME, line_starts
from autosing.singing.seams import SeamFigures
from autosing.song import audio

TEXT = "[00:00.50]sing the morning song\n[00:04.20]carry me along\n[00:08.40]<00:08.40>over <00:09.60>every hill\n[00:50.00]never to be sung"
STARTS = (0.5, 4.2, 8.4)
RATE = 24000


@pytest.fixture(scope="module")
def singer() -> Singer:
    return Singer()


def sing_streamed(singer: Singer, seed: int) -> tuple[Sung, list[torch.Tensor]]:
    """Twelve seconds sung in windows of eight at most, and the pieces in which they were heard."""
    pieces: list[torch.Tensor] = []
    request = SingRequest(TEXT, tts=True, length_seconds=12.0, candidates=1, stream=True, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autosing.device, "has_matrix_units", lambda _: False)  # the same song on every processor
        return singer.sing(request, listening=lambda piece, rate: pieces.append(piece)), pieces


@pytest.fixture(scope="module")
def streamed(singer: Singer) -> tuple[Sung, list[torch.Tensor]]:
    """A song that sounds on both sides of its seam."""
    return sing_streamed(singer, seed=0)


@pytest.fixture(scope="module")
def timed(singer: Singer) -> Sung:
    """A song of one try in which every line is heard; of fifteen seeds' 45 lines 43 begin in time."""
    return sing_streamed(singer, seed=4)[0]


def test_lines_begin_when_their_stamps_say(timed: Sung) -> None:
    sung = timed
    starts = line_starts(sung.alignment)
    assert [abs(starts[line] - planned) <= IN_TIME for line, planned in enumerate(STARTS)] == [True] * 3
    words = {word.text: word.start for word in sung.alignment.words}
    assert abs(words["every"] - 9.6) <= IN_TIME and "never" not in words
    assert sung.report["timing"]["in_time"] == 1.0 and sung.mix.shape[1] == pytest.approx(12.0 * RATE, abs=0.1 * RATE)


def test_a_song_of_windows_has_no_seam(streamed: tuple[Sung, list[torch.Tensor]]) -> None:
    sung, _ = streamed
    windows = sung.report["windows"]
    assert len(windows) >= 2 and windows[-1]["end"] == 12.0
    steps = sung.vocals[0].diff().abs()
    for window in windows[1:]:
        cut = int(window["start"] * RATE)
        near = slice(cut - RATE // 10, cut + RATE // 10)
        assert float(steps[near].max()) < 0.5
        assert float(steps[near].max()) <= 4 * float(torch.cat([steps[near.start - RATE : near.start], steps[near.stop : near.stop + RATE]]).max())
        seam = SeamFigures(**window["seam"])
        assert seam.jump is not None and seam.loudness_db is not None and seam.voice is not None
        assert seam.jump <= 2 and abs(seam.loudness_db) <= 6


def test_both_sides_of_a_seam_are_one_singer(singer: Singer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody is asked for, every seed has a singer of its own: the sides of its seam are more alike than those of different seeds."""
    monkeypatch.setattr(autosing.device, "has_matrix_units", lambda _: False)
    sides: list[list[torch.Tensor]] = []
    for seed in range(4):
        sung = singer.sing(SingRequest(TEXT, tts=True, length_seconds=12.0, candidates=1, repair=0, stream=True, seed=seed))
        cut = int(sung.report["windows"][1]["start"] * RATE)
        parts = sung.vocals[0, :cut], sung.vocals[0, cut:]
        sides.append([singer.hearing.embed(part[None, sounding(part)], RATE).cpu() for part in parts])
    alike = torch.tensor([[float(before @ after) for _, after in sides] for before, _ in sides])
    others = (alike.sum() - alike.trace()) / (alike.numel() - len(alike))
    assert float(alike.diag().mean()) > float(others) + 0.1


def test_any_singer_stays_the_same_one(singer: Singer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def sing_window(self: Singer, text: object, window: object, song: object, band: object, voice: torch.Tensor | None, *rest: object, **more: object):
        asked.append(voice)
        return whole(self, text, window, song, band, voice, *rest, **more)

    whole = Singer.sing_window
    monkeypatch.setattr(Singer, "sing_window", sing_window)
    sung = singer.sing(SingRequest(TEXT, tts=True, length_seconds=12.0, candidates=1, stream=True))
    assert len(asked) == 2 and asked[0] is None and sung.report["voice"]["similarity"] is None
    voice = asked[1]
    assert voice is not None and abs(float(voice.norm()) - 1) < 1e-4 and torch.equal(sung.tokens["voice"], voice.cpu())


def test_what_is_heard_while_it_grows_is_the_mix(streamed: tuple[Sung, list[torch.Tensor]]) -> None:
    sung, pieces = streamed
    assert len(pieces) == len(sung.report["windows"]) and torch.equal(torch.cat(pieces, 1), sung.mix)
    assert sung.mix.shape[1] == round(sung.report["seconds"] * RATE) == sung.vocals.shape[1] == sung.accompaniment.shape[1]
    stages = sum(sung.report["stage_seconds"].values())
    assert 0 < sung.report["first_audio_seconds"] < stages


def test_the_same_seed_sings_the_same_bytes(singer: Singer) -> None:
    sing = lambda seed: singer.sing(SingRequest("la la\nla la\nli li", tts=True, length_seconds=4.0, candidates=2, seed=seed))  # noqa: E731
    first, again = sing(3), sing(3)
    for name in ("mix", "vocals", "accompaniment"):
        assert audio.encode(getattr(first, name), RATE, "wav") == audio.encode(getattr(again, name), RATE, "wav")
    assert first.report["words"] == again.report["words"] and torch.equal(first.others[0], again.others[0])
    errors = first.report["phone_errors"]
    assert errors[first.report["chosen"]] == min(errors)


@pytest.fixture
def folder(timed: Sung, tmp_path: Path) -> Path:
    command._write_song(tmp_path / "out", timed, "a song")
    return tmp_path / "out"


def samples(folder: Path, name: str) -> torch.Tensor:
    return audio.decode((folder / f"{name}.wav").read_bytes()).samples


def test_a_passage_is_sung_again_and_every_other_sample_stays(singer: Singer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autosing.singing.pipeline.Singer", lambda *_: singer)
    before = {name: samples(folder, name) for name in ("mix", "vocals", "accompaniment")}
    (folder / "candidates").mkdir()
    (folder / "candidates" / "02.wav").write_bytes(b"of the words before")
    arguments = ["--output-dir", str(folder), "--replace", "4.0-7.5", "--lyrics", "take me home", "--candidates", "1", "--seed", "7"]
    assert command.main(arguments) == 0
    first, last = int(4.0 * RATE), int(7.5 * RATE)
    for name, old in before.items():
        new = samples(folder, name)
        assert torch.equal(new[:, :first], old[:, :first]) and torch.equal(new[:, last:], old[:, last:])
        assert torch.equal(new, old) == (name == "accompaniment")
    earlier = Earlier.read(folder)
    texts = [word.text for word in earlier.words]
    assert "take" in texts and "along" not in texts and texts[-1] == "hill"
    assert [line.text for line in earlier.plan] == ["sing the morning song", "take me home", "over every hill"]
    assert len(earlier.report["phones_right"]) == len(texts) and all(0 <= share <= 1 for share in earlier.report["phones_right"])
    assert earlier.report["replaced"][0]["from"] == 4.0 and len(earlier.tokens["semantic"]) == 300
    report = earlier.report
    assert not {"phone_errors", "chosen", "repairs", "timing"} & set(report) and report["voice"] == {"similarity": None, "windows": []}
    assert report["word_scores"] == [pytest.approx(sum(word.score for word in earlier.words) / len(texts), abs=1e-3)]
    assert all(window["end"] <= 4.0 or window["start"] >= 7.5 for window in report["windows"]) and not (folder / "candidates").exists()


def test_settings_out_of_their_limits_are_refused_before_anything_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag, value in (("--candidates", "0"), ("--temp", "9"), ("--steps", "0"), ("--repair", "-1")):
        assert command.main(["--output-dir", str(tmp_path), "--replace", "4.0-7.5", "--lyrics", "la", flag, value]) == 2
        assert f"{flag} must lie between" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [["song.mp3"], ["--spkfile", "any"], ["--spk-alpha", "1"], ["--stream", "-"], ["--music-volume", "0.8"], ["--t2s_model", "builtin"],
     ["--sm2a-model", "builtin"], ["--length", "8"], ["--start-time", "0"], ["--semfile", "a.wav"], ["--tts"], ["--gen-semantic"]],
)  # fmt: skip
def test_what_a_passage_cannot_take_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str]) -> None:
    """Even where it says what is so anyway."""
    assert command.main(["--output-dir", str(tmp_path), "--replace", "4.0-7.5", "--lyrics", "la", *given]) == 2
    flag = given[0].replace("_", "-") if given[0].startswith("--") else "--reference"
    assert f"leave {flag} out" in capsys.readouterr().err


def test_every_sample_that_is_read_is_written_again(folder: Path) -> None:
    every = torch.arange(-32768, 32768)[None] / 32768
    data = audio.encode(every + 0.25 / 32768, RATE, "wav")
    assert torch.equal(audio.decode(data).samples, every)
    (folder / "mix.wav").write_bytes(data)
    assert audio.encode(Earlier.read(folder).wavs["mix"], RATE, "wav") == data


def test_passages_that_are_none_are_refused(singer: Singer, folder: Path) -> None:
    earlier = Earlier.read(folder)
    for begin, end in ((5.0, 4.0), (4.0, 4.2), (-1.0, 3.0), (10.0, 13.0)):
        with pytest.raises(ConfigError, match="no passage of"):
            earlier.check(begin, end)
    again = lambda text, song=earlier: replace_passage(singer, song, 1.0, 2.0, text, candidates=1, temperature=0.7, seed=0, strict=False)  # noqa: E731
    with pytest.raises(ConfigError, match="no word to sing"):
        again("...")
    with pytest.raises(ConfigError, match=r"do not fit .*, or a longer passage"):  # --replace refuses --length and --start-time
        again("la " * 50)
    with pytest.raises(ConfigError, match=r"no line begins .*, or another passage"):
        again("[00:05.00]la")
    one_by_one = Singer(sm2a_model="builtin_sm2a")
    own, earlier.report["models"]["sm2a"] = earlier.report["models"]["sm2a"], one_by_one.models["sm2a"]
    for setting, flag in (({"repair": 1}, "--repair needs"), ({"passes": 8}, "--steps is for")):
        with pytest.raises(ConfigError, match=f"{flag} a parallel sm2a model"):
            replace_passage(one_by_one, earlier, 1.0, 2.0, "la", candidates=1, temperature=0.7, seed=0, strict=False, **setting)
    earlier.report["models"]["sm2a"] = own
    earlier.report["models"]["t2s"]["sha256"] = "another"
    with pytest.raises(MismatchError, match="t2s model is not the one"):
        again("la")
    (folder / "song.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match="cannot be read"):
        Earlier.read(folder)
