"""Decoding by our t2s and sm2a with random weights: a step sings the whole window, encoders and all, as `sing.py` does.

Settings: as in `our_step` (`task`, `args`, `codec`, `music`, `semantic`, `text`), `batch` (candidates of one request, which share the encoded source),
`guidance` (one more decoder row a candidate; 1 = none), `int8`. In fp32 it also tells the bytes that a step reads at the middle of the window, which
bound its speed, and the memory's bandwidth.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from autosing.singing.generate import generate_semantic
from autosing.singing.stepwise import generate_codes
from autosing.tokens.text import LINE, TimedText
from benchmarks.our_step import make
from benchmarks.turns import serve


def build(settings: dict[str, Any]) -> Any:
    device, batch, guidance = settings["device"], settings["batch"], settings["guidance"]
    _task, model, rows = make({**settings, "batch": 1})
    model.to(device).eval()
    if settings.get("int8"):
        model.use_int8()
    music = rows["music"].to(device) if settings["music"] else None
    generator = torch.Generator(device).manual_seed(0)
    if settings["task"] == "t2s":
        ids = rows["text"][0, 1:].clamp(min=LINE + 1).numpy()  # one line, whose LINE is put in front
        text, steps = TimedText(ids, *np.full((2, len(ids)), np.nan)), settings["semantic"]
        sing = lambda: generate_semantic(model, text, music, steps=steps, generator=generator, batch=batch, guidance=guidance)  # noqa: E731
        tokens, live = batch * steps, 1.0
    else:
        frames = rows["codes"].shape[-1]
        semantic, voice = rows["semantic"].to(device).expand(batch, -1), rows["voice"].to(device)
        sing = lambda: generate_codes(  # noqa: E731
            model, semantic, music, voice, frames=frames, generator=generator, semantic_guidance=guidance
        )
        codes, steps = int((rows["codes"] >= 0).sum()), model.pattern(model.config.patterns[0]).steps(frames)
        tokens, live = batch * codes, codes / steps
    about = {"torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters()), "tokens": tokens, "steps": steps}
    if not settings.get("int8"):
        about |= {"bytes_a_step": bytes_a_step(model, steps, batch * (1 + (guidance != 1.0)), settings, live), "bandwidth": bandwidth(device)}
    return sing, about


def bytes_a_step(model: Any, steps: int, rows: int, settings: dict[str, Any], live: float) -> int:
    """What a decoder step reads in the middle of a window: weights, heads of the `live` lanes, keys and values of the steps before and of the sources."""
    read = [p for name, p in model.decoder.named_parameters() if "key_value" not in name]
    width, numbers = model.config.width, sum(p.numel() for p in read)
    if settings["task"] == "t2s":
        numbers += model.semantic.codebook.numel() + sum(p.numel() for p in model.semantic.out.parameters())
    else:
        numbers += int(live * model.codes_embedding.num_codes * width)
    lengths = [steps / 2] * len(model.decoder.layers)
    heard = [settings["text" if settings["task"] == "t2s" else "semantic"]] * sum(len(layer.cross) > 0 for layer in model.decoder.layers)
    return 4 * (numbers + int(2 * width * (rows * sum(lengths) + sum(heard))))


def bandwidth(device: str) -> float:
    """Bytes a second, the best of ten: on CUDA a large copy reads and writes, on a CPU a thread reads 64 MB, about as much as a small model's step."""
    if device != "cuda":
        source = torch.zeros(2**24)
        return source.numel() * 4 / min(_seconds(source.sum) for _ in range(10))
    source = torch.zeros(2**28, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    torch.cuda.synchronize()
    return 2 * source.numel() * 4 / min(_seconds(copy) for _ in range(10))


def _seconds(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    serve(build)
