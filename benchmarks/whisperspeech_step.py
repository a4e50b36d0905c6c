"""A training step of WhisperSpeech's models with random weights; runs in the Python that has `whisperspeech`, nothing of ours is imported.

Settings: `model` "t2s" or "s2a", `depth`, `heads`, `batch`, `semantic` (tokens), `text` (tokens); for s2a `steps` and `lanes`, a list of (first
step with a code, steps between two codes), where a step without a code holds its padding code, which its loss leaves out.
"""

import warnings
from importlib.metadata import version
from typing import Any

from benchmarks.turns import serve

WIDTH, CODES, PADDING = 64, 2049, 1024  # of its semantic codebook; its acoustic vocabulary is 1024 codes


def build(settings: dict[str, Any]) -> Any:
    warnings.filterwarnings("ignore")
    import torch

    batch, semantic, device = settings["batch"], settings["semantic"], settings["device"]
    shape: dict[str, Any] = {"depth": settings["depth"], "n_head": settings["heads"], "ffn_mult": 4, "stoks_len": semantic,
                             "stoks_codes": CODES, "stoks_width": WIDTH}  # fmt: skip
    stoks = torch.randint(0, CODES - 1, (batch, semantic), device=device)
    if settings["model"] == "t2s":
        from whisperspeech.t2s_up_wds_mlang_enclm import TSARTransformer, Tunables

        model: Any = TSARTransformer(**shape, ttoks_len=settings["text"], ttoks_codes=256, tunables=Tunables())
        text = torch.randint(1, 255, (batch, settings["text"]), device=device)
        language, rate = torch.zeros(batch, dtype=torch.long, device=device), torch.full((batch,), 15.0, device=device)
        loss = lambda: model(text, text, language, rate, stoks, out_stoks=stoks)[1]  # noqa: E731
    else:
        from whisperspeech.s2a_delar_mup_wds_mlang import SADelARTransformer, Tunables

        lanes, steps = settings["lanes"], settings["steps"]
        model = SADelARTransformer(**shape, ctx_n=steps, quantizers=len(lanes), spk_width=256, tunables=Tunables())
        codes = torch.full((batch, len(lanes), steps), PADDING)
        for lane, (first, period) in enumerate(lanes):
            live = codes[:, lane, first::period]
            live.copy_(torch.randint(0, PADDING, live.shape))
        codes, singer = codes.to(device), torch.randn(batch, 256, device=device)
        loss = lambda: model(stoks, codes, singer)[1]  # noqa: E731
    if device == "cpu":
        torch.set_float32_matmul_precision("highest")  # the package lowers it when it is imported; ours computes in full precision too
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            total = loss()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, {"version": version("whisperspeech"), "torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters())}


if __name__ == "__main__":
    serve(build)
