"""From a `SingRequest` to a `Sung`: separate, condition, generate, decode, mix, find the words.

The models of the request are loaded by `Singer` once; `sing` may be called many times. Everything random comes from the request's
seed. What is longer than the windows the models know is sung window by window (windows.py) to a plan (plan.py); the best candidate of each goes
on. Letters: B candidates, C channels, n samples, K codec levels, T finest codec frames, N semantic tokens, D width.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import autosing
from autosing.device import side_by_side
from autosing.errors import ConfigError, DataError, MismatchError
from autosing.models.io import load_model, resolve, weights_file
from autosing.nn.embeddings import code_features, same_fit
from autosing.perception import load_aligner, load_codec, load_semantic, load_separator, load_voice
from autosing.perception.codec.base import Codec
from autosing.registry import split_choice
from autosing.singing.cache import Cache
from autosing.singing.codes import check_settings, find_code_singer, sing_codes
from autosing.singing.generate import generate_semantic
from autosing.singing.layout import lyrics_of, plan_of, seconds_to_hear
from autosing.singing.mix import AUDIBLE, Gains, Mixed, Seam, active_level, choose_gains, fade_edges, mix_with, sounding
from autosing.singing.output import readable
from autosing.singing.reading import Reader
from autosing.singing.reference import Hearing, Reference
from autosing.singing.repair import Version, repair
from autosing.singing.request import SHORTEST_SECONDS, Ears, SingRequest, Sung, halves
from autosing.singing.score import Listener, Take, phones_right, timing, word_score
from autosing.singing.seams import seam_figures
from autosing.singing.windows import REST, Grid, SongText, Window, plan_windows
from autosing.singing.words import check_amount, need_of
from autosing.song import audio
from autosing.song.lyrics import Line, Lyrics
from autosing.store import sha256_of
from autosing.tokens.specs import CodecSpec, Seconds, require_same
from autosing.tokens.text import LINE, TextFrontEnd, load_text
from autosing.training.task import DatasetMeta

FADE_SECONDS: Seconds = 0.01
SPARSE_SHARE = 0.25  # of its time; a song of which less is sung comes with a note
STREAM_SECONDS: Seconds = 8.0  # of the first window when the audio is waited for
SETTLED_SECONDS: Seconds = 3.0  # of a voice from which its level is known
STREAM_MARGIN: Seconds = 0.6  # the end of what was decoded may still change with what follows
SHARES = {"separate": 0.1, "condition": 0.02, "t2s": 0.37, "sm2a": 0.05, "decode": 0.06, "align": 0.04, "repair": 0.36}
"""The stages of singing in order, each with about the share of the time that it takes; they sum to 1."""
ONCE = ("separate", "condition")
"""Stages that a song goes through once; the others come again with every window."""

CodesOf = Callable[..., Tensor]
"""(which of the candidates, also several times, (1, K, T) template of given codes or None[, progress]) -> (rows, K, T) codes."""

Listening = Callable[[Tensor, int], None]
"""Is given the mix (C, n) as it grows, piece after piece, and its rate."""


@dataclass
class Song:
    """What has been sung so far: (N,) `semantic`, (K, T) `codes`, (N,) `track` of text tokens (numpy)."""

    semantic: Tensor
    codes: Tensor
    track: np.ndarray

    @staticmethod
    def empty(levels: int, device: torch.device) -> "Song":
        nothing = torch.zeros(0, dtype=torch.long, device=device)
        return Song(nothing, nothing.new_zeros(levels, 0), np.zeros(0, dtype=np.int64))

    def join(self, semantic: Tensor, codes: Tensor, track: np.ndarray) -> "Song":
        return Song(torch.cat([self.semantic, semantic]), torch.cat([self.codes, codes], 1), np.concatenate([self.track, track]))


@dataclass(frozen=True)
class Takes:
    """The candidates of the only window: (B, n) `vocals` at the codec's rate, and how each is heard."""

    vocals: Tensor
    heard: list[Take]

    @property
    def order(self) -> list[int]:
        """The candidates, best first."""
        return sorted(range(len(self.heard)), key=lambda i: (self.heard[i].score.badness, i))


class Singer:
    """Both models and every ear they need, on one device."""

    def __init__(
        self,
        t2s_model: str = "builtin",
        sm2a_model: str = "builtin",
        device: torch.device | str = "cpu",
        ears: Ears | None = None,
        cache: Path | None = None,
        int8: bool = False,
        language: str | None = None,
    ):
        """
        Args:
            t2s_model, sm2a_model: checkpoints.
            ears: backends; None = the embedded ones, and those the models were trained on.
            cache: folder that keeps what the embedded backends hear in recordings; None = nothing is kept.
            int8: the decoders take their steps in int8: faster on a CPU, and other songs than without.
            language: of those that the t2s model knows, the one to sing in; None = its first.

        Raises:
            WeightsError: a checkpoint is missing or damaged.
            ConfigError: `ears` names another codec, tokenizer or voice embedder than the models were trained on; `int8` on another processor; the
                t2s model does not know the language.
            MismatchError: the two models were trained with different tokenizers; both are named.
        """
        self.device = torch.device(device)
        self.ears = ears = ears or Ears()
        self.t2s, self.t2s_meta = load_model(t2s_model, "t2s", self.device)
        languages = self.t2s.config.languages
        if language is not None and language not in languages:
            raise ConfigError(f"--language: the t2s model '{t2s_model}' does not know '{language}'; it knows {', '.join(languages)}")
        self.language = languages[0] if language is None else language
        place, kind = find_code_singer(sm2a_model)
        self.sm2a, self.sm2a_meta = load_model(place, kind, self.device)
        self.int8 = int8
        if int8:
            self.t2s.use_int8()
            self.sm2a.use_int8()
        self.models = {  # what of them a report names
            "t2s": _identity(t2s_model, "t2s", self.t2s_meta), "sm2a": {"kind": kind, **_identity(place, kind, self.sm2a_meta)}
        }  # fmt: skip
        t2s, sm2a = (_dataset(name, kind, meta) for name, kind, meta in (
            (t2s_model, "t2s", self.t2s_meta), (sm2a_model, "sm2a", self.sm2a_meta)))  # fmt: skip
        places = (f"the t2s model '{t2s_model}'", f"the sm2a model '{sm2a_model}'")
        require_same("semantic tokenizer", t2s.semantic, places[0], sm2a.semantic, places[1])
        require_same("accompaniment codec", t2s.accompaniment_codec, places[0], sm2a.accompaniment_codec, places[1])
        self.meta = sm2a
        assert sm2a.codec and sm2a.accompaniment_codec and sm2a.semantic and sm2a.voice
        self.window_seconds = t2s.window_seconds
        self.codec: Codec = load_codec(ears.trained("codec", sm2a.codec.name), self.device)
        same = sm2a.accompaniment_codec.name == sm2a.codec.name
        band_codec = self.codec if same else load_codec(sm2a.accompaniment_codec.name, self.device)
        name, options = split_choice(ears.aligner)  # ears that got used to the words would find them in anything; these judge what was sung
        fixed = {"adapt_steps": 0} if name == "builtin" and "adapt_steps" not in options else {}
        self.aligner = load_aligner(ears.aligner, self.device, **fixed)
        voice = ears.trained("voice", sm2a.voice.name)
        self.semantic = ears.trained("semantic", sm2a.semantic.name)
        self.reader = Reader.of(self.t2s, self.semantic)
        choices = (ears.separator, ears.aligner, voice, sm2a.accompaniment_codec.name)
        kept = all(name.startswith("builtin") and "weights" not in options for name, options in map(split_choice, choices))
        self.hearing = Hearing(
            load_separator(ears.separator, self.device), self.aligner, load_voice(voice, self.device), band_codec,
            self.codec.spec.sample_rate, Cache(cache if kept else None), self.device, choices,
        )  # fmt: skip
        self.listener = Listener(self.aligner, self.device)
        self.grid = Grid.of(sm2a.semantic, sm2a.codec, sm2a.accompaniment_codec)
        require_same("codec", sm2a.codec, places[1], self.codec.spec, "this installation")
        require_same("voice embedding", sm2a.voice, places[1], self.hearing.voice.spec, "this installation")
        if not same_fit(self.t2s.semantic.codebook, self.sm2a.semantic.codebook):
            raise MismatchError(f"{places[0]} and {places[1]} know different fits of semantic tokenizer '{sm2a.semantic.name}'; train both on one dataset")
        for geometry, codec in ((self.sm2a.geometry, self.codec), (self.sm2a.music_geometry, self.hearing.band_codec)):
            if geometry is None:
                continue
            books = codec.codebooks()
            if not all(same_fit(geometry.features(level).cpu(), code_features(book)) for level, book in enumerate(books)):
                raise MismatchError(
                    f"{places[1]} was trained with another fit of codec '{codec.spec.name}' than this installation has; train it on a dataset "
                    "that this installation tokenised"
                )

    def sing(self, request: SingRequest, progress: Callable[[float, str], None] | None = None, listening: Listening | None = None) -> Sung:
        """Sing the request.

        Args:
            request: what to sing.
            progress: told how much is done, from 0 to 1, and the name of the stage at work.
            listening: given the mix piece by piece while the rest is sung; the pieces together are `Sung.mix`.

        Raises:
            AudioError, DataError: the reference or another recording cannot be used.
            ConfigError: the lyrics cannot be sung, or the sm2a model has no such setting.
        """
        rounds = check_settings(self.sm2a, request.steps, request.repair)
        clock = _Stages(progress, () if rounds else ("repair",))
        generator = torch.Generator(self.device).manual_seed(request.seed)
        assert self.meta.codec and self.meta.semantic
        clock.begin("separate")
        lyrics, note = lyrics_of(request, self.front_end.pronounce)
        notes = [note] if note else []
        need = need_of(self.front_end.pronounce)
        reference = None
        if request.reference is not None:
            reference = self.hearing.read(request.reference, request.start_seconds, seconds_to_hear(request, lyrics, need))
        available = request.most_seconds if reference is None else reference.seconds
        if request.length_seconds is not None and available < request.length_seconds - 0.01:
            notes.append(f"--length {request.length_seconds:g}: the reference ends {available:.1f} s after --start-time, and the song with it")
        spoken = None if request.semantic_file is None else self._spoken(request.semantic_file, notes.append)
        if spoken is not None and request.length_seconds is None:
            available = min(available, spoken.shape[-1] / self.meta.semantic.sample_rate)
            if available < SHORTEST_SECONDS:
                raise DataError(f"--semfile: '{request.semantic_file}' lasts {available:.1f} s, less than the {SHORTEST_SECONDS:g} s that are sung at the least; "
                                "give a longer recording, or --length")  # fmt: skip
        in_halves = request.in_halves and available <= self.window_seconds + 0.5 and not request.stream and not self.t2s.config.pointer
        plan = None
        if request.semantic_file is None:
            plan = plan_of(request, lyrics, reference, available, need)
            check_amount([line.text for line in plan.lines], plan.seconds, self.front_end.pronounce)
            notes += plan.notes
            lyrics = Lyrics(tuple(Line(line.text) for line in plan.lines))  # without what lies outside the time that is sung
        length = available if plan is None else plan.seconds
        if request.semantic_file is not None and length > self.window_seconds + 0.5:
            raise ConfigError(f"--semfile: at most {self.window_seconds:g} s are sung after a recording, found --length {length:g}")
        steps, frames = self.meta.semantic.tokens(length), self.meta.codec.frames(length)
        if reference is not None:
            reference = reference.cut(length, self.hearing.band_codec.spec.frames(length))

        clock.begin("condition")
        accompaniment = self.hearing.silence(length) if request.tts or reference is None else reference.codes
        voice = singer = self._voice(request, reference, notes.append)
        stream = None if listening is None else _Stream(self, request, reference, listening, length)
        takes: Takes | None = None
        told: list[dict] = []
        repairs: list[dict] = []

        if in_halves or request.semantic_file is not None:
            song, takes, repairs = self._sing_at_once(request, lyrics, spoken, accompaniment, voice, steps, frames, generator, rounds, clock)
        else:
            assert plan is not None
            if not self.t2s.config.pointer:
                raise ConfigError("this t2s model has no pointer, so it sings one or two plain lines in one window alone; train one with 'pointer': true")
            longest = self.window_seconds
            windows = plan_windows(plan.lines, 0, steps, self.grid, longest, STREAM_SECONDS if request.stream else None)
            clock.parts = len(windows)
            text = SongText(self.front_end, plan.lines, self.meta.semantic.token_rate)
            song = Song.empty(self.meta.codec.levels, self.device)
            for window in windows:
                song, takes, figures = self.sing_window(
                    text, window, song, accompaniment, singer, (steps, frames), generator, candidates=request.candidates,
                    temperature=request.temperature, passes=request.steps, rounds=rounds, clock=clock,
                )  # fmt: skip
                told.append(figures)
                if stream is not None:
                    stream.feed(self._decode(song), last=window is windows[-1])
                if singer is None and window is not windows[-1]:  # anyone may sing, but the same one to the end
                    singer = self._voice_of(song)
            if len(windows) > 1:
                takes = None
            else:
                repairs = told[0]["repairs"]
        if takes is None:
            clock.begin("decode")
            vocals = stream.vocals[None] if stream is not None else self._decode(song)[None]
            clock.begin("align")
            takes = Takes(vocals, [self._listen(vocals[0], lyrics)])
        clock.end()
        order = takes.order
        chosen = order[0]
        heard = takes.heard[chosen].words
        if stream is not None and not stream.done:
            stream.feed(takes.vocals[chosen], last=True)
        rate = self.codec.spec.sample_rate
        share = float(sounding(takes.vocals[chosen]).float().mean())
        if plan is not None and share < SPARSE_SHARE:
            notes.append(
                f"{share * length:.1f} of {length:g} s are sung; more lines fill them, --length shortens the song, --start-time passes over an introduction"
            )
        for figures in told[1:]:
            figures["seam"] = seam_figures(takes.vocals[chosen], rate, figures["start"], self._embed)._asdict()
        mixes = [self._mix(takes.vocals[i][None], reference, request, length) for i in order]
        if stream is not None:
            mixes[0] = stream.mixed
        best = mixes[0]
        report = {
            "autosing": autosing.__version__,
            "torch": torch.__version__,
            "request": _plain(asdict(request)),
            "seconds": length,
            "chosen": chosen if not told else told[-1]["chosen"],
            "word_scores": [_plain(round(word_score(take.words), 4)) for take in takes.heard],  # None: no word could be found
            "phone_errors": [take.score.phone_error for take in takes.heard],
            "words": [_plain(word) for word in heard.words],
            "phones_right": phones_right(takes.heard[chosen], self.pronounce),
            "repairs": repairs,
            "plan": [] if plan is None else [_plain(line._asdict()) for line in plan.lines],
            "windows": told,
            "timing": timing(heard, [line.start for line in plan.lines]) if plan is not None and not in_halves else None,
            "voice_from": _voice_source(request, reference),
            "voice": self.likeness(takes.vocals[chosen], voice),
            "notes": _plain(notes),
            "gains": _plain(best.gains._asdict()),
            "cache": {"hits": self.hearing.cache.hits, "misses": self.hearing.cache.misses},
            "models": self.models,
            "language": self.language,
            "ears": _plain(self.ears._asdict()),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "int8": self.int8,
            "stage_seconds": clock.laps,
            "first_audio_seconds": None if stream is None else round(stream.first_at - clock.born, 3),
        }
        tokens = {"semantic": song.semantic, "codes": song.codes, "track": torch.from_numpy(song.track), "band": accompaniment}
        tokens |= {} if singer is None else {"voice": singer}
        return Sung(
            best.mix, best.vocals, best.accompaniment, self._rate(reference), heard, tuple(s.mix for s in mixes[1:]), report,
            {name: tensor.cpu() for name, tensor in tokens.items()},
        )  # fmt: skip

    # -- what is sung when -----------------------------------------------------------------------------------------------------------

    @cached_property
    def front_end(self) -> TextFrontEnd:
        """How the t2s model reads text."""
        return load_text(self.t2s.config.text)

    # -- singing ---------------------------------------------------------------------------------------------------------------------

    def _sing_at_once(self, request, lyrics, spoken, accompaniment, voice, steps, frames, generator, rounds, clock) -> tuple[Song, Takes, list[dict]]:
        """One window whose halves the lyrics share, by a t2s model that cannot be held to their times; or the words of a recording."""
        clock.begin("t2s")
        if spoken is not None:
            semantic, track = self._semantic_of(spoken, steps).expand(request.candidates, -1), None
        else:
            semantic, track = generate_semantic(
                self.t2s, halves([line.text for line in lyrics.lines]), accompaniment, steps=steps, temperature=request.temperature,
                generator=generator, language=self.language, batch=request.candidates, reader=self.reader, progress=clock.within,
            )  # fmt: skip
        sing = self._code_singer(request.temperature, request.steps, semantic, accompaniment, voice, frames, generator)
        codes = self._codes(sing, None, clock)
        takes = self._judge(codes, lyrics, clock)
        best = takes.order[0]
        codes, takes, repairs = self._repair(codes, takes, rounds, 0, lyrics, sing, clock)
        sung = np.full(steps, REST)
        if track is not None and track.pointer is not None:
            of_song = np.arange(len(track.ids)) - np.cumsum(track.ids == LINE)  # the song's text has no breaks
            sung = of_song[track.pointer[best].cpu().numpy()]
        return Song(semantic[best], codes[best], sung), takes, repairs

    def sing_window(
        self, text: SongText, window: Window, song: Song, accompaniment: Tensor, voice: Tensor | None, whole: tuple[int, int],
        generator: torch.Generator, *, candidates: int, temperature: float, passes: int | None = None, rounds: int = 0,
        clock: "_Stages | None" = None,
    ) -> tuple[Song, Takes, dict]:  # fmt: skip
        """Go on with `song` to the end of `window` by the best of the candidates; also the candidates, and figures for the report.

        Args:
            accompaniment: (1, K, T) codes of the whole song's band.
            whole: semantic steps and codec frames of the whole song.
            passes: of a parallel sm2a model; None = as many as usual.
            rounds: in which the wrong words of the best candidate are sung again, in as many ways as there are candidates.
        """
        clock = clock or _Stages(None)
        assert self.meta.codec and self.meta.semantic and self.meta.accompaniment_codec
        rate = self.meta.semantic.token_rate

        def at(spec: CodecSpec, step: int) -> int:
            return whole[1] if step == whole[0] and spec is self.meta.codec else spec.frames(step / rate)

        first, fresh, last = (at(self.meta.codec, step) for step in window)
        band = accompaniment[..., at(self.meta.accompaniment_codec, window.start) : at(self.meta.accompaniment_codec, window.end)]
        told = text.window(window, song.track)
        clock.begin("t2s")
        semantic, track = generate_semantic(
            self.t2s, told.text, band, steps=window.end - window.start, temperature=temperature, generator=generator,
            language=self.language, batch=candidates, prompt=song.semantic[None, window.start : window.fresh], prompt_pointer=told.known,
            schedule=told.schedule, reader=self.reader, progress=clock.within,
        )  # fmt: skip
        template = None
        if fresh > first:
            template = torch.full((1, self.meta.codec.levels, last - first), CodecSpec.HOLE, dtype=torch.long, device=self.device)
            template[0, :, : fresh - first] = song.codes[:, first:fresh]
        sing = self._code_singer(temperature, passes, semantic, band, voice, last - first, generator)
        codes = self._codes(sing, template, clock)
        inside = [line for line in text.lines if window.start <= text.step((line.start + line.end) / 2) < window.end]
        words = Lyrics(tuple(Line(line.text) for line in inside))
        takes = self._judge(codes, words, clock)
        best = takes.order[0]
        codes, takes, repairs = self._repair(codes, takes, rounds, fresh - first, words, sing, clock)
        assert track.pointer is not None
        new = window.fresh - window.start
        song = song.join(
            semantic[best, new:], codes[best, :, fresh - first :], told.of_song[track.pointer[best, new:].cpu().numpy()]
        )
        figures = {
            "start": window.fresh / rate, "end": window.end / rate, "chosen": best,
            "phone_errors": [take.score.phone_error for take in takes.heard], "repairs": repairs,
        }  # fmt: skip
        return song, takes, figures

    def _code_singer(self, temperature, passes, semantic, band, voice, frames, generator) -> CodesOf:
        """Sings (B, N) `semantic`, or some of its rows, as codes."""

        def sing(rows: slice | list[int], template: Tensor | None, progress: Callable[[int, int], None] | None = None) -> Tensor:
            return sing_codes(
                self.sm2a, semantic[rows], band, voice, frames=frames, steps=passes, temperature=temperature, generator=generator,
                template=template, progress=progress,
            )  # fmt: skip

        return sing

    def _codes(self, sing: CodesOf, template: Tensor | None, clock: "_Stages") -> Tensor:
        clock.begin("sm2a")
        return sing(slice(None), template, clock.within)

    def _repair(
        self, codes: Tensor, takes: Takes, rounds: int, first: int, lyrics: Lyrics, sing: CodesOf, clock: "_Stages"
    ) -> tuple[Tensor, Takes, list[dict]]:
        """(B, K, T) `codes` and their `takes`, the best with its wrong words from frame `first` on sung again, and what became of them."""
        if not rounds:
            return codes, takes, []
        clock.begin("repair")
        best = takes.order[0]

        def hear(one: Tensor) -> Version:
            vocals = self.codec.decode(one[None])[0, 0].cpu()
            return Version(one, vocals, self._listen(vocals, lyrics))

        def listen(several: Tensor) -> list[Version]:
            return side_by_side(hear, list(several), self.device)

        version, told = repair(
            Version(codes[best], takes.vocals[best], takes.heard[best]), rounds=rounds, spec=self.codec.spec, first=first,
            sing=lambda template: sing([best] * len(codes), template), listen=listen, pronounce=self.pronounce,
        )  # fmt: skip
        codes, vocals, heard = codes.clone(), takes.vocals.clone(), list(takes.heard)
        codes[best], vocals[best], heard[best] = version
        return codes, Takes(vocals, heard), told

    def _judge(self, codes: Tensor, lyrics: Lyrics, clock: "_Stages") -> Takes:
        """Decode (B, K, T) and listen to every candidate."""
        clock.begin("decode")
        vocals = torch.cat(side_by_side(lambda one: self.codec.decode(one[None])[0], list(codes), self.device, clock.within)).cpu()
        clock.begin("align")
        return Takes(vocals, side_by_side(lambda one: self._listen(one, lyrics), list(vocals), self.device, clock.within))

    def _listen(self, vocals: Tensor, lyrics: Lyrics) -> Take:
        return self.listener.take(vocals, self.codec.spec.sample_rate, lyrics, self.pronounce)

    @property
    def pronounce(self) -> Callable[[str], Sequence[str]]:
        """Word -> its phones, whatever the t2s model reads."""
        return (self.front_end if self.front_end.name == "phones" else load_text("phones")).pronounce

    def _decode(self, song: Song) -> Tensor:
        """(n,) vocals at the codec's rate."""
        return self.codec.decode(song.codes[None])[0, 0].cpu()

    def _spoken(self, path: Path, tell: Callable[[str], None] = lambda _: None) -> Tensor:
        """(n,) the voice in a recording, at the rate of the semantic tokenizer: a window of it, and a little more. `tell`: as of `_voice`."""
        assert self.meta.semantic is not None
        vocals, rate, is_sung = self.hearing.vocals_of(path, self.window_seconds + 2.0)
        if not is_sung:
            tell(f"--semfile: nobody is heard singing in the first {vocals.shape[-1] / rate:.1f} s of '{path}'; what is sung follows whatever sounds there")
        return audio.resample(audio.mono(vocals), rate, self.meta.semantic.sample_rate)

    def _semantic_of(self, wav: Tensor, steps: int) -> Tensor:
        """(n,) of `_spoken` -> (1, N) semantic tokens, as many as are sung."""
        tokenizer = load_semantic(self.semantic, self.device)
        n = steps * tokenizer.spec.sample_rate // tokenizer.spec.token_rate
        wav = torch.nn.functional.pad(wav, (0, max(0, n - wav.shape[-1])))[:n]
        return tokenizer.encode(wav[None].to(self.device))[:, :steps]

    # -- voice and mix ---------------------------------------------------------------------------------------------------------------

    def _voice(self, request: SingRequest, reference: Reference | None, tell: Callable[[str], None] = lambda _: None) -> Tensor | None:
        """(1, 1, D) the asked voice; None = any voice. `tell`: is told what a person should know about it.

        Raises:
            DataError: there is none, and nobody said that any will do.
        """
        own = None if reference is None else reference.voice
        asked = self.hearing.singers(request.speaker_files, tell) if request.speaker_files else None
        if own is not None and asked is not None:
            blend = request.speaker_alpha * asked + (1 - request.speaker_alpha) * own
        else:
            blend = asked if asked is not None else own
        if blend is None and request.reference is not None and not request.any_voice:
            blend = self.hearing.voice_in(request.reference)  # in another part of the song
            if blend is None:
                raise DataError(
                    f"nobody sings in '{request.reference}', so there is no voice to copy; name a singer's recording with --spkfile FILE, or give "
                    "--spkfile any"
                )
        return None if blend is None else torch.nn.functional.normalize(blend, dim=0).to(self.device)[None, None]

    def _voice_of(self, song: Song) -> Tensor | None:
        """(1, 1, D) who sang so far; None where less than 2 s of it sound."""
        vocals = self._decode(song)
        heard = vocals[sounding(vocals)]
        return self._embed(heard).to(self.device)[None, None] if len(heard) >= 2 * self.codec.spec.sample_rate else None

    def likeness(self, vocals: Tensor, voice: Tensor | None) -> dict:
        """How like the asked voice (n,) vocals are: cosine of the embeddings, of the whole and of every 10 s, pauses left out.

        A window is None where less than 2 s of it sound.
        """
        if voice is None or not float(vocals.abs().max()) > 0:
            return {"similarity": None, "windows": []}
        rate = self.codec.spec.sample_rate
        asked, loud = voice[0, 0].cpu(), sounding(vocals)
        alike = lambda wav: round(float(self._embed(wav) @ asked), 4)  # noqa: E731
        windows = [wav[heard] for wav, heard in zip(vocals.split(10 * rate), loud.split(10 * rate), strict=True)]
        return {"similarity": alike(vocals[loud]), "windows": [alike(wav) if len(wav) >= 2 * rate else None for wav in windows]}

    def _embed(self, vocals: Tensor) -> Tensor:
        """(n,) vocals at the codec's rate -> (D,) whose voice it is."""
        return self.hearing.embed(vocals[None], self.codec.spec.sample_rate).cpu()

    def _rate(self, reference: Reference | None) -> int:
        return self.codec.spec.sample_rate if reference is None else reference.rate

    def _tracks(self, vocals: Tensor, reference: Reference | None, request: SingRequest, seconds: Seconds = 0.0) -> tuple[Tensor, Tensor, float]:
        """(1, n) vocals at the codec's rate -> vocals and band (C, n) at the rate of the mix, `seconds` long where the vocals' last whole frame ends
        before; and the level wanted of the vocals."""
        rate = self._rate(reference)
        vocals = audio.resample(vocals, self.codec.spec.sample_rate, rate)
        if (missing := round(seconds * rate) - vocals.shape[-1]) > 0:
            vocals = torch.nn.functional.pad(fade_edges(vocals, int(FADE_SECONDS * rate), start=False), (0, missing))
        n = vocals.shape[-1]
        if request.tts or reference is None:
            return vocals, torch.zeros(1, n), 0.0
        band = torch.nn.functional.pad(reference.band, (0, max(0, n - reference.band.shape[-1])))[:, :n]
        return vocals, band, active_level(reference.vocals) if reference.has_voice else 0.0

    def _mix(self, vocals: Tensor, reference: Reference | None, request: SingRequest, seconds: Seconds) -> Mixed:
        vocals, band, level = self._tracks(vocals, reference, request, seconds)
        rate = self._rate(reference)
        edge = int(FADE_SECONDS * rate)
        vocals, band = fade_edges(vocals, edge), fade_edges(band, edge)
        return mix_with(vocals, band, choose_gains(vocals, band, rate, level, request.music_volume), rate)


class _Stream:
    """The mix as it grows: the band's level is settled with the first piece, the voice's once enough of it is heard, and what was given out stays."""

    def __init__(self, singer: Singer, request: SingRequest, reference: Reference | None, listening: Listening, seconds: Seconds):
        """`seconds`: how long the song will be."""
        self._singer, self._request, self._reference, self._listening, self._seconds = singer, request, reference, listening, seconds
        self._seam = Seam(singer.codec.spec.sample_rate)
        self._gains: Gains | None = None
        self._is_settled = False
        self._given = 0  # samples of the mix
        self._pieces: list[Mixed] = []
        self.first_at = 0.0
        self.done = False

    @property
    def vocals(self) -> Tensor:
        """(n,) at the codec's rate, as given out."""
        return self._seam.whole

    @property
    def mixed(self) -> Mixed:
        """All that was given out."""
        mix, vocals, band = (torch.cat(parts, 1) for parts in zip(*((p.mix, p.vocals, p.accompaniment) for p in self._pieces), strict=True))
        return Mixed(mix, vocals, band, self._pieces[-1].gains)

    def feed(self, decoded: Tensor, last: bool) -> None:
        """(n,) all vocals so far, whose end may still change unless they are the `last`."""
        singer = self._singer
        self._seam.grow(decoded, 0 if last else int(STREAM_MARGIN * singer.codec.spec.sample_rate))
        vocals, band, level = singer._tracks(self._seam.whole[None], self._reference, self._request, self._seconds if last else 0.0)
        rate = singer._rate(self._reference)
        edge = int(FADE_SECONDS * rate)
        before = self._gains
        if not self._is_settled:
            whole = band if self._reference is None or self._request.tts else self._reference.band
            self._gains = choose_gains(vocals, whole, rate, level, self._request.music_volume, apart=True)
            self._is_settled = active_level(vocals) > AUDIBLE and float(sounding(vocals[0]).sum()) >= SETTLED_SECONDS * rate
        assert self._gains is not None
        if before is not None and before != self._gains:
            turned = torch.ones(vocals.shape[-1])
            turned[self._given : self._given + edge] = torch.linspace(before.vocals / self._gains.vocals, 1, edge)[: len(turned) - self._given]
            vocals = vocals * turned
        end = vocals.shape[-1] if last else max(self._given, vocals.shape[-1] - rate // 50)  # what resampling, and peaks that are held, may still change
        if last:
            vocals, band = fade_edges(vocals, edge, start=False), fade_edges(band, edge, start=False)
        begin = max(0, self._given - rate // 50)  # peaks before it may be held into the piece
        vocals, band = fade_edges(vocals, edge, end=False)[:, begin:], fade_edges(band, edge, end=False)[:, begin:]
        mixed = mix_with(vocals, band, self._gains, rate)
        piece = slice(self._given - begin, end - begin)
        mixed = Mixed(mixed.mix[:, piece], mixed.vocals[:, piece], mixed.accompaniment[:, piece], mixed.gains)
        self._given, self.done = end, last
        self._pieces.append(mixed)
        if not self.first_at:
            self.first_at = time.perf_counter()
        self._listening(mixed.mix, rate)


class _Stages:
    """Times the stages of `SHARES`, begun in that order, and tells how far the whole is; `parts`: how often those not in `ONCE` come."""

    def __init__(self, progress: Callable[[float, str], None] | None, without: Sequence[str] = ()) -> None:
        """`without`: stages that do not come."""
        self.laps: dict[str, float] = {}
        self._shares = {name: share for name, share in SHARES.items() if name not in without}
        self.parts = 1
        self.born = time.perf_counter()
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

    def _share(self) -> float:
        return self._shares.get(self._name, 0.0) / sum(self._shares.values()) / (1 if self._name in ONCE else self.parts)

    def within(self, done: int, total: int) -> None:
        """`done` of `total` of the stage at work."""
        if self._progress is not None:
            self._progress(min(1.0, self._before + self._share() * done / total), self._name)

    def end(self) -> None:
        self.laps[self._name] = round(self.laps.get(self._name, 0.0) + time.perf_counter() - self._begun, 3)
        self.within(1, 1)
        self._before += self._share()
        self._name = ""


def _voice_source(request: SingRequest, reference: Reference | None) -> str:
    own = reference is not None and reference.has_voice
    if request.speaker_files:
        return "speaker files" if not own or request.speaker_alpha == 1 else "speaker files and reference"
    if request.reference is not None and (own or not request.any_voice):
        return "reference" if own else "another part of the reference"
    return "any (the reference has no voice to copy)"


def _dataset(name: str, kind: str, meta: dict) -> DatasetMeta:
    """What a checkpoint says of the data it was trained on.

    Raises:
        MismatchError: it says nothing, as one that `train.py` did not write.
    """
    if "dataset" not in meta:
        raise MismatchError(f"the {kind} model '{name}' does not say which tokens it was trained with; give a checkpoint written by train.py")
    return DatasetMeta.from_json(meta["dataset"])


def _identity(name: str | Path, kind: str, meta: dict) -> dict:
    """Which model this is: the hash of its weights, and what it says about its training."""
    trained = {k: meta[k] for k in ("steps", "seed", "source_hash") if k in meta}
    return {"sha256": sha256_of(weights_file(resolve(name, kind))), **trained}


def _plain(value: object) -> object:
    """A value as JSON in UTF-8 knows it; a number that is not finite becomes None."""
    if isinstance(value, str | Path):
        return readable(str(value))
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
