"""The steps from each version of the store's tables to the next. Importing alembic is slow.

A step is written for the tables of its time, so it does not use those of `schema`. `AuditStore` runs all steps in one
transaction that excludes other writers.
"""

from collections.abc import Callable, Mapping
from typing import Any

import structlog
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    String,
    Text,
    bindparam,
    column,
    insert,
    select,
    table,
    text,
    update,
)

from guardproxy.sinks.database.exclusions import exclusion_values, read_exclusion
from guardproxy.sinks.database.keys import is_encrypted
from guardproxy.sinks.database.schema import VERSION, search_values, store
from guardproxy.sinks.database.sealed import Parts, read_record
from guardproxy.sinks.database.text_keys import same_key
from guardproxy.sinks.database.texts import add_texts, create_texts, text_rows
from guardproxy.sinks.shared import from_json

_READ = 500  # rows in one query

_log = structlog.get_logger("guardproxy.audit")


def migrate(connection: Connection, version: int) -> None:
    """Change the tables from `version` to the current one. The chain and its contents stay as they are."""
    operations = Operations(MigrationContext.configure(connection))
    for step in range(version, VERSION):
        _log.warning("audit_store_migrating", version=step, to=step + 1)
        _STEPS[step](operations)
    connection.execute(update(store).values(version=VERSION))
    _log.warning("audit_store_migrated", version=VERSION)


def _search_and_labels(operations: Operations) -> None:
    """From 1 to 2: more columns, scores in place of categories, labels, exclusions, the index of texts."""
    for name in ("client", "end_user", "session", "wire", "answered_model", "exclusion"):
        operations.add_column("guardproxy_records", Column(name, String))
    for name in ("has_error", "complete", "sampled"):
        operations.add_column("guardproxy_records", Column(name, Boolean))
    operations.add_column("guardproxy_records", Column("unsafe", Float(53)))
    operations.add_column("guardproxy_records", Column("low_scores", Text))
    for name in ("sealed_text", "sealed_quotes"):
        operations.add_column("guardproxy_records", Column(name, Text))
    operations.add_column("guardproxy_audit", Column("key_id", String(16)))
    operations.add_column("guardproxy_audit", Column("encrypted", Boolean))
    operations.drop_index("guardproxy_records_side", "guardproxy_records")
    operations.drop_table("guardproxy_categories")
    number = BigInteger().with_variant(Integer, "sqlite")
    operations.create_table(
        "guardproxy_scores",
        Column("category", String, primary_key=True),
        Column("seq", number, primary_key=True, autoincrement=False),
        Column("probability", Float(53), nullable=False),
        Column("reached", Boolean, nullable=False),
        Index("guardproxy_scores_seq", "seq"),
        sqlite_with_rowid=False,
    )
    operations.create_table(
        "guardproxy_labels",
        Column("seq", number, primary_key=True, autoincrement=False),
        Column("record", String, nullable=False),
        Column("person", String, nullable=False),
        Column("kind", String(16), nullable=False),
        Index("guardproxy_labels_person", "record", "person", "seq"),
    )
    operations.create_table(
        "guardproxy_exclusions",
        Column("seq", number, primary_key=True, autoincrement=False),
        Column("id", String, nullable=False),
        Column("until", Float(53), nullable=False),
        Index("guardproxy_exclusions_id", "id", "seq"),
    )
    connection = operations.get_bind()
    create_texts(connection)
    _fill(connection)
    # After the rows are filled: an index that exists is changed row by row.
    for name in ("client", "end_user", "session"):
        operations.create_index(f"guardproxy_records_{name}", "guardproxy_records", [name, "seq"])
    errors = text("has_error IS 1" if connection.dialect.name == "sqlite" else "has_error IS true")
    operations.create_index(
        "guardproxy_records_errors", "guardproxy_records", ["seq"], sqlite_where=errors, postgresql_where=errors
    )


_NEW = (
    *("client", "end_user", "session", "wire", "answered_model", "has_error", "complete", "sampled", "exclusion"),
    *("unsafe", "low_scores"),
)


def _fill(connection: Connection) -> None:
    """Fill the new columns and tables from the contents of the records."""
    rows = table("guardproxy_records", column("seq"), column("kind"), column("content"), *map(column, _NEW))
    score_rows = table("guardproxy_scores", *map(column, ("category", "seq", "probability", "reached")))
    change = update(rows).where(rows.c.seq == bindparam("row"))
    held = (rows.c.kind == "record") & rows.c.content.is_not(None)
    after = 0
    while True:
        query = select(rows.c.seq, rows.c.content).where(held, rows.c.seq > after).order_by(rows.c.seq).limit(_READ)
        part = connection.execute(query).all()
        if not part:
            return
        after = part[-1].seq
        values, probabilities, texts = [], [], []
        for seq, content in part:
            try:
                record = from_json(content)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                # `verify` reports the row. It must not prevent the start.
                _log.error("audit_row_unreadable", row=seq, error=type(error).__name__)
                continue
            searched, scored = search_values(record)
            values.append({"row": seq, **{name: searched[name] for name in _NEW}})
            probabilities += [
                {"category": category, "seq": seq, "probability": probability, "reached": reached}
                for category, (probability, reached) in scored.items()
            ]
            texts += text_rows(seq, record.text, connection.dialect.name)
        if values:
            connection.execute(change.values({name: bindparam(name) for name in _NEW}), values)
        if probabilities:
            connection.execute(insert(score_rows), probabilities)
        add_texts(connection, texts)


def _blocks(operations: Operations) -> None:
    """From 2 to 3: the times of blocks of rows, and indices of what is counted, of shadow policies, of scores."""
    operations.create_table(
        "guardproxy_blocks",
        Column("block", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
        Column("earliest", Float(53), nullable=False),
        Column("latest", Float(53), nullable=False),
    )
    operations.execute(
        "INSERT INTO guardproxy_blocks (block, earliest, latest) SELECT seq / 1024, min(time), max(time) "
        "FROM guardproxy_records WHERE time IS NOT NULL GROUP BY seq / 1024"
    )
    counted = [
        *("time", "action", "side", "policy", "route", "client", "model", "cause", "shadow", "has_error", "latency_s"),
        *("unsafe", "wire", "sampled", "complete"),
    ]
    sqlite = operations.get_bind().dialect.name == "sqlite"
    name = "guardproxy_records_counted"
    if sqlite:  # an entry of an index in PostgreSQL has no room for so many names
        counted += ["end_user", "answered_model", "exclusion"]
        name = "guardproxy_records_counted_names"
    shadow = text("shadow IS 1" if sqlite else "shadow IS true")
    operations.create_index(
        "guardproxy_records_shadow", "guardproxy_records", ["seq"], sqlite_where=shadow, postgresql_where=shadow
    )
    operations.create_index(name, "guardproxy_records", ["seq", *counted])


def _same_texts(operations: Operations) -> None:
    """From 3 to 4: keys of records with the same text, the texts of exclusions, changes of policies."""
    operations.create_table(
        "guardproxy_policy_changes",
        Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
        Column("time", Float(53), nullable=False),
    )
    operations.add_column("guardproxy_records", Column("same_key", String(40)))
    connection = operations.get_bind()
    _exclusions(operations, connection)
    names = ("seq", "kind", "content", "sealed_text", "same_key")
    rows = table("guardproxy_records", *map(column, names))
    change = update(rows).where(rows.c.seq == bindparam("row")).values(same_key=bindparam("key"))
    held = (rows.c.kind == "record") & rows.c.content.is_not(None)
    parts: tuple[Any, ...] = (rows.c.seq, rows.c.content, rows.c.sealed_text)
    after = 0
    while part := connection.execute(
        select(*parts).where(held, rows.c.seq > after).order_by(rows.c.seq).limit(_READ)
    ).all():
        after = part[-1].seq
        keys = [{"row": row.seq, "key": key} for row in part if (key := _same_key(row)) is not None]
        if keys:
            connection.execute(change, keys)
    held_key = text("same_key IS NOT NULL")
    operations.create_index(
        "guardproxy_records_same",
        "guardproxy_records",
        ["same_key", "seq"],
        sqlite_where=held_key,
        postgresql_where=held_key,
    )
    reached = text("reached IS 1" if connection.dialect.name == "sqlite" else "reached IS true")
    columns = ["seq", "category"]
    operations.create_index(
        "guardproxy_scores_reached", "guardproxy_scores", columns, sqlite_where=reached, postgresql_where=reached
    )


def _exclusions(operations: Operations, connection: Connection) -> None:
    """Copy the text and the record of every exclusion into its table."""
    for name in ("text", "record"):
        operations.add_column("guardproxy_exclusions", Column(name, String))
    copies = table("guardproxy_exclusions", *map(column, ("seq", "text", "record")))
    rows = table("guardproxy_records", *map(column, ("seq", "content")))
    change = update(copies).where(copies.c.seq == bindparam("row"))
    for seq, content in connection.execute(
        select(rows.c.seq, rows.c.content).join(copies, copies.c.seq == rows.c.seq)
    ).all():
        try:
            exclusion = read_exclusion(content)
        except (ValueError, TypeError, AttributeError) as error:
            _log.error("audit_row_unreadable", row=seq, error=type(error).__name__)
            continue
        if exclusion:
            values = exclusion_values(exclusion)
            connection.execute(change.values(text=values["text"], record=values["record"]), {"row": seq})
    for name in ("text", "record"):
        operations.create_index(f"guardproxy_exclusions_{name}", "guardproxy_exclusions", [name])


def _same_key(row: Any) -> str | None:
    """The key of a row; None if its text is encrypted or the row cannot be read, which `verify` reports."""
    if row.sealed_text and is_encrypted(row.sealed_text):
        return None
    try:
        return same_key(read_record(row.content, Parts(row.sealed_text)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.error("audit_row_unreadable", row=row.seq, error=type(error).__name__)
        return None


def _opinions(operations: Operations) -> None:
    """From 4 to 5: second opinions."""
    operations.create_table(
        "guardproxy_opinions",
        Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
        Column("record", String, nullable=False),
        Index("guardproxy_opinions_record", "record", "seq"),
    )


_STEPS: Mapping[int, Callable[[Operations], None]] = {
    1: _search_and_labels,
    2: _blocks,
    3: _same_texts,
    4: _opinions,
}
