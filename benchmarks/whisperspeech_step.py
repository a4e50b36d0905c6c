"""A training step of WhisperSpeech's models with random weights; runs in the Python that has `whisperspeech`, nothing of ours is imported.

Settings: `model` "t2s" or "s2a", `depth`, `heads`, `batch`, `semantic` (tokens), `text` (tokens), `precision` ("fp32", or "bf16": autocast); for s2a `steps` and `lanes`, a list of (first
step with a code, steps between two codes), where a step without a code holds its padding code, which its loss leaves out.
"""

import warnings
from importlib.metadata import version
from typing import Any

from benchmarks.turns import serve

WIDTH, CODES, PADDING = 64, 2049, 1024  # of its semantic codebook; its acoustic vocabulary is 1024 codes


def make(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model on its device, and random inputs: "semantic" (B, N) for both; "text", "language" and "rate" for t2s; "singer" for s2a."""
    warnings.filterwarnings("ignore")
    import torch

    batch, semantic, device = settings["batch"], settings["semantic"], settings["device"]
    shape: dict[str, Any] = {"depth": settings["depth"], "n_head": settings["heads"], "ffn_mult": 4, "stoks_len": semantic,
                             "stoks_codes": CODES, "stoks_width": WIDTH}  # fmt: skip
    given: dict[str, Any] = {"semantic": torch.randint(0, CODES - 1, (batch, semantic), device=device)}
    if settings["model"] == "t2s":
        from whisperspeech.t2s_up_wds_mlang_enclm import TSARTransformer, Tunables

        model: Any = TSARTransformer(**shape, ttoks_len=settings["text"], ttoks_codes=256, tunables=Tunables())
        given["text"] = torch.randint(1, 255, (batch, settings["text"]), device=device)
        given["language"], given["rate"] = torch.zeros(batch, dtype=torch.long, device=device), torch.full((batch,), 15.0, device=device)
    else:
        from whisperspeech.s2a_delar_mup_wds_mlang import SADelARTransformer, Tunables

        model = SADelARTransformer(**shape, ctx_n=settings["steps"], quantizers=len(settings["lanes"]), spk_width=256, tunables=Tunables())
        given["singer"] = torch.randn(batch, 256, device=device)
    if device == "cpu":
        torch.set_float32_matmul_precision("highest")  # the package lowers it when it is imported; ours computes in full precision too
    return model.to(device), given


def told_of(model: Any) -> dict[str, Any]:
    """What is said of the peer's side beside its figures."""
    import torch

    return {"version": version("whisperspeech"), "torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters())}


def build(settings: dict[str, Any]) -> Any:
    import torch

    model, given = make(settings)
    device, stoks = settings["device"], given["semantic"]
    if settings["model"] == "t2s":
        text = given["text"]
        loss = lambda: model(text, text, given["language"], given["rate"], stoks, out_stoks=stoks)[1]  # noqa: E731
    else:
        codes = torch.full((settings["batch"], len(settings["lanes"]), settings["steps"]), PADDING)
        for lane, (first, period) in enumerate(settings["lanes"]):
            live = codes[:, lane, first::period]
            live.copy_(torch.randint(0, PADDING, live.shape))
        codes = codes.to(device)
        loss = lambda: model(stoks, codes, given["singer"])[1]  # noqa: E731
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=settings["precision"] == "bf16"):
            total = loss()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, told_of(model)


if __name__ == "__main__":
    serve(build)
