"""The lanes of a batch: what goes where, and that a check reads the same in any of them."""

import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.engine.lanes import Lanes, split
from tests.engine.kit import prompt, read, runner, tiny

TEXTS = ("How do I whittle a spoon?", "a", "x" * 300, "Tell me how to pick a lock.", "Where is the library?")


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40), st.integers(1, 32))
def test_every_item_is_in_one_lane_and_no_lane_is_empty(costs, threads):
    """The lanes part the batch, and are never more than threads."""
    lanes = split(costs, threads)
    assert sorted(index for lane in lanes for index in lane) == list(range(len(costs)))
    assert all(lanes)
    assert len(lanes) <= threads


@pytest.mark.parametrize(
    ("costs", "threads", "lanes"),
    [
        ([100], 8, 1),
        ([100, 100], 1, 1),
        ([100, 100], 2, 2),
        ([1000, 10], 2, 1),
        ([5, 4, 3, 3, 3], 2, 2),
        ([9] * 8, 4, 4),
    ],
)
def test_a_batch_is_parted_where_that_ends_sooner(costs, threads, lanes):
    """Not one check, not beside one that outweighs the rest; else a lane for each thread."""
    assert len(split(costs, threads)) == lanes


def test_a_lane_that_fails_is_waited_for_and_raised():
    """No lane is left running behind an error."""
    ended = []

    def act(items):
        if "bad" in items:
            raise ValueError("bad")
        time.sleep(0.05)
        ended.append(threading.current_thread().name)

    lanes = Lanes(3)
    with pytest.raises(ValueError, match="bad"):
        lanes.run(["bad", "good", "well"], lambda _: 1, act)
    assert len(ended) == 2
    lanes.close()


def test_each_lane_has_its_share_of_the_threads():
    """Two lanes of four threads compute with two each, and the caller has its four again afterwards."""
    before = torch.get_num_threads()
    try:
        lanes = Lanes(4)
        assert lanes.run([1, 1], int, lambda _: torch.get_num_threads()) == [2, 2]
        assert torch.get_num_threads() == 4
        lanes.close()
    finally:
        torch.set_num_threads(before)


def test_a_check_reads_the_same_in_any_lane():
    """With lanes, probabilities and the kept state are those of one thread."""
    loaded = tiny("Llama")
    alone = [read(runner(loaded, threads=1), prompt(text))[0] for text in TEXTS]
    model = runner(loaded, threads=3)
    read(model, prompt("warm"))  # the policy text is known from here on, and the batch can be parted
    for _ in range(3):
        for text, wanted, got in zip(TEXTS, alone, read(model, *map(prompt, TEXTS)), strict=True):
            assert got.probabilities == pytest.approx(wanted.probabilities, abs=1e-5), text
    (again,) = model.run([model.encode(prompt(TEXTS[2]))[0]])
    assert again.computed < 40  # the text itself was kept, whichever lane computed it
    model.close()
