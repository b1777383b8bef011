"""Which index SQLite reads for a filter with several conditions: it keeps no statistics, so the store counts first."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database.filters import EVERY, Filter
from guardproxy.sinks.database.queries import NAMED, searched
from guardproxy.sinks.database.schema import INDEXED, records
from guardproxy.sinks.database.times import numbers_within

NO_INDEX = ""  # all rows are read in their order, from the index of what is counted
_FEW = 30_000  # a search of so many rows by their numbers takes as long as reading some 300,000 in their order


async def narrowest(connection: AsyncConnection, chosen: Filter, few: int = _FEW) -> str | None:
    """Return the field of the filter whose value the fewest records have, `NO_INDEX` if these are many.

    None if there is nothing to choose: the filter has a single condition or a text, or the database chooses itself.
    """
    named = [name for name in NAMED if getattr(chosen, name) is not None and NAMED[name].name in INDEXED]
    conditions = sum(getattr(chosen, name) != getattr(EVERY, name) for name in Filter.__dataclass_fields__)
    if connection.dialect.name != "sqlite" or chosen.text is not None or not named or conditions < 2:
        return None
    if chosen.since is not None or chosen.until is not None:
        first, last = await numbers_within(connection, chosen.since, chosen.until)
        if last - first < 10 * few:
            return NO_INDEX
    counts: dict[str, int] = {}
    for name in named:
        some = select(records.c.seq).where(NAMED[name].in_(searched(name, getattr(chosen, name)))).limit(few)
        counts[name] = int((await connection.execute(select(func.count()).select_from(some.subquery()))).scalar_one())
    least = min(counts, key=counts.__getitem__)
    return least if counts[least] < few else NO_INDEX
