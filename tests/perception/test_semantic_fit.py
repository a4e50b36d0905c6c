"""Fitting the semantic codebook: its parts by themselves, and the whole command on songs made of tones."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from autosing.errors import DataError, MismatchError
from autosing.evaluation.semantic import evaluate_folder, runs
from autosing.models.io import CONFIG_FILE, save_model
from autosing.models.recogniser import CLASS_OF, SIZES, Recogniser
from autosing.models.semantic import neighbourhood
from autosing.perception import load_semantic
from autosing.perception.semantic import fit as fitting

PITCHES = {"AA": 300.0, "IY": 700.0, "S": 3000.0, "M": 1500.0}


def tone_song(seed: int, seconds: float = 8.0) -> dict:
    """A row of a song table: every phone is a tone of its own, with silence between."""
    rng = np.random.default_rng(seed)
    time, audio, phones = 0.0, np.zeros(int(seconds * 24000), np.float32), []
    while time < seconds - 1:
        phone = str(rng.choice(list(PITCHES)))
        length = float(rng.integers(3, 12)) * 0.04
        span = slice(int(time * 24000), int((time + length) * 24000))
        audio[span] = 0.3 * np.sin(2 * np.pi * PITCHES[phone] * np.arange(span.stop - span.start) / 24000)
        phones.append({"phone": phone, "start": time, "end": time + length, "word": 0})
        time += length + (0.2 if rng.random() < 0.3 else 0.0)
    buffer = io.BytesIO()
    soundfile.write(buffer, audio + 0.001 * rng.standard_normal(len(audio)), 24000, format="WAV")
    return {
        "id": f"song-{seed}", "artist": f"singer-{seed % 2}", "sample_rate": 24000, "vocals": buffer.getvalue(),
        "accompaniment": None, "phones": phones,
    }  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`songs/0/songs.parquet` and a random recogniser in `recogniser`."""
    folder = tmp_path_factory.mktemp("fit")
    (folder / "songs" / "0").mkdir(parents=True)
    rows = [tone_song(seed) for seed in range(8)]
    rows[3]["phones"] = []  # speech without times
    span = [("start", pa.float32()), ("end", pa.float32())]
    schema = pa.schema(
        [
            ("id", pa.string()), ("artist", pa.string()), ("sample_rate", pa.int32()), ("vocals", pa.binary()), ("accompaniment", pa.binary()),
            ("phones", pa.list_(pa.struct([("phone", pa.string()), *span, ("word", pa.int32())]))),
        ]
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "songs" / "0" / "songs.parquet", row_group_size=1)
    torch.manual_seed(0)
    save_model(Recogniser(SIZES["micro"]), folder / "recogniser", {})
    return folder


@pytest.fixture(scope="module")
def fitted(workplace: Path) -> Path:
    out = workplace / "semantic"
    command = (
        f"--songs {workplace}/songs --out {out} --recogniser {workplace}/recogniser --keep-recogniser --num-codes 24 --limit 8"
    )
    fitting.main(command.split())
    return out


def test_fitted_tokens_name_the_sounds(workplace: Path, fitted: Path) -> None:
    report = evaluate_folder(load_semantic("builtin", weights=fitted), workplace / "songs")
    assert report["songs"] == 7
    assert report["clean"]["own"]["frame_accuracy"] > 0.85 and report["clean"]["counted"]["frame_accuracy"] > 0.8
    assert report["clean"]["own"]["phone_error"] < 0.4
    assert report["singer"]["tokens"]["singers"] == 2


def test_the_card_and_config_say_what_was_done(fitted: Path) -> None:
    values = json.loads((fitted / CONFIG_FILE).read_text())
    assert values["meta"]["songs"] == 7 and values["config"]["num_codes"] == 24
    assert "python -m autosing.perception.semantic.fit" in (fitted / "README.md").read_text()


def test_fitting_again_gives_the_same_codes(workplace: Path, fitted: Path) -> None:
    again = workplace / "again"
    fitting.main(
        f"--songs {workplace}/songs --out {again} --recogniser {workplace}/recogniser --keep-recogniser --num-codes 24 --limit 8".split()
    )
    assert (again / "model.safetensors").read_bytes() == (fitted / "model.safetensors").read_bytes()


def test_codes_fitted_like_earlier_ones_keep_their_numbers(workplace: Path, fitted: Path) -> None:
    """Fitted to other songs' pairs with another seed; without --like the numbers are a matter of chance."""
    songs = [song for song in fitting.read_songs(fitting.list_songs(workplace / "songs"))]
    agreements = []
    for flags in (f"--like {fitted}", "--num-codes 24"):
        again = workplace / f"like{len(agreements)}"
        fitting.main(
            f"--songs {workplace}/songs --out {again} --recogniser {workplace}/recogniser --keep-recogniser --seed 5 --limit 6 {flags}".split()
        )
        pairs = [[load_semantic("builtin", weights=w).encode(torch.from_numpy(s.vocals)[None]) for w in (fitted, again)] for s in songs]
        agreements.append(float(torch.cat([(a == b)[0].float() for a, b in pairs]).mean()))
    assert agreements[0] > 0.8 > 0.3 > agreements[1]


def test_another_recogniser_is_refused(workplace: Path, fitted: Path) -> None:
    torch.manual_seed(1)
    values = (fitted / "recogniser" / "model.safetensors").read_bytes()
    try:
        save_model(Recogniser(SIZES["micro"]), fitted / "recogniser", {})
        with pytest.raises(MismatchError, match="fit it again"):
            load_semantic("builtin", weights=fitted)
    finally:
        (fitted / "recogniser" / "model.safetensors").write_bytes(values)


def test_no_songs_and_too_few_are_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="render songs first"):
        fitting.list_songs(tmp_path)
    with pytest.raises(DataError, match="give more songs"):
        fitting.kmeans(torch.randn(5, 2), 6, 3, np.random.default_rng(0))
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "songs.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="damaged"):
        fitting.list_songs(tmp_path)


def test_a_frame_has_the_phone_sung_in_its_middle() -> None:
    song = fitting.LabelledSong("a", "b", 24000, np.zeros(4800, np.float32), None, (("AA", 0.011, 0.05), ("S", 0.05, 0.1)))
    assert song.labels(7).tolist() == [0, CLASS_OF["AA"], CLASS_OF["S"], CLASS_OF["S"], CLASS_OF["S"], 0, 0]


def test_kmeans_finds_the_heaps_and_leaves_no_code_unused() -> None:
    rng = np.random.default_rng(0)
    heaps = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = heaps.repeat(50, 1) + 0.1 * torch.from_numpy(rng.standard_normal((200, 2))).float()
    centres = fitting.kmeans(points, 4, 10, rng)
    assert torch.cdist(heaps, centres).min(1).values.max() < 0.2
    duplicates = fitting.kmeans(torch.ones(50, 3), 4, 5, rng)
    assert duplicates.isfinite().all()


def test_discriminants_ignore_directions_that_say_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    points = torch.randn(600, 5, generator=generator) * torch.tensor([1.0, 30.0, 30.0, 30.0, 30.0])
    points[:, 0] += 6.0 * labels
    best = fitting.discriminants(points, labels, 1)[:, 0]
    assert abs(best[0]) * 1.0 > 20 * (best[1:].abs() * 30).max() / 30


def test_a_read_out_tells_halves_and_neighbours_apart() -> None:
    """Class of the first half: the token's own; of the second: the next token's."""
    torch.manual_seed(0)
    codes, tokens = torch.randn(6, 5), torch.randint(0, 6, (800,))
    labels = torch.stack([tokens, torch.cat([tokens[1:], tokens[:1]])], 1)
    weights = fitting.fit_read_out(codes, [(tokens[:600], labels[:600])], 6)
    found = torch.einsum("nw,hwc->nhc", neighbourhood(codes, tokens[600:]), weights).argmax(-1)
    assert float((found == labels[600:])[:-1].float().mean()) > 0.98


def test_runs_drop_silence_and_flicker() -> None:
    assert runs([0, 0, 3, 3, 5, 3, 3, 0, 0, 4, 4]) == (3, 4)
    assert runs([0, 2, 2, 0, 0, 2, 2]) == (2, 2)
    assert runs([]) == ()
