"""Work shared out to threads: the same results in the same order, and nothing left behind."""

import threading
import time

import pytest
import torch

from haf_utils.fast.threads import ahead, in_threads
from haf_utils.io.decoding import MOST, cores, decoded


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def slow_first(x):
    time.sleep(0.05 * (x == 0))
    if x == 13:
        raise KeyError(x)
    return x * x


each_way = pytest.mark.parametrize(
    "run",
    [
        lambda function, items: in_threads(function, items, torch.device("cpu")),
        lambda function, items: in_threads(function, items, torch.device("cuda")),  # threads only prepare for it
        ahead,
        lambda function, items: ahead(function, items, "cuda"),
        decoded,
        lambda function, items: decoded(function, items, 1),
    ],
)


@each_way
def test_the_order_is_kept_and_errors_are_passed_on(run, two_threads):
    assert list(run(slow_first, range(9))) == [x * x for x in range(9)]
    assert list(run(slow_first, [])) == []
    found = run(slow_first, range(11, 20))
    assert [next(found), next(found)] == [121, 144]
    with pytest.raises(KeyError, match="13"):
        next(found)
    assert torch.get_num_threads() == 2


@each_way
def test_who_stops_asking_leaves_no_thread(run, two_threads):
    before = threading.active_count()
    found = run(slow_first, range(500))
    next(found)
    found.close()
    assert threading.active_count() == before and torch.get_num_threads() == 2


def test_threads_of_a_cpu_compute_alone_and_side_by_side(two_threads):
    both = threading.Barrier(2, timeout=20)  # broken unless two are there at once

    def number(_):
        both.wait()
        return torch.get_num_threads()

    assert list(in_threads(number, range(4), torch.device("cpu"))) == [1, 1, 1, 1]


def test_as_many_decode_as_there_are_cores_up_to_a_few():
    names = set(decoded(lambda _: time.sleep(0.01) or threading.current_thread().name, range(20)))
    assert 1 <= len(names) <= min(cores(), MOST)
    with pytest.raises(ValueError, match="workers=0"):
        list(decoded(slow_first, [1], 0))
