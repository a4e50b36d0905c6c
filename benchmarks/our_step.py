"""A training step of our t2s and sm2a with random weights on random rows: losses, backward pass, clipping, AdamW, as the train loop does it.

Settings: `task`, `args` (its `--task_args`), `codec` (a row of `CODECS`), `music` (false: the model is built without an accompaniment),
`semantic` (tokens), `text` (tokens), `batch`; `precision` ("fp32", or "bf16": autocast); `dense`: score every lane at every step, as the original does. Letters as in the models.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from autosing.models.sm2a import SM2A
from autosing.models.t2s import T2S
from autosing.tokens.patterns import TokenPattern
from autosing.tokens.pointer import PACE_BUCKETS, SINCE_BUCKETS
from autosing.tokens.specs import CodecSpec, SemanticSpec, VoiceSpec
from autosing.training.optim import build_optimizer
from autosing.training.task import DatasetMeta, Losses
from benchmarks.turns import serve
from tasks import TASKS

CODECS = {
    "frames": CodecSpec("frames", 24_000, 320, (1, 1, 1, 1), 1024, 1),  # four codes a frame at 75 Hz, what WhisperSpeech writes
    "builtin": CodecSpec("random", 24_000, 288, (8, 4, 2, 1), 1024, 32),  # the layout of the embedded codec
    "snac_32khz": CodecSpec("snac_32khz", 32_000, 384, (8, 4, 2, 1), 4096, 32),
}
SEMANTIC, VOICE = SemanticSpec("random", 16_000, 25, 2048, 64), VoiceSpec("random", 16_000, 256)


def usual_precision(device: str) -> str:
    """What models are trained in there."""
    return "bf16" if device == "cuda" else "fp32"


def random_codes(spec: CodecSpec, batch: int, frames: int) -> torch.Tensor:
    """(B, K, T), holes off stride."""
    codes = torch.full((batch, spec.levels, frames), spec.HOLE)
    for level, stride in enumerate(spec.strides):
        live = codes[:, level, ::stride]
        live.copy_(torch.randint(0, spec.num_codes, live.shape))
    return codes


def make(settings: dict[str, Any]) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """(task, model, batch) of the settings."""
    codec, batch = CODECS[settings["codec"]], settings["batch"]
    seconds = settings["semantic"] / SEMANTIC.token_rate
    meta = DatasetMeta("tokens", codec, codec, SEMANTIC, VOICE, seconds, 1, "random")
    cls = TASKS.get(settings["task"])
    extra = {"codebooks": False} if settings["task"] == "sm2a" else {"text": "characters"}
    task = cls(cls.Args(**{**extra, **settings["args"]}), cls.Tunables(), meta)
    config = task.config() if settings["music"] else replace(task.config(), accompaniment=None)
    rows = {"semantic": torch.randint(0, SEMANTIC.num_codes, (batch, settings["semantic"]))}
    if settings["music"]:
        music = random_codes(codec, batch, codec.frames(seconds))
        if settings["task"] == "t2s":
            music[:, task.args.mask_finegrained :] = codec.HOLE
        rows["music"] = music
    if settings["task"] == "sm2a":
        rows["codes"] = random_codes(codec, batch, codec.frames(seconds))
        rows["voice"] = F.normalize(torch.randn(batch, task.windows, VOICE.width), dim=-1)
        rows.setdefault("music", torch.zeros(batch, 0, 0, dtype=torch.long))
        return task, SM2A(config), rows
    steps, text = settings["semantic"], settings["text"]
    rows["text"] = torch.randint(1, config.text_vocab, (batch, text))
    rows["rate"], rows["language"] = torch.full((batch,), text / seconds), torch.zeros(batch, dtype=torch.long)
    rows["pointer"] = (torch.arange(steps) * text // steps).expand(batch, -1).contiguous()
    rows["advance"] = F.pad(rows["pointer"].diff(dim=1), (0, 1), value=-1)
    rows["since"] = torch.randint(0, SINCE_BUCKETS, (batch, steps))
    rows["pace"] = torch.randint(0, PACE_BUCKETS, (batch, steps))
    return task, T2S(config), rows


def dense_score(model: SM2A, pattern: TokenPattern, hidden: torch.Tensor, grid: torch.Tensor, first: int) -> Losses:
    """In place of `tasks.sm2a.TASK._score`: logits of all lanes at all steps, holes left out by the loss."""
    logits = torch.stack([model.lane_logits(hidden, lane) for lane in range(len(pattern.lanes))], 1)
    losses = [F.cross_entropy(logits[:, lane].transpose(1, 2), grid[:, lane], ignore_index=CodecSpec.HOLE) for lane in range(logits.shape[1])]
    right = (logits.argmax(-1) == grid).float().mean()
    return Losses(torch.stack(losses).mean(), {}, {"accuracy": right})


def build(settings: dict[str, Any]) -> Any:
    device = settings["device"]
    task, model, rows = make(settings)
    if settings.get("dense"):
        task._score = dense_score
    model.to(device).train()
    if settings.get("compile"):
        for part in model.compiled_parts():
            part.compile()
    rows = {key: value.to(device) for key, value in rows.items()}
    optimizer = build_optimizer(model, task.param_rules(model), task.tunables)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=settings["precision"] == "bf16"):
            total = task.losses(model, rows).total
        total.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(parameters, 2.0, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    about = {"torch": torch.__version__, "parameters": sum(p.numel() for p in parameters), "targets": targets(task, model, rows)}
    if settings.get("count_flops"):
        with FlopCounterMode(display=False) as counter:
            step()
        about["flops"] = counter.get_total_flops()
    return step, about


def targets(task: Any, model: Any, rows: dict[str, torch.Tensor]) -> int:
    """Codes that one step predicts."""
    if task.name == "t2s":
        return rows["semantic"].numel()
    pattern, piece = task._view(model.eval())
    model.train()
    return int((pattern.apply(rows["codes"], task.codec)[..., :piece] != CodecSpec.HOLE).sum())


if __name__ == "__main__":
    serve(build)
