"""From a request to what is sung, with the shipped weights: what is told on the way and what the report holds."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autosing.errors import AudioError, ConfigError, DataError, MismatchError
from autosing.models.io import load_model, save_model
from autosing.singing.parallel import PASSES
from autosing.singing.pipeline import Singer, _voice_source
from autosing.singing.reference import Reference
from autosing.singing.request import SingRequest
from autosing.singing.stages import SHARES
from autosing.song import audio
from autosing.weights import weights_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def singer() -> Singer:
    return Singer()


@pytest.mark.parametrize(
    ("kind", "table", "told"),
    [
        ("t2s", "semantic.codebook", "different fits of semantic tokenizer 'builtin'"),
        ("sm2a", "geometry.features2", "another fit of codec 'builtin'"),
        ("sm2a", "music_geometry.features0", "another fit of codec 'builtin_band'"),
    ],
)
def test_models_of_another_fit_of_a_tokenizer_are_refused_by_name(kind: str, table: str, told: str, tmp_path: Path) -> None:
    """The layout of the codes is the same, what they stand for is not: what was sung would be noise."""
    model, meta = load_model("builtin", kind)
    with torch.no_grad():
        buffer = model.get_buffer(table)
        buffer.copy_(buffer.flip(0))
    save_model(model, tmp_path / kind, meta)
    with pytest.raises(MismatchError, match=told):
        Singer(**{f"{kind}_model": str(tmp_path / kind)})


def test_a_model_of_several_languages_sings_in_the_one_asked_for(tmp_path: Path) -> None:
    model, meta = load_model("builtin", "t2s")
    wider = type(model)(replace(model.config, languages=("en", "de")))
    other = model.embedding_language.flip(1)
    wider.load_state_dict({**model.state_dict(), "embedding_language": torch.cat([model.embedding_language, other]).detach()})
    save_model(wider, tmp_path / "t2s", meta)
    request = SingRequest("la la\nla la", tts=True, length_seconds=4.0, candidates=1, repair=0, steps=4)
    sung = {name: Singer(str(tmp_path / "t2s"), language=name).sing(request) for name in (None, "en", "de")}
    assert [sung[name].report["language"] for name in sung] == ["en", "en", "de"]
    assert torch.equal(sung[None].vocals, sung["en"].vocals) and not torch.equal(sung["de"].tokens["semantic"], sung["en"].tokens["semantic"])
    with pytest.raises(ConfigError, match=r"--language: the t2s model .* does not know 'fr'; it knows en, de"):
        Singer(str(tmp_path / "t2s"), language="fr")


def test_progress_goes_through_every_stage_to_the_end(singer: Singer) -> None:
    told: list[tuple[float, str]] = []
    request = SingRequest("la la\nla la", tts=True, length_seconds=4.0, candidates=1)
    sung = singer.sing(request, lambda share, stage: told.append((share, stage)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == pytest.approx(1) and max(shares) <= 1
    assert list(dict.fromkeys(stage for _, stage in told)) == list(SHARES) == list(sung.report["stage_seconds"])
    assert sum(stage == "t2s" for _, stage in told) > 50 and sum(stage == "sm2a" for _, stage in told) >= PASSES
    assert sung.report["notes"] == []


def test_a_song_that_is_mostly_rest_says_what_fills_it(singer: Singer) -> None:
    sung = singer.sing(SingRequest("la", tts=True, length_seconds=12.0, candidates=1, repair=0, steps=4))
    (note,) = sung.report["notes"]
    assert "of 12 s are sung; more lines fill them, --length shortens the song" in note


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of something that is not silent."""
    path = tmp_path_factory.mktemp("songs") / "tone.wav"
    path.write_bytes(audio.encode(torch.sin(torch.arange(160000) * 0.1)[None] * 0.3, 16000, "wav"))
    return path


def test_a_report_without_words_is_json(singer: Singer, tone: Path) -> None:
    sung = singer.sing(SingRequest("", tts=True, semantic_file=tone, length_seconds=4.0, candidates=2))
    report = json.loads(json.dumps(sung.report, allow_nan=False))
    assert report["word_scores"] == [None, None]
    for kind in ("t2s", "sm2a"):
        model = report["models"][kind]
        weights = (weights_folder(model.get("kind", kind)) / "model.safetensors").read_bytes()
        assert model["sha256"] == hashlib.sha256(weights).hexdigest()
    assert report["device"] == "cpu" and report["threads"] == torch.get_num_threads()


def test_files_are_as_long_as_is_told(singer: Singer, tone: Path) -> None:
    """Though no whole number of frames is, and though the reference holds less than was asked for."""
    request = SingRequest("la", tone, length_seconds=8.0, start_seconds=4.5, candidates=1, repair=0, steps=4, any_voice=True)
    sung = singer.sing(request)
    assert sung.mix.shape[1] == sung.vocals.shape[1] == sung.accompaniment.shape[1] == round(sung.report["seconds"] * sung.sample_rate)
    assert sung.report["seconds"] == 5.5 and float(sung.accompaniment[:, -sung.sample_rate // 50 : -sung.sample_rate // 100].abs().max()) > 0
    assert sung.report["notes"][0] == "--length 8: the reference ends 5.5 s after --start-time, and the song with it"


def test_a_song_to_the_words_of_a_recording_lasts_as_long_as_that(singer: Singer, tone: Path, tmp_path: Path) -> None:
    report = singer.sing(SingRequest("", tts=True, semantic_file=tone, candidates=1, repair=0, steps=4)).report
    assert report["seconds"] == 10.0
    assert [note.split(";")[0] for note in report["notes"]] == [f"--semfile: nobody is heard singing in the first 10.0 s of '{tone}'"]
    short = tmp_path / "short.wav"
    short.write_bytes(audio.encode(torch.sin(torch.arange(3200) * 0.1)[None] * 0.3, 16000, "wav"))
    with pytest.raises(DataError, match=r"--semfile: '.*short\.wav' lasts 0\.2 s, less than the 4 s"):
        singer.sing(SingRequest("", tts=True, semantic_file=short))


def test_a_name_that_is_no_utf8_stands_readable_in_the_report(singer: Singer, tone: Path, tmp_path: Path) -> None:
    named = tmp_path / os.fsdecode(b"caf\xe9.wav")
    named.write_bytes(tone.read_bytes())
    sung = singer.sing(SingRequest("", tts=True, semantic_file=named, length_seconds=4.0, candidates=1, repair=0, steps=4))
    assert json.loads(json.dumps(sung.report, ensure_ascii=False).encode("utf-8"))["request"]["semantic_file"].endswith("caf\ufffd.wav")


@pytest.mark.parametrize("setting", ["reference", "speaker_files", "semantic_file"])
@pytest.mark.parametrize(("name", "told"), [("noise.mp3", "cannot be decoded"), ("silence.wav", "never exceeds")])
def test_a_recording_that_cannot_be_used_is_named(singer: Singer, tmp_path: Path, setting: str, name: str, told: str) -> None:
    silence = audio.encode(torch.zeros(1, 160000), 16000, "wav")
    (tmp_path / name).write_bytes(silence if name == "silence.wav" else b"this is not music" * 99)
    value = (tmp_path / name,) if setting == "speaker_files" else tmp_path / name
    request = SingRequest("la", **{"tts": setting != "reference", setting: value})
    with pytest.raises(AudioError, match=rf"^'.*{name}': .*{told}"):
        singer.sing(request)


def test_four_seconds_are_enough_of_a_reference(singer: Singer, tone: Path) -> None:
    reference = singer.hearing.read(tone, 6.0, 30.0)
    assert reference.band.shape[-1] == 4 * reference.rate
    with pytest.raises(DataError, match=r"--start-time 6\.01 leaves less than 4 s"):
        singer.hearing.read(tone, 6.01, 30.0)


@pytest.mark.parametrize("rate", [22050, 44100])
def test_of_a_long_reference_the_asked_stretch_is_heard(
    singer: Singer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    """Its samples count its tenths of a second."""
    monkeypatch.setattr(singer.hearing, "separate", lambda wav, rate: torch.zeros_like(wav))
    tenths = (torch.arange(40 * 10) / 1000).repeat_interleave(rate // 10)[None]
    (tmp_path / "long.wav").write_bytes(audio.encode(tenths, rate, "wav"))
    reference = singer.hearing.read(tmp_path / "long.wav", 30.7, 5.2)
    assert reference.seconds == pytest.approx(5.2, abs=1e-4)
    middles = reference.band[0, reference.rate // 20 :: reference.rate // 10]
    assert torch.allclose(middles, torch.arange(307, 359) / 1000, atol=1e-4)
    with pytest.raises(DataError, match=r"leaves less than 4 s of .* which lasts 40\.0 s"):
        singer.hearing.read(tmp_path / "long.wav", 3600.0, 5.0)


def test_a_singer_is_looked_for_beyond_the_beginning(singer: Singer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loud is sung, as far as these ears are concerned: a minute of soft noise, then ten seconds of loud noise, or not."""
    monkeypatch.setattr(singer.hearing, "separate", lambda wav, rate: wav)
    monkeypatch.setattr(singer.hearing, "_activity", lambda vocals, rate: (vocals.abs().mean(0)[:: rate // 50] > 0.1).float())
    monkeypatch.setattr(singer.hearing, "embed", lambda vocals, rate: torch.eye(2)[int(float(vocals.abs().max()) > 0.1)])
    wav = torch.full((1, 100 * 8000), 0.01)
    (tmp_path / "nobody.wav").write_bytes(audio.encode(wav, 8000, "wav"))
    wav[:, 70 * 8000 : 80 * 8000] = 0.5
    (tmp_path / "later.wav").write_bytes(audio.encode(wav, 8000, "wav"))
    told: list[str] = []
    assert singer.hearing.singers([tmp_path / "later.wav"], told.append).tolist() == [0, 1] and not told
    assert singer.hearing.singers([tmp_path / "nobody.wav"], told.append).tolist() == [1, 0]
    assert len(told) == 1 and f"nobody is heard singing in '{tmp_path / 'nobody.wav'}'" in told[0]


@pytest.mark.parametrize(("share", "is_sung"), [(0.15, False), (0.5, True)])
def test_what_the_separator_leaves_of_a_band_is_no_singer(
    singer: Singer, tone: Path, monkeypatch: pytest.MonkeyPatch, share: float, is_sung: bool
) -> None:
    """An instrument sounds like a voice to these ears; the separator takes a `share` of it."""
    monkeypatch.setattr(singer.hearing, "separate", lambda wav, rate: share * wav)
    monkeypatch.setattr(singer.hearing, "_activity", lambda vocals, rate: torch.ones(vocals.shape[-1] * 50 // rate))
    told: list[str] = []
    singer.hearing.singers([tone], told.append)
    reference = singer.hearing.read(tone, 0.0, 8.0)
    assert (reference.has_voice, reference.voice is not None, not told) == (is_sung,) * 3
    assert singer.hearing.vocals_of(tone, 5.0)[2] is is_sung and (singer.hearing.voice_in(tone) is not None) is is_sung


def test_an_alpha_that_blends_nothing_is_told(singer: Singer, tone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singer.hearing, "_singer", lambda path: (torch.eye(4)[1], True))
    silence, told = torch.zeros(1, 16000), []
    sung = Reference(16000, silence, silence, True, np.ones(50), torch.eye(4)[0], torch.zeros(1, 4, 8))
    request = SingRequest("la", tone, speaker_files=(tone,), speaker_alpha=0.0)
    voice = singer._voice(request, sung, told.append)
    assert voice is not None and voice[0, 0].tolist() == [1, 0, 0, 0] and not told and _voice_source(request, sung) == "reference"
    singer._voice(request, sung._replace(has_voice=False, voice=None), told.append)
    singer._voice(SingRequest("la", tone, speaker_alpha=0.3), sung, told.append)
    assert told == ["--spk-alpha 0 blends nothing: nobody is heard singing in what is sung over", "--spk-alpha 0.3 blends nothing: no --spkfile is given"]


def test_alpha_is_a_share_however_many_singers_are_asked_for(singer: Singer, tone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, first, second = torch.eye(4)[:3]
    embeddings = iter([first, second])
    monkeypatch.setattr(singer.hearing, "embed", lambda vocals, rate: next(embeddings))
    monkeypatch.setattr(singer.hearing, "separate", lambda wav, rate: wav)
    silence = torch.zeros(1, 16000)
    reference = Reference(16000, silence, silence, True, np.ones(50), own, torch.zeros(1, 4, 8))
    voice = singer._voice(SingRequest("la", tone, speaker_files=(tone, tone), speaker_alpha=0.5), reference)
    assert voice is not None
    asked = torch.nn.functional.normalize(first + second, dim=0)
    torch.testing.assert_close(voice[0, 0] @ own, voice[0, 0] @ asked)


def test_all_that_is_sung_over_a_reference_is_sung_on_another_device(other_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Separation, a blend of voices, a first window and one that goes on, repair, and the codes' way back to the CPU."""
    monkeypatch.setattr("autosing.singing.pipeline.STREAM_SECONDS", 3.0)
    song = ROOT / "demo/songs/Ada - Lantern.ogg"
    request = SingRequest(
        "la la\nla la la\nla la", song, length_seconds=5.0, candidates=1, repair=1, steps=4, stream=True,
        speaker_files=(song,), speaker_alpha=0.5,
    )  # fmt: skip
    sung = Singer(device=other_device).sing(request, listening=lambda mix, rate: None)
    assert len(sung.report["windows"]) == 2 and sung.report["device"] == str(other_device)
    assert {tensor.device.type for tensor in (sung.mix, sung.vocals, *sung.tokens.values())} == {"cpu"}
    assert float(sung.vocals.abs().max()) > 0.05
