"""Find the rows of a time by their numbers.

Pages are in the order of the numbers, which is nearly that of the times: the record of a long stream comes late. For
each block of rows the store notes the earliest and the latest time. So the rows of a time lie between two numbers,
which bound what a query reads, in its own order and with any other index.
"""

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database.schema import blocks, records, store

BLOCK_ROWS = 1024

Bounds = dict[int, tuple[float, float]]  # the earliest and the latest time of the rows of a block

_NOTE = (
    "INSERT INTO guardproxy_blocks (block, earliest, latest) VALUES (:block, :earliest, :latest) "
    "ON CONFLICT (block) DO UPDATE SET earliest = {least}(guardproxy_blocks.earliest, excluded.earliest), "
    "latest = {greatest}(guardproxy_blocks.latest, excluded.latest)"
)
_NOTES = {
    "sqlite": text(_NOTE.format(least="min", greatest="max")),
    "postgresql": text(_NOTE.format(least="least", greatest="greatest")),
}


def note_times(connection: Connection, times: Iterable[tuple[int, float]]) -> None:
    """Note the times of new records, given with their numbers."""
    bounds: Bounds = {}
    for seq, time in times:
        add_time(bounds, seq, time)
    rows = [{"block": block, "earliest": first, "latest": last} for block, (first, last) in bounds.items()]
    if rows:
        connection.execute(_NOTES[connection.dialect.name], rows)


def add_time(bounds: Bounds, seq: int, time: float | None) -> None:
    """Add the time of a row to the bounds of its block; None has no time."""
    if time is not None:
        earliest, latest = bounds.get(seq // BLOCK_ROWS, (time, time))
        bounds[seq // BLOCK_ROWS] = min(earliest, time), max(latest, time)


async def forget_times(connection: AsyncConnection, numbers: Iterable[int]) -> None:
    """Note the times of what is left in the blocks of these rows, which were erased."""
    touched = sorted({number // BLOCK_ROWS for number in numbers})
    given = [{"at": block, "first": block * BLOCK_ROWS, "last": (block + 1) * BLOCK_ROWS - 1} for block in touched]
    left = records.c.seq.between(bindparam("first"), bindparam("last")) & records.c.time.is_not(None)
    here = blocks.c.block == bindparam("at")
    bounds = {
        "earliest": select(func.min(records.c.time)).where(left).scalar_subquery(),
        "latest": select(func.max(records.c.time)).where(left).scalar_subquery(),
    }
    await connection.execute(delete(blocks).where(here, ~select(records.c.seq).where(left).exists()), given)
    await connection.execute(update(blocks).where(here).values(bounds), given)


async def wrong_blocks(connection: AsyncConnection, bounds: Bounds) -> list[int]:
    """Return the blocks whose noted times are not `bounds`, those of the rows, in ascending order."""
    rows = await connection.execute(select(blocks.c.block, blocks.c.earliest, blocks.c.latest))
    noted = {row.block: (row.earliest, row.latest) for row in rows}
    return sorted(block for block in {*noted, *bounds} if noted.get(block) != bounds.get(block))


def within(since: float | None, until: float | None) -> list[ColumnElement[bool]]:
    """Return the conditions that a row has a time from `since` on and before `until`."""
    clauses = numbered(since, until, records.c.seq)
    # The sum keeps the databases from reading the index of times, after which they would sort all rows of the time.
    time = records.c.time + 0.0
    if since is not None:
        clauses.append(time >= since)
    if until is not None:
        clauses.append(time < until)
    return clauses


def numbered(since: float | None, until: float | None, number: ColumnElement[int]) -> list[ColumnElement[bool]]:
    """Return the conditions that a number is one that rows of this time may have; rows of other times have some too."""
    clauses: list[ColumnElement[bool]] = []
    if since is not None:
        first = select(func.min(blocks.c.block)).where(blocks.c.latest >= since).scalar_subquery()
        clauses.append(number >= first * BLOCK_ROWS)
    if until is not None:
        last = select(func.max(blocks.c.block)).where(blocks.c.earliest < until).scalar_subquery()
        clauses.append(number < (last + 1) * BLOCK_ROWS)
    return clauses


async def numbers_within(connection: AsyncConnection, since: float | None, until: float | None) -> tuple[int, int]:
    """Return the first and the last number that rows of this time may have; the first is the greater if there are none.

    Rows of other times lie between them as well.
    """
    first, last = 1, int((await connection.execute(select(store.c.seq))).scalar_one())
    if since is not None:
        block = select(func.min(blocks.c.block)).where(blocks.c.latest >= since)
        lowest = (await connection.execute(block)).scalar()
        first = last + 1 if lowest is None else max(first, lowest * BLOCK_ROWS)
    if until is not None:
        block = select(func.max(blocks.c.block)).where(blocks.c.earliest < until)
        highest = (await connection.execute(block)).scalar()
        last = 0 if highest is None else min(last, (highest + 1) * BLOCK_ROWS - 1)
    return first, last
