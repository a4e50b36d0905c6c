"""Lyrics -> semantic tokens: the decode loop of the t2s model. Those of the sm2a models are `stepwise.py` and `parallel.py`.

All randomness comes from the generator given, so the same seed gives the same tokens. Candidates of one request share the encoded source. Where a
pointer model stands in the text is the `Pacer`'s business (`pace.py`), which words can be read in tokens the `Reader`'s (`reading.py`).

Letters: B candidates, L text tokens, K levels, T finest frames, N semantic steps, P steps of a prompt, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autosing.errors import ConfigError
from autosing.models.t2s import T2S, T2SSource
from autosing.nn.decode import Stepper
from autosing.nn.sampling import guide, sample
from autosing.singing.pace import Pacer, Schedule
from autosing.singing.reading import READ_SECONDS, WAYS, Reader, melodies_of
from autosing.tokens.pointer import with_opening_line
from autosing.tokens.specs import CodecSpec, Seconds
from autosing.tokens.text import LINE, PAD, PAUSE, UNKNOWN, TextFrontEnd, TimedText, load_text

HALVES_FROM_SECONDS: Seconds = 20.0  # windows longer than this have a line break at the half even where one text governs them whole


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
    melodies, ways, every = batch, 1, 0
    if reader is not None and c.pointer:
        melodies, ways, every = melodies_of(batch), WAYS, max(1, round(READ_SECONDS * c.semantic.token_rate))
    rows = written = melodies * ways
    towards_text = c.text_guidance if guidance is None else guidance
    if towards_text != 1.0:
        nothing = np.concatenate([[UNKNOWN], np.full(len(ids) - 1, PAD)])
        source = T2SSource.stack([source, _encode_text(model, nothing, accompaniment, steps, language)], written)
        rows = 2 * written
    stepper, told_as = Stepper(model.decoder, source.sources, source.rotary, rows, steps, ways, every), model.semantic.rows()
    pacer = Pacer(ids, steps, written, schedule) if c.pointer else None
    prompt = None if prompt is None else prompt.to(device).expand(written, -1)
    draft = _Draft(written, steps, device, pacer, prompt, prompt_pointer)
    sounding = ~reader.silent(c.semantic.num_codes).to(device) if every and reader is not None else None

    given = draft.given
    if given:
        before, conditions = draft.take_given(rows)
        stepper.begin(model.inputs(before, 0, source, *conditions, rows=told_as))
    for step in range(given, steps):
        previous, conditions = draft.before(step, step + 1, rows), torch.from_numpy(draft.conditions(step, rows)).to(device)
        hidden = stepper(model.inputs(previous, step, source, *conditions, rows=told_as)[:, 0])
        chosen = draft.prompted(step)
        if chosen is None:
            # guidance of what goes into an affine map is guidance of what comes out
            leaned = hidden if rows == written else guide(hidden[:written], hidden[written:], towards_text)
            logits = draft.without_barred(model.semantic_logits(leaned), step, max_repeat, sounding)
            chosen = sample(logits, generator, temperature, top_k, top_p)
        draft.write(step, chosen)
        if pacer is not None and not draft.follow_prompt(step + 1):
            moves = pacer.steer(model.advance_logits(hidden[:written]), step)
            pacer.move(sample(moves, generator, pointer_temperature).cpu().numpy(), step)
        if every and ((step + 1) % every == 0 or step + 1 == steps):
            assert reader is not None and pacer is not None
            faults = reader.faults(draft.tokens[:, : step + 1], ids, pacer.pointer).reshape(melodies, ways)
            best = np.arange(melodies) * ways + faults.argmin(1)
            draft.keep(best.repeat(ways))
            stepper.agree(torch.from_numpy(np.concatenate([best + half for half in range(0, rows, written)])).to(device))
        if progress is not None:
            progress(step + 1, steps)
    sung = np.arange(batch) % melodies * ways
    track = None if pacer is None else torch.from_numpy(draft.track[sung])
    return draft.tokens[torch.from_numpy(sung).to(device)], Track(ids, track, c.semantic.token_rate)


class _Draft:
    """What B candidates have written so far, and where in the text each of them stood at every step.

    Attributes:
        track: (B, N) the token of the text sung at each step that is written.
    """

    def __init__(
        self, batch: int, steps: int, device: torch.device, pacer: Pacer | None, prompt: Tensor | None, prompt_pointer: np.ndarray | None
    ):
        """
        Args:
            pacer: None for a model without pointer.
            prompt: (B, P) tokens; `prompt_pointer` as in `generate_semantic`.
        """
        self._written = torch.full((batch, 1 + steps), CodecSpec.HOLE, dtype=torch.long, device=device)  # nothing comes before the first step
        self._repeats = torch.zeros(batch, dtype=torch.long, device=device)
        self.track = np.zeros((batch, steps), dtype=np.int64)
        self._pacer, self._prompt = pacer, prompt
        self._known = np.zeros(0, dtype=np.int64) if prompt_pointer is None or pacer is None else prompt_pointer
        if pacer is not None and len(self._known):
            pacer.pointer[:] = self._known[0]

    @property
    def tokens(self) -> Tensor:
        """(B, N), HOLE where nothing is written yet."""
        return self._written[:, 1:]

    def before(self, first: int, last: int, rows: int) -> Tensor:
        """(rows, last - first) the token before each of the steps [first, last), of the candidates over and over."""
        return self._written[:, first:last].repeat(rows // len(self._written), 1)

    def conditions(self, step: int, rows: int) -> np.ndarray:
        """As of `Pacer.conditions`; (0, rows, 1) for a model without pointer."""
        return np.zeros((0, rows, 1), dtype=np.int64) if self._pacer is None else self._pacer.conditions(step, rows)

    @property
    def given(self) -> int:
        """The steps of which everything is known, but the last, which says what comes after them."""
        if self._prompt is None:
            return 0
        known = self.track.shape[1] if self._pacer is None else len(self._known)
        return max(0, min(self._prompt.shape[1], known) - 1)

    def take_given(self, rows: int) -> tuple[Tensor, Tensor]:
        """Write the `given` steps; (rows, given) what comes before each, and (0 or 3, rows, given) their conditions."""
        conditions = []
        for step in range(self.given):
            chosen = self.prompted(step)
            assert chosen is not None
            conditions.append(self.conditions(step, rows))
            self.write(step, chosen)
            self.follow_prompt(step + 1)
        return self.before(0, self.given, rows), torch.from_numpy(np.concatenate(conditions, 2)).to(self._written.device)

    def prompted(self, step: int) -> Tensor | None:
        """(B,) tokens that the prompt has there."""
        return self._prompt[:, step] if self._prompt is not None and step < self._prompt.shape[1] else None

    def without_barred(self, logits: Tensor, step: int, max_repeat: int, sounding: Tensor | None) -> Tensor:
        """(B, V) logits of a step without a sounding token that stood too often in a row, and without those `sounding` (V,) where the text rests."""
        if max_repeat and step:
            stuck = self._repeats >= max_repeat
            if self._pacer is not None:
                stuck &= torch.from_numpy(self._pacer.sounds[self._pacer.pointer]).to(logits.device)
            barred = torch.zeros_like(logits, dtype=torch.bool).scatter(1, self.before(step, step + 1, len(logits)), stuck[:, None])
            logits = logits.masked_fill(barred, -torch.inf)
        if sounding is not None and self._pacer is not None:
            resting = torch.from_numpy(self._pacer.resting()).to(logits.device)
            logits = logits.masked_fill(resting[:, None] & sounding, -torch.inf)
        return logits

    def write(self, step: int, chosen: Tensor) -> None:
        """Take (B,) tokens, sung where the pointers stand."""
        if step:
            self._repeats = torch.where(chosen == self._written[:, step], self._repeats + 1, 0)
        self._written[:, step + 1] = chosen
        if self._pacer is not None:
            self.track[:, step] = self._pacer.pointer

    def follow_prompt(self, step: int) -> bool:
        """Stand where the prompt says that `step` is sung, if it says so."""
        if self._pacer is None or step >= len(self._known):
            return False
        self._pacer.follow(np.full(len(self._written), self._known[step]))
        return True

    def keep(self, rows: np.ndarray) -> None:
        """(B,) indices: candidate i goes on from what candidate `rows[i]` has written."""
        if self._pacer is not None:
            self._pacer.keep(rows)
        kept = torch.from_numpy(rows).to(self._written.device)
        self.track, self._written, self._repeats = self.track[rows], self._written[kept], self._repeats[kept]


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
