"""WhisperX behind our Protocols: segments come from the lyrics, NLTK is never asked, and what Whisper hears becomes lines."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from autosing.errors import ConfigError, WeightsError
from autosing.perception import ALIGNERS, load_aligner, load_transcriber
from autosing.perception.alignment import wav2vec2
from autosing.perception.alignment.builtin import BuiltinAligner
from autosing.perception.alignment.lines import Span
from autosing.perception.alignment.whisperx import WhisperxAligner, WhisperxTranscriber, lines_of
from autosing.song.lyrics import Line, Lyrics
from processing.fingerprint import identity
from tests.outside_models import small_bundle, write_bundle, write_faster_whisper, write_wav2vec2
from tests.written_letters import LETTERS, Reader, written

pytest.importorskip("whisperx.alignment", reason="needs whisperx (pip install 'autosing[whisperx]')")


@pytest.fixture
def aligner(monkeypatch: pytest.MonkeyPatch) -> WhisperxAligner:
    """With the network of `test_ctc`, which hears what is written; NLTK may not be touched."""
    import nltk.data

    net = wav2vec2.LetterNet(Reader(), "torchaudio", LETTERS, 0, False, torch.device("cpu"))
    monkeypatch.setattr(wav2vec2, "load", lambda *args: net)
    for name in ("load", "find"):
        monkeypatch.setattr(nltk.data, name, lambda *args, **values: pytest.fail("NLTK was asked for data"))
    monkeypatch.setattr(nltk, "download", lambda *args, **values: pytest.fail("NLTK was to download"))
    return WhisperxAligner()


def test_stamped_lines_are_segments_and_raw_ones_windows_of_whole_lines(aligner: WhisperxAligner, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["silver", "river", "over", "morning"]
    words = [(texts[number % 4], 0.5 + 0.9 * number) for number in range(80)]
    lines = [words[i : i + 4] for i in range(0, 80, 4)]
    wav = written(words, 75)
    asked: list[tuple[int, Span]] = []
    align = WhisperxAligner._align

    def watched(self: WhisperxAligner, wav: torch.Tensor, words: Any, span: Span) -> Any:
        asked.append((len(words), span))
        return align(self, wav, words, span)

    monkeypatch.setattr(WhisperxAligner, "_align", watched)
    for stamped in (True, False):
        asked.clear()
        lyrics = Lyrics(tuple(Line(" ".join(text for text, _ in line), line[0][1] - 1.5 if stamped else None) for line in lines))
        found = aligner.align(wav, lyrics)
        assert [word.text for word in found.words] == [text for text, _ in words]
        assert max(abs(word.start - start) for word, (_, start) in zip(found.words, words, strict=True)) < 0.06
        assert sum(count for count, _ in asked) == 80 and all(count % 4 == 0 for count, _ in asked)
        assert max(span.end - span.start for _, span in asked) <= 27
        assert (len(asked), found.trust) == ((20, 1.0) if stamped else (len(asked), None))
        assert stamped or 3 <= len(asked) <= 4
        assert not stamped or abs(found.offset - 1.5) < 0.03


def test_networks_go_by_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSING_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    bundle = small_bundle(monkeypatch, "VOXPOPULI_ASR_BASE_10K_FR")
    write_bundle(tmp_path / "VOXPOPULI_ASR_BASE_10K_FR", bundle)
    french = load_aligner('whisperx:{"language": "fr"}')
    assert "é" in french._net.letters and french._about["language"] == "fr"  # type: ignore[attr-defined]
    write_wav2vec2(tmp_path / "wav2vec2-large-xlsr-53-portuguese")
    assert load_aligner('whisperx:{"language": "pt"}')._net.kind == "huggingface"  # type: ignore[attr-defined]
    assert identity(ALIGNERS, 'whisperx:{"language": "pt"}')["options"] == {"language": "pt"}
    with pytest.raises(WeightsError, match="hf download jonatasgrosman/wav2vec2-large-xlsr-53-dutch"):
        load_aligner('whisperx:{"language": "nl"}')
    with pytest.raises(ConfigError, match="knows no network for the language 'eng'; did you mean 'en'"):
        load_aligner('whisperx:{"language": "eng"}')


def test_what_was_heard_becomes_lines_with_the_stamps_of_their_stretches() -> None:
    lyrics = lines_of([(" Hello there, my friend. " + "la " * 12, 3.0, 20.0), ("...", 21.0, 22.0), ("One more", 30.0, 33.0)])
    assert [line.text for line in lyrics.lines] == ["Hello there,", "my friend.", "la " * 9 + "la", "la la", "One more"]
    assert [line.start for line in lyrics.lines] == [3.0, None, None, None, 30.0]
    assert lyrics.lines[-1].end == 33.0 and not lyrics.stamped


def test_whisperx_hears_the_stretches_that_are_sung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pipeline with our detector; the network behind it is a stand-in that says how long a stretch it was given."""
    import whisperx

    for name in ("config.json", "tokenizer.json", "model.bin"):
        (tmp_path / name).write_bytes(b"{}")
    asked: dict[str, Any] = {}

    class Pipeline:
        def __init__(self, vad: Any):
            self.vad = vad
            self.model = SimpleNamespace(model=SimpleNamespace(is_multilingual=True))

        def transcribe(self, audio: np.ndarray, batch_size: int, language: str | None) -> dict[str, Any]:
            assert language is None
            stretches = self.vad.merge_chunks(self.vad({"waveform": self.vad.preprocess_audio(audio), "sample_rate": 16_000}), 30, onset=0.5, offset=0.3)
            return {"segments": [{"text": f"la {number}", "start": part["start"], "end": part["end"]} for number, part in enumerate(stretches)]}

    def load_model(folder: str, device: str, vad_model: Any, local_files_only: bool, **options: Any) -> Pipeline:
        asked.update(options, folder=folder, device=device, local=local_files_only)
        return Pipeline(vad_model)

    monkeypatch.setattr(whisperx, "load_model", load_model)
    transcriber = load_transcriber(f"whisperx:{tmp_path}")
    assert isinstance(transcriber, WhisperxTranscriber)
    assert (asked["folder"], asked["device"], asked["local"]) == (str(tmp_path), "cpu", True)
    sung = np.zeros(50 * 60, dtype=np.float32)
    sung[100:400] = sung[430:500] = sung[900:2700] = 1  # 2-8 and 8.6-10 s, a short pause apart; 18-54 s, longer than Whisper hears
    monkeypatch.setattr(transcriber._detector, "activity", lambda wav: torch.from_numpy(sung))
    lyrics = transcriber.transcribe(torch.zeros(16_000 * 60))
    assert [(line.text, line.start) for line in lyrics.lines] == [("la 0", 2.0), ("la 1", 18.0), ("la 2", 46.0)]
    sung[:] = 0
    assert transcriber.transcribe(torch.zeros(16_000 * 60)).lines == ()


def test_a_whisper_of_ctranslate2_is_loaded_and_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights say anything; that they say it, from local files alone and the same each time, is what counts."""
    write_faster_whisper(tmp_path / "faster-whisper-tiny.en")
    monkeypatch.setenv("AUTOSING_MODELS", str(tmp_path))
    activity = torch.zeros(500)
    activity[50:150] = activity[250:450] = 1
    monkeypatch.setattr(BuiltinAligner, "activity", lambda self, wav: activity)
    wav = 0.1 * torch.randn(16_000 * 10, generator=torch.Generator().manual_seed(0))
    transcriber = load_transcriber('whisperx:{"model": "tiny.en", "batch_size": 2}')
    first = transcriber.transcribe(wav)
    assert first == transcriber.transcribe(wav)
    assert {line.start for line in first.lines} <= {1.0, 5.0, None}
    one_by_one = load_transcriber(f'whisperx:{{"weights": "{tmp_path / "faster-whisper-tiny.en"}", "batch_size": 1}}')  # its folder's name tells nothing
    assert one_by_one.transcribe(wav) == first


def test_missing_whisper_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"transcriber 'whisperx' \(small\).*hf download Systran/faster-whisper-small"):
        load_transcriber('whisperx:{"model": "small"}')
