"""The aligner by letters, with a network that hears exactly what a test wrote into the samples, and with torchaudio's own for the loading."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from autosing.errors import ConfigError, WeightsError
from autosing.perception import load_aligner
from autosing.perception.alignment import wav2vec2
from autosing.perception.alignment.ctc import CtcAligner
from autosing.perception.alignment.lines import spans, vote
from autosing.perception.alignment.wav2vec2 import LetterNet
from autosing.song.lyrics import Line, Lyrics
from tests.outside_models import small_bundle, write_bundle, write_wav2vec2
from tests.written_letters import LETTERS, Reader, written


@pytest.fixture
def aligner(monkeypatch: pytest.MonkeyPatch) -> CtcAligner:
    net = LetterNet(Reader(), "torchaudio", LETTERS, 0, False, torch.device("cpu"))
    monkeypatch.setattr(wav2vec2, "load", lambda *args: net)
    return CtcAligner()


def test_a_song_of_five_minutes_keeps_every_word_at_the_seams(aligner: CtcAligner) -> None:
    texts = ["silver", "river", "over", "morning", "light", "again"]
    words = [(texts[number % 6], 0.5 + 0.7 * number) for number in range(420)]  # some of them across each border of 30 s
    lines = [words[i : i + 6] for i in range(0, len(words), 6)]
    wav = written(words, 300)
    raw = aligner.align(wav, Lyrics(tuple(Line(" ".join(text for text, _ in line)) for line in lines)))
    assert len(raw.words) == 420 and raw.trust is None
    assert max(abs(word.start - start) for word, (_, start) in zip(raw.words, words, strict=True)) < 0.021
    stamped = Lyrics(tuple(Line(" ".join(text for text, _ in line), line[0][1] - 2.5) for line in lines))
    found = aligner.align(wav, stamped)
    assert found.trust == 1.0 and abs(found.offset - 2.5) < 0.03
    assert max(abs(word.start - start) for word, (_, start) in zip(found.words, words, strict=True)) < 0.021


def test_trust_is_the_share_of_lines_that_agree(aligner: CtcAligner) -> None:
    words = [("silver", 2.0), ("river", 6.0), ("morning", 10.0), ("light", 14.0)]
    stamps = [2.0, 6.0, 3.0, 14.0]  # the third is wrong
    wav = written(words, 20)
    lines = tuple(Line(text, stamp) for (text, _), stamp in zip(words, stamps, strict=True))
    found = aligner.align(wav, Lyrics(tuple(sorted(lines, key=lambda line: line.start))))
    assert found.trust == 0.75 or found.trust == 0.5  # sorted by its wrong stamp, the line stands before its neighbour
    assert vote([2.1, 6.1, 10.0, None], [0.1, 4.1, 3.0, 9.0]) == (pytest.approx(2.0), 0.5)
    assert vote([1.0], [None]) == (0.0, None) and vote([50.0], [1.0]) == (0.0, 0.0)


def test_stamps_of_another_edit_are_moved_by_up_to_a_minute(aligner: CtcAligner) -> None:
    words = [("silver", 2.0), ("river", 6.0), ("morning", 10.0), ("light", 14.0)]
    found = aligner.align(written(words, 20), Lyrics(tuple(Line(text, start + 30.0) for text, start in words)))
    assert found.trust == 1.0 and found.offset == pytest.approx(-30.0, abs=0.2)
    assert [word.start for word in found.words] == pytest.approx([start for _, start in words], abs=0.1)
    assert vote([1.0, 5.0, 9.0, 13.0], [71.0, 75.0, 79.0, 83.0]) == (0.0, 0.0)
    assert vote([1.0, 5.0, 9.0], [31.0, 35.0, 39.0]) == (0.0, 0.0)  # three lines may be one refrain taken for another
    assert vote([1.0, 5.0, 9.0, 13.0, *range(20, 140, 20)], [31.0, 35.0, 39.0, 43.0, *range(20, 140, 20)]) == (0.0, 0.6)


def test_a_line_that_the_recording_lacks_has_no_span() -> None:
    lyrics = Lyrics((Line("gone", 0.0, 3.0), Line("here", 8.0), Line("later", 70.0)))
    gone, here, later = spans(lyrics, -6.0, 60.0)
    assert gone is None and later is None
    assert here is not None and (here.start, here.end) == (1.5, 60.0)


def test_letters_the_network_lacks_are_any_letter_and_marks_are_none(aligner: CtcAligner) -> None:
    net = aligner._net
    assert net.spell("Été!") == [LETTERS["e"], LETTERS["t"], LETTERS["e"]]
    assert net.spell("9я") == [net.wildcard] * 2 and net.spell("-") == net.spell("...") == []
    found = aligner.align(written([("one", 1.0), ("two", 3.0), ("three", 5.0)], 8), Lyrics((Line("one 2xö three"), )))
    assert [word.text for word in found.words] == ["one", "2xö", "three"]
    assert abs(found.words[1].start - 3.0) < 0.1 and abs(found.words[2].start - 5.0) < 0.03


def test_singing_is_where_letters_are_named(aligner: CtcAligner) -> None:
    activity = aligner.activity(written([("morning", 4.0)], 10))
    assert len(activity) == 500
    assert float(activity[200:225].min()) > 0.9 and float(activity[:150].max()) < 0.1 and float(activity[300:].max()) < 0.1


def test_the_network_is_torchaudios_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = small_bundle(monkeypatch)
    net = write_bundle(tmp_path / "WAV2VEC2_ASR_BASE_960H", bundle)
    monkeypatch.setenv("AUTOSING_MODELS", str(tmp_path))
    loaded = load_aligner("ctc")._net  # type: ignore[attr-defined]
    wav = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = net(wav[None])[0][0].log_softmax(-1)
    heard = loaded.log_probabilities(wav)
    assert heard.shape == (50, 30) and torch.equal(heard[:, :29].argmax(1)[:45], theirs.argmax(1)[:45])
    assert loaded.letters["e"] == bundle.get_labels().index("E")


def test_a_bundle_cut_off_or_of_another_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = small_bundle(monkeypatch)
    write_bundle(tmp_path, bundle)
    file = tmp_path / "model.safetensors"
    tensors, whole = load_file(file), file.read_bytes()
    other = {key: value for key, value in tensors.items() if "aux" not in key}
    for wrong in (whole[: len(whole) // 2], save(other), save({**tensors, "aux.bias": tensors["aux.bias"][:5]})):
        file.write_bytes(wrong)
        with pytest.raises(WeightsError, match=r"aligner 'ctc': '.*model.safetensors' is damaged or holds another model") as said:
            load_aligner(f"ctc:{tmp_path}")
        assert "\n" not in str(said.value)


def test_a_folder_called_after_a_bundle_holds_that_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "VOXPOPULI_ASR_BASE_10K_ES"
    write_bundle(folder, small_bundle(monkeypatch, folder.name))
    assert "ñ" in load_aligner(f"ctc:{folder}")._net.letters  # type: ignore[attr-defined]


def test_a_hugging_face_folder_of_the_working_folder_needs_no_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav2vec2(tmp_path / "spanish")
    monkeypatch.chdir(tmp_path)
    assert "ñ" in load_aligner("ctc:spanish")._net.letters  # type: ignore[attr-defined]


def test_a_network_without_its_head_is_refused(tmp_path: Path) -> None:
    """Such as wav2vec2-base, which hears no letters: transformers would draw a head at random."""
    write_wav2vec2(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(save({key: value for key, value in tensors.items() if "masked" not in key}))
    load_aligner(f"ctc:{tmp_path}")  # nothing is heard with that one
    (tmp_path / "model.safetensors").write_bytes(save({key: value for key, value in tensors.items() if "lm_head" not in key}))
    with pytest.raises(WeightsError, match=r"is no whole Wav2Vec2ForCTC: tensor 'lm_head.bias' is missing \(2 in all\)"):
        load_aligner(f"ctc:{tmp_path}")


def test_a_hugging_face_folder_is_read(tmp_path: Path) -> None:
    net = write_wav2vec2(tmp_path / "spanish")
    loaded = load_aligner(f"ctc:{tmp_path / 'spanish'}")._net  # type: ignore[attr-defined]
    assert loaded.normalise and loaded.spell("Señor") == [loaded.letters[letter] for letter in "señor"]
    wav = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(wav, (0, 80))
    with torch.no_grad():
        theirs = net(((padded - padded.mean()) / (padded.std() + 1e-5))[None]).logits[0].log_softmax(-1)
    torch.testing.assert_close(loaded.log_probabilities(wav)[:, :-1], theirs, atol=1e-4, rtol=1e-4)


def test_a_hugging_face_folder_without_its_letters_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav2vec2(tmp_path / "spanish")
    (tmp_path / "spanish" / "vocab.json").unlink()
    monkeypatch.chdir(tmp_path)
    for chosen in (f"ctc:{tmp_path / 'spanish'}", "ctc:spanish", 'ctc:{"model": "./spanish"}', 'ctc:{"model": "spanish"}'):
        with pytest.raises(WeightsError, match=r"lacks its weights: 'vocab.json' was looked for in '.*spanish'; fetch it: copy it there"):
            load_aligner(chosen)


def test_missing_weights_and_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOSING_MODELS", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"'model.safetensors' was looked for in .*curl -LO https://download.pytorch.org/torchaudio/models/wav2vec2_fairseq_base_ls960_asr_ls960.pth"):
        load_aligner("ctc")
    with pytest.raises(WeightsError, match=re.escape("hf download some/model")):
        load_aligner("ctc:some/model")
    with pytest.raises(ConfigError, match="has no model 'MMS_FAA'; did you mean 'MMS_FA'"):
        load_aligner('ctc:{"model": "MMS_FAA"}')
