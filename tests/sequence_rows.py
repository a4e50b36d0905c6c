"""Rows of a training set made of numbers with a rule, for tests of the sequence models: no audio, no tokenizer.

A phone decides the semantic token sung with it, the semantic token decides the voice's codes, and the accompaniment's melody decides
the voice's level 1, so that a model that listens to its conditions can learn every row.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from autosing.song.alignment import ALIGNMENT_TYPE, Alignment, Token, Word
from autosing.tokens.specs import CodecSpec, SemanticSpec, VoiceSpec
from autosing.tokens.text import PHONES
from autosing.training.task import DatasetMeta

Model = TypeVar("Model", bound=torch.nn.Module)

CODEC = CodecSpec("toy", 24000, 288, (8, 4, 2, 1), 64, 32)
BAND = CodecSpec("toy_band", 24000, 288, (8, 4, 2, 1), 48, 32)
SEMANTIC = SemanticSpec("toy", 16000, 25, 96, 16)
VOICE = VoiceSpec("toy", 16000, 24)


def toy_meta(seconds: float = 30.0, codec: CodecSpec = CODEC, band: CodecSpec | None = BAND) -> DatasetMeta:
    return DatasetMeta("tokens", codec, band, SEMANTIC, VOICE, seconds, 4, "toy")


def toy_codes(spec: CodecSpec, base: np.ndarray) -> np.ndarray:
    """(K, T) codes that follow a (T,) number, holes off stride."""
    codes = np.full((spec.levels, len(base)), spec.HOLE)
    for level, stride in enumerate(spec.strides):
        codes[level, ::stride] = (base[::stride] * (level + 3) + level) % spec.num_codes
    return codes


def toy_row(seed: int, seconds: float = 30.0, codec: CodecSpec = CODEC, band: CodecSpec = BAND, trust: float | None = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    frames, steps = codec.frames(seconds), SEMANTIC.tokens(seconds)
    words: list[Word] = []
    tokens: list[Token] = []
    sung = np.zeros(steps, dtype=np.int64)
    now = 0.4
    while now < seconds - 1.0:
        begin = now
        for _ in range(rng.integers(2, 5)):
            phone, length = int(rng.integers(len(PHONES))), float(rng.uniform(0.08, 0.3))
            tokens.append(Token(PHONES[phone], now, now + length, 1.0, len(words)))
            sung[int(now * 25 + 0.5) :] = 2 * phone + 4
            now += length
        words.append(Word(f"w{len(words)}", begin, now, 1.0, len(words) // 4))
        if rng.random() < 0.3:
            sung[int(now * 25 + 0.5) :] = 0
            now += float(rng.uniform(0.3, 0.9))
    sung[int(now * 25 + 0.5) :] = 0
    seconds_at = np.arange(frames) / codec.frame_rate
    of_frame = sung[np.minimum((seconds_at * SEMANTIC.token_rate).astype(int), steps - 1)]
    melody = np.repeat(rng.integers(0, 40, frames // 64 + 1), 64)[:frames]
    voice_codes = toy_codes(codec, of_frame)
    if codec.levels > 1:
        stride = codec.strides[1]
        voice_codes[1, ::stride] = melody[::stride]
    band_frames = band.frames(seconds)
    voices = rng.normal(size=(int(-(-seconds // 10)), VOICE.width)).astype(np.float32)
    voices /= np.linalg.norm(voices, axis=1, keepdims=True)
    return {
        "id": f"toy{seed}_at_0",
        "song": f"toy{seed}",
        "start": 0.0,
        "stoks": sung.tolist(),
        "atoks": voice_codes.reshape(-1).tolist(),
        "mtoks": toy_codes(band, np.resize(melody, band_frames)).reshape(-1).tolist(),
        "embs": voices.reshape(-1).tolist(),
        "alignment": Alignment(tuple(words), tuple(tokens), trust).to_struct(),
        "trust": trust,
    }


def wake(model: Model) -> Model:
    """Random weights everywhere, since queries start at zero and hide mistakes; in eval mode."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def write_token_set(folder: Path, rows: int = 14, seconds: float = 4.0, semantic: SemanticSpec = SEMANTIC, **changed: Any) -> Path:
    """`toy_row`s as construct_dataset leaves them, three rows a partition, the last partition for validation; `changed` goes to dataset.json."""
    schema = pa.schema([(name, pa.string()) for name in ("id", "song")] + [("start", pa.float32())])
    for name, kind in (("stoks", pa.int16()), ("atoks", pa.int16()), ("mtoks", pa.int16()), ("embs", pa.float32())):
        schema = schema.append(pa.field(name, pa.list_(kind)))
    schema = schema.append(pa.field("alignment", ALIGNMENT_TYPE))
    numbers = list(range(-(-rows // 3)))
    for number in numbers:
        (folder / str(number)).mkdir(parents=True)
        part = [toy_row(row, seconds) for row in range(3 * number, min(3 * number + 3, rows))]
        pq.write_table(pa.Table.from_pylist(part, schema), folder / str(number) / "main.parquet")
    specs = {"codec": CODEC, "accompaniment_codec": BAND, "semantic": semantic, "voice": VOICE}
    values = {
        "format": "autosing-dataset/1",
        "kind": "tokens",
        "parts": ["main"],
        "partitions": {"train": numbers[:-1], "validation": numbers[-1:]},
        **{name: asdict(spec) for name, spec in specs.items()},
        "window_seconds": seconds,
        "source_hash": "toy",
        **changed,
    }
    (folder / "dataset.json").write_text(json.dumps(values))
    return folder
