"""Counts of a selection of records, each in one statement that reads the records once."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Float,
    Select,
    String,
    case,
    cast,
    func,
    literal,
    null,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import CompoundSelect

from guardproxy.sinks.database.labels import in_force
from guardproxy.sinks.database.queries import Counts
from guardproxy.sinks.database.schema import REACHED, labels, records, scores
from guardproxy.sinks.database.selections import EXACTLY, CountSample

# The columns that are counted, by the keys of the filters that select their values.
_COLUMNS = {
    **{name: name for name in ("action", "side", "policy", "route", "client", "model", "wire", "cause")},
    **{name: name for name in ("sampled", "complete", "exclusion")},
    "user": "end_user",
    "answered-model": "answered_model",
}
FACETS = (
    *("action", "side", "category", "label", "reviewer", "policy", "route", "user", "client", "model"),
    *("answered-model", "wire", "sampled", "complete", "exclusion", "cause"),
)
_STATES = ("sampled", "complete")  # columns that are true or false
TREND_FIELDS = ("category", "client", "route", "model", "policy", "side")
Trends = Mapping[str, Mapping[float, Mapping[str, int]]]
Selection = Select[Any] | CompoundSelect[Any]


@dataclass(frozen=True, slots=True)
class Facets:
    """Counts of records that match, by facet, value and action: of the newest `counted` ones, or by a sample.

    `capped`: more records match than were counted. `looked_at`: only so many of the newest records were looked at for
    those that match, of those that have its words if `with_text`; None if all were. `first` is the time of the oldest
    counted one. Counts of a sample are estimates of how many there are.
    """

    counted: int = 0
    capped: bool = False
    first: float | None = None
    last: float | None = None
    by: Mapping[str, Counts] = field(default_factory=dict)
    looked_at: int | None = None
    with_text: bool = False
    sample: CountSample = EXACTLY


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


def facet_columns() -> list[ColumnElement[Any]]:
    """The columns that a selection needs for `count_facets`, with the values that the filters of the facets take."""
    row = records.c
    states = [case((row[name].is_(True), "true"), (row[name].is_(False), "false")) for name in _STATES]
    excluded = case((row.exclusion != "", "any"), (row.exclusion == "", "none")).label("exclusion")
    plain = [row[name] for name in _COLUMNS.values() if name not in (*_STATES, "exclusion")]
    return [row.time, *plain, *(state.label(name) for name, state in zip(_STATES, states, strict=True)), excluded]


def period_columns(length_s: float) -> list[ColumnElement[Any]]:
    """The columns that a selection needs for counts by periods of so many seconds; `bucket` numbers the period."""
    row = records.c
    number = func.floor(row.time / literal(length_s, DOUBLE_PRECISION))
    fields = [row[name] for name in TREND_FIELDS if name != "category"]
    return [row.action, *fields, row.has_error, row.latency_s, cast(number, Float(53)).label("bucket")]


async def count_facets(connection: AsyncConnection, selection: Selection) -> Facets:
    """Count by every facet."""
    which = _read_once(selection)
    given = in_force(labels.c.record, labels.c.kind, labels.c.person).subquery()
    # Labels are few, so they are what is read.
    joined = select(given.c.kind, given.c.person, given.c.record, which.c.action, which.c.weight).select_from(given)
    labelled = _materialized(
        joined.join(records, records.c.id == given.c.record).join(which, which.c.seq == records.c.seq), "labelled"
    )
    one = (labelled.c.record, labelled.c.action, labelled.c.weight)
    kinds, each = select(labelled.c.kind, *one).distinct().subquery(), select(*one).distinct().subquery()
    nothing = cast(null(), Float(53))
    times = (func.min(which.c.time), func.max(which.c.time))
    query = union_all(
        *(
            _counted(name, which.c[column], which, *times).group_by(which.c[column], which.c.action)
            for name, column in _COLUMNS.items()
        ),
        _with_scores(_counted("category", scores.c.category, which, nothing, nothing), which).group_by(
            scores.c.category, which.c.action
        ),
        _counted("label", kinds.c.kind, kinds, nothing, nothing).group_by(kinds.c.kind, kinds.c.action),
        _counted("reviewer", labelled.c.person, labelled, nothing, nothing).group_by(
            labelled.c.person, labelled.c.action
        ),
        _counted("labelled", literal("", String), each, nothing, nothing).group_by(each.c.action),
    )
    rows = (await connection.execute(query)).all()
    found: defaultdict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for facet, value, action, count, *_ in rows:
        if value is not None:
            found[facet].append((value, action, int(count)))
    with_any = {action: count for _, action, count in found.pop("labelled", [])}
    by = {name: _sorted(found[name]) for name in FACETS}
    none = [("none", action, sum(n.values()) - with_any.get(action, 0)) for action, n in by["action"].items()]
    by["label"] = _sorted([*found["label"], *(row for row in none if row[2])])
    own = [row for row in rows if row[0] == "action"]
    first, last = min((row[4] for row in own), default=None), max((row[5] for row in own), default=None)
    return Facets(sum(int(row[3]) for row in own), first=first, last=last, by=by)


async def count_periods(connection: AsyncConnection, selection: Selection, length_s: float) -> list[Period]:
    """Count by periods of `length_s` seconds, oldest first, without empty ones."""
    which = _read_once(selection)
    bucket, weight, nothing = which.c.bucket, which.c.weight, literal("", String)
    none = cast(null(), Float(53))

    def counts(what: str, name: ColumnElement[Any]) -> Select[Any]:
        query = select(literal(what, String), bucket, name, func.sum(weight), none).select_from(which)
        return query.group_by(bucket) if name is nothing else query.group_by(bucket, name)

    query = union_all(
        counts("action", which.c.action),
        _with_scores(counts("category", scores.c.category), which),
        counts("error", nothing).where(which.c.has_error.is_(True)),
        select(literal("latency", String), bucket, nothing, weight, which.c.latency_s).select_from(which),
    )
    found: defaultdict[float, defaultdict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    latency: defaultdict[float, list[tuple[float, int]]] = defaultdict(list)
    for what, number, name, count, seconds in (await connection.execute(query)).all():
        if what == "latency":
            latency[number].append((seconds, count))
        elif name is not None:
            found[number][what][name] = int(count)
    return [
        Period(
            number * length_s, one["action"], one["category"], one["error"].get("", 0), _percentiles(latency[number])
        )
        for number, one in sorted(found.items())
    ]


async def count_trends(connection: AsyncConnection, selection: Selection, length_s: float, by: str) -> Trends:
    """Count by value of `by`, one of `TREND_FIELDS`, and by period and action."""
    which = _read_once(selection)
    value: ColumnElement[str] = scores.c.category if by == "category" else which.c[by]
    if by == "category":
        query = _with_scores(select(value, which.c.bucket, which.c.action, func.sum(which.c.weight)), which)
    else:
        query = select(value, which.c.bucket, which.c.action, func.sum(which.c.weight))
    found: defaultdict[str, defaultdict[float, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    grouped = query.group_by(value, which.c.bucket, which.c.action)
    for name, bucket, action, count in (await connection.execute(grouped)).all():
        if name:
            found[name][bucket * length_s][action] = int(count)
    return found


def _read_once(selection: Selection) -> CTE:
    return _materialized(selection, "chosen")


def _materialized(query: Selection, name: str) -> CTE:
    """Name a query whose rows are computed once, whatever reads them."""
    return query.cte(name).prefix_with("MATERIALIZED")


def _counted(facet: str, value: ColumnElement[Any], rows: Any, *more: ColumnElement[Any]) -> Select[Any]:
    counts = func.sum(rows.c.weight)
    return select(literal(facet, String), cast(value, String), rows.c.action, counts, *more).select_from(rows)


def _with_scores(query: Select[Any], which: CTE) -> Select[Any]:
    """Join the categories that reached a threshold. A record without one has a row whose category is NULL."""
    # An inner join makes SQLite read the scores of the whole store for a few records.
    return query.select_from(which.outerjoin(scores, (scores.c.seq == which.c.seq) & REACHED))


def _sorted(rows: Iterable[tuple[str, str, int]]) -> Counts:
    """Counts by value and action, the most frequent value first."""
    counts: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for value, action, count in rows:
        counts[value][action] += count
    ranked = sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return {value: dict(actions) for value, actions in ranked}


def _percentiles(latency: list[tuple[float, int]]) -> tuple[float, float]:
    """The 50th and the 95th percentile of seconds, each with its weight."""
    latency.sort()
    half, most = (sum(weight for _, weight in latency) * share / 100 for share in (50, 95))
    reached: list[float] = []
    below = 0
    for seconds, weight in latency:
        below += weight
        if len(reached) == 0 and below >= half:
            reached.append(seconds)
        if len(reached) == 1 and below >= most:
            reached.append(seconds)
            break
    return reached[0], reached[1]
