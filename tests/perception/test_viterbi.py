"""The two recursions against every path written out."""

import itertools

import numpy as np
import pytest
import torch

from autosing.perception.alignment.viterbi import Chain, arrivals, best_path, ctc_chain, occupancy


def _paths(chain: Chain, frames: int):
    """Every path of a chain with its prior probability, gates left out."""
    count = len(chain.emits)
    for steps in itertools.product(range(4), repeat=frames - 1):
        for begin in range(len(chain.start)):
            path = begin + np.concatenate([[0], np.cumsum(steps)])
            if path[-1] >= count or path[-1] < count - 3:
                continue
            probability = chain.start[begin]
            for here, move in zip(path, steps, strict=False):
                probability *= chain.stay[here] if move == 0 else chain.step[move - 1, here]
            yield path, probability


def test_arrivals_equal_the_sum_over_all_paths():
    rng = np.random.default_rng(0)
    frames, count, classes = 7, 6, 4
    step = rng.random((3, count))
    chain = Chain(
        emits=rng.integers(0, classes, count), stay=rng.random(count), step=step, start=np.array([0.5, 0.3]),
        parts=np.array([0, 2, 3, 5]), gates=np.array([2, 4]),
    )  # fmt: skip
    likelihood, gates = rng.random((frames, classes)) + 0.1, rng.random((2, frames)) + 0.1
    begun, total = np.zeros((4, frames)), 0.0
    for path, probability in _paths(chain, frames):
        weight = probability * np.prod(likelihood[np.arange(frames), chain.emits[path]])
        for g, state in enumerate(chain.gates):
            entered = np.flatnonzero(path == state)
            if len(entered) and (entered[0] > 0 or path[0] == state):
                weight *= gates[g, entered[0]]
        total += weight
        begun += weight * (path[None] >= chain.parts[:, None])
    found = arrivals(likelihood, chain, gates)
    np.testing.assert_allclose(found.begun, begun / total, rtol=1e-5, atol=1e-7)
    assert found.log_likelihood == pytest.approx(np.log(total), rel=1e-6)


def test_a_tilt_and_blocks_change_nothing(monkeypatch):
    from autosing.perception.alignment import viterbi

    rng = np.random.default_rng(3)
    frames, count = 40, 12
    chain = Chain(
        emits=rng.integers(0, 4, count), stay=np.full(count, 0.6), step=np.tile([[0.3], [0.1], [0.0]], count), start=np.array([0.7, 0.3]),
        parts=np.arange(count), gates=np.array([4]),
    )  # fmt: skip
    likelihood, gates = rng.random((frames, 4)) + 0.1, rng.random((1, frames)) + 0.1
    plain = arrivals(likelihood, chain, gates)
    monkeypatch.setattr(viterbi, "_TILTS", (0.7,))
    monkeypatch.setattr(viterbi, "_BLOCK", 3)
    monkeypatch.setattr(viterbi, "_KEPT_CELLS", 0)
    monkeypatch.setattr(viterbi, "_STRETCH", 3)
    tilted = arrivals(likelihood, chain, gates)
    np.testing.assert_allclose(tilted.begun, plain.begun, atol=1e-6)
    assert tilted.log_likelihood == pytest.approx(plain.log_likelihood)


@pytest.mark.parametrize(("labels", "frames"), [([1], 1), ([1, 2, 2, 3], 9), ([2, 2, 2], 5), ([1, 3, 2, 1, 1, 3] * 20, 300)])
@pytest.mark.parametrize("kept", [0, 10**9])
def test_occupancy_is_the_gradient_of_the_ctc_loss(labels, frames, kept, monkeypatch):
    from autosing.perception.alignment import viterbi

    monkeypatch.setattr(viterbi, "_KEPT_CELLS", kept)
    log_probs = torch.randn(frames, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64).mul(3).log_softmax(-1).requires_grad_()
    lengths = torch.tensor([frames]), torch.tensor([len(labels)])
    loss = torch.nn.functional.ctc_loss(log_probs[:, None], torch.tensor([labels]), *lengths, blank=4, reduction="sum")
    (by_logits,) = torch.autograd.grad(loss, log_probs)  # torch gives the gradient by what went into the softmax: probability - share
    found = occupancy(log_probs.detach().exp().numpy(), ctc_chain(labels, 4))
    np.testing.assert_allclose(found.shares, (log_probs.exp() - by_logits).detach().numpy(), atol=1e-9)
    np.testing.assert_allclose(found.shares.sum(1), 1.0)
    assert found.log_likelihood == pytest.approx(-loss.item())


def test_words_that_nothing_speaks_for_until_the_end_are_found():
    """The path that gets everywhere in time is for long less probable than one that stays behind, by more than a double holds."""
    frames, labels = 2000, [1] * 900
    probs = np.tile([0.98, 0.02], (frames, 1))
    found = occupancy(probs, ctc_chain(labels, 0))
    log_probs = torch.from_numpy(np.log(probs))[:, None].requires_grad_()
    loss = torch.nn.functional.ctc_loss(log_probs, torch.tensor([labels]), torch.tensor([frames]), torch.tensor([900]), blank=0, reduction="sum")
    (by_logits,) = torch.autograd.grad(loss, log_probs)
    assert found.log_likelihood == pytest.approx(-loss.item())
    np.testing.assert_allclose(found.shares, (log_probs.exp() - by_logits)[:, 0].detach().numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="frames"):
        occupancy(probs[:1798], ctc_chain(labels, 0))


def test_arrivals_refuses_too_few_frames():
    chain = Chain(np.zeros(9, int), np.full(9, 0.5), np.array([[0.5] * 9, [0.0] * 9, [0.0] * 9]), np.ones(1),
                  np.arange(9), np.zeros(0, int))  # fmt: skip
    with pytest.raises(ValueError, match="frames"):
        arrivals(np.ones((4, 1)), chain, np.zeros((0, 4)))


def test_best_path_equals_brute_force():
    rng = np.random.default_rng(1)
    states, optional = np.array([0, 1, 0, 2, 0]), np.array([True, False, True, False, True])
    log_probs = np.log(rng.dirichlet(np.ones(3), 7)).astype(np.float32)
    best, best_score = None, -np.inf
    for path in itertools.product(range(5), repeat=7):
        moves = np.diff(path)
        fits = path[0] in (0, 1) and path[-1] in (3, 4) and all(
            m in (0, 1) or (m == 2 and optional[p + 1]) for p, m in zip(path, moves, strict=False)
        )  # fmt: skip
        score = log_probs[np.arange(7), states[list(path)]].sum()
        if fits and score > best_score:
            best, best_score = path, score
    assert tuple(best_path(log_probs, states, optional)) == best


def test_a_whole_song_of_forced_steps_has_its_path():
    rng = np.random.default_rng(2)
    count, frames = 3000, 4000
    states = rng.integers(1, 40, count)
    states[::4] = 0
    optional = np.arange(count) % 4 == 0
    path = best_path(np.log(rng.dirichlet(np.ones(40), frames)).astype(np.float32), states, optional)
    assert (np.diff(path) >= 0).all() and path[-1] >= count - 2
