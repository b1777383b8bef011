"""Records of the very same text: how many there are, labels for all of them, and each text once in a queue."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.util import ClauseAdapter

from guardproxy.reviews import Label
from guardproxy.sinks.database.filters import Filter
from guardproxy.sinks.database.labels import read_labels
from guardproxy.sinks.database.queries import StoredRecord, conditions
from guardproxy.sinks.database.schema import records, search_key
from guardproxy.sinks.database.text_keys import TEXT_DIGITS, judged_hash

MOST_LABELLED = 20_000  # in one transaction: proxies wait for it with their records


@dataclass(frozen=True, slots=True)
class SameText:
    """How many other records have exactly the same text as one.

    `alike` have the same side and the same decision too, so that a label says the same of them; `otherwise` have not.
    `unknown` says why the store cannot tell, empty if it can.
    """

    alike: int = 0
    otherwise: int = 0
    unknown: str = ""


async def count_same(connection: AsyncConnection, stored: StoredRecord) -> SameText:
    """Count the other records of the text of a record."""
    key = await key_of(connection, stored.record.id)
    if key is None:
        return SameText(unknown=_why_unknown(stored))
    alike = select(func.count()).where(records.c.same_key == key)
    every = select(func.count()).where(has_text_of(key))
    same, of_text = [int((await connection.execute(query)).scalar_one()) for query in (alike, every)]
    return SameText(same - 1, of_text - same)


def has_text_of(key: str) -> ColumnElement[bool]:
    """Return the condition that a record has the text of a key, whatever was decided about it."""
    column, text = records.c.same_key, key[:TEXT_DIGITS]
    return (column >= text) & (column < f"{text}g")  # behind every hex digit


async def key_of(connection: AsyncConnection, record: str) -> str | None:
    """Return the key of the record with this id; None if it has none, or if there is no such record."""
    key: str | None = await connection.scalar(select(records.c.same_key).where(records.c.id == search_key(record)))
    return key


async def with_same_text(connection: AsyncConnection, given: Sequence[Label]) -> list[Label]:
    """Return the labels, each for every record of the same text, side and decision as its own, once for each record.

    A withdrawal is for those that have a label of the person.

    Raises ValueError if the store does not know which records these are, or if they are more than `MOST_LABELLED`.
    """
    found: dict[str, Label] = {}
    for one in given:
        key = await key_of(connection, one.record)
        if key is None:
            raise ValueError(f"the store cannot tell which records have the same text as record {one.record}")
        same = list(await connection.scalars(_ids_of(key).limit(MOST_LABELLED + 1)))
        if one.kind == "none":  # there must be something to withdraw
            said = await _said(connection, same, one.by)
            same = [name for name in same if name in said and said[name][-1].kind != "none"]
        found |= {name: replace(one, record=name) for name in same}
        if len(found) > MOST_LABELLED:
            raise ValueError(
                f"more than {MOST_LABELLED:,} records have the same text, too many for one step: label this one alone"
            )
    return list(found.values())


async def given_together(connection: AsyncConnection, record: str, person: str) -> dict[str, tuple[Label, ...]]:
    """Return what a person has said of each record that they labelled together with this one at last, oldest first.

    Empty if no label of theirs on the record is in force.
    """
    own = await _said(connection, [record], person)
    last = own[record][-1] if record in own else None
    if last is None or last.kind == "none":
        return {}
    key = await key_of(connection, record)
    ids = [record] if key is None else list(await connection.scalars(_ids_of(key)))
    said = await _said(connection, ids, person)
    return {name: given for name, given in said.items() if (given[-1].time, given[-1].kind) == (last.time, last.kind)}


def taken_back(said: dict[str, tuple[Label, ...]], now: float) -> list[Label]:
    """Return the labels that put what a person had said before the last label in force again, or nothing."""
    back: list[Label] = []
    for given in said.values():
        last, before = given[-1], given[-2] if len(given) > 1 else None
        back.append(replace(before, time=now) if before else Label(last.record, "none", last.by, now))
    return back


def newest_of_text(chosen: Filter, dialect: str) -> ColumnElement[bool]:
    """Return the condition that no newer record of the same text, side and decision matches the filter, too.

    Raises FilterError as `queries.conditions`.
    """
    newer = records.alias("newer")
    # All records of a text have its words.
    every = ClauseAdapter(newer)
    where: list[Any] = [every.traverse(clause) for clause in conditions(replace(chosen, text=None), dialect)]
    same = (newer.c.same_key == records.c.same_key) & (newer.c.seq > records.c.seq)
    return ~exists(select(newer.c.seq).where(same, *where).correlate(records))


def _ids_of(key: str) -> Any:
    return select(records.c.id).where(records.c.same_key == key).order_by(records.c.seq)


async def _said(connection: AsyncConnection, ids: Sequence[str], person: str) -> dict[str, tuple[Label, ...]]:
    history = await read_labels(connection, ids)
    own = {name: tuple(label for label in given if label.by == person) for name, given in history.items()}
    return {name: given for name, given in own.items() if given}


def _why_unknown(stored: StoredRecord) -> str:
    if stored.text_erased:
        return "its text is erased"
    try:
        judged_hash(stored.record)
    except ValueError as error:
        return str(error)
    return "its text is encrypted"
