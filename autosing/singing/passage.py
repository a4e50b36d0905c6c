"""One passage of a finished song sung again: every sample outside it stays as it is in the files.

The song's folder holds all that is needed (request.json, song.safetensors, the stems): the passage is sung to what was sung before it, decoded
with the whole song, and faded in and out within its own borders. What comes after it is neither heard nor changed.
Letters: C channels, n samples, K codec levels, T finest codec frames, N semantic tokens.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from autosing.errors import AudioError, ConfigError, DataError, MismatchError
from autosing.singing.codes import check_settings
from autosing.singing.mix import PEAK, Gains, held
from autosing.singing.output import readable, settle
from autosing.singing.pipeline import Singer, Song
from autosing.singing.plan import LyricLine, PlacedLine, place_evenly, place_stamped
from autosing.singing.request import Sung
from autosing.singing.score import Take, phones_right, word_score
from autosing.singing.windows import REST, SongText, plan_windows
from autosing.singing.words import check_amount, need_of, openings, read_singable
from autosing.song import audio
from autosing.song.alignment import Alignment, Word
from autosing.song.lyrics import Line, Lyrics
from autosing.tokens.specs import Seconds

LEAST_SECONDS: Seconds = 0.5
FADE_SECONDS: Seconds = 0.03
OF_THE_EARLIER = ("chosen", "phone_errors", "repairs", "timing")
"""What a report tells of the song as a whole when it was sung, and would have to be heard anew."""
_INSIDE_STEP = 0.25 / 32768  # a 16-bit sample i is read as i / 32768 and is what is written of values from there up to the next: a bit above is safe


@dataclass(frozen=True)
class Earlier:
    """A song as its folder holds it. `wavs`: mix, vocals and accompaniment (C, n) such that writing them gives the same samples."""

    folder: Path
    report: dict[str, Any]
    tokens: dict[str, Tensor]
    wavs: dict[str, Tensor]
    rate: int

    @staticmethod
    def read(folder: Path) -> "Earlier":
        """
        Raises:
            DataError: the folder holds no song, or not all of it.
        """
        wavs, rate = {}, 0
        try:
            settle(folder)
            report = json.loads((folder / "request.json").read_text(encoding="utf-8"))
            tokens = load_file(folder / "song.safetensors")
            for name in ("mix", "vocals", "accompaniment"):
                samples, rate = audio.decode((folder / f"{name}.wav").read_bytes())
                wavs[name] = samples + _INSIDE_STEP
            if missing := {"plan", "models", "gains", "words", "seconds"} - set(report):
                raise KeyError(f"request.json has no {min(missing)}")  # an earlier version wrote it
        except FileNotFoundError as error:
            raise DataError(f"--replace: no song in '{folder}' ({error.filename or error} is missing); sing one there first") from error
        except (OSError, ValueError, KeyError, SafetensorError, AudioError) as error:
            raise DataError(f"--replace: the song in '{folder}' cannot be read ({error}); sing it again") from error
        return Earlier(folder, report, tokens, wavs, rate)

    @property
    def models(self) -> tuple[str, str]:
        """The names of the t2s and sm2a models that sang it."""
        request = self.report["request"]
        return request["t2s_model"], request["sm2a_model"]

    def check(self, begin: Seconds, end: Seconds) -> None:
        """
        Raises:
            ConfigError: no such passage.
        """
        seconds = self.report["seconds"]
        if not (begin >= 0 and end - begin >= LEAST_SECONDS and end <= seconds + 1e-6):
            raise ConfigError(f"--replace: {begin:g}-{end:g} is no passage of {LEAST_SECONDS:g} s or more in this song of {seconds:.2f} s")

    @property
    def plan(self) -> list[PlacedLine]:
        lines = [PlacedLine(**line) for line in self.report["plan"]]
        return [line._replace(word_starts=None if line.word_starts is None else tuple(line.word_starts)) for line in lines]

    @property
    def words(self) -> list[Word]:
        return [Word(*word) for word in self.report["words"]]


def replace_passage(
    singer: Singer, earlier: Earlier, begin: Seconds, end: Seconds, text: str, *, candidates: int, temperature: float, seed: int,
    strict: bool, repair: int | None = None, passes: int | None = None,
) -> Sung:  # fmt: skip
    """Sing `text` from `begin` to `end` of the song, lines after each other or where their stamps (in the song's time) say.

    Args:
        repair: see `SingRequest.repair`.
        passes: of a parallel sm2a model; None = as many as sang the song.

    Raises:
        ConfigError: the lyrics cannot be sung there, or the sm2a model has no passes, or cannot sing words again in `repair` rounds.
        MismatchError: other models than those that sang the song.
    """
    for kind, model in singer.models.items():
        if model["sha256"] != earlier.report["models"][kind]["sha256"]:
            raise MismatchError(f"--replace: the {kind} model is not the one that sang '{earlier.folder}'; give that one back its place")
    passes = earlier.report["request"].get("steps") if passes is None else passes
    rounds = check_settings(singer.sm2a, passes, repair)
    semantic_spec, codec_spec = singer.meta.semantic, singer.meta.codec
    assert semantic_spec and codec_spec
    lyrics, new_lines, notes = _placed(singer, text.replace("\\n", "\n"), begin, end, strict)
    old = earlier.plan
    before = [line._replace(end=min(line.end, begin)) for line in old if line.start < begin]
    after = [line for line in old if line.start >= end]
    rate = semantic_spec.token_rate
    song_text = SongText(singer.front_end, [*before, *new_lines], rate)

    tokens = {name: tensor.to(singer.device) for name, tensor in earlier.tokens.items()}
    steps, frames = len(tokens["semantic"]), tokens["codes"].shape[1]
    first, last = int(begin * rate), min(steps, -int(-end * rate // 1))
    first_frame, last_frame = codec_spec.frames(first / rate), min(frames, codec_spec.frames(last / rate) + codec_spec.grain)
    track = earlier.tokens["track"].numpy()
    track[:first] = np.minimum(track[:first], song_text.firsts[len(before)] - 1)  # a line may have begun before its time
    song = Song(tokens["semantic"][:first], tokens["codes"][:, :first_frame], track[:first])
    told = []
    generator = torch.Generator(singer.device).manual_seed(seed)
    sung_to = min(steps, singer.grid.ceil(last / rate))
    for window in plan_windows(song_text.lines, first, sung_to, singer.grid, singer.window_seconds):
        song, _, figures = singer.sing_window(
            song_text, window, song, tokens["band"], tokens.get("voice"), (steps, frames), generator, candidates=candidates,
            temperature=temperature, passes=passes, rounds=rounds,
        )  # fmt: skip
        told.append(figures)
    semantic = torch.cat([song.semantic[:last], tokens["semantic"][last:]])
    codes = torch.cat([song.codes[:, :last_frame], tokens["codes"][:, last_frame:]], 1)
    plan = [*before, *new_lines, *after]
    moved = _moved(track[last:], SongText(singer.front_end, old, rate), SongText(singer.front_end, plan, rate), len(before) + len(new_lines), after, old)

    vocals = singer.codec.decode(codes[None])[0, 0].cpu()
    wavs = _spliced(earlier, vocals, codec_spec.sample_rate, begin, end)
    at = lambda seconds: int(seconds * codec_spec.sample_rate)  # noqa: E731
    heard = singer.listener.take(vocals[at(begin) : at(end)], codec_spec.sample_rate, lyrics, singer.pronounce)
    words, right = _words(earlier, heard, phones_right(heard, singer.pronounce), begin, end)
    alignment = Alignment(tuple(words))
    asked = tokens.get("voice") if earlier.report.get("voice", {}).get("similarity") is not None else None  # else the singer was not asked for
    report = {
        **{name: value for name, value in earlier.report.items() if name not in OF_THE_EARLIER},
        "plan": [line._asdict() for line in plan],
        "words": [list(word) for word in words],
        "phones_right": right,
        "word_scores": [round(word_score(alignment), 4) if words else None],
        "windows": [window for window in earlier.report.get("windows", ()) if window["end"] <= begin or window["start"] >= end],
        "voice": singer.likeness(vocals, asked),
        "notes": [readable(note) for note in notes],
        "replaced": [*earlier.report.get("replaced", ()), {"from": begin, "to": end, "lyrics": readable(text), "seed": seed, "temperature": temperature,
                                                           "candidates": candidates, "steps": passes, "repair": rounds, "windows": told}],
    }  # fmt: skip
    kept = {"semantic": semantic, "codes": codes, "track": torch.from_numpy(np.concatenate([song.track[:last], moved]))}
    return Sung(
        wavs["mix"], wavs["vocals"], wavs["accompaniment"], earlier.rate, alignment, (), report,
        {name: tensor.cpu() for name, tensor in {**tokens, **kept}.items()},
    )  # fmt: skip


def _placed(singer: Singer, text: str, begin: Seconds, end: Seconds, strict: bool) -> tuple[Lyrics, list[PlacedLine], list[str]]:
    """The lyrics of the passage, their lines in the time of the song, and notes."""
    lyrics, note = read_singable(text, singer.front_end.pronounce)
    if not lyrics.lines or (note and strict):
        raise ConfigError(f"--lyrics: {note or 'no word to sing between the times of --replace'}")
    need = need_of(singer.front_end.pronounce)
    check_amount([line.text for line in lyrics.lines], end - begin, singer.front_end.pronounce, "a longer passage")
    if lyrics.stamped:
        plan = place_stamped(lyrics, begin, end - begin, need, "or another passage")
        lines = [_later(line, begin) for line in plan.lines]
        return Lyrics(tuple(Line(line.text) for line in lines)), lines, [*plan.notes, *([note] if note else [])]
    opens = openings(text)
    plain = [LyricLine(line.text, line.section, i > 0 and i < len(opens) and opens[i]) for i, line in enumerate(lyrics.lines)]
    breath = min(0.2, (end - begin) / 10)
    return lyrics, list(place_evenly(plain, begin + breath, end - breath, need)), [note] if note else []


def _later(line: PlacedLine, by: Seconds) -> PlacedLine:
    starts = None if line.word_starts is None else tuple(None if t is None else t + by for t in line.word_starts)
    return line._replace(start=line.start + by, end=line.end + by, word_starts=starts)


def _moved(track: np.ndarray, old: SongText, new: SongText, first_after: int, after: list[PlacedLine], lines: list[PlacedLine]) -> np.ndarray:
    """Tokens of the old text as those of the new, in which the last lines, `after`, begin with line `first_after`; of other lines: the one before them."""
    shift = int(new.firsts[first_after]) - int(old.firsts[len(lines) - len(after)])
    return np.where(track >= old.firsts[len(lines) - len(after)], track + shift, int(new.firsts[first_after]) - 1 if first_after else REST)


def _spliced(earlier: Earlier, vocals: Tensor, vocals_rate: int, begin: Seconds, end: Seconds) -> Mapping[str, Tensor]:
    """The stems and the mix with the passage of (n,) `vocals` in place of theirs."""
    rate, gains = earlier.rate, Gains(**earlier.report["gains"])
    wavs = {name: wav.clone() for name, wav in earlier.wavs.items()}
    first, last = -int(-begin * rate // 1), min(int(end * rate), wavs["mix"].shape[1])
    new = audio.resample(vocals[None], vocals_rate, rate)
    new = held(torch.nn.functional.pad(new, (0, max(0, last - new.shape[1])))[:, first:last] * gains.vocals, gains.ceiling, rate)
    fade = min(int(FADE_SECONDS * rate), (last - first) // 2)
    share = torch.ones(last - first)
    share[:fade] = torch.linspace(0, 1, fade)
    share[-fade:] = share[-fade:] * torch.linspace(1, 0, fade)
    passage = slice(first, last)
    band = wavs["accompaniment"][:, passage]
    sung = share * new + (1 - share) * wavs["vocals"][:, passage]
    wavs["vocals"][:, passage] = torch.minimum(torch.maximum(sung, -PEAK - band.clamp(max=0)), PEAK - band.clamp(min=0))
    wavs["mix"][:, passage] = wavs["vocals"][:, passage] + band
    return wavs


def _words(earlier: Earlier, heard: Take, right: list[float], begin: Seconds, end: Seconds) -> tuple[list[Word], list[float | None]]:
    """The old words outside the passage and those heard in it, lines counted anew; and how many of each one's phones are `right`."""
    before = earlier.report.get("phones_right", [None] * len(earlier.words))  # a song of an earlier version has none
    kept = [(0, word, share) for word, share in zip(earlier.words, before, strict=True) if not begin <= (word.start + word.end) / 2 < end]
    new = [(1, word._replace(start=word.start + begin, end=word.end + begin), share) for word, share in zip(heard.words.words, right, strict=True)]
    numbers: dict[tuple[int, int, bool], int] = {}
    words, shares = [], []
    for source, word, share in sorted([*kept, *new], key=lambda item: item[1].start):
        line = numbers.setdefault((source, word.line, word.start >= end), len(numbers))  # what is left of a cut line is two
        words.append(word._replace(line=line))
        shares.append(share)
    return words, shares
