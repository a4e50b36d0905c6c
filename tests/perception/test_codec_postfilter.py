"""The filter behind the vocoder: what it leaves alone, what it depends on, that it learns, and that a codec uses the one beside it."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from autosing.errors import MismatchError
from autosing.models.io import load_model, save_model
from autosing.perception.codec import adversary
from autosing.perception.codec.adversary import FilterPlan, Pair, learn_filter
from autosing.perception.codec.builtin import BuiltinCodec, load_filter
from autosing.perception.codec.fit import main
from autosing.perception.codec.postfilter import PostFilter, PostFilterConfig
from autosing.perception.codec.vocoder import Frames, Vocoder, VocoderConfig
from autosing.weights import weights_folder

SONGS = Path(__file__).parents[2] / "demo" / "test_songs"


def features(frames: int, seed: int = 0) -> Frames:
    generator = torch.Generator().manual_seed(seed)
    smooth = functional.avg_pool1d(torch.randn(1, 45, frames + 16, generator=generator), 17, 1)
    cepstra = torch.cat([-60 + 20 * smooth[:, :1], 6 * smooth[:, 1:40]], 1).transpose(1, 2)
    voiced = (torch.arange(frames) // 24 % 3 > 0)[None]
    return Frames(torch.full((1, frames), 200.0), voiced, cepstra, -12 + 10 * smooth[:, 40:].transpose(1, 2).clamp(max=1))


def net(seed: int = 0, quiet: bool = False) -> PostFilter:
    """A filter with small random gains; `quiet`: without noise."""
    torch.manual_seed(seed)
    made = PostFilter(PostFilterConfig(width=16, kernel=3, dilations=(1, 2)))
    with torch.no_grad():
        made.net.out.weight.normal_(0, 0.2)
        if quiet:
            made.net.out.weight[made.config.bins :] = 0
            made.net.out.bias[made.config.bins :] = -40
    return made.eval()


def test_gains_of_nothing_change_nothing() -> None:
    frames = features(60)
    wave = Vocoder().synthesise(frames)[0]
    same = net(quiet=True)
    torch.nn.init.zeros_(same.net.out.weight)
    assert torch.allclose(same.polish(wave, frames), wave, atol=1e-5)


def test_in_pieces_it_is_what_was_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = features(400)  # more than three pieces
    wave = Vocoder().synthesise(frames)[0]
    made, inner = net(quiet=True), slice(1000, -1000)  # at the ends one reflects, the other is silent
    with torch.no_grad():
        wanted = made(wave[None], frames, torch.zeros_like(wave)[None])[0]
    assert torch.allclose(made.polish(wave, frames)[inner], wanted[inner], atol=1e-4)


def test_a_long_voice_begins_as_a_short_one_and_seeds_change_the_noise_alone() -> None:
    frames, made = features(700), net()
    cut = Frames(*(getattr(frames, name)[:, :400] for name in ("f0_hz", "voiced", "cepstra", "aperiodicity_db")))
    wave = Vocoder().synthesise(frames)[0]
    whole, head = made.polish(wave, frames), made.polish(wave[: 400 * 288], cut)
    sure = 400 * 288 - made.reach_samples
    assert torch.equal(whole[:sure], head[:sure])
    assert torch.equal(whole, made.polish(wave, frames)) and not torch.equal(whole, made.polish(wave, frames, seed=1))


def test_silence_stays_silent() -> None:
    frames = features(80)
    assert float(net().polish(torch.zeros(80 * 288), frames).abs().max()) < 1e-3


def test_it_learns_what_a_vocoder_lacks() -> None:
    """Originals are the vocoder's voice, darker: the distance that is left after a few steps is a part of what it was."""
    pairs = []
    for seed in range(4):
        frames = features(96, seed)
        wave = Vocoder().synthesise(frames)[0]
        pairs.append(Pair(functional.avg_pool1d(wave[None, None], 5, 1, 2)[0, 0], wave, frames))
    torch.manual_seed(0)
    made = PostFilter(PostFilterConfig(width=32, kernel=3, dilations=(1,)))
    recogniser, _ = load_model("builtin", "recogniser")
    plan = FilterPlan(steps=60, batch=2, crop=48, learning_rate=5e-3, critics_from=30, held_back=1)
    told = learn_filter(made, pairs, recogniser, plan)
    assert told["after"]["mel"] < 0.6 * told["before"]["mel"] and told["after"]["states"] < told["before"]["states"]


def test_a_louder_pair_is_what_the_vocoder_makes_of_its_features() -> None:
    frames = features(96)
    wave = Vocoder().synthesise(frames)[0]
    louder = adversary._louder(Pair(wave, wave, frames), 6.0)
    torch.testing.assert_close(louder.synthesised, Vocoder().synthesise(louder.frames)[0], atol=1e-3 * float(wave.abs().max()), rtol=1e-3)
    assert float(louder.original.abs().max() / wave.abs().max()) == pytest.approx(10 ** (6 / 20))


def test_critics_and_listeners_hear_no_difference_where_there_is_none() -> None:
    recogniser, _ = load_model("builtin", "recogniser")
    wave = Vocoder().synthesise(features(96))
    apart = adversary.Listeners(recogniser).distances(wave, wave)
    assert all(abs(float(value)) < 1e-6 for value in apart.values())


def test_a_codec_uses_the_filter_beside_its_books_alone(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((weights_folder("codec") / name).read_bytes())
    frames = features(80)
    plain = BuiltinCodec(weights=tmp_path)
    assert torch.equal(plain.resynthesise(frames), plain.synthesise(frames))
    save_model(net(), tmp_path / "postfilter", {}, "a card", torch.float32)
    filtered = BuiltinCodec(weights=tmp_path)
    assert torch.equal(filtered.synthesise(frames), plain.synthesise(frames))
    assert torch.equal(filtered.resynthesise(frames)[0], net().polish(plain.synthesise(frames)[0], frames))
    with pytest.raises(MismatchError, match="another vocoder"):
        load_filter(tmp_path, VocoderConfig(hop=240))


def test_the_command_learns_a_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = lambda vocoder: PostFilterConfig(vocoder, width=8, kernel=3, dilations=(1,))  # noqa: E731
    monkeypatch.setattr("autosing.perception.codec.fit.PostFilterConfig", small)
    main(["--what", "postfilter", "--songs", str(SONGS), "--minutes", "0.5", "--steps", "2", "--out", str(tmp_path / "filter")])
    told = capsys.readouterr().out
    assert "'before'" in told and (tmp_path / "filter" / "model.safetensors").is_file()
    main(["--what", "postfilter", "--songs", str(SONGS), "--minutes", "0.5", "--steps", "1", "--load-from", str(tmp_path / "filter"),
          "--out", str(tmp_path / "further")])  # fmt: skip
    assert "--load-from" in (tmp_path / "further" / "README.md").read_text()
