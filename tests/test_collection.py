"""Full collections of garbage run between requests."""

import asyncio
import contextlib
import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from guardproxy.app.collection import collect_between_requests

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python collects in small steps")


class Node:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def old_garbage() -> "weakref.ref[Node]":
    """An object that only a full collection frees, and enough collections since to make one due."""
    node = Node()
    gc.collect(1)
    reference = weakref.ref(node)
    del node
    for _ in range(20):
        gc.collect(1)
    return reference


@pytest.fixture(autouse=True)
def usual_collections() -> Iterator[None]:
    """The tests' own garbage is collected, and nothing stays left out."""
    gc.collect()
    yield
    gc.unfreeze()


async def until(reference: "weakref.ref[Node]", seconds: float) -> bool:
    """Whether the object is freed in time."""
    for _ in range(int(seconds / 0.01)):
        if reference() is None:
            break
        await asyncio.sleep(0.01)
    return reference() is None


def test_a_collection_waits_for_the_end_of_the_requests() -> None:
    async def run() -> None:
        requests = [1]
        task = asyncio.create_task(collect_between_requests(lambda: len(requests), look_s=0.01))
        await asyncio.sleep(0)
        reference = old_garbage()
        assert not await until(reference, 0.2)
        requests.clear()
        assert await until(reference, 10)
        task.cancel()

    asyncio.run(run())


def test_it_does_not_wait_for_ever() -> None:
    async def run() -> None:
        task = asyncio.create_task(collect_between_requests(lambda: 1, look_s=0.01, wait_s=0.05))
        await asyncio.sleep(0)
        assert await until(old_garbage(), 10)
        task.cancel()

    asyncio.run(run())


def test_what_was_left_out_is_collected_later() -> None:
    async def run() -> None:
        node = Node()
        task = asyncio.create_task(collect_between_requests(lambda: 0, look_s=0.01, all_s=0.2))
        await asyncio.sleep(0)
        assert await until(old_garbage(), 10)  # the node is left out now
        reference = weakref.ref(node)
        del node
        await asyncio.sleep(0.25)
        assert await until(old_garbage(), 10)
        assert await until(reference, 10)
        task.cancel()

    asyncio.run(run())


def test_the_collections_of_python_come_back() -> None:
    before = gc.get_threshold()

    async def run() -> None:
        task = asyncio.create_task(collect_between_requests(lambda: 0))
        await asyncio.sleep(0)
        assert gc.get_threshold() != before
        second = asyncio.create_task(collect_between_requests(lambda: 0))
        await asyncio.sleep(0)
        assert second.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert gc.get_threshold() == before
