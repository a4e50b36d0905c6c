"""The model card of a checkpoint: README.md beside its weights, for whoever finds the folder without the run."""

from collections.abc import Mapping
from typing import Any

from autosing.tokens.specs import CodecSpec, SemanticSpec, VoiceSpec
from autosing.training.task import DatasetMeta


def model_card(task: str, trained: Mapping[str, Any], data: DatasetMeta) -> str:
    """Markdown: how it was trained, on what data, what it reached, which tokens it speaks.

    Args:
        trained: `meta["training"]` of the checkpoint.
        data: of the dataset.
    """
    identity = trained["identity"]
    settings = ", ".join(
        f"{name} {identity[key]}" for key, name in (("batch_size", "batch"), ("accumulate", "accumulation"), ("precision", "precision"), ("seed", "seed"))
    )
    tokens = {
        "codec": data.codec and _codec(data.codec),
        "accompaniment codec": data.accompaniment_codec and _codec(data.accompaniment_codec),
        "semantic tokens": data.semantic and _semantic(data.semantic),
        "voice embedding": data.voice and _voice(data.voice),
    }
    sections = {
        "Training": [f"{trained['step']} steps, {trained['epoch']:g} epochs; {settings}", f"learning rate {identity['tunables']['lr0']:g}, {identity['lr_schedule']}"],
        "Data": [
            f"{trained['rows']:,} rows of {data.kind}, windows of {data.window_seconds:g} s",
            f"fingerprint {identity['dataset']}" + (f", made from {data.source_hash}" if data.source_hash else ""),
        ],
        "Metrics": [f"{name}: {value:.5g}" for name, value in trained["metrics"].items()],
        "Tokens": [f"{name}: {text}" for name, text in tokens.items() if text],
    }
    lines = [f"# {task}, step {trained['step']}", "", f"Written by `train.py --task_name {task}`. Weights: {trained['weights']}."]
    if adapter := identity.get("lora"):
        lines += ["", f"An adapter of rank {adapter['r']} of '{adapter['base']}', which it is used with; `autosing-train merge` folds it in."]
    for title, entries in sections.items():
        if entries:
            lines += ["", f"## {title}", "", *(f"- {entry}" for entry in entries)]
    return "\n".join(lines) + "\n"


def _codec(spec: CodecSpec) -> str:
    return (
        f"{spec.name}, {spec.sample_rate} Hz, {spec.frame_rate:.4g} finest frames a second, {spec.levels} levels of {spec.num_codes} codes, "
        f"strides {'/'.join(map(str, spec.strides))}"
    )


def _semantic(spec: SemanticSpec) -> str:
    return f"{spec.name}, {spec.num_codes} codes, {spec.token_rate} a second"


def _voice(spec: VoiceSpec) -> str:
    return f"{spec.name}, {spec.width} numbers"
