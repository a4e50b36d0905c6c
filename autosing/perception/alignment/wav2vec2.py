"""Networks that hear letters: wav2vec 2.0 and MMS with a CTC head, from torchaudio's bundles or from Hugging Face folders (`Wav2Vec2ForCTC`).

A bundle is named ("WAV2VEC2_ASR_BASE_960H", "MMS_FA", ...) and its weights lie in `$AUTOSING_MODELS/<bundle>`, made of the published pickle by
`autosing-train convert`; a folder or hub id is a Hugging Face model, with `vocab.json`. Long recordings are heard in pieces that overlap by more than what is
thrown away at their edges, so a song has one row of letters a frame and no seams. Letters: n samples, F frames (50 a second), V letters.
"""

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from autosing.config import nearest
from autosing.errors import ConfigError, WeightsError
from autosing.models.places import HUB_ID
from autosing.perception.outside import CONFIG_FILE, WEIGHTS_FILE, Weights, from_pretrained, load_package, loading
from autosing.tokens.specs import Seconds

SAMPLE_RATE, HOP, LEAST_SAMPLES = 16_000, 320, 400
FRAME_RATE = SAMPLE_RATE // HOP
PIECE_SECONDS: Seconds = 30.0
MARGIN_SECONDS: Seconds = 3.0
"""What a piece hears of its neighbours and throws away."""
DEFAULT_BUNDLE = "WAV2VEC2_ASR_BASE_960H"
URL = "https://download.pytorch.org/torchaudio/models/"
VOCABULARY_FILE, FEATURES_FILE = "vocab.json", "preprocessor_config.json"
SPIKE_SECONDS: Seconds = 0.8
"""CTC names a letter in one frame of many: singing is heard where one is named within half of this."""


@dataclass(frozen=True)
class LetterNet:
    """A network and what its outputs are.

    Attributes:
        net: as its library has it.
        kind: which library ("torchaudio" or "huggingface").
        letters: lower-case letter -> column; `|` divides words, where the network knows it.
        blank: column of the CTC blank.
        normalise: it wants each recording with mean 0 and deviation 1.
    """

    net: Any
    kind: Literal["torchaudio", "huggingface"]
    letters: dict[str, int]
    blank: int
    normalise: bool
    device: torch.device

    def spell(self, word: str) -> list[int]:
        """A word's letters as columns; `wildcard` for what the network has no letter for, nothing for punctuation."""
        columns = []
        for letter in unicodedata.normalize("NFC", word.lower()):
            plain = unicodedata.normalize("NFKD", letter)[0]
            column = self.letters.get(letter, self.letters.get(plain))
            if column is not None and column != self.blank and letter != "|":
                columns.append(column)
            elif letter.isalnum():
                columns.append(self.wildcard)
        return columns if any(c.isalnum() for c in word) else []

    @property
    def wildcard(self) -> int:
        """The column behind the last: any letter at all."""
        return max(self.letters.values()) + 1

    @torch.no_grad()
    def log_probabilities(self, wav: Tensor) -> Tensor:
        """(n,) at 16 kHz -> (F, V + 1) on the CPU, F = n // 320; the last column is the best letter of the frame, for what has no letter."""
        wav, frames = wav.float(), len(wav) // HOP
        step, margin = int(PIECE_SECONDS * FRAME_RATE), int(MARGIN_SECONDS * FRAME_RATE)
        pieces = [torch.zeros(0, self.wildcard)]
        for first in range(0, frames, step):
            begin, end = max(0, first - margin), min(frames, first + step + margin)
            piece = wav[begin * HOP : end * HOP + LEAST_SAMPLES - HOP]
            piece = torch.nn.functional.pad(piece, (0, (end - begin) * HOP + LEAST_SAMPLES - HOP - len(piece)))
            if self.normalise:
                piece = (piece - piece.mean()) / (piece.std() + 1e-5)
            found = self._logits(piece[None].to(self.device)).float().log_softmax(-1).cpu()
            pieces.append(found[first - begin : first - begin + min(step, frames - first), : self.wildcard])
        heard = torch.cat(pieces)
        named = heard.clone()
        named[:, self.blank] = -torch.inf
        return torch.cat([heard, named.amax(1, keepdim=True)], 1)

    def activity(self, wav: Tensor) -> Tensor:
        """(n,) -> (F,) how sure it is that a letter is sung within `SPIKE_SECONDS` / 2."""
        heard = self.log_probabilities(wav)
        if not len(heard):
            return torch.zeros(0)
        width = int(SPIKE_SECONDS * FRAME_RATE) // 2 * 2 + 1
        silent = heard[:, self.blank].exp()
        if "|" in self.letters:
            silent = silent + heard[:, self.letters["|"]].exp()
        return torch.nn.functional.max_pool1d(1 - silent[None], width, 1, width // 2)[0].clamp(0, 1)

    def _logits(self, wav: Tensor) -> Tensor:
        """(1, n) -> (F, V)"""
        return self.net(wav)[0][0] if self.kind == "torchaudio" else self.net(wav).logits[0]


def find(what: str, model: str | None, weights: str | None) -> tuple[Path, ...]:
    """The files of a network.

    Args:
        what: how errors name the part.
        model: name of a bundle, or hub id or folder of a Hugging Face model; None = `DEFAULT_BUNDLE`, unless `weights` says what it is, as a Hugging Face
            model or as a folder that is called after a bundle.
        weights: where the files lie, if not at their usual place.

    Raises:
        ConfigError: no such bundle. WeightsError: see `outside.Weights.find`.
    """
    if model is None and weights is not None and (_is_hugging_face(Path(weights)) or (HUB_ID.fullmatch(weights) and not Path(weights).exists())):
        model = weights
    if model is None or not ("/" in model or _is_hugging_face(Path(model))):
        name = _bundle_name(model, weights)
        bundle = _bundle(what, name)
        url = bundle._path if bundle._path.startswith("https") else URL + bundle._path
        pickle = url.rsplit("/", 1)[-1]
        fetch = f"curl -LO {url}, then autosing-train convert {pickle} FOLDER/{name}  (and set AUTOSING_MODELS=FOLDER)"
        return Weights(f"{what} ({name})", name, "", (WEIGHTS_FILE,), pickle, fetch).paths(weights)
    files = (CONFIG_FILE, VOCABULARY_FILE, WEIGHTS_FILE)
    given = model if weights is None and Path(model).exists() else weights
    fetch = "copy it there from where the other files came from" if Path(model).is_dir() else ""
    return Weights(f"{what} ({model})", model.rsplit("/", 1)[-1], model, files, "pytorch_model.bin", fetch).paths(given)


def _is_hugging_face(folder: Path) -> bool:
    """Whether it holds what a bundle lacks: then a file that is missing there is named."""
    return any((folder / file).is_file() for file in (VOCABULARY_FILE, CONFIG_FILE))


def load(what: str, device: torch.device | str, model: str | None = None, weights: str | None = None) -> LetterNet:
    """The network of `find`.

    Raises:
        ConfigError: see `find`. WeightsError: see `find`, or the network has the letters of several languages.
    """
    device, files = torch.device(device), find(what, model, weights)
    if len(files) == 1:
        return _load_bundle(_bundle(what, _bundle_name(model, weights)), files[0], device, what)
    folder = files[0].parent
    package = load_package("transformers", "transformers", what)
    features = folder / FEATURES_FILE
    with loading(what, folder / VOCABULARY_FILE):
        vocabulary = dict(json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8")))
    with loading(what, features):
        normalise = bool(json.loads(features.read_text(encoding="utf-8")).get("do_normalize", True)) if features.is_file() else True
    if not all(isinstance(column, int) for column in vocabulary.values()):
        raise WeightsError(f"{what}: '{folder / VOCABULARY_FILE}' holds the letters of several languages; give a model of one")
    net = from_pretrained(package.Wav2Vec2ForCTC, folder, what).to(device)
    letters = {letter.lower(): column for letter, column in vocabulary.items()}
    blank = next((letters[name] for name in ("<pad>", "[pad]") if name in letters), int(net.config.pad_token_id or 0))
    return LetterNet(net, "huggingface", letters, blank, normalise, device)


def _bundle_names() -> list[str]:
    import torchaudio

    return [n for n in torchaudio.pipelines.__all__ if hasattr(getattr(torchaudio.pipelines, n), "get_labels") and "RNNT" not in n]


def _bundle_name(model: str | None, weights: str | None) -> str:
    """The bundle that is meant where no Hugging Face model is."""
    place = Path(weights or "")
    name = (place.parent if place.is_file() else place).name
    return model or (name if name in _bundle_names() else DEFAULT_BUNDLE)


def _bundle(what: str, name: str) -> Any:
    import torchaudio

    if name not in (names := _bundle_names()):
        raise ConfigError(f"{what} has no model '{name}'{nearest(name, names)}; a Hugging Face model is given as a folder or as org/name")
    return getattr(torchaudio.pipelines, name)


def _load_bundle(bundle: Any, file: Path, device: torch.device, what: str) -> LetterNet:
    """Without torchaudio's own download, which unpickles; its bundles tell their layers (`_params`) in every version from 2.8 to 2.11."""
    import torchaudio

    net = torchaudio.models.wav2vec2_model(**bundle._params)
    rows = bundle._params["aux_num_out"]
    with loading(what, file):
        state = load_file(file)
        if len(state["aux.weight"]) > rows:  # of the dictionary it was trained with, some rows stand for nothing
            kept = [row for row in range(len(state["aux.weight"])) if row not in bundle._remove_aux_axis]
            state |= {key: state[key][kept] for key in ("aux.weight", "aux.bias")}
        net.load_state_dict(state)
    letters = {letter.lower(): column for column, letter in enumerate(bundle.get_labels()) if letter != "*"}
    return LetterNet(net.to(device).eval(), "torchaudio", letters, 0, bundle._normalize_waveform, device)
