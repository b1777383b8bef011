"""The lanes of a pass: their rows, and the same readings for any number of lanes."""

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.engine.decoder.attention import blockwise_attention
from guardproxy.engine.decoder.packed import Segment, plan_pass
from guardproxy.engine.lanes import LanePool, LayerProgress, balance
from tests.engine.kit import prompt, read, runner, tiny

TEXTS = ("How do I whittle a spoon?", "a", "x" * 300, "Tell me how to pick a lock.", "Where is the library?")


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40), st.integers(1, 32))
def test_every_item_is_in_one_lane_and_no_lane_is_empty(costs, threads):
    """Lanes partition the items, are at most as many as threads, and differ by at most the most expensive item."""
    lanes = balance(costs, threads)
    assert sorted(index for lane in lanes for index in lane) == list(range(len(costs)))
    assert len(lanes) == min(threads, len(costs))
    loads = [sum(costs[index] for index in lane) for lane in lanes]
    assert max(loads) - min(loads) <= max(costs)


def test_a_lane_that_fails_is_waited_for_and_raised():
    """An error is raised only when all lanes have ended."""
    ended = []

    def bad():
        raise ValueError("bad")

    def good():
        time.sleep(0.05)
        ended.append(threading.current_thread().name)

    lanes = LanePool(3)
    for acts in ([bad, good, good], [good, good, bad]):
        ended.clear()
        with pytest.raises(ValueError, match="bad"):
            lanes.run(acts)
        assert len(ended) == 2
    lanes.close()


def test_a_lane_that_waits_for_one_that_failed_fails_too():
    """A lane does not wait for the keys of a lane that has failed."""
    progress = LayerProgress(2)
    lanes = LanePool(2)

    def first():
        progress.advance(0)
        progress.fail()
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        lanes.run([first, lambda: progress.wait_for([0], 3)])
    with pytest.raises(RuntimeError, match="another lane"):
        progress.wait_for([0], 3)
    lanes.close()


def test_each_lane_has_its_share_of_the_threads():
    """Two lanes of four threads compute with two each, and the caller has its four again afterwards."""
    before = torch.get_num_threads()
    try:
        lanes = LanePool(4)
        assert lanes.run([torch.get_num_threads] * 2) == [2, 2]
        assert torch.get_num_threads() == 4
        lanes.close()
    finally:
        torch.set_num_threads(before)


def forest_plan(top, below, lanes):
    """A plan of roots with the sizes `top`; the first has children with the sizes `below`."""
    roots = [Segment([at] * size, list(range(size))) for at, size in enumerate(top)]
    for at, size in enumerate(below):
        start = len(roots[0].tokens)
        child = Segment([100 + at] * size, list(range(start, start + size)), roots[0])
        roots[0].children.append(child)
    return plan_pass(roots, lanes, torch.empty, blockwise_attention, linear=2000)


def seen(plan):
    """For each row, the rows it attends to."""
    out = [set() for _ in plan.tokens]
    for lane in plan.lanes([]):
        for own in lane.diagonal_blocks:
            assert lane.low <= own.low < own.high <= lane.high
            for row in range(own.low, own.high):
                out[row] |= set(range(own.low, row + 1))
        for block in lane.key_blocks:
            assert lane.low <= block.first < block.last <= lane.high
            for row in range(block.first, block.last):
                new = set(range(block.low, block.high))
                assert not new & out[row]
                out[row] |= new
    return out


def seen_at_last(plan, read):
    """For each row that is read, the rows it attends to in the last layer."""
    out = {row: set() for row in read}
    for lane in plan.lanes(read):
        wanted = lane.attention_rows(plan.scratch.shape[0] - 1)
        rows = [lane.low + row for row in wanted.rows.tolist()]
        for block in wanted.key_blocks:
            for row in rows[block.first : block.last]:
                new = set(range(block.low, block.high))
                assert not new & out[row]
                out[row] |= new
    return out


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 120), min_size=1, max_size=6),
    st.lists(st.integers(1, 120), max_size=4),
    st.integers(1, 9),
    st.integers(1, 200),
)
def test_a_cut_row_attends_to_what_the_whole_row_did(top, below, lanes, step):
    """Every row attends to the same rows, each once, for any number of lanes."""
    whole, cut = forest_plan(top, below, 1), forest_plan(top, below, lanes)
    assert (cut.tokens, cut.positions) == (whole.tokens, whole.positions)
    wanted = seen(whole)
    assert seen(cut) == wanted
    assert 2 <= len(cut.edges) <= lanes + 1
    read = [*range(0, len(cut.tokens), step), len(cut.tokens) - 1]
    assert seen_at_last(cut, read) == {row: wanted[row] for row in read}


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_a_check_reads_the_same_in_any_lanes(threads):
    """Single checks, batches and cached prefixes have the readings of one thread for any number of lanes."""
    loaded = tiny("Llama")
    plain, model = runner(loaded, threads=1), runner(loaded, threads=threads)
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:], (TEXTS[2],), (TEXTS[2] + " and more " * 20,)):
        wanted, found = read(plain, *map(prompt, texts)), read(model, *map(prompt, texts))
        for text, a, b in zip(texts, wanted, found, strict=True):
            assert b.probabilities == pytest.approx(a.probabilities, abs=1e-5), text
    for text in TEXTS:
        (a,), (b,) = (each.run(each.encode(prompt(text))) for each in (plain, model))
        assert (a.computed, a.reused) == (b.computed, b.reused)
    model.close()
