"""What a checkpoint says of itself, and whether two of them and the ears of this installation belong together."""

from pathlib import Path

from autosing.errors import MismatchError
from autosing.models.io import resolve, weights_file
from autosing.models.sm2a import SM2A
from autosing.models.sm2a_parallel import SM2AParallel
from autosing.models.t2s import T2S
from autosing.nn.embeddings import code_features, same_fit
from autosing.perception.codec.base import Codec
from autosing.store import sha256_of
from autosing.training.task import DatasetMeta


def dataset_of(name: str, kind: str, meta: dict) -> DatasetMeta:
    """What a checkpoint says of the data it was trained on.

    Raises:
        MismatchError: it says nothing, as one that `train.py` did not write.
    """
    if "dataset" not in meta:
        raise MismatchError(f"the {kind} model '{name}' does not say which tokens it was trained with; give a checkpoint written by train.py")
    return DatasetMeta.from_json(meta["dataset"])


def identity(name: str | Path, kind: str, meta: dict) -> dict:
    """Which model this is: the hash of its weights, and what it says about its training."""
    trained = {k: meta[k] for k in ("steps", "seed", "source_hash") if k in meta}
    return {"sha256": sha256_of(weights_file(resolve(name, kind))), **trained}


def require_same_fits(t2s: T2S, sm2a: SM2A | SM2AParallel, codec: Codec, band_codec: Codec, tokenizer: str, places: tuple[str, str]) -> None:
    """Tokens of one name must also be of one fit.

    Args:
        codec, band_codec: of this installation, for the vocals and for the accompaniment.
        tokenizer: the name of both models' semantic tokenizer.
        places: what the t2s and the sm2a model are called in errors.

    Raises:
        MismatchError: the models know different fits of the tokenizer, or the sm2a model another fit of a codec than this installation.
    """
    if not same_fit(t2s.semantic.codebook, sm2a.semantic.codebook):
        raise MismatchError(f"{places[0]} and {places[1]} know different fits of semantic tokenizer '{tokenizer}'; train both on one dataset")
    for geometry, known in ((sm2a.geometry, codec), (sm2a.music_geometry, band_codec)):
        if geometry is None:
            continue
        books = known.codebooks()
        if not all(same_fit(geometry.features(level).cpu(), code_features(book)) for level, book in enumerate(books)):
            raise MismatchError(
                f"{places[1]} was trained with another fit of codec '{known.spec.name}' than this installation has; train it on a dataset "
                "that this installation tokenised"
            )
