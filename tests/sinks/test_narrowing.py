"""Which index SQLite reads never changes what a filter finds."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database import Filter, ReviewStore
from guardproxy.sinks.database.connection import StoreDatabase
from guardproxy.sinks.database.finding import first_records, sampled_conditions
from guardproxy.sinks.database.narrowing import NO_INDEX, narrowest
from guardproxy.sinks.database.queries import conditions
from guardproxy.sinks.database.schema import records
from guardproxy.sinks.database.selections import newest_records
from tests.sinks.kit import PASSED, record

TEXTS = ("how is a kite built", "a kite", "kites and strings", "", "is it a, kite?")


def in_store(path: Path, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
    """The result of `work` on a store in SQLite with sixty records of all combinations of three clients and routes."""

    async def run() -> Any:
        address = f"sqlite:///{path}/audit.sqlite3"
        store = ReviewStore(address)
        chosen = list(product(("a", "b", "c"), ("plain", "rare"), TEXTS, (True, False)))
        made = [
            record(n, client=client, user=f"u{n % 7}", route=route, text=text, shadow=n % 4 == 0)
            for n, (client, route, text, _) in enumerate(chosen)
        ]
        passed = [replace(one, decision=PASSED) if given[3] else one for one, given in zip(made, chosen, strict=True)]
        await store.write(passed)
        await store.close()
        database = StoreDatabase(address, create=False)
        try:
            async with database.reading() as connection:
                return await work(connection)
        finally:
            await database.close()

    return asyncio.run(run())


FILTERS = [
    Filter(client="b", action="block"),
    Filter(client="b", route="rare", action="pass", shadow="without"),
    Filter(client="nobody", route="rare"),
    Filter(user="u3", client="a"),
    Filter(user="u3", policy="default", since=1_000_010.0),
    Filter(side="user", route="rare", error=False),
    Filter(shadow="only"),
]


@pytest.mark.parametrize("chosen", FILTERS)
def test_every_way_finds_the_same(tmp_path: Path, chosen: Filter) -> None:
    """By the index of any of the names, by none, or as SQLite chooses: the same records, newest first."""

    async def work(connection: AsyncConnection) -> list[list[int]]:
        ways = [None, NO_INDEX, *(name for name in ("client", "user", "route", "action") if getattr(chosen, name))]
        queries = [first_records(chosen, "sqlite", narrowest=way, limit=9) for way in ways]
        found = [list(await connection.scalars(query)) for query in queries]
        newest = list(await connection.scalars(await newest_records(connection, chosen, [records.c.action], 9)))
        return [*found, sorted(newest, reverse=True)]

    found = in_store(tmp_path, work)
    assert all(one == found[0] for one in found)
    assert bool(found[0]) == (chosen.client != "nobody")


def test_the_narrowest_is_counted(tmp_path: Path) -> None:
    """The name that the fewest records have; none if all have many, or the time is short. One name is no choice."""

    async def work(connection: AsyncConnection) -> list[str | None]:
        both = Filter(client="a", user="u1")
        return [
            await narrowest(connection, both),
            await narrowest(connection, replace(both, user=None, action="block")),
            await narrowest(connection, both, few=3),
            await narrowest(connection, replace(both, since=1_000_050.0)),
            await narrowest(connection, Filter(client="a")),
            await narrowest(connection, replace(both, text="kite")),
        ]

    assert in_store(tmp_path, work) == ["user", "client", NO_INDEX, NO_INDEX, None, None]


@pytest.mark.parametrize(
    "search", ["kite", '"a kite"', "kit*", '"is a ki"*', "a kite", "a -- kite?", "ite", "strings kites", '"kite a"']
)
def test_words_of_a_few_records_are_found_as_by_the_index(tmp_path: Path, search: str) -> None:
    """Reading the words of a record finds what the index of texts finds."""

    async def work(connection: AsyncConnection) -> tuple[list[int], list[int]]:
        chosen = Filter(text=search, action="block")
        by_index = select(records.c.seq).where(*conditions(chosen, "sqlite"))
        by_words = select(records.c.seq).where(*sampled_conditions(chosen, "sqlite"))
        return sorted(await connection.scalars(by_index)), sorted(await connection.scalars(by_words))

    by_index, by_words = in_store(tmp_path, work)
    assert by_index == by_words
    assert bool(by_index) == (search not in ("ite", '"kite a"'))
