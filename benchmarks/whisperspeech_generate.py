"""Decoding by WhisperSpeech's models with random weights; runs in the Python that has `whisperspeech`, nothing of ours is imported.

Settings: as in `whisperspeech_step`, and `tokens`: how many decoder steps a step of the measurement generates. Its own `optimize` and `generate` are
called as its pipeline does. Every decoder step attends to its whole caches, whatever they hold, so that a few tell what all of the window take; what
comes before the first (encoder, prefill) is left out of the figures.
"""

import time
from typing import Any

from benchmarks.turns import serve
from benchmarks.whisperspeech_step import CODES, make, told_of


def build(settings: dict[str, Any]) -> Any:
    import torch
    from whisperspeech import inference

    model, given = make(settings)
    cuda, batch, tokens = settings["device"] == "cuda", settings["batch"], settings["tokens"]
    model.eval()
    with torch.no_grad():
        model.optimize(max_batch_size=batch, torch_compile=cuda, dtype=torch.float16 if cuda else torch.float32)
    common: dict[str, Any] = {"bs": batch, "T": 0.7, "show_progress_bar": False}
    if settings["model"] == "t2s":
        end, plain = torch.tensor([CODES], device=settings["device"]), inference.sample
        inference.sample = lambda logits, *more: plain(logits.index_fill(-1, end, -torch.inf), *more)  # every run is to have as many tokens
        text = "la la la " * (settings["text"] // 9 - 1)
        sing = lambda step: model.generate(text, N=tokens + 2, step=step, **common)  # noqa: E731
    else:
        semantic, singer = given["semantic"][0, :-2], given["singer"][:1]
        sing = lambda step: model.generate(semantic, singer, N=tokens + 3, step=step, **common)  # noqa: E731

    def step() -> dict[str, float]:
        marks: list[tuple[float, float]] = []

        def mark() -> None:
            if cuda and len(marks) in (0, tokens - 1):
                torch.cuda.synchronize()
            marks.append((time.process_time(), time.perf_counter()))

        sing(mark)
        (cpu, wall), (cpu_end, wall_end) = marks[0], marks[-1]
        return {"cpu_s": (cpu_end - cpu) / (len(marks) - 1), "wall_s": (wall_end - wall) / (len(marks) - 1)}

    return step, told_of(model)


if __name__ == "__main__":
    serve(build)
