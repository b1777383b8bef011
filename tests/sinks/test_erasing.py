"""Erasing records and texts: what is gone, what stays, and that the chain verifies."""

import asyncio
import json
from pathlib import Path

import pytest
from sqlalchemy import text

from guardproxy.reviews import Label
from guardproxy.sinks.database import AuditStore, Erased, Filter, FilterError, Keep
from guardproxy.sinks.database.schema import open_engine, parse_address
from guardproxy.sinks.database.sealed import NO_PARTS, Parts, read_record, record_content, seal, value_of
from guardproxy.sinks.shared import to_json
from tests.sinks.kit import HOSTILE, PASSED, record
from tests.sinks.test_migrations import _run_in, fill
from tests.sinks.test_store import using

DAY = 86_400.0


async def _sql(address: str, *statements: str) -> None:
    engine = open_engine(parse_address(address))
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


@pytest.mark.parametrize(
    ("chosen", "gone"),
    [
        (Filter(client="c2"), {1, 4}),
        (Filter(user="ann"), {0, 3}),
        (Filter(session="s5"), {5}),
        (Filter(until=1_000_002.0), {0, 1}),
        (Filter(since=1_000_004.0), {4, 5}),
        (Filter(request_id="request-2"), {2}),
        (Filter(text="elephant"), {2}),
        (Filter(min_score=(("violence", 0.9),), user="ann"), {0, 3}),
        (Filter(label="correct"), {1}),
    ],
)
def test_erasing_by_a_filter(address: str, chosen: Filter, gone: set[int]) -> None:
    """The records that match are gone, with their labels; all others stay; the chain verifies, also an earlier head."""

    async def run(store: AuditStore) -> None:
        texts = ["a kite", "a kite", "an elephant", "a kite", "a kite", "a kite"]
        await store.write(
            [
                record(i, client=f"c{i % 3 + 1}", user="ann" if i % 3 == 0 else "bob", session=f"s{i}", text=texts[i])
                for i in range(6)
            ]
        )
        await store.label([Label("record-1", "correct", "ann", 1.0), Label("record-2", "false_positive", "bob", 1.0)])
        noted = await store.head()
        assert await store.count(chosen) == len(gone)
        assert await store.erase(chosen) == len(gone)
        left = {stored.record.id for stored in await store.query()}
        assert left == {f"record-{i}" for i in range(6) if i not in gone}
        assert set(await store.label_history(["record-1", "record-2"])) == left & {"record-1", "record-2"}
        found = await store.verify(noted)
        assert found.problems == ()
        assert found.erased == len(gone) + len({1, 2} & gone)

    using(address, run)


def test_times_of_erased_records_are_gone(address: str) -> None:
    """A block keeps the times of the records that are left in it; without any it goes."""

    async def run(store: AuditStore) -> None:
        await store.write([record(n, text="", user="ann" if n in (0, 1022, 1023, 1024) else "") for n in range(1025)])
        assert await store.erase(Filter(user="ann")) == 4
        blocks = (await _run_in(address, "SELECT block, earliest, latest FROM guardproxy_blocks")).all()
        assert [tuple(block) for block in blocks] == [(0, 1_000_001.0, 1_001_021.0)]
        assert (await store.verify()).problems == ()
        assert await store.count(Filter(since=1_000_001.0, until=1_001_022.0)) == 1021
        await store.write([record(2000)])
        assert await store.count(Filter(since=1_001_022.0)) == 1
        assert (await store.verify()).problems == ()

    using(address, run)


def test_an_unknown_category_erases_nothing(address: str) -> None:
    """A filter with a mistake is an error, not an erasure of nothing."""

    async def run(store: AuditStore) -> None:
        await store.write([record(1)])
        with pytest.raises(FilterError, match="category"):
            await store.erase(Filter(category="violense"))

    using(address, run)


def test_retention(address: str) -> None:
    """Records and texts are kept as long as their decision says; a second turn finds nothing; the chain verifies."""
    keep = Keep(blocked=30 * DAY, passed=10 * DAY, text=5 * DAY)
    now = 1_000_000.0 + 40 * DAY

    async def run(store: AuditStore) -> None:
        await store.write(
            [record(day, time=1_000_000.0 + day * DAY, text=f"word{day} kite") for day in (5, 20, 33, 38)]
            + [record(100 + day, time=1_000_000.0 + day * DAY, decision=PASSED, text="kite") for day in (20, 33, 38)]
        )
        noted = await store.head()
        assert await store.retain(keep, now) == Erased(2, 3)
        assert await store.retain(keep, now) == Erased(0, 0)
        found = {stored.record.id: stored for stored in await store.query()}
        assert set(found) == {"record-20", "record-33", "record-38", "record-133", "record-138"}
        assert [name for name, one in found.items() if one.text_erased] == ["record-133", "record-33", "record-20"]
        old = found["record-33"].record
        assert (old.text, old.decision, old.verdict) == ("", record(33).decision, record(33).verdict)
        assert found["record-38"].record.text == "word38 kite"
        assert [stored.record.id for stored in await store.query(Filter(text="word38"))] == ["record-38"]
        assert await store.query(Filter(text="word33")) == []
        verified = await store.verify(noted)
        assert (verified.erased, verified.problems) == (2, ())
        # A record whose text is gone can still be erased as a whole.
        assert await store.erase(Filter(request_id="request-33")) == 1
        assert (await store.verify(noted)).problems == ()

    using(address, run)


def test_old_rows_are_erased_with_their_texts(address: str) -> None:
    """A row of version 0.1.0 has its text in its content: when the text expires, the row is erased as a whole."""
    asyncio.run(_run_in(address, fill))

    async def run(store: AuditStore) -> None:
        await store.write([record(9)])
        noted = await store.head()
        assert await store.retain(Keep(text=1.0), 1_000_003.5) == Erased(3, 0)
        assert [stored.seq for stored in await store.query()] == [8, 5, 4]
        assert (await store.verify(noted)).problems == ()

    using(address, run)


def test_nothing_expires_without_durations(address: str) -> None:
    """Without a duration everything stays."""

    async def run(store: AuditStore) -> None:
        await store.write([record(1)])
        assert await store.retain(Keep(), 1e12) == Erased(0, 0)

    using(address, run)


def test_two_processes_retain_at_once(address: str) -> None:
    """Each row is erased once, in parts, while another process writes."""

    async def run(store: AuditStore) -> None:
        other = AuditStore(address)
        await store.write([record(i) for i in range(900)])
        keep = Keep(blocked=1.0, text=0.5)
        erased = await asyncio.gather(
            store.retain(keep, 1_000_500.0),
            other.retain(keep, 1_000_500.0),
            *(store.write([record(2000 + i)]) for i in range(5)),
        )
        assert sum(one.records for one in erased if one) == 499
        assert sum(one.texts for one in erased if one) == 1
        assert (await store.verify()).problems == ()
        await other.close()

    using(address, run)


def test_erased_texts_are_not_on_the_disk(tmp_path: Path) -> None:
    """Neither the SQLite file nor its log holds an erased text."""

    async def run(store: AuditStore) -> None:
        await store.write([record(1, text="the elephant sleeps at noon " * 300), record(2)])
        await store.retain(Keep(text=1.0), 1_000_002.5)
        held = b"".join(await asyncio.to_thread(lambda: [file.read_bytes() for file in tmp_path.iterdir()]))
        assert b"elephant" not in held
        assert b"kite" in held

    using(f"sqlite:///{tmp_path}/audit.sqlite3", run)


TAMPERED = {
    "text edited": "UPDATE guardproxy_records SET sealed_text = replace(sealed_text, 'kite', 'bomb') WHERE seq = 4",
    "text cleared": "UPDATE guardproxy_records SET sealed_text = '' WHERE seq = 4",
    "text removed": "UPDATE guardproxy_records SET sealed_text = NULL WHERE seq = 4",
    "text cut": "UPDATE guardproxy_records SET sealed_text = substr(sealed_text, 1, 40) WHERE seq = 4",
    "text of another row": "UPDATE guardproxy_records SET sealed_text = (SELECT sealed_text FROM guardproxy_records "
    "WHERE seq = 3) WHERE seq = 4",
    "text of an erasure": "UPDATE guardproxy_records SET sealed_text = 'x' WHERE seq = 7",
    "text of an erased row": "UPDATE guardproxy_records SET sealed_text = 'x' WHERE seq = 2",
}


@pytest.mark.parametrize("how", TAMPERED)
def test_tampering_with_texts_is_found(address: str, how: str) -> None:
    """`verify` reports a text that was changed, or erased without an entry."""

    async def run(store: AuditStore) -> None:
        await store.write([record(i) for i in range(6)])
        await store.erase(Filter(request_id="request-1"))
        await _sql(address, TAMPERED[how])
        row = 7 if "an erasure" in how else 2 if "erased row" in how else 4
        assert row in {problem.seq for problem in (await store.verify()).problems}

    using(address, run)


def test_an_entry_for_a_text_does_not_cover_the_record(address: str) -> None:
    """A row whose text was erased by rule is reported if its content is removed as well."""

    async def run(store: AuditStore) -> None:
        await store.write([record(1), record(2)])
        await store.retain(Keep(text=1.0), 1_000_002.5)
        await _sql(
            address, "UPDATE guardproxy_records SET content = NULL, salt = NULL, sealed_text = NULL WHERE seq = 1"
        )
        messages = [str(problem) for problem in (await store.verify()).problems]
        assert "row 1: has no content, without an entry for the erasure" in messages

    using(address, run)


def test_the_sealed_form_of_a_record() -> None:
    """The content has the seal in place of the text, in ASCII; a row of version 0.1.0, with its text, is read too."""
    one = record(1, text=HOSTILE)
    content, parts = record_content(one)
    assert content.isascii()
    assert (parts.text or "").isascii()
    assert "kite" not in record_content(record(1))[0]
    assert list(json.loads(content)["text"]) == ["seal"]
    assert read_record(content, parts) == one
    assert read_record(content, Parts("")).text == ""
    assert read_record(to_json(one), NO_PARTS) == one
    assert read_record(*record_content(one, quotes=True)) == one
    assert seal("x")[0] != seal("x")[0]
    assert value_of(seal({"a": [1]})[1]) == {"a": [1]}
