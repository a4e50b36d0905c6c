"""Words read off tokens while they are written: what counts as wrong, and that singing goes on with what reads best."""

import numpy as np
import pytest
import torch

from autosing.models.io import load_model
from autosing.models.recogniser import BLANK, CLASS_OF, SILENCE
from autosing.models.t2s import T2S
from autosing.singing.generate import generate_semantic, window_text
from autosing.singing.pace import FADING_STEPS, Schedule
from autosing.singing.reading import UNSAID, Reader, melodies_of
from autosing.tokens.edits import edit_distance
from autosing.tokens.pointer import steps_since_advance, with_opening_line
from autosing.tokens.text import LINE, PAUSE, load_text

FRONT_END = load_text("phones")
LINES = (("hold the morning light",), ("over the water",))
HELLO = with_opening_line(window_text(FRONT_END, [["sun moon"]], 10.0)).ids
PHONES = [CLASS_OF[FRONT_END.symbols[i]] for i in HELLO if FRONT_END.symbols[i] in CLASS_OF]


def reader_of(phones=lambda tokens: tokens) -> Reader:
    """Tokens that are phone classes themselves, one a frame."""
    return Reader(phones, FRONT_END)


def rows_of(*rows: list[int]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [SILENCE] * (longest - len(row)) for row in rows])


@pytest.fixture(scope="module")
def t2s() -> T2S:
    return load_model("builtin", "t2s")[0]


def test_a_held_phone_is_one_and_silence_and_blanks_are_none() -> None:
    a, b = PHONES[:2]
    assert reader_of().heard(torch.tensor([SILENCE, a, a, BLANK, b, b, SILENCE, b])).tolist() == [a, b, b]
    assert reader_of().heard(torch.zeros(0, dtype=torch.long)).tolist() == []


def test_faults_are_edits_up_to_where_the_pointer_is() -> None:
    wrong = [p if i != 1 else PHONES[-1] for i, p in enumerate(PHONES)]
    end = np.array([len(HELLO) - 1] * 3)
    tokens = rows_of(PHONES, wrong, PHONES[:1] + PHONES[2:])
    assert reader_of().faults(tokens, HELLO, end).tolist() == [0, 1, 1]
    first_word = int(np.flatnonzero(HELLO == PAUSE)[0])
    assert reader_of().faults(tokens[:1, :3], HELLO, np.array([first_word])).tolist() == [0]  # what is to come is no fault


def test_who_is_behind_is_charged_for_what_is_unsaid_and_no_more() -> None:
    first_word = int(np.flatnonzero(HELLO == PAUSE)[0])
    faults = reader_of().faults(rows_of(PHONES, PHONES[:3]), HELLO, np.array([len(HELLO) - 1, first_word]))
    assert faults.tolist() == [0, pytest.approx(UNSAID * (len(PHONES) - 3))]


def test_phones_at_the_pointer_need_not_be_heard_yet() -> None:
    at = np.array([len(HELLO) - 1])
    missing = [float(reader_of().faults(rows_of(PHONES[: len(PHONES) - count]), HELLO, at)[0]) for count in range(4)]
    assert missing == [0, 0, 0, 1]


def test_candidates_sing_half_as_many_melodies_in_turn(t2s: T2S) -> None:
    assert [melodies_of(candidates) for candidates in (1, 2, 3, 4, 16, 64)] == [1, 1, 2, 2, 8, 8]
    tokens, track = generate_semantic(
        t2s, LINES, None, steps=50, generator=torch.Generator().manual_seed(0), batch=4, reader=Reader.of(t2s, "builtin")
    )
    assert tokens.shape == track.pointer.shape == (4, 50)
    assert torch.equal(tokens[:2], tokens[2:]) and torch.equal(track.pointer[:2], track.pointer[2:]) and not torch.equal(tokens[0], tokens[1])


def test_the_words_are_read_better_than_without(t2s: T2S) -> None:
    reader = Reader.of(t2s, "builtin")
    assert reader is not None
    ids = window_text(FRONT_END, LINES, 6.0).ids
    written = [CLASS_OF[FRONT_END.symbols[i]] for i in ids if FRONT_END.symbols[i] in CLASS_OF]
    wrong = lambda rows: [edit_distance(written, reader.heard(row).tolist()) for row in rows]  # noqa: E731
    sing = lambda reader, seed, batch: generate_semantic(  # noqa: E731
        t2s, LINES, None, steps=150, generator=torch.Generator().manual_seed(seed), batch=batch, reader=reader
    )
    read = [sing(reader, seed, 3) for seed in range(2)]
    for tokens, track in read:
        assert tokens.shape == track.pointer.shape == (3, 150)
        assert track.words(0)[-1][1] <= 6.0
    assert torch.equal(read[0][0], sing(reader, 0, 3)[0])
    plain = [count for seed in range(2) for count in wrong(sing(None, seed, 8)[0])]
    read_best = [count for tokens, _ in read for count in wrong(tokens)]
    assert sum(read_best) / len(read_best) <= 0.5 * sum(plain) / len(plain)


def test_who_would_hum_through_a_rest_is_silent(t2s: T2S, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader.of(t2s, "builtin")
    assert reader is not None
    codes = t2s.config.semantic.num_codes
    silent = reader.silent(codes)
    assert 0 < silent.sum() < codes / 4
    humming = torch.where(silent, 0.0, 100.0)
    plain = t2s.semantic_logits
    monkeypatch.setattr(t2s, "semantic_logits", lambda hidden: plain(hidden) + humming)
    # the first line has to wait until the last two seconds of the half minute's first ten
    ids = window_text(FRONT_END, LINES, 20.0)
    middle = int(np.flatnonzero(ids.ids == LINE)[0]) + 1
    schedule = Schedule(np.array([1, middle, len(ids.ids) + 1]), np.array([100, 150, 250]), np.array([100, 150, 250]))
    tokens, track = generate_semantic(
        t2s, ids, None, steps=250, generator=torch.Generator().manual_seed(0), batch=2, reader=reader, schedule=schedule
    )
    for row, pointer in zip(tokens, track.pointer.numpy(), strict=True):
        at_rest = np.isin(track.ids[pointer], (LINE, PAUSE)) & (steps_since_advance(pointer) >= FADING_STEPS)
        assert at_rest.sum() > 60
        assert silent[row].numpy().tolist() == at_rest.tolist()


def test_nothing_is_silent_to_who_reads_no_silence() -> None:
    assert reader_of(lambda tokens: torch.full_like(tokens, PHONES[0])).silent(7).tolist() == [True] * 7  # so nothing is asked for


def test_a_prompt_stays_and_is_gone_on_from(t2s: T2S) -> None:
    ids = window_text(FRONT_END, LINES, 8.0)
    begun, track = generate_semantic(t2s, ids, None, steps=100, generator=torch.Generator().manual_seed(3))
    reader = Reader.of(t2s, "builtin")
    known = track.pointer[0].numpy()
    tokens, whole = generate_semantic(
        t2s, ids, None, steps=200, generator=torch.Generator().manual_seed(4), batch=2, prompt=begun[0], prompt_pointer=known, reader=reader
    )
    assert torch.equal(tokens[:, :100], begun.expand(2, -1)) and torch.equal(whole.pointer[:, :100], track.pointer.expand(2, -1))


def test_only_what_the_model_writes_is_read(t2s: T2S, monkeypatch: pytest.MonkeyPatch) -> None:
    other = T2S(t2s.config)  # a codebook of another fit
    assert Reader.of(other, "builtin") is None
    monkeypatch.setattr("autosing.singing.reading.load_semantic", lambda *_: pytest.fail("a tokenizer that knows of no phones was loaded"))
    assert Reader.of(t2s, "whisper_vq") is None
