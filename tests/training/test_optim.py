"""Parameter rules become groups; the moving average; the state's round trip."""

import pytest
import torch
from torch import nn

from autosing.errors import ConfigError
from autosing.training.optim import (
    AveragedWeights,
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    rule_for,
    set_learning_rate,
)
from autosing.training.task import OptimTunables, ParamRule

RULES = [ParamRule(r"^0\.", frozen=True), ParamRule("bias$", decay=False), ParamRule(r"^1\.", lr_scale=0.25)]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1))


def test_first_matching_rule_wins():
    assert rule_for("1.bias", RULES).decay is False
    assert rule_for("1.weight", RULES).lr_scale == 0.25
    assert rule_for("2.weight", RULES) == ParamRule("")


def test_groups():
    net = model()
    optimizer = build_optimizer(net, RULES, OptimTunables(lr0=0.1, weight_decay=0.01))
    set_learning_rate(optimizer, 0.1)
    names = {id(p): n for n, p in net.named_parameters()}
    groups = {tuple(names[id(p)] for p in g["params"]): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert groups == {("1.weight",): (0.025, 0.01), ("1.bias", "2.bias"): (0.1, 0.0), ("2.weight",): (0.1, 0.01)}
    assert not net[0].weight.requires_grad


def test_all_frozen_is_refused():
    with pytest.raises(ConfigError, match="frozen"):
        build_optimizer(model(), [ParamRule("", frozen=True)], OptimTunables())


def test_update_scales_with_the_rule():
    net = model()
    optimizer = build_optimizer(net, RULES, OptimTunables(weight_decay=0.0))
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    net(torch.ones(2, 3)).sum().backward()
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    moved = {n: (p - before[n]).abs().max().item() for n, p in net.named_parameters()}
    assert moved["0.weight"] == 0
    assert moved["1.weight"] == pytest.approx(0.025, rel=1e-3)  # Adam's first step is its learning rate
    assert moved["2.weight"] == pytest.approx(0.1, rel=1e-3)


def test_state_round_trip_gives_the_same_next_step():
    nets = [model(), model()]
    optimizers = [build_optimizer(net, RULES, OptimTunables()) for net in nets]
    x = torch.randn(5, 3)

    def step(i: int) -> None:
        nets[i](x).square().sum().backward()
        optimizers[i].step()
        optimizers[i].zero_grad()

    step(0)
    nets[1].load_state_dict(nets[0].state_dict())
    load_optimizer_tensors(nets[1], optimizers[1], optimizer_tensors(nets[0], optimizers[0]))
    step(0)
    step(1)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_moments_are_laid_out_as_their_weights():
    """Fused AdamW pairs them by address."""
    nets = [nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    optimizers = [build_optimizer(net, [], OptimTunables()) for net in nets]
    nets[0](torch.randn(2, 3, 5, 5)).square().sum().backward()
    optimizers[0].step()
    saved = {key: value.contiguous() for key, value in optimizer_tensors(nets[0], optimizers[0]).items()}
    load_optimizer_tensors(nets[1], optimizers[1], saved)
    moments = optimizers[1].state[nets[1].weight]["exp_avg"]
    assert moments.stride() == nets[1].weight.stride() and torch.equal(moments, saved["weight/exp_avg"])


def test_averaged_weights_follow_and_leave_the_model_alone():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    average = AveragedWeights(net, 0.9)
    expected = 0.0
    for step in range(1, 200):
        nn.init.constant_(net.weight, step / 100)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step / 100
    with average.in_place():
        assert net.weight.item() == pytest.approx(expected, rel=1e-5)
    assert net.weight.item() == pytest.approx(1.99)


def test_averaged_weights_come_with_averaged_batch_norms():
    net = nn.BatchNorm1d(2)
    average = AveragedWeights(net, 0.9)
    means = []
    for step in range(1, 60):
        net(torch.randn(16, 2) + step / 10)
        average.update(step)
        means.append(net.running_mean.clone())
    expected = torch.zeros(2)
    for step, mean in enumerate(means, 1):
        expected = torch.lerp(expected, mean, 1 - min(0.9, (1 + step) / (10 + step)))
    with average.in_place():
        assert torch.allclose(net.running_mean, expected) and net.num_batches_tracked == 59
    assert torch.equal(net.running_mean, means[-1]) and set(average.tensors()) == {"weight", "bias", "running_mean", "running_var"}
