"""Task t2s on rows with a rule: examples, losses and refusals; that it learns is tested in tests/contract/test_tasks.py."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tasks.t2s
from autosing.config import from_mapping
from autosing.errors import ConfigError, DataError, MismatchError
from autosing.models.t2s import SIZES, Size
from autosing.singing.picture import draw_sample
from autosing.tokens.text import LINE, PAD, PHONES, UNKNOWN
from tasks.sequence import MupTunables, read_out, replace_codes
from tasks.t2s import TASK, T2SArgs
from tests.sequence_rows import SEMANTIC, toy_meta, toy_row, wake

ARGS = T2SArgs(size="micro", text_guidance=1.0, p_no_text=0.0, p_no_cond=0.0, dropout=0.0, corrupt=0.0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller micro, and a codebook that needs no tokenizer."""
    monkeypatch.setitem(SIZES, "micro", Size(2, 1, cross_layers=0, music_depth=0))
    monkeypatch.setattr(tasks.t2s, "load_codebook", lambda spec: torch.randn(spec.num_codes, spec.width))


def batch_of(task: TASK, rows: list[dict], seed: int = 0) -> dict[str, torch.Tensor]:
    examples = [task.example(row, np.random.default_rng(seed)) for row in rows]
    return {key: torch.stack([e[key] for e in examples if e is not None]) for key in examples[0]}


def test_an_example_has_the_windows_shapes_whatever_the_row() -> None:
    task = TASK(ARGS, MupTunables(), toy_meta(30.0))
    shapes = []
    for seconds in (30.0, 28.0, 15.0):
        example = task.example(toy_row(1, seconds), np.random.default_rng(0))
        assert example is not None
        shapes.append({key: tuple(value.shape) for key, value in example.items()})
    assert shapes[0] == shapes[1] == shapes[2]
    assert shapes[0]["semantic"] == (750,) and shapes[0]["text"] == (900,) and shapes[0]["music"] == (4, 2496)
    assert (example["semantic"][375:] == -1).all() and (example["advance"][375:] == -1).all()


def test_long_windows_break_the_text_at_the_half_and_short_ones_do_not() -> None:
    for seconds, lines in ((30.0, 2), (15.0, 1)):
        example = TASK(ARGS, MupTunables(), toy_meta(seconds)).example(toy_row(1, seconds), np.random.default_rng(0))
        assert example is not None
        assert (example["text"] == LINE).sum() == lines and example["text"][0] == LINE


def test_the_pointer_knows_what_is_sung() -> None:
    """In toy rows the semantic token is a function of the phone, so phone and token must go together nearly everywhere."""
    example = TASK(ARGS, MupTunables(), toy_meta()).example(toy_row(3), np.random.default_rng(0))
    assert example is not None
    phones, tokens = example["text"][example["pointer"]], example["semantic"]
    sung = tokens > 0
    assert (((tokens - 4) // 2 + 4 == phones) & sung).sum() > 0.9 * sung.sum()


def test_rows_that_are_not_trusted_have_a_placeholder_text() -> None:
    task = TASK(ARGS, MupTunables(), toy_meta())
    for trust, placeholder in ((0.5, True), (0.85, True), (0.9, False), (None, False)):
        example = task.example(toy_row(1, trust=trust), np.random.default_rng(0))
        assert example is not None
        assert (example["text"].tolist()[:2] == [UNKNOWN, PAD]) == placeholder
        assert (example["advance"] == -1).all() == placeholder


def test_fine_levels_of_the_accompaniment_are_masked() -> None:
    example = TASK(ARGS, MupTunables(), toy_meta()).example(toy_row(1), np.random.default_rng(0))
    assert example is not None
    assert (example["music"][2:] == -1).all() and (example["music"][:2] >= 0).any()


def test_losses_are_finite_also_without_any_text() -> None:
    task = TASK(ARGS, MupTunables(), toy_meta(15.0))
    model = task.build_model()
    losses = task.losses(model, batch_of(task, [toy_row(1, 15.0, trust=0.1)]))
    losses.total.backward()
    assert losses.total.isfinite() and losses.parts["advance"] == 0
    assert losses.parts["semantic"] < 1.5 * np.log(SEMANTIC.num_codes)


def test_the_original_without_pointer_trains_too() -> None:
    task = TASK(replace(ARGS, pointer=False, text="characters", cross_layers=2, music_depth=1), MupTunables(), toy_meta(15.0))
    losses = task.losses(task.build_model(), batch_of(task, [toy_row(1, 15.0)]))
    assert losses.total.isfinite() and "advance" not in losses.parts


def test_replaced_codes_are_the_asked_share() -> None:
    torch.manual_seed(0)
    codes = torch.arange(20_000)[None]
    replaced = replace_codes(codes, 0.2)
    assert abs((replaced != codes).float().mean() - 0.2) < 0.02
    assert abs((replaced == -1).float().mean() - 0.1) < 0.02
    assert replace_codes(codes, 0.0) is codes


def test_samples_are_tokens_with_the_words_to_sing_and_those_heard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The toy tokenizer's read-out names the phone that a toy row's token goes with."""
    phones = lambda tokens: ((tokens - 4) // 2 + 1).clamp(min=0, max=len(PHONES)).repeat_interleave(2)  # noqa: E731
    monkeypatch.setattr("autosing.perception.load_semantic", lambda name: SimpleNamespace(phones=phones))
    task = TASK(ARGS, MupTunables(), toy_meta(10.0))
    batch, model = batch_of(task, [toy_row(1, 10.0), toy_row(2, 10.0, trust=0.1)]), wake(task.build_model())
    one, two = task.samples(model, batch), task.samples(model, batch)
    assert [s.tokens.shape for s in one] == [(task.steps,)] * 2 and all(torch.equal(a.tokens, b.tokens) for a, b in zip(one, two, strict=True))
    sung = [word for word in one[0].words.words if word.end > word.start]
    assert len(sung) > 3 and all(0 <= w.start <= w.end <= 10.0 and w.text and "<" not in w.text for w in sung)
    truth = batch["semantic"][0]
    heard = read_out(SEMANTIC, truth)
    at = [int(w.start * 25) for w in heard]
    assert len(heard) > 3 and all(truth[i] > 0 for i in at) and all(w.text[:1] in "".join(PHONES) for w in heard)
    draw_sample(tmp_path / "a.png", one[0])
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_weights_made_with_other_tokens_are_refused_by_name() -> None:
    task = TASK(ARGS, MupTunables(), toy_meta())
    meta = task.checkpoint_meta()
    task.check_loaded(meta, "checkpoint 'a'")
    other = TASK(ARGS, MupTunables(), replace(toy_meta(), semantic=replace(SEMANTIC, name="other")))
    with pytest.raises(MismatchError, match=r"'other'.*'toy'|'toy'.*'other'"):
        other.check_loaded(meta, "checkpoint 'a'")
    with pytest.raises(MismatchError, match="characters"):
        TASK(replace(ARGS, text="characters"), MupTunables(), toy_meta()).check_loaded(meta, "checkpoint 'a'")


def test_wrong_settings_and_datasets_are_refused() -> None:
    with pytest.raises(ConfigError, match="tiny"):
        from_mapping(T2SArgs, {"size": "tny"}, "--task_args")
    with pytest.raises(ConfigError, match="languages"):
        from_mapping(T2SArgs, {"language": "de"}, "--task_args")
    with pytest.raises(DataError, match="semantic"):
        TASK(ARGS, MupTunables(), replace(toy_meta(), semantic=None))
    with pytest.raises(DataError, match="toy7_at_0"):
        TASK(ARGS, MupTunables(), toy_meta()).example({**toy_row(7), "mtoks": [1] * 7}, np.random.default_rng(0))


def test_a_batch_is_cut_to_its_longest_text_which_changes_no_loss() -> None:
    torch.manual_seed(0)
    task = TASK(replace(ARGS, pointer=False, cross_layers=1), MupTunables(), toy_meta(10.0))
    examples = [e for seed in (1, 2) if (e := task.example(toy_row(seed, 10.0), np.random.default_rng(0))) is not None]
    batch = task.collate(examples)
    longest = max(int((example["text"] != 0).sum()) for example in examples)
    assert batch["text"].shape == (2, longest) and longest < task.length
    whole = {key: torch.stack([example[key] for example in examples]) for key in examples[0]}
    model = task.build_model().eval()
    torch.testing.assert_close(task.losses(model, batch).total, task.losses(model, whole).total)
