"""The audit store in a database: SQLite in a file by default, or PostgreSQL."""

from guardproxy.sinks.database.chain import Head, Problem
from guardproxy.sinks.database.check import Verification
from guardproxy.sinks.database.queries import Filter, Stats, Stored
from guardproxy.sinks.database.schema import data_folder, default_store_url
from guardproxy.sinks.database.store import AuditStore

__all__ = [
    "AuditStore",
    "Filter",
    "Head",
    "Problem",
    "Stats",
    "Stored",
    "Verification",
    "data_folder",
    "default_store_url",
    "open_sink",
]


def open_sink(address: str | None = None) -> AuditStore:
    """The store at `sqlite:////path` or `postgresql://user:password@host/db`; without an address, the embedded one.

    Raises ConfigError for an address that is neither, or a driver that is missing.
    """
    return AuditStore(address or default_store_url())
