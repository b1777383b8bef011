"""Verify that no row of the store was changed."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database.append import check_key
from guardproxy.sinks.database.chain import KEY, ChainProblem, ChainVerifier, Head, Link, erased_rows
from guardproxy.sinks.database.exclusions import EXCLUSION, exclusion_values, read_exclusion
from guardproxy.sinks.database.keys import ChainKey, PartsCipher, is_encrypted, opened_parts
from guardproxy.sinks.database.labels import LABEL, label_values, read_label
from guardproxy.sinks.database.opinions import OPINION, opinion_values, read_opinion
from guardproxy.sinks.database.policy_changes import POLICY_CHANGE, policy_change_values, read_policy_change
from guardproxy.sinks.database.schema import (
    SEARCH_COLUMNS,
    ScoreRows,
    blocks,
    exclusions,
    labels,
    opinions,
    policy_changes,
    records,
    scores,
    search_values,
    store,
)
from guardproxy.sinks.database.sealed import Parts, read_record
from guardproxy.sinks.database.texts import expected_index, indexed, numbers_indexed
from guardproxy.sinks.database.times import BLOCK_ROWS, Bounds, add_time, wrong_blocks

_READ = 200  # rows in one query


@dataclass(frozen=True, slots=True)
class Verification:
    """The result: the number of rows, how many are erased, the last row, and the problems in the order of rows."""

    rows: int
    erased: int
    head: Head
    problems: tuple[ChainProblem, ...]


@dataclass(frozen=True, slots=True)
class RowCopies:
    """What the store holds of a row outside its content, in the form in which `_expected` computes it."""

    kind: str
    columns: dict[str, Any]
    scores: ScoreRows
    label: dict[str, Any] | None
    exclusion: dict[str, Any] | None
    words: list[list[str]]
    policy_change: dict[str, Any] | None = None
    opinion: dict[str, Any] | None = None


async def verify_rows(
    connection: AsyncConnection, expected: Head | None, key: ChainKey | None, cipher: PartsCipher
) -> Verification:
    """Check every row. If `expected` is given, also check that the chain contains it.

    Raises ConfigError if the chain or the parts of a row need another key.
    """
    await check_key(connection, key)
    verifier = ChainVerifier(key)
    problems: list[ChainProblem] = []
    expected_found = expected is None or expected.seq == 0
    seq, last = (await connection.execute(select(store.c.seq, store.c.hash))).one()
    bounds: Bounds = {}
    async for row, copies in _rows(connection):
        parts = opened_parts(row, cipher)
        add_time(bounds, row.seq, row.time)
        verifier.feed(Link(row.seq, row.salt, row.content, row.content_hash, row.previous, row.hash, parts))
        problems += _copy_problems(row, parts, copies, connection.dialect.name)
        expected_found = expected_found or Head(row.seq, row.hash) == expected
    problems += await _stray_problems(connection)
    problems += await _block_problems(connection, bounds)
    if not expected_found and expected:
        problems.append(ChainProblem(expected.seq, "does not have the given hash: the chain was rewritten or cut"))
    problems = sorted([*verifier.finish(Head(seq, last)), *problems], key=lambda problem: problem.seq)
    return Verification(verifier.rows, verifier.erased, Head(seq, last), tuple(problems))


async def _rows(connection: AsyncConnection) -> AsyncIterator[tuple[Row[Any], RowCopies]]:
    """Yield every row with its copies in other tables, in ascending order, in several queries."""
    after = 0
    while True:
        query = select(records).where(records.c.seq > after).order_by(records.c.seq).limit(_READ)
        part = (await connection.execute(query)).all()
        if not part:
            return
        first, after = part[0].seq, part[-1].seq
        scored: defaultdict[int, ScoreRows] = defaultdict(dict)
        for found in await connection.execute(select(scores).where(scores.c.seq.between(first, after))):
            scored[found.seq][found.category] = (found.probability, found.reached)
        of_labels = select(labels).where(labels.c.seq.between(first, after))
        labelled = {
            found.seq: {"record": found.record, "person": found.person, "kind": found.kind}
            for found in await connection.execute(of_labels)
        }
        of_exclusions = select(exclusions).where(exclusions.c.seq.between(first, after))
        excluded = {
            found.seq: {name: getattr(found, name) for name in ("id", "until", "text", "record")}
            for found in await connection.execute(of_exclusions)
        }
        of_changes = select(policy_changes).where(policy_changes.c.seq.between(first, after))
        changed = {found.seq: {"time": found.time} for found in await connection.execute(of_changes)}
        of_opinions = select(opinions).where(opinions.c.seq.between(first, after))
        opined = {found.seq: {"record": found.record} for found in await connection.execute(of_opinions)}
        texts = await indexed(connection, first, after)
        for row in part:
            columns = {name: getattr(row, name) for name in SEARCH_COLUMNS}
            words = texts.get(row.seq, [])
            yield (
                row,
                RowCopies(
                    row.kind,
                    columns,
                    scored[row.seq],
                    labelled.get(row.seq),
                    excluded.get(row.seq),
                    words,
                    changed.get(row.seq),
                    opined.get(row.seq),
                ),
            )


def _expected(row: Row[Any], parts: Parts, dialect: str) -> RowCopies:
    """Compute the copies of a row from its content and text. Of an erased row there are none, its kind is unknown."""
    content, kind = row.content, row.kind
    empty = dict.fromkeys(SEARCH_COLUMNS)
    if content is None:
        return RowCopies(kind if kind in ("record", LABEL, OPINION) else "record", empty, {}, None, None, [])
    if erased_rows(content) is not None:
        return RowCopies("erasure", empty, {}, None, None, [])
    label, opinion = read_label(content), read_opinion(content, parts)
    if label or opinion:
        own = label_values(label) if label else None
        other = opinion_values(opinion) if opinion else None
        return RowCopies(LABEL if label else OPINION, empty, {}, own, None, [], opinion=other)
    exclusion = read_exclusion(content)
    if exclusion:
        return RowCopies(EXCLUSION, empty, {}, None, exclusion_values(exclusion), [])
    change = read_policy_change(content)
    if change or json.loads(content).get(KEY):
        values = policy_change_values(change) if change else None
        return RowCopies(POLICY_CHANGE if change else KEY, empty, {}, None, None, [], values)
    record = read_record(content, parts)
    # The words of an encrypted text would tell what it says.
    encrypted = bool(row.sealed_text) and is_encrypted(row.sealed_text)
    words = [] if encrypted else expected_index(record.text, dialect)
    return RowCopies("record", *search_values(record, encrypted=encrypted), None, None, words)


def _copy_problems(row: Row[Any], parts: Parts, copies: RowCopies, dialect: str) -> list[ChainProblem]:
    try:
        expected = _expected(row, parts, dialect)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [ChainProblem(row.seq, f"its content is not a record: {type(error).__name__}: {error}")]
    wrong = [name for name in SEARCH_COLUMNS if _value(name, copies) != _value(name, expected)]
    wrong = [f"its search column {name} does not match its content" for name in wrong]
    for part, name in (
        ("kind", "its search column kind does"),
        ("scores", "its scores do"),
        ("label", "its row in the table of labels does"),
        ("exclusion", "its row in the table of exclusions does"),
        ("opinion", "its row in the table of opinions does"),
        ("policy_change", "its row in the table of changes of policies does"),
        ("words", "its words in the index of texts do"),
    ):
        if getattr(copies, part) != getattr(expected, part):
            wrong.append(f"{name} not match its content")
    return [ChainProblem(row.seq, message) for message in wrong]


def _value(name: str, copies: RowCopies) -> Any:
    """The value of a search column; of JSON what it says, because versions write the same number in two ways."""
    value = copies.columns[name]
    if name != "low_scores" or value is None:
        return value
    try:
        return json.loads(value, object_pairs_hook=list)  # a key that occurs twice is not lost
    except ValueError:
        return value


async def _stray_problems(connection: AsyncConnection) -> list[ChainProblem]:
    """Find scores, labels, exclusions and words of rows that do not exist."""
    rows = select(records.c.seq)
    words = numbers_indexed(connection.dialect.name)
    problems = []
    copies = {"scores": scores.c.seq, "label": labels.c.seq, "exclusion": exclusions.c.seq, "words": words}
    copies |= {"change of a policy": policy_changes.c.seq, "opinion": opinions.c.seq}
    for name, column in copies.items():
        stray = await connection.scalars(select(column).where(column.not_in(rows)).distinct())
        message = f"is missing, but its {name} {'are' if name in ('scores', 'words') else 'is'} still stored"
        problems += [ChainProblem(seq, message) for seq in stray]
    return problems


async def _block_problems(connection: AsyncConnection, bounds: Bounds) -> list[ChainProblem]:
    """Find blocks with other times than those of their rows, which searches by time would not find."""
    problems = []
    for block in await wrong_blocks(connection, bounds):
        first, last = max(block * BLOCK_ROWS, 1), (block + 1) * BLOCK_ROWS - 1
        message = f"the times of rows {first} to {last} in the table {blocks.name} do not match these rows"
        # At the end of the rows: a row that is missing is the cause, and comes first.
        problems.append(ChainProblem(last, message))
    return problems
