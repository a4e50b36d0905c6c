"""Semantic tokens to codec tokens by our sm2a, of either kind, with random weights; a step is one whole passage.

Settings: `task` ("sm2a" or "sm2a_parallel"), `size`, `codec` (a row of `CODECS`), `seconds`, `batch`, `guidance` (towards the semantic tokens; 1 =
none), `steps` (passes of the parallel kind); `heads`: another width than the size's; `parameters`: layers are added to the parallel encoder until
the model has at least so many.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from autosing.models.sm2a import SM2A
from autosing.models.sm2a_parallel import SM2AParallel
from autosing.singing.codes import sing_codes
from autosing.training.task import DatasetMeta
from benchmarks.our_step import CODECS, SEMANTIC, VOICE, random_codes
from benchmarks.turns import serve
from tasks import TASKS


def build(settings: dict[str, Any]) -> Any:
    codec, batch, seconds, device = CODECS[settings["codec"]], settings["batch"], settings["seconds"], settings["device"]
    cls = TASKS.get(settings["task"])
    meta = DatasetMeta("tokens", codec, codec, SEMANTIC, VOICE, seconds, 1, "random")
    task = cls(cls.Args(size=settings["size"], codebooks=False), cls.Tunables(), meta)
    config: Any = replace(task.config(), semantic_guidance=settings["guidance"])
    config = replace(config, heads=settings.get("heads", config.heads))
    if settings["task"] == "sm2a":
        model: SM2A | SM2AParallel = SM2A(config)
    else:
        model = SM2AParallel(config)
        while parameters(model) < settings.get("parameters", 0):
            config = replace(config, encoder_depth=config.encoder_depth + 1)
            model = SM2AParallel(config)
    model.to(device).eval()
    frames = codec.frames(seconds)
    semantic = torch.randint(0, SEMANTIC.num_codes, (batch, SEMANTIC.tokens(seconds)), device=device)
    music = random_codes(codec, 1, frames).to(device)
    voice = F.normalize(torch.randn(1, 1, VOICE.width, device=device), dim=-1)
    more = {"steps": settings["steps"]} if settings["task"] == "sm2a_parallel" else {}
    generator = torch.Generator(device).manual_seed(0)
    about = {"parameters": parameters(model), "frames": frames, "tokens": batch * sum(-(-frames // stride) for stride in codec.strides),
             "layers": [config.encoder_depth, config.decoder_depth]}  # fmt: skip
    return lambda: sing_codes(model, semantic, music, voice, frames=frames, generator=generator, **more), about


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    serve(build)
