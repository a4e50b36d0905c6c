"""Weighted means of checkpoints of one shape, which began as one.

Sources: Wortsman et al. 2022, "Model soups" (several runs from one start); Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (a run and
what it started from).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from autosing.config import differences, to_mapping
from autosing.errors import MismatchError
from autosing.models.io import load_model

LOOSE = ("dropout", "layer_dropout", "checkpointing", "level_temperatures", "pass_shares", "semantic_guidance", "text_guidance")
"""Settings of a model's config that say how to train or to sing, not what its weights mean; those of the first checkpoint hold."""


def average(kind: str, sources: Sequence[str | Path], shares: Sequence[float]) -> tuple[Any, list[dict[str, Any]]]:
    """The model of the first of `sources` with the mean of all their weights, and the meta of each.

    Args:
        shares: of each source; together 1.

    Raises:
        WeightsError: as `models.io.load_model`.
        MismatchError: checkpoints of different shapes.
    """
    loaded = [load_model(source, kind) for source in sources]
    model: Any = loaded[0][0]
    for source, (other, _) in zip(sources, loaded, strict=True):
        ours = {name: value for name, value in to_mapping(model.config).items() if name not in LOOSE}
        if different := differences(to_mapping(other.config), ours):
            raise MismatchError(f"'{source}' has another model config than '{sources[0]}' ({'; '.join(different)}); average checkpoints of one shape")
    states = [other.state_dict() for other, _ in loaded]
    model.load_state_dict({name: _mean([state[name] for state in states], shares) for name in states[0]})
    return model, [meta for _, meta in loaded]


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]
    return sum((tensor * share for tensor, share in zip(tensors[1:], shares[1:], strict=True)), start=tensors[0] * shares[0])
