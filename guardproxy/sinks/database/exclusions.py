"""Exclusions in the store: each is a row of its own in the chain, and so is each end of one before its time."""

import json
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.policy import ANY, UNSAFE
from guardproxy.reviews import Exclusion
from guardproxy.sinks.database.schema import exclusions, records, search_key
from guardproxy.sinks.shared import exclusion_dict
from guardproxy.types import Record

EXCLUSION = "exclusion"  # the kind of the row, and the key of its content
_MOST_CHARACTERS = 200  # of names
_MOST_REASON = 10_000


def excluded_categories(record: Record, category: str = "") -> tuple[str, ...]:
    """Return the categories that an exclusion of the record's text is about: `category`, else all that were reached.

    Raises ValueError if no threshold was reached, or if the verdict does not name the category.
    """
    found = {finding.category for finding in record.verdict.findings} if record.verdict else set()
    if not category:
        if not record.decision.categories:
            raise ValueError("reached no threshold, so there is nothing to exclude: name a category")
        return tuple(dict.fromkeys(record.decision.categories))
    if category not in {ANY, UNSAFE, *found}:
        known = ", ".join(sorted({*found, UNSAFE}))
        raise ValueError(f"has no category {category!r}; it has {known}, and * is everything")
    return (category,)


def new_exclusion_id() -> str:
    """Return a random id."""
    return uuid.uuid4().hex[:12]


def exclusion_entry(exclusion: Exclusion) -> str:
    """Return the content of the row of an exclusion.

    Raises ValueError if it names nobody or no reason, or has a text that is too long.
    """
    _check(exclusion)
    return json.dumps({EXCLUSION: exclusion_dict(exclusion)}, separators=(",", ":"))


def read_exclusion(content: str) -> Exclusion | None:
    """Return the exclusion in the content of a row, None if the row holds something else.

    A record has a field of this name, which is a text.
    """
    entry = json.loads(content).get(EXCLUSION)
    return Exclusion(**entry) if isinstance(entry, Mapping) else None


def exclusion_values(exclusion: Exclusion) -> dict[str, Any]:
    """Return the copies of an exclusion that the table of exclusions holds."""
    return {
        "id": exclusion.id,
        "until": exclusion.until,
        "text": search_key(exclusion.text),
        "record": search_key(exclusion.record),
    }


def about_text(text: str, record: str) -> ColumnElement[bool]:
    """Return the condition that an exclusion is about the text with this hash, or was made from this record."""
    made = exclusions.c.record == search_key(record)
    return or_(made, exclusions.c.text == search_key(text)) if text else made


def named(ids: Collection[str]) -> ColumnElement[bool]:
    """Return the condition that an exclusion has one of these ids."""
    return exclusions.c.id.in_(ids)


async def read_exclusions(
    connection: AsyncConnection, after: float, which: ColumnElement[bool] | None = None
) -> list[Exclusion]:
    """Return the exclusions that end later than `after`, in seconds since the epoch, oldest first.

    `which` is a condition that their last row must meet.
    """
    last = select(func.max(exclusions.c.seq)).group_by(exclusions.c.id)
    where = [exclusions.c.until > after]
    if which is not None:  # the index of ids then finds the few rows
        last = last.where(exclusions.c.id.in_(select(exclusions.c.id).where(which)))
        where.append(which)
    query = (
        select(records.c.content)
        .join(exclusions, exclusions.c.seq == records.c.seq)
        .where(exclusions.c.seq.in_(last), *where)
        .order_by(exclusions.c.seq)
    )
    return [found for content in await connection.scalars(query) if (found := read_exclusion(content))]


def _check(exclusion: Exclusion) -> None:
    for name, value, most in (
        ("name of the person", exclusion.by, _MOST_CHARACTERS),
        ("category", exclusion.category, _MOST_CHARACTERS),
        ("reason", exclusion.reason, _MOST_REASON),
    ):
        if not value.strip():
            raise ValueError(f"the exclusion {exclusion.id} has an empty {name}")
        if len(value) > most:
            raise ValueError(f"the {name} of an exclusion has {len(value)} characters; at most {most} are stored")
