"""Checkpoints of WhisperSpeech and of the first AutoSing (`.model` files) -> our format. What the file held comes in as tensors and JSON values.

| class in the file | what it becomes |
|---|---|
| WhisperSpeech `TSARTransformer` (t2s) | `whisperspeech_t2s`, exact |
| WhisperSpeech `SADelARTransformer` (s2a, rotary positions) | `whisperspeech_s2a`, exact |
| AutoSing `TM2STransformer` (t2s) | `whisperspeech_t2s` with music, exact |
| AutoSing `SM2ATransformer` (sm2a) | `whisperspeech_s2a` with music, exact |
| `SADelARTransformer` with sinusoidal positions, with 50 semantic tokens a second, or with conditioning tables | refused by name |
| AutoSing `Embedder` (artist embedding) | refused: `--task_name artist` trains ours, of another shape |
| `RQBottleneckTransformer` (semantic tokens) | `whisper_vq`, together with the Whisper it is a part of: `whisper_vq.py` |

None becomes our `t2s` or `sm2a`: their arithmetic differs (`whisperspeech.py` says where). Every tensor of a file is either mapped or known to
serve training alone; one that is neither refuses the file.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autosing.errors import MismatchError
from autosing.models.whisperspeech import HEAD_WIDTH, WhisperS2A, WhisperS2AConfig, WhisperT2S, WhisperT2SConfig

Tensors = dict[str, Tensor]
Values = Mapping[str, Any]

REFUSED = {
    "class_head.": "an artist embedding (`Embedder`) has another shape than ours; train one: --task_name artist",
    "cond_embeddings.": "a model with conditioning tables is not one of those that are known",
}
"""How tensors begin of classes that cannot be converted, and why not."""
FOR_TRAINING = re.compile(r"rotary\.inv_freq$|^val_(true|total)$|^music_head\.|^encoder\.embedding\.hidden_to_emb\.|^hidden_to_emb\.")
BLOCK = {
    "attn_ln.": "norm_self.",
    "attn.": "attention.",
    "cross_attn_ln.": "norm_cross.",
    "cross_attn.": "cross.0.",
    "cross_attn_two.": "cross.1.",
    "mlp_ln.": "norm_ff.",
    "mlp.0.": "feed_forward.up.",
    "mlp.2.": "feed_forward.down.",
}
PROJECTIONS = {"main.weight": "main", "special.weight": "special", "emb_to_hidden": "into", "hidden_to_emb": "out"}
T2S_NAMES = {
    r"^encoder\.embedding\.": "text.",
    r"^encoder\.positional_embedding$": "text_positions",
    r"^embeddings\.embedding\.": "semantic.",
    r"^embeddings\.positional_embedding$": "positions",
    r"^lang_embeddings\.weight$": "embedding_language",
    r"^cps_embeddings\.weight$": "embedding_rate",
    r"^music_embds\.embeddings\.0\.special\.weight$": "music.special",
    r"^music_embds\.embeddings\.": "music.tables.",
}
S2A_NAMES = {
    r"^semantic_embedding\.weight$": "semantic.main",
    r"^emb_to_hidden\.": "semantic.into.",
    r"^spk_to_hidden\.": "speaker.",
    r"^embds\.embeddings\.0\.special\.weight$": "voice.special",
    r"^embds\.embeddings\.": "voice.tables.",
    r"^music_embds\.embeddings\.0\.special\.weight$": "music.special",
    r"^music_embds\.embeddings\.": "music.tables.",
    r"^head\.splitter\.0\.": "splitter.",
}
STACKS = {
    r"^(encoder|music_encoder)\.(layers\.)?(\d+)\.": r"\1.layers.\3.",
    r"^(encoder|decoder)\.ln_post\.": r"\1.norm.",
    r"^ln_post\.": "encoder.norm.",
    r"^ln_post_music\.": "music_encoder.norm.",
}


class Converted(NamedTuple):
    """`model` in eval mode and the name of the class that the file held."""

    model: nn.Module
    source: str


def convert(config: Values, tunables: Values, tensors: Tensors, where: str) -> Converted:
    """Rebuild the model of a `.model` file.

    Args:
        config, tunables, tensors: the file's three entries.
        where: how to name the file in errors.

    Raises:
        MismatchError: a class that cannot be converted, a setting or a tensor that is not known; names it.
    """
    for beginning, why in REFUSED.items():
        if any(name.startswith(beginning) for name in tensors):
            raise MismatchError(f"{where} cannot be converted: {why}")
    if config.get("head_width", HEAD_WIDTH) != HEAD_WIDTH:
        raise MismatchError(f"{where} cannot be converted: its heads are {config['head_width']} wide, {HEAD_WIDTH} are known")
    model: WhisperT2S | WhisperS2A
    if "embeddings.embedding.main.weight" in tensors:
        model, names, source = WhisperT2S(_t2s_config(tunables, tensors)), T2S_NAMES, ("TSARTransformer", "TM2STransformer")
    elif "semantic_embedding.weight" in tensors:
        model, names, source = WhisperS2A(_s2a_config(config, tunables, tensors, where)), S2A_NAMES, ("SADelARTransformer", "SM2ATransformer")
    else:
        raise MismatchError(f"{where} cannot be converted: it holds neither a t2s nor an s2a model of WhisperSpeech or AutoSing")
    state = _joined(_renamed(tensors, {**names, **STACKS}))
    own = model.state_dict()
    for name in {**own, **state}:
        if name not in own or name not in state or own[name].shape != state[name].shape:
            raise MismatchError(f"{where} cannot be converted: tensor '{name}' is not as a {source[bool(model.config.lanes)]} has it")
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return Converted(model.eval(), source[bool(model.config.lanes)])


def _count(tensors: Tensors, pattern: str) -> int:
    """How many numbers the group of `pattern` takes."""
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def _shape(tunables: Values, tensors: Tensors, table: str, mult: str, defaults: tuple[float, float, bool]) -> dict[str, Any]:
    """The fields of `whisperspeech.Shape`; sizes are those of the tensors."""
    special = f"{table}.special.weight"
    music = next((t for t in ("music_embds.embeddings", "embds.embeddings") if f"{t}.0.main.weight" in tensors), "")
    listens = "ln_post_music.weight" in tensors
    return {
        "heads": tensors[mult].shape[1] // HEAD_WIDTH,
        "encoder_depth": _count(tensors, r"encoder\.(?:layers\.)?(\d+)\.attn\."),
        "decoder_depth": _count(tensors, r"decoder\.layers\.(\d+)\.attn\."),
        "ffn_mult": tensors[mult].shape[0] // tensors[mult].shape[1],
        "codes": tensors[f"{table}.main.weight"].shape[0],
        "special": tensors[special].shape[0] if special in tensors else 0,
        "code_width": tensors[f"{table}.main.weight"].shape[1],
        "query_mult": float(tunables.get("query_mult", defaults[0])),
        "output_mult": float(tunables.get("output_mult", defaults[1])),
        "causal_encoder": bool(tunables.get("causal_encoder", defaults[2])),
        "lanes": _count(tensors, rf"{music}\.(\d+)\.main\.") if listens else 0,
        "music_codes": tensors[f"{music}.0.main.weight"].shape[0] if listens else 0,
        "music_special": tensors[f"{music}.0.special.weight"].shape[0] if listens else 0,
        "music_depth": _count(tensors, r"music_encoder\.(\d+)\.attn\."),
    }


def _t2s_config(tunables: Values, tensors: Tensors) -> WhisperT2SConfig:
    table = "embeddings.embedding"
    return WhisperT2SConfig(
        **_shape(tunables, tensors, table, "decoder.layers.0.mlp.0.weight", (1.0, 0.35, True)),
        length=tensors["embeddings.positional_embedding"].shape[0],
        text_codes=tensors["encoder.embedding.main.weight"].shape[0],
        text_width=tensors["encoder.embedding.main.weight"].shape[1],
        text_length=tensors["encoder.positional_embedding"].shape[0],
        languages=tensors["lang_embeddings.weight"].shape[0],
        rate_bins=tensors["cps_embeddings.weight"].shape[0] if "cps_embeddings.weight" in tensors else 0,
    )


def _s2a_config(config: Values, tunables: Values, tensors: Tensors, where: str) -> WhisperS2AConfig:
    if "positional_embeddings" in tensors or not tunables.get("rope", False):
        raise MismatchError(f"{where} cannot be converted: its positions are sinusoidal (rope false), rotary ones are known")
    if config.get("stoks_len") == 1500:
        raise MismatchError(f"{where} cannot be converted: it reads 50 semantic tokens a second (stoks_len 1500), 25 are known")
    shape = _shape(tunables, tensors, "embds.embeddings.0", "decoder.layers.0.mlp.0.weight", (0.3, 5.6, False))
    return WhisperS2AConfig(
        **shape,
        length=int(config.get("ctx_n", 2250)),
        quantizers=_count(tensors, r"embds\.embeddings\.(\d+)\.main\."),
        semantic_codes=tensors["semantic_embedding.weight"].shape[0],
        semantic_width=tensors["semantic_embedding.weight"].shape[1],
        speaker_width=tensors["spk_to_hidden.weight"].shape[1] if "spk_to_hidden.weight" in tensors else shape["heads"] * HEAD_WIDTH,
        stride=int(config.get("enc_subsample", 1)) if shape["lanes"] else 3,
        own_music_tables="music_embds.embeddings.0.main.weight" in tensors,
        causal_music=bool(tunables.get("causal_music_encoder", False)),
    )


def _renamed(tensors: Tensors, names: Mapping[str, str]) -> Tensors:
    """Tensors under the names of our layers; attention still in three matrices."""
    renamed = {}
    for name, value in tensors.items():
        if FOR_TRAINING.search(name) or re.search(r"embds\.embeddings\.[1-9]\d*\.special\.", name):  # the lanes share one
            continue
        for pattern, ours in names.items():
            name = re.sub(pattern, ours, name)
        for theirs, ours in BLOCK.items():
            name = re.sub(rf"(layers\.\d+\.){re.escape(theirs)}", rf"\1{ours}", name)
        if name.startswith(("text.", "semantic.", "voice.tables.", "music.tables.")):
            for theirs, ours in PROJECTIONS.items():
                name = name.replace(theirs, ours)
        renamed[name] = value
    return renamed


def _joined(tensors: Tensors) -> Tensors:
    """Queries, keys and values that our layers keep in one matrix put together; keys have no bias there, so theirs is 0 here."""
    joined = dict(tensors)
    for name in [n for n in tensors if n.endswith(".key.weight")]:
        layer = name.removesuffix("key.weight")
        bias = torch.zeros_like(tensors[f"{layer}value.bias"])
        if re.search(r"\.attention\.$", layer):
            parts, ours = ("query", "key", "value"), f"{layer}qkv"
        else:
            parts, ours = ("key", "value"), f"{layer}key_value"
        joined[f"{ours}.weight"] = torch.cat([joined.pop(f"{layer}{part}.weight") for part in parts])
        joined[f"{ours}.bias"] = torch.cat([bias if part == "key" else joined.pop(f"{layer}{part}.bias") for part in parts])
    return joined
