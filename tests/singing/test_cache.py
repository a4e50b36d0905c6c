"""What was heard is kept by content: hits are equal to what was made, damage is noticed, the size is bounded, nothing else may fail by it."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from autosing.singing.cache import Cache, default_folder


def made(value: float = 1.0, count: int = 100) -> dict[str, torch.Tensor]:
    return {"a": torch.full((count,), value), "b": torch.arange(3)}


def never() -> dict[str, torch.Tensor]:
    raise AssertionError("made again")


def test_a_second_time_nothing_is_made(tmp_path: Path) -> None:
    first = Cache(tmp_path).get({"x": 1}, made)
    cache = Cache(tmp_path)
    again = cache.get({"x": 1}, never)
    assert all(torch.equal(first[name], again[name]) for name in ("a", "b")) and (cache.hits, cache.misses) == (1, 0)
    assert torch.equal(cache.get({"x": 2}, lambda: made(2.0))["a"], made(2.0)["a"])
    assert torch.equal(Cache(str(tmp_path)).get({"x": 2}, never)["a"], made(2.0)["a"])
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("harm", [lambda data: data[:50], lambda data: b"", lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_damaged_entry_is_made_again(tmp_path: Path, harm) -> None:
    Cache(tmp_path).get({}, made)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(harm(entry.read_bytes()))
    cache = Cache(tmp_path)
    assert torch.equal(cache.get({}, made)["a"], made()["a"]) and cache.misses == 1
    assert torch.equal(Cache(tmp_path).get({}, never)["a"], made()["a"])


def test_what_was_used_longest_ago_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most_bytes=3600)
    for number in range(3):
        cache.get({"n": number}, lambda: made(count=200))  # 800 bytes and a header
        for path in tmp_path.iterdir():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
    cache.get({"n": 0}, never)
    cache.get({"n": 3}, lambda: made(count=200))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3600
    cache.get({"n": 0}, never)
    with pytest.raises(AssertionError, match="made again"):
        cache.get({"n": 1}, never)


def test_what_killed_runs_left_counts_and_goes(tmp_path: Path) -> None:
    left = tmp_path / ".x.tensors.1.tmp"
    left.write_bytes(bytes(4000))
    os.utime(left, (0, 0))
    Cache(tmp_path, most_bytes=3600).get({}, made)
    assert not left.exists() and torch.equal(Cache(tmp_path).get({}, never)["a"], made()["a"])


def test_no_folder_keeps_nothing_and_a_folder_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    cache = Cache(None)
    assert torch.equal(cache.get({}, made)["b"], torch.arange(3)) and cache.misses == 0
    (tmp_path / "file").write_bytes(b"")
    assert torch.equal(Cache(tmp_path / "file" / "below").get({}, made)["b"], torch.arange(3))


def hammer(folder: str, seed: int) -> None:
    cache = Cache(Path(folder), most_bytes=4000)
    for turn in range(40):
        number = (turn * (seed + 1)) % 5
        found = cache.get({"n": number}, lambda number=number: made(float(number), 200))
        assert torch.equal(found["a"], torch.full((200,), float(number)))


def test_runs_side_by_side_never_see_half_an_entry(tmp_path: Path) -> None:
    runs = [multiprocessing.get_context("fork").Process(target=hammer, args=(str(tmp_path), seed)) for seed in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0] and not list(tmp_path.glob(".*"))


def test_the_environment_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOSING_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("AUTOSING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "autosing" / "references"


@pytest.mark.parametrize("set_to", [None, "~nobody-of-that-name/cache"])
def test_without_a_home_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, set_to: str | None) -> None:
    """A container may run as a user whom nothing names."""
    for name in ("AUTOSING_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    if set_to is not None:
        monkeypatch.setenv("AUTOSING_CACHE", set_to)
    assert default_folder() is None


def test_a_reference_is_heard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second reading equals the first to the bit, and a third without cache too; another stretch is heard anew."""
    from autosing.singing.pipeline import Singer
    from autosing.song import audio

    song = tmp_path / "song.wav"
    noise = torch.randn(2, 8 * 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    song.write_bytes(audio.encode(noise, 16000, "wav"))
    singer = Singer(cache=tmp_path / "cache")
    first = singer.hearing.read(song, 0.0, 5.0)
    with monkeypatch.context() as patch:
        patch.setattr(singer.hearing, "separate", lambda *_: never())
        again = singer.hearing.read(song, 0.0, 5.0)
    singer.hearing.cache = Cache(None)
    for other in (again, singer.hearing.read(song, 0.0, 5.0)):
        assert all(torch.equal(getattr(first, name), getattr(other, name)) for name in ("vocals", "band", "codes"))
    assert first.rate == 24000


def test_other_ears_do_not_take_what_these_heard(tmp_path: Path) -> None:
    """An option of a choice gives an entry of its own; what weights of one's own find is not kept at all."""
    from autosing.models.io import resolve
    from autosing.singing.pipeline import Singer
    from autosing.singing.request import Ears
    from autosing.song import audio

    song, cache = tmp_path / "song.wav", tmp_path / "cache"
    noise = torch.randn(2, 8 * 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    song.write_bytes(audio.encode(noise, 16000, "wav"))
    found = [Singer(ears=Ears(separator=choice), cache=cache).hearing.read(song, 0.0, 5.0).vocals for choice in ("builtin", 'builtin:{"lean": 3}')]
    assert float(found[1].square().sum()) > 1.2 * float(found[0].square().sum()) and len(list(cache.iterdir())) == 2
    elsewhere = Singer(ears=Ears(separator=f"builtin:{resolve('builtin', 'separator')}"), cache=cache).hearing
    elsewhere.read(song, 0.0, 5.0)
    assert elsewhere.cache.hits == 0 and len(list(cache.iterdir())) == 2
