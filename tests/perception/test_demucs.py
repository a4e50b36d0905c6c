"""Demucs behind our Protocol gives what Demucs itself gives, and says in one line what is missing or wrong."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from autosing.errors import ConfigError, WeightsError
from autosing.perception import SEPARATORS, load_separator
from autosing.perception.separation.demucs import DemucsSeparator, hub_name
from processing.fingerprint import identity
from tests.outside_models import write_demucs


def song(samples: int = 120_000) -> torch.Tensor:
    return 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0)).cumsum(1).sin()


def theirs(nets, mix: torch.Tensor, weights=None, **options) -> torch.Tensor:
    """The vocals by Demucs' own functions, normalised as its command line does."""
    from demucs.apply import BagOfModels, apply_model

    reference = mix.mean(0)
    normal = (mix - reference.mean()) / (reference.std() + 1e-8)
    found = apply_model(BagOfModels(nets, weights), normal[None], shifts=0, **options)[0]
    return found[nets[0].sources.index("vocals")] * (reference.std() + 1e-8)


def test_the_vocals_are_those_of_demucs(tmp_path: Path) -> None:
    nets = write_demucs(tmp_path)
    mix = song()
    torch.testing.assert_close(DemucsSeparator(weights=str(tmp_path)).separate(mix).vocals, theirs(nets, mix), atol=1e-5, rtol=1e-4)
    half = DemucsSeparator(weights=str(tmp_path), segment=0.5, overlap=0.5).separate(mix).vocals
    torch.testing.assert_close(half, theirs(nets, mix, segment=0.5, overlap=0.5), atol=1e-5, rtol=1e-4)


def test_of_a_bag_only_networks_heard_in_the_vocals_run(tmp_path: Path) -> None:
    weights = [[1.0, 0, 0, 0], [0, 1.0, 0, 0.25], [0, 0, 1.0, 0.75]]
    nets = write_demucs(tmp_path, models=3, weights=weights, name="htdemucs_ft")
    separator = DemucsSeparator(weights=str(tmp_path))
    assert [one.weight for one in separator._heard] == [0.25, 0.75]
    mix = song(60_000)
    torch.testing.assert_close(separator.separate(mix).vocals, theirs(nets, mix, weights), atol=1e-5, rtol=1e-4)


def test_shifts_are_the_mean_over_shifted_songs_and_repeat(tmp_path: Path) -> None:
    write_demucs(tmp_path)
    mix = song(60_000)
    plain, twice = DemucsSeparator(weights=str(tmp_path)), DemucsSeparator(weights=str(tmp_path), shifts=2)
    step = round(0.25 * plain.sample_rate)
    shifted = plain._pass(plain._heard[0], torch.nn.functional.pad((mix - mix.mean()) / mix.mean(0).std(), (step, 0)))[:, step:]
    expected = (plain._pass(plain._heard[0], (mix - mix.mean()) / mix.mean(0).std()) + shifted) / 2 * mix.mean(0).std()
    torch.testing.assert_close(twice.separate(mix).vocals, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(twice.separate(mix).vocals, twice.separate(mix).vocals)


def test_weights_are_found_by_folder_environment_and_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_demucs(tmp_path / "models" / "htdemucs")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("AUTOSING_MODELS", raising=False)
    with pytest.raises(WeightsError, match=r"'htdemucs.yaml' was looked for in .*HTDemucs'.*hf download adefossez/HTDemucs") as missing:
        load_separator("demucs")
    assert "\n" not in str(missing.value)
    monkeypatch.setenv("AUTOSING_MODELS", str(tmp_path / "models"))
    assert load_separator("demucs").sample_rate == 44100
    assert load_separator('demucs:{"shifts": 2}').sample_rate == 44100
    monkeypatch.delenv("AUTOSING_MODELS")
    cached = tmp_path / "hub" / "models--adefossez--HTDemucs"
    write_demucs(cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert load_separator("demucs").sample_rate == 44100
    assert hub_name("htdemucs_ft") == "adefossez/HTDemucs-ft" and hub_name("mdx_extra") == "adefossez/Demucs-mdx_extra"


def test_a_missing_network_and_wrong_options_are_named(tmp_path: Path) -> None:
    write_demucs(tmp_path, models=2)
    (tmp_path / "net1.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"'net1.safetensors' was looked for in"):
        load_separator(f"demucs:{tmp_path}")
    write_demucs(tmp_path)
    for options, said in {'"overlap": 1.0': "'overlap' must be", '"segment": 9': "'segment' must lie", '"shifts": 0': "'shifts' must be",
                          '"shift": 2': "has no option 'shift'; did you mean 'shifts'", '"shifts": "two"': "must be an integer"}.items():  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            load_separator(f'demucs:{{"weights": "{tmp_path}", {options}}}')


def test_a_network_cut_off_or_of_another_project_is_one_line(tmp_path: Path) -> None:
    write_demucs(tmp_path)
    file = tmp_path / "net0.safetensors"
    whole = file.read_bytes()
    for wrong in (whole[: len(whole) // 2], save({"other": torch.zeros(2)})):
        file.write_bytes(wrong)
        with pytest.raises(WeightsError, match=r"separator 'demucs': '.*net0.safetensors' is damaged or holds another model") as said:
            load_separator(f"demucs:{tmp_path}")
        assert "\n" not in str(said.value)


def test_a_quantised_network_names_the_package_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Demucs itself would end the process."""
    write_demucs(tmp_path)
    monkeypatch.setitem(sys.modules, "diffq", None)
    file = tmp_path / "net0.safetensors"
    with safe_open(file, "pt") as tensors:
        metadata = {**tensors.metadata(), "structure": json.dumps({"_dict": [["__quantized", True]]})}
    save_file(load_file(file), file, metadata)
    with pytest.raises(ConfigError, match=r"net0.safetensors' cannot be loaded \(Trying to use DiffQ.*\): pip install 'demucs\[quantized\]'") as said:
        load_separator(f"demucs:{tmp_path}")
    assert "\n" not in str(said.value) and not capsys.readouterr().err


def test_a_hub_id_says_which_model_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--adefossez--HTDemucs-ft"
    write_demucs(cached / "snapshots" / "abc", name="htdemucs_ft")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert load_separator("demucs:adefossez/HTDemucs-ft").sample_rate == 44100


def test_other_weights_or_options_make_another_table(tmp_path: Path) -> None:
    write_demucs(tmp_path / "a")
    write_demucs(tmp_path / "b", models=2)
    same = identity(SEPARATORS, f"demucs:{tmp_path / 'a'}")
    assert identity(SEPARATORS, f'demucs:{{"weights": "{tmp_path / "a"}"}}') == same
    assert identity(SEPARATORS, f"demucs:{tmp_path / 'b'}") != same
    assert identity(SEPARATORS, f'demucs:{{"weights": "{tmp_path / "a"}", "shifts": 2}}')["options"] == {"shifts": 2}
