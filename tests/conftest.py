"""Fixtures every test may use."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import torch

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # speed is measured in benchmarks/
settings.load_profile("any machine")
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a forked child hangs in a thread pool that its parent had started


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real songs and fixtures beside the checkout; the test is skipped where they are absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real songs of ../shared/data, which are not beside this checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache_of_references(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What `sing.py` keeps of recordings stays out of the user's cache."""
    os.environ["AUTOSING_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def other_device() -> "Iterator[torch.device]":
    """A device that is not the CPU: CUDA's where there is one, else a pretended one."""
    import torch

    from tests.pretend_device import pretend_device

    if torch.cuda.is_available():
        yield torch.device("cuda")
    else:
        with pretend_device() as device:
            yield device


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs a browser to look at the page: none of {', '.join(BROWSERS)} is on the PATH")
    return found
