"""Which records counts look at: the newest that match, or a sample of those of a time. What is left out is stated.

The time of a count grows with the rows that it looks at. Both selections bound them, and say by how much
(`Facets.looked_at`, `CountSample`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import CompoundSelect

from guardproxy.sinks.database.filters import Filter
from guardproxy.sinks.database.finding import first_records, nth_with, sampled_conditions
from guardproxy.sinks.database.listed import listed
from guardproxy.sinks.database.narrowing import narrowest
from guardproxy.sinks.database.schema import FROM_COUNTED, SCORE_FLOOR, records
from guardproxy.sinks.database.times import numbers_within

_EXACT = 5_000  # so many records of a time are counted without a sample
_STRATUM = 2_500  # the most records of each part of a sample, about
_LOOKED_AT = 100_000  # the newest rows that are searched for probabilities without an index
_STEP = 2_654_435_761  # odd, and 2**32 times the golden ratio: its multiples are spread evenly
_RANGE = 2**32
_STOPS = ("flag", "rewrite", "block")


@dataclass(frozen=True, slots=True)
class CountSample:
    """Of how many records one was counted, for `passed` ones without an error and for all `others`. 1 is every one."""

    passed: int = 1
    others: int = 1

    @property
    def exact(self) -> bool:
        """Whether every record was counted."""
        return self.passed == self.others == 1


EXACTLY = CountSample()


async def lowest_number(connection: AsyncConnection, chosen: Filter, newest: int) -> tuple[int | None, int | None]:
    """Return the lowest row number that a count of the newest records looks at, and how many of the newest these are.

    Both are None if no index of another filter is needed to find the records: then all that match are found. With a
    text, in SQLite, the `newest` records that have the text are looked at; with a bound on probabilities that no index
    serves, the newest rows.
    """
    if chosen.text is not None and connection.dialect.name == "sqlite":
        lowest = (await connection.execute(nth_with(chosen, chosen.text, newest))).scalar()
        return (None, None) if lowest is None else (int(lowest), newest)
    low = any(name == "unsafe" or least < SCORE_FLOOR for name, least in chosen.min_score)
    if not chosen.max_score and not low:
        return None, None
    first, last = await numbers_within(connection, chosen.since, chosen.until)
    return (None, None) if last - first < _LOOKED_AT else (last - _LOOKED_AT + 1, _LOOKED_AT)


async def sample_of(
    connection: AsyncConnection, chosen: Filter, exact: int = _EXACT, stratum: int = _STRATUM
) -> CountSample:
    """Return the sample of the records that match: all of at most `exact` ones, else about `stratum` of each part."""
    narrow = await narrowest(connection, chosen)
    some = first_records(chosen, connection.dialect.name, limit=exact + 1, narrowest=narrow).subquery()
    if (await connection.execute(select(func.count()).select_from(some))).scalar_one() <= exact:
        return EXACTLY
    first, last = await numbers_within(connection, chosen.since, chosen.until)
    others = select(func.count()).where(records.c.action.in_(_STOPS), records.c.seq.between(first, last))
    count = int((await connection.execute(others)).scalar_one())
    return CountSample(max(-(-(last - first + 1) // stratum), 1), max(-(-count // stratum), 1))


async def sampled(
    connection: AsyncConnection, chosen: Filter, sample: CountSample, columns: Sequence[ColumnElement[Any]]
) -> Select[Any] | CompoundSelect[Any]:
    """Select number, `columns` and `weight` of the records of a sample; a record stands for `weight` records.

    What passed is many and alike. All else is counted in full as long as it is not many records, because it is what
    somebody looks for: decisions other than to pass, and errors.
    """
    dialect = connection.dialect.name
    if sample.exact:
        return await newest_records(connection, chosen, [*columns, literal(1).label("weight")])
    first, last = await numbers_within(connection, chosen.since, chosen.until)
    numbers = listed(dialect, _spread(first, last, sample.passed))
    other = records.alias()
    among = (other.c.seq.between(first, last), *([] if sample.others == 1 else [_one_in(sample.others, other.c.seq)]))
    failed = other.c.has_error.is_(True)
    seq, passed = records.c.seq, records.c.action.not_in(_STOPS)
    parts: list[tuple[int, list[ColumnElement[bool]]]] = [
        (sample.passed, [passed, records.c.has_error.is_not(True), seq.in_(numbers)]),
        (sample.others, [seq.in_(select(other.c.seq).where(other.c.action.in_(_STOPS), *among))]),
        (sample.others, [passed, seq.in_(select(other.c.seq).where(failed, *among))]),
    ]
    every = sampled_conditions(chosen, dialect)
    return union_all(
        *(
            select(seq, *columns, literal(weight).label("weight")).where(*where, *every).with_hint(*FROM_COUNTED)
            for weight, where in parts
        )
    )


async def newest_records(
    connection: AsyncConnection,
    chosen: Filter,
    columns: Sequence[ColumnElement[Any]],
    limit: int | None = None,
    lowest: int | None = None,
) -> Select[Any]:
    """Select number and `columns`, which are counted ones, of the newest records that match, as `first_records`."""
    dialect, narrow = connection.dialect.name, await narrowest(connection, chosen)
    if narrow is None or dialect != "sqlite":
        return first_records(chosen, dialect, columns, limit=limit, lowest=lowest)
    found = first_records(chosen, dialect, limit=limit, lowest=lowest, narrowest=narrow).subquery()
    query = select(records.c.seq, *columns).where(records.c.seq.in_(select(found.c.seq)))
    return query.with_hint(*FROM_COUNTED)


def _spread(first: int, last: int, step: int) -> list[int]:
    """One row number of every `step` ones, at a place that changes: turns and replies alternate in a store."""
    return [start + (start * _STEP % _RANGE * step // _RANGE) for start in range(first, last + 1, step)]


def _one_in(step: int, seq: ColumnElement[int]) -> ColumnElement[bool]:
    return seq % 2**20 * _STEP % _RANGE < _RANGE // step
