"""What int8 costs: the shipped models' logits with and without it, of 15 s that they sang without it.

Read at the tokens and codes sung (so that one early difference does not count for ever), all steps at once, as guidance has them without the rows it
leans away from.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from autosing.models.io import load_model
from autosing.singing.generate import generate_semantic, window_text
from autosing.singing.pace import Pacer
from autosing.singing.stepwise import generate_codes
from autosing.tokens.specs import CodecSpec
from autosing.tokens.text import PAD, load_text

SECONDS = 15.0
LINES = (("the river runs beneath the sleeping town",), ("and carries every word i meant to say",))


def shares(exact: torch.Tensor, near: torch.Tensor) -> dict[str, float]:
    """Of (n, V) logits: how far they move beside how far they lie apart, how often the likeliest stays, and the mean KL divergence in nats."""
    divergence = F.kl_div(near.log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="batchmean")
    return {"logits_moved": round(float((near - exact).std() / exact.std()), 4),
            "likeliest_the_same": round(float((near.argmax(-1) == exact.argmax(-1)).float().mean()), 4), "kl_nats": round(float(divergence), 5)}  # fmt: skip


@torch.inference_mode()
def int8_error() -> dict[str, Any]:
    """The figures of both models."""
    t2s, sm2a = load_model("builtin", "t2s")[0], load_model("builtin", "sm2a")[0]
    generator = torch.Generator().manual_seed(0)
    c, steps = t2s.config, t2s.config.semantic.tokens(SECONDS)
    semantic, track = generate_semantic(t2s, window_text(load_text(c.text), LINES, SECONDS), None, steps=steps, generator=generator)
    assert track.pointer is not None
    pacer, told = Pacer(track.ids, steps, 1), []
    for step in range(steps):
        told.append(pacer.conditions(step, 1))
        if step + 1 < steps:
            pacer.follow(track.pointer[:, step + 1].numpy())
    conditions = torch.from_numpy(np.concatenate(told, 2))
    grid = t2s.music_grid(None, 1, c.accompaniment.frames(SECONDS), semantic.device)
    rate = torch.tensor([float((track.ids != PAD).sum()) / SECONDS])
    heard = t2s.encode(torch.from_numpy(track.ids)[None], rate, torch.zeros(1, dtype=torch.long), grid, steps)
    before = F.pad(semantic[:, :-1], (1, 0), value=CodecSpec.HOLE)
    words = lambda: t2s.semantic_logits(t2s.decode(before, heard, *conditions))[0]  # noqa: E731

    c, pattern = sm2a.config, sm2a.pattern(sm2a.config.patterns[0])
    frames = c.codec.frames(SECONDS)
    codes = pattern.apply(generate_codes(sm2a, semantic, None, None, frames=frames, generator=generator), c.codec)
    grid = sm2a.music_grid(None, 1, c.accompaniment.frames(SECONDS), semantic.device)
    source = sm2a.encode(semantic, grid, None, pattern, codes.shape[-1])
    given = F.pad(codes[..., :-1], (1, 0), value=CodecSpec.HOLE)

    def voice() -> torch.Tensor:
        hidden = sm2a.decode(given, source)[0]
        return torch.cat([head(hidden[live]) for head, live in zip(sm2a.ends().heads, codes[0] >= 0, strict=True)])

    exact = words(), voice()
    t2s.use_int8()
    sm2a.use_int8()
    return {"seconds": SECONDS, "t2s": shares(exact[0], words()), "sm2a": shares(exact[1], voice())}
