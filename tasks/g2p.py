"""Train the letters-to-phones model from a lexicon of lines `word<TAB>PH ON ES`.

    python train.py --task_name g2p --dataset-config '{"path": "lexicon.tsv"}' --batch-size 128

Words are split by the hash of their first five letters, so that "walk" and "walking" are never on both sides.
"""

import hashlib
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from autosing.config import require_at_least, require_dropout
from autosing.errors import DataError
from autosing.models.g2p import G2P, G2PConfig, decode
from autosing.tokens.edits import edit_distance
from autosing.tokens.pronounce import LETTERS
from autosing.tokens.text import PHONES
from autosing.training.data import DatasetConfig
from autosing.training.task import Batch, DatasetMeta, Losses, OptimTunables, ParamRule, Row

MAX_LETTERS, MAX_PHONES = 20, 24


@dataclass(frozen=True)
class G2PArgs:
    """
    Attributes:
        width, blocks: size of the model.
        dropout: share of a block's outputs dropped.
    """

    width: int = 160
    blocks: int = 4
    dropout: float = 0.25

    def __post_init__(self) -> None:
        require_at_least(self, 1, "width", "blocks")
        require_dropout(self, "dropout")


@dataclass(frozen=True)
class G2PTunables(OptimTunables):
    lr0: float = 3e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 100
    beta2: float = 0.98


def is_held_out(word: str, share: float) -> bool:
    """Whether `word` belongs to the `share` of words kept for validation; decided by its first five letters."""
    return int.from_bytes(hashlib.sha256(word[:5].encode()).digest()[:8], "big") / 2**64 < share


def read_lexicon(path: Path) -> list[Row]:
    """Rows {"id", "word", "phones"} of a lexicon, plain or .xz.

    Raises:
        DataError: no such file, or a line that is not `word<TAB>phones`.
    """
    try:
        with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"the lexicon '{path}' cannot be read ({error}); give a file of lines word<TAB>PH ON ES") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        word, _, phones = line.partition("\t")
        if not phones or not set(phones.split()) <= set(PHONES):
            raise DataError(f"line {number} of '{path}' is not word<TAB>PH ON ES: {line!r}")
        rows.append({"id": word, "word": word, "phones": phones})
    return rows


class G2PTask:
    """Letters -> phones."""

    name: ClassVar[str] = "g2p"
    Args: ClassVar[type] = G2PArgs
    Tunables: ClassVar[type] = G2PTunables
    parts: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("word", "phones")

    def __init__(self, args: G2PArgs, tunables: G2PTunables, meta: DatasetMeta):
        self.args, self.tunables, self.meta = args, tunables, meta

    @classmethod
    def open_rows(cls, config: DatasetConfig) -> tuple[list[Row], list[Row], DatasetMeta]:
        """(training rows, validation rows, meta) of the lexicon at `config.path`; `config.validation_share` of the families validate.

        Raises:
            DataError: the lexicon cannot be read, or there are several.
        """
        if not isinstance(config.path, str) or not config.path:
            raise DataError(
                f"task g2p reads one lexicon, found 'path': {config.path!r}; give --dataset-config '{{\"path\": \"lexicon.tsv\"}}'"
            )
        rows = read_lexicon(Path(config.path))
        held = [is_held_out(row["word"], config.validation_share) for row in rows]
        train = [row for row, out in zip(rows, held, strict=True) if not out]
        validation = [row for row, out in zip(rows, held, strict=True) if out]
        return train, validation, DatasetMeta(kind="lexicon", rows=len(train))

    def example(self, row: Row, rng: np.random.Generator) -> Batch | None:
        """{"letters" (20,), "phones" (24,), "n_letters" (), "n_phones" ()}; None for words too long or with other letters."""
        word, phones = row["word"], row["phones"].split()
        if not 0 < len(word) <= MAX_LETTERS or not 0 < len(phones) <= min(MAX_PHONES, 2 * len(word)) or set(word) - set(LETTERS):
            return None
        letters = torch.zeros(MAX_LETTERS, dtype=torch.long)
        letters[: len(word)] = torch.tensor([LETTERS.index(c) + 1 for c in word])
        target = torch.zeros(MAX_PHONES, dtype=torch.long)
        target[: len(phones)] = torch.tensor([PHONES.index(p) + 1 for p in phones])
        return {
            "letters": letters, "phones": target,
            "n_letters": torch.tensor(len(word)), "n_phones": torch.tensor(len(phones)),
        }  # fmt: skip

    def build_model(self) -> nn.Module:
        return G2P(G2PConfig(width=self.args.width, blocks=self.args.blocks, dropout=self.args.dropout))

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """CTC loss a phone; outside training also the phone and word error of the best path."""
        letters = batch["letters"][:, : int(batch["n_letters"].max())]
        scores = model(letters)
        slots = batch["n_letters"] * (scores.shape[1] // letters.shape[1])
        loss = F.ctc_loss(
            F.log_softmax(scores.float(), -1).transpose(0, 1), batch["phones"], slots, batch["n_phones"], zero_infinity=True
        )
        metrics = {}
        if not model.training:
            found = decode(scores, slots)
            truth = [row[:n].tolist() for row, n in zip(batch["phones"], batch["n_phones"].tolist(), strict=True)]
            edits = [edit_distance(a, b) for a, b in zip(truth, found, strict=True)]
            metrics = {
                "phone_error": torch.tensor(sum(edits) / sum(map(len, truth))),
                "word_error": torch.tensor(sum(e > 0 for e in edits) / len(edits)),
            }
        return Losses(loss, {"ctc": loss.detach()}, metrics)

    def param_rules(self, model: nn.Module) -> list[ParamRule]:
        return [ParamRule(r"norm|bias|embed", decay=False), ParamRule("")]

    def checkpoint_meta(self) -> dict[str, Any]:
        return {"letters": LETTERS, "phones": list(PHONES)}


TASK = G2PTask
