"""The decode loop of `sm2a_parallel`: all codes of a level at once, in a few passes, level by level.

Each pass draws every code of the level that is still masked and keeps those that it is surest of; how many stay masked falls with a cosine, and
a little chance in the ranking keeps the sure (silence, held notes) from being sung all in one way. Coarser levels, which everything finer leans on,
get more passes. What guidance leans away from is asked once a level, in its first pass: that the words are sung as well so costs a quarter more, not
twice as much. What a template gives is kept and is heard from the first pass on: a prompt, or what stands around a passage.

Letters: B candidates, K levels, T finest frames, N semantic steps, R lanes, r lanes of one level, S steps, W voice windows, D width, V codes.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from autosing.device import quick_matrices
from autosing.errors import ConfigError
from autosing.models.sm2a_parallel import SM2AParallel
from autosing.nn.sampling import sample_sure
from autosing.tokens.specs import CodecSpec

PASSES = 16


def passes_per_level(passes: int, levels: int, shares: Sequence[float] = ()) -> tuple[int, ...]:
    """`passes` shared out, coarse to fine, at least one each; `shares` () = each level half as many as the one before: 16 -> 9, 4, 2, 1.

    Raises:
        ConfigError: fewer passes than levels.
    """
    if passes < levels:
        raise ConfigError(f"--steps {passes} is less than one pass for each of the codec's {levels} levels; give {levels} or more")
    wanted = [share / sum(shares) * passes for share in shares] if shares else [passes * 2.0**-level / (2 - 2.0 ** (1 - levels)) for level in range(levels)]
    counts = [max(1, math.floor(number)) for number in wanted]
    while sum(counts) > passes:
        counts[counts.index(max(counts))] -= 1
    for level in sorted(range(levels), key=lambda level: (counts[level] - wanted[level], level))[: passes - sum(counts)]:
        counts[level] += 1
    return tuple(counts)


@torch.inference_mode()
def generate_codes_parallel(
    model: SM2AParallel,
    semantic: Tensor,
    accompaniment: Tensor | None,
    voice: Tensor | None,
    *,
    frames: int,
    generator: torch.Generator,
    steps: int | None = None,
    temperature: float = 0.7,
    level_temperatures: Sequence[float] | None = None,
    choice_temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float = 1.0,
    semantic_guidance: float | None = None,
    template: Tensor | None = None,
    lengths: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Sing semantic tokens as codec tokens.

    Args:
        semantic: (B, N) tokens.
        accompaniment: (1 or B, K, T) codes of the instrumental; None = none.
        voice: (1 or B, W, D) singer embeddings, one each 10 s; None = any singer.
        frames: T, a multiple of the codec's grain.
        steps: passes in all; None = 16.
        level_temperatures: a factor on `temperature` for each level; None = the checkpoint's own.
        choice_temperature: how much chance there is in which codes a pass keeps (Gumbel noise on the logarithms of their probabilities, less in
            each pass); 0 = the surest.
        guidance, semantic_guidance, template, progress: as in `autosing.singing.stepwise.generate_codes`.
        lengths: (B,) finest frames of each candidate, where they differ; what lies beyond is HOLE. None = `frames`.

    Returns:
        (B, K, T) codes, HOLE off stride.

    Raises:
        ConfigError: fewer steps than levels.
    """
    c, pattern, device = model.config, model.pattern, semantic.device
    batch, columns = semantic.shape[0], pattern.steps(frames)
    passes = passes_per_level(PASSES if steps is None else steps, c.codec.levels, c.pass_shares)
    live = pattern.live(columns, c.codec, frames).to(device).expand(batch, -1, -1)
    mask = None
    if lengths is not None:
        begins = torch.tensor([lane.offset for lane in pattern.lanes], device=device)[:, None] + torch.arange(columns, device=device) * pattern.hop
        live = live & (begins < lengths.to(device)[:, None, None])
        mask = live.any(1)
    with quick_matrices(device):  # once for all passes: within it a matrix is rounded once
        heard, leanings = _hear(model, semantic, accompaniment, voice, frames, mask, guidance, c.semantic_guidance if semantic_guidance is None else semantic_guidance)
        surer = 1.0 + sum(lean - 1.0 for lean in leanings)
        masks = None if mask is None else mask.repeat(len(leanings) + 1, 1)
        factors = tuple(level_temperatures or c.level_temperatures or (1.0,) * c.codec.levels)
        grid = torch.full((batch, len(pattern.lanes), columns), CodecSpec.HOLE, dtype=torch.long, device=device)
        if template is not None:
            given = pattern.apply(template.to(device).expand(batch, -1, -1), c.codec)
            grid = torch.where(live, given, grid)
        rows, done = model.codes.rows(), 0
        for level, count in enumerate(passes):
            lanes = model.lanes(level)
            missing = live[:, lanes] & (grid[:, lanes] < 0)
            wanted = missing.flatten(1).sum(1)
            away = torch.zeros(())
            for number in range(1, count + 1):
                parts = 1 + len(leanings) * (number == 1)
                hidden = model.decode(grid.repeat(parts, 1, 1), level, heard[: parts * batch], None if masks is None else masks[: parts * batch], rows)
                logits, *without = model.logits(hidden, level).float().split(batch)
                if without:  # of several guidances each adds (lean - 1) times what its condition changes (see `guide`)
                    away = torch.stack([(lean - 1.0) * other for lean, other in zip(leanings, without, strict=True)]).sum(0)
                if leanings:
                    logits = (logits * surer).sub_(away)
                chosen, sure = (t.transpose(1, 2) for t in sample_sure(logits, generator, temperature * factors[level], top_k, top_p))
                if number < count:
                    chance = torch.rand(sure.shape, generator=generator, device=device).clamp(1e-20, 1 - 1e-7)
                    sure = sure - choice_temperature * (1 - number / count) * (-chance.log()).log()
                stay = (wanted * math.cos(0.5 * math.pi * number / count) + 1e-6).long()
                kept = missing & ~_least(sure.masked_fill(~missing, torch.inf), stay)
                grid[:, lanes] = torch.where(kept, chosen, grid[:, lanes])
                missing = missing & ~kept
                done += 1
                if progress is not None:
                    progress(done, sum(passes))
    return pattern.invert(grid, c.codec, frames)


def _least(values: Tensor, counts: Tensor) -> Tensor:
    """Which are the `counts` (B,) least of each row of (B, r, S) values: (B, r, S) bool."""
    order = values.flatten(1).argsort(dim=1, stable=True)
    marked = torch.arange(order.shape[1], device=values.device) < counts[:, None]
    return torch.zeros_like(marked).scatter(1, order, marked).view(values.shape)


def _hear(
    model: SM2AParallel, semantic: Tensor, accompaniment: Tensor | None, voice: Tensor | None, frames: int, mask: Tensor | None,
    guidance: float, semantic_guidance: float,
) -> tuple[Tensor, list[float]]:  # fmt: skip
    """What is heard with all conditions, then without what each guidance leans towards, row after row; and how much each of these leans."""
    c, steps, device = model.config, model.pattern.steps(frames), semantic.device
    music_frames = c.accompaniment.frames(c.codec.seconds(frames)) if c.accompaniment is not None else 0
    grid = model.music_grid(accompaniment, 1, music_frames, device)
    heard, leanings = [model.encode(semantic, grid, voice, steps, mask)], []
    if guidance != 1.0:
        empty = None if grid is None else torch.full_like(grid, CodecSpec.HOLE)
        heard.append(model.encode(semantic, empty, None, steps, mask))
        leanings.append(guidance)
    if semantic_guidance != 1.0:
        heard.append(model.encode(torch.full_like(semantic, CodecSpec.HOLE), grid, voice, steps, mask))
        leanings.append(semantic_guidance)
    return torch.cat(heard), leanings
