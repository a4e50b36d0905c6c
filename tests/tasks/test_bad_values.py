"""Settings of every task that cannot be meant are refused by name before anything is read."""

import json
from typing import Any

import pytest

from autosing.config import from_mapping, parse_json
from autosing.errors import ConfigError
from tasks import TASKS


@pytest.mark.parametrize(
    "task, kind, values, said",
    [
        ("t2s", "Args", {"dropout": 2}, "'dropout' must be at least 0 and below 1, found 2"),
        ("t2s", "Args", {"p_no_text": 1.5}, "'p_no_text' must be between 0 and 1"),
        ("t2s", "Args", {"corrupt": -0.1}, "'corrupt' must be between 0 and 1"),
        ("t2s", "Tunables", {"embeddings_std": -1}, "'embeddings_std' must be at least 0"),
        ("t2s", "Tunables", {"init_std": 0}, "'init_std' must be above 0, found 0"),
        ("sm2a", "Tunables", {"query_mult": -1}, "'query_mult' must be above 0, found -1"),
        ("artist", "Tunables", {"output_mult": 0}, "'output_mult' must be above 0, found 0"),
        ("t2s", "Args", {"size": "tiny", "kv_heads": 4}, "'kv_heads' must divide the 6 heads of size 'tiny', found 4"),
        ("sm2a", "Args", {"kv_heads": 0}, "'kv_heads' must divide the 4 heads"),
        ("sm2a", "Args", {"layer_dropout": 1.0}, "'layer_dropout' must be at least 0 and below 1"),
        ("sm2a", "Args", {"crop_seconds": -5}, "'crop_seconds' must be above 0"),
        ("sm2a", "Args", {"p_no_cond": 2}, "'p_no_cond' must be between 0 and 1"),
        ("t2s", "Args", {"p_no_text": 0}, "'text_guidance' needs examples without text"),
        ("sm2a", "Args", {"p_no_semantic": 0}, "'semantic_guidance' needs examples without semantic tokens"),
        ("sm2a", "Args", {"level_temperatures": [1, 0, 1, 1]}, "'level_temperatures' must be above 0 each"),
        ("sm2a", "Tunables", {"q0_loss_mult": -1}, "'q0_loss_mult' must be at least 0"),
        ("sm2a", "Tunables", {"beta2": 1}, "'beta2' must be at least 0 and below 1"),
        ("acoustic", "Args", {"crop_seconds": 0.01}, "'crop_seconds' must be at least 0.1"),
        ("acoustic", "Tunables", {"lr0": -1}, "'lr0' must be at least 0"),
        ("separator", "Args", {"music_share": 1.1}, "'music_share' must be between 0 and 1"),
        ("separator", "Tunables", {"silent_band": 2}, "'silent_band' must be between 0 and 1"),
        ("pitch", "Args", {"seconds": 0}, "'seconds' must be at least 0.1"),
        ("pitch", "Tunables", {"clean": -1}, "'clean' must be between 0 and 1"),
        ("voice", "Args", {"longest_seconds": 1.0}, "'longest_seconds' must be at least 2.5"),
        ("voice", "Tunables", {"leak": 7}, "'leak' must be between 0 and 1"),
        ("artist", "Args", {"crop_seconds": 0}, "'crop_seconds' must be above 0"),
        ("artist", "Tunables", {"label_smoothing": 2}, "'label_smoothing' must be between 0 and 1"),
        ("g2p", "Args", {"dropout": 1.0}, "'dropout' must be at least 0 and below 1"),
        ("g2p", "Tunables", {"clip_gradient_norm": -1}, "'clip_gradient_norm' must be at least 0"),
    ],
)
def test_a_value_out_of_bounds_is_one_clear_line(task: str, kind: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_mapping(getattr(TASKS.get(task), kind), values, "--x")
    assert said in str(error.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_numbers_that_are_not_finite_are_refused(number: str) -> None:
    with pytest.raises(ConfigError, match="'lr0' must be a finite number"):
        from_mapping(TASKS.get("t2s").Tunables, parse_json(f'{{"lr0": {number}}}', "--x"), "--x")


@pytest.mark.parametrize("task", TASKS.names())
def test_defaults_are_within_bounds(task: str) -> None:
    cls = TASKS.get(task)
    for kind in (cls.Args, cls.Tunables):
        from_mapping(kind, json.loads("{}"), "--x")
