"""Labels: rows of their own in the chain."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from guardproxy.reviews import Label
from guardproxy.sinks.database import AuditStore, Filter
from guardproxy.sinks.database.schema import open_engine, parse_address
from tests.sinks.kit import HOSTILE, record


def using(address: str, action: Callable[[AuditStore], Awaitable[Any]]) -> Any:
    """Run `action` on a store with six records and return its result."""

    async def run() -> Any:
        store = AuditStore(address)
        try:
            await store.write([record(i, request_id=f"request-{i // 2}") for i in range(6)])
            return await action(store)
        finally:
            await store.close()

    return asyncio.run(run())


WRONG = Label("record-1", "false_positive", "ann", 10.0, "violence", "about kites")
RIGHT = Label("record-1", "correct", "bob", 11.0, note=HOSTILE)


def test_the_last_label_of_a_person_counts(address: str) -> None:
    """Labels of several reviewers stand side by side; a reviewer's new label replaces the earlier one."""

    async def run(store: AuditStore) -> None:
        await store.label([WRONG, RIGHT])
        assert await store.labels(["record-1", "record-2"]) == {"record-1": (WRONG, RIGHT)}
        changed = Label("record-1", "correct", "ann", 12.0)
        await store.label([changed])
        assert await store.labels(["record-1"]) == {"record-1": (RIGHT, changed)}
        withdrawn = Label("record-1", "none", "bob", 13.0)
        await store.label([withdrawn])
        assert await store.labels(["record-1"]) == {"record-1": (changed,)}
        assert await store.label_history(["record-1"]) == {"record-1": (WRONG, RIGHT, changed, withdrawn)}
        assert [stored.labels for stored in await store.get("record-1")] == [(changed,)]
        found = await store.verify()
        assert (found.rows, found.problems) == (10, ())
        assert [stored.seq for stored in await store.query()] == [6, 5, 4, 3, 2, 1]

    using(address, run)


def test_filter_by_label(address: str) -> None:
    """Only labels in force select; `none` selects records without one."""

    async def seqs(store: AuditStore, chosen: Filter) -> list[int]:
        return [stored.seq for stored in await store.query(chosen, newest_first=False)]

    async def run(store: AuditStore) -> None:
        await store.label([WRONG, RIGHT, Label("record-3", "false_negative", "ann", 1.0)])
        assert await seqs(store, Filter(label="false_positive")) == [2]
        assert await seqs(store, Filter(label="correct")) == [2]
        assert await seqs(store, Filter(label="none")) == [1, 3, 5, 6]
        await store.label([Label("record-1", "none", "ann", 20.0), Label("record-3", "none", "ann", 20.0)])
        assert await seqs(store, Filter(label="false_positive")) == []
        assert await seqs(store, Filter(label="none")) == [1, 3, 4, 5, 6]

    using(address, run)


def test_erasing_a_record_erases_its_labels(address: str) -> None:
    """After an erasure nothing tells who labelled the record; the chain verifies, and later labels are refused."""

    async def run(store: AuditStore) -> None:
        await store.label([WRONG, RIGHT, Label("record-2", "correct", "ann", 1.0)])
        assert await store.erase(Filter(request_id="request-0")) == 2
        assert await store.label_history(["record-1"]) == {}
        found = await store.verify()
        assert (found.rows, found.erased, found.problems) == (10, 4, ())
        assert list(await store.labels(["record-2"])) == ["record-2"]
        with pytest.raises(ValueError, match="no record has the id record-1"):
            await store.label([WRONG])

    using(address, run)


def test_erased_notes_are_not_on_the_disk(tmp_path: Path) -> None:
    """The SQLite file holds no note and no reviewer of an erased record."""

    async def run(store: AuditStore) -> None:
        await store.label([Label("record-0", "correct", "zacharias", 1.0, note="an elephant")])
        await store.erase(Filter(request_id="request-0"))
        held = b"".join(await asyncio.to_thread(lambda: [file.read_bytes() for file in tmp_path.iterdir()]))
        assert b"elephant" not in held
        assert b"zacharias" not in held

    using(f"sqlite:///{tmp_path}/audit.sqlite3", run)


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (Label("record-9", "correct", "ann", 1.0), "no record has the id record-9"),
        (Label("record-1", "correct", " ", 1.0), "names nobody"),
        (Label("record-1", "correct", "a" * 201, 1.0), "name of the reviewer .* 201 characters"),
        (Label("record-1", "correct", "ann", 1.0, note="n" * 10_001), "note .* at most 10000"),
    ],
)
def test_labels_that_cannot_be_stored(address: str, label: Label, problem: str) -> None:
    """A label on no record, by nobody or with a very long text is refused, and nothing is stored."""

    async def run(store: AuditStore) -> None:
        with pytest.raises(ValueError, match=problem):
            await store.label([RIGHT, label])
        assert (await store.head()).seq == 6

    using(address, run)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE guardproxy_labels SET kind = 'correct' WHERE seq = 7",
        "UPDATE guardproxy_labels SET person = 'eve' WHERE seq = 7",
        "UPDATE guardproxy_labels SET record = 'record-2' WHERE seq = 7",
        "DELETE FROM guardproxy_labels WHERE seq = 7",
        "UPDATE guardproxy_records SET kind = 'record' WHERE seq = 7",
        "UPDATE guardproxy_records SET content = replace(content, 'false_positive', 'correct') WHERE seq = 7",
        "DELETE FROM guardproxy_records WHERE seq = 7",
    ],
)
def test_changed_labels_are_found(address: str, statement: str) -> None:
    """`verify` reports a label after any change in it."""

    async def run(store: AuditStore) -> None:
        await store.label([WRONG, RIGHT])
        engine = open_engine(parse_address(address))
        async with engine.begin() as connection:
            await connection.execute(text(statement))
        await engine.dispose()
        assert 7 in {problem.seq for problem in (await store.verify()).problems}

    using(address, run)
