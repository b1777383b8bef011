"""The queries of reviewers: bounded counts, periods, claims."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.reviews import Label
from guardproxy.sinks.database import CountSample, Facets, Filter, Period, ReviewStore
from guardproxy.sinks.database.connection import StoreDatabase
from guardproxy.sinks.database.counting import count_facets, count_periods, facet_columns, period_columns
from guardproxy.sinks.database.selections import sample_of, sampled
from tests.sinks.kit import BLOCKED, PASSED, record

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
    assert facets.by["reviewer"] == {"a": {"block": 1, "pass": 1}, "b": {"block": 1}}
    assert facets.by["sampled"] == {"false": {"block": 5, "pass": 5}}
    assert facets.by["complete"] == {"true": {"block": 5, "pass": 5}}
    assert facets.by["exclusion"] == {"none": {"block": 5, "pass": 5}}


def test_facets_of_names_and_states(address: str) -> None:
    """End users, models, protocols and states count by the values that their filters take."""
    one = record(10, user="ann", exclusion="one,two", sampled=True, complete=False)

    async def work(store: ReviewStore) -> tuple[Facets, list[int]]:
        await store.write([one])
        same = [Filter(user="ann"), Filter(exclusion="any"), Filter(sampled=True), Filter(complete=False)]
        same += [Filter(wire=one.origin.wire), Filter(answered_model="")]
        return await store.facets(), [await store.count(chosen) for chosen in same]

    facets, counts = with_store(address, work)
    values = {"user": "ann", "exclusion": "any", "sampled": "true", "complete": "false"}
    values |= {"wire": one.origin.wire, "answered-model": ""}
    assert [sum(facets.by[key][value].values()) for key, value in values.items()] == counts == [1, 1, 1, 1, 11, 11]


def test_facets_are_bounded(address: str) -> None:
    """Only the newest records count, and the answer says that there are more."""
    facets = with_store(address, lambda store: store.facets(Filter(action="pass"), 3))
    assert (facets.counted, facets.capped, facets.first) == (3, True, 1_000_005.0)


def test_facets_say_how_many_records_were_looked_at(tmp_path: Path) -> None:
    """With words and another filter, only the newest records with these words are looked at."""
    chosen = Filter(action="pass", text="kite")

    async def work(store: ReviewStore) -> tuple[Facets, Facets]:
        return await store.facets(chosen, 4), await store.facets(chosen, 100)

    some, every = with_store(f"sqlite:///{tmp_path}/audit.sqlite3", work)
    assert (some.counted, some.capped, some.looked_at, some.with_text) == (2, False, 4, True)
    assert (every.counted, every.capped, every.looked_at) == (5, False, None)


def sampled_store(address: str, work: Callable[[ReviewStore, AsyncConnection], Awaitable[T]]) -> T:
    """The result of `work` on 3,000 records: sides alternate, one in 100 is blocked, one in 500 has an error."""

    async def run() -> T:
        store = ReviewStore(address)
        await store.write(
            [
                replace(
                    record(n, error="broke" if n % 500 == 250 else ""),
                    decision=BLOCKED if n % 100 == 0 else PASSED,
                    side="user" if n % 2 else "assistant",
                    text="",
                )
                for n in range(3000)
            ]
        )
        try:
            async with StoreDatabase(address, create=False).reading() as connection:
                return await work(store, connection)
        finally:
            await store.close()

    return asyncio.run(run())


def test_a_sample_counts_all_but_what_passed(address: str) -> None:
    """What passed is estimated within some percent, each side alike; decisions to block and errors are exact."""
    chosen = Filter(since=1_000_500.0, until=1_002_500.0)

    async def work(_: ReviewStore, connection: AsyncConnection) -> tuple[CountSample, Facets, list[Period]]:
        sample = await sample_of(connection, chosen, exact=1999, stratum=190)
        facets = await count_facets(connection, await sampled(connection, chosen, sample, facet_columns()))
        selection = await sampled(connection, chosen, sample, period_columns(500.0))
        return sample, facets, await count_periods(connection, selection, 500.0)

    sample, facets, periods = sampled_store(address, work)
    assert sample == CountSample(passed=16, others=1)
    assert facets.by["action"]["block"] == {"block": 20}
    assert abs(facets.by["action"]["pass"]["pass"] - 1980) < 40
    assert abs(facets.by["side"]["user"]["pass"] - 1000) < 80
    assert sum(period.errors for period in periods) == 4
    assert [period.actions["block"] for period in periods] == [5, 5, 5, 5]
    assert all(abs(period.actions["pass"] - 495) < 40 for period in periods)
    assert all(
        abs(half - 0.01 * (period.start - 999_750.0)) < 0.3 for period in periods for half in period.latency_s[:1]
    )


def test_few_records_are_counted_without_a_sample(address: str) -> None:
    """The sample is for times with many records; the others too have one if they are many."""

    async def work(store: ReviewStore, connection: AsyncConnection) -> None:
        assert (await store.totals(Filter(since=1_000_500.0))).counted == 2500
        assert (await sample_of(connection, Filter(since=1_000_500.0), exact=2500)).exact
        assert (await sample_of(connection, Filter(action="block"), exact=20, stratum=10)).others == 3
        found = await count_facets(connection, await sampled(connection, Filter(), CountSample(1, 3), facet_columns()))
        assert abs(found.by["action"]["block"]["block"] - 30) <= 9

    sampled_store(address, work)


def test_facets_of_a_time_in_the_past(tmp_path: Path) -> None:
    """The newest records with a text are those of the time, not those of the store."""

    async def work(store: ReviewStore) -> Facets:
        await store.write([record(n) for n in range(10, 2100)])
        return await store.facets(Filter(text="kite", until=1_001_030.0), 1030)

    facets = with_store(f"sqlite:///{tmp_path}/audit.sqlite3", work)
    assert (facets.counted > 0, facets.last) == (True, 1_001_029.0)


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
