"""The whole chain judged: lyrics -> t2s -> sm2a -> codec -> waveform -> what an independent recogniser hears.

Windows come from a token set of unseen rendered songs: their lyrics, accompaniment codes and voice are the request, their own tokens are
never shown to the models. As in `sing.py`, the chain sings several candidates and takes the one in which the aligner's recogniser hears the
fewest wrong phones; `one_try` is the first candidate. Beside the chain stands what each stage adds: the codec alone (true codes decoded) and sm2a alone (true semantic
tokens, one try). `mismatched` compares what was sung with the lyrics of another song: what a chain without words would get.
"""

import io
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import soundfile
import torch
from torch import Tensor

from autosing.errors import DataError
from autosing.evaluation.judge import Judge, phone_error_rate
from autosing.evaluation.voice import area_under_curve
from autosing.models.io import load_model
from autosing.perception import load_aligner, load_codec, load_voice
from autosing.singing.codes import find_code_singer, sing_codes
from autosing.singing.generate import generate_semantic
from autosing.singing.request import SingRequest
from autosing.singing.score import Listener
from autosing.song.alignment import Alignment
from autosing.song.lyrics import Line, Lyrics
from autosing.tokens.specs import CodecSpec, SemanticSpec
from autosing.tokens.text import load_text
from autosing.training.task import DatasetMeta

LEAST_PHONES = 20


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
    keep: Path | None = None,
) -> dict[str, Any]:
    """Phone error of the chain and of its stages on `count` windows.

    Args:
        candidates: how many are sung of each window to choose from.
        keep: folder to write the first eight sung windows to, as wav.
    """
    judge = judge or Judge()
    rows, meta = validation_rows(tokens, count)
    if len({row["song"] for row in rows}) < 2:
        raise DataError(f"'{tokens}' has fewer than two validation songs with words; render more songs")
    assert meta.codec and meta.accompaniment_codec and meta.semantic and meta.voice
    t2s, _ = load_model(t2s_model, "t2s")
    sm2a, _ = load_model(*find_code_singer(sm2a_model))
    codec, voice_embedder = load_codec(meta.codec.name), load_voice(meta.voice.name)
    front_end, listener = load_text("phones"), Listener(load_aligner("builtin", adapt_steps=0))
    heard: dict[str, list[tuple[str, ...]]] = {"codec": [], "sm2a": [], "one_try": [], "chain": []}
    written: list[tuple[str, ...]] = []
    seconds = {"t2s": 0.0, "sm2a": 0.0, "decode": 0.0, "choose": 0.0}
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
            scores = [listener.take(one, rate, lyrics, front_end.pronounce).score for one in sung_waves]
            wav = sung_waves[min(range(candidates), key=lambda i: (scores[i].badness, i))]
            seconds["t2s"] += middle - begin
            seconds["sm2a"] += end - middle
            seconds["decode"] += decoded - end
            seconds["choose"] += time.perf_counter() - decoded
            true_semantic = sing_codes(
                sm2a, semantic, band, voice, frames=codes.shape[-1], temperature=temperature, generator=generator
            )
            takes = {"codec": codec.decode(codes)[0, 0], "sm2a": codec.decode(true_semantic)[0, 0], "one_try": sung_waves[0], "chain": wav}
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
        "seed": seed,
        "phone_error": rates,
        "phones_heard_per_written": round(sum(map(len, heard["chain"])) / sum(map(len, written)), 3),
        "real_time_factor": {k: round(v / length, 4) for k, v in seconds.items()},
        "asked_voice_auc": asked_voice_auc(voices),
    }


def row_tensors(
    row: dict[str, Any], codec: CodecSpec, band: CodecSpec, semantic: SemanticSpec, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A training row as (1, K, T) codes, (1, K, T) accompaniment codes, (1, N) semantic tokens and (1, W, D) voice."""
    codes = torch.tensor(row["atoks"], dtype=torch.int64).reshape(1, codec.levels, -1)
    band_codes = torch.tensor(row["mtoks"], dtype=torch.int64).reshape(1, band.levels, -1)
    return codes, band_codes, torch.tensor(row["stoks"])[None], torch.tensor(row["embs"]).reshape(1, -1, width)


def asked_voice_auc(voices: Sequence[tuple[Tensor, Tensor, str]]) -> float | None:
    """How often the sung voice is nearer to the asked singer than to another one: AUC of (sung, asked) pairs against (sung, others)."""
    same = [float(sung @ torch.nn.functional.normalize(asked, dim=0)) for sung, asked, _ in voices]
    apart = [
        float(sung @ torch.nn.functional.normalize(asked, dim=0))
        for sung, _, singer in voices
        for _, asked, other in voices
        if singer != other
    ]
    if not apart:
        return None
    return round(area_under_curve(torch.tensor(same), torch.tensor(apart)), 4)
