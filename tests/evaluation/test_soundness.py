"""Samples that get stuck, drop out or stay mute, and one that is sound."""

import torch

from autosing.evaluation.soundness import examine, quiet_tokens, summary

RATE, TOKENS = 25, 250  # ten seconds


def sample(tokens=None, silent: tuple[float, float] | None = None, heard=("AA",), sung=None):
    vocals = torch.randn(TOKENS * 1000 // RATE, generator=torch.Generator().manual_seed(0))
    if silent:
        vocals[round(silent[0] * 1000) : round(silent[1] * 1000)] = 0
    tokens = torch.arange(TOKENS) % 7 if tokens is None else tokens
    return examine(tokens, torch.ones(TOKENS, dtype=torch.bool) if sung is None else sung, RATE, vocals, 1000, heard)


def test_a_sound_sample_has_no_fault() -> None:
    found = sample()
    assert not found.faulty and found.held_seconds == 1 / RATE


def test_one_sound_held_longer_than_anyone_holds_is_stuck_and_a_rest_is_not() -> None:
    held = torch.zeros(TOKENS, dtype=torch.long)
    assert sample(held).stuck
    held[::50] = 3  # two seconds each
    assert not sample(held).stuck
    assert not sample(torch.zeros(TOKENS, dtype=torch.long), sung=torch.zeros(TOKENS, dtype=torch.bool)).stuck


def test_silence_where_the_tokens_sing_is_a_dropout_and_elsewhere_a_rest() -> None:
    assert sample(silent=(4.0, 4.6)).dropouts == 1
    assert sample(silent=(4.0, 4.3)).dropouts == 0
    resting = torch.ones(TOKENS, dtype=torch.bool)
    resting[95:120] = False
    assert not sample(silent=(4.0, 4.6), sung=resting).faulty


def test_nothing_heard_is_mute_and_all_is_counted() -> None:
    assert sample(heard=()).mute
    found = summary([sample(), sample(heard=()), sample(silent=(4.0, 6.0))])
    assert (found["samples"], found["faulty"], found["mute"], found["with_dropouts"], found["stuck"]) == (3, 2, 1, 1, 0)


def test_runs_and_silence_of_nothing() -> None:
    assert quiet_tokens(torch.zeros(100), 4, 25, 1000).all()
