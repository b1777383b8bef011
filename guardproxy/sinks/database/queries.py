"""Queries of the store: a filter as conditions in SQL, and counts."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Float, Integer, Select, String, cast, func, literal, or_, select, true
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.plaintext import printable
from guardproxy.reviews import Label
from guardproxy.sinks.database.filters import Filter, FilterError, ScoreBound
from guardproxy.sinks.database.labels import in_force
from guardproxy.sinks.database.schema import HAS_ERROR, REACHED, SCORE_FLOOR, labels, records, scores, search_key, store
from guardproxy.sinks.database.texts import has_texts, matches
from guardproxy.sinks.database.times import within
from guardproxy.sinks.database.words import name_hash
from guardproxy.types import Record

Counts = dict[str, dict[str, int]]
CountBy = Literal[
    "client",
    "user",
    "session",
    "category",
    "policy",
    "route",
    "model",
    "side",
    "action",
    "hour",
    "day",
    "label",
    "reviewer",
]
COUNT_BY: tuple[str, ...] = get_args(CountBy)

_MOST_NAMES = 20  # that `unmatched` lists

# A quarter of an hour: every time zone begins its hours and days at one.
_BUCKET_S = 900
# Those with the fewest records of a value first, and those without an index last.
NAMED = {
    **{name: records.c[name] for name in ("request_id", "session")},
    "user": records.c.end_user,
    **{name: records.c[name] for name in ("client", "model", "route", "action", "policy")},
    **{name: records.c[name] for name in ("side", "cause", "wire", "answered_model")},
}
_HASHED = ("user", "session")  # names of which the store may keep only the hash


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record with its number in the store, counted from 1, its hash in the chain, and its labels in force.

    `text_erased`: the text of the record was erased, and is empty here.
    """

    seq: int
    hash: str
    record: Record
    labels: tuple[Label, ...] = ()
    text_erased: bool = False


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


# --- filters ---------------------------------------------------------------------------------------------------------


def conditions(chosen: Filter, dialect: str, narrowest: str | None = None) -> list[ColumnElement[bool]]:
    """Return the filter as SQL conditions on rows that hold a record. Raises FilterError for a text without a word.

    `narrowest` is the field whose index SQLite reads, as `narrowing` finds it.
    """
    row = records.c
    clauses = within(chosen.since, chosen.until)
    named = [name for name in NAMED if getattr(chosen, name) is not None]
    if not clauses and not named:  # only rows that hold a record have an action, a time, or any of the names
        clauses.append(row.action.is_not(None))
    for name in named:
        values = searched(name, getattr(chosen, name))
        if name == narrowest:
            with_it = records.alias()
            clauses.append(row.seq.in_(select(with_it.c.seq).where(with_it.c[NAMED[name].name].in_(values))))
            continue
        column: ColumnElement[str] = NAMED[name]
        # SQLite has no statistics: of several indices, it would take that of a policy that all records have.
        if dialect == "sqlite" and not narrowest and (narrowest is not None or name != named[0]):
            column = column.concat("")
        clauses.append(column.in_(values) if len(values) > 1 else column == values[0])
    if chosen.category is not None:
        clauses.append(row.seq.in_(_scored(chosen.category, REACHED)))
    clauses += [_at_least(bound, dialect) for bound in chosen.min_score]
    clauses += [_at_most(bound, dialect) for bound in chosen.max_score]
    return [*clauses, *_states(chosen), *_of_text(chosen, dialect)]


def searched(name: str, value: str) -> list[str]:
    """Return what the column of this field may hold for a value: the value, and of a person's name the hash."""
    return [search_key(value), *([name_hash(value)] if name in _HASHED and value else [])]


def _states(chosen: Filter) -> list[ColumnElement[bool]]:
    row = records.c
    clauses: list[ColumnElement[bool]] = []
    if chosen.shadow in ("only", "without"):
        clauses.append(row.shadow.is_(chosen.shadow == "only"))
    if chosen.error is not None:
        clauses.append(HAS_ERROR if chosen.error else row.has_error.is_(False))
    if chosen.sampled is not None:
        clauses.append(row.sampled.is_(chosen.sampled))
    if chosen.complete is not None:
        clauses.append(row.complete.is_(chosen.complete))
    if chosen.exclusion is not None:
        clauses.append(_excluded(chosen.exclusion))
    if chosen.label is not None or chosen.reviewer is not None:
        clauses.append(_labelled(chosen.label, chosen.reviewer))
    return clauses


def _excluded(which: str) -> ColumnElement[bool]:
    """The column holds ids with commas between them."""
    column = records.c.exclusion
    if which in ("any", "none"):
        return column != "" if which == "any" else column == ""
    return (literal(",", String) + column + ",").contains(f",{which},", autoescape=True)


def _of_text(chosen: Filter, dialect: str) -> list[ColumnElement[bool]]:
    if chosen.text is None:
        return []
    try:
        return [matches(chosen.text, dialect)]
    except ValueError as error:
        raise FilterError("text", str(error)) from None


def _scored(category: str, which: ColumnElement[bool]) -> Select[Any]:
    """The numbers of the records whose row of this category in the table of scores matches."""
    return select(scores.c.seq).where(scores.c.category == search_key(category), which)


def _at_least(bound: ScoreBound, dialect: str) -> ColumnElement[bool]:
    category, least = bound
    if category == "unsafe":
        return records.c.unsafe >= least
    scored = _scored(category, scores.c.probability >= least)
    if least >= SCORE_FLOOR:
        return records.c.seq.in_(scored)
    return or_(_low_score(category, dialect) >= least, scored.where(scores.c.seq == records.c.seq).exists())


def _at_most(bound: ScoreBound, dialect: str) -> ColumnElement[bool]:
    category, most = bound
    judged = records.c.unsafe.is_not(None)
    if category == "unsafe":
        return records.c.unsafe <= most
    higher = records.c.seq.not_in(_scored(category, scores.c.probability > most))
    if most >= SCORE_FLOOR:
        return judged & higher
    return judged & higher & (func.coalesce(_low_score(category, dialect), 0.0) <= most)


def _low_score(category: str, dialect: str) -> ColumnElement[float]:
    """A probability below SCORE_FLOOR; NULL if the verdict does not name the category, or with a higher one."""
    key = search_key(category)
    if dialect == "postgresql":
        return cast(cast(records.c.low_scores, JSONB)[key].astext, Float(53))
    if '"' not in key and "\\" not in key:  # of a path; several times as fast
        return func.json_extract(records.c.low_scores, f'$."{key}"', type_=Float(53))
    each = func.json_each(records.c.low_scores).table_valued("key", "value")
    return select(each.c.value).where(each.c.key == key).scalar_subquery()


def _with_low_score(category: str, dialect: str) -> Select[Any]:
    return select(records.c.seq).where(_low_score(category, dialect).is_not(None))


def _labelled(kind: str | None, reviewer: str | None = None) -> ColumnElement[bool]:
    """Records with a label of this kind by this reviewer; None stands for any, "none" for records without one."""
    given = in_force(labels.c.record)
    if reviewer is not None:
        given = given.where(labels.c.person == search_key(reviewer))
    if kind == "none":
        return records.c.id.not_in(given)
    return records.c.id.in_(given if kind is None else given.where(labels.c.kind == kind))


async def check_names(connection: AsyncConnection, chosen: Filter) -> None:
    """Raise FilterError if the store knows no such category, or if it holds no texts to search in."""
    if chosen.category is not None:
        await _check_category(connection, "category", chosen.category, low=False)
    for key, bounds in (("min-score", chosen.min_score), ("max-score", chosen.max_score)):
        for category, _ in bounds:
            await _check_category(connection, key, category, low=True)
    if chosen.text is None:
        return
    if (await connection.execute(select(store.c.encrypted))).scalar():
        raise FilterError("text", "the texts of the store are encrypted, and cannot be searched")
    if not await has_texts(connection):
        raise FilterError(
            "text", "the store holds no texts: write `audit.text: redacted`, full or hash in the configuration"
        )


async def _check_category(connection: AsyncConnection, key: str, category: str, *, low: bool) -> None:
    if category == "unsafe" or await _first(connection, _scored(category, true())) is not None:
        return
    if low and await _first(connection, _with_low_score(category, connection.dialect.name)):
        return
    known = sorted(await connection.scalars(select(scores.c.category).distinct()))
    if known:
        names = printable(", ".join(known))
        raise FilterError(key, f"no record in the store has the category {category!r}; it has {names}")


async def _first(connection: AsyncConnection, query: Select[Any]) -> Any:
    return (await connection.execute(query.limit(1))).scalar()


async def unmatched(connection: AsyncConnection, chosen: Filter) -> list[str]:
    """Say of every name in the filter that no record in the store has; for fields with few names, which there are."""
    found: list[str] = []
    for name, column in NAMED.items():
        value: str | None = getattr(chosen, name)
        if not value or name in ("side", "action", "cause"):
            continue
        keys = searched(name, value)
        if await _first(connection, select(records.c.seq).where(column.in_(keys))) is not None:
            continue
        nor = f", nor its hash {keys[1]}" if len(keys) > 1 else ""
        sentence = f"no record has the {name.replace('_', ' ')} {value!r}{nor}"
        if name in ("route", "policy", "wire", "model", "answered_model"):
            known = await connection.scalars(select(column).distinct().order_by(column).limit(_MOST_NAMES))
            sentence += f"; there are: {printable(', '.join(filter(None, known))) or 'none'}"
        found.append(sentence)
    return found


# --- counts ----------------------------------------------------------------------------------------------------------


async def count_records(connection: AsyncConnection, chosen: Filter) -> AuditStats:
    """Count the records that match."""
    row = records.c
    every = conditions(chosen, connection.dialect.name)
    acting = [*every, row.shadow.is_(False)]
    # One pass over the records for all counts, because they are long.
    grouped = (row.side, row.action, row.cause, row.route)
    query = select(*grouped, func.count(), func.min(row.time), func.max(row.time), func.max(row.latency_s))
    groups = (await connection.execute(query.where(*acting).group_by(*grouped))).all()
    total = sum(group[4] for group in groups)
    causes: defaultdict[str, int] = defaultdict(int)
    for group in groups:
        causes[group.cause] += group[4]
    return AuditStats(
        total=total,
        first=min((group[5] for group in groups), default=None),
        last=max((group[6] for group in groups), default=None),
        sides=_counted((group.side, group.action, group[4]) for group in groups),
        categories=await _table(connection, _by_category(acting)),
        causes=dict(causes),
        routes=_counted((group.route, group.action, group[4]) for group in groups),
        shadow=await _table(connection, _count_by(row.side, [*every, row.shadow.is_(True)])),
        latency_s=(
            await _latency(connection, acting, total // 2),
            await _latency(connection, acting, total * 95 // 100),
            max((group[7] for group in groups), default=0.0),
        ),
    )


async def count_by(connection: AsyncConnection, by: CountBy, chosen: Filter) -> Counts:
    """Count the records that match, by a column, a time in the zone of this machine, or a label, and by action.

    Without `chosen.shadow`, decisions of shadow policies are left out. A record that has several categories or labels
    counts for each of them.
    """
    where = conditions(chosen, connection.dialect.name)
    if chosen.shadow is None:
        where.append(records.c.shadow.is_(False))
    if by == "category":
        return await _table(connection, _by_category(where))
    if by in ("hour", "day"):
        return await _by_time(connection, "%Y-%m-%d %H:00" if by == "hour" else "%Y-%m-%d", where)
    if by in ("label", "reviewer"):
        return await _by_label(connection, by, where)
    return await _table(connection, _count_by(NAMED[by], where))


async def _by_label(
    connection: AsyncConnection, by: Literal["label", "reviewer"], where: list[ColumnElement[bool]]
) -> Counts:
    column = labels.c.kind if by == "label" else labels.c.person
    given = in_force(labels.c.record, column.label("value")).distinct().subquery()
    joined = select(given.c.value, records.c.action, func.count()).join(records, records.c.id == given.c.record)
    counts = await _table(connection, joined.where(*where).group_by(given.c.value, records.c.action))
    if by == "reviewer":
        return counts
    # Not as an outer join: SQLite would read all labels for every record.
    without = _count_by(literal("none", String), [*where, _labelled("none")])
    return dict(sorted({**counts, **await _table(connection, without)}.items()))


def _count_by(column: ColumnElement[Any], where: list[ColumnElement[bool]]) -> Select[Any]:
    action = records.c.action
    return select(column, action, func.count()).where(*where).group_by(column, action)


def _by_category(where: list[ColumnElement[bool]]) -> Select[Any]:
    counted = [scores.c.category, records.c.action]
    joined = select(*counted, func.count()).join(records, records.c.seq == scores.c.seq)
    return joined.where(REACHED, *where).group_by(*counted)


async def _table(connection: AsyncConnection, query: Select[Any]) -> Counts:
    return _counted((await connection.execute(query)).tuples())


def _counted(rows: Iterable[tuple[str, str, int]]) -> Counts:
    counts: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, action, count in rows:
        counts[name][action] += count
    return {name: dict(actions) for name, actions in sorted(counts.items())}


async def _by_time(connection: AsyncConnection, form: str, where: list[ColumnElement[bool]]) -> Counts:
    bucket = cast(func.floor(records.c.time / _BUCKET_S), Integer)
    found = (await connection.execute(_count_by(bucket, where))).tuples()
    return _counted((_local(number * _BUCKET_S, form), action, count) for number, action, count in found)


def _local(time: float, form: str) -> str:
    return datetime.fromtimestamp(time).astimezone().strftime(form)


async def _latency(connection: AsyncConnection, where: list[ColumnElement[bool]], rank: int) -> float:
    latency = records.c.latency_s
    query = select(latency).where(*where).order_by(latency).offset(rank).limit(1)
    return float((await connection.execute(query)).scalar() or 0.0)
