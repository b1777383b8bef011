"""The audit store: writes records and labels into the hash chain, queries, erases and verifies them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import structlog
from sqlalchemy import ColumnElement, func, insert, null, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.errors import ConfigError
from guardproxy.reviews import Exclusion, Label
from guardproxy.sinks.database.append import Appending, read_head
from guardproxy.sinks.database.batches import batch_rows
from guardproxy.sinks.database.chain import Head
from guardproxy.sinks.database.check import Verification, verify_rows
from guardproxy.sinks.database.connection import StoreDatabase
from guardproxy.sinks.database.erasing import (
    Erased,
    Keep,
    encrypt_rows,
    erase_record_texts,
    erase_records,
    expired,
    expired_text,
)
from guardproxy.sinks.database.exclusions import (
    EXCLUSION,
    exclusion_entry,
    exclusion_values,
    read_exclusions,
)
from guardproxy.sinks.database.filters import EVERY, Filter
from guardproxy.sinks.database.finding import first_records
from guardproxy.sinks.database.inserting import insert_rows
from guardproxy.sinks.database.keys import ChainKey, PartsCipher, StoreKeys, opened_parts
from guardproxy.sinks.database.labels import add_labels, effective, read_labels
from guardproxy.sinks.database.narrowing import narrowest
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
    SCORE_COLUMNS,
    exclusions,
    records,
    scores,
    search_key,
)
from guardproxy.sinks.database.sealed import ERASED, read_record, record_content, record_fields
from guardproxy.sinks.database.texts import add_texts, merge_texts
from guardproxy.sinks.database.times import note_times
from guardproxy.types import Record

_READ = 200  # rows in one query
_READ_CONTENTS = 1000  # rows in one query of `contents`
_ERASE = 200  # rows that one transaction of `retain` erases: proxies wait for it with their records

_STORED: tuple[Any, ...] = tuple(records.c["seq", "hash", "content", "sealed_text", "sealed_quotes"])
_Eraser = Callable[[AsyncConnection, Sequence[int], str, ChainKey | None], Awaitable[int]]

_log = structlog.get_logger("guardproxy.audit")


class AuditStore:
    """Records in the SQLite or PostgreSQL database at `address`. Several processes may write to it.

    With `create`, the first use creates a missing store and migrates an old one; without, it raises ConfigError. Every
    method that takes a Filter raises FilterError for a category that the store does not know, and for a search by text
    in a store without texts or with encrypted ones. Writing raises ConfigError unless `keys` has the key of the chain;
    reading records does unless it has a key that decrypts them.
    """

    def __init__(self, address: str, *, create: bool = True, keys: StoreKeys | None = None) -> None:
        self._database = StoreDatabase(address, create=create)
        keys = keys or StoreKeys()
        self._key = None if keys.chain is None else ChainKey(keys.chain)
        self._cipher = PartsCipher(keys.encrypt)
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
        new: dict[str, Record] = {}
        for record in batch:
            if new.setdefault(search_key(record.id), record) != record:
                raise ValueError(f"two records have the id {search_key(record.id)}")
        async with self._database.writing() as connection:
            query = select(*_STORED, records.c.id).where(records.c.id.in_(new))
            for row in await connection.execute(query) if new else ():
                # Both from their stored form, in which two surrogates in a row are one character.
                if self._record(row) != read_record(*record_content(new.pop(row.id))):
                    raise ValueError(f"record {row.id} is already stored with another content")
            appending = await Appending.at_end(connection, self._key)
            rows = await batch_rows(appending, [*new.values()], self._cipher, self._dialect)
            await appending.insert(encrypted=self._cipher.encrypts)
            await connection.run_sync(note_times, rows.times)
            await connection.run_sync(add_texts, rows.texts)
            await connection.run_sync(insert_rows, scores, SCORE_COLUMNS, rows.scores)

    async def label(self, given: Sequence[Label]) -> None:
        """Store labels durably, each as a row of its own. A label of the kind "none" withdraws an earlier one.

        Raises ValueError if a record does not exist or is erased, or if a label names nobody.
        """
        async with self._database.writing() as connection:
            await add_labels(connection, given, self._key)

    async def exclude(self, *given: Exclusion) -> None:
        """Store exclusions durably, each as a row of its own. One with the id of an earlier one takes its place.

        Raises ValueError if one names nobody or no reason, or has a text that is too long.
        """
        async with self._database.writing() as connection:
            appending = await Appending.at_end(connection, self._key)
            rows = [{"seq": appending.add(EXCLUSION, exclusion_entry(one)), **exclusion_values(one)} for one in given]
            await appending.insert()
            if rows:
                await connection.execute(insert(exclusions), rows)

    async def exclusions(self, after: float) -> list[Exclusion]:
        """Return the exclusions that end later than `after`, in seconds since the epoch, oldest first."""
        async with self._database.reading() as connection:
            return await read_exclusions(connection, after)

    async def count(self, chosen: Filter = EVERY) -> int:
        """Return how many records match, those of shadow policies included."""
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            query = select(func.count()).select_from(records).where(*conditions(chosen, self._dialect))
            return int((await connection.execute(query)).scalar_one())

    async def erase(self, chosen: Filter, why: str = "request") -> int:
        """Erase the records that match, with their labels, in one transaction. Return how many records there were.

        Their hashes stay, and an entry in the chain names the rows and says `why`.
        """
        async with self._database.writing() as connection:
            await check_names(connection, chosen)
            query = select(records.c.seq).where(*conditions(chosen, self._dialect))
            erased = await erase_records(connection, list(await connection.scalars(query)), why, self._key)
        if erased:
            await self._overwrite()
        return erased

    async def retain(self, keep: Keep, now: float) -> Erased:
        """Erase the records and texts that `keep` keeps no longer at `now`, in seconds since the epoch.

        Each transaction erases a part of them, so that proxies can write in between. Several processes may do this at
        once: each part is erased by one of them.
        """
        erased_records = await self._erase_parts(expired(keep, now), erase_records)
        erased_texts = await self._erase_parts(expired_text(keep, now), erase_record_texts)
        if erased_records or erased_texts:
            await self._overwrite()
        return Erased(erased_records, erased_texts)

    async def rekey(self) -> int:
        """Encrypt the sealed parts of all rows with the first key, whatever they are encrypted with now.

        Return how many rows hold such parts. The chain stays as it is. Each transaction changes a part of the rows.
        Raises ConfigError without a key, or if none decrypts a row.
        """
        if not self._cipher.encrypts:
            raise ConfigError("there is no key to encrypt with: use --config FILE or the variable GUARDPROXY_AUDIT_KEY")
        after = rows = 0
        while True:
            async with self._database.writing() as connection:
                part = await encrypt_rows(connection, after, self._cipher)
            if not part:
                break
            rows, after = rows + len(part), part[-1]
        await self._overwrite()
        return rows

    async def _erase_parts(self, which: ColumnElement[bool] | None, erase: _Eraser) -> int:
        if which is None:
            return 0
        async with self._database.reading() as connection:
            numbers = list(await connection.scalars(select(records.c.seq).where(which).order_by(records.c.seq)))
        erased = 0
        for at in range(0, len(numbers), _ERASE):
            started = time.perf_counter()
            async with self._database.writing() as connection:
                erased += await erase(connection, numbers[at : at + _ERASE], "retention", self._key)
            # Other processes wait for the lock by trying again: without a pause they might never get it.
            await asyncio.sleep(time.perf_counter() - started)
        return erased

    async def _overwrite(self) -> None:
        """Remove what SQLite's index of texts and its write-ahead log still hold of erased rows."""
        await self._remove_erased_words()
        if not await self._database.empty_log():
            _log.warning(
                "audit_erased_content_in_log", why="another process is reading; the next erasure empties the log"
            )

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
        return await self._chosen(chosen, [], limit, newest_first=newest_first)

    async def page(
        self, chosen: Filter = EVERY, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> list[StoredRecord]:
        """Return the page of at most `limit` records that match, newest first.

        These are the newest with a number below `before`, or the oldest with a number above `after`.
        """
        where = [] if before is None else [records.c.seq < before]
        if after is None:
            return await self._chosen(chosen, where, limit, newest_first=True)
        return (await self._chosen(chosen, [*where, records.c.seq > after], limit))[::-1]

    async def scan(self, chosen: Filter = EVERY) -> AsyncIterator[StoredRecord]:
        """Yield every record that matches, in the order in which they were written, in several queries."""
        after = 0
        while part := await self.tail(after, chosen):
            for stored in part:
                yield stored
            after = part[-1].seq

    async def tail(self, after: int, chosen: Filter = EVERY) -> list[StoredRecord]:
        """Return the next records that match and have a number above `after`, in the order of their numbers."""
        return await self._chosen(chosen, [records.c.seq > after], _READ)

    async def get(self, name: str) -> list[StoredRecord]:
        """Return the record with this number or id, or every record of the request with this id; empty if none."""
        row = records.c
        # Row numbers are 64-bit integers: PostgreSQL refuses a larger number in a query.
        if name.isascii() and name.isdigit() and int(name) < 2**63:
            numbered = await self._chosen(EVERY, [row.seq == int(name)], 1)
            if numbered:
                return numbered
        which = (row.id == search_key(name)) | (row.request_id == search_key(name))
        return await self._chosen(EVERY, [which])

    async def conversation(self, name: str) -> list[StoredRecord]:
        """Return the records of the request that `get` finds, and of its session if it has one, in their order."""
        found = await self.get(name)
        requests = {search_key(stored.record.origin.request_id) for stored in found}
        sessions = {search_key(stored.record.origin.session) for stored in found if stored.record.origin.session}
        which = or_(records.c.request_id.in_(requests), records.c.session.in_(sessions))
        return await self._chosen(EVERY, [which]) if found else []

    async def labels(self, ids: Sequence[str] | None = None) -> dict[str, tuple[Label, ...]]:
        """Return the labels in force of the records with these ids: the last one of each reviewer, oldest first.

        Without `ids`, of all records. Records without a label are left out.
        """
        return {name: left for name, given in (await self.label_history(ids)).items() if (left := effective(given))}

    async def label_history(self, ids: Sequence[str] | None = None) -> dict[str, tuple[Label, ...]]:
        """Return every label that was given on these records, also replaced and withdrawn ones, oldest first.

        Without `ids`, of all records.
        """
        async with self._database.reading() as connection:
            return await read_labels(connection, ids)

    async def contents(self, chosen: Filter = EVERY, *, texts: bool) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """Yield number and fields (`shared.to_dict`) of every record that matches, in the order of their numbers.

        For readers of many records who need few of the fields: `scan` takes several times as long. Without `texts`, the
        text is neither read nor decrypted, and is empty.
        """
        text = records.c.sealed_text if texts else null().label("sealed_text")
        columns: tuple[Any, ...] = (records.c.seq, records.c.content, text, records.c.sealed_quotes)
        after = 0
        while True:
            async with self._database.reading() as connection:
                await check_names(connection, chosen)
                where = [*conditions(chosen, self._dialect), records.c.seq > after]
                query = select(*columns).where(*where).order_by(records.c.seq).limit(_READ_CONTENTS)
                part = (await connection.execute(query)).all()
            for row in part:
                yield row.seq, record_fields(row.content, opened_parts(row, self._cipher))
            if len(part) < _READ_CONTENTS:
                return
            after = part[-1].seq

    async def erased(self) -> int:
        """Return how many records of the store were erased; nothing else is known of them."""
        query = select(func.count()).where(records.c.kind == "record", records.c.content.is_(None))
        async with self._database.reading() as connection:
            return int((await connection.execute(query)).scalar_one())

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
            return await read_head(connection)

    async def _chosen(
        self, chosen: Filter, where: list[ColumnElement[bool]], limit: int | None = None, *, newest_first: bool = False
    ) -> list[StoredRecord]:
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            index = await narrowest(connection, chosen)
            some = first_records(
                chosen, self._dialect, (), *where, newest_first=newest_first, limit=limit, narrowest=index
            ).subquery()
            query = select(*_STORED).where(records.c.seq.in_(select(some.c.seq)))
            query = query.order_by(records.c.seq.desc() if newest_first else records.c.seq)
            rows = (await connection.execute(query)).all()
            found = [(row, self._record(row)) for row in rows]
            history = await read_labels(connection, [record.id for _, record in found])
        return [
            StoredRecord(
                row.seq, row.hash, record, effective(history.get(record.id, ())), text_erased=row.sealed_text == ERASED
            )
            for row, record in found
        ]

    def _record(self, row: Any) -> Record:
        return read_record(row.content, opened_parts(row, self._cipher))

    async def verify(self, expected: Head | None = None) -> Verification:
        """Read every row and report the rows that were edited, removed or moved.

        `expected` is an earlier head, which must still be in the chain. Somebody who can rewrite every row and the head
        can forge a chain; only a head kept elsewhere reveals that.
        """
        async with self._database.reading() as connection:
            return await verify_rows(connection, expected, self._key, self._cipher)
