"""Whatever is wrong with a request: one line says so, the exit code is not 0, and nothing is half-written."""

import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autosing.cli import sing as command
from autosing.models.io import load_model, save_model
from autosing.singing import pipeline
from autosing.song import audio
from tests.singing.test_sing_command import Pretender

RATE = 16000


@pytest.fixture(scope="module")
def shipped() -> pipeline.Singer:
    return pipeline.Singer()


@pytest.fixture(autouse=True)
def loaded_once(shipped: pipeline.Singer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped models are loaded once for all of these; others are looked for as ever."""
    load = pipeline.Singer
    monkeypatch.setattr(pipeline, "Singer", lambda t2s, sm2a, *rest: shipped if t2s == sm2a == "builtin" else load(t2s, sm2a, *rest))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    return recording(tmp_path / "tone.wav", torch.sin(torch.arange(8 * RATE) * 0.1) * 0.3)


def recording(path: Path, wav: torch.Tensor, rate: int = RATE) -> Path:
    path.write_bytes(audio.encode(wav, rate, "wav"))
    return path


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command, which must refuse; gives its one line of error."""

    def run(*arguments: object, code: int = 2) -> str:
        out = tmp_path / "out"
        assert command.main([*map(str, arguments), "--output-dir", str(out)]) == code
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ") or line == "interrupted"]
        assert len(told) == 1 and not out.exists()
        assert not list(tmp_path.glob("**/*.tmp"))
        return told[0]

    return run


@pytest.mark.parametrize("lyrics", ["", "  \n\n", "[verse]\n[chorus]", "...", "[00:01.00]", "😀 😀"])
def test_lyrics_without_a_word(refused: Refused, tone: Path, lyrics: str) -> None:
    assert "--lyrics holds no word to sing" in refused("--reference", tone, "--lyrics", lyrics)


def test_a_lyrics_file_that_is_none(refused: Refused, tone: Path, tmp_path: Path) -> None:
    assert "'words.lrc' cannot be read" in refused("--reference", tone, "--lyrics", "words.lrc")
    (tmp_path / "words.txt").write_bytes(b"\xff\xd8\xff\xe0" * 9)
    assert "neither UTF-8 nor UTF-16" in refused("--reference", tone, "--lyrics", tmp_path / "words.txt")


@pytest.mark.parametrize("lyrics", ["爱爱爱\n你", "שלום עולם", "مرحبا", "ь"])
def test_letters_that_the_model_does_not_have(refused: Refused, lyrics: str) -> None:
    told = refused("--tts", "--lyrics", lyrics)
    assert "no sound for" in told and lyrics[0] in told and "nothing else is left" in told
    told = refused("--tts", "--strict", "--lyrics", f"la la {lyrics}")
    assert "no sound for" in told and lyrics[0] in told and "--strict" in told


@pytest.mark.parametrize("lyrics", ["[00:01.00]la\ncarry me", "la\n🎵🎵"])
def test_lines_that_are_not_read_are_none_to_a_strict_singer(refused: Refused, lyrics: str) -> None:
    told = refused("--tts", "--strict", "--lyrics", lyrics)
    assert f"the line '{lyrics.splitlines()[1]}' has no " in told and "leave --strict out" in told


def test_more_words_than_fit(refused: Refused, tone: Path) -> None:
    told = refused("--tts", "--length", 15, "--lyrics", "la " * 10_000)
    assert "10000 words do not fit into 15.0 s" in told
    stamped = "\n".join(f"[00:{i // 10:02d}.{i % 10}0]la la la la la la la la" for i in range(150))
    assert "do not fit" in refused("--tts", "--length", 15, "--lyrics", stamped)


def test_stamps_outside_the_time(refused: Refused, tone: Path) -> None:
    assert "no line begins between 0 and 8 s" in refused("--reference", tone, "--lyrics", "[10:00.00]la la", "--spkfile", tone)


@pytest.mark.parametrize("lyrics", ["[600:05.00]la", "[99999999:05.00]la", "[00:01.00]la\n[99999:00.00]", "[00:01.00]la\n[30:01.00]la"])
def test_stamps_beyond_the_longest_song(refused: Refused, monkeypatch: pytest.MonkeyPatch, lyrics: str) -> None:
    """Before anything is sung, however much memory that would take."""
    monkeypatch.delattr(pipeline, "plan_windows")
    told = refused("--tts", "--lyrics", lyrics)
    assert "by its stamps the song ends at" in told and "1800 s" in told


def test_a_reference_in_which_nobody_sings(refused: Refused, tone: Path) -> None:
    told = refused("--reference", tone, "--lyrics", "la la")
    assert f"nobody sings in '{tone}'" in told and "--spkfile FILE" in told and "--spkfile any" in told


def test_references_that_are_no_song(refused: Refused, tmp_path: Path) -> None:
    assert "-60 dBFS" in refused("--reference", recording(tmp_path / "silence.wav", torch.zeros(8 * RATE)), "--lyrics", "la")
    assert "less than 4 s" in refused("--reference", recording(tmp_path / "blip.wav", torch.ones(RATE // 5) * 0.5), "--lyrics", "la")
    (tmp_path / "noise.mp3").write_bytes(b"this is not music" * 99)
    assert "cannot be decoded" in refused("--reference", tmp_path / "noise.mp3", "--lyrics", "la")
    (tmp_path / "empty.wav").write_bytes(b"")
    assert "no bytes" in refused("--reference", tmp_path / "empty.wav", "--lyrics", "la")
    assert "no file at" in refused("--reference", tmp_path / "none.wav", "--lyrics", "la")
    long = recording(tmp_path / "long.wav", torch.zeros(1).expand(2 * 3600 * 1000), 1000)
    assert "lasts 120.0 minutes, more than the limit of 30" in refused("--reference", long, "--lyrics", "la")


def test_checkpoints_that_are_none_of_ours(refused: Refused, tone: Path, tmp_path: Path) -> None:
    arguments = ("--reference", tone, "--lyrics", "la", "--t2s-model")
    for name in ("nothing", "n" * 300):
        assert "no t2s checkpoint at" in refused(*arguments, tmp_path / name)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (foreign / "model.safetensors").write_bytes(b"\0" * 64)
    assert "'kind' is missing" in refused(*arguments, foreign)
    sm2a, meta = load_model("builtin", "sm2a")
    save_model(sm2a, tmp_path / "sm2a", meta)
    assert "holds a sm2a model where a t2s model is needed" in refused(*arguments, tmp_path / "sm2a")
    t2s, meta = load_model("builtin", "t2s")
    save_model(t2s, tmp_path / "bare", {})
    assert "does not say which tokens" in refused(*arguments, tmp_path / "bare")
    shutil.copytree(tmp_path / "sm2a", tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes((tmp_path / "sm2a" / "model.safetensors").read_bytes()[:5000])
    assert "damaged" in refused("--reference", tone, "--lyrics", "la", "--sm2a-model", tmp_path / "cut")


@pytest.mark.parametrize("setting", [("--steps", 16), ("--repair",), ("--repair", 2)])
def test_what_only_a_parallel_model_can(refused: Refused, monkeypatch: pytest.MonkeyPatch, setting: tuple[object, ...]) -> None:
    """Before anything is heard or sung."""
    for name in ("generate_semantic", "sing_codes", "need_of"):
        monkeypatch.delattr(pipeline, name)
    told = refused("--tts", "--lyrics", "la", "--sm2a-model", "builtin_sm2a", *setting)
    assert f"{setting[0]} " in told and "this one sings step by step" in told and "checkpoint of sm2a_parallel" in told
    assert "--repair must lie between 0 and 64" in refused("--tts", "--lyrics", "la", "--repair", -1)


def test_a_passage_of_no_song(refused: Refused, tone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--replace", "1-2", "--lyrics", "la", "--output-dir", str(tone)]) == 2
    assert f"'{tone}' is a file, not a folder" in capsys.readouterr().err
    assert "no song in" in refused("--replace", "1-2", "--lyrics", "la")
    assert "leave --reference out" in refused("--replace", "1-2", "--lyrics", "la", "--reference", "song.mp3")


@pytest.fixture
def pretender(loaded_once: None, monkeypatch: pytest.MonkeyPatch) -> type[Pretender]:
    monkeypatch.setattr(pipeline, "Singer", Pretender)
    return Pretender


@pytest.fixture
def full_disk():
    """No file may grow beyond 10 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("pretender", "full_disk")
def test_a_full_disk(refused: Refused, tmp_path: Path) -> None:
    assert "cannot write into" in refused("--tts", "--lyrics", "la") and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("pretender", "full_disk")
def test_a_full_disk_while_streaming(refused: Refused, tmp_path: Path) -> None:
    assert "--stream: cannot be written" in refused("--tts", "--lyrics", "la", "--stream", tmp_path / "mix.wav")
    assert not (tmp_path / "mix.wav").exists()


def test_a_full_disk_leaves_the_song_before_as_it_was(
    tmp_path: Path, pretender: type[Pretender], request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tts", "--lyrics", "la", "--output-dir", str(tmp_path / "out")]
    assert command.main(arguments) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    request.getfixturevalue("full_disk")
    assert command.main(arguments) == 2
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before and len(before) >= 7


@pytest.mark.parametrize("moment", ["singing", "drawing"])
def test_ctrl_c(refused: Refused, tmp_path: Path, pretender: type[Pretender], monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if moment == "singing":
        monkeypatch.setattr(pretender, "sing", interrupt)
    else:
        monkeypatch.setattr("autosing.singing.picture.draw", interrupt)
    assert refused("--tts", "--lyrics", "la", "--stream", tmp_path / "mix.wav", code=130) == "interrupted"
    assert not (tmp_path / "mix.wav").exists()
