"""The last line of a benchmark: versions, machine, protocol, figures and bars as one JSON object."""

import json
import os
import platform
from collections.abc import Mapping
from typing import Any

import torch

import autosing
from autosing.evaluation.figures import bar
from autosing.evaluation.result import finite, processor

__all__ = ["bar", "last_line"]


def last_line(name: str, threads: int, protocol: Mapping[str, Any], figures: Mapping[str, Any], bars: Mapping[str, Any], **more: Any) -> str:
    """The line; `more` stands beside the figures."""
    machine: dict[str, Any] = {"cpus": os.cpu_count(), "threads": threads, "processor": processor()}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return json.dumps(
        finite(
            {
                "benchmark": name,
                "versions": {"autosing": autosing.__version__, "torch": torch.__version__, "python": platform.python_version()},
                "machine": machine,
                "protocol": protocol,
                "figures": figures,
                **more,
                "bars": bars,
            }
        ),
        allow_nan=False,
    )
