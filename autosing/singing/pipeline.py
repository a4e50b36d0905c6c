"""From a `SingRequest` to a `Sung`: separate, condition, generate, decode, mix, find the words.

The models of the request are loaded by `Singer` once; `sing` may be called many times. Everything random comes from the request's
seed. What is longer than the windows the models know is sung window by window (windows.py) to a plan (plan.py); the best candidate of each goes
on. Letters: B candidates, C channels, n samples, K codec levels, T finest codec frames, N semantic tokens, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import autosing
from autosing.device import side_by_side
from autosing.errors import ConfigError, DataError
from autosing.models.io import load_model
from autosing.perception import load_aligner, load_codec, load_semantic, load_separator, load_voice
from autosing.perception.alignment.base import Aligner
from autosing.perception.codec.base import Codec
from autosing.registry import split_choice
from autosing.singing.cache import Cache
from autosing.singing.codes import check_settings, find_code_singer, sing_codes
from autosing.singing.desk import Desk, Listening, Stream
from autosing.singing.generate import generate_semantic
from autosing.singing.layout import lyrics_of, plan_of, seconds_to_hear
from autosing.singing.loading import dataset_of, identity, require_same_fits
from autosing.singing.mix import sounding
from autosing.singing.output import plain
from autosing.singing.plan import Plan
from autosing.singing.reading import Reader
from autosing.singing.reference import Hearing, Reference
from autosing.singing.repair import Version, repair
from autosing.singing.request import SHORTEST_SECONDS, Ears, SingRequest, Sung, halves
from autosing.singing.score import Listener, Take, phones_right, timing, word_score
from autosing.singing.seams import seam_figures
from autosing.singing.stages import Stages
from autosing.singing.windows import REST, Grid, SongText, Window, plan_windows
from autosing.singing.words import check_amount, need_of
from autosing.song import audio
from autosing.song.lyrics import Line, Lyrics
from autosing.tokens.specs import CodecSpec, Seconds, require_same
from autosing.tokens.text import LINE, TextFrontEnd, load_text

SPARSE_SHARE = 0.25  # of its time; a song of which less is sung comes with a note
STREAM_SECONDS: Seconds = 8.0  # of the first window when the audio is waited for

CodesOf = Callable[..., Tensor]
"""(which of the candidates, also several times, (1, K, T) template of given codes or None[, progress]) -> (rows, K, T) codes."""


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


@dataclass(frozen=True)
class Job:
    """A request with all that was read for it.

    Attributes:
        lyrics: what of them is sung.
        plan: when; None where the words are those of a recording.
        in_halves: one or two lines share one window, and are held to no other times.
        spoken: (n,) the recording whose words are sung, at the rate of the semantic tokenizer.
        reference: cut to the song.
        accompaniment: (1, K, T) codes of the band, or of silence.
        voice: (1, 1, D) the asked one; None = any.
        seconds, steps, frames: how long the song is: N and T of the vocals.
    """

    request: SingRequest
    lyrics: Lyrics
    plan: Plan | None
    in_halves: bool
    spoken: Tensor | None
    reference: Reference | None
    accompaniment: Tensor
    voice: Tensor | None
    seconds: Seconds
    steps: int
    frames: int


@dataclass(frozen=True)
class Result:
    """What was sung. `takes`: None of several windows; `windows`, `repairs`: figures for the report; `voice`: (1, 1, D) whom it was sung as."""

    song: Song
    takes: Takes | None
    windows: list[dict]
    repairs: list[dict]
    voice: Tensor | None


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
            "t2s": identity(t2s_model, "t2s", self.t2s_meta), "sm2a": {"kind": kind, **identity(place, kind, self.sm2a_meta)}
        }  # fmt: skip
        t2s, sm2a = dataset_of(t2s_model, "t2s", self.t2s_meta), dataset_of(sm2a_model, "sm2a", self.sm2a_meta)
        places = (f"the t2s model '{t2s_model}'", f"the sm2a model '{sm2a_model}'")
        require_same("semantic tokenizer", t2s.semantic, places[0], sm2a.semantic, places[1])
        require_same("accompaniment codec", t2s.accompaniment_codec, places[0], sm2a.accompaniment_codec, places[1])
        self.meta = sm2a
        assert sm2a.codec and sm2a.accompaniment_codec and sm2a.semantic and sm2a.voice
        self.window_seconds = t2s.window_seconds
        self.codec: Codec = load_codec(ears.trained("codec", sm2a.codec.name), self.device)
        same = sm2a.accompaniment_codec.name == sm2a.codec.name
        band_codec = self.codec if same else load_codec(sm2a.accompaniment_codec.name, self.device)
        self.aligner = _unbiased_aligner(ears.aligner, self.device)
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
        require_same_fits(self.t2s, self.sm2a, self.codec, self.hearing.band_codec, sm2a.semantic.name, places)

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
        clock = Stages(progress, () if rounds else ("repair",))
        generator = torch.Generator(self.device).manual_seed(request.seed)
        notes: list[str] = []
        job = self._read(request, notes.append, clock)
        desk = Desk(self.codec.spec.sample_rate, request, job.reference, job.seconds)
        stream = None if listening is None else Stream(desk, listening)
        if job.plan is None or job.in_halves:
            result = self._sing_at_once(job, generator, rounds, clock)
        else:
            result = self._sing_in_windows(job, generator, rounds, clock, stream)
        takes = result.takes or self._whole(result.song, stream, job.lyrics, clock)
        clock.end()

        order = takes.order
        vocals = takes.vocals[order[0]]
        if stream is not None and not stream.done:
            stream.feed(vocals, last=True)
        share = float(sounding(vocals).float().mean())
        if job.plan is not None and share < SPARSE_SHARE:
            notes.append(
                f"{share * job.seconds:.1f} of {job.seconds:g} s are sung; more lines fill them, --length shortens the song, --start-time passes over an "
                "introduction"
            )
        for figures in result.windows[1:]:
            figures["seam"] = seam_figures(vocals, self.codec.spec.sample_rate, figures["start"], self._embed)._asdict()
        mixes = [desk.mix(takes.vocals[i][None]) for i in order]
        best = mixes[0] if stream is None else stream.mixed
        report = {
            **self._told_of(job, result, takes),
            "voice": self.likeness(vocals, job.voice),
            "notes": plain(notes),
            "gains": plain(best.gains._asdict()),
            **self._told_of_machine(),
            "stage_seconds": clock.laps,
            "first_audio_seconds": None if stream is None else round(stream.first_at - clock.born, 3),
        }
        song = result.song
        tokens = {"semantic": song.semantic, "codes": song.codes, "track": torch.from_numpy(song.track), "band": job.accompaniment}
        tokens |= {} if result.voice is None else {"voice": result.voice}
        return Sung(
            best.mix, best.vocals, best.accompaniment, desk.rate, takes.heard[order[0]].words, tuple(s.mix for s in mixes[1:]), report,
            {name: tensor.cpu() for name, tensor in tokens.items()},
        )  # fmt: skip

    def _told_of(self, job: Job, result: Result, takes: Takes) -> dict:
        """What the report says of the song and of what was sung for it."""
        best = takes.order[0]
        heard = takes.heard[best].words
        return {
            "autosing": autosing.__version__,
            "torch": torch.__version__,
            "request": plain(asdict(job.request)),
            "seconds": job.seconds,
            "chosen": result.windows[-1]["chosen"] if result.windows else best,
            "word_scores": [plain(round(word_score(take.words), 4)) for take in takes.heard],  # None: no word could be found
            "phone_errors": [take.score.phone_error for take in takes.heard],
            "words": [plain(word) for word in heard.words],
            "phones_right": phones_right(takes.heard[best], self.pronounce),
            "repairs": result.repairs,
            "plan": [] if job.plan is None else [plain(line._asdict()) for line in job.plan.lines],
            "windows": result.windows,
            "timing": timing(heard, [line.start for line in job.plan.lines]) if job.plan is not None and not job.in_halves else None,
            "voice_from": _voice_source(job.request, job.reference),
        }

    def _told_of_machine(self) -> dict:
        """What the report says of the models, the ears and where they ran."""
        return {
            "cache": {"hits": self.hearing.cache.hits, "misses": self.hearing.cache.misses},
            "models": self.models,
            "language": self.language,
            "ears": plain(self.ears._asdict()),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "int8": self.int8,
        }

    # -- what is read before anything is sung ----------------------------------------------------------------------------------------

    @cached_property
    def front_end(self) -> TextFrontEnd:
        """How the t2s model reads text."""
        return load_text(self.t2s.config.text)

    def _read(self, request: SingRequest, tell: Callable[[str], None], clock: Stages) -> Job:
        """Read the lyrics, the reference and other recordings, and lay the plan. `tell`: as of `_voice`."""
        assert self.meta.codec and self.meta.semantic
        clock.begin("separate")
        lyrics, note = lyrics_of(request, self.front_end.pronounce)
        if note:
            tell(note)
        need = need_of(self.front_end.pronounce)
        reference = None
        if request.reference is not None:
            reference = self.hearing.read(request.reference, request.start_seconds, seconds_to_hear(request, lyrics, need))
        available = request.most_seconds if reference is None else reference.seconds
        if request.length_seconds is not None and available < request.length_seconds - 0.01:
            tell(f"--length {request.length_seconds:g}: the reference ends {available:.1f} s after --start-time, and the song with it")
        spoken = None if request.semantic_file is None else self._spoken(request.semantic_file, tell)
        if spoken is not None and request.length_seconds is None:
            available = min(available, spoken.shape[-1] / self.meta.semantic.sample_rate)
            if available < SHORTEST_SECONDS:
                raise DataError(f"--semfile: '{request.semantic_file}' lasts {available:.1f} s, less than the {SHORTEST_SECONDS:g} s that are sung at the least; "
                                "give a longer recording, or --length")  # fmt: skip
        one_window = self.window_seconds + 0.5
        in_halves = request.in_halves and available <= one_window and not request.stream and not self.t2s.config.pointer
        plan, seconds = None, available
        if spoken is None:
            plan = plan_of(request, lyrics, reference, available, need)
            check_amount([line.text for line in plan.lines], plan.seconds, self.front_end.pronounce)
            for note in plan.notes:
                tell(note)
            lyrics = Lyrics(tuple(Line(line.text) for line in plan.lines))  # without what lies outside the time that is sung
            seconds = plan.seconds
        elif seconds > one_window:
            raise ConfigError(f"--semfile: at most {self.window_seconds:g} s are sung after a recording, found --length {seconds:g}")
        if reference is not None:
            reference = reference.cut(seconds, self.hearing.band_codec.spec.frames(seconds))

        clock.begin("condition")
        accompaniment = self.hearing.silence(seconds) if request.tts or reference is None else reference.codes
        voice = self._voice(request, reference, tell)
        steps, frames = self.meta.semantic.tokens(seconds), self.meta.codec.frames(seconds)
        return Job(request, lyrics, plan, in_halves, spoken, reference, accompaniment, voice, seconds, steps, frames)

    # -- singing ---------------------------------------------------------------------------------------------------------------------

    def _sing_at_once(self, job: Job, generator: torch.Generator, rounds: int, clock: Stages) -> Result:
        """One window whose halves the lyrics share, by a t2s model that cannot be held to their times; or the words of a recording."""
        request = job.request
        clock.begin("t2s")
        if job.spoken is not None:
            semantic, track = self._semantic_of(job.spoken, job.steps).expand(request.candidates, -1), None
        else:
            semantic, track = generate_semantic(
                self.t2s, halves([line.text for line in job.lyrics.lines]), job.accompaniment, steps=job.steps, temperature=request.temperature,
                generator=generator, language=self.language, batch=request.candidates, reader=self.reader, progress=clock.within,
            )  # fmt: skip
        sing = self._code_singer(request.temperature, request.steps, semantic, job.accompaniment, job.voice, job.frames, generator)
        codes, takes, best, repairs = self._sing_codes(sing, None, job.lyrics, rounds, 0, clock)
        sung = np.full(job.steps, REST)
        if track is not None and track.pointer is not None:
            of_song = np.arange(len(track.ids)) - np.cumsum(track.ids == LINE)  # the song's text has no breaks
            sung = of_song[track.pointer[best].cpu().numpy()]
        return Result(Song(semantic[best], codes[best], sung), takes, [], repairs, job.voice)

    def _sing_in_windows(self, job: Job, generator: torch.Generator, rounds: int, clock: Stages, stream: Stream | None) -> Result:
        """To a plan, one window after the other, each going on with the best of the one before."""
        assert job.plan is not None and self.meta.codec and self.meta.semantic
        if not self.t2s.config.pointer:
            raise ConfigError("this t2s model has no pointer, so it sings one or two plain lines in one window alone; train one with 'pointer': true")
        request, voice = job.request, job.voice
        told, takes = [], None
        windows = plan_windows(job.plan.lines, 0, job.steps, self.grid, self.window_seconds, STREAM_SECONDS if request.stream else None)
        clock.parts = len(windows)
        text = SongText(self.front_end, job.plan.lines, self.meta.semantic.token_rate)
        song = Song.empty(self.meta.codec.levels, self.device)
        for window in windows:
            song, takes, figures = self.sing_window(
                text, window, song, job.accompaniment, voice, (job.steps, job.frames), generator, candidates=request.candidates,
                temperature=request.temperature, passes=request.steps, rounds=rounds, clock=clock,
            )  # fmt: skip
            told.append(figures)
            if stream is not None:
                stream.feed(self._decode(song), last=window is windows[-1])
            if voice is None and window is not windows[-1]:  # anyone may sing, but the same one to the end
                voice = self._voice_of(song)
        if len(windows) > 1:
            return Result(song, None, told, [], voice)
        return Result(song, takes, told, told[0]["repairs"], voice)

    def sing_window(
        self, text: SongText, window: Window, song: Song, accompaniment: Tensor, voice: Tensor | None, whole: tuple[int, int],
        generator: torch.Generator, *, candidates: int, temperature: float, passes: int | None = None, rounds: int = 0,
        clock: Stages | None = None,
    ) -> tuple[Song, Takes, dict]:  # fmt: skip
        """Go on with `song` to the end of `window` by the best of the candidates; also the candidates, and figures for the report.

        Args:
            accompaniment: (1, K, T) codes of the whole song's band.
            whole: semantic steps and codec frames of the whole song.
            passes: of a parallel sm2a model; None = as many as usual.
            rounds: in which the wrong words of the best candidate are sung again, in as many ways as there are candidates.
        """
        clock = clock or Stages(None)
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
        inside = [line for line in text.lines if window.start <= text.step((line.start + line.end) / 2) < window.end]
        words = Lyrics(tuple(Line(line.text) for line in inside))
        codes, takes, best, repairs = self._sing_codes(sing, template, words, rounds, fresh - first, clock)
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

    def _sing_codes(
        self, sing: CodesOf, template: Tensor | None, lyrics: Lyrics, rounds: int, first: int, clock: Stages
    ) -> tuple[Tensor, Takes, int, list[dict]]:
        """Sing and judge all candidates, and the wrong words of the best one from frame `first` on again.

        Returns:
            (B, K, T) codes, how they are heard, which is the best, and what became of its words.
        """
        clock.begin("sm2a")
        codes = sing(slice(None), template, clock.within)
        takes = self._judge(codes, lyrics, clock)
        best = takes.order[0]
        codes, takes, repairs = self._repair(codes, takes, rounds, first, lyrics, sing, clock)
        return codes, takes, best, repairs

    def _repair(
        self, codes: Tensor, takes: Takes, rounds: int, first: int, lyrics: Lyrics, sing: CodesOf, clock: Stages
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

    def _judge(self, codes: Tensor, lyrics: Lyrics, clock: Stages) -> Takes:
        """Decode (B, K, T) and listen to every candidate."""
        clock.begin("decode")
        vocals = torch.cat(side_by_side(lambda one: self.codec.decode(one[None])[0], list(codes), self.device, clock.within)).cpu()
        clock.begin("align")
        return Takes(vocals, side_by_side(lambda one: self._listen(one, lyrics), list(vocals), self.device, clock.within))

    def _whole(self, song: Song, stream: Stream | None, lyrics: Lyrics, clock: Stages) -> Takes:
        """A song of several windows, or what was given out of it, as the only take."""
        clock.begin("decode")
        vocals = self._decode(song) if stream is None else stream.vocals
        clock.begin("align")
        return Takes(vocals[None], [self._listen(vocals, lyrics)])

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

    # -- the voice -------------------------------------------------------------------------------------------------------------------

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
            if request.speaker_alpha < 1:
                lacks = "no --spkfile is given" if asked is None else "nobody is heard singing in what is sung over"
                tell(f"--spk-alpha {request.speaker_alpha:g} blends nothing: {lacks}")
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


def _unbiased_aligner(choice: str, device: torch.device) -> Aligner:
    """Ears that got used to the words would find them in anything; these judge what was sung."""
    name, options = split_choice(choice)
    fixed = {"adapt_steps": 0} if name == "builtin" and "adapt_steps" not in options else {}
    return load_aligner(choice, device, **fixed)


def _voice_source(request: SingRequest, reference: Reference | None) -> str:
    own = reference is not None and reference.has_voice
    if request.speaker_files and not (own and request.speaker_alpha == 0):
        return "speaker files" if not own or request.speaker_alpha == 1 else "speaker files and reference"
    if request.reference is not None and (own or not request.any_voice):
        return "reference" if own else "another part of the reference"
    return "any (the reference has no voice to copy)"
