"""``python -m autosing.models.ship voice runs/voice/last autosing/weights/voice --note "..."``: a trained checkpoint -> shipped weights.

What only training needs is dropped, floats are halved, and the card says what the training run said. With `--average` the weights are the mean of
several runs that began from the same checkpoint (Wortsman et al. 2022, "model soups"). The recipe that comes before it is a line of MODEL_CARD.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from autosing.errors import AutoSingError
from autosing.models import KINDS
from autosing.models.averaging import average
from autosing.models.io import MODEL_FILE, save_model

CARD = """# {kind}

Weights of the embedded default, {millions:.2f} M parameters, stored as {dtype}. {note}
How they were trained and what they measured: MODEL_CARD.md of the project; the exact settings are in `config.json` under `meta`.
"""


def ship(
    kind: str, source: Path, out: Path, note: str = "", dtype: torch.dtype = torch.float16, others: Sequence[Path] = ()
) -> int:
    """Write the checkpoint at `source` to `out` as it is shipped; the size of its weights in bytes.

    Args:
        others: further checkpoints of the same shape; what is written is the mean of all.

    Raises:
        WeightsError: as `models.io.load_model`.
        MismatchError: another kind, or checkpoints of different shapes.
    """
    count = 1 + len(others)
    model, metas = average(kind, [source, *others], [1 / count] * count)
    meta = {"average": metas} if others else metas[0]
    if hasattr(model, "shipped"):
        model = model.shipped()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    save_model(model, out, without_folders(meta), CARD.format(kind=kind, millions=millions, note=note, dtype=str(dtype)[6:]), dtype)
    return (Path(out) / MODEL_FILE).stat().st_size


def without_folders(value: Any) -> Any:
    """JSON values with every absolute path cut to its last part: where the maker kept things is nobody's business."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 2 a mistake in the request."""
    parser = argparse.ArgumentParser(prog="python -m autosing.models.ship", description=__doc__)
    parser.add_argument("kind", choices=KINDS.names())
    parser.add_argument("source", type=Path, help="checkpoint folder written by train.py")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--average", type=Path, nargs="+", default=(), metavar="FOLDER", help="checkpoints to average with")
    parser.add_argument("--note", default="", help="a sentence for the card")
    parser.add_argument("--int8", action="store_true", help="matrices as int8 with a scale a row, a quarter of the size")
    args = parser.parse_args(argv)
    try:
        size = ship(args.kind, args.source, args.out, args.note, torch.int8 if args.int8 else torch.float16, args.average)
    except AutoSingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.kind}: {size / 1e6:.2f} MB -> {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
