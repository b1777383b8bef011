"""The audit store: writes records into the hash chain, queries, erases and verifies them."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import ColumnElement, delete, func, insert, inspect, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.errors import ConfigError
from guardproxy.sinks.database import chain
from guardproxy.sinks.database.chain import Head
from guardproxy.sinks.database.check import Verification, verify_rows
from guardproxy.sinks.database.queries import EVERY, AuditStats, Filter, StoredRecord, conditions, count_records
from guardproxy.sinks.database.schema import (
    SEARCH_COLUMNS,
    VERSION,
    WRITE,
    categories,
    create_file,
    create_tables,
    open_engine,
    parse_address,
    records,
    search_key,
    search_values,
    store,
    truncate_wal,
)
from guardproxy.sinks.shared import from_json, to_json
from guardproxy.types import Record

_LOCK = 0x6775617264  # "guard": the PostgreSQL advisory lock that serialises writers of the chain
_READ = 200  # rows in one query
_READ_TEXTS = 1000  # rows in one query of their texts alone

_log = structlog.get_logger("guardproxy.audit")


class AuditStore:
    """Records in the SQLite or PostgreSQL database at `address`. Several processes may write to it.

    With `create`, the first use creates a missing store; without, it raises ConfigError.
    """

    def __init__(self, address: str, *, create: bool = True) -> None:
        url = parse_address(address)
        self.place = url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)
        self._file = Path(url.database or "") if url.get_backend_name() == "sqlite" else None
        self._create = create
        self._engine = open_engine(url)
        self._is_open = False
        self._lock = asyncio.Lock()

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
        async with self._writing() as connection:
            query = select(records.c.id, records.c.content).where(records.c.id.in_(new))
            for known, content in await connection.execute(query) if new else ():
                if content != new.pop(known)[1]:
                    raise ValueError(f"record {known} is already stored with another content")
            rows, category_rows = [], []
            head = await _head(connection)
            for record, content in new.values():
                row, head = _row(head, content, {"kind": "record", **search_values(record)})
                rows.append(row)
                reached = {search_key(category) for category in record.decision.categories}
                category_rows += [{"category": category, "seq": head.seq} for category in sorted(reached)]
            if rows:
                await _append(connection, rows, head)
            if category_rows:
                await connection.execute(insert(categories), category_rows)

    async def delete(self, request_id: str) -> int:
        """Erase the records of a request and return how many there were."""
        return await self._erase("request", records.c.request_id == search_key(request_id))

    async def prune(self, before: float) -> int:
        """Erase the records older than `before`, in seconds since the epoch, and return how many there were."""
        return await self._erase("retention", records.c.time < before)

    async def _erase(self, why: str, which: ColumnElement[bool]) -> int:
        """Erase content and search columns, keep the hashes, and append an entry that names the erased rows."""
        held = (records.c.kind == "record") & records.c.content.is_not(None) & which
        async with self._writing() as connection:
            numbers = list(await connection.scalars(select(records.c.seq).where(held).order_by(records.c.seq)))
            if not numbers:
                return 0
            erased = select(records.c.seq).where(held)
            await connection.execute(delete(categories).where(categories.c.seq.in_(erased)))
            await connection.execute(
                update(records).where(held).values(dict.fromkeys((*SEARCH_COLUMNS, "content", "salt")))
            )
            content = chain.erasure_entry(time.time(), why, numbers)
            row, head = _row(await _head(connection), content, {"kind": "erasure", **dict.fromkeys(SEARCH_COLUMNS)})
            await _append(connection, [row], head)
        if self._file and not await asyncio.to_thread(truncate_wal, self._file):
            _log.warning(
                "audit_erased_content_in_log", why="another process is reading; the next erasure empties the log"
            )
        return len(numbers)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def query(self, chosen: Filter = EVERY, limit: int = 100, *, newest_first: bool = True) -> list[StoredRecord]:
        """Return at most `limit` records that match, newest first or in the order in which they were written."""
        order = records.c.seq.desc() if newest_first else records.c.seq
        return await self._stored(conditions(chosen), order, limit)

    async def scan(self, chosen: Filter = EVERY) -> AsyncIterator[StoredRecord]:
        """Yield every record that matches, in the order in which they were written, in several queries."""
        after = 0
        while part := await self.tail(after, chosen):
            for stored in part:
                yield stored
            after = part[-1].seq

    async def tail(self, after: int, chosen: Filter = EVERY) -> list[StoredRecord]:
        """Return the next records that match and have a number above `after`, in the order of their numbers."""
        return await self._stored([*conditions(chosen), records.c.seq > after], records.c.seq, _READ)

    async def get(self, name: str) -> list[StoredRecord]:
        """Return the record with this number or id, or every record of the request with this id; empty if none."""
        row = records.c
        # Row numbers are 64-bit integers: PostgreSQL refuses a larger number in a query.
        if name.isascii() and name.isdigit() and int(name) < 2**63:
            numbered = await self._stored([*conditions(EVERY), row.seq == int(name)], row.seq, 1)
            if numbered:
                return numbered
        which = (row.id == search_key(name)) | (row.request_id == search_key(name))
        return await self._stored([*conditions(EVERY), which], row.seq, None)

    async def contents(self, chosen: Filter = EVERY) -> AsyncIterator[tuple[int, str]]:
        """Yield number and JSON text of every record that matches, in the order in which they were written.

        For readers of many records who need few of the fields: `scan` takes several times as long.
        """
        after = 0
        while True:
            where = [*conditions(chosen), records.c.seq > after]
            query = select(records.c.seq, records.c.content).where(*where).order_by(records.c.seq).limit(_READ_TEXTS)
            async with self._reading() as connection:
                part = (await connection.execute(query)).tuples().all()
            for seq, content in part:
                yield seq, content
            if len(part) < _READ_TEXTS:
                return
            after = part[-1][0]

    async def erased(self) -> int:
        """Return how many records of the store were erased; nothing else is known of them."""
        query = select(func.count()).where(records.c.kind == "record", records.c.content.is_(None))
        async with self._reading() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def stats(self, chosen: Filter = EVERY) -> AuditStats:
        """Count the records that match."""
        async with self._reading() as connection:
            return await count_records(connection, chosen)

    async def head(self) -> Head:
        """Return the number and hash of the last row."""
        async with self._reading() as connection:
            return await _head(connection)

    async def _stored(self, where: list[ColumnElement[bool]], order: Any, limit: int | None) -> list[StoredRecord]:
        query = select(records.c.seq, records.c.hash, records.c.content).where(*where).order_by(order).limit(limit)
        async with self._reading() as connection:
            return [StoredRecord(row.seq, row.hash, from_json(row.content)) for row in await connection.execute(query)]

    async def verify(self, expected: Head | None = None) -> Verification:
        """Read every row and report the rows that were edited, removed or moved.

        `expected` is an earlier head, which must still be in the chain. Somebody who can rewrite every row and the head
        can forge a chain; only a head kept elsewhere reveals that.
        """
        async with self._reading() as connection:
            return await verify_rows(connection, expected)

    # --- connections -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that excludes every other writer of this store, in this process and in others."""
        async with self._lock:
            await self._open()
            async with self._exclusive() as connection:
                yield connection

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            await connection.execution_options(**{WRITE: True})
            async with connection.begin():
                if not self._file:
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
                yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that reads one consistent snapshot of the store."""
        if not self._is_open:
            async with self._lock:
                await self._open()
        async with self._engine.connect() as connection:
            if not self._file:
                await connection.execution_options(isolation_level="REPEATABLE READ")
            async with connection.begin():
                yield connection

    async def _open(self) -> None:
        if self._is_open:
            return
        if self._create:
            if self._file:
                await asyncio.to_thread(create_file, self._file)
            async with self._exclusive() as connection:
                await connection.run_sync(create_tables)
                if not (await connection.execute(select(store.c.version))).all():
                    first = {"version": VERSION, "seq": 0, "hash": chain.GENESIS}
                    await connection.execute(insert(store), first)
                await self._check_version(connection)
        else:
            await self._find()
        self._is_open = True

    async def _find(self) -> None:
        if self._file and not self._file.is_file():
            raise ConfigError(f"there is no audit store at {self.place}")
        async with self._engine.connect() as connection:
            if not await connection.run_sync(lambda sync: inspect(sync).has_table(store.name)):
                raise ConfigError(f"there is no audit store at {self.place}: the database does not have its tables")
            await self._check_version(connection)

    async def _check_version(self, connection: AsyncConnection) -> None:
        versions = list(await connection.scalars(select(store.c.version)))
        if versions != [VERSION]:
            raise ConfigError(
                f"the audit store at {self.place} has version {versions}, this guardproxy reads version {VERSION}"
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()


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
