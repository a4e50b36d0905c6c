"""Work side by side: the same results in order, as many threads afterwards as before, and no more at a time than torch has."""

import threading
import time

import pytest
import torch

from autosing.device import side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_results_come_in_order_from_threads_of_one_thread_each() -> None:
    inside: list[int] = []
    most: list[int] = []
    told: list[tuple[int, int]] = []

    def work(item: int) -> tuple[int, int, bool]:
        inside.append(item)
        most.append(len(inside))
        time.sleep(0.02 * (5 - item))  # the first takes longest
        inside.remove(item)
        return item * item, torch.get_num_threads(), torch.is_inference_mode_enabled()

    found = side_by_side(work, range(5), CPU, lambda *done: told.append(done))
    assert found == [(item * item, 1, True) for item in range(5)]
    assert max(most) == 2 and told == [(done, 5) for done in range(1, 6)]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_what_goes_wrong_in_one_is_raised_and_the_threads_are_put_back() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("no such song")
        return item

    with pytest.raises(ValueError, match="no such song"):
        side_by_side(work, range(3), CPU)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("count", "device"), [(1, "cpu"), (3, "meta"), (0, "cpu")])
def test_one_item_or_another_device_stays_in_this_thread(count: int, device: str) -> None:
    here = threading.get_ident()
    assert side_by_side(lambda _: threading.get_ident(), range(count), torch.device(device)) == [here] * count
