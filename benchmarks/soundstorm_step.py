"""Generation by pip `soundstorm-pytorch` with random weights; runs in the Python that has it, nothing of ours is imported.

Settings: `dim`, `depth`, `frames`, `quantizers`, `codes`, `steps`, `batch`. A step makes all frames once, without conditions.
"""

import sys
import warnings
from importlib.metadata import version
from typing import Any
from unittest.mock import MagicMock

from benchmarks.turns import serve


def build(settings: dict[str, Any]) -> Any:
    warnings.filterwarnings("ignore")
    for name in ("fairseq", "fairseq.checkpoint_utils"):  # imported by its dependency, fails on Python 3.11 and is not used here
        sys.modules[name] = MagicMock()
    import torch
    from soundstorm_pytorch import ConformerWrapper, SoundStorm

    conformer = {"dim": settings["dim"], "depth": settings["depth"]}
    net = ConformerWrapper(codebook_size=settings["codes"], num_quantizers=settings["quantizers"], conformer=conformer)
    model = SoundStorm(net, steps=settings["steps"], schedule="cosine").to(settings["device"]).eval()

    def step() -> None:
        with torch.no_grad():
            model.generate(settings["frames"], batch_size=settings["batch"])

    about = {"version": version("soundstorm-pytorch"), "torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters()),
             "frames": settings["frames"], "tokens": settings["batch"] * settings["frames"] * settings["quantizers"]}  # fmt: skip
    return step, about


if __name__ == "__main__":
    serve(build)
