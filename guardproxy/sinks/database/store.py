"""The audit store: writes records into the chain, finds them again, erases them, and verifies that nothing else did."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import ColumnElement, delete, insert, inspect, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.errors import ConfigError
from guardproxy.sinks.database import chain
from guardproxy.sinks.database.chain import Head
from guardproxy.sinks.database.check import Verification, verified
from guardproxy.sinks.database.queries import EVERY, Filter, Stats, Stored, conditions, counted
from guardproxy.sinks.database.schema import (
    SEARCHED,
    VERSION,
    WRITE,
    categories,
    create_file,
    create_tables,
    empty_log,
    key,
    open_engine,
    parse,
    records,
    searched,
    store,
)
from guardproxy.sinks.shared import from_json, to_json
from guardproxy.types import Record

_LOCK = 0x6775617264  # "guard": the advisory lock of PostgreSQL that writers of the chain take
_READ = 200  # rows in one query

_log = structlog.get_logger("guardproxy.audit")


class AuditStore:
    """Records in SQLite or PostgreSQL, at `address`.

    With `create`, the store is created at its first use; without, a store that is not there is a ConfigError.
    Several processes may write to one store.
    """

    def __init__(self, address: str, *, create: bool = True) -> None:
        url = parse(address)
        self.place = url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)
        self._file = Path(url.database or "") if url.get_backend_name() == "sqlite" else None
        self._create = create
        self._engine = open_engine(url)
        self._is_open = False
        self._lock = asyncio.Lock()

    # --- writing -----------------------------------------------------------------------------------------------------

    async def write(self, batch: Sequence[Record]) -> None:
        """Store the records, durably when it returns. A record is stored once, however often it is written.

        Raises ValueError for an id that is stored with another content, ConfigError for a store of another version,
        OSError or sqlalchemy.exc.SQLAlchemyError where the database fails.
        """
        new: dict[str, tuple[Record, str]] = {}
        for record in batch:
            content = to_json(record)
            if new.setdefault(key(record.id), (record, content))[1] != content:
                raise ValueError(f"two records have the id {key(record.id)}")
        async with self._writing() as connection:
            query = select(records.c.id, records.c.content).where(records.c.id.in_(new))
            for known, content in await connection.execute(query) if new else ():
                if content != new.pop(known)[1]:
                    raise ValueError(f"record {known} is already stored with another content")
            rows, found = [], []
            head = await _head(connection)
            for record, content in new.values():
                row, head = _row(head, content, {"kind": "record", **searched(record)})
                rows.append(row)
                reached = {key(category) for category in record.decision.categories}
                found += [{"category": category, "seq": head.seq} for category in sorted(reached)]
            if rows:
                await _append(connection, rows, head)
            if found:
                await connection.execute(insert(categories), found)

    async def delete(self, request_id: str) -> int:
        """Erase the records of a request; their number."""
        return await self._erase("request", records.c.request_id == key(request_id))

    async def prune(self, before: float) -> int:
        """Erase the records from before a time, in seconds since the epoch; their number."""
        return await self._erase("retention", records.c.time < before)

    async def _erase(self, why: str, which: ColumnElement[bool]) -> int:
        """Content and searched columns go, hashes stay, and an entry of the chain says which rows were erased."""
        held = (records.c.kind == "record") & records.c.content.is_not(None) & which
        async with self._writing() as connection:
            found = list(await connection.scalars(select(records.c.seq).where(held).order_by(records.c.seq)))
            if not found:
                return 0
            gone = select(records.c.seq).where(held)
            await connection.execute(delete(categories).where(categories.c.seq.in_(gone)))
            await connection.execute(update(records).where(held).values(dict.fromkeys((*SEARCHED, "content", "salt"))))
            content = chain.erasure(time.time(), why, found)
            row, head = _row(await _head(connection), content, {"kind": "erasure", **dict.fromkeys(SEARCHED)})
            await _append(connection, [row], head)
        if self._file and not await asyncio.to_thread(empty_log, self._file):
            _log.warning("audit_erased_content_in_log", why="a reader is in the way; the next erasure empties it")
        return len(found)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def query(self, chosen: Filter = EVERY, limit: int = 100, *, newest_first: bool = True) -> list[Stored]:
        """The records that match, at most `limit`, in the order they were written or the other."""
        order = records.c.seq.desc() if newest_first else records.c.seq
        return await self._stored(conditions(chosen), order, limit)

    async def scan(self, chosen: Filter = EVERY) -> AsyncIterator[Stored]:
        """Every record that matches, in the order they were written, read in parts."""
        after = 0
        while part := await self.tail(after, chosen):
            for one in part:
                yield one
            after = part[-1].seq

    async def tail(self, after: int, chosen: Filter = EVERY) -> list[Stored]:
        """The next records that match with a number above `after`, in the order they were written."""
        return await self._stored([*conditions(chosen), records.c.seq > after], records.c.seq, _READ)

    async def get(self, name: str) -> list[Stored]:
        """The record with this number or id, or all records of the request with this id; empty where there is none."""
        row = records.c
        # The largest number a row can have; beyond it PostgreSQL takes none.
        if name.isascii() and name.isdigit() and int(name) < 2**63:
            found = await self._stored([*conditions(EVERY), row.seq == int(name)], row.seq, 1)
            if found:
                return found
        which = (row.id == key(name)) | (row.request_id == key(name))
        return await self._stored([*conditions(EVERY), which], row.seq, None)

    async def stats(self, chosen: Filter = EVERY) -> Stats:
        """Counts of the records that match."""
        async with self._reading() as connection:
            return await counted(connection, chosen)

    async def head(self) -> Head:
        """The last row."""
        async with self._reading() as connection:
            return await _head(connection)

    async def _stored(self, where: list[ColumnElement[bool]], order: Any, limit: int | None) -> list[Stored]:
        query = select(records.c.seq, records.c.hash, records.c.content).where(*where).order_by(order).limit(limit)
        async with self._reading() as connection:
            return [Stored(row.seq, row.hash, from_json(row.content)) for row in await connection.execute(query)]

    async def verify(self, expected: Head | None = None) -> Verification:
        """Read every row and name those that were edited, removed or moved.

        `expected` is a head that was noted before: it must still be in the chain. Who can rewrite every row and the
        head can forge a chain; a head noted elsewhere shows that too.
        """
        async with self._reading() as connection:
            return await verified(connection, expected)

    # --- connections -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that no other writer of this store runs beside, in this process or in another."""
        async with self._lock:
            await self._open()
            async with self._alone() as connection:
                yield connection

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            await connection.execution_options(**{WRITE: True})
            async with connection.begin():
                if not self._file:
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
                yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees the store as it is at one moment."""
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
            async with self._alone() as connection:
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
                raise ConfigError(f"there is no audit store at {self.place}: the database has no such tables")
            await self._check_version(connection)

    async def _check_version(self, connection: AsyncConnection) -> None:
        found = list(await connection.scalars(select(store.c.version)))
        if found != [VERSION]:
            raise ConfigError(f"the audit store at {self.place} has form {found}, this guardproxy reads {VERSION}")

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()


async def _head(connection: AsyncConnection) -> Head:
    seq, last = (await connection.execute(select(store.c.seq, store.c.hash))).one()
    return Head(seq, last)


def _row(head: Head, content: str, columns: dict[str, Any]) -> tuple[dict[str, Any], Head]:
    """The row that follows `head`, and the head it becomes."""
    link = chain.seal(head.seq + 1, head.hash, content, secrets.token_hex(16))
    own = {name: getattr(link, name) for name in ("seq", "salt", "content", "content_hash", "previous", "hash")}
    return {**columns, **own}, Head(link.seq, link.hash)


async def _append(connection: AsyncConnection, rows: list[dict[str, Any]], head: Head) -> None:
    await connection.execute(insert(records), rows)
    await connection.execute(update(store).values(seq=head.seq, hash=head.hash))
