"""The whole chain judged: lyrics -> t2s -> sm2a -> codec -> waveform -> what an independent recogniser hears.

Windows come from a token set of unseen rendered songs: their lyrics, accompaniment codes and voice are the request, their own tokens are
never shown to the models. As in `sing.py`, the chain sings several candidates, takes the one in which the aligner's recogniser hears the
fewest wrong phones (`chosen`), and sings its wrong words again; `one_try` is the first candidate. Beside the chain stand the codec alone (true
codes decoded) and sm2a alone (true semantic tokens, one try). `mismatched` compares what was sung with the lyrics of another song: what a chain without words would get.

`added` divides the chain's error up: what the judge mishears of the original vocals, and what codec, sm2a, t2s, choosing among candidates and
repair add to that, each with the interval of the difference on the same windows; `share` is of the whole. They sum to the chain's error. `notes_in_key`
(melody.py) and the original vocals need the songs that the token set was made of; `soundness` (soundness.py) looks at every candidate and at
what became of the chosen one.
"""

import io
import itertools
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import soundfile
import torch
from torch import Tensor

from autosing.errors import DataError
from autosing.evaluation import intervals, soundness
from autosing.evaluation.judge import Judge, added_error, phone_error_rate
from autosing.evaluation.melody import Note, fitting_scales, notes_of, share_in_key
from autosing.evaluation.separation import rendered_rows
from autosing.evaluation.voice import area_under_curve
from autosing.models.io import load_model
from autosing.models.pitch import PitchNet
from autosing.models.recogniser import SILENCE
from autosing.perception import load_aligner, load_codec, load_semantic, load_voice
from autosing.perception.codec.base import Codec
from autosing.singing.codes import check_settings, find_code_singer, sing_codes
from autosing.singing.generate import generate_semantic
from autosing.singing.repair import Version, repair
from autosing.singing.request import SingRequest
from autosing.singing.score import Listener
from autosing.song import audio
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Line, Lyrics
from autosing.tokens.specs import CodecSpec, Seconds, SemanticSpec
from autosing.tokens.text import load_text
from autosing.training.task import DatasetMeta

LEAST_PHONES = 20
STAGES = (("judge", "original"), ("codec", "codec"), ("sm2a", "sm2a"), ("t2s", "one_try"), ("choosing", "chosen"), ("repair", "chain"))
"""What adds to the phone error, and the take that it shows in, in order."""


def validation_rows(tokens: Path, count: int) -> tuple[list[dict[str, Any]], DatasetMeta]:
    """`count` validation windows of a token set that hold at least `LEAST_PHONES` sung phones.

    In order of songs; a song's second window comes after every song's first.

    Raises:
        DataError: no token set there.
    """
    try:
        values = json.loads((tokens / "dataset.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"no token set at '{tokens}'; make one with `python -m autosing.rendering tokens`") from error
    songs: dict[str, list[dict[str, Any]]] = {}
    for partition in values["partitions"]["validation"]:
        for row in pq.read_table(tokens / str(partition) / "main.parquet").to_pylist():
            if len(row["alignment"]["tokens"]) >= LEAST_PHONES:
                songs.setdefault(row["song"], []).append(row)
    turns = itertools.zip_longest(*songs.values())
    rows = [row for turn in turns for row in turn if row is not None][:count]
    return rows, DatasetMeta.from_json({**values, "rows": values["rows"]["train"]})


def of_another_song(songs: Sequence[str], index: int) -> int:
    """The next window, cyclically, that is of another song than window `index`."""
    turns = (number % len(songs) for number in range(index + 1, index + len(songs)))
    return next(number for number in turns if songs[number] != songs[index])


def halves(row: dict[str, Any], seconds: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The window's words, by the half in which they begin."""
    alignment = Alignment.from_struct(row["alignment"])
    first = tuple(w.text for w in alignment.words if w.start < seconds / 2)
    second = tuple(w.text for w in alignment.words if w.start >= seconds / 2)
    return (" ".join(first),) if first else (), (" ".join(second),) if second else ()


def chain_figures(
    tokens: Path,
    count: int = 40,
    t2s_model: str = "builtin",
    sm2a_model: str = "builtin",
    judge: Judge | None = None,
    seed: int = 0,
    temperature: float = 0.7,
    candidates: int = SingRequest.candidates,
    rounds: int | None = SingRequest.repair,
    keep: Path | None = None,
    songs: Path | None = None,
) -> dict[str, Any]:
    """Phone error of the chain and of its stages on `count` windows.

    Args:
        candidates: how many are sung of each window to choose from.
        rounds: in which wrong words are sung again; None = as many as are usual for the sm2a model.
        songs: the rendered songs of the token set; without them originals and keys are not known, and their figures are left out.
        keep: folder to write the first eight sung windows to, as wav.
    """
    judge = judge or Judge()
    rows, meta = validation_rows(tokens, count)
    if len({row["song"] for row in rows}) < 2:
        raise DataError(f"'{tokens}' has fewer than two validation songs with words; render more songs")
    assert meta.codec and meta.accompaniment_codec and meta.semantic and meta.voice
    t2s, _ = load_model(t2s_model, "t2s")
    sm2a, _ = load_model(*find_code_singer(sm2a_model))
    rounds = check_settings(sm2a, None, rounds)
    codec, voice_embedder = load_codec(meta.codec.name), load_voice(meta.voice.name)
    front_end, listener = load_text("phones"), Listener(load_aligner("builtin", adapt_steps=0))
    melody, known = Melody(), read_keyed(songs, {row["song"] for row in rows}) if songs else {}
    tokenizer = load_semantic(meta.semantic.name)
    read_out = getattr(tokenizer, "phones", None)  # of those that have one
    samples: list[soundness.Soundness] = []
    true_samples: list[soundness.Soundness] = []
    in_key: dict[str, list[float]] = {"codec": [], "one_try": [], "chosen": [], "chain": []}
    heard: dict[str, list[tuple[str, ...]]] = {"original": [], "codec": [], "sm2a": [], "one_try": [], "chosen": [], "chain": []}
    written: list[tuple[str, ...]] = []
    seconds = {"t2s": 0.0, "sm2a": 0.0, "decode": 0.0, "choose": 0.0, "repair": 0.0}
    voices: list[tuple[Tensor, Tensor, str]] = []
    with torch.inference_mode():
        for index, row in enumerate(rows):
            codes, band, semantic, voice = row_tensors(row, meta.codec, meta.accompaniment_codec, meta.semantic, meta.voice.width)
            text = halves(row, meta.window_seconds)
            generator = torch.Generator().manual_seed(seed * 100_003 + index)
            begin = time.perf_counter()
            sung, _ = generate_semantic(
                t2s, text, band, steps=semantic.shape[-1], temperature=temperature, generator=generator, batch=candidates
            )
            middle = time.perf_counter()
            made = sing_codes(sm2a, sung, band, voice, frames=codes.shape[-1], temperature=temperature, generator=generator)
            end = time.perf_counter()
            sung_waves = codec.decode(made)[:, 0]
            decoded = time.perf_counter()
            lyrics = Lyrics(tuple(Line(line) for half in text for line in half))
            rate = codec.spec.sample_rate
            heard_takes = [listener.take(one, rate, lyrics, front_end.pronounce) for one in sung_waves]
            best = min(range(candidates), key=lambda i: (heard_takes[i].score.badness, i))
            chosen = time.perf_counter()
            first = Version(made[best], sung_waves[best], heard_takes[best])
            version, _ = repair(
                first, rounds=rounds, spec=codec.spec, pronounce=front_end.pronounce,
                sing=partial(
                    _again, sm2a, sung[best].expand(candidates, -1), band, voice, frames=codes.shape[-1], temperature=temperature, generator=generator
                ),
                listen=partial(_listen, codec, listener, lyrics, front_end.pronounce),
            )  # fmt: skip
            wav = version.vocals
            seconds["t2s"] += middle - begin
            seconds["sm2a"] += end - middle
            seconds["decode"] += decoded - end
            seconds["choose"] += chosen - decoded
            seconds["repair"] += time.perf_counter() - chosen
            true_semantic = sing_codes(
                sm2a, semantic, band, voice, frames=codes.shape[-1], temperature=temperature, generator=generator
            )
            takes = {"codec": codec.decode(codes)[0, 0], "sm2a": codec.decode(true_semantic)[0, 0], "one_try": sung_waves[0]}
            takes |= {"chosen": first.vocals, "chain": wav}
            if song := known.get(row["song"]):
                takes["original"] = song.window(row["start"], meta.window_seconds, rate)
                for name, into in in_key.items():
                    share = share_in_key(melody.notes(takes[name], rate), song.scales)
                    into += [] if share is None else [share]  # a voice without notes is neither in a key nor out of it
            if read_out is not None:
                again = [] if version is first else [(sung[best : best + 1], wav[None], samples)]
                for some, waves, group in ((sung, sung_waves, samples), *again, (semantic, takes["codec"][None], true_samples)):
                    for one, vocals in zip(some.cpu(), waves, strict=True):
                        is_sung = (read_out(one).cpu().reshape(len(one), -1) != SILENCE).all(1)
                        group.append(soundness.examine(one, is_sung, meta.semantic.token_rate, vocals, rate, judge.phones(vocals)))
            for name, take in takes.items():
                heard[name].append(judge.phones(take))
            words = " ".join(line for half in text for line in half).split()
            written.append(tuple(p for word in words for p in front_end.pronounce(word)))
            voices.append((voice_embedder.embed(wav[None])[0], voice.mean(1)[0], row["artist"]))
            if keep is not None and index < 8:
                keep.mkdir(parents=True, exist_ok=True)
                for name, take in takes.items():
                    buffer = io.BytesIO()
                    soundfile.write(buffer, take.numpy(), codec.spec.sample_rate, format="WAV")
                    (keep / f"{index}_{name}.wav").write_bytes(buffer.getvalue())
    length = len(rows) * meta.window_seconds
    other = [written[of_another_song([row["song"] for row in rows], index)] for index in range(len(rows))]
    heard = {name: takes for name, takes in heard.items() if len(takes) == len(rows)}
    rates = {name: phone_error_rate(takes, written).figures() for name, takes in heard.items()}
    rates["mismatched"] = phone_error_rate(heard["chain"], other).figures()
    rates["mismatched_truth"] = phone_error_rate(written, other).figures()  # what singing and hearing without a fault would get
    return {
        "windows": len(rows),
        "songs": len({row["song"] for row in rows}),
        "singers": len({row["artist"] for row in rows}),
        "phones": sum(map(len, written)),
        "temperature": temperature,
        "candidates": candidates,
        "rounds": rounds,
        "seed": seed,
        "phone_error": rates,
        "added": added_by_stage(heard, written),
        "notes_in_key": {name: intervals.figure(shares) for name, shares in in_key.items() if shares},
        "soundness": soundness.summary(samples) if samples else {},
        "soundness_truth": soundness.summary(true_samples) if true_samples else {},
        "phones_heard_per_written": round(sum(map(len, heard["chain"])) / sum(map(len, written)), 3),
        "real_time_factor": {k: round(v / length, 4) for k, v in seconds.items()},
        **asked_voice_auc(voices),
    }


def _again(sm2a: Any, semantic: Tensor, band: Tensor, voice: Tensor, template: Tensor, **settings: Any) -> Tensor:
    return sing_codes(sm2a, semantic, band, voice, template=template, **settings)


def _listen(codec: Codec, listener: Listener, lyrics: Lyrics, pronounce: Callable[[str], Sequence[str]], codes: Tensor) -> Version:
    vocals = codec.decode(codes[None])[0, 0]
    return Version(codes, vocals, listener.take(vocals, codec.spec.sample_rate, lyrics, pronounce))


class Melody:
    """Hears the notes of a voice."""

    def __init__(self) -> None:
        self._net: PitchNet
        self._net, _ = load_model("builtin", PitchNet.kind)

    def notes(self, vocals: Tensor, rate: int) -> list[Note]:
        """Of (n,) `vocals` at `rate` Hz."""
        config = self._net.config
        f0_hz, voiced = self._net.track(audio.resample(vocals, rate, config.sample_rate))
        return notes_of(f0_hz.numpy(), voiced.numpy(), config.sample_rate / config.hop)


class KeyedSong(NamedTuple):
    """What a rendered song was before it became tokens: (n,) `vocals` at `sample_rate`, and the scales of its key."""

    vocals: Tensor
    sample_rate: int
    scales: list[frozenset[int]]

    def window(self, start: Seconds, seconds: Seconds, rate: int) -> Tensor:
        """(n,) at `rate` Hz, filled up with silence."""
        first, size = round(start * self.sample_rate), round(seconds * self.sample_rate)
        cut = self.vocals[first : first + size]
        return audio.resample(torch.nn.functional.pad(cut, (0, size - len(cut))), self.sample_rate, rate)


def read_keyed(songs: Path, wanted: set[str]) -> dict[str, KeyedSong]:
    """The songs called `wanted` of a rendered dataset, by their ids."""
    found: dict[str, KeyedSong] = {}
    for row in rendered_rows(songs, ("id", "vocals", "notes")):
        if row["id"] in wanted and row["notes"]:
            vocals = audio.decode(row["vocals"])
            notes = [Note(note["end"] - note["start"], round(note["midi"])) for note in row["notes"]]
            found[row["id"]] = KeyedSong(vocals.samples.mean(0), vocals.sample_rate, fitting_scales(notes))
    return found


def added_by_stage(heard: dict[str, list[tuple[str, ...]]], written: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """Stage -> the phone error that it adds to the take before, with its interval, and its share of the whole; see the module."""
    there = [(stage, take) for stage, take in STAGES if take in heard]
    whole = phone_error_rate(heard[there[-1][1]], written).value
    before: Sequence[Sequence[str]] = written  # nothing is wrong in it
    out = {}
    for stage, take in there:
        added = added_error(before, heard[take], written)
        out[stage] = {**added.figures(), "share": round(added.value / max(1e-9, whole), 3)}
        before = heard[take]
    return out


def row_tensors(
    row: dict[str, Any], codec: CodecSpec, band: CodecSpec, semantic: SemanticSpec, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A training row as (1, K, T) codes, (1, K, T) accompaniment codes, (1, N) semantic tokens and (1, W, D) voice."""
    codes = torch.tensor(row["atoks"], dtype=torch.int64).reshape(1, codec.levels, -1)
    band_codes = torch.tensor(row["mtoks"], dtype=torch.int64).reshape(1, band.levels, -1)
    return codes, band_codes, torch.tensor(row["stoks"])[None], torch.tensor(row["embs"]).reshape(1, -1, width)


def asked_voice_auc(voices: Sequence[tuple[Tensor, Tensor, str]]) -> dict[str, Any]:
    """How often the sung voice is nearer to the asked singer than to another one: AUC of (sung, asked) pairs against (sung, others).

    Returns: `asked_voice_auc`, and under "intervals" its interval over windows; nothing where all windows have one singer.
    """
    same = torch.tensor([float(sung @ torch.nn.functional.normalize(asked, dim=0)) for sung, asked, _ in voices])
    apart = torch.tensor([
        float(sung @ torch.nn.functional.normalize(asked, dim=0))
        for sung, _, singer in voices
        for _, asked, other in voices
        if singer != other
    ])  # fmt: skip
    if not len(apart):
        return {}
    each = [area_under_curve(one[None], apart) for one in same]  # their mean is the AUC of all
    return {
        "asked_voice_auc": round(area_under_curve(same, apart), 4),
        "intervals": {"asked_voice_auc": intervals.rounded(intervals.of_mean(each))},
    }
