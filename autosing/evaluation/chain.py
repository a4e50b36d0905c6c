"""The whole chain judged: lyrics -> t2s -> sm2a -> codec -> waveform -> what an independent recogniser hears.

Windows come from a token set of unseen rendered songs: their lyrics, accompaniment codes and voice are the request, their own tokens are
never shown to the models. As in `sing.py`, the chain sings several candidates, takes the one in which the aligner's recogniser hears the
fewest wrong phones (`chosen`), and sings its wrong words again; `one_try` is the first candidate. Beside the chain stand the codec alone (true
codes decoded) and sm2a alone (true semantic tokens, one try). `mismatched` compares what was sung with the lyrics of every
other song: what a chain without words would get.

`added` divides the chain's error up: what the judge mishears of the original vocals, and what codec, sm2a, t2s, choosing among candidates and
repair add to that, each with the interval of the difference on the same windows; `share` is of the whole. They sum to the chain's error. `notes_in_key`
(melody.py) and the original vocals need the songs that the token set was made of; `soundness` (soundness.py) looks at every candidate and at
what became of the chosen one; `real_time_factor` is the processor's time of each stage over the time that is sung.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
import torch
from torch import Tensor

from autosing.errors import DataError
from autosing.evaluation import intervals, soundness
from autosing.evaluation.judge import Judge, added_error, mismatched_rate, phone_error_rate
from autosing.evaluation.melody import Note, fitting_scales, notes_of, share_in_key
from autosing.evaluation.voice import area_under_curve
from autosing.evaluation.windows import Bench, Window, best_of, validation_rows
from autosing.models.io import load_model
from autosing.models.pitch import PitchNet
from autosing.models.recogniser import SILENCE
from autosing.perception import load_semantic, load_voice
from autosing.singing.request import SingRequest
from autosing.song import audio
from autosing.store import song_rows
from autosing.tokens.specs import Seconds

STAGES = (("judge", "original"), ("codec", "codec"), ("sm2a", "sm2a"), ("t2s", "one_try"), ("choosing", "chosen"), ("repair", "chain"))
"""What adds to the phone error, and the take that it shows in, in order."""
COSTS = ("t2s", "sm2a", "decode", "listen")
"""Stages of `windows.Bench` that a song goes through before repair."""


def chain_figures(
    tokens: Path,
    count: int,
    sm2a_model: str,
    seed: int,
    keep: Path | None = None,
    songs: Path | None = None,
) -> dict[str, Any]:
    """Phone error of the chain and of its stages on `count` windows, sung as `sing.py` sings unless told otherwise.

    Args:
        songs: the rendered songs of the token set; without them originals and keys are not known, and their figures are left out.
        keep: folder to write the first eight sung windows to, as wav.

    Raises:
        DataError: no token set, or one with windows of fewer than two songs.
    """
    judge, candidates = Judge(), SingRequest.candidates
    rows, meta = validation_rows(tokens, count)
    if len({row["song"] for row in rows}) < 2:
        raise DataError(f"'{tokens}' has fewer than two validation songs with words; render more songs")
    bench = Bench(sm2a_model, meta, SingRequest.repair)
    assert meta.semantic and meta.voice
    codec, voice_embedder = bench.codec, load_voice(meta.voice.name)
    melody, known = Melody(), read_keyed(songs, {row["song"] for row in rows}) if songs else {}
    tokenizer = load_semantic(meta.semantic.name)
    read_out = getattr(tokenizer, "phones", None)  # of those that have one
    samples: list[soundness.Soundness] = []
    true_samples: list[soundness.Soundness] = []
    in_key: dict[str, list[float]] = {"codec": [], "one_try": [], "chosen": [], "chain": []}
    heard: dict[str, list[tuple[str, ...]]] = {"original": [], "codec": [], "sm2a": [], "one_try": [], "chosen": [], "chain": []}
    written: list[tuple[str, ...]] = []
    seconds = dict.fromkeys((*COSTS, "repair"), 0.0)
    voices: list[tuple[Tensor, Tensor, str]] = []
    rate = codec.spec.sample_rate
    with torch.inference_mode():
        for index, row in enumerate(rows):
            window = Window(bench, row, seed * 100_003 + index)
            sung = window.melodies(candidates)
            tries = [window.listen(one) for one in window.sing(sung)]
            best = best_of(tries)
            first, cost = tries[best], bench.passes.taken()["seconds"]
            version = window.repaired(first, sung[best], candidates, bench.rounds)[-1]
            cost["repair"] = sum(bench.passes.taken()["seconds"].values())
            seconds = {name: total + cost.get(name, 0.0) for name, total in seconds.items()}
            wav = version.vocals
            true_codes, true_semantic = codec.decode(window.codes)[0, 0], codec.decode(window.sing(window.semantic))[0, 0]
            bench.passes.taken()
            takes = {"codec": true_codes, "sm2a": true_semantic, "one_try": tries[0].vocals, "chosen": first.vocals, "chain": wav}
            if song := known.get(row["song"]):
                takes["original"] = song.window(row["start"], meta.window_seconds, rate)
                for name, into in in_key.items():
                    share = share_in_key(melody.notes(takes[name], rate), song.scales)
                    into += [] if share is None else [share]  # a voice without notes is neither in a key nor out of it
            if read_out is not None:
                again = [] if version is first else [(sung[best : best + 1], [wav], samples)]
                sung_waves = [one.vocals for one in tries]
                for some, waves, group in ((sung, sung_waves, samples), *again, (window.semantic, [takes["codec"]], true_samples)):
                    for one, vocals in zip(some.cpu(), waves, strict=True):
                        is_sung = (read_out(one).cpu().reshape(len(one), -1) != SILENCE).all(1)
                        group.append(soundness.examine(one, is_sung, meta.semantic.token_rate, vocals, rate, judge.phones(vocals)))
            for name, take in takes.items():
                heard[name].append(judge.phones(take))
            written.append(window.written)
            voices.append((voice_embedder.embed(wav[None])[0], window.voice.mean(1)[0], row["artist"]))
            if keep is not None and index < 8:
                keep.mkdir(parents=True, exist_ok=True)
                for name, take in takes.items():
                    buffer = io.BytesIO()
                    soundfile.write(buffer, take.numpy(), codec.spec.sample_rate, format="WAV")
                    (keep / f"{index}_{name}.wav").write_bytes(buffer.getvalue())
    length = len(rows) * meta.window_seconds
    names = [row["song"] for row in rows]
    heard = {name: takes for name, takes in heard.items() if len(takes) == len(rows)}
    rates = {name: phone_error_rate(takes, written).figures() for name, takes in heard.items()}
    rates["mismatched"] = mismatched_rate(heard["chain"], written, names).figures()
    rates["mismatched_truth"] = mismatched_rate(written, written, names).figures()  # what singing and hearing without a fault would get
    return {
        "windows": len(rows),
        "songs": len({row["song"] for row in rows}),
        "singers": len({row["artist"] for row in rows}),
        "phones": sum(map(len, written)),
        "temperature": bench.temperature,
        "candidates": candidates,
        "rounds": bench.rounds,
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
    for row in song_rows(songs, ("id", "vocals", "notes")):
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
