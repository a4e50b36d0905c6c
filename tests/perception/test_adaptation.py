"""Getting used to a recording: what is moved, what it is for, and when it is left out."""

import numpy as np
import pytest
import torch

from autosing.models.io import load_model
from autosing.models.recogniser import BLANK, SIZES, Recogniser
from autosing.perception.alignment import adaptation
from autosing.perception.alignment.adaptation import FRONT, can_adapt, heard_blocks
from autosing.perception.alignment.builtin import BuiltinAligner, Heard
from autosing.song.lyrics import parse_raw

PHONES = [3, 7, 12, 7, 20, 5]


@pytest.fixture
def recogniser() -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(SIZES["micro"]).eval()


@pytest.fixture
def wav() -> torch.Tensor:
    return torch.randn(24000 * 4, generator=torch.Generator().manual_seed(1)) * 0.1


def ctc(recogniser: Recogniser, wav: torch.Tensor, phones: list[int]) -> float:
    """Negative log probability of the phones over all ways to place them, written out: the forward recursion of Graves et al."""
    with torch.inference_mode():
        log_probs = torch.log_softmax(recogniser(wav[None]).ctc[0], -1).double().numpy()
    states = [BLANK]
    for phone in phones:
        states += [phone, BLANK]
    alpha = np.full(len(states), -np.inf)
    alpha[:2] = log_probs[0, states[:2]]
    for frame in log_probs[1:]:
        before, alpha = alpha, np.full(len(states), -np.inf)
        for s, state in enumerate(states):
            ways = [before[s]] + ([before[s - 1]] if s else [])
            if s > 1 and state not in (BLANK, states[s - 2]):
                ways.append(before[s - 2])
            alpha[s] = np.logaddexp.reduce(ways) + frame[state]
    return -float(np.logaddexp(alpha[-1], alpha[-2]))


def adapted(recogniser: Recogniser, wav: torch.Tensor, phones: list[int], steps: int = adaptation.STEPS) -> Recogniser:
    with torch.inference_mode():  # as processing calls it
        spectra = recogniser.heard(wav[None])
        log_probs = torch.log_softmax(recogniser.read(recogniser.trunk(spectra)).ctc[0], -1)
        return adaptation.adapted(recogniser, spectra, log_probs, phones, steps)


def test_the_phones_become_likelier_and_the_front_moves_most(recogniser, wav):
    before = {name: value.clone() for name, value in recogniser.state_dict().items()}
    student = adapted(recogniser, wav, PHONES)
    assert ctc(student, wav, PHONES) < ctc(recogniser, wav, PHONES) - 1
    assert all(torch.equal(value, before[name]) for name, value in recogniser.state_dict().items())
    moved = {name: (value - before[name]).abs().max().item() for name, value in student.named_parameters()}
    assert min(m for name, m in moved.items() if name.startswith(FRONT)) > max(m for name, m in moved.items() if not name.startswith(FRONT)) > 0
    assert not any(p.requires_grad for p in student.parameters())


def test_a_step_follows_the_ctc_loss_of_what_it_hears(recogniser, wav, monkeypatch):
    """The gradient is that of torch's CTC loss over the whole recording, with what was heard before where the step does not listen."""
    monkeypatch.setattr(adaptation, "_BLOCK_FRAMES", 40)
    blocks = heard_blocks(200, 0)
    assert 60 <= sum(end - begin for begin, end in blocks) <= 140
    before = torch.log_softmax(recogniser(wav[None]).ctc[0], -1).detach()
    spectra, rows = recogniser.heard(wav[None]), list(before.split(1))
    for begin, end in blocks:
        rows[begin:end] = torch.log_softmax(recogniser.read(recogniser.trunk(spectra[..., 2 * begin : 2 * end])).ctc[0], -1).split(1)
    loss = torch.nn.functional.ctc_loss(torch.cat(rows)[:, None], torch.tensor([PHONES]), torch.tensor([200]), torch.tensor([6]), blank=BLANK)
    wanted = torch.autograd.grad(loss, recogniser.project.weight)[0]
    moved = adapted(recogniser, wav, PHONES, steps=1).project.weight - recogniser.project.weight
    sure = wanted.abs() > wanted.abs().median()  # Adam's first step goes against the sign of the gradient
    assert torch.equal(moved[sure].sign(), -wanted[sure].sign())


@pytest.mark.parametrize(("frames", "turns"), [(1, 2), (2, 2), (700, 2), (1450, 2), (9000, 2), (12_001, 3), (45_000, 8)])
def test_turns_hear_everything_once_and_two_minutes_at_a_time(frames, turns):
    cuts = set()
    for turn in range(3):
        heard = np.zeros(frames, int)
        for part in range(turns):
            blocks = heard_blocks(frames, turn * turns + part)
            assert all(begin < end for begin, end in blocks) and sum(end - begin for begin, end in blocks) <= 6000 + 750
            for begin, end in blocks:
                heard[begin:end] += 1
                cuts.add(begin)
        assert (heard == 1).all()
    assert frames < 100 or len(cuts) > turns  # no place is at the edge of a block every time


def test_what_cannot_be_learnt_from(recogniser, wav, monkeypatch):
    assert can_adapt(200, PHONES) and can_adapt(12, PHONES)
    assert not can_adapt(200, []) and not can_adapt(10, PHONES)
    twice = adapted(recogniser, wav[: 480 * 12], [3] * 6 + [5])  # six that are the same want eleven frames and one is left
    assert all(torch.isfinite(p).all() for p in twice.parameters())
    never = adapted(recogniser, wav[: 480 * 12], [3] * 7)
    assert all(torch.equal(p, q) for p, q in zip(never.parameters(), recogniser.parameters(), strict=True))
    monkeypatch.setattr(adaptation, "_MOST_CELLS", 1000)
    assert not can_adapt(200, PHONES)


def test_no_steps_hears_every_recording_alike(tmp_path, recogniser, wav):
    from autosing.models.io import save_model

    save_model(recogniser, tmp_path, {})
    lyrics = parse_raw("hello world")
    fixed = BuiltinAligner(weights=tmp_path, adapt_steps=0)
    assert fixed.align(wav, lyrics) == fixed.align_heard(Heard(fixed.log_posteriors(wav)), lyrics)
    assert BuiltinAligner(weights=tmp_path).align(wav, lyrics) != fixed.align(wav, lyrics)
    assert BuiltinAligner(weights=tmp_path).align(wav, lyrics) == BuiltinAligner(weights=tmp_path).align(wav, lyrics)


def test_a_real_voice_in_its_band_is_read_better(shared):
    """The words' own phones gain in likelihood, and more than those of another verse."""
    from autosing.evaluation.known_songs import real_songs
    from autosing.perception.alignment.builtin import read_lines

    recogniser, _ = load_model("builtin", "recogniser", "cpu")
    song = next(s for s in real_songs(shared) if "Monkey Shines" in s.name)
    first, last = song.words[0].start, song.words[30].end
    wav = song.wavs["mixture"][:, int(max(0.0, first - 1) * 24000) : int((last + 1) * 24000)]
    own = read_lines(parse_raw(" ".join(w.text for w in song.words[:31]))).classes
    other = read_lines(parse_raw(" ".join(w.text for w in song.words[60:91]))).classes
    student = adapted(recogniser, wav, own)
    gain = [ctc(recogniser, wav, phones) - ctc(student, wav, phones) for phones in (own, other)]
    assert gain[0] > 20 and gain[0] > gain[1]
