"""The last line that an evaluation prints: one JSON object with versions, machine, protocol, figures and bars."""

import json
import os
import platform
from typing import Any

import torch

import autosing
from autosing.evaluation.builtin import finite, processor, weights_hash


def last_line(evaluation: str, protocol: dict[str, Any], figures: dict[str, Any], bars: dict[str, Any]) -> str:
    """See the module docstring; numbers that are not finite become null."""
    result = {
        "evaluation": evaluation,
        "versions": {"autosing": autosing.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "processor": processor()},
        "protocol": {"weights_hash": weights_hash(), **protocol},
        "figures": figures,
        "bars": bars,
    }
    return json.dumps(finite(result), allow_nan=False)
