"""Exclusions in the store: each is a row of its own in the chain, and so is each end of one before its time."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.reviews import Exclusion
from guardproxy.sinks.database.schema import exclusions, records
from guardproxy.sinks.shared import exclusion_dict

EXCLUSION = "exclusion"  # the kind of the row, and the key of its content
_MOST_CHARACTERS = 200  # of names
_MOST_REASON = 10_000


def exclusion_entry(exclusion: Exclusion) -> str:
    """Return the content of the row of an exclusion."""
    return json.dumps({EXCLUSION: exclusion_dict(exclusion)}, separators=(",", ":"))


def read_exclusion(content: str) -> Exclusion | None:
    """Return the exclusion in the content of a row, None if the row holds something else.

    A record has a field of this name, which is a text.
    """
    entry = json.loads(content).get(EXCLUSION)
    return Exclusion(**entry) if isinstance(entry, Mapping) else None


def exclusion_values(exclusion: Exclusion) -> dict[str, Any]:
    """Return the copies of an exclusion that the table of exclusions holds."""
    return {"id": exclusion.id, "until": exclusion.until}


def check_exclusion(exclusion: Exclusion) -> None:
    """Raise ValueError if the exclusion names nobody or no reason, or has a text that is too long."""
    for name, value, most in (
        ("name of the person", exclusion.by, _MOST_CHARACTERS),
        ("category", exclusion.category, _MOST_CHARACTERS),
        ("reason", exclusion.reason, _MOST_REASON),
    ):
        if not value.strip():
            raise ValueError(f"the exclusion {exclusion.id} has an empty {name}")
        if len(value) > most:
            raise ValueError(f"the {name} of an exclusion has {len(value)} characters; at most {most} are stored")


async def read_exclusions(connection: AsyncConnection, after: float) -> list[Exclusion]:
    """Return the exclusions that end later than `after`, in seconds since the epoch, oldest first."""
    last = select(func.max(exclusions.c.seq)).group_by(exclusions.c.id)
    query = (
        select(records.c.content)
        .join(exclusions, exclusions.c.seq == records.c.seq)
        .where(exclusions.c.seq.in_(last), exclusions.c.until > after)
        .order_by(exclusions.c.seq)
    )
    return [found for content in await connection.scalars(query) if (found := read_exclusion(content))]
