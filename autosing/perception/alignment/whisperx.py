"""WhisperX (pip package `whisperx` 3.8): known lyrics aligned by its wav2vec 2.0 networks, and songs without lyrics transcribed by Whisper.

    --aligner whisperx
    --aligner 'whisperx:{"language": "de"}'
    --transcriber whisperx:/models/faster-whisper-large-v3

The lyrics are the transcript: each line of an LRC is a segment within its stamps; raw lyrics are cut into windows of whole lines by a first pass over the
song (`ctc.hear`), which also votes on the stamps. WhisperX asks NLTK to split a segment into sentences, for which it would download a model; here a segment
is one sentence. Its voice activity detector, a pickle, is not used: where somebody sings is heard by the embedded recogniser. Letters: n samples.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autosing.config import nearest
from autosing.errors import ConfigError
from autosing.perception.alignment import wav2vec2
from autosing.perception.alignment.builtin import BuiltinAligner
from autosing.perception.alignment.ctc import Song, hear
from autosing.perception.alignment.lines import SLACK, FoundWord, Span, spans, to_alignment
from autosing.perception.outside import Weights, load_package
from autosing.song.alignment import Alignment
from autosing.song.audio import resample
from autosing.song.lyrics import Line, Lyrics
from autosing.song.runs import spans_of
from autosing.tokens.specs import Seconds

ALIGNER, TRANSCRIBER = "aligner 'whisperx'", "transcriber 'whisperx'"
WINDOW_SECONDS: Seconds = 25.0
"""How long a window of raw lyrics may be; a single line may be longer."""
SUNG, PAUSE_SECONDS, PIECE_SECONDS = 0.5, 1.0, 28.0
LINE_WORDS = 10
"""Words of a transcribed line at most, where no punctuation ends it."""


class WhisperxAligner:
    """See the module; implements `Aligner`."""

    name = "whisperx"
    sample_rate = wav2vec2.SAMPLE_RATE
    stereo = False

    def __init__(self, device: torch.device | str = "cpu", weights: str | None = None, model: str | None = None, language: str = "en"):
        """
        Args:
            weights: folder or hub id of the network.
            model: a bundle of torchaudio or a Hugging Face model; None = WhisperX's own choice for the language.
            language: of all songs, such as "en"; WhisperX has networks for some forty.

        Raises:
            ConfigError: whisperx is not installed, or knows no network of the language. WeightsError: see `wav2vec2.find`.
        """
        self._whisperx = load_package("whisperx.alignment", "whisperx", ALIGNER)
        self._net = wav2vec2.load(ALIGNER, device, _network(model, weights, language), weights)
        self._about = {"language": language, "dictionary": self._net.letters, "type": self._net.kind}

    @classmethod
    def files(cls, weights: str | None = None, model: str | None = None, language: str = "en", **_: Any) -> tuple[Path, ...]:
        return wav2vec2.find(ALIGNER, _network(model, weights, language), weights)

    def activity(self, wav: Tensor) -> Tensor:
        """(n,) -> (F,); see `LetterNet.activity`."""
        return self._net.activity(wav)

    def align(self, wav: Tensor, lyrics: Lyrics) -> Alignment:
        """See `Aligner.align`.

        Raises:
            AlignmentError: code `no_lyrics` or `too_many_words`.
        """
        song = hear(self._net, wav, lyrics)
        found = list(song.free)
        for numbers, span in _segments(lyrics, song, len(wav) / self.sample_rate):
            times = self._align(wav, [word for number in numbers for word in song.lines[number]], span)
            if times is not None:
                rest = iter(times)
                for number in numbers:
                    found[number] = [next(rest) for _ in song.lines[number]]
        return to_alignment(song.lines, found, song.trust, song.offset)

    def _align(self, wav: Tensor, words: Sequence[str], span: Span) -> list[FoundWord | None] | None:
        """The words of one segment; None where WhisperX gives up on it."""
        segment = {"text": " ".join(words), "start": span.start, "end": span.end}
        with one_sentence(self._whisperx):
            found = self._whisperx.align([segment], self._net.net, self._about, wav.cpu().float(), str(self._net.device))["word_segments"]
        if len(found) != len(words) or not all("start" in word and "end" in word for word in found):
            return None
        return [
            FoundWord(float(word["start"]), float(word["end"]), min(1.0, max(0.0, float(word.get("score", 0.0))))) if any(c.isalnum() for c in text) else None
            for text, word in zip(words, found, strict=True)
        ]


def _segments(lyrics: Lyrics, song: Song, seconds: Seconds) -> Iterator[tuple[list[int], Span]]:
    """Line numbers and where they lie: a stamped line by itself, unstamped ones in windows of whole lines."""
    window: list[int] = []
    begin = end = 0.0
    for number, span in enumerate(spans(lyrics, song.offset, seconds)):
        times = [time for time in song.free[number] if time]
        if window and (span is not None or (times and times[-1].end - begin > WINDOW_SECONDS)):
            yield window, Span(max(0.0, begin - SLACK), min(seconds, end + SLACK))
            window = []
        if span is not None:
            yield [number], span
        elif times:
            begin, end = (begin if window else times[0].start), times[-1].end
            window.append(number)
    if window:
        yield window, Span(max(0.0, begin - SLACK), min(seconds, end + SLACK))


def _network(model: str | None, weights: str | None, language: str) -> str | None:
    """The network of a language, unless the user or the folder says which."""
    if model is not None or (weights is not None and (not Path(weights).exists() or (Path(weights) / wav2vec2.VOCABULARY_FILE).is_file())):
        return model
    module = load_package("whisperx.alignment", "whisperx", ALIGNER)
    known = {**module.DEFAULT_ALIGN_MODELS_TORCH, **module.DEFAULT_ALIGN_MODELS_HF}
    if language not in known:
        raise ConfigError(f"{ALIGNER} knows no network for the language '{language}'{nearest(language, known)}; or name one as 'model'")
    return known[language]


class _OneSentence:
    @staticmethod
    def span_tokenize(text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


@contextmanager
def one_sentence(module: Any) -> Iterator[None]:
    """While it lasts, WhisperX takes every segment for one sentence and NLTK is not asked."""
    before = module.nltk_load
    module.nltk_load = lambda name: _OneSentence
    try:
        yield
    finally:
        module.nltk_load = before


class WhisperxTranscriber:
    """See the module; implements `Transcriber`."""

    name = "whisperx"
    sample_rate = wav2vec2.SAMPLE_RATE

    def __init__(
        self,
        device: torch.device | str = "cpu",
        weights: str | None = None,
        model: str = "large-v3",
        language: str | None = None,
        batch_size: int = 8,
        compute_type: str = "default",
    ):
        """
        Args:
            weights: folder or hub id of a Whisper as faster-whisper reads it.
            model: its size; where `weights` is not given, `$AUTOSING_MODELS/faster-whisper-<model>`, then the cache of the hub.
            language: of all songs; None = heard, song by song.
            batch_size: stretches of singing at once.
            compute_type: arithmetic of CTranslate2; "default" is float16 on a GPU and float32 elsewhere.

        Raises:
            ConfigError: whisperx is not installed. WeightsError: files are missing.
        """
        whisperx = load_package("whisperx", "whisperx", TRANSCRIBER)
        self._detector = BuiltinAligner(device)
        self._batch_size = batch_size
        folder, kind = self.files(weights, model)[0].parent, torch.device(device).type
        self._pipeline = whisperx.load_model(
            str(folder), kind, compute_type=compute_type, language="en" if model.endswith(".en") else language, vad_model=self._stretches(), local_files_only=True,
            threads=torch.get_num_threads(),
        )  # fmt: skip
        self._language = language if self._pipeline.model.model.is_multilingual else "en"  # one of English alone cannot hear which it is

    @classmethod
    def files(cls, weights: str | None = None, model: str = "large-v3", **_: Any) -> tuple[Path, ...]:
        name = f"faster-whisper-{model}"
        return Weights(f"{TRANSCRIBER} ({model})", name, f"Systran/{name}", ("config.json", "tokenizer.json", "model.bin")).paths(weights)

    def transcribe(self, wav: Tensor) -> Lyrics:
        """See `Transcriber.transcribe`."""
        if not len(wav) or not self._sung(wav):
            return Lyrics(())
        with torch.random.fork_rng([]):  # its loader of batches draws a seed that nothing is made of
            found = self._pipeline.transcribe(wav.cpu().float().numpy(), batch_size=self._batch_size, language=self._language)
        return lines_of([(part["text"], float(part["start"]), float(part["end"])) for part in found["segments"]])

    def _sung(self, wav: Tensor) -> list[tuple[Seconds, Seconds]]:
        """Stretches of singing of (n,), none longer than Whisper hears at once."""
        activity = self._detector.activity(resample(wav, self.sample_rate, self._detector.sample_rate)).cpu().numpy()
        edges = spans_of(activity > SUNG) / 50
        joined: list[list[float]] = []
        for start, end in edges.tolist():
            if joined and start - joined[-1][1] < PAUSE_SECONDS and end - joined[-1][0] <= PIECE_SECONDS:
                joined[-1][1] = end
            else:
                joined.append([start, end])
        return [
            (start + step, min(end, start + step + PIECE_SECONDS))
            for start, end in joined
            for step in np.arange(0, max(end - start, 1e-3), PIECE_SECONDS).tolist()
        ]

    def _stretches(self) -> Any:
        """`_sung` as WhisperX wants its detectors: an object of its own class."""
        vad = load_package("whisperx.vads", "whisperx", TRANSCRIBER).Vad
        segment = load_package("whisperx.diarize", "whisperx", TRANSCRIBER).Segment
        sung = self._sung

        class Singing(vad):
            def __call__(self, audio: dict[str, Any], **_: Any) -> list[Any]:
                return [segment(start, end, "SINGER") for start, end in sung(torch.as_tensor(audio["waveform"]))]

            @staticmethod
            def preprocess_audio(audio: Any) -> Any:
                return audio

        return Singing(SUNG)


def lines_of(parts: Sequence[tuple[str, Seconds, Seconds]]) -> Lyrics:
    """Texts with the stretches they were heard in -> lines, at punctuation and else by `LINE_WORDS`; the first of a stretch has its stamp."""
    lines: list[Line] = []
    for text, start, end in parts:
        pieces = [piece.split() for piece in re.split(r"(?<=[.!?,;:])\s+", text.strip())]
        rows = [words[i : i + LINE_WORDS] for words in pieces for i in range(0, len(words), LINE_WORDS)]
        sung = [" ".join(row) for row in rows if any(c.isalnum() for word in row for c in word)]
        for number, line in enumerate(sung):
            lines.append(Line(line, start if number == 0 else None, end if number == len(sung) - 1 and number == 0 else None))
    return Lyrics(tuple(lines))
