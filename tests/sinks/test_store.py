"""The audit store, on SQLite and on PostgreSQL."""

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from guardproxy.errors import ConfigError
from guardproxy.sinks.database import AuditStore, Filter, default_store_url, open_sink
from guardproxy.sinks.database.schema import open_engine, parse_address
from guardproxy.types import Decision, Finding, Reason, Record, Verdict
from tests.sinks.kit import HOSTILE, PASSED, record


@asynccontextmanager
async def opened(address: str, *, create: bool = True) -> AsyncIterator[AuditStore]:
    """Open a store and close it at the end."""
    store = AuditStore(address, create=create)
    try:
        yield store
    finally:
        await store.close()


def using(address: str, action: Callable[[AuditStore], Awaitable[Any]]) -> Any:
    """Run `action` on the store at `address` and return its result."""

    async def run() -> Any:
        async with opened(address) as store:
            return await action(store)

    return asyncio.run(run())


def numbers(found: list[Any]) -> list[int]:
    """Return the numbers of rows."""
    return [stored.seq for stored in found]


def test_records_come_back_as_they_were(address: str) -> None:
    """Every field survives: a missing verdict, hostile texts, a text of a megabyte, floats to the last bit."""
    records = [
        record(0),
        record(1, text=HOSTILE, model=HOSTILE, route=HOSTILE, error=HOSTILE, policy=HOSTILE),
        record(2, text="🙂\0\ud800x" * 250_000, model="m" * 1_000_000, request_id="r" * 5000),
        record(3, verdict=None, decision=Decision("block", "", (), "guard_error"), shadow=True, coverage=()),
        record(4, text="", decision=PASSED, side="assistant", time=1e9 / 3),
    ]

    async def run(store: AuditStore) -> None:
        await store.write(records)
        assert [stored.record for stored in await store.query(newest_first=False)] == records
        assert [stored.record for stored in await store.query(limit=2)] == [records[4], records[3]]
        for one in records:
            assert [stored.record for stored in await store.get(one.id)] == [one]
            assert [stored.record for stored in await store.get(one.origin.request_id)] == [one]
        assert not (await store.verify()).problems

    using(address, run)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Filter(), [1, 2, 3, 4]),
        (Filter(since=1_000_001), [2, 3, 4]),
        (Filter(until=1_000_001), [1]),
        (Filter(since=1_000_001, until=1_000_003), [2, 3]),
        (Filter(side="assistant"), [2]),
        (Filter(action="pass"), [3]),
        (Filter(category="jailbreak"), [1, 2]),
        (Filter(category="%"), [4]),
        (Filter(route="r\0\udfff"), [4]),
        (Filter(request_id="request-2"), [3]),
        (Filter(model="m" * 5000), [2]),
        (Filter(model="m" * 4999), []),
        (Filter(policy="strict"), [3]),
        (Filter(side="user", action="block", category="violence"), [1]),
        (Filter(side="user'; DROP TABLE guardproxy_records; --"), []),  # type: ignore[arg-type]
    ],
)
def test_filters(address: str, chosen: Filter, expected: list[int]) -> None:
    """A filter finds exactly the records that match all of its fields."""
    percent = Decision("block", "", (Reason("%", 0.9, 0.5, "block"),))
    records = [
        record(0),
        record(1, side="assistant", model="m" * 5000),
        record(2, decision=PASSED, policy="strict"),
        record(3, decision=percent, route="r\0\udfff"),
    ]

    async def run(store: AuditStore) -> None:
        await store.write(records)
        assert numbers(await store.query(chosen, newest_first=False)) == expected
        assert [stored.seq async for stored in store.scan(chosen)] == expected
        assert (await store.stats(chosen)).total == len(expected)

    using(address, run)


def test_reading_on(address: str) -> None:
    """`tail` returns the records after a number; `scan` reads several parts; `get` accepts numbers."""

    async def run(store: AuditStore) -> None:
        await store.write([record(i, request_id="one") for i in range(450)])
        assert [stored.seq async for stored in store.scan()] == list(range(1, 451))
        assert numbers(await store.tail(449)) == [450]
        assert await store.tail(450) == []
        assert numbers(await store.get("7")) == [7]
        assert len(await store.get("one")) == 450
        assert await store.get("9" * 30) == []
        assert await store.get("nothing") == []
        assert str(await store.head()) == f"450:{(await store.get('450'))[0].hash}"

    using(address, run)


def test_written_twice_is_stored_once(address: str) -> None:
    """A write may be repeated, as after a lost connection; different content with the same id is an error."""

    async def run(store: AuditStore) -> None:
        await store.write([record(1)])
        await store.write([record(1), record(2), record(2)])
        assert [stored.record for stored in await store.query(newest_first=False)] == [record(1), record(2)]
        with pytest.raises(ValueError, match="record-1 is already stored"):
            await store.write([record(3), record(1, text="another")])
        with pytest.raises(ValueError, match="two records"):
            await store.write([record(3), record(3, text="another")])
        assert await store.get("record-3") == []
        assert not (await store.verify()).problems

    using(address, run)


def test_counts(address: str) -> None:
    """Counts are by side, category and route; decisions of shadow policies are counted separately."""
    failed = Decision("block", "", (), "guard_error")
    records = [
        *(record(i) for i in range(3)),
        record(3, decision=PASSED, route="other", side="assistant"),
        record(4, decision=failed, verdict=None, latency_s=0.5),
        record(5, shadow=True),
    ]

    async def run(store: AuditStore) -> None:
        assert (await store.stats()).total == 0
        await store.write(records)
        stats = await store.stats()
        assert (stats.total, stats.first, stats.last) == (5, 1_000_000.0, 1_000_004.0)
        assert stats.sides == {"assistant": {"pass": 1}, "user": {"block": 4}}
        assert stats.categories == {"jailbreak": {"block": 3}, "violence": {"block": 3}}
        assert stats.causes == {"verdict": 4, "guard_error": 1}
        assert stats.routes == {"default": {"block": 4}, "other": {"pass": 1}}
        assert stats.shadow == {"user": {"block": 1}}
        assert stats.latency_s == (0.02, 0.5, 0.5)

    using(address, run)


def test_erasure_keeps_the_chain(address: str) -> None:
    """No query returns erased records; the chain verifies and reports how many were erased."""

    async def run(store: AuditStore) -> None:
        await store.write([record(i, request_id=f"request-{i % 3}") for i in range(9)])
        noted = await store.head()
        assert await store.erase(Filter(request_id="request-1")) == 3
        assert await store.erase(Filter(request_id="request-1")) == 0
        assert await store.erase(Filter(until=1_000_003.0)) == 2
        await store.write([record(20)])
        left = await store.query(newest_first=False)
        assert [stored.record.id for stored in left] == [f"record-{i}" for i in (3, 5, 6, 8, 20)]
        assert await store.query(Filter(request_id="request-1")) == []
        assert (await store.stats(Filter(category="violence"))).total == 5
        assert await store.get("record-1") == []
        assert await store.get("2") == []
        found = await store.verify(noted)
        assert (found.rows, found.erased, found.problems) == (12, 5, ())

    using(address, run)


def test_erased_text_is_not_on_the_disk(tmp_path: Path) -> None:
    """Neither the SQLite file nor its log holds a deleted text or anything that identifies its author."""
    address = f"sqlite:///{tmp_path}/audit.sqlite3"
    secret = "the elephant sleeps at noon " * 300

    def held() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.iterdir())

    async def run(store: AuditStore) -> None:
        await store.write([record(1, text=secret, request_id="somebody"), record(2)])
        assert b"elephant" in held()
        await store.erase(Filter(request_id="somebody"))
        assert b"elephant" not in held()
        assert b"somebody" not in held()

    using(address, run)


WRITER = """
import asyncio, sys
from guardproxy.sinks.database import AuditStore
from tests.sinks.kit import record
async def main(address, first):
    store = AuditStore(address)
    for i in range(0, 60, 3):
        await store.write([record(first + i + j) for j in range(3)])
    await store.close()
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_many_writers_do_not_fork_the_chain(address: str) -> None:
    """Processes that create and write one store concurrently make one chain, while another process reads it."""
    root = Path(__file__).parent.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, address, str(1000 * i)], env=environment) for i in range(3)
    ]

    async def run(store: AuditStore) -> None:
        while any(writer.poll() is None for writer in writers):
            found = await store.verify()
            assert not found.problems
            await store.query(limit=5)
            await asyncio.sleep(0.05)
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]
        found = await store.verify()
        assert (found.rows, found.problems) == (180, ())

    using(address, run)


def test_a_second_store_in_one_process_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    """Another process that ends its connection does not take itself for the last one and delete the log."""
    file = tmp_path / "audit.sqlite3"
    query = "SELECT * FROM guardproxy_audit"
    code = f"import sqlite3; c = sqlite3.connect({str(file)!r}); c.execute({query!r}).fetchall(); c.close()"

    async def run() -> None:
        first, second = AuditStore(f"sqlite:///{file}"), AuditStore(f"sqlite:///{file}")
        await first.write([record(1)])
        await second.open()
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True, timeout=60)
        assert await asyncio.to_thread(Path(f"{file}-wal").exists)
        for store in (first, second):
            await store.close()

    asyncio.run(run())


def test_writes_at_once_in_one_process(address: str) -> None:
    """Overlapping writes of a process, with a cancelled write among them, leave one chain without a gap."""

    async def run(store: AuditStore) -> None:
        writes = [asyncio.create_task(store.write([record(i)])) for i in range(40)]
        await asyncio.sleep(0.02)
        writes[20].cancel()
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(result) for result in results if result is not None] in ([], [asyncio.CancelledError])
        found = await store.verify()
        assert not found.problems
        assert found.rows in (39, 40)

    using(address, run)


async def _sql(address: str, *statements: str) -> None:
    engine = open_engine(parse_address(address))
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


COPIES = {
    "kind": "'erasure'",
    "id": "'other'",
    "request_id": "'other'",
    "time": "1.5",
    "side": "'assistant'",
    "action": "'pass'",
    "cause": "'overload'",
    "route": "'other'",
    "model": "NULL",
    "policy": "''",
    "shadow": "NOT shadow",
    "latency_s": "latency_s + 1",
    "client": "'other'",
    "end_user": "'other'",
    "session": "NULL",
    "wire": "'other'",
    "answered_model": "'other'",
    "has_error": "NOT has_error",
    "complete": "NOT complete",
    "sampled": "NOT sampled",
    "exclusion": "'other'",
    "unsafe": "0.7",
    "low_scores": "'{}'",
}
TAMPERED = {
    **{
        f"column {name}": f"UPDATE guardproxy_records SET {name} = {value} WHERE seq = 4"
        for name, value in COPIES.items()
    },
    "content": "UPDATE guardproxy_records SET content = replace(content, 'violence', 'a') WHERE seq = 4",
    "content is no record": "UPDATE guardproxy_records SET content = '[]' WHERE seq = 4",
    "content cleared": "UPDATE guardproxy_records SET content = NULL, salt = NULL WHERE seq = 4",
    "salt": "UPDATE guardproxy_records SET salt = '00' WHERE seq = 4",
    "content hash": f"UPDATE guardproxy_records SET content_hash = '{'0' * 64}' WHERE seq = 4",
    "previous": f"UPDATE guardproxy_records SET previous = '{'0' * 64}' WHERE seq = 4",
    "hash": f"UPDATE guardproxy_records SET hash = '{'0' * 64}' WHERE seq = 4",
    "row removed": "DELETE FROM guardproxy_records WHERE seq = 4",
    "category removed": "DELETE FROM guardproxy_scores WHERE seq = 4",
    "probability": "UPDATE guardproxy_scores SET probability = 0.5 WHERE seq = 4 AND category = 'violence'",
    "reached": "UPDATE guardproxy_scores SET reached = NOT reached WHERE seq = 4 AND category = 'violence'",
    "words": "UPDATE guardproxy_texts SET words = 'bomb' WHERE {texts} = 4",
    "words removed": "DELETE FROM guardproxy_texts WHERE {texts} = 4",
    "category renamed": "UPDATE guardproxy_scores SET category = 'a' WHERE seq = 4 AND category = 'violence'",
}


def test_low_scores_in_another_form(address: str) -> None:
    """Versions write the same number in two ways; a name that occurs twice is a change all the same."""
    tiny = record(1, decision=PASSED, verdict=Verdict(1e-7, (Finding("violence", 1e-7),), "embedded"))

    async def run(store: AuditStore) -> list[int]:
        await store.write([tiny])
        found = []
        for low in ('{"violence": 1e-07, "unsafe": 0.0000001}', '{"violence": 0.9, "violence": 1e-7, "unsafe": 1e-7}'):
            await _sql(address, f"UPDATE guardproxy_records SET low_scores = '{low}'")
            found.append(len((await store.verify()).problems))
        return found

    assert using(address, run) == [0, 1]


@pytest.mark.parametrize("how", TAMPERED)
def test_tampering_is_found(address: str, how: str) -> None:
    """`verify` reports a row after any change in it."""

    async def run(store: AuditStore) -> None:
        await store.write([record(i) for i in range(6)])
        seq = "rowid" if address.startswith("sqlite") else "seq"
        await _sql(address, TAMPERED[how].replace("{texts}", seq))
        assert 4 in {problem.seq for problem in (await store.verify()).problems}

    using(address, run)


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ("UPDATE guardproxy_blocks SET earliest = 5000000 WHERE block = 1", "1024 to 2047"),
        ("UPDATE guardproxy_blocks SET latest = earliest WHERE block = 0", "1 to 1023"),
        ("DELETE FROM guardproxy_blocks WHERE block = 1", "1024 to 2047"),
        ("INSERT INTO guardproxy_blocks (block, earliest, latest) VALUES (7, 1, 2)", "7168 to 8191"),
    ],
)
def test_changed_times_of_blocks_are_found(address: str, change: str, rows: str) -> None:
    """Whoever changes the times of a block hides its rows from searches by time: `verify` names the block."""

    async def run(store: AuditStore) -> None:
        await store.write([record(i, text="") for i in range(1100)])
        assert (await store.verify()).problems == ()
        await _sql(address, change)
        problems = (await store.verify()).problems
        message = f"the times of rows {rows} in the table guardproxy_blocks do not match these rows"
        assert [problem.message for problem in problems] == [message]

    using(address, run)


def test_moved_and_cut_rows_are_found(address: str) -> None:
    """Swapped rows, rows removed at the end or the beginning, and categories without a row are reported."""
    swap = [f"UPDATE guardproxy_records SET seq = {new} WHERE seq = {old}" for old, new in ((2, 99), (3, 2), (99, 3))]

    async def run(store: AuditStore) -> None:
        await store.write([record(i) for i in range(6)])
        noted = await store.head()
        await _sql(address, *swap)
        assert {2, 3} <= {problem.seq for problem in (await store.verify()).problems}
        await _sql(address, *swap, "DELETE FROM guardproxy_records WHERE seq > 4")
        cut = await store.verify()
        assert str(cut.problems[0]) == "row 5: rows 5 to 6 are missing at the end"
        # If the stored head was changed as well, only a head kept elsewhere reveals it.
        await _sql(
            address,
            "UPDATE guardproxy_audit SET seq = 4, hash = (SELECT hash FROM guardproxy_records WHERE seq = 4)",
            "DELETE FROM guardproxy_scores WHERE seq > 4",
            f"DELETE FROM guardproxy_texts WHERE {'rowid' if address.startswith('sqlite') else 'seq'} > 4",
            "UPDATE guardproxy_blocks SET latest = (SELECT max(time) FROM guardproxy_records)",
        )
        assert (await store.verify()).problems == ()
        assert [problem.seq for problem in (await store.verify(noted)).problems] == [6]
        await _sql(address, "DELETE FROM guardproxy_records WHERE seq = 1")
        assert {problem.seq for problem in (await store.verify()).problems} == {1, 1023}  # its time bounded the block

    using(address, run)


def test_a_store_that_is_not_there(address: str) -> None:
    """Without `create`, a missing store is an error that names its place, and nothing is created."""

    async def run() -> None:
        async with opened(address, create=False) as store:
            with pytest.raises(ConfigError, match="there is no audit store at"):
                await store.query()
            with pytest.raises(ConfigError):
                await store.write([record()])

    asyncio.run(run())
    if address.startswith("sqlite"):
        assert not Path(address.removeprefix("sqlite:///")).parent.exists()


def test_a_newer_version_is_refused(address: str) -> None:
    """A store of a newer version is refused with an error that names both versions."""

    async def run(store: AuditStore) -> None:
        await store.write([record(1)])
        await _sql(address, "UPDATE guardproxy_audit SET version = 6")
        for create in (True, False):
            async with opened(address, create=create) as later:
                with pytest.raises(ConfigError, match=r"has version 6, this guardproxy reads version 5"):
                    await later.write([record(2)])

    using(address, run)


def test_errors_do_not_quote_records(address: str) -> None:
    """The error of a failing write does not contain the text of the record."""

    async def run(store: AuditStore) -> None:
        await store.write([])
        await _sql(address, "DROP TABLE guardproxy_scores")
        with pytest.raises(Exception, match="guardproxy_scores") as caught:
            await store.write([record(1, text="a private matter")])
        assert "private" not in str(caught.value)
        assert await store.query() == []

    using(address, run)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("mysql://root:pw@host/db", "unknown kind of audit store 'mysql'"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("no address", "must have the form sqlite"),
        ("postgresql://root:pw@host:port/db", "must have the form sqlite"),
    ],
)
def test_addresses_that_are_none(address: str, problem: str) -> None:
    """The error for a wrong address never quotes a password."""
    with pytest.raises(ConfigError, match=problem) as caught:
        open_sink(address)
    assert "pw" not in str(caught.value)


def test_password_is_not_shown() -> None:
    """The place of a store that messages show contains no password."""
    place = AuditStore("postgresql://somebody:pa55@host/db").place
    assert place == "postgresql://somebody:***@host/db"


def test_files_are_private(tmp_path: Path) -> None:
    """Only their owner can read the files that SQLite writes."""

    async def run(store: AuditStore) -> None:
        await store.write([record(1)])
        assert set(modes()) == {0o600}

    def modes() -> list[int]:
        return [stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "new").iterdir()]

    using(f"sqlite:///{tmp_path}/new/audit.sqlite3", run)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded store is in the given folder, else in GUARDPROXY_DATA_DIR, else in the user's data directory."""
    monkeypatch.setenv("GUARDPROXY_DATA_DIR", "")
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_store_url() == "sqlite:////home/somebody/.local/share/guardproxy/audit.sqlite3"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_store_url() == "sqlite:////data/guardproxy/audit.sqlite3"
    monkeypatch.setenv("GUARDPROXY_DATA_DIR", str(tmp_path / "od?d %25 name"))
    store = open_sink()

    async def run() -> Record:
        await store.write([record(1)])
        found = await store.query()
        await store.close()
        return found[0].record

    assert asyncio.run(run()) == record(1)
    assert (tmp_path / "od?d %25 name" / "audit.sqlite3").is_file()
    assert default_store_url("/elsewhere") == "sqlite:////elsewhere/audit.sqlite3"


def test_shared_category_is_stored_once(address: str) -> None:
    """A category that reached two thresholds counts once."""
    twice = Decision("block", "", (Reason("a", 0.9, 0.5, "block"), Reason("a", 0.9, 0.2, "flag")))

    async def run(store: AuditStore) -> None:
        await store.write([replace(record(1), decision=twice)])
        assert (await store.stats()).categories == {"a": {"block": 1}}

    using(address, run)
