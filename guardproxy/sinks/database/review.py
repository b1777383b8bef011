"""What reviewers need of the store beside its records: bounded counts, and claims on records that somebody looks at."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Float,
    FromClause,
    MetaData,
    Select,
    String,
    Subquery,
    Table,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database.filters import EVERY, Filter
from guardproxy.sinks.database.keys import opened_parts
from guardproxy.sinks.database.labels import in_force
from guardproxy.sinks.database.queries import Counts, check_names, first_records, unmatched
from guardproxy.sinks.database.schema import labels, records, scores, search_key
from guardproxy.sinks.database.sealed import record_fields
from guardproxy.sinks.database.store import AuditStore

# Claims are no part of the chain: they last minutes, and nobody needs to prove them.
_metadata = MetaData()
_claims = Table(
    "guardproxy_claims",
    _metadata,
    Column("record", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("until", Float(53), nullable=False),
)

# The columns that are counted in one pass, by the keys of the filters that select their values.
_COLUMNS = {
    **{name: name for name in ("action", "side", "policy", "route", "client", "model", "wire", "cause")},
    **{name: name for name in ("sampled", "complete")},
    "user": "end_user",
    "answered-model": "answered_model",
    "exclusion": "excluded",
}
_EXCLUDED = case((records.c.exclusion != "", "any"), else_="none").label("excluded")
FACETS = (
    *("action", "side", "category", "label", "reviewer", "policy", "route", "user", "client", "model"),
    *("answered-model", "wire", "sampled", "complete", "exclusion", "cause"),
)
TREND_FIELDS = ("category", "client", "route", "model", "policy", "side")
Trends = Mapping[str, Mapping[float, Mapping[str, int]]]


@dataclass(frozen=True, slots=True)
class Facets:
    """Counts of the newest `counted` records that match, by facet, value and action.

    `capped`: more records match than were counted. `first` is the time of the oldest of the counted ones.
    """

    counted: int = 0
    capped: bool = False
    first: float | None = None
    last: float | None = None
    by: Mapping[str, Counts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Period:
    """The records of one period that begins at `start`, in seconds since the epoch.

    `actions` counts by action, `categories` the records in which a category reached a threshold; `errors` counts
    records with an error. `latency_s` holds the 50th and the 95th percentile of the seconds that judging took.
    """

    start: float
    actions: Mapping[str, int]
    categories: Mapping[str, int]
    errors: int
    latency_s: tuple[float, float]


class ReviewStore(AuditStore):
    """The audit store with the queries of the reviewer's page. Every count looks at a bounded number of records."""

    async def facets(self, chosen: Filter = EVERY, newest: int = 10_000) -> Facets:
        """Count the newest records that match, by every facet."""
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            which = self._newest(chosen, newest)
            columns = [which.c[name] for name in _COLUMNS.values()]
            query = select(*columns, func.count(), func.min(which.c.time), func.max(which.c.time)).group_by(*columns)
            groups = (await connection.execute(query)).all()
            by = _by_column(groups)
            by["category"] = _sorted((await connection.execute(_categories(which))).tuples().all())
            labelled = (await connection.execute(_labels(which, labels.c.kind))).tuples().all()
            by["reviewer"] = _sorted((await connection.execute(_labels(which, labels.c.person))).tuples().all())
            with_any = dict((await connection.execute(_labelled(which))).tuples().all())
            none = [("none", action, sum(n.values()) - with_any.get(action, 0)) for action, n in by["action"].items()]
            by["label"] = _sorted([*labelled, *(row for row in none if row[2])])
        times = [moment for group in groups for moment in group[-2:]]
        counted = sum(group[-3] for group in groups)
        return Facets(counted, counted == newest, min(times, default=None), max(times, default=None), by)

    async def unmatched(self, chosen: Filter) -> list[str]:
        """Say of every name in the filter that no record has, in a sentence: why the filter finds nothing."""
        async with self._database.reading() as connection:
            return await unmatched(connection, chosen)

    async def periods(self, chosen: Filter, length_s: float, newest: int = 100_000) -> list[Period]:
        """Count the newest records that match by periods of `length_s` seconds, oldest first, without empty ones."""
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            which = self._newest(chosen, newest, length_s)
            bucket = which.c.bucket
            actions = await _grouped(
                connection, select(bucket, which.c.action, func.count()).group_by(bucket, which.c.action)
            )
            named = select(bucket, scores.c.category, func.count()).join(scores, scores.c.seq == which.c.seq)
            found = await _grouped(
                connection, named.where(scores.c.reached.is_(True)).group_by(bucket, scores.c.category)
            )
            failed = select(bucket, literal("error"), func.count()).where(which.c.has_error.is_(True))
            errors = await _grouped(connection, failed.group_by(bucket))
            latency = await _percentiles(connection, which)
        return [
            Period(number * length_s, counts, found[number], errors[number].get("error", 0), latency[number])
            for number, counts in sorted(actions.items())
        ]

    async def trends(self, chosen: Filter, length_s: float, by: str, newest: int = 100_000) -> Trends:
        """Count the newest records that match by value of `by`, one of `TREND_FIELDS`, and by period and action.

        `category` counts a record for every category that reached a threshold. Periods are as in `periods`, by their
        start; a value without a name is left out.
        """
        async with self._database.reading() as connection:
            await check_names(connection, chosen)
            which = self._newest(chosen, newest, length_s)
            rows: FromClause = which
            value, where = (scores.c.category, [scores.c.reached.is_(True)]) if by == "category" else (which.c[by], [])
            if by == "category":
                rows = which.join(scores, scores.c.seq == which.c.seq)
            keys = (value, which.c.bucket, which.c.action)
            query = select(*keys, func.count()).select_from(rows).where(*where).group_by(*keys)
            found: defaultdict[str, defaultdict[float, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
            for name, bucket, action, count in (await connection.execute(query)).all():
                if name:
                    found[name][bucket * length_s][action] = count
        return found

    async def recent(self, chosen: Filter, newest: int) -> list[tuple[int, dict[str, Any]]]:
        """Return number and fields (`shared.to_dict`) of the newest records that match, newest first."""
        found: list[tuple[int, dict[str, Any]]] = []
        before: int | None = None
        while len(found) < newest:
            where = [] if before is None else [records.c.seq < before]
            columns = (records.c.seq, records.c.content, records.c.sealed_text, records.c.sealed_quotes)
            limit = min(500, newest - len(found))
            which = first_records(chosen, self._dialect, (), *where, limit=limit).subquery()
            query = select(*columns).where(records.c.seq.in_(select(which.c.seq))).order_by(records.c.seq.desc())
            async with self._database.reading() as connection:
                await check_names(connection, chosen)
                part = (await connection.execute(query)).all()
            if not part:
                break
            found += [(row.seq, record_fields(row.content, opened_parts(row, self._cipher))) for row in part]
            before = part[-1].seq
        return found

    def _newest(self, chosen: Filter, newest: int, length_s: float | None = None) -> Subquery:
        row = records.c
        columns: list[Any] = [
            *(row[name] for name in ("time", "has_error", "latency_s")),
            *(row[name] for name in _COLUMNS.values() if name in row),
            _EXCLUDED,
        ]
        if length_s is not None:
            number = func.floor(row.time / literal(length_s, DOUBLE_PRECISION))
            columns.append(cast(number, Float(53)).label("bucket"))
        return first_records(chosen, self._dialect, columns, limit=newest).subquery()

    # --- claims ------------------------------------------------------------------------------------------------------

    async def claim(self, ids: Sequence[str], holder: str, seconds: float) -> str | None:
        """Claim the first of these records that nobody else holds, for some seconds; return its id, None without one.

        What the holder held before is released.
        """
        now = time.time()
        keys = {search_key(name): name for name in ids}
        async with self._database.writing() as connection:
            await connection.run_sync(_metadata.create_all)
            await connection.execute(delete(_claims).where(or_(_claims.c.until < now, _claims.c.holder == holder)))
            held = set(await connection.scalars(select(_claims.c.record).where(_claims.c.record.in_(keys))))
            free = next((key for key in keys if key not in held), None)
            if free is None:
                return None
            await connection.execute(insert(_claims), {"record": free, "holder": holder, "until": now + seconds})
        return keys[free]

    async def release(self, holder: str) -> None:
        """Give back what the holder holds."""
        async with self._database.writing() as connection:
            await connection.run_sync(_metadata.create_all)
            await connection.execute(delete(_claims).where(_claims.c.holder == holder))


def _by_column(groups: Sequence[Any]) -> dict[str, Counts]:
    """The counts of each column, from those of every combination of values."""
    at = list(_COLUMNS).index("action")
    return {
        name: _sorted((_named(group[index]), group[at], group[len(_COLUMNS)]) for group in groups)
        for index, name in enumerate(_COLUMNS)
    }


def _named(value: str | bool) -> str:
    """A value of a column as the filter of its facet has it."""
    return value if isinstance(value, str) else str(value).lower()


def _sorted(rows: Iterable[tuple[str, str, int]]) -> Counts:
    """Counts by value and action, the most frequent value first."""
    counts: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for value, action, count in rows:
        counts[value][action] += count
    ranked = sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return {value: dict(actions) for value, actions in ranked}


def _categories(which: Subquery) -> Select[Any]:
    query = select(scores.c.category, which.c.action, func.count()).join(scores, scores.c.seq == which.c.seq)
    return query.where(scores.c.reached.is_(True)).group_by(scores.c.category, which.c.action)


def _labels(which: Subquery, column: ColumnElement[str]) -> Select[Any]:
    given = in_force(labels.c.record, column.label("value")).distinct().subquery()
    joined = select(given.c.value, records.c.action, func.count()).join(records, records.c.id == given.c.record)
    return joined.where(_is_in(which)).group_by(given.c.value, records.c.action)


def _labelled(which: Subquery) -> Select[Any]:
    """The records with a label by action: labels are few, so they are what is read."""
    given = in_force(labels.c.record).distinct().subquery()
    joined = select(records.c.action, func.count()).join(given, records.c.id == given.c.record)
    return joined.where(_is_in(which)).group_by(records.c.action)


def _is_in(which: Subquery) -> ColumnElement[bool]:
    # The sum makes SQLite test each labelled record, instead of looking for a label of each record.
    return (records.c.seq + 0).in_(select(which.c.seq))


async def _grouped(connection: AsyncConnection, query: Select[Any]) -> defaultdict[float, dict[str, int]]:
    found: defaultdict[float, dict[str, int]] = defaultdict(dict)
    for bucket, name, count in (await connection.execute(query)).all():
        found[bucket][name] = count
    return found


async def _percentiles(connection: AsyncConnection, which: Subquery) -> dict[float, tuple[float, float]]:
    rank = func.cume_dist().over(partition_by=which.c.bucket, order_by=which.c.latency_s).label("rank")
    ranked = select(which.c.bucket, which.c.latency_s, rank).subquery()
    found: dict[float, list[float]] = {}
    for share in (0.5, 0.95):
        query = select(ranked.c.bucket, func.min(ranked.c.latency_s)).where(ranked.c.rank >= share)
        for bucket, seconds in (await connection.execute(query.group_by(ranked.c.bucket))).all():
            found.setdefault(bucket, []).append(seconds)
    return {bucket: (both[0], both[1]) for bucket, both in found.items()}
