"""The embedded semantic tokenizer: the recogniser's view of the vocals, quantised to 512 codes at 25 a second.

Every row of a batch is tokenised by itself and long audio in overlapping blocks whose overlap exceeds what the recogniser can see, so a
recording's tokens depend neither on its neighbours in a batch nor on where a block ends. The recogniser belongs to the codebook: it is
either a copy in the folder `recogniser` beside it, or the shipped one, whose checksum must be the one that the codebook was fitted with.
"""

from pathlib import Path

import torch
from torch import Tensor

from autosing.errors import ConfigError, MismatchError
from autosing.models.io import MODEL_FILE, load_model, resolve
from autosing.models.recogniser import Recogniser
from autosing.models.semantic import SemanticCodebook
from autosing.store import sha256_of
from autosing.tokens.specs import Seconds, SemanticSpec

BLOCK_SECONDS: Seconds = 30.0
CONTEXT_SECONDS: Seconds = 6.0
"""More than the recogniser sees on one side: 3 s of level, 1.4 s of convolutions."""
FRAMES_PER_TOKEN = 2


def checksum(folder: Path) -> str:
    """SHA-256 of a checkpoint's tensors."""
    return sha256_of(folder / MODEL_FILE)


class BuiltinSemantic:
    """See the module; implements `SemanticTokenizer`."""

    spec: SemanticSpec

    def __init__(self, device: torch.device | str = "cpu", weights: str | Path = "builtin"):
        """
        Args:
            device: where to run.
            weights: `builtin` or a folder written by `python -m autosing.perception.semantic.fit`.

        Raises:
            WeightsError: missing or damaged files.
            MismatchError: the shipped recogniser is not the one that the codebook was fitted with.
        """
        self.device = torch.device(device)
        folder = resolve(weights, "semantic")
        self._book: SemanticCodebook
        self._book, meta = load_model(folder, "semantic", self.device)
        own = folder / "recogniser"
        recogniser = own if own.is_dir() else resolve("builtin", "recogniser")
        if (found := checksum(recogniser)) != (wanted := meta["recogniser"]):
            raise MismatchError(
                f"the semantic codebook '{folder}' was fitted with the recogniser {wanted[:12]}, but '{recogniser}' is {found[:12]}; "
                "fit it again: python -m autosing.perception.semantic.fit"
            )
        self._recogniser: Recogniser
        self._recogniser, _ = load_model(recogniser, "recogniser", self.device)
        self.spec = self._book.config.spec

    def encode(self, wav: Tensor) -> Tensor:
        """(B, n) float32 at 24 kHz -> (B, N) int64, N = n * 25 // 24000; n may be 0.

        Raises:
            ConfigError: `wav` has not two axes.
        """
        if wav.ndim != 2:
            raise ConfigError(f"a semantic tokenizer takes audio of shape (batch, samples), found {tuple(wav.shape)}")
        rows = [self._encode_one(row.to(self.device, torch.float32)) for row in wav]
        count = wav.shape[1] * self.spec.token_rate // self.spec.sample_rate
        return torch.stack(rows) if rows else torch.zeros(0, count, dtype=torch.long, device=self.device)

    def codebook(self) -> Tensor:
        """(512, W) float32."""
        return self._book.codes

    @torch.inference_mode()
    def phones(self, tokens: Tensor) -> Tensor:
        """(N,) tokens -> (2 N,) most likely phone classes (`models.recogniser.CLASSES`), 50 a second."""
        return self._book.phone_logits(tokens.to(self.device)).argmax(-1).flatten()

    @torch.inference_mode()
    def _encode_one(self, wav: Tensor) -> Tensor:
        blocks = [self._book(features, scores) for features, scores in recogniser_blocks(self._recogniser, wav)]
        return torch.cat(blocks) if blocks else torch.zeros(0, dtype=torch.long, device=self.device)


def recogniser_blocks(recogniser: Recogniser, wav: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Features (F, D) and phone scores (F, C) of the recording (n,), block by block, as if it were seen whole; F is even.

    A recording shorter than a token gives no block.
    """
    per_token = FRAMES_PER_TOKEN * recogniser.hop
    block, context = (int(s * recogniser.sample_rate) // per_token * per_token for s in (BLOCK_SECONDS, CONTEXT_SECONDS))
    usable = len(wav) // per_token * per_token
    parts = []
    for start in range(0, usable, block):
        end = min(start + block, usable)
        first = max(0, start - context)
        out = recogniser(wav[None, first : min(end + context, len(wav))])
        kept = slice((start - first) // recogniser.hop, (end - first) // recogniser.hop)
        parts.append((out.features[0, kept], out.frames[0, kept]))
    return parts
