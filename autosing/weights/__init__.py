"""The shipped weights of the embedded default: one folder a kind, each beside its config and card."""

from pathlib import Path


def weights_folder(kind: str) -> Path:
    """Folder of the shipped weights of `kind` ("recogniser", "t2s", ...)."""
    return Path(__file__).parent / kind
