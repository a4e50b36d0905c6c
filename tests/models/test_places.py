"""Where checkpoints are looked for: folders before the hub's cache, revisions, and one line that says how to fetch what is missing."""

import os
from pathlib import Path

import pytest
import torch

from autosing.errors import WeightsError
from autosing.models.io import load_model, resolve, save_model
from autosing.models.places import hub_cache
from autosing.models.recogniser import SIZES, Recogniser

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as Hugging Face's tools lay it out: files are links to blobs, `refs` name commits."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "hub" / "models--org--singer.v1"
    save_model(Recogniser(SIZES["micro"]), place / "blobs", {"steps": 7}, "card")
    snapshot = place / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in (place / "blobs").iterdir():
        (snapshot / file.name).symlink_to(os.path.relpath(file, snapshot))
    for name in ("main", "pr/2"):
        (place / "refs" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "refs" / name).write_text(COMMIT)
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["org/singer.v1", "org/singer.v1@main", "org/singer.v1@pr/2", f"org/singer.v1@{COMMIT}"])
def test_a_hub_id_is_found_in_the_cache(cache: Path, name: str) -> None:
    assert load_model(name, "recogniser")[1] == {"steps": 7}
    assert resolve(name, "recogniser").name == COMMIT


def test_it_is_the_place_that_hugging_face_knows(cache: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (pip install 'autosing[hub]')")
    found = hub.try_to_load_from_cache("org/singer.v1", "config.json", cache_dir=cache, revision="pr/2")
    assert Path(found).parent == resolve("org/singer.v1@pr/2", "recogniser")


def test_a_folder_of_that_name_comes_first(cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_model(Recogniser(SIZES["micro"]), tmp_path / "org" / "singer.v1", {"steps": 1})
    assert load_model("org/singer.v1", "recogniser")[1] == {"steps": 1}
    assert load_model("org/singer.v1@main", "recogniser")[1] == {"steps": 7}


@pytest.mark.parametrize(
    "name, fetch",
    [
        ("org/other", "hf download org/other "),
        ("org/singer.v1@v9", "hf download org/singer.v1 --revision v9 "),
        ("../../etc", "config.json is missing"),
        ("org/..", "config.json is missing"),
        ("org/name@../../x", "config.json is missing"),
    ],
)
def test_what_is_missing_is_told_in_one_line_with_the_way_to_fetch_it(cache: Path, name: str, fetch: str) -> None:
    with pytest.raises(WeightsError) as error:
        resolve(name, "t2s")
    assert fetch in str(error.value) and "\n" not in str(error.value)
    if fetch.startswith("hf"):
        assert str(cache) in str(error.value)


def test_a_snapshot_without_its_weights_is_told(cache: Path) -> None:
    (cache / "models--org--singer.v1" / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing"):
        resolve("org/singer.v1", "recogniser")


@pytest.mark.parametrize(
    "environment, place",
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HF_HOME": "~/mine"}, str(Path.home() / "mine" / "hub")),
        ({}, str(Path.home() / ".cache" / "huggingface" / "hub")),
    ],
)
def test_the_environment_says_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], place: str) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hub_cache() == Path(place)


def test_what_is_asked_for_without_a_home_folder_is_missing_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    with pytest.raises(WeightsError, match="fetch it: hf download some/where"):
        resolve("some/where", "t2s")
