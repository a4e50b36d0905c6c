"""The recogniser: shapes, frame count, saving, and pieces that agree with the whole."""

from dataclasses import replace

import torch

from autosing.models.io import load_model, save_model
from autosing.models.recogniser import BLANK, CLASSES, SIZES, Recogniser
from autosing.tokens.text import PHONES


def _model(size: str = "micro") -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(SIZES[size]).eval()


def test_shapes_follow_the_contract():
    model = _model()
    out = model(torch.randn(2, 24000 + 479) * 0.1)
    assert out.frames.shape == (2, 50, len(CLASSES)) and len(CLASSES) == len(PHONES) + 1
    assert out.ctc.shape == (2, 50, len(CLASSES) + 1) and len(CLASSES) == BLANK
    assert out.features.shape == (2, 50, model.width)
    torch.testing.assert_close(model.features(torch.zeros(1, 4800)), model(torch.zeros(1, 4800)).features)
    assert model.num_frames(24000) == 50 == model.frame_rate


def test_a_stereo_recogniser_hears_the_sides_and_takes_one_channel_for_two():
    wav, other = torch.randn(2, 3, 24000) * 0.1
    plain = _model()
    torch.manual_seed(0)
    stereo = Recogniser(replace(SIZES["micro"], stereo=True)).eval()
    stereo.load_state_dict(plain.state_dict(), strict=False)
    both = torch.stack([wav + other, wav - other], 1)
    for model in plain, stereo:  # the part that hears the sides says nothing before it has learnt
        torch.testing.assert_close(model(both).frames, plain(wav).frames)
    torch.nn.init.normal_(stereo.sides.weight, std=0.1)
    assert not torch.allclose(stereo(both).frames, stereo(wav).frames, atol=1e-2)
    torch.testing.assert_close(stereo(wav[:, None].expand(-1, 2, -1)).frames, stereo(wav).frames)
    torch.testing.assert_close(stereo(both.flip(1)).frames, stereo(both).frames)  # left and right are one


def test_sizes_are_as_promised():
    assert sum(p.numel() for p in Recogniser(SIZES["base"]).parameters()) < 2.5e6
    base, judge = SIZES["base"], SIZES["judge"]
    assert base.features != judge.features and Recogniser(judge)(torch.zeros(1, 9600)).frames.shape == (1, 20, 40)


def test_saved_weights_come_back(tmp_path):
    model = _model()
    save_model(model, tmp_path, {"task": "acoustic"}, dtype=torch.float16)
    loaded, meta = load_model(tmp_path, "recogniser")
    wav = torch.randn(1, 24000) * 0.1
    torch.testing.assert_close(loaded(wav).frames, model(wav).frames, atol=0.02, rtol=0)
    assert meta["task"] == "acoustic" and loaded.config == model.config
