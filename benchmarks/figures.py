"""The last line of a benchmark: versions, machine, protocol, figures and bars as one JSON object."""

import json
from collections.abc import Mapping
from typing import Any

from autosing.evaluation.figures import bar
from autosing.evaluation.result import result_of

__all__ = ["bar", "last_line"]


def last_line(name: str, threads: int, protocol: Mapping[str, Any], figures: Mapping[str, Any], bars: Mapping[str, Any], **more: Any) -> str:
    """The line; `more` stands behind the protocol."""
    return json.dumps(result_of("benchmark", name, protocol, figures, bars, threads, **more), allow_nan=False)
