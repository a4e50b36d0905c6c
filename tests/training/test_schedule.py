"""Learning-rate factors against values worked out by hand."""

import itertools

import pytest

from autosing.errors import ConfigError
from autosing.training.schedule import DECAYS, lr_factor, warmup_steps


def test_warmup_takes_at_most_a_tenth():
    assert warmup_steps(2000, 100_000) == 2000
    assert warmup_steps(2000, 1000) == 100
    assert warmup_steps(2000, 5) == 0


@pytest.mark.parametrize("schedule", DECAYS)
def test_climbs_to_one_then_never_rises(schedule):
    factors = [lr_factor(schedule, s, 200, 20) for s in range(200)]
    assert factors[:20] == pytest.approx([(s + 1) / 20 for s in range(20)])
    assert factors[20] == 1
    assert all(a >= b > 0 for a, b in itertools.pairwise(factors[20:]))


def test_ends():
    assert lr_factor("cosine", 99, 100, 10) == pytest.approx(1 / 25)
    assert lr_factor("linear", 99, 100, 10) == pytest.approx(1 / 25)
    assert lr_factor("wsd", 99, 100, 10) == pytest.approx(1 / 8)
    assert lr_factor("const", 99, 100, 10) == 1


def test_halfway():
    assert lr_factor("cosine", 50, 101, 0) == pytest.approx((1 + 1 / 25) / 2)
    assert lr_factor("linear", 25, 101, 0) == pytest.approx(1 - 0.25 * 24 / 25)
    assert [lr_factor("wsd", s, 101, 0) for s in (0, 50, 90)] == [1, 1, pytest.approx(1)]
    assert lr_factor("wsd", 95, 101, 0) == pytest.approx(1 - 0.5 * 7 / 8)


def test_past_the_end_stays_at_the_end():
    assert lr_factor("cosine", 1e6, 100, 10) == pytest.approx(1 / 25)


def test_one_step():
    assert lr_factor("cosine", 0, 1, 0) == 1


def test_unknown_schedule_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        lr_factor("cosin", 0, 1, 0)
