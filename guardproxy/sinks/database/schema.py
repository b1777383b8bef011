"""The tables of the store, and how its database is opened: SQLite in a file, or PostgreSQL."""

import hashlib
import importlib.util
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import to_json
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    event,
)
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from guardproxy.errors import ConfigError
from guardproxy.sinks.database.text_keys import same_key
from guardproxy.types import Record

VERSION = 5
WRITE = "guardproxy_write"  # the execution option of a transaction that writes
SCORE_FLOOR = 0.05  # lower probabilities have no row in the table of scores, or each record would have one per category
WAIT_S = "guardproxy_wait_s"  # the execution option: how long it waits for another writer of a SQLite file
BUSY_S = 8.0
_MAX_KEY = 200
_CACHE_KIB = 32 * 1024  # of a connection; with SQLite's 2 MiB, writing many records reads pages of its indices again

ScoreRows = dict[str, tuple[float, bool]]  # of a record: categories with their probability and `reached`

_Number = BigInteger().with_variant(Integer, "sqlite")
metadata = MetaData()

# One row: the version of the tables, and the last row of the chain.
store = Table(
    "guardproxy_audit",
    metadata,
    Column("version", Integer, nullable=False),
    Column("seq", _Number, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("key_id", String(16)),  # of the key that the chain has; NULL for none
    Column("encrypted", Boolean),  # whether a row was ever encrypted
)

# `content` is the record as JSON, protected by the chain; `sealed_text` and `sealed_quotes` are its sealed parts
# (`sealed`). The columns between `kind` and `content` are copies for searching, empty in every other kind of row.
records = Table(
    "guardproxy_records",
    metadata,
    Column("seq", _Number, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("id", String, unique=True),
    Column("request_id", String),
    Column("time", Float(53)),
    Column("side", String(16)),
    Column("action", String(16)),
    Column("cause", String(16)),
    Column("route", String),
    Column("model", String),
    Column("policy", String),
    Column("shadow", Boolean),
    Column("latency_s", Float(53)),
    Column("client", String),
    Column("end_user", String),
    Column("session", String),
    Column("wire", String),
    Column("answered_model", String),
    Column("has_error", Boolean),
    Column("complete", Boolean),
    Column("sampled", Boolean),
    Column("exclusion", String),
    Column("unsafe", Float(53)),
    Column("low_scores", Text),
    Column("same_key", String(40)),  # of `text_keys`; NULL also if the text is encrypted
    Column("content", Text),
    Column("salt", String(32)),
    Column("sealed_text", Text),
    Column("sealed_quotes", Text),
    Column("content_hash", String(64), nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)
SEARCH_COLUMNS = (
    "id",
    "request_id",
    "time",
    "side",
    "action",
    "cause",
    "route",
    "model",
    "policy",
    "shadow",
    "latency_s",
    "client",
    "end_user",
    "session",
    "wire",
    "answered_model",
    "has_error",
    "complete",
    "sampled",
    "exclusion",
    "unsafe",
    "low_scores",
    "same_key",
)
INDEXED = ("request_id", "time", "action", "route", "model", "policy", "client", "end_user", "session")
for _name in INDEXED:
    Index(f"guardproxy_records_{_name}", records.c[_name], records.c.seq)
HAS_ERROR = records.c.has_error.is_(True)
Index("guardproxy_records_errors", records.c.seq, sqlite_where=HAS_ERROR, postgresql_where=HAS_ERROR)
SHADOW = records.c.shadow.is_(True)
Index("guardproxy_records_shadow", records.c.seq, sqlite_where=SHADOW, postgresql_where=SHADOW)
HAS_KEY = records.c.same_key.is_not(None)
Index("guardproxy_records_same", records.c.same_key, records.c.seq, sqlite_where=HAS_KEY, postgresql_where=HAS_KEY)
# What is counted, in the order of the rows: counts of the newest records read this index and not the long rows. In
# PostgreSQL an entry of an index has at most 2,704 bytes, and a name that a client chooses up to 800: it holds fewer.
_COUNTED = (
    *("time", "action", "side", "policy", "route", "client", "model", "cause", "shadow", "has_error", "latency_s"),
    *("unsafe", "wire", "sampled", "complete"),
)
_COUNTED_NAMES = "guardproxy_records_counted_names"
for _kind, _index_name, _names in (
    ("postgresql", "guardproxy_records_counted", _COUNTED),
    ("sqlite", _COUNTED_NAMES, (*_COUNTED, "end_user", "answered_model", "exclusion")),
):
    Index(_index_name, records.c.seq, *(records.c[_name] for _name in _names)).ddl_if(dialect=_kind)

# For `Select.with_hint`: rows that are looked up by their numbers are read from the index, whose pages hold many.
FROM_COUNTED = (records, f"INDEXED BY {_COUNTED_NAMES}", "sqlite")


class _WithHints(SQLiteCompiler):
    """SQLAlchemy leaves hints on a table out for SQLite."""

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        return text


# The earliest and the latest time of the records of each block of rows (`times`).
blocks = Table(
    "guardproxy_blocks",
    metadata,
    Column("block", _Number, primary_key=True, autoincrement=False),
    Column("earliest", Float(53), nullable=False),
    Column("latest", Float(53), nullable=False),
)

# The probabilities of a record from SCORE_FLOOR on, and those that reached a threshold; "unsafe" is P(unsafe).
scores = Table(
    "guardproxy_scores",
    metadata,
    Column("category", String, primary_key=True),
    Column("seq", _Number, primary_key=True, autoincrement=False),
    Column("probability", Float(53), nullable=False),
    Column("reached", Boolean, nullable=False),
    Index("guardproxy_scores_seq", "seq"),
    sqlite_with_rowid=False,
)
REACHED = scores.c.reached.is_(True)
_OF_REACHED = (scores.c.seq, scores.c.category)
Index("guardproxy_scores_reached", *_OF_REACHED, sqlite_where=REACHED, postgresql_where=REACHED)
SCORE_COLUMNS = ("category", "seq", "probability", "reached")

# The labels, by the number of their own row in the chain, whose content they copy. `record` is the id of a record.
labels = Table(
    "guardproxy_labels",
    metadata,
    Column("seq", _Number, primary_key=True, autoincrement=False),
    Column("record", String, nullable=False),
    Column("person", String, nullable=False),
    Column("kind", String(16), nullable=False),
    Index("guardproxy_labels_person", "record", "person", "seq"),
)


# The exclusions, by the number of their own row in the chain, whose content they copy. The last row of an id counts.
exclusions = Table(
    "guardproxy_exclusions",
    metadata,
    Column("seq", _Number, primary_key=True, autoincrement=False),
    Column("id", String, nullable=False),
    Column("until", Float(53), nullable=False),
    Column("text", String),  # the hash of the text
    Column("record", String),  # the id of the record that it was made from
    Index("guardproxy_exclusions_id", "id", "seq"),
    Index("guardproxy_exclusions_text", "text"),
    Index("guardproxy_exclusions_record", "record"),
)


# The second opinions, by the number of their own row in the chain, and the id of the record that they are about.
opinions = Table(
    "guardproxy_opinions",
    metadata,
    Column("seq", _Number, primary_key=True, autoincrement=False),
    Column("record", String, nullable=False),
    Index("guardproxy_opinions_record", "record", "seq"),
)


# The changes of policies that people saved, by the number of their own row in the chain, whose content they copy.
policy_changes = Table(
    "guardproxy_policy_changes",
    metadata,
    Column("seq", _Number, primary_key=True, autoincrement=False),
    Column("time", Float(53), nullable=False),
)


def search_key(value: str) -> str:
    """Return the form in which a search column stores `value`.

    Clients choose some values, such as models. NUL and lone surrogates, which databases refuse, are escaped. A value
    too long for an index is cut and ends in its hash, which keeps it distinct; the content holds the full value.
    """
    if len(value) <= _MAX_KEY and value.isascii() and "\0" not in value:
        return value
    escaped = value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    if len(escaped) <= _MAX_KEY:
        return escaped
    return f"{escaped[: _MAX_KEY - 65]}~{hashlib.sha256(escaped.encode()).hexdigest()}"


def search_values(record: Record, *, encrypted: bool = False) -> tuple[dict[str, Any], ScoreRows]:
    """Return the values of `SEARCH_COLUMNS` for a record, and what the table of scores holds of it.

    A key of an `encrypted` text would tell what it says.
    """
    origin, verdict = record.origin, record.verdict
    reached = {search_key(reason.category): reason.probability for reason in record.decision.reasons}
    known = _probabilities(record)
    low = {name: value for name, value in known.items() if value < SCORE_FLOOR}
    columns = {
        "id": search_key(record.id),
        "request_id": search_key(origin.request_id),
        "time": record.time,
        "side": record.side,
        "action": record.decision.action,
        "cause": record.decision.cause,
        "route": search_key(origin.route),
        "model": search_key(origin.model),
        "policy": search_key(record.policy),
        "shadow": record.shadow,
        "latency_s": record.latency_s,
        "client": search_key(origin.client),
        "end_user": search_key(origin.user),
        "session": search_key(origin.session),
        "wire": search_key(origin.wire),
        "answered_model": search_key(record.reply.model) if record.reply else "",
        "has_error": bool(record.error),
        "complete": record.complete,
        "sampled": record.sampled,
        "exclusion": search_key(record.exclusion),
        "unsafe": verdict.unsafe if verdict else None,
        "low_scores": to_json(low).decode() if low else None,
        "same_key": None if encrypted else same_key(record),
    }
    scored = {name: (value, name in reached) for name, value in {**reached, **known}.items()}
    return columns, {name: one for name, one in scored.items() if one[0] >= SCORE_FLOOR or one[1]}


def _probabilities(record: Record) -> dict[str, float]:
    """The probability of every category of the verdict, the highest one if there are several, and P(unsafe)."""
    if record.verdict is None:
        return {}
    highest: dict[str, float] = {}
    for finding in record.verdict.findings:
        name = search_key(finding.category)
        highest[name] = max(finding.probability, highest.get(name, 0.0))
    highest["unsafe"] = record.verdict.unsafe
    return highest


def data_folder(data_dir: str | None = None) -> Path:
    """Return the folder for the files that guardproxy writes.

    This is `data_dir`, else `GUARDPROXY_DATA_DIR`, else `guardproxy` in the user's data directory according to the XDG
    base directory specification (`XDG_DATA_HOME`, else `~/.local/share`).
    """
    configured = data_dir or os.environ.get("GUARDPROXY_DATA_DIR")
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    folder = Path(configured) if configured else Path(home) / "guardproxy"
    return folder.expanduser().absolute()


def default_store_url(data_dir: str | None = None) -> str:
    """Return the address of the embedded store: `audit.sqlite3` in the data folder."""
    return URL.create("sqlite", database=str(data_folder(data_dir) / "audit.sqlite3")).render_as_string()


def parse_address(address: str) -> URL:
    """Parse the address of a store and add its driver.

    Raises ConfigError for an invalid address or a missing driver; the error never quotes the address, which may hold a
    password.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "the address of the audit store must have the form sqlite:////path or postgresql://host/db"
        ) from None
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigError("an audit store in SQLite must be a file: write sqlite:////path/to/audit.sqlite3")
        return url.set(drivername="sqlite+aiosqlite")
    if url.get_backend_name() == "postgresql":
        if importlib.util.find_spec("asyncpg") is None:
            raise ConfigError("an audit store in PostgreSQL needs asyncpg: run pip install 'guardproxy[postgres]'")
        return url.set(drivername="postgresql+asyncpg")
    raise ConfigError(f"unknown kind of audit store {url.get_backend_name()!r}: use sqlite or postgresql")


def open_engine(url: URL) -> AsyncEngine:
    """Open the database. A transaction in SQLite is on the disk once it is committed."""
    if url.get_backend_name() == "postgresql":
        # Users' texts are parameters of statements: they must not appear in error messages.
        # Compiling a query takes longer than running it, because each looks at a bounded number of rows.
        settings = {"server_settings": {"jit": "off"}}
        return create_async_engine(url, hide_parameters=True, pool_pre_ping=True, pool_size=2, connect_args=settings)
    engine = create_async_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_S})
    engine.dialect.statement_compiler = _WithHints

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # sqlite3 must not begin transactions by itself
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA secure_delete=ON")  # erased content is overwritten
        cursor.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        cursor.execute("PRAGMA temp_store=MEMORY")  # for sorting and grouping
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(f"PRAGMA busy_timeout={int(options.get(WAIT_S, BUSY_S) * 1000)}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(WRITE, False) else "BEGIN")

    return engine


def create_file(path: Path) -> None:
    """Create a SQLite file that only its owner can read, in WAL mode: readers and the writer do not block each other.

    Raises sqlite3.Error, or OSError, also if this process may not write the file and its folder: SQLite keeps its log
    beside the file.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Only a new file is opened here: closing it would drop the locks of other connections of this process to it, and
    # another process that ends its own connection would then take itself for the last one, and delete the log.
    with suppress(FileExistsError):
        os.close(os.open(path.resolve(), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    for place in (path.resolve(), path.resolve().parent):
        if not os.access(place, os.W_OK):
            raise PermissionError(
                f"{place} cannot be written: give the user of this process the permission to write the file and its "
                "folder, on a file system that is not read-only, or set audit.store"
            )
    deadline = time.monotonic() + BUSY_S
    while True:
        connection = sqlite3.connect(path, timeout=BUSY_S)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            # Another process is changing the mode; SQLite's own timeout does not cover that.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
        finally:
            connection.close()
