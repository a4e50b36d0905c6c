"""Fixtures of the contracts."""

from collections.abc import Iterator

import pytest
import torch

from tests.pretend_device import pretend_device


@pytest.fixture
def other_device() -> Iterator[torch.device]:
    """A device that is not the CPU: CUDA's where there is one, else a pretended one."""
    if torch.cuda.is_available():
        yield torch.device("cuda")
    else:
        with pretend_device() as device:
            yield device
