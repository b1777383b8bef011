"""Labels: what reviewers say of records. Each is a row of its own in the chain, so it is never edited."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.reviews import Label
from guardproxy.sinks.database.append import Appending
from guardproxy.sinks.database.keys import ChainKey
from guardproxy.sinks.database.schema import labels, records, search_key
from guardproxy.sinks.shared import label_dict

LABEL = "label"  # the kind of the row, and the key of its content
_MOST_CHARACTERS = 200  # of names
_MOST_NOTE = 10_000
_READ = 200  # records in one query


def label_entry(label: Label) -> str:
    """Return the content of the row of a label."""
    return json.dumps({LABEL: label_dict(label)}, separators=(",", ":"))


def read_label(content: str) -> Label | None:
    """Return the label in the content of a row, None if the row holds something else."""
    entry = json.loads(content).get(LABEL)
    return Label(**entry) if entry else None


def label_values(label: Label) -> dict[str, Any]:
    """Return the copies of a label that the table of labels holds."""
    return {"record": search_key(label.record), "person": search_key(label.by), "kind": label.kind}


def check_label(label: Label) -> None:
    """Raise ValueError if the label names nobody, or has a text that is too long."""
    if not label.by.strip():
        raise ValueError(f"a label on record {label.record} names nobody: say who gives it")
    for name, value, most in (
        ("name of the reviewer", label.by, _MOST_CHARACTERS),
        ("category", label.category, _MOST_CHARACTERS),
        ("note", label.note, _MOST_NOTE),
    ):
        if len(value) > most:
            raise ValueError(f"the {name} of a label has {len(value)} characters; at most {most} are stored")


async def add_labels(connection: AsyncConnection, given: Sequence[Label], key: ChainKey | None) -> None:
    """Append labels to the chain. Raises ValueError as `AuditStore.label`, ConfigError if the chain has another key."""
    for one in given:
        check_label(one)
    named = sorted({search_key(one.record) for one in given})
    known: set[str] = set()
    for at in range(0, len(named), _READ):
        known.update(await connection.scalars(select(records.c.id).where(records.c.id.in_(named[at : at + _READ]))))
    if missing := sorted(set(named) - known):
        raise ValueError(f"no record has the id {', '.join(missing)}")
    appending = await Appending.at_end(connection, key)
    rows = [{"seq": appending.add(LABEL, label_entry(one)), **label_values(one)} for one in given]
    await appending.insert()
    if rows:
        await connection.execute(insert(labels), rows)


def in_force(*columns: Any) -> Select[Any]:
    """Select from the table of labels, only the last label of each reviewer on each record, without withdrawn ones."""
    last = select(func.max(labels.c.seq)).group_by(labels.c.record, labels.c.person)
    return select(*columns).where(labels.c.seq.in_(last), labels.c.kind != "none")


async def read_labels(connection: AsyncConnection, ids: Sequence[str] | None) -> dict[str, tuple[Label, ...]]:
    """Return every label ever given on these records and not erased, by the id of the record, oldest first.

    None stands for all records.
    """
    found: defaultdict[str, list[Label]] = defaultdict(list)
    every = select(records.c.content).join(labels, labels.c.seq == records.c.seq).order_by(labels.c.seq)
    keys = [search_key(name) for name in ids or ()]
    parts = [every.where(labels.c.record.in_(keys[at : at + _READ])) for at in range(0, len(keys), _READ)]
    for query in [every] if ids is None else parts:
        for content in await connection.scalars(query):
            label = read_label(content)
            if label:
                found[label.record].append(label)
    return {name: tuple(given) for name, given in found.items()}


def effective(history: Iterable[Label]) -> tuple[Label, ...]:
    """Return the labels in force of one record: the last one of each reviewer, oldest first, without withdrawn ones."""
    last: dict[str, Label] = {}
    for label in history:
        last.pop(label.by, None)  # the order is that of the last labels
        last[label.by] = label
    return tuple(label for label in last.values() if label.kind != "none")
