"""Sampling: the limits hold, the generator decides."""

import torch

from autosing.nn.sampling import filter_logits, guide, sample, sample_sure

LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 0.0, 5.0, 0.0]])


def test_top_k_and_top_p_leave_the_likeliest() -> None:
    assert filter_logits(LOGITS, top_k=2).isfinite().tolist()[0] == [True, True, False, False]
    assert filter_logits(LOGITS, top_p=0.5).isfinite().sum(-1).tolist() == [1, 1]
    assert filter_logits(LOGITS).isfinite().all()


def test_the_same_seed_gives_the_same_tokens_and_temperature_zero_the_likeliest() -> None:
    many = LOGITS[:1].expand(64, -1)
    first, again, other = (sample(many, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert sample(LOGITS, torch.Generator(), temperature=0.0).tolist() == [0, 2]


def test_a_draw_is_that_of_multinomial_and_of_lanes_together_that_of_each() -> None:
    logits = torch.randn(3, 5, 70, generator=torch.Generator().manual_seed(0)) * 3
    temperatures = torch.tensor([0.5, 0.7, 1.2])
    together, apart, plain = (torch.Generator().manual_seed(1) for _ in range(3))
    each = [sample(lane, apart, float(t)) for lane, t in zip(logits, temperatures, strict=True)]
    drawn = [torch.multinomial((lane / t).softmax(-1), 1, generator=plain)[:, 0] for lane, t in zip(logits, temperatures, strict=True)]
    assert torch.equal(sample(logits, together, temperatures[:, None, None]), torch.stack(each))
    assert torch.equal(torch.stack(each), torch.stack(drawn))
    assert torch.equal(sample(logits, together, temperature=0.0), logits.argmax(-1))


def test_guidance_of_one_changes_nothing() -> None:
    torch.testing.assert_close(guide(LOGITS, torch.zeros_like(LOGITS), 1.0), LOGITS)
    torch.testing.assert_close(guide(LOGITS, torch.zeros_like(LOGITS), 2.0), 2 * LOGITS)


def test_a_sure_draw_has_the_distribution_and_tells_its_probability() -> None:
    logits = LOGITS[:1].expand(20_000, -1)
    tokens, sure = sample_sure(logits, torch.Generator().manual_seed(0), temperature=0.7)
    wanted = (LOGITS[0] / 0.7).softmax(-1)
    torch.testing.assert_close(tokens.bincount(minlength=4) / len(tokens), wanted, atol=0.01, rtol=0)
    torch.testing.assert_close(sure.exp(), wanted[tokens])
    assert sample_sure(logits, torch.Generator(), top_k=2)[0].max() <= 1
    best, sure = sample_sure(LOGITS, torch.Generator(), temperature=0.0)
    assert best.tolist() == [0, 2] and torch.allclose(sure.exp(), LOGITS.softmax(-1).max(-1).values)
