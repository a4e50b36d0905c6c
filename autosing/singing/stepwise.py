"""Semantic tokens -> codec tokens, step by step: the decode loop of a model of kind `sm2a`. That of `sm2a_parallel` is `parallel.py`.

All randomness comes from the generator given. Letters: B candidates, K levels, T finest frames, N semantic steps, R lanes, S grid steps,
W voice windows, D width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autosing.models.sm2a import SM2A, SM2ASource
from autosing.nn.decode import Stepper
from autosing.nn.sampling import guide, sample
from autosing.tokens.patterns import TokenPattern
from autosing.tokens.specs import CodecSpec


@torch.inference_mode()
def generate_codes(
    model: SM2A,
    semantic: Tensor,
    accompaniment: Tensor | None,
    voice: Tensor | None,
    *,
    frames: int,
    generator: torch.Generator,
    temperature: float = 0.7,
    level_temperatures: Sequence[float] | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float = 1.0,
    semantic_guidance: float | None = None,
    template: Tensor | None = None,
    pattern: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Sing semantic tokens as codec tokens.

    Args:
        semantic: (B, N) tokens.
        accompaniment: (1 or B, K, T) codes of the instrumental; None = none.
        voice: (1 or B, W, D) singer embeddings, one each 10 s; None = any singer.
        frames: T, a multiple of the codec's grain.
        level_temperatures: a factor on `temperature` for each level; None = the checkpoint's own.
        guidance: 1 = none; more leans towards the accompaniment and the singer (one more decoder row a candidate).
        semantic_guidance: 1 = none; more leans towards the semantic tokens, so towards the words (one more decoder row a candidate);
            None = the checkpoint's own.
        template: (1 or B, K, T) codes that are given (a prompt, or whole levels); holes are to be sung.
        pattern: "bricks" or "bricks_unrolled"; None = what the model was trained to sing with.
        progress: told (steps done, steps) after every step.

    Returns:
        (B, K, T) codes, HOLE off stride.
    """
    c = model.config
    device = semantic.device
    batch = semantic.shape[0]
    token_pattern = model.pattern(pattern or c.patterns[0])
    steps = token_pattern.steps(frames)
    source, leanings = _source(model, semantic, accompaniment, voice, token_pattern, frames, guidance, semantic_guidance)
    copies = 1 + len(leanings)
    stepper, ends = Stepper(model.decoder, source.sources, source.rotary, batch * copies, steps), model.ends()
    live = token_pattern.live(steps, c.codec, frames)
    lanes_at = [tuple(live[:, step].nonzero()[:, 0].tolist()) for step in range(steps)]
    factors = tuple(level_temperatures or c.level_temperatures or (1.0,) * c.codec.levels)
    warmth = {lanes: _warmth(temperature, [factors[token_pattern.lanes[lane].level] for lane in lanes], device) for lanes in set(lanes_at)}
    index = {lanes: torch.tensor(lanes, dtype=torch.long, device=device) for lanes in warmth}
    grid = torch.full((batch, len(token_pattern.lanes), steps), CodecSpec.HOLE, dtype=torch.long, device=device)
    given = None if template is None else token_pattern.apply(template.to(device).expand(batch, -1, -1), c.codec)
    previous = grid[:, :, :1]
    for step in range(steps):
        x = model.codes_embedding.embed(previous, ends.rows).repeat(copies, 1, 1)[:, 0]
        hidden = stepper(x if source.added is None else x + source.added[:, step])
        plain, *without = hidden.split(batch)
        # guidance of what goes into an affine map is guidance of what comes out
        leaned = plain + sum(guide(plain, other, lean) - plain for lean, other in zip(leanings, without, strict=True))
        lanes = lanes_at[step]
        if lanes:
            logits = torch.stack([ends.heads[lane](leaned) for lane in lanes])
            chosen = sample(logits, generator, warmth[lanes], top_k, top_p).T
            if given is not None:
                there = given[:, index[lanes], step]
                chosen = torch.where(there >= 0, there, chosen)
            grid[:, index[lanes], step] = chosen
        previous = grid[:, :, step : step + 1]
        if progress is not None:
            progress(step + 1, steps)
    return token_pattern.invert(grid, c.codec, frames)


def _source(
    model: SM2A, semantic: Tensor, accompaniment: Tensor | None, voice: Tensor | None, pattern: TokenPattern, frames: int, guidance: float,
    semantic_guidance: float | None,
) -> tuple[SM2ASource, list[float]]:  # fmt: skip
    """What the decoder reads, with B more rows for each thing that guidance leans towards, which go without it; and how much it leans towards each."""
    c, steps = model.config, pattern.steps(frames)
    music_frames = c.accompaniment.frames(c.codec.seconds(frames)) if c.accompaniment is not None else 0
    music = model.music_grid(accompaniment, 1, music_frames, semantic.device)
    sources = [model.encode(semantic, music, voice, pattern, steps)]
    leanings: list[float] = []
    if guidance != 1.0:
        silence = model.music_grid(None, 1, accompaniment.shape[-1] if accompaniment is not None else music_frames, semantic.device)
        sources.append(model.encode(semantic, silence, None, pattern, steps))
        leanings.append(guidance)
    towards_words = c.semantic_guidance if semantic_guidance is None else semantic_guidance
    if towards_words != 1.0:
        sources.append(model.encode(torch.full_like(semantic, CodecSpec.HOLE), music, voice, pattern, steps))
        leanings.append(towards_words)
    return SM2ASource.stack(sources, semantic.shape[0]), leanings


def _warmth(temperature: float, factors: Sequence[float], device: torch.device) -> float | Tensor:
    """`temperature` times the factor of each of r lanes as (r, 1, 1); 0 where it is none."""
    return torch.tensor([temperature * factor for factor in factors], device=device)[:, None, None] if temperature > 0 else 0.0
