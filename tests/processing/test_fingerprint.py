"""What makes a table due again: every file of weights that its backend reads."""

import json
from pathlib import Path

import pytest

from autosing import weights
from autosing.perception import ALIGNERS, CODECS, SEMANTIC, SEPARATORS, VOICES
from autosing.registry import Registry
from processing import fingerprint

SHIPPED = Path(weights.__file__).parent


@pytest.mark.parametrize("registry", [ALIGNERS, CODECS, SEMANTIC, SEPARATORS, VOICES], ids=lambda registry: registry.what)
def test_every_folder_a_backend_loads_is_hashed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: set[str] = set()
    read_text = Path.read_text

    def recorded(path: Path, *args: object, **options: object) -> str:
        if path.name == "config.json" and path.is_relative_to(SHIPPED):  # every checkpoint is loaded by way of its config
            loaded.add(path.relative_to(SHIPPED).parts[0])
        return read_text(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", recorded)
    for name in registry.names():
        if name.startswith("builtin"):
            registry.get(name)(device="cpu")
    assert loaded and loaded <= set(fingerprint._READS[registry.what])


def test_weights_and_configuration_count_and_what_was_noted_of_the_training_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "weights_folder", lambda kind: tmp_path / kind)
    folder = tmp_path / "recogniser"
    folder.mkdir()

    def write(weights: bytes, config: dict, meta: dict) -> dict:
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "config.json").write_text(json.dumps({"config": config, "meta": meta}))
        return fingerprint.identity(ALIGNERS, "builtin")

    first = write(b"a", {"width": 1}, {"step": 1})
    assert write(b"a", {"width": 1}, {"step": 2}) == first
    assert write(b"a", {"width": 2}, {"step": 1}) != first
    assert write(b"b", {"width": 1}, {"step": 1}) != first
