"""Which version the tables of a store have, and how they are made anew."""

from sqlalchemy import Connection, insert, inspect, select

from guardproxy.errors import ConfigError
from guardproxy.sinks.database import chain
from guardproxy.sinks.database.schema import VERSION, metadata, store
from guardproxy.sinks.database.texts import create_texts

_FIRST_COLUMNS = frozenset(
    {
        *("seq", "kind", "id", "request_id", "time", "side", "action", "cause", "route", "model", "policy", "shadow"),
        *("latency_s", "content", "salt", "content_hash", "previous", "hash"),
    }
)


def stored_version(connection: Connection, place: str) -> int | None:
    """Return the version of the store's tables, None if there is no store.

    Raises ConfigError if the tables are not those of a store, or of a newer version.
    """
    inspector = inspect(connection)
    if not inspector.has_table(store.name):
        return None
    versions = list(connection.scalars(select(store.c.version)))
    if not versions:
        return None
    if len(versions) > 1 or versions[0] < 1:
        raise ConfigError(f"{place} is not an audit store: its table {store.name} has the versions {versions}")
    if versions[0] > VERSION:
        raise ConfigError(
            f"the audit store at {place} has version {versions[0]}, this guardproxy reads version {VERSION}: "
            "run the newer guardproxy that wrote the store, or name another store"
        )
    missing = sorted(_FIRST_COLUMNS - {found["name"] for found in inspector.get_columns("guardproxy_records")})
    if missing:
        raise ConfigError(f"{place} is not an audit store: guardproxy_records has no column {', '.join(missing)}")
    return int(versions[0])


def create_tables(connection: Connection) -> None:
    """Create the tables of an empty store."""
    metadata.create_all(connection)
    create_texts(connection)
    connection.execute(insert(store), {"version": VERSION, "seq": 0, "hash": chain.GENESIS})
