"""A store that version 0.1.0 wrote is migrated, and its chain still verifies."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from guardproxy.errors import ConfigError
from guardproxy.reviews import Exclusion
from guardproxy.sinks.database import Filter, ReviewStore, chain
from guardproxy.sinks.database.schema import create_file, metadata, open_engine, parse_address, search_values
from guardproxy.sinks.shared import to_dict
from guardproxy.types import Record
from tests.sinks.kit import HOSTILE, PASSED, record

# The tables as version 0.1.0 created them.
OLD_TABLES = (
    "CREATE TABLE guardproxy_audit (version INTEGER NOT NULL, seq {number} NOT NULL, hash VARCHAR(64) NOT NULL)",
    """CREATE TABLE guardproxy_records (
        seq {number} NOT NULL, kind VARCHAR(16) NOT NULL, id VARCHAR, request_id VARCHAR, time {float},
        side VARCHAR(16), action VARCHAR(16), cause VARCHAR(16), route VARCHAR, model VARCHAR, policy VARCHAR,
        shadow BOOLEAN, latency_s {float}, content TEXT, salt VARCHAR(32), content_hash VARCHAR(64) NOT NULL,
        previous VARCHAR(64) NOT NULL, hash VARCHAR(64) NOT NULL, PRIMARY KEY (seq), UNIQUE (id))""",
    """CREATE TABLE guardproxy_categories
        (category VARCHAR NOT NULL, seq {number} NOT NULL, PRIMARY KEY (category, seq))""",
    "CREATE INDEX ix_guardproxy_categories_seq ON guardproxy_categories (seq)",
    *(
        f"CREATE INDEX guardproxy_records_{name} ON guardproxy_records ({name}, seq)"
        for name in ("request_id", "time", "side", "action", "route", "model", "policy")
    ),
)
# The fields that version 0.1.0 did not know.
NEW_FIELDS = {
    "": ("complete", "late", "reply", "sampled", "exclusion", "exact"),
    "origin": ("user", "session"),
    "verdict": ("view", "span"),
    "decision": ("languages",),
}
RECORDS = [
    record(0),
    record(1, text=HOSTILE, model=HOSTILE, error=HOSTILE),
    record(2, decision=PASSED, side="assistant", verdict=None),
    record(3, text="🙂\0\ud800x kite " * 3000),
    record(4, shadow=True),
]


def old_content(stored: Record, *, account: bool) -> str:
    """Return a record as version 0.1.0 wrote it; with `account`, the verdict's usage has its older name."""
    data = to_dict(stored)
    for part, names in NEW_FIELDS.items():
        fields = data[part] if part else data
        for name in names if fields else ():
            del fields[name]
    for finding in data["verdict"]["findings"] if data["verdict"] else ():
        del finding["span"]
    if account and data["verdict"]:
        data["verdict"]["account"] = data["verdict"].pop("usage")
    for reason in data["decision"]["reasons"]:
        if not reason["with_unsafe"]:
            del reason["with_unsafe"]
    return json.dumps(data, separators=(",", ":"))


def old_row(stored: Record, seq: int) -> dict[str, Any]:
    """Return the search columns of a record as version 0.1.0 filled them."""
    kept = ("id", "request_id", "time", "side", "action", "cause", "route", "model", "policy", "shadow", "latency_s")
    values, _ = search_values(stored)
    return {"seq": seq, "kind": "record", **{name: values[name] for name in kept}}


def fill(connection: Connection) -> None:
    """Write the tables and rows of an old store, with an erased row and the entry of its erasure at the end."""
    number, floating = ("INTEGER", "FLOAT") if connection.dialect.name == "sqlite" else ("BIGINT", "FLOAT(53)")
    for statement in OLD_TABLES:
        connection.execute(text(statement.format(number=number, float=floating)))
    head = chain.Head(0, chain.GENESIS)
    rows: list[dict[str, Any]] = []
    for seq, stored in enumerate([*RECORDS, record(5)], 1):
        link = chain.seal(seq, head.hash, old_content(stored, account=seq % 2 == 0), f"{seq:032x}")
        columns = old_row(stored, seq)
        chained = {name: getattr(link, name) for name in ("salt", "content", "content_hash", "previous", "hash")}
        if seq == 6:
            columns = {**dict.fromkeys(columns), "seq": seq, "kind": "record"}
            chained |= {"salt": None, "content": None}
        rows.append({**columns, **chained})
        head = chain.Head(seq, link.hash)
    link = chain.seal(7, head.hash, chain.erasure_entry(5.0, "request", [6]), "7" * 32)
    chained = {name: getattr(link, name) for name in ("salt", "content", "content_hash", "previous", "hash")}
    rows.append({**dict.fromkeys(rows[0]), "seq": 7, "kind": "erasure", **chained})
    names = list(rows[0])
    insert = f"INSERT INTO guardproxy_records ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"
    connection.execute(text(insert), rows)
    for stored, row in zip(RECORDS, rows, strict=False):
        for category in stored.decision.categories:
            connection.execute(
                text("INSERT INTO guardproxy_categories VALUES (:category, :seq)"),
                {"category": category, "seq": row["seq"]},
            )
    connection.execute(text("INSERT INTO guardproxy_audit VALUES (1, 7, :hash)"), {"hash": link.hash})


async def _run_in(address: str, *actions: Any) -> Any:
    url = parse_address(address)
    if url.get_backend_name() == "sqlite":
        await asyncio.to_thread(create_file, Path(url.database or ""))
    engine = open_engine(url)
    result = None
    async with engine.begin() as connection:
        for action in actions:
            result = await (
                connection.execute(text(action)) if isinstance(action, str) else connection.run_sync(action)
            )
    await engine.dispose()
    return result


@asynccontextmanager
async def opened(address: str, *, create: bool = True) -> AsyncIterator[ReviewStore]:
    """Open a store and close it at the end."""
    store = ReviewStore(address, create=create)
    try:
        yield store
    finally:
        await store.close()


def differences(connection: Connection) -> list[Any]:
    """Return how the tables differ from those of the current version; the index of texts is no ordinary table.

    Alembic does not know that an index is for one kind of database only.
    """
    sqlite = connection.dialect.name == "sqlite"
    other = "guardproxy_records_counted" if sqlite else "guardproxy_records_counted_names"
    context = MigrationContext.configure(connection, opts={"compare_type": not sqlite})
    found = [change for change in compare_metadata(context, metadata) if f"'{other}'" not in str(change)]
    return [change for change in found if "guardproxy_texts" not in str(change)]


def test_an_old_store_is_migrated(address: str) -> None:
    """The records stay as they were, can be found in every new way, and the chain with its head verifies."""

    async def run() -> None:
        await _run_in(address, fill)
        async with opened(address) as store:
            await store.open()
            head = await store.head()
            assert [stored.record for stored in await store.query(newest_first=False)] == RECORDS
            found = await store.verify(head)
            assert (found.rows, found.erased, found.problems) == (7, 1, ())
            for chosen, expected in (
                (Filter(text="kite"), [5, 4, 3, 1]),
                (Filter(category="violence", client="c11e47"), [5, 4, 2, 1]),
                (Filter(min_score=(("jailbreak", 0.6),)), [5, 4, 2, 1]),
                (Filter(error=True), [2]),
                (Filter(label="none", shadow="only"), [5]),
            ):
                assert [stored.seq for stored in await store.query(chosen)] == expected
            await store.write([record(9)])
            assert await store.erase(Filter(request_id="request-0")) == 1
            assert (await store.verify(head)).problems == ()
        assert await _run_in(address, differences) == []

    asyncio.run(run())


def test_a_new_store_has_the_tables_of_the_current_version(address: str) -> None:
    """A store made anew and a migrated one have the same tables."""

    async def run() -> None:
        async with opened(address) as store:
            await store.open()
        assert await _run_in(address, differences) == []

    asyncio.run(run())


def test_a_store_of_version_2_is_migrated(address: str) -> None:
    """It gets the times of its blocks, by which records of a time are found, also those with a late number."""

    async def run() -> None:
        late = replace(record(2000), time=1_000_100.5)
        async with opened(address) as store:
            await store.write([record(n) for n in range(1500)])
            await store.write([late])
        await _run_in(
            address,
            "DROP TABLE guardproxy_blocks",
            *BACK_TO_3,
            "DROP INDEX IF EXISTS guardproxy_records_counted",
            "DROP INDEX IF EXISTS guardproxy_records_counted_names",
            "DROP INDEX guardproxy_records_shadow",
            "UPDATE guardproxy_audit SET version = 2",
        )
        async with opened(address) as store:
            found = await store.query(Filter(since=1_000_100.0, until=1_000_102.0))
            assert [stored.record.id for stored in found] == ["record-2000", "record-101", "record-100"]
            assert await store.count(Filter(since=1_001_024.0)) == 476
            assert (await store.verify()).problems == ()
        assert await _run_in(address, differences) == []

    asyncio.run(run())


# What version 4 added.
BACK_TO_3 = (
    "DROP INDEX guardproxy_scores_reached",
    "DROP INDEX guardproxy_records_same",
    "ALTER TABLE guardproxy_records DROP COLUMN same_key",
    "DROP TABLE guardproxy_policy_changes",
    "DROP INDEX guardproxy_exclusions_text",
    "DROP INDEX guardproxy_exclusions_record",
    "ALTER TABLE guardproxy_exclusions DROP COLUMN text",
    "ALTER TABLE guardproxy_exclusions DROP COLUMN record",
    "DROP TABLE guardproxy_opinions",
    "UPDATE guardproxy_audit SET version = 3",
)


def test_a_store_of_version_3_is_migrated(address: str) -> None:
    """Records of the same text are found by keys, as if they had been written today."""

    async def run() -> None:
        masked = record(3, text="my card is ****", exact=False)
        hashed = record(4, text="5" * 64, exact=False)
        async with opened(address) as store:
            await store.write([*(record(n, exact=True) for n in range(3)), masked, hashed])
            await store.erase(Filter(request_id="request-2"))
            await store.exclude(Exclusion("e1", "5" * 64, "*", "fine", "ann", 2e9, 1.0, "record-4"))
        keys = "SELECT same_key FROM guardproxy_records ORDER BY seq"
        written = list((await _run_in(address, keys)).scalars())
        await _run_in(address, *BACK_TO_3)
        async with opened(address) as store:
            await store.open()
            assert (await store.verify()).problems == ()
            assert [one.id for one in await store.exclusions_about("5" * 64, "", 0.0)] == ["e1"]
        assert list((await _run_in(address, keys)).scalars()) == written
        assert [key is None for key in written] == [False, False, True, True, False, True, True]
        assert written[0] == written[1] != written[4]
        assert await _run_in(address, differences) == []

    asyncio.run(run())


def test_reading_an_old_store_says_what_to_run(address: str) -> None:
    """Without `create`, an old store is not changed until `migrate`."""

    async def run() -> None:
        await _run_in(address, fill)
        async with opened(address, create=False) as store:
            with pytest.raises(ConfigError, match=r"has version 1, .* reads version 5: .*`guardproxy audit migrate`"):
                await store.query()
            assert await store.version() == 1
            assert await store.migrate() == 5
            assert await store.migrate() == 5
            assert len(await store.query()) == 5

    asyncio.run(run())


OPEN = """
import asyncio, sys
from guardproxy.sinks.database import AuditStore
async def main(address):
    store = AuditStore(address)
    await store.open()
    assert not (await store.verify()).problems
    await store.close()
asyncio.run(main(sys.argv[1]))
"""


def test_processes_that_start_together_migrate_once(address: str) -> None:
    """One process migrates; the others wait for it."""
    asyncio.run(_run_in(address, fill))
    root = Path(__file__).parent.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", OPEN, address]
    starting = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = [process.communicate(timeout=150)[0] for process in starting]
    assert [process.returncode for process in starting] == [0, 0, 0]
    assert sum(b"audit_store_migrated" in output for output in outputs) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("ALTER TABLE guardproxy_records RENAME COLUMN salt TO pepper", "no column salt"),
        ("UPDATE guardproxy_audit SET version = 0", r"has the versions \[0\]"),
        ("INSERT INTO guardproxy_audit VALUES (1, 0, '')", r"has the versions \[1, 1\]"),
        ("UPDATE guardproxy_audit SET version = 6", "has version 6, this guardproxy reads version 5"),
    ],
)
def test_tables_that_are_not_ours_are_left_alone(address: str, change: str, problem: str) -> None:
    """A database with other tables of these names, or of an unknown version, is an error and is not changed."""

    async def run() -> None:
        await _run_in(address, fill, change)
        for create in (True, False):
            async with opened(address, create=create) as store:
                with pytest.raises(ConfigError, match=problem):
                    await store.open()
        rows = await _run_in(address, "SELECT count(*) FROM guardproxy_categories")
        assert rows.scalar() == 8

    asyncio.run(run())


def test_a_row_that_is_no_record_does_not_stop_the_migration(address: str) -> None:
    """`verify` reports a row that was tampered with before, and the others are migrated."""

    async def run() -> None:
        await _run_in(address, fill, "UPDATE guardproxy_records SET content = '[]' WHERE seq = 3")
        async with opened(address) as store:
            assert {problem.seq for problem in (await store.verify()).problems} == {3}

    asyncio.run(run())


def test_a_migration_that_fails_changes_nothing(address: str) -> None:
    """After a failure in its middle the store has its old version and tables, and the next start migrates it."""

    async def run() -> None:
        await _run_in(address, fill, "CREATE TABLE guardproxy_labels (other INTEGER)")
        async with opened(address) as store:
            with pytest.raises(Exception, match="guardproxy_labels"):
                await store.open()
            assert await store.version() == 1
            await _run_in(address, "DROP TABLE guardproxy_labels")
            await store.open()
            assert (await store.verify()).problems == ()

    asyncio.run(run())
