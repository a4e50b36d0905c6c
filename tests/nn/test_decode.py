"""The decoder step by step: what is computed one step after the other equals what is computed at once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from autosing.nn import decode
from autosing.nn.attention import Source, rotary_table
from autosing.nn.blocks import Build, Decoder
from autosing.nn.decode import Stepper
from autosing.nn.mup import Mup
from autosing.nn.recording import recorded
from tests.sequence_rows import wake

BUILD = Build(128, 2, Mup())
STEPS = 17


class Tape(TorchDispatchMode):
    """What a CUDA graph does, on any device: the operations of one call, done again on the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.done.append((function, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        for function, args, kwargs, made in self.done:
            again = function(*args, **kwargs)
            for before, now in zip(*((x if isinstance(x, tuple) else (x,)) for x in (made, again)), strict=True):
                if isinstance(before, torch.Tensor):
                    before.copy_(now)


def taped(run: Callable[[], None]) -> Callable[[], None]:
    run()  # to warm up
    tape = Tape()
    with tape:
        run()
    return tape.replay


@pytest.fixture(params=["plain", "recorded"])
def record(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable | None:
    """How the steps are recorded; so that a few steps are recorded twice or three times."""
    monkeypatch.setattr(decode, "PLACES_AT_ONCE", 8)
    return None if request.param == "plain" else taped


def decoder_of(span: int | None = None, kv_heads: int | None = None) -> Decoder:
    torch.manual_seed(0)
    return wake(Decoder(2, replace(BUILD, kv_heads=kv_heads), cross_weights=(0.8, 0.2), cross_layers=1, span=span))


def sources_of(decoder: Decoder, rows: int) -> list[list[Source]]:
    real = torch.ones(rows, 6, dtype=torch.bool)
    real[1:, 4:] = False
    return decoder.project([(torch.randn(rows, 6, 128), None, real), (torch.randn(rows, 9, 128), rotary_table(torch.arange(9), 64), None)])


@torch.no_grad()
@pytest.mark.parametrize("span", [None, 5])
@pytest.mark.parametrize("kv_heads", [None, 1])
@pytest.mark.parametrize("rope", [True, False])
def test_step_by_step_equals_all_at_once(span: int | None, kv_heads: int | None, rope: bool, record: Callable | None) -> None:
    decoder = decoder_of(span, kv_heads)
    sources, x = sources_of(decoder, 2), torch.randn(2, STEPS, 128)
    table = rotary_table(torch.arange(STEPS), 64) if rope else None
    stepper = Stepper(decoder, sources, table, 2, STEPS, record=record)
    assert stepper.layers[0].keys.shape == (2, kv_heads or 2, 24 if record else STEPS, 64)
    taken = torch.stack([stepper(x[:, step]) for step in range(STEPS)], 1)
    torch.testing.assert_close(taken, decoder(x, table, sources), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("rows", [2, 4])
@pytest.mark.parametrize(("span", "kv_heads", "rope"), [(None, None, True), (5, 1, True), (None, 1, False)])
def test_the_first_steps_at_once_are_those_taken_one_by_one(
    rows: int, span: int | None, kv_heads: int | None, rope: bool, record: Callable | None
) -> None:
    decoder = decoder_of(span, kv_heads)
    sources, x = sources_of(decoder, rows), torch.randn(rows, STEPS, 128)
    table = rotary_table(torch.arange(STEPS), 64) if rope else None
    stepper = Stepper(decoder, sources, table, rows, STEPS, record=record)
    first = stepper.begin(x[:, :9])
    taken = torch.cat([first, torch.stack([stepper(x[:, step]) for step in range(9, STEPS)], 1)], 1)
    torch.testing.assert_close(taken, decoder(x, table, sources), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_candidates_share_one_source() -> None:
    decoder = decoder_of()
    sources, x, table = sources_of(decoder, 1), torch.randn(4, STEPS, 128), rotary_table(torch.arange(STEPS), 64)
    stepper = Stepper(decoder, sources, table, 4, STEPS)  # as many rows as turn its matrices
    assert stepper.layers[0].heard[0].keys.untyped_storage().nbytes() == 4 * 6 * 128  # of one row
    taken = torch.stack([stepper(x[:, step]) for step in range(STEPS)], 1)
    for row in range(4):
        torch.testing.assert_close(taken[row : row + 1], decoder(x[row : row + 1], table, sources), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("span", "kv_heads"), [(None, None), (5, None), (3, 1), (None, 1)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("given", [0, 4])
def test_rows_that_agreed_go_on_as_if_each_had_taken_the_best_ones_steps(
    groups: int, span: int | None, kv_heads: int | None, given: int, record: Callable | None
) -> None:
    decoder, rows = decoder_of(span, kv_heads), 6
    sources, x, table = sources_of(decoder, 1), torch.randn(rows, STEPS, 128), rotary_table(torch.arange(STEPS), 64)
    size = rows // groups
    x[:, :given] = x[::size, :given].repeat_interleave(size, 0)  # a prompt
    stepper = Stepper(decoder, sources, table, rows, STEPS, size, 7, record)
    told, taken = x.clone(), list(stepper.begin(x[:, :given]).unbind(1)) if given else []
    for step in range(given, STEPS):
        taken.append(stepper(x[:, step]))
        if step in (6, 9, 10):
            best = torch.tensor([group * size + (step + group) % size for group in range(groups)])
            stepper.agree(best)
            told[:, : step + 1] = told[best.repeat_interleave(size), : step + 1]
    whole = torch.cat([decoder(told[row : row + 1], table, sources) for row in range(rows)])
    torch.testing.assert_close(torch.stack(taken[11:], 1), whole[:, 11:], atol=1e-5, rtol=1e-4)


def test_rows_have_to_agree_in_time() -> None:
    decoder = decoder_of()
    stepper = Stepper(decoder, sources_of(decoder, 1), None, 2, STEPS, 2, 3)
    with torch.no_grad():
        for _ in range(3):
            stepper(torch.randn(2, 128))
        with pytest.raises(AssertionError, match="agree"):
            stepper(torch.randn(2, 128))


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2])
def test_steps_are_recorded_in_the_precision_around_them(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As samples are sung while a model trains in bf16."""
    monkeypatch.setattr(decode, "PLACES_AT_ONCE", 8)
    decoder = decoder_of()
    sources, x, table = sources_of(decoder, 1), torch.randn(2, STEPS, 128), rotary_table(torch.arange(STEPS), 64)
    with torch.autocast("cpu", torch.bfloat16):
        steppers = [Stepper(decoder, sources, table, 2, STEPS, size, STEPS, record) for record in (None, taped)]
        plain, replayed = (torch.stack([stepper(x[:, step]) for step in range(STEPS)]) for stepper in steppers)
    torch.testing.assert_close(replayed, plain, atol=0.05, rtol=0.05)


@torch.no_grad()
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [1, 3])
def test_on_a_gpu_steps_are_replayed(size: int, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(decode, "PLACES_AT_ONCE", 8)
    decoder = decoder_of().cuda()
    sources = [[Source(*(None if t is None else t.cuda() for t in source)) for source in heard] for heard in sources_of(decoder_of(), 1)]
    x, table = torch.randn(6, STEPS, 128, device="cuda"), rotary_table(torch.arange(STEPS), 64).cuda()
    steppers = [Stepper(decoder, sources, table, 6, STEPS, size, STEPS if size > 1 else 0, record) for record in (None, lambda run: run)]
    for step in range(STEPS):
        replayed, plain = (stepper(x[:, step]) for stepper in steppers)
        torch.testing.assert_close(replayed, plain, atol=1e-4, rtol=1e-3)
    assert all(run.__name__ == "replay" for run in steppers[0]._runs.values())
    assert not len(recwarn)


def test_what_cannot_be_recorded_is_run_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: torch.device) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(torch.cuda, "device", broken)
    done: list[int] = []
    with pytest.warns(UserWarning, match="without CUDA graphs, more slowly: operation not permitted when stream is capturing$"):
        run = recorded(lambda: done.append(1), torch.device("cuda"))
    run()
    assert done == [1]
