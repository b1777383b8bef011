"""Verify that no row of the store was changed."""

from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database.chain import ChainProblem, ChainVerifier, Head, Link, erased_rows
from guardproxy.sinks.database.schema import SEARCH_COLUMNS, categories, records, search_key, search_values, store
from guardproxy.sinks.shared import from_json

_READ = 200  # rows in one query


@dataclass(frozen=True, slots=True)
class Verification:
    """The result: the number of rows, how many are erased, the last row, and the problems in the order of rows."""

    rows: int
    erased: int
    head: Head
    problems: tuple[ChainProblem, ...]


async def verify_rows(connection: AsyncConnection, expected: Head | None) -> Verification:
    """Check every row. If `expected` is given, also check that the chain contains it."""
    verifier = ChainVerifier()
    problems: list[ChainProblem] = []
    expected_found = expected is None or expected.seq == 0
    seq, last = (await connection.execute(select(store.c.seq, store.c.hash))).one()
    async for row, reached in _rows(connection):
        verifier.feed(Link(row.seq, row.salt, row.content, row.content_hash, row.previous, row.hash))
        problems += _copy_problems(row, reached)
        expected_found = expected_found or Head(row.seq, row.hash) == expected
    problems += await _stray_category_problems(connection)
    if not expected_found and expected:
        problems.append(ChainProblem(expected.seq, "does not have the given hash: the chain was rewritten or cut"))
    problems = sorted([*verifier.finish(Head(seq, last)), *problems], key=lambda problem: problem.seq)
    return Verification(verifier.rows, verifier.erased, Head(seq, last), tuple(problems))


async def _rows(connection: AsyncConnection) -> AsyncIterator[tuple[Row[Any], set[str]]]:
    """Yield every row with its categories, in ascending order, in several queries."""
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


def _copy_problems(row: Row[Any], reached: set[str]) -> list[ChainProblem]:
    """Compare a row's search columns and categories with its content. An erased row must have neither."""
    kind, expected, expected_categories = "record", dict.fromkeys(SEARCH_COLUMNS), set()
    if row.content is not None:
        try:
            if erased_rows(row.content) is None:
                record = from_json(row.content)
                expected, expected_categories = (
                    search_values(record),
                    {search_key(name) for name in record.decision.categories},
                )
            else:
                kind = "erasure"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return [ChainProblem(row.seq, f"its content is not a record: {type(error).__name__}: {error}")]
    wrong = [name for name in SEARCH_COLUMNS if getattr(row, name) != expected[name]]
    wrong += ["kind"] if row.kind != kind else []
    wrong += ["categories"] if reached != expected_categories else []
    return [ChainProblem(row.seq, f"its search column {name} does not match its content") for name in wrong]


async def _stray_category_problems(connection: AsyncConnection) -> list[ChainProblem]:
    """Find categories of rows that do not exist."""
    rows = select(records.c.seq)
    query = select(categories.c.seq).where(categories.c.seq.not_in(rows)).distinct()
    return [
        ChainProblem(seq, "is missing, but its categories are still stored") for seq in await connection.scalars(query)
    ]
