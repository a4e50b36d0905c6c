"""Fake ears and a processed dataset, made once a session and copied by tests that change it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import fake_ears
import pytest
from small_songs import SMALL, make_songs


@pytest.fixture(autouse=True)
def fake_backends() -> Iterator[None]:
    before = [(registry, dict(registry._entries)) for registry, _ in fake_ears.ENTRIES]
    fake_ears.register()
    yield
    for registry, entries in before:
        registry._entries.clear()
        registry._entries.update(entries)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """A dataset with index tables only."""
    return make_songs(tmp_path / "songs")


@pytest.fixture(scope="session")
def processed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from autosing.cli.process import main

    root = make_songs(tmp_path_factory.mktemp("processed") / "songs")
    fake_ears.register()
    assert main(["run", str(root), *SMALL]) == 0
    return root


@pytest.fixture
def processed(processed_once: Path, tmp_path: Path) -> Path:
    """A dataset with every step done, to be changed freely."""
    return Path(shutil.copytree(processed_once, tmp_path / "processed"))
