"""Decode loops: the same seed sings the same, every word is sung in time, given tokens are kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autosing.errors import ConfigError
from autosing.models.io import load_model
from autosing.models.sm2a import SM2A, SM2AConfig
from autosing.models.t2s import T2S, T2SConfig, T2SSource
from autosing.nn.decode import Stepper
from autosing.nn.int8 import ENGINE
from autosing.nn.sampling import guide
from autosing.singing.generate import Track, generate_semantic, window_text
from autosing.singing.pace import BRISK, LONGEST_STEPS, Pacer
from autosing.singing.stepwise import generate_codes
from autosing.tokens.pointer import MAX_ADVANCE
from autosing.tokens.text import LINE, PAD, PAUSE, UNKNOWN, TimedText
from tests.sequence_rows import BAND, CODEC, SEMANTIC, VOICE, wake

T2S_CONFIG = T2SConfig(
    heads=1, encoder_depth=1, music_depth=0, decoder_depth=1, text="phones", text_vocab=43, semantic=SEMANTIC, accompaniment=BAND
)
SM2A_CONFIG = SM2AConfig(
    heads=1, encoder_depth=1, music_depth=1, decoder_depth=1, semantic=SEMANTIC, codec=CODEC, voice=VOICE, accompaniment=BAND
)
FRAMES = CODEC.frames(2.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text_of(words: int, phones: int = 3, line_at: int | None = None) -> TimedText:
    ids: list[int] = []
    for word in range(words):
        if word == line_at:
            ids.append(LINE)
        ids += [4 + (word + i) % 30 for i in range(phones)] + [PAUSE]
    unknown = np.full(len(ids), np.nan)
    return TimedText(np.array(ids), unknown, unknown)


@pytest.fixture(scope="module")
def t2s() -> T2S:
    torch.manual_seed(0)
    return wake(T2S(T2S_CONFIG))


@pytest.fixture(scope="module")
def sm2a() -> SM2A:
    torch.manual_seed(0)
    return wake(SM2A(SM2A_CONFIG))


def test_the_same_seed_sings_the_same_tokens(t2s: T2S) -> None:
    sing = lambda seed: generate_semantic(t2s, text_of(4), None, steps=100, generator=seeded(seed), batch=2)  # noqa: E731
    (first, track), (again, _), (other, _) = sing(1), sing(1), sing(2)
    assert first.shape == (2, 100) and first.min() >= 0
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first[0], first[1])
    assert track.pointer is not None and (track.pointer.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("words", [3, 12, 24])
def test_every_word_is_sung_before_its_half_is_over(t2s: T2S, words: int) -> None:
    _tokens, track = generate_semantic(t2s, text_of(words, line_at=words // 2), None, steps=200, generator=seeded(), batch=2)
    assert track.pointer is not None
    half = int(np.flatnonzero(track.ids == LINE)[1])
    sounds = np.flatnonzero((track.ids != LINE) & (track.ids != PAUSE))
    for row, pointer in enumerate(track.pointer.numpy()):
        assert pointer[99] < half <= pointer[101]
        assert set(sounds) <= set(pointer.tolist())
        times = track.words(row)
        assert len(times) == words and all(end > start for start, end in times)


def test_a_text_that_cannot_be_sung_in_time_is_cut_not_stalled(t2s: T2S) -> None:
    _tokens, track = generate_semantic(t2s, text_of(80, line_at=70), None, steps=100, generator=seeded())
    assert track.pointer is not None and track.pointer[0, 50] >= 280


def test_a_prompt_is_kept_and_guidance_runs(t2s: T2S) -> None:
    prompt = torch.arange(10)
    tokens, _ = generate_semantic(
        t2s, text_of(3), torch.zeros(1, 4, 128, dtype=torch.long), steps=60, generator=seeded(), batch=2, prompt=prompt, guidance=1.5
    )
    assert torch.equal(tokens[:, :10], prompt.expand(2, -1)) and tokens.shape == (2, 60)


def test_a_prompt_is_taken_at_once_as_it_is_step_by_step(t2s: T2S, monkeypatch: pytest.MonkeyPatch) -> None:
    def sing(prompt: torch.Tensor | None = None, pointer: np.ndarray | None = None) -> tuple[torch.Tensor, Track]:
        return generate_semantic(t2s, text_of(3), None, steps=60, generator=seeded(), batch=2, prompt=prompt, prompt_pointer=pointer)

    earlier, track = sing()
    assert track.pointer is not None
    given = [(earlier[:1, :steps], track.pointer[0, :known].numpy() if known else None) for steps, known in ((1, 1), (2, 2), (25, 25), (25, 9), (25, 0))]
    at_once = [sing(*prompt) for prompt in given]
    monkeypatch.setattr(Stepper, "begin", lambda self, x: [self(x[:, step]) for step in range(x.shape[1])])
    for (tokens, found), prompt in zip(at_once, given, strict=True):
        slow, slow_track = sing(*prompt)
        assert torch.equal(tokens, slow) and found.pointer is not None and torch.equal(found.pointer, slow_track.pointer)
        assert torch.equal(tokens[:, : prompt[0].shape[1]], prompt[0].expand(2, -1))


def test_a_sounding_token_is_not_repeated_for_ever() -> None:
    torch.manual_seed(0)
    model = wake(T2S(replace(T2S_CONFIG, pointer=False)))
    with torch.no_grad():
        model.semantic.bias[7] = 100.0
    tokens, track = generate_semantic(model, text_of(3), None, steps=60, generator=seeded(), max_repeat=20)
    same = (tokens[0, 1:] == tokens[0, :-1]).int().tolist()
    assert max(len(run) for run in "".join(map(str, same)).split("0")) <= 20
    with pytest.raises(ConfigError, match="no pointer"):
        track.words(0)


class Letters:
    """A front end that reads letters."""

    def ids_for(self, lines: list[str]) -> TimedText:
        ids = [i for word in lines[0].split() for i in (*(ord(c) - 90 for c in word), PAUSE)]
        return TimedText(np.array(ids), np.full(len(ids), np.nan), np.full(len(ids), np.nan))


def test_one_line_governs_both_halves_of_a_long_window() -> None:
    front_end = Letters()
    alone = window_text(front_end, (("la la la la",), ()), 30.0).ids  # type: ignore[arg-type]
    assert (alone == LINE).sum() == 1 and (alone == PAUSE).sum() == 4 and alone[6] == LINE
    both = window_text(front_end, (("la",), ("la la",)), 30.0).ids  # type: ignore[arg-type]
    assert both[3] == LINE
    assert (window_text(front_end, (("la la la la",), ()), 15.0).ids == LINE).sum() == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [4.0, 15.0, 20.0])
def test_two_lines_govern_a_half_each_in_short_windows_too(t2s: T2S, seconds: float) -> None:
    text = window_text(Letters(), (("la la",), ("li li",)), seconds)  # type: ignore[arg-type]
    assert text.ids[6] == LINE and (text.ids == LINE).sum() == 1
    steps = round(seconds * SEMANTIC.token_rate)
    _tokens, track = generate_semantic(t2s, text, None, steps=steps, generator=seeded(), batch=2)
    assert track.pointer is not None
    for row, pointer in enumerate(track.pointer.numpy()):
        assert pointer[steps // 2 - 1] < 7 <= pointer[(steps + 1) // 2]
        starts = [start for start, _ in track.words(row)]
        assert max(starts[:2]) < seconds / 2 <= min(starts[2:])


def test_the_pacer_waits_for_the_half_and_skips_no_sound() -> None:
    ids = np.array([LINE, 5, 6, PAUSE, LINE, 7, PAUSE])
    pacer = Pacer(ids, 40, 1)
    eager = torch.tensor([[0.0, 1.0, 2.0, 9.0]])
    seen = []
    for step in range(40):
        seen.append(int(pacer.pointer[0]))
        pacer.move(pacer.steer(eager, step).argmax(-1).numpy(), step)
    assert seen[19] == 3 and seen[20] == 4 and set(seen) >= {1, 2, 5}


def steer_slowly(pacer: Pacer, logits: torch.Tensor, step: int) -> torch.Tensor:
    """One candidate and one advance after the other."""
    sections, lefts, times = pacer._left(step)
    steered = logits.clone()
    for row, (section, left, time) in enumerate(zip(sections, lefts, times, strict=True)):
        at, end, rate = pacer.pointer[row], pacer.ends[section], left / max(time - 2, 1)
        late = time <= 1
        limit = end if (late or step + 1 >= pacer.opens[section]) and end < len(pacer.ids) else end - 1
        if left and rate > BRISK:
            steered[row, 1:] += 8.0 * (rate - BRISK)
        if pacer.sounds[at] and pacer.since[row] > LONGEST_STEPS:
            steered[row, 1:] += 0.2 * (pacer.since[row] - LONGEST_STEPS)
        least = min(int(rate + 1e-6), MAX_ADVANCE) if left else 0
        if late and limit == end:
            least = 1
        for advance in range(MAX_ADVANCE + 1):
            skipped = pacer.sounds[at + 1 : at + advance].any()
            if (at + advance > limit and advance > 0) or (skipped and advance > least) or advance < min(least, limit - at):
                steered[row, advance] = -torch.inf
    return steered


def test_candidates_are_steered_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    barred = hurried = 0
    for _ in range(40):
        ids = np.concatenate([[LINE], rng.choice([LINE, PAUSE, 5, 6, 7, 8], size=rng.integers(1, 60))])
        steps = int(rng.integers(20, 160))
        pacer = Pacer(ids, steps, 3)
        for step in range(0, steps, 3):
            pacer.pointer, pacer.since = rng.integers(0, len(ids), 3), rng.integers(0, 80, 3)
            logits = torch.from_numpy(rng.normal(size=(3, MAX_ADVANCE + 1))).float()
            wanted = steer_slowly(pacer, logits, step)
            torch.testing.assert_close(pacer.steer(logits, step), wanted)
            barred += int(wanted.isinf().sum())
            hurried += int((wanted > logits).sum())
    assert barred > 100 and hurried > 100


@torch.no_grad()
@pytest.mark.parametrize("pointer", [True, False])
@pytest.mark.parametrize("lean", [1.0, 2.5])
def test_cold_words_equal_the_likeliest_tokens_of_whole_forwards(pointer: bool, lean: float) -> None:
    """Two candidates whose pointers go their own ways; logits of whole forwards with and without the text, extrapolated."""
    torch.manual_seed(0)
    model, steps = wake(T2S(replace(T2S_CONFIG, pointer=pointer))), 60
    music = torch.randint(0, BAND.num_codes, (1, 4, BAND.frames(steps / 25)), generator=seeded())
    tokens, track = generate_semantic(
        model, text_of(5), music, steps=steps, generator=seeded(), batch=2, temperature=0.0, guidance=lean, max_repeat=0
    )
    music[:, model.config.shown_levels :] = CODEC.HOLE
    grid, rate = model.music_grid(music, 1, music.shape[-1], torch.device("cpu")), torch.tensor([len(track.ids) / (steps / 25)])
    texts = [track.ids, np.concatenate([[UNKNOWN], np.full(len(track.ids) - 1, PAD)])]
    told, untold = (
        model.encode(torch.from_numpy(ids)[None], rate if ids is track.ids else torch.tensor([25 / steps]), torch.zeros(1, dtype=torch.long), grid, steps)
        for ids in texts
    )
    pacer, conditions = Pacer(track.ids, steps, 2), []
    for step in range(steps):
        conditions.append(torch.from_numpy(pacer.conditions(step, 4)))
        if track.pointer is not None and step + 1 < steps:
            pacer.follow(track.pointer[:, step + 1].numpy())
    track_of = torch.cat(conditions, 2)
    previous = torch.nn.functional.pad(tokens[:, :-1], (1, 0), value=CODEC.HOLE)
    given, without = (tuple(part) if pointer else () for part in (track_of[:, :2], track_of[:, 2:]))
    logits = model.semantic_logits(model.decode(previous, T2SSource.stack([told], 2), *given))
    if lean != 1.0:
        logits = guide(logits, model.semantic_logits(model.decode(previous, T2SSource.stack([untold], 2), *without)), lean)
    assert torch.equal(logits.argmax(-1), tokens)


@pytest.mark.skipif(ENGINE not in torch.backends.quantized.supported_engines, reason="int8 needs an x86 processor")
@torch.no_grad()
def test_int8_is_near_what_the_shipped_weights_say() -> None:
    """Both shipped models on what they sang: the share of the likeliest tokens that stay, and how far logits move beside how far they lie apart."""
    t2s, sm2a = load_model("builtin", "t2s")[0], load_model("builtin", "sm2a")[0]
    words = window_text(Letters(), (("la lo",), ("li lu",)), 4.0)  # type: ignore[arg-type]
    semantic, _ = generate_semantic(t2s, words, None, steps=100, generator=seeded(), guidance=1.0)
    frames, pattern = sm2a.config.codec.frames(4.0), sm2a.pattern("bricks")
    grid = pattern.apply(generate_codes(sm2a, semantic, None, None, frames=frames, generator=seeded(), semantic_guidance=1.0), sm2a.config.codec)
    previous = torch.nn.functional.pad(grid[..., :-1], (1, 0), value=CODEC.HOLE)
    music = sm2a.music_grid(None, 1, sm2a.config.accompaniment.frames(4.0), torch.device("cpu"))
    source = sm2a.encode(semantic, music, None, pattern, grid.shape[-1])

    def logits() -> torch.Tensor:
        hidden, heads = sm2a.decode(previous, source)[0, 4:-4], sm2a.ends().heads
        return torch.stack([head(hidden) for head in heads])

    exact = logits()
    sm2a.use_int8()
    near = logits()
    assert 0 < (near - exact).std() < 0.1 * exact.std()
    assert (near.argmax(-1) == exact.argmax(-1)).float().mean() > 0.9
    again = generate_codes(sm2a, semantic, None, None, frames=frames, generator=seeded(), semantic_guidance=1.0)
    assert again.shape == (1, 4, frames) and torch.equal(again, generate_codes(sm2a, semantic, None, None, frames=frames, generator=seeded(), semantic_guidance=1.0))
    t2s.use_int8()
    assert generate_semantic(t2s, words, None, steps=100, generator=seeded(), guidance=1.0)[0].shape == (1, 100)


def test_an_unknown_language_is_refused(t2s: T2S) -> None:
    with pytest.raises(ConfigError, match="'de'"):
        generate_semantic(t2s, text_of(2), None, steps=10, generator=seeded(), language="de")


@pytest.mark.parametrize("pattern", ["bricks", "bricks_unrolled"])
def test_codes_are_where_the_codec_has_them(sm2a: SM2A, pattern: str) -> None:
    semantic = torch.randint(0, SEMANTIC.num_codes, (2, 50), generator=seeded())
    voice = torch.nn.functional.normalize(torch.randn(1, 1, VOICE.width, generator=seeded()), dim=-1)
    music = torch.zeros(1, 4, FRAMES, dtype=torch.long)
    sing = lambda seed: generate_codes(sm2a, semantic, music, voice, frames=FRAMES, generator=seeded(seed), pattern=pattern)  # noqa: E731
    codes = sing(1)
    assert codes.shape == (2, 4, FRAMES)
    for level, stride in enumerate(CODEC.strides):
        on = torch.arange(FRAMES) % stride == 0
        assert (codes[:, level, on] >= 0).all() and (codes[:, level, on] < CODEC.num_codes).all()
        assert (codes[:, level, ~on] == CODEC.HOLE).all()
    assert torch.equal(codes, sing(1)) and not torch.equal(codes, sing(2))


def test_given_codes_are_kept_and_conditions_may_be_absent(sm2a: SM2A) -> None:
    semantic = torch.zeros(1, 50, dtype=torch.long)
    template = torch.full((1, 4, FRAMES), CODEC.HOLE)
    template[:, 1, ::4] = 5
    template[:, 0, :16:8] = 9
    codes = generate_codes(sm2a, semantic, None, None, frames=FRAMES, generator=seeded(), template=template, guidance=1.5, top_k=8)
    assert (codes[:, 1, ::4] == 5).all() and (codes[:, 0, :16:8] == 9).all()
    assert (codes[:, 3] >= 0).all()


@pytest.mark.parametrize("name", ["bricks", "bricks_unrolled"])
def test_guidance_towards_the_words_leans_away_from_what_is_likely_without_them(sm2a: SM2A, name: str) -> None:
    """Slow reference: logits of whole forwards with and without semantic tokens, extrapolated, must be where cold singing went."""
    semantic = torch.randint(0, SEMANTIC.num_codes, (1, 50), generator=seeded())
    cold = {lean: generate_codes(sm2a, semantic, None, None, frames=FRAMES, generator=seeded(), temperature=0.0, semantic_guidance=lean, pattern=name)
            for lean in (1.0, 3.0)}  # fmt: skip
    assert not torch.equal(cold[1.0], cold[3.0])
    pattern = sm2a.pattern(name)
    grid = pattern.apply(cold[3.0], CODEC)
    previous = torch.nn.functional.pad(grid[..., :-1], (1, 0), value=CODEC.HOLE)
    with torch.no_grad():
        music = sm2a.music_grid(None, 1, BAND.frames(CODEC.seconds(FRAMES)), torch.device("cpu"))
        told, untold = (
            sm2a.decode(previous, sm2a.encode(tokens, music, None, pattern, grid.shape[-1]))
            for tokens in (semantic, torch.full_like(semantic, -1))
        )
        for lane in range(grid.shape[1]):
            live = grid[0, lane] >= 0
            with_words, without = sm2a.lane_logits(told[0, live], lane), sm2a.lane_logits(untold[0, live], lane)
            assert torch.equal((without + 3.0 * (with_words - without)).argmax(-1), grid[0, lane, live])


@pytest.mark.parametrize("name", ["bricks", "bricks_unrolled"])
def test_cold_singing_equals_the_likeliest_codes_of_one_forward(sm2a: SM2A, name: str) -> None:
    """Feeding the generated grid back at once must predict that very grid."""
    semantic = torch.randint(0, SEMANTIC.num_codes, (1, 50), generator=seeded())
    codes = generate_codes(sm2a, semantic, None, None, frames=FRAMES, generator=seeded(), temperature=0.0, semantic_guidance=1.0, pattern=name)
    pattern = sm2a.pattern(name)
    grid = pattern.apply(codes, CODEC)
    previous = torch.nn.functional.pad(grid[..., :-1], (1, 0), value=CODEC.HOLE)
    with torch.no_grad():
        music = sm2a.music_grid(None, 1, BAND.frames(CODEC.seconds(FRAMES)), torch.device("cpu"))
        hidden = sm2a.decode(previous, sm2a.encode(semantic, music, None, pattern, grid.shape[-1]))
        for lane in range(grid.shape[1]):
            live = grid[0, lane] >= 0
            torch.testing.assert_close(sm2a.lane_logits(hidden[0, live], lane).argmax(-1), grid[0, lane, live])


def test_progress_is_told_every_step_and_changes_nothing(t2s: T2S, sm2a: SM2A) -> None:
    told: list[tuple[int, int]] = []
    tell = lambda done, total: told.append((done, total))  # noqa: E731
    sing = lambda progress: generate_semantic(t2s, text_of(2), None, steps=50, generator=seeded(), progress=progress)[0]  # noqa: E731
    semantic = sing(tell)
    assert told == [(done, 50) for done in range(1, 51)] and torch.equal(semantic, sing(None))
    told.clear()
    code = lambda progress: generate_codes(sm2a, semantic, None, None, frames=FRAMES, generator=seeded(), progress=progress)  # noqa: E731
    codes = code(tell)
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1)) and torch.equal(codes, code(None))
