"""Learning levels 2 and 3 of the voice codec: the codes come to say what the features are, the same every time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autosing.errors import ConfigError
from autosing.nn.convnext import ConvNeXtStack
from autosing.perception.codec.builtin import VoiceBooks, VoiceBooksConfig
from autosing.perception.codec.fit import fit_voice, levels_of, main, name_like, require_same_codes
from autosing.perception.codec.learn import Material, MovingBook, Plan, learn
from autosing.perception.codec.vocoder import Frames

CONFIG = VoiceBooksConfig(
    num_codes=24, voiced_codes=16, latents=8, encoder_width=16, encoder_kernel=3, encoder_dilations=(1,), decoder_width=16,
    decoder_kernel=3, decoder_dilations=(1, 1),
)  # fmt: skip
PLAN = Plan(reader_steps=30, free_steps=20, steps=60, batch=4, crop=48)


@pytest.fixture(scope="module")
def heard() -> tuple[Frames, torch.Tensor]:
    """Four sounds that take turns, with their numbers as phones."""
    generator = torch.Generator().manual_seed(0)
    frames = 2400
    phone = torch.randint(0, 4, (frames // 12,), generator=generator).repeat_interleave(12)
    cepstra = torch.randn(4, 40, generator=generator)[phone] * 6 + 0.3 * torch.randn(frames, 40, generator=generator)
    cepstra[:, 0] += 60
    features = Frames(
        f0_hz=220 * torch.exp2(0.3 * torch.randn(1, frames, generator=generator)), voiced=(phone != 0)[None], cepstra=cepstra[None],
        aperiodicity_db=-10 + torch.randn(1, frames, 5, generator=generator),
    )  # fmt: skip
    return features, torch.nn.functional.one_hot(phone, 4).float()


def learnt(heard: tuple[Frames, torch.Tensor], plan: Plan) -> tuple[VoiceBooks, dict[str, float]]:
    books = fit_voice(heard[0], CONFIG, seed=0, iterations=4)
    return books.eval(), learn(books, Material(books, *heard), plan)


def test_learning_brings_the_decoded_features_nearer(heard) -> None:
    _, early = learnt(heard, replace(PLAN, steps=1))
    books, late = learnt(heard, PLAN)
    for what in ("spectrum", "phones", "states"):
        assert late[what] < 0.8 * early[what]
    with torch.no_grad():
        codes = books.encode(heard[0])
        decoded = books.decode(codes)
    assert [len(level) for level in codes] == [300, 600, 1200, 2400]
    assert torch.equal(decoded.voiced, heard[0].voiced)
    silence = heard[0].cepstra.mean(1, keepdim=True)
    assert (decoded.cepstra - heard[0].cepstra).square().mean() < 0.3 * (heard[0].cepstra - silence).square().mean()


def test_learning_on_begins_where_it_stood(heard) -> None:
    books, early = learnt(heard, replace(PLAN, steps=40))
    book0, late = books.book0.clone(), learn(books, Material(books, *heard), replace(PLAN, steps=1, learning_rate=1e-5), fresh=False)
    assert late["spectrum"] < 1.1 * early["spectrum"] and torch.equal(books.book0, book0)


def test_the_same_plan_gives_the_same_codec(heard) -> None:
    plan = replace(PLAN, steps=5)
    (one, _), (other, _) = learnt(heard, plan), learnt(heard, plan)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_codec_like_another_keeps_its_levels_and_its_numbers(heard) -> None:
    books, _ = learnt(heard, replace(PLAN, steps=5))
    other = levels_of(books, CONFIG)
    assert torch.equal(other.book0, books.book0) and torch.equal(other.book1, books.book1)
    other.load_state_dict(books.state_dict())
    cut, generator = CONFIG.voiced_codes, torch.Generator().manual_seed(1)
    shuffled = torch.cat([torch.randperm(cut, generator=generator), cut + torch.randperm(CONFIG.num_codes - cut, generator=generator)])
    other.book2.copy_(books.book2[shuffled])
    other.book3.copy_(books.book3[shuffled])
    with torch.no_grad():
        before = other.encode(heard[0])
        name_like(other, books, heard[0])
        after, truth = other.encode(heard[0]), books.encode(heard[0])
    for level in (2, 3):
        assert (before[level] == truth[level]).float().mean() < 0.3 and torch.equal(after[level], truth[level])
    with pytest.raises(ConfigError, match="numbers of codes"):
        require_same_codes(books, replace(CONFIG, num_codes=32))


def test_a_code_that_nothing_chooses_moves_to_what_is_seen() -> None:
    book = MovingBook(torch.tensor([[0.0], [100.0]]), decay=0.5, generator=torch.Generator().manual_seed(0))
    for _ in range(20):
        book.follow(torch.zeros(8, dtype=torch.long), torch.linspace(-1, 1, 8)[:, None])
    assert float(book.book.abs().max()) <= 1.0


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 50])
def test_blocks_hear_what_is_around_them_and_nothing_else(length: int) -> None:
    torch.manual_seed(0)
    stack = ConvNeXtStack(3, 8, 2, kernel=5, dilations=(1, 2)).eval()
    x = torch.randn(length, 3)
    with torch.no_grad():
        found = stack.in_blocks(x, frames=16)
        assert found.shape == (length, 2) and stack.reach == 6
        if length > 2 * stack.reach:  # away from the ends it is the plain network
            inner = slice(stack.reach, length - stack.reach)
            torch.testing.assert_close(found[inner], stack(x[None])[0, inner], atol=1e-5, rtol=1e-5)
        if length == 50:
            assert torch.equal(stack.in_blocks(x[:40], frames=16)[: 40 - stack.reach], found[: 40 - stack.reach])


def test_fitting_without_songs_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--songs", str(tmp_path / "songs"), "--out", str(tmp_path / "codec")])
    assert stopped.value.code == 2 and "songs.parquet" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "codec").exists()
