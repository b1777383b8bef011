"""The connections to the store's database: transactions for reading and writing, and what opening it does."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.errors import ConfigError
from guardproxy.sinks.database.schema import BUSY_S, VERSION, WAIT_S, WRITE, create_file, open_engine, parse_address
from guardproxy.sinks.database.tables import create_tables, stored_version

_LOCK = 0x6775617264  # "guard": the PostgreSQL advisory lock that serialises writers of the chain
_MIGRATION_S = 3600.0  # how long a process waits while another one migrates the store


class StoreDatabase:
    """The database at `address`. With `create`, opening it creates a missing store and migrates an old one."""

    def __init__(self, address: str, *, create: bool) -> None:
        url = parse_address(address)
        self.place = url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)
        self.dialect = url.get_backend_name()
        self._file = Path(url.database or "") if self.dialect == "sqlite" else None
        self._create = create
        self._engine = open_engine(url)
        self._is_open = False
        self._opened: tuple[int, int] | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that excludes every other writer of this store, in this process and in others.

        Raises OSError if the file of the store was deleted or replaced: what is written would be lost with it.
        """
        async with self._lock:
            await self._open()
            if self._file and _identity(self._file) != self._opened:
                raise OSError(f"the audit store at {self.place} was deleted or replaced: put it back, or restart")
            async with self._exclusive(BUSY_S) as connection:
                yield connection

    @asynccontextmanager
    async def _exclusive(self, wait_s: float) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            await connection.execution_options(**{WRITE: True, WAIT_S: wait_s})
            async with connection.begin():
                if not self._file:
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that reads one consistent snapshot of the store."""
        await self.open()
        async with self._engine.connect() as connection:
            if not self._file:
                await connection.execution_options(isolation_level="REPEATABLE READ")
            async with connection.begin():
                yield connection

    async def open(self) -> None:
        """Open the store.

        Raises ConfigError if there is none and none may be created, or if it has another version.
        """
        if not self._is_open:
            async with self._lock:
                await self._open()

    async def _open(self) -> None:
        if self._is_open:
            return
        if self._file and self._create:
            await asyncio.to_thread(create_file, self._file)
        version = await self._stored() if self._create else await self.version()
        if version != VERSION and not self._create:
            raise ConfigError(
                f"the audit store at {self.place} has version {version}, this guardproxy reads version {VERSION}: "
                "make a backup, then run `guardproxy audit migrate` or `guardproxy serve`"
            )
        if version != VERSION:
            await self._prepare()
        self._opened = _identity(self._file) if self._file else None
        self._is_open = True

    async def _prepare(self) -> None:
        """Create or migrate the store. Of several processes that come here, the first one does the work."""
        async with self._exclusive(_MIGRATION_S) as connection:
            version = await connection.run_sync(stored_version, self.place)
            if version is None:
                await connection.run_sync(create_tables)
            elif version != VERSION:
                from guardproxy.sinks.database.migrations import migrate  # noqa: PLC0415 - alembic is slow

                await connection.run_sync(migrate, version)

    async def _stored(self) -> int | None:
        if self._file and not self._file.is_file():
            raise ConfigError(f"there is no audit store at {self.place}")
        async with self._engine.connect() as connection:
            return await connection.run_sync(stored_version, self.place)

    async def version(self) -> int:
        """Return the version of the tables. Raises ConfigError if there is no store."""
        version = await self._stored()
        if version is None:
            raise ConfigError(f"there is no audit store at {self.place}: the database does not have its tables")
        return version

    async def migrate(self) -> int:
        """Bring the tables of a store to the current version and return it. Raises ConfigError if there is no store."""
        await self.version()
        await self._prepare()
        return await self.version()

    async def empty_log(self) -> bool:
        """Move SQLite's write-ahead log into the file and empty it. Return False if a reader prevents it."""
        return self._file is None or await asyncio.to_thread(_truncate_wal, self._file)

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()


def _identity(path: Path) -> tuple[int, int] | None:
    """The device and the number of a file; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _truncate_wal(path: Path) -> bool:
    connection = sqlite3.connect(path, timeout=BUSY_S)
    try:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy
    finally:
        connection.close()
