"""What is left of the melody in tokens: a tokenizer that writes the pitch down, one that knows nothing of it; pitches at tokens."""

import numpy as np
import pytest
import torch

from autosing.evaluation.semantic import TokenisedSong, melody_correlation, read_out_scores, token_pitch


def song(seed: int) -> TokenisedSong:
    pitch = torch.randint(0, 12, (200,), generator=torch.Generator().manual_seed(seed))
    values = 60.0 + pitch.numpy() + 3 * seed  # another singer sings it higher
    values[::5] = np.nan
    return TokenisedSong("a", pitch, torch.zeros(200, 2, dtype=torch.long), (), torch.zeros(0, 80), torch.zeros(200, 80), values)


def test_tokens_that_are_the_pitch_tell_it_and_chance_tells_nothing() -> None:
    songs = [song(seed) for seed in range(4)]
    found = melody_correlation(songs, lambda s: torch.nn.functional.one_hot(s.tokens, 12).float())
    assert found["correlation"] > 0.95 and found["songs"] == 4
    assert found["intervals"]["correlation"][0] > 0.9
    noise = {id(s): torch.randn(200, 12, generator=torch.Generator().manual_seed(9 + i)) for i, s in enumerate(songs)}
    assert abs(melody_correlation(songs, lambda s: noise[id(s)])["correlation"]) < 0.25
    assert np.isnan(melody_correlation(songs[:1], lambda s: torch.zeros(200, 3))["correlation"])


def test_the_pitch_of_a_token_is_that_of_its_voiced_frames() -> None:
    f0 = np.array([440.0] * 8 + [0, 0, 0, 0, 880, 880, 880, 880] + [0] * 8 + [220.0] * 4)
    found = token_pitch(f0, 5, 25)
    assert found[:2] == pytest.approx([12 * np.log2(440), 12 * np.log2(880)]) and np.isnan(found[2])
    assert found[3] == pytest.approx(12 * np.log2(220)) and np.isnan(found[4])
    assert np.isnan(token_pitch(None, 3, 25)).all()


def test_read_out_scores_have_an_interval_over_songs() -> None:
    scores = read_out_scores(lambda tokens: torch.zeros(len(tokens), 2, dtype=torch.long), [song(0), song(2)])
    assert scores["frame_accuracy"] == 1.0 and scores["intervals"]["frame_accuracy"] == [1.0, 1.0]
