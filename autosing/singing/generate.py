"""The decode loops: lyrics -> semantic tokens -> codec tokens.

Free functions over a model, its encoded source and a `Stepper`; all randomness comes from the generator given, so the same seed
gives the same tokens. Candidates of one request share the encoded source. With a pointer model the loop also steers the pace, so that
every token of a section is sung before the section's time is over; rests stay where the model puts them.

Letters: B candidates, L text tokens, K levels, T finest frames, N semantic steps, R lanes, S grid steps, W voice windows, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autosing.errors import ConfigError
from autosing.models.sm2a import SM2A
from autosing.models.t2s import T2S, T2SSource
from autosing.nn.decode import Stepper
from autosing.nn.sampling import guide, sample
from autosing.singing.reading import READ_SECONDS, WAYS, Reader, melodies_of
from autosing.tokens.pointer import MAX_ADVANCE, SINCE_BUCKETS, pace_bucket, sections, sung_before, with_opening_line
from autosing.tokens.specs import CodecSpec, Seconds
from autosing.tokens.text import LINE, PAD, PAUSE, UNKNOWN, TextFrontEnd, TimedText, load_text

HALVES_FROM_SECONDS: Seconds = 20.0  # windows longer than this have a line break at the half even where one text governs them whole
BRISK = 0.4  # text tokens a step (10 a second) from which the loop pushes the pointer on
LONGEST_STEPS = 50  # a sound held longer (2 s) is urged on
FADING_STEPS = 6  # of a rest (0.24 s), in which the sound before it may end; from then on it is silent


@dataclass(frozen=True)
class Track:
    """Which text token each candidate sings at each step.

    Attributes:
        ids: (L,) text token ids, LINE in front.
        pointer: (B, N) indices into `ids`; None for a model without pointer.
        token_rate: steps a second.
    """

    ids: np.ndarray
    pointer: Tensor | None
    token_rate: float

    def words(self, candidate: int) -> list[tuple[Seconds, Seconds]]:
        """(start, end) of every word of the text, in order; a word the pointer never reached has start == end.

        Raises:
            ConfigError: the model has no pointer.
        """
        if self.pointer is None:
            raise ConfigError("this t2s model has no pointer, so it does not know its word times; align the sung audio instead")
        track = self.pointer[candidate].cpu().numpy()
        ends = np.flatnonzero(self.ids == PAUSE)
        starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        times = []
        for first, last in zip(starts, ends, strict=True):
            while first < last and self.ids[first] == LINE:
                first += 1
            begin, end = np.searchsorted(track, first), np.searchsorted(track, last)
            times.append((begin / self.token_rate, end / self.token_rate))
        return times


def window_text(front_end: TextFrontEnd, halves: Sequence[Sequence[str]], seconds: Seconds) -> TimedText:
    """The tokens of a window as training windows have them: words and PAUSEs, one LINE between the halves.

    Two texts always get that LINE, however short the window: it is what makes each of them govern its half.

    Args:
        halves: lines of the first half, and of the second; a second half left out or empty: the first governs the whole window,
            which has no LINE up to `HALVES_FROM_SECONDS`.
    """
    texts = [front_end.ids_for([" ".join(lines)]) for lines in halves if lines]
    if len(texts) < 2 and seconds <= HALVES_FROM_SECONDS:
        ids = texts[0].ids if texts else np.zeros(0, dtype=np.int64)
    else:
        if len(texts) == 1:  # one text for both halves: break it at the word nearest its middle
            whole = texts[0].ids
            breaks = np.concatenate([[0], np.flatnonzero(whole == PAUSE) + 1])
            middle = int(breaks[np.argmin(np.abs(breaks - len(whole) / 2))])
            parts = [whole[:middle], whole[middle:]]
        else:
            parts = [t.ids for t in texts] or [np.zeros(0, dtype=np.int64)] * 2
        ids = np.concatenate([parts[0], *(np.concatenate([[LINE], part]) for part in parts[1:])])
    unknown = np.full(len(ids), np.nan)
    return TimedText(ids.astype(np.int64), unknown, unknown)


class Schedule(NamedTuple):
    """When each section of a text may be left and must be; arrays of equal length.

    Attributes:
        ends: first token after the section; the last is L.
        opens: first step at which the pointer may stand in the next section.
        deadlines: the step at which it does, sung or not; not decreasing.
    """

    ends: np.ndarray
    opens: np.ndarray
    deadlines: np.ndarray

    @staticmethod
    def even(ids: np.ndarray, steps: int) -> "Schedule":
        """The sections that the LINE tokens open share the steps evenly."""
        ends, deadlines = sections(ids, steps)
        return Schedule(ends, deadlines, deadlines)


class Pacer:
    """Moves the pointers of B candidates through a text, and makes sure that all of it is sung in time."""

    def __init__(self, ids: np.ndarray, steps: int, batch: int, schedule: Schedule | None = None):
        """`schedule` None = `Schedule.even`."""
        self.ids, self.steps = ids, steps
        self.ends, self.opens, self.deadlines = schedule or Schedule.even(ids, steps)
        self.before = sung_before(ids)
        self.sounds = (ids != PAUSE) & (ids != LINE)
        self.pointer = np.zeros(batch, dtype=np.int64)
        self.since = np.zeros(batch, dtype=np.int64)

    def _left(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(section, sung tokens left in it, steps left for it) of each candidate."""
        section = np.minimum(np.searchsorted(self.ends, self.pointer, side="right"), len(self.ends) - 1)
        left = self.before[self.ends[section]] - self.before[np.minimum(self.pointer + 1, len(self.ids))]
        return section, left, self.deadlines[section] - step

    def conditions(self, step: int, rows: int) -> np.ndarray:
        """(3, rows, 1) pointer, since, pace: of the B candidates, and then of rows that know no text, as `guidance` leans away from."""
        _, left, time = self._left(step)
        told = np.zeros((3, rows, 1), dtype=np.int64)
        told[1] = min(step, SINCE_BUCKETS - 1)
        told[:, : len(self.pointer), 0] = self.pointer, np.minimum(self.since, SINCE_BUCKETS - 1), pace_bucket(left, time)
        return told

    def steer(self, logits: Tensor, step: int) -> Tensor:
        """(B, MAX_ADVANCE + 1) logits of the model -> of what may and should happen before step + 1."""
        section, left, time = self._left(step)
        at, text = self.pointer, len(self.ids)
        end, late = self.ends[section], time <= 1
        limit = np.where((late | (step + 1 >= self.opens[section])) & (end < text), end, end - 1)
        rate = left / np.maximum(time - 2, 1)
        hurry = np.where((left > 0) & (rate > BRISK), 8.0 * (rate - BRISK), 0.0)
        hurry += np.where(self.sounds[at] & (self.since > LONGEST_STEPS), 0.2 * (self.since - LONGEST_STEPS), 0.0)
        least = np.where(left > 0, np.minimum((rate + 1e-6).astype(np.int64), MAX_ADVANCE), 0)
        least = np.where(late & (limit == end), 1, least)[:, None]
        advance = np.arange(MAX_ADVANCE + 1)
        target = at[:, None] + advance
        skipped = self.before[np.minimum(target, text)] > self.before[np.minimum(at + 1, text)][:, None]
        barred = (target > limit[:, None]) & (advance > 0)
        barred |= skipped & (advance > least)  # a sound is skipped only when there is no time for it
        barred |= advance < np.minimum(least, (limit - at)[:, None])
        told = np.where(barred, -np.inf, np.where(advance > 0, hurry[:, None], 0.0))
        return logits + torch.from_numpy(told.astype(np.float32)).to(logits.device)

    def move(self, advance: np.ndarray, step: int) -> None:
        """Take (B,) advances before step + 1; a section whose time is over is left for the next one, whatever is unsung."""
        section, _, time = self._left(step)
        target = self.pointer + advance
        over = (time <= 1) & (self.ends[section] < len(self.ids))
        target = np.where(over, np.maximum(target, self.ends[section]), target)
        self._stand(target)

    def resting(self) -> np.ndarray:
        """(B,) bool: nothing is to be heard here, and what was sung before has ended."""
        return ~self.sounds[self.pointer] & (self.since >= FADING_STEPS)

    def keep(self, rows: np.ndarray) -> None:
        """(B,) indices: candidate i goes on where candidate `rows[i]` is."""
        self.pointer, self.since = self.pointer[rows], self.since[rows]

    def follow(self, pointer: np.ndarray) -> None:
        """Stand where a prompt's (B,) `pointer` says, whatever the time."""
        self._stand(pointer)

    def _stand(self, target: np.ndarray) -> None:
        self.since = np.where(target > self.pointer, 0, self.since + 1)
        self.pointer = target


@torch.inference_mode()
def generate_semantic(
    model: T2S,
    text: Sequence[Sequence[str]] | TimedText,
    accompaniment: Tensor | None,
    *,
    steps: int,
    generator: torch.Generator,
    batch: int = 1,
    temperature: float = 0.7,
    pointer_temperature: float = 0.9,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float | None = None,
    language: str | None = None,
    prompt: Tensor | None = None,
    prompt_pointer: np.ndarray | None = None,
    schedule: Schedule | None = None,
    max_repeat: int = 75,
    reader: Reader | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Track]:
    """Sing a text as semantic tokens.

    With a `reader` the candidates are about half as many melodies, in turn. Each melody is written in `WAYS` ways side by side, and every
    `READ_SECONDS` all of them go on with the one in which most of the words can be read so far: a choice among ways, for every second anew.
    And where the text rests, only tokens are sung that it reads as silence.

    Args:
        text: lines of each half (see `window_text`), or tokens without an opening LINE.
        accompaniment: (1, K, T) codes, cut or padded by nobody: give the window's; None = no accompaniment.
        steps: N.
        guidance: 1 = none; more leans towards the text (two decoder rows a candidate); None = the checkpoint's own.
        language: of `model.config.languages`; None = the first.
        prompt: (P,) or (B, P) tokens the song starts with.
        prompt_pointer: (P,) which token of the text, its opening LINE included, is sung at each of them; None = the model finds it.
        schedule: of the text with its opening LINE; None = its halves share the time.
        max_repeat: a sounding token repeated this often in a row is not chosen again; 0 = no guard.
        reader: of the tokenizer that the tokens are of; not for a model without pointer, which does not know where in the text it is.
        progress: told (steps done, steps) after every step.

    Returns:
        (B, N) tokens, and the `Track` of the text.

    Raises:
        ConfigError: the model does not know the language.
    """
    c = model.config
    device = model.embedding_text.device
    if language is not None and language not in c.languages:
        raise ConfigError(f"this t2s model does not know language '{language}', it knows {', '.join(c.languages)}")
    seconds = steps / c.semantic.token_rate
    timed = text if isinstance(text, TimedText) else window_text(load_text(c.text), text, seconds)
    ids = with_opening_line(timed).ids
    source = _encode_text(model, ids, accompaniment, steps, language)
    asked, melodies, ways, every = batch, batch, 1, 0
    if reader is not None and c.pointer:
        melodies, ways, every = melodies_of(batch), WAYS, max(1, round(READ_SECONDS * c.semantic.token_rate))
    rows = batch = melodies * ways
    towards_text = c.text_guidance if guidance is None else guidance
    if towards_text != 1.0:
        nothing = np.concatenate([[UNKNOWN], np.full(len(ids) - 1, PAD)])
        source = T2SSource.stack([source, _encode_text(model, nothing, accompaniment, steps, language)], batch)
        rows = 2 * batch
    stepper, told_as = Stepper(model.decoder, source.sources, source.rotary, rows, steps, ways, every), model.semantic.rows()
    pacer = Pacer(ids, steps, batch, schedule)
    known = np.zeros(0, dtype=np.int64) if prompt_pointer is None else prompt_pointer
    if len(known):
        pacer.pointer[:] = known[0]
    if prompt is not None:
        prompt = prompt.to(device).expand(batch, -1)
    tokens = torch.full((batch, steps), CodecSpec.HOLE, dtype=torch.long, device=device)
    track = np.zeros((batch, steps), dtype=np.int64)
    previous = torch.full((rows, 1), CodecSpec.HOLE, dtype=torch.long, device=device)
    repeats = torch.zeros(batch, dtype=torch.long, device=device)
    sounding = ~reader.silent(c.semantic.num_codes).to(device) if every and reader is not None else None
    given = 0 if prompt is None else max(0, min(prompt.shape[1], len(known) if c.pointer else steps) - 1)
    if prompt is not None and given:  # the steps of which everything is known, but the last, which says what comes after them
        conditions = []
        for step in range(given):
            conditions.append(pacer.conditions(step, rows))
            track[:, step] = pacer.pointer
            if c.pointer:
                pacer.follow(np.full(batch, known[step + 1]))
            if step:
                repeats = torch.where(prompt[:, step] == prompt[:, step - 1], repeats + 1, 0)
        tokens[:, :given] = prompt[:, :given]
        before = torch.cat([previous, tokens[:, : given - 1].repeat(rows // batch, 1)], 1)
        told = torch.from_numpy(np.concatenate(conditions, 2)).to(device) if c.pointer else ()
        stepper.begin(model.inputs(before, 0, source, *told, rows=told_as))
        previous = tokens[:, given - 1].repeat(rows // batch)[:, None]
    for step in range(given, steps):
        conditions = torch.from_numpy(pacer.conditions(step, rows)).to(device) if c.pointer else ()
        track[:, step] = pacer.pointer
        hidden = stepper(model.inputs(previous, step, source, *conditions, rows=told_as)[:, 0])
        # guidance of what goes into an affine map is guidance of what comes out
        leaned = hidden if rows == batch else guide(hidden[:batch], hidden[batch:], towards_text)
        logits = model.semantic_logits(leaned)
        if prompt is not None and step < prompt.shape[1]:
            chosen = prompt[:, step]
        else:
            if max_repeat and step:
                stuck = repeats >= max_repeat
                if c.pointer:
                    stuck &= torch.from_numpy(pacer.sounds[pacer.pointer]).to(device)
                barred = torch.zeros_like(logits, dtype=torch.bool).scatter(1, tokens[:, step - 1 : step], stuck[:, None])
                logits = logits.masked_fill(barred, -torch.inf)
            if sounding is not None:
                resting = torch.from_numpy(pacer.resting()).to(device)
                logits = logits.masked_fill(resting[:, None] & sounding, -torch.inf)
            chosen = sample(logits, generator, temperature, top_k, top_p)
        repeats = torch.where(chosen == tokens[:, step - 1], repeats + 1, 0) if step else repeats
        tokens[:, step] = chosen
        previous = chosen.repeat(rows // batch)[:, None]
        if c.pointer and step + 1 < len(known):
            pacer.follow(np.full(batch, known[step + 1]))
        elif c.pointer:
            moves = pacer.steer(model.advance_logits(hidden[:batch]), step)
            pacer.move(sample(moves, generator, pointer_temperature).cpu().numpy(), step)
        if every and ((step + 1) % every == 0 or step + 1 == steps):
            assert reader is not None
            found = reader.faults(tokens[:, : step + 1], ids, pacer.pointer).reshape(melodies, ways)
            kept = (np.arange(melodies) * ways + found.argmin(1)).repeat(ways)
            pacer.keep(kept)
            track, best = track[kept], torch.from_numpy(kept).to(device)
            tokens, repeats, previous = tokens[best], repeats[best], previous[best].repeat(rows // batch, 1)
            stepper.agree(torch.cat([best[::ways] + half for half in range(0, rows, batch)]))
        if progress is not None:
            progress(step + 1, steps)
    sung = np.arange(asked) % melodies * ways
    return tokens[torch.from_numpy(sung).to(device)], Track(ids, torch.from_numpy(track[sung]) if c.pointer else None, c.semantic.token_rate)


def _encode_text(model: T2S, ids: np.ndarray, accompaniment: Tensor | None, steps: int, language: str | None) -> T2SSource:
    c, device = model.config, model.embedding_text.device
    seconds = steps / c.semantic.token_rate
    text = torch.from_numpy(ids)[None].to(device)
    rate = torch.tensor([float((ids != PAD).sum()) / seconds], device=device)
    index = torch.tensor([0 if language is None else c.languages.index(language)], device=device)
    frames = c.accompaniment.frames(seconds) if c.accompaniment is not None else 0
    if accompaniment is not None:
        accompaniment = _shown(accompaniment.to(device), c.shown_levels)
    return model.encode(text, rate, index, model.music_grid(accompaniment, 1, frames, device), steps)


def _shown(codes: Tensor, levels: int) -> Tensor:
    """(B, K, T) codes with all but the coarsest `levels` turned into holes."""
    hidden = torch.arange(codes.shape[1], device=codes.device) >= levels
    return torch.where(hidden[:, None], CodecSpec.HOLE, codes)


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
    music_frames = c.accompaniment.frames(c.codec.seconds(frames)) if c.accompaniment is not None else 0
    grid_music = model.music_grid(accompaniment, 1, music_frames, device)
    sources = [model.encode(semantic, grid_music, voice, token_pattern, steps)]
    leanings: list[float] = []
    if guidance != 1.0:
        empty = model.music_grid(None, 1, accompaniment.shape[-1] if accompaniment is not None else music_frames, device)
        sources.append(model.encode(semantic, empty, None, token_pattern, steps))
        leanings.append(guidance)
    towards_words = c.semantic_guidance if semantic_guidance is None else semantic_guidance
    if towards_words != 1.0:
        sources.append(model.encode(torch.full_like(semantic, CodecSpec.HOLE), grid_music, voice, token_pattern, steps))
        leanings.append(towards_words)
    source = type(sources[0]).stack(sources, batch)
    stepper, ends = Stepper(model.decoder, source.sources, source.rotary, batch * len(sources), steps), model.ends()
    live = token_pattern.live(steps, c.codec, frames)
    lanes_at = [tuple(live[:, step].nonzero()[:, 0].tolist()) for step in range(steps)]
    factors = tuple(level_temperatures or c.level_temperatures or (1.0,) * c.codec.levels)
    warmth = {lanes: _warmth(temperature, [factors[token_pattern.lanes[lane].level] for lane in lanes], device) for lanes in set(lanes_at)}
    index = {lanes: torch.tensor(lanes, dtype=torch.long, device=device) for lanes in warmth}
    grid = torch.full((batch, len(token_pattern.lanes), steps), CodecSpec.HOLE, dtype=torch.long, device=device)
    given = None if template is None else token_pattern.apply(template.to(device).expand(batch, -1, -1), c.codec)
    previous = grid[:, :, :1]
    for step in range(steps):
        x = model.codes_embedding.embed(previous, ends.rows).repeat(len(sources), 1, 1)[:, 0]
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


def _warmth(temperature: float, factors: Sequence[float], device: torch.device) -> float | Tensor:
    """`temperature` times the factor of each of r lanes as (r, 1, 1); 0 where it is none."""
    return torch.tensor([temperature * factor for factor in factors], device=device)[:, None, None] if temperature > 0 else 0.0
