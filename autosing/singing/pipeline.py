"""From a `SingRequest` to a `Sung`: separate, condition, generate, decode, mix, find the words.

The models of the request are loaded by `Singer` once; `sing` may be called many times. Everything random comes from the request's
seed. Letters: B candidates, C channels, n samples, K codec levels, T finest codec frames, N semantic tokens, W windows, D width.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import autosing
from autosing.errors import AlignmentError, AudioError, ConfigError, DataError, MismatchError
from autosing.models.io import load_model, resolve, weights_file
from autosing.nn.embeddings import code_features, same_fit
from autosing.perception import load_aligner, load_codec, load_semantic, load_separator, load_voice
from autosing.perception.alignment.base import Aligner
from autosing.perception.codec.base import Codec
from autosing.registry import split_choice
from autosing.singing.generate import generate_codes, generate_semantic
from autosing.singing.mix import active_level, fade_edges, mix_tracks
from autosing.singing.request import SHORTEST_SECONDS, SingRequest, Sung
from autosing.song import audio
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Line, Lyrics
from autosing.store import sha256_of
from autosing.tokens.specs import Seconds, require_same
from autosing.training.task import DatasetMeta

CONTEXT_SECONDS: Seconds = 2.0  # the separator hears this much around the stretch that is sung over
VOICE_WINDOW_SECONDS: Seconds = 10.0
SINGING_SHARE = 0.15  # below this share of frames with singing, a recording has no voice to copy
FADE_SECONDS: Seconds = 0.01
SHARES = {"separate": 0.2, "condition": 0.03, "t2s": 0.3, "sm2a": 0.38, "decode": 0.05, "align": 0.04}
"""The stages of singing in order, each with about the share of the time that it takes; they sum to 1."""


class Reference(NamedTuple):
    """The stretch of the reference. Waveforms (C, n) at `rate`; `vocals`/`band` are its stems; `has_voice`: somebody sings in it."""

    rate: int
    vocals: Tensor
    band: Tensor
    has_voice: bool


class Ears(NamedTuple):
    """Choices of backends (`registry.split_choice`). None = what the models were trained on; else that, with the place of its weights."""

    separator: str = "builtin"
    aligner: str = "builtin"
    codec: str | None = None
    semantic: str | None = None
    voice: str | None = None

    def trained(self, part: str, name: str) -> str:
        """The choice for a part that the models were trained on, which is called `name`.

        Raises:
            ConfigError: the choice is another one.
        """
        choice = getattr(self, part) or name
        if split_choice(choice)[0] != name:
            raise ConfigError(f"--{part} must be '{name}', which the models were trained on, found '{choice}'")
        return choice


class Singer:
    """Both models and every ear they need, on one device."""

    def __init__(
        self, t2s_model: str = "builtin", sm2a_model: str = "builtin", device: torch.device | str = "cpu", ears: Ears | None = None
    ):
        """
        Args:
            t2s_model, sm2a_model: checkpoints.
            ears: backends; None = the embedded ones, and those the models were trained on.

        Raises:
            WeightsError: a checkpoint is missing or damaged.
            ConfigError: `ears` names another codec, tokenizer or voice embedder than the models were trained on.
            MismatchError: the two models were trained with different tokenizers; both are named.
        """
        self.device = torch.device(device)
        self.ears = ears = ears or Ears()
        self.t2s, self.t2s_meta = load_model(t2s_model, "t2s", self.device)
        self.sm2a, self.sm2a_meta = load_model(sm2a_model, "sm2a", self.device)
        self.models = {  # what of them a report names
            "t2s": _identity(t2s_model, "t2s", self.t2s_meta), "sm2a": _identity(sm2a_model, "sm2a", self.sm2a_meta)
        }  # fmt: skip
        t2s, sm2a = DatasetMeta.from_json(self.t2s_meta["dataset"]), DatasetMeta.from_json(self.sm2a_meta["dataset"])
        places = (f"the t2s model '{t2s_model}'", f"the sm2a model '{sm2a_model}'")
        require_same("semantic tokenizer", t2s.semantic, places[0], sm2a.semantic, places[1])
        require_same("accompaniment codec", t2s.accompaniment_codec, places[0], sm2a.accompaniment_codec, places[1])
        self.meta = sm2a
        assert sm2a.codec and sm2a.accompaniment_codec and sm2a.semantic and sm2a.voice
        self.codec: Codec = load_codec(ears.trained("codec", sm2a.codec.name), self.device)
        same = sm2a.accompaniment_codec.name == sm2a.codec.name
        self.band_codec: Codec = self.codec if same else load_codec(sm2a.accompaniment_codec.name, self.device)
        self.separator = load_separator(ears.separator, self.device)
        self.aligner = load_aligner(ears.aligner, self.device)
        self.voice = load_voice(ears.trained("voice", sm2a.voice.name), self.device)
        self.semantic = ears.trained("semantic", sm2a.semantic.name)
        require_same("codec", sm2a.codec, places[1], self.codec.spec, "this installation")
        require_same("voice embedding", sm2a.voice, places[1], self.voice.spec, "this installation")
        if not same_fit(self.t2s.semantic.codebook, self.sm2a.semantic.codebook):
            raise MismatchError(f"{places[0]} and {places[1]} know different fits of semantic tokenizer '{sm2a.semantic.name}'; train both on one dataset")
        for geometry, codec in ((self.sm2a.geometry, self.codec), (self.sm2a.music_geometry, self.band_codec)):
            if geometry is None:
                continue
            books = codec.codebooks()
            if not all(same_fit(geometry.features(level).cpu(), code_features(book)) for level, book in enumerate(books)):
                raise MismatchError(
                    f"{places[1]} was trained with another fit of codec '{codec.spec.name}' than this installation has; train it on a dataset "
                    "that this installation tokenised"
                )

    def sing(self, request: SingRequest, progress: Callable[[float, str], None] | None = None) -> Sung:
        """Sing the request.

        Args:
            request: what to sing.
            progress: told how much is done, from 0 to 1, and the name of the stage at work.

        Raises:
            AudioError, DataError: the reference or another recording cannot be used.
        """
        clock = _Stages(progress)
        generator = torch.Generator(self.device).manual_seed(request.seed)
        assert self.meta.codec and self.meta.accompaniment_codec and self.meta.semantic
        clock.begin("separate")
        reference = None if request.reference is None else self._reference(request)
        length = request.length_seconds if reference is None else reference.band.shape[-1] / reference.rate
        steps, frames = self.meta.semantic.tokens(length), self.meta.codec.frames(length)

        clock.begin("condition")
        band = None if request.tts or reference is None else reference.band
        accompaniment = self._band_codes(band, reference.rate if reference else 1, length)
        voice = self._voice(request, reference)

        clock.begin("t2s")
        if request.semantic_file is not None:
            semantic = self._semantic_of(request.semantic_file, steps).expand(request.candidates, -1)
        else:
            semantic, _ = generate_semantic(
                self.t2s, request.halves, accompaniment, steps=steps, temperature=request.temperature,
                generator=generator, batch=request.candidates, progress=clock.within,
            )  # fmt: skip
        clock.begin("sm2a")
        codes = generate_codes(
            self.sm2a, semantic, accompaniment, voice, frames=frames, temperature=request.temperature, generator=generator,
            progress=clock.within,
        )  # fmt: skip
        clock.begin("decode")
        vocals = torch.cat([self.codec.decode(one[None])[0] for one in codes]).cpu()  # (B, n)
        clock.begin("align")
        lyrics = _lyrics_for_alignment(request)
        heard: list[Alignment] = []
        for one in vocals:
            heard.append(find_words(self.aligner, one.to(self.device), self.codec.spec.sample_rate, lyrics))
            clock.within(len(heard), len(vocals))
        order = sorted(range(len(heard)), key=lambda i: (-word_score(heard[i]), i))
        clock.end()

        sung = [self._mix(vocals[i][None], reference, request) for i in order]
        best = sung[0]
        report = {
            "autosing": autosing.__version__,
            "torch": torch.__version__,
            "request": _plain(asdict(request)),
            "seconds": length,
            "chosen": order[0],
            "word_scores": [_plain(round(word_score(a), 4)) for a in heard],  # None: none of its words could be found
            "words": [_plain(word) for word in heard[order[0]].words],
            "voice_from": _voice_source(request, reference),
            "models": self.models,
            "ears": self.ears._asdict(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "stage_seconds": clock.laps,
        }
        return Sung(
            best.mix, best.vocals, best.accompaniment, self._rate(reference), heard[order[0]],
            tuple(s.mix for s in sung[1:]), report,
        )  # fmt: skip

    def _rate(self, reference: Reference | None) -> int:
        return self.codec.spec.sample_rate if reference is None else reference.rate

    def _reference(self, request: SingRequest) -> Reference:
        assert request.reference is not None
        song = _decode(request.reference)
        if song.seconds - request.start_seconds < SHORTEST_SECONDS - 1e-6:  # what rounding takes off is not missed
            raise DataError(
                f"--start-time {request.start_seconds:g} leaves less than {SHORTEST_SECONDS:g} s of '{request.reference}', which lasts {song.seconds:.1f} s"
            )
        end = min(song.seconds, request.start_seconds + request.length_seconds)
        before, after = max(0.0, request.start_seconds - CONTEXT_SECONDS), min(song.seconds, end + CONTEXT_SECONDS)
        wide = song.samples[:, int(before * song.sample_rate) : int(after * song.sample_rate)]
        inner = slice(int((request.start_seconds - before) * song.sample_rate), int((end - before) * song.sample_rate))
        vocals = self._separate(wide, song.sample_rate)
        vocals, wide = vocals[:, inner], wide[:, inner]
        activity = self.aligner.activity(audio.resample(audio.mono(vocals), song.sample_rate, self.aligner.sample_rate))
        return Reference(song.sample_rate, vocals, wide - vocals, float((activity > 0.5).float().mean()) >= SINGING_SHARE)

    def _separate(self, wav: Tensor, rate: int) -> Tensor:
        """(C, n) at `rate` -> its vocals (C, n) at `rate`; what lies above the separator's band stays with the instrumental."""
        stems = self.separator.separate(audio.resample(wav, rate, self.separator.sample_rate).to(self.device))
        vocals = audio.resample(stems.vocals.cpu(), self.separator.sample_rate, rate)
        missing = wav.shape[-1] - vocals.shape[-1]
        return torch.nn.functional.pad(vocals, (0, max(0, missing)))[:, : wav.shape[-1]]

    def _band_codes(self, band: Tensor | None, rate: int, length: Seconds) -> Tensor:
        """(1, K, T) codes of the instrumental, of silence where there is none."""
        spec = self.band_codec.spec
        n = spec.frames(length) * spec.hop
        wav = torch.zeros(n) if band is None else audio.resample(audio.mono(band), rate, spec.sample_rate)
        wav = torch.nn.functional.pad(wav, (0, max(0, n - wav.shape[-1])))[:n]
        return self.band_codec.encode(wav[None, None].to(self.device))

    def _embed(self, vocals: Tensor, rate: int) -> Tensor:
        """(C, n) vocals -> (D,) unit vector, the mean over windows."""
        wav = audio.resample(audio.mono(vocals), rate, self.voice.spec.sample_rate).to(self.device)
        width = int(VOICE_WINDOW_SECONDS * self.voice.spec.sample_rate)
        pieces = [p for p in wav.split(width) if p.shape[0] >= self.voice.spec.sample_rate] or [wav]
        return torch.nn.functional.normalize(torch.stack([self.voice.embed(p[None])[0] for p in pieces]).mean(0), dim=0)

    def _voice(self, request: SingRequest, reference: Reference | None) -> Tensor | None:
        """(1, 1, D) the asked voice; None = any voice."""
        own = self._embed(reference.vocals, reference.rate) if reference is not None and reference.has_voice else None
        asked = None
        if request.speaker_files:
            singers = []
            for path in request.speaker_files:
                song = _decode(path)
                stretch = song.samples[:, : int(60 * song.sample_rate)]
                singers.append(self._embed(self._separate(stretch, song.sample_rate), song.sample_rate))
            asked = torch.nn.functional.normalize(torch.stack(singers).mean(0), dim=0)  # as long as `own`, so that alpha is a share
        if own is not None and asked is not None:
            blend = request.speaker_alpha * asked + (1 - request.speaker_alpha) * own
        else:
            blend = asked if asked is not None else own
        return None if blend is None else torch.nn.functional.normalize(blend, dim=0)[None, None]

    def _semantic_of(self, path: Path, steps: int) -> Tensor:
        """(1, N) semantic tokens of the voice in a recording, as many as are sung."""
        assert self.meta.semantic is not None
        tokenizer = load_semantic(self.semantic, self.device)
        song = _decode(path)
        vocals = self._separate(song.samples[:, : int(32 * song.sample_rate)], song.sample_rate)
        wav = audio.resample(audio.mono(vocals), song.sample_rate, tokenizer.spec.sample_rate)
        n = steps * tokenizer.spec.sample_rate // tokenizer.spec.token_rate
        wav = torch.nn.functional.pad(wav, (0, max(0, n - wav.shape[-1])))[:n]
        return tokenizer.encode(wav[None].to(self.device))[:, :steps]

    def _mix(self, vocals: Tensor, reference: Reference | None, request: SingRequest):
        rate = self._rate(reference)
        vocals = audio.resample(vocals, self.codec.spec.sample_rate, rate)
        n = vocals.shape[-1]
        if request.tts or reference is None:
            band, level = torch.zeros(1, n), 0.0
        else:
            band = torch.nn.functional.pad(reference.band, (0, max(0, n - reference.band.shape[-1])))[:, :n]
            level = active_level(reference.vocals) if reference.has_voice else 0.0
        edge = int(FADE_SECONDS * rate)
        return mix_tracks(fade_edges(vocals, edge), fade_edges(band, edge), level, request.music_volume)


class _Stages:
    """Times the stages of `SHARES`, begun in that order, and tells how far the whole is."""

    def __init__(self, progress: Callable[[float, str], None] | None) -> None:
        self.laps: dict[str, float] = {}
        self._progress = progress
        self._name = ""
        self._before = 0.0
        self._begun = 0.0

    def begin(self, name: str) -> None:
        """End the stage at work, if any, and begin `name`."""
        if self._name:
            self.end()
        self._name, self._begun = name, time.perf_counter()
        self.within(0, 1)

    def within(self, done: int, total: int) -> None:
        """`done` of `total` of the stage at work."""
        if self._progress is not None:
            self._progress(min(1.0, self._before + SHARES[self._name] * done / total), self._name)

    def end(self) -> None:
        self.laps[self._name] = round(time.perf_counter() - self._begun, 3)
        self.within(1, 1)
        self._before += SHARES[self._name]
        self._name = ""


def _decode(path: Path) -> audio.Audio:
    """A recording that is not silent.

    Raises:
        AudioError: it cannot be used; names the file.
        ConfigError: it cannot be read.
    """
    try:
        return audio.require_sound(audio.decode(path.read_bytes()))
    except AudioError as error:
        raise AudioError(error.code, f"'{path}': {error}") from error
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read ({error.strerror})") from error


def _lyrics_for_alignment(request: SingRequest) -> Lyrics:
    """The sung lines, without stamps: where in its half a line begins is for the aligner to find."""
    first, second = request.halves
    return Lyrics(tuple(Line(text) for text in (*first, *second)))


def find_words(aligner: Aligner, vocals: Tensor, rate: int, lyrics: Lyrics) -> Alignment:
    """Where in the sung (n,) `vocals` the words are; without words where there are none, or nothing that could be them was sung."""
    if not lyrics.lines:
        return Alignment(())
    try:
        return aligner.align(audio.resample(vocals, rate, aligner.sample_rate), lyrics)
    except AlignmentError:
        return Alignment(())


def word_score(alignment: Alignment) -> float:
    """Mean word score, weighted by nothing: how sure the recogniser is that these words are sung. -inf without words."""
    return sum(w.score for w in alignment.words) / len(alignment.words) if alignment.words else float("-inf")


def _voice_source(request: SingRequest, reference: Reference | None) -> str:
    own = reference is not None and reference.has_voice
    if request.speaker_files:
        return "speaker files" if not own or request.speaker_alpha == 1 else "speaker files and reference"
    return "reference" if own else "any (the reference has no voice to copy)"


def _identity(name: str, kind: str, meta: dict) -> dict:
    """Which model this is: the hash of its weights, and what it says about its training."""
    trained = {k: meta[k] for k in ("steps", "seed", "source_hash") if k in meta}
    return {"sha256": sha256_of(weights_file(resolve(name, kind))), **trained}


def _plain(value: object) -> object:
    """A value as JSON knows it; a number that is not finite becomes None."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
