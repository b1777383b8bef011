"""Queries of the store: filters and counts."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database.schema import categories, records, search_key
from guardproxy.types import ActionName, Record, Side

Counts = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects the records that match every field that is set.

    `since` (included) and `until` (excluded) are seconds since the epoch. `category` selects records in which that
    category reached a threshold.
    """

    since: float | None = None
    until: float | None = None
    side: Side | None = None
    action: ActionName | None = None
    category: str | None = None
    route: str | None = None
    request_id: str | None = None
    model: str | None = None
    policy: str | None = None


EVERY = Filter()


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record with its number in the store, counted from 1, and its hash in the chain."""

    seq: int
    hash: str
    record: Record


@dataclass(frozen=True, slots=True)
class AuditStats:
    """Counts of records: `sides`, `categories` and `routes` by action, and `shadow`: decisions of shadow policies.

    All other fields leave records of shadow policies out. `first` and `last` are seconds since the epoch; `latency_s`
    is the 50th percentile, the 95th percentile and the maximum of the time that judging took, in seconds.
    """

    total: int = 0
    first: float | None = None
    last: float | None = None
    sides: Counts = field(default_factory=dict)
    categories: Counts = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)
    routes: Counts = field(default_factory=dict)
    shadow: Counts = field(default_factory=dict)
    latency_s: tuple[float, float, float] = (0.0, 0.0, 0.0)


def conditions(chosen: Filter) -> list[ColumnElement[bool]]:
    """Return the filter as SQL conditions on rows that hold a record."""
    row = records.c
    clauses: list[ColumnElement[bool]] = [row.kind == "record", row.content.is_not(None)]
    if chosen.since is not None:
        clauses.append(row.time >= chosen.since)
    if chosen.until is not None:
        clauses.append(row.time < chosen.until)
    if chosen.category is not None:
        clauses.append(
            row.seq.in_(select(categories.c.seq).where(categories.c.category == search_key(chosen.category)))
        )
    for name in ("side", "action", "route", "request_id", "model", "policy"):
        value: str | None = getattr(chosen, name)
        if value is not None:
            clauses.append(row[name] == search_key(value))
    return clauses


async def count_records(connection: AsyncConnection, chosen: Filter) -> AuditStats:
    """Count the records that match."""
    row = records.c
    acting = [*conditions(chosen), row.shadow.is_(False)]
    total, first, last, longest = (
        await connection.execute(
            select(func.count(), func.min(row.time), func.max(row.time), func.max(row.latency_s)).where(*acting)
        )
    ).one()
    by_category = (
        select(categories.c.category, row.action, func.count())
        .join(records, row.seq == categories.c.seq)
        .where(*acting)
        .group_by(categories.c.category, row.action)
    )
    causes = select(row.cause, func.count()).where(*acting).group_by(row.cause)
    return AuditStats(
        total=total,
        first=first,
        last=last,
        sides=await _table(connection, _count_by(row.side, acting)),
        categories=await _table(connection, by_category),
        causes=dict((await connection.execute(causes)).tuples().all()),
        routes=await _table(connection, _count_by(row.route, acting)),
        shadow=await _table(connection, _count_by(row.side, [*conditions(chosen), row.shadow.is_(True)])),
        latency_s=(
            await _latency(connection, acting, total // 2),
            await _latency(connection, acting, total * 95 // 100),
            longest or 0.0,
        ),
    )


def _count_by(column: ColumnElement[str], where: list[ColumnElement[bool]]) -> Select[Any]:
    action = records.c.action
    return select(column, action, func.count()).where(*where).group_by(column, action)


async def _table(connection: AsyncConnection, query: Select[Any]) -> Counts:
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, action, count in (await connection.execute(query)).all():
        counts[name][action] = count
    return dict(sorted(counts.items()))


async def _latency(connection: AsyncConnection, where: list[ColumnElement[bool]], rank: int) -> float:
    latency = records.c.latency_s
    query = select(latency).where(*where).order_by(latency).offset(rank).limit(1)
    return float((await connection.execute(query)).scalar() or 0.0)
