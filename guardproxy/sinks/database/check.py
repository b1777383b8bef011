"""Whether the rows are as they were written."""

from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database.chain import Head, Link, Problem, Verifier, erased_rows
from guardproxy.sinks.database.schema import SEARCHED, categories, key, records, searched, store
from guardproxy.sinks.shared import from_json

_READ = 200  # rows in one query


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found: rows read, those of them erased, the last row, and every problem, by row."""

    rows: int
    erased: int
    head: Head
    problems: tuple[Problem, ...]


async def verified(connection: AsyncConnection, expected: Head | None) -> Verification:
    """Read every row, and look for `expected` among them unless it is None."""
    verifier = Verifier()
    found: list[Problem] = []
    noted = expected is None or expected.seq == 0
    seq, last = (await connection.execute(select(store.c.seq, store.c.hash))).one()
    async for row, reached in _rows(connection):
        verifier.feed(Link(row.seq, row.salt, row.content, row.content_hash, row.previous, row.hash))
        found += _copies(row, reached)
        noted = noted or Head(row.seq, row.hash) == expected
    found += await _strays(connection)
    if not noted and expected:
        found.append(Problem(expected.seq, "is not the row that was noted: the chain was rewritten or cut"))
    problems = sorted([*verifier.finish(Head(seq, last)), *found], key=lambda problem: problem.seq)
    return Verification(verifier.rows, verifier.erased, Head(seq, last), tuple(problems))


async def _rows(connection: AsyncConnection) -> AsyncIterator[tuple[Row[Any], set[str]]]:
    """Every row with its categories, in the order of numbers, read in parts."""
    after = 0
    while True:
        query = select(records).where(records.c.seq > after).order_by(records.c.seq).limit(_READ)
        part = (await connection.execute(query)).all()
        if not part:
            return
        within = categories.c.seq.between(part[0].seq, part[-1].seq)
        reached: defaultdict[int, set[str]] = defaultdict(set)
        for category, seq in await connection.execute(select(categories.c.category, categories.c.seq).where(within)):
            reached[seq].add(category)
        for row in part:
            yield row, reached[row.seq]
        after = part[-1].seq


def _copies(row: Row[Any], reached: set[str]) -> list[Problem]:
    """What a row is searched by must say what its content says; an erased row must say nothing."""
    kind, expected, should_reach = "record", dict.fromkeys(SEARCHED), set()
    if row.content is not None:
        try:
            if erased_rows(row.content) is None:
                record = from_json(row.content)
                expected, should_reach = searched(record), {key(name) for name in record.decision.categories}
            else:
                kind = "erasure"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return [Problem(row.seq, f"its content is not a record: {type(error).__name__}: {error}")]
    wrong = [name for name in SEARCHED if getattr(row, name) != expected[name]]
    wrong += ["kind"] if row.kind != kind else []
    wrong += ["categories"] if reached != should_reach else []
    return [Problem(row.seq, f"what it is searched by does not say what it holds: {name}") for name in wrong]


async def _strays(connection: AsyncConnection) -> list[Problem]:
    """Categories of rows that are not there."""
    rows = select(records.c.seq)
    query = select(categories.c.seq).where(categories.c.seq.not_in(rows)).distinct()
    return [Problem(seq, "is not there, but its categories are") for seq in await connection.scalars(query)]
