"""CUDA graphs: what launches hundreds of small kernels is recorded once and replayed by a single launch.

A step of a small decoder is a few hundred kernels of some microseconds each, and launching them takes longer than running them. What is recorded must
read and write the same tensors every time, and nothing in it may wait for the device or depend on a number that the host holds.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch

Run = Callable[[], None]
Recorder = Callable[[Run], Run]
"""Makes of a function one that does the same; the function may be called any number of times before that."""

WARM_UP = 2  # calls before recording, in which libraries allocate what they need


def recorded(run: Run, device: torch.device) -> Run:
    """`run` as a CUDA graph; `run` itself, with a warning, where a driver cannot record it."""
    try:
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                run()
    except RuntimeError as error:
        warnings.warn(f"decoding goes on without CUDA graphs, more slowly: {str(error).splitlines()[0]}", stacklevel=2)
        return run
    return graph.replay


def recorder_of(device: torch.device) -> Recorder | None:
    """What records on a device; None where launching costs little."""
    return partial(recorded, device=device) if device.type == "cuda" else None
