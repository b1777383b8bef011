"""The queries of reviewers: bounded counts, periods, claims."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from guardproxy.reviews import Label
from guardproxy.sinks.database import Filter, ReviewStore
from tests.sinks.kit import PASSED, record

T = TypeVar("T")


def with_store(address: str, work: Callable[[ReviewStore], Awaitable[T]]) -> T:
    """The result of `work` on a store with ten records, every second one passed, two of them labelled."""

    async def run() -> T:
        store = ReviewStore(address)
        made = [record(n, decision=PASSED) if n % 2 else record(n, error="broke" if n == 4 else "") for n in range(10)]
        await store.write(made)
        given = [("record-2", "correct", "a"), ("record-2", "false_positive", "b"), ("record-3", "correct", "a")]
        await store.label([Label(name, kind, by, 1.0) for name, kind, by in given])  # type: ignore[arg-type]
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def test_facets(address: str) -> None:
    """Every facet counts by action; a record with two kinds of label counts for both."""
    facets = with_store(address, lambda store: store.facets())
    assert (facets.counted, facets.capped, facets.first, facets.last) == (10, False, 1_000_000.0, 1_000_009.0)
    assert facets.by["action"] == {"block": {"block": 5}, "pass": {"pass": 5}}
    assert facets.by["category"] == {"jailbreak": {"block": 5}, "violence": {"block": 5}}
    assert facets.by["label"] == {
        "none": {"block": 4, "pass": 4},
        "correct": {"block": 1, "pass": 1},
        "false_positive": {"block": 1},
    }


def test_facets_are_bounded(address: str) -> None:
    """Only the newest records count, and the answer says that there are more."""
    facets = with_store(address, lambda store: store.facets(Filter(action="pass"), 3))
    assert (facets.counted, facets.capped, facets.first) == (3, True, 1_000_005.0)


def test_periods(address: str) -> None:
    """Counts, errors and percentiles by periods; empty ones are left out."""
    periods = with_store(address, lambda store: store.periods(Filter(), 5.0))
    assert [period.start for period in periods] == [1_000_000.0, 1_000_005.0]
    assert periods[0].actions == {"block": 3, "pass": 2}
    assert periods[0].categories == {"jailbreak": 3, "violence": 3}
    assert [period.errors for period in periods] == [1, 0]
    assert [round(seconds, 3) for seconds in periods[0].latency_s] == [0.02, 0.04]


def test_recent(address: str) -> None:
    """The contents of the newest records, newest first."""
    found = with_store(address, lambda store: store.recent(Filter(action="block"), 2))
    assert [number for number, _ in found] == [9, 7]
    assert found[0][1]["id"] == "record-8"


def test_a_claim_is_for_one(address: str) -> None:
    """A claimed record goes to nobody else until it is released, replaced or too old."""

    async def work(store: ReviewStore) -> None:
        ids = ["record-1", "record-2"]
        assert await store.claim(ids, "ann", 60) == "record-1"
        assert await store.claim(ids, "ben", 60) == "record-2"
        assert await store.claim(ids, "cat", 60) is None
        assert await store.claim(["record-1"], "ann", 60) == "record-1"
        assert await store.claim(["record-3"], "ann", 60) == "record-3"
        assert await store.claim(ids, "cat", -1) == "record-1"
        assert await store.claim(ids, "dan", 60) == "record-1"
        await store.release("dan")
        assert await store.claim(ids, "eve", 60) == "record-1"
        assert (await store.verify()).problems == ()

    with_store(address, work)
