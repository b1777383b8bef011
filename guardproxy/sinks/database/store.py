"""The audit store: writes records and labels into the hash chain, queries, erases and verifies them."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog
from sqlalchemy import ColumnElement, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database import chain
from guardproxy.sinks.database.chain import Head
from guardproxy.sinks.database.check import Verification, verify_rows
from guardproxy.sinks.database.connection import StoreDatabase
from guardproxy.sinks.database.filters import EVERY, Filter
from guardproxy.sinks.database.labels import LABEL, check_label, effective, label_entry, label_values, read_labels
from guardproxy.sinks.database.queries import (
    AuditStats,
    CountBy,
    Counts,
    StoredRecord,
    check_names,
    conditions,
    count_by,
    count_records,
)
from guardproxy.sinks.database.schema import (
    SEARCH_COLUMNS,
    labels,
    records,
    score_values,
    scores,
    search_key,
    search_values,
    store,
)
from guardproxy.sinks.database.texts import add_texts, erase_texts, merge_texts
from guardproxy.sinks.shared import from_json, to_json
from guardproxy.types import Label, Record

_READ = 200  # rows in one query
_NOTHING = dict.fromkeys(SEARCH_COLUMNS)

_log = structlog.get_logger("guardproxy.audit")


class AuditStore:
    """Records in the SQLite or PostgreSQL database at `address`. Several processes may write to it.

    With `create`, the first use creates a missing store and migrates an old one; without, it raises ConfigError. Every
    method that takes a Filter raises FilterError for a category that the store does not know, and for a search by text
    in a store without texts.
    """

    def __init__(self, address: str, *, create: bool = True) -> None:
        self._database = StoreDatabase(address, create=create)
        self._dialect = self._database.dialect
        self.place = self._database.place

    async def open(self) -> None:
        """Open the store. With `create` this creates or migrates it, which takes minutes for millions of records.

        Raises ConfigError if there is no store, or if it has a version that cannot be used.
        """
        await self._database.open()

    async def version(self) -> int:
        """Return the version of the tables, which may be an older one. Raises ConfigError if there is no store."""
        return await self._database.version()

    async def migrate(self) -> int:
        """Bring an old store to the current version, also without `create`, and return that version."""
        return await self._database.migrate()

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    # --- writing -----------------------------------------------------------------------------------------------------

    async def write(self, batch: Sequence[Record]) -> None:
        """Store the records durably. Writing the same record again changes nothing.

        Raises ValueError if an id is already stored with another content, ConfigError if the store has another version,
        OSError or sqlalchemy.exc.SQLAlchemyError if the database fails.
        """
        new: dict[str, tuple[Record, str]] = {}
        for record in batch:
            content = to_json(record)
            if new.setdefault(search_key(record.id), (record, content))[1] != content:
                raise ValueError(f"two records have the id {search_key(record.id)}")
        async with self._database.writing() as connection:
            query = select(records.c.id, records.c.content).where(records.c.id.in_(new))
            for known, content in await connection.execute(query) if new else ():
                if content != new.pop(known)[1]:
                    raise ValueError(f"record {known} is already stored with another content")
            rows, score_rows, texts = [], [], []
            head = await _head(connection)
            for record, content in new.values():
                row, head = _row(head, content, {"kind": "record", **search_values(record)})
                rows.append(row)
                score_rows += [
                    {"category": category, "seq": head.seq, "probability": probability, "reached": reached}
                    for category, (probability, reached) in score_values(record).items()
                ]
                texts.append((head.seq, record.text))
            if rows:
                await _append(connection, rows, head)
                await connection.run_sync(add_texts, texts)
            if score_rows:
                await connection.execute(insert(scores), score_rows)

    async def label(self, given: Sequence[Label]) -> None:
        """Store labels durably, each as a row of its own. A label of the kind "none" withdraws an earlier one.

        Raises ValueError if a record does not exist or is erased, or if a label names nobody.
        """
        for one in given:
            check_label(one)
        async with self._database.writing() as connection:
            named = {search_key(one.record) for one in given}
            known = set(await connection.scalars(select(records.c.id).where(records.c.id.in_(named))))
            if named - known:
                raise ValueError(f"no record has the id {', '.join(sorted(named - known))}")
            rows, label_rows = [], []
            head = await _head(connection)
            for one in given:
                row, head = _row(head, label_entry(one), {"kind": LABEL, **_NOTHING})
                rows.append(row)
                label_rows.append({"seq": head.seq, **label_values(one)})
            if rows:
                await _append(connection, rows, head)
                await connection.execute(insert(labels), label_rows)

    async def delete(self, request_id: str) -> int:
        """Erase the records of a request and return how many there were."""
        return await self._erase("request", records.c.request_id == search_key(request_id))

    async def prune(self, before: float) -> int:
        """Erase the records older than `before`, in seconds since the epoch, and return how many there were."""
        return await self._erase("retention", records.c.time < before)

    async def _erase(self, why: str, which: ColumnElement[bool]) -> int:
        """Erase content, search columns and labels, keep the hashes, and append an entry that names the erased rows."""
        held = (records.c.kind == "record") & records.c.content.is_not(None) & which
        async with self._database.writing() as connection:
            numbers = list(await connection.scalars(select(records.c.seq).where(held)))
            if not numbers:
                return 0
            erased = select(records.c.seq).where(held)
            of_labels = labels.c.record.in_(select(records.c.id).where(held))
            label_numbers = list(await connection.scalars(select(labels.c.seq).where(of_labels)))
            await connection.execute(delete(scores).where(scores.c.seq.in_(erased)))
            await erase_texts(connection, erased)
            # The contents of the labels go first: afterwards nothing tells which they were.
            rows_of_labels = records.c.seq.in_(select(labels.c.seq).where(of_labels))
            await connection.execute(update(records).where(rows_of_labels).values(content=None, salt=None))
            await connection.execute(delete(labels).where(of_labels))
            await connection.execute(update(records).where(held).values({**_NOTHING, "content": None, "salt": None}))
            content = chain.erasure_entry(time.time(), why, sorted([*numbers, *label_numbers]))
            row, head = _row(await _head(connection), content, {"kind": "erasure", **_NOTHING})
            await _append(connection, [row], head)
        await self._remove_erased_words()
        if not await self._database.empty_log():
            _log.warning(
                "audit_erased_content_in_log", why="another process is reading; the next erasure empties the log"
            )
        return len(numbers)

    async def _remove_erased_words(self) -> None:
        """Rewrite SQLite's index of texts in short transactions, between which other processes can write."""
        more = self._dialect == "sqlite"
        first = True
        while more:
            async with self._database.writing() as connection:
                more = await merge_texts(connection, first=first)
            first = False

    # --- reading -----------------------------------------------------------------------------------------------------

    async def query(self, chosen: Filter = EVERY, limit: int = 100, *, newest_first: bool = True) -> list[StoredRecord]:
        """Return at most `limit` records that match, newest first or in the order in which they were written."""
        order = records.c.seq.desc() if newest_first else records.c.seq
        return await self._chosen(chosen, [], order, limit)

    async def page(
        self, chosen: Filter = EVERY, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> list[StoredRecord]:
        """Return the page of at most `limit` records that match, newest first.

        These are the newest with a number below `before`, or the oldest with a number above `after`.
        """
        where = [] if before is None else [records.c.seq < before]
        if after is None:
            return await self._chosen(chosen, where, records.c.seq.desc(), limit)
        found = await self._chosen(chosen, [*where, records.c.seq > after], records.c.seq, limit)
        return found[::-1]

    async def scan(self, chosen: Filter = EVERY) -> AsyncIterator[StoredRecord]:
        """Yield every record that matches, in the order in which they were written, in several queries."""
        after = 0
        while part := await self.tail(after, chosen):
            for stored in part:
                yield stored
            after = part[-1].seq

    async def tail(self, after: int, chosen: Filter = EVERY) -> list[StoredRecord]:
        """Return the next records that match and have a number above `after`, in the order of their numbers."""
        return await self._chosen(chosen, [records.c.seq > after], records.c.seq, _READ)

    async def get(self, name: str) -> list[StoredRecord]:
        """Return the record with this number or id, or every record of the request with this id; empty if none."""
        row = records.c
        # Row numbers are 64-bit integers: PostgreSQL refuses a larger number in a query.
        if name.isascii() and name.isdigit() and int(name) < 2**63:
            numbered = await self._chosen(EVERY, [row.seq == int(name)], row.seq, 1)
            if numbered:
                return numbered
        which = (row.id == search_key(name)) | (row.request_id == search_key(name))
        return await self._chosen(EVERY, [which], row.seq, None)

    async def conversation(self, name: str) -> list[StoredRecord]:
        """Return the records of the request that `get` finds, and of its session if it has one, in their order."""
        found = await self.get(name)
        requests = {search_key(stored.record.origin.request_id) for stored in found}
        sessions = {search_key(stored.record.origin.session) for stored in found if stored.record.origin.session}
        which = or_(records.c.request_id.in_(requests), records.c.session.in_(sessions))
        return await self._chosen(EVERY, [which], records.c.seq, None) if found else []

    async def labels(self, ids: Sequence[str]) -> dict[str, tuple[Label, ...]]:
        """Return the labels in force of the records with these ids: the last one of each reviewer, oldest first.

        Records without a label are left out.
        """
        history = await self.label_history(ids)
        return {name: left for name, given in history.items() if (left := effective(given))}

    async def label_history(self, ids: Sequence[str]) -> dict[str, tuple[Label, ...]]:
        """Return every label that was given on these records, also replaced and withdrawn ones, oldest first."""
        async with self._database.reading() as connection:
            return await read_labels(connection, ids)

    async def stats(self, chosen: Filter = EVERY) -> AuditStats:
        """Count the records that match."""
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            return await count_records(connection, chosen)

    async def counts(self, by: CountBy, chosen: Filter = EVERY) -> Counts:
        """Count the records that match, by action, for every value of `by`.

        Hours and days are those of this machine's time zone. Without `chosen.shadow`, decisions of shadow policies are
        left out.
        """
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            return await count_by(connection, by, chosen)

    async def head(self) -> Head:
        """Return the number and hash of the last row."""
        async with self._database.reading() as connection:
            return await _head(connection)

    async def _chosen(
        self, chosen: Filter, where: list[ColumnElement[bool]], order: Any, limit: int | None
    ) -> list[StoredRecord]:
        query = select(records.c.seq, records.c.hash, records.c.content).order_by(order).limit(limit)
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            rows = (await connection.execute(query.where(*conditions(chosen, self._dialect), *where))).all()
            found = [StoredRecord(row.seq, row.hash, from_json(row.content)) for row in rows]
            history = await read_labels(connection, [stored.record.id for stored in found])
        return [StoredRecord(one.seq, one.hash, one.record, effective(history.get(one.record.id, ()))) for one in found]

    async def verify(self, expected: Head | None = None) -> Verification:
        """Read every row and report the rows that were edited, removed or moved.

        `expected` is an earlier head, which must still be in the chain. Somebody who can rewrite every row and the head
        can forge a chain; only a head kept elsewhere reveals that.
        """
        async with self._database.reading() as connection:
            return await verify_rows(connection, expected)


async def _head(connection: AsyncConnection) -> Head:
    seq, last_hash = (await connection.execute(select(store.c.seq, store.c.hash))).one()
    return Head(seq, last_hash)


def _row(head: Head, content: str, columns: dict[str, Any]) -> tuple[dict[str, Any], Head]:
    """Return the row that follows `head`, and the new head."""
    link = chain.seal(head.seq + 1, head.hash, content, secrets.token_hex(16))
    chained = {name: getattr(link, name) for name in ("seq", "salt", "content", "content_hash", "previous", "hash")}
    return {**columns, **chained}, Head(link.seq, link.hash)


async def _append(connection: AsyncConnection, rows: list[dict[str, Any]], head: Head) -> None:
    await connection.execute(insert(records), rows)
    await connection.execute(update(store).values(seq=head.seq, hash=head.hash))
