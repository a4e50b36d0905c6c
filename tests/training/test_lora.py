"""Training low-rank adapters: what is refused, what is written, that a resumed run repeats an uninterrupted one, and that singing takes them.

What needs no adapter to be trained (reading, merging) is tested in tests/models/test_adapters.py, without peft.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from toy_task import Toy, ToyConfig

from autosing.cli.train import main
from autosing.errors import ConfigError
from autosing.models.io import load_model
from autosing.training.loop import Trainer
from autosing.training.lora import LoraSettings, lora_settings, targets
from autosing.training.optim import rule_for
from autosing.training.task import ParamRule


def test_settings_that_cannot_be_meant_are_refused_by_name() -> None:
    for values, said in (
        ({"rank": 4}, "no key 'rank'"),
        ({"target_module": ["qkv"]}, "did you mean 'target_modules'"),
        ({"r": 0}, "'r' must be at least 1"),
        ({"alpha": 0}, "'alpha' must be above 0"),
        ({"dropout": 1.0}, "'dropout' must be at least 0 and below 1"),
    ):
        with pytest.raises(ConfigError) as error:
            lora_settings(values)
        assert said in str(error.value)
    assert lora_settings({"r": 16, "alpha": 32, "target_modules": ["qkv"]}) == LoraSettings(16, 32.0, 0.0, ("qkv",))


def test_targets_are_whole_parts_of_names() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.ModuleDict({"out": torch.nn.Linear(2, 2), "layout": torch.nn.Linear(2, 2)})})
    assert targets(model, LoraSettings()) == ("a.out", "a.layout")
    assert targets(model, LoraSettings(target_modules=("out",))) == ("a.out",)
    assert targets(model, LoraSettings(target_modules=("a.layout", "out"))) == ("a.out", "a.layout")
    with pytest.raises(ConfigError, match=r"names 'outt'.*did you mean 'out'"):
        targets(model, LoraSettings(target_modules=("outt",)))
    with pytest.raises(ConfigError, match="has none"):
        targets(torch.nn.LayerNorm(2), LoraSettings())


def test_convolutions_are_adapted_where_they_are_named_or_nothing_else_is_there() -> None:
    plain, linear = torch.nn.Conv2d(2, 2, 3), torch.nn.Linear(2, 2)
    others = {"wide": torch.nn.Conv2d(2, 2, 3, dilation=2), "apart": torch.nn.Conv1d(2, 2, 1, groups=2)}
    assert targets(torch.nn.ModuleDict({"plain": plain, **others}), LoraSettings()) == ("plain",)
    model = torch.nn.ModuleDict({"linear": linear, "plain": plain, **others})
    assert targets(model, LoraSettings()) == ("linear",)
    assert targets(model, LoraSettings(target_modules=("plain",))) == ("plain",)
    with pytest.raises(ConfigError, match="names 'wide', the model has no such linear layer or plain convolution"):
        targets(model, LoraSettings(target_modules=("wide",)))


def test_an_adapter_learns_by_the_rule_of_its_matrix() -> None:
    rules = [ParamRule(r"^decoder\.qkv\.weight$", 0.5), ParamRule("lora", 7.0)]
    for part in ("", ".lora_A.default", ".lora_B.default", ".base_layer"):
        assert rule_for(f"decoder.qkv{part}.weight", rules).lr_scale == 0.5


def test_without_a_checkpoint_there_is_nothing_to_adapt(runs, capsys) -> None:
    assert runs("a", lora={"r": 2}) == 2
    assert "give it with --load-from" in capsys.readouterr().err


@pytest.fixture
def base(runs):
    pytest.importorskip("peft", reason="training adapters needs peft (pip install 'autosing[lora]')")
    assert runs("base", steps=3) == 0
    return runs.path("base") / "last"


def test_the_base_stays_and_the_last_step_is_saved(runs, base) -> None:
    lora = {"r": 2, "alpha": 8, "target_modules": ["hidden"]}
    assert runs("a", load_from=base, lora=lora, tunables={"lr0": 0.1}) == 0
    folder = runs.path("a") / "last"
    assert {p.name for p in folder.iterdir()} == {"adapter.safetensors", "config.json", "README.md"}
    values = json.loads((folder / "config.json").read_text())
    assert values["meta"]["training"]["step"] == 12 and values["adapter"]["target_modules"] == ["hidden"]
    before, after = load_model(base, "toy")[0].state_dict(), load_model(folder, "toy")[0].state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"hidden.weight"}
    live = {k[len("model/") :]: v for k, v in load_file(runs.path("a") / "state" / "state.safetensors").items() if k.startswith("model/")}
    product = live["hidden.lora_B.default.weight"] @ live["hidden.lora_A.default.weight"]
    torch.testing.assert_close(after["hidden.weight"], before["hidden.weight"] + 8 / 2 * product)


def test_numbered_adapters_go_when_newer_ones_come(runs, base) -> None:
    assert runs("a", load_from=base, lora={"r": 1}, steps=6, validate_every_n_steps=2, keep_last=1) == 0
    assert [p.name for p in runs.path("a").glob("step-*")] == ["step-0000006"]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_resuming_is_exact(runs, base, ema, monkeypatch) -> None:
    values = {"load_from": base, "ema": ema, "lora": {"r": 2, "alpha": 4, "dropout": 0.2}, "tunables": {"lr0": 0.1}, "validate_every_n_steps": 3}
    assert runs("whole", **values) == 0

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_finished", lambda self: self.step >= 7)
        assert runs("parts", **values) == 0
    assert main(["--resume-from", str(runs.path("parts")), "--workers", "0"]) == 0
    for which in ("last", "best"):
        one, other = (load_file(runs.path(name) / which / "adapter.safetensors") for name in ("whole", "parts"))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert [r for r in runs.records("whole") if "loss" in r] == [r for r in runs.records("parts") if "loss" in r]


def test_a_run_goes_on_with_the_adapter_it_began_with(runs, base, capsys) -> None:
    values = {"load_from": base, "lora": {"r": 2}, "steps": 2}
    assert runs("a", **values) == 0
    assert runs("a", "--resume-from", "auto", **{**values, "lora": {"r": 4}}) == 2
    assert "trained with lora.r = 2, now it is 4" in capsys.readouterr().err


def test_an_adapter_is_a_start_like_any_checkpoint(runs, base) -> None:
    """Fine-tuned as a whole, or adapted again: an adapter on an adapter."""
    assert runs("a", load_from=base, lora={"r": 2}, tunables={"lr0": 0.1}) == 0
    first = runs.path("a") / "last"
    assert runs("whole", load_from=first, steps=1) == 0
    assert runs("again", load_from=first, lora={"r": 1}, tunables={"lr0": 0.1}, steps=2) == 0
    x = torch.randn(5, 3)
    models = [load_model(folder, "toy")[0] for folder in (base, first, runs.path("again") / "last")]
    a, b, c = (model(x) for model in models)
    assert not torch.allclose(a, b, atol=1e-4) and not torch.allclose(b, c, atol=1e-4)


def test_the_card_of_an_adapter_names_its_base(runs, base) -> None:
    assert runs("a", load_from=base, lora={"r": 2}, steps=1) == 0
    assert runs("whole", load_from=base, steps=1) == 0
    adapter, whole = ((runs.path(name) / "last" / "README.md").read_text() for name in ("a", "whole"))
    assert f"An adapter of rank 2 of '{base.absolute()}'" in adapter and "adapter" not in whole


def test_a_whole_model_in_the_place_of_an_adapter_leaves_none_behind(runs, base) -> None:
    assert runs("a", load_from=base, lora={"r": 2}, steps=1) == 0
    assert runs("a", "--overwrite", steps=1) == 0
    assert {p.name for p in (runs.path("a") / "last").iterdir()} == {"model.safetensors", "config.json", "README.md"}


def test_toy_is_adapted_everywhere_by_default() -> None:
    assert targets(Toy(ToyConfig()), LoraSettings()) == ("hidden", "out")
