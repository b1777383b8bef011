"""Second opinions: what another guard says of a record, for its reviewers. Each is a row of its own in the chain.

The rationale may quote the text, so it is a sealed part of the row: encrypted as texts are, and erased with the text.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.reviews import Opinion
from guardproxy.sinks.database.append import Appending
from guardproxy.sinks.database.keys import ChainKey, PartsCipher, opened_parts
from guardproxy.sinks.database.listed import listed
from guardproxy.sinks.database.schema import opinions, records, search_key
from guardproxy.sinks.database.sealed import Parts, record_seal, seal, value_of
from guardproxy.sinks.shared import opinion_dict

OPINION = "opinion"  # the kind of the row, and the key of its content


def opinion_values(opinion: Opinion) -> dict[str, Any]:
    """Return the copies of an opinion that the table of opinions holds."""
    return {"record": search_key(opinion.record)}


def read_opinion(content: str, parts: Parts) -> Opinion | None:
    """Return the opinion in a row, None if it holds something else. A rationale that was erased is empty."""
    entry = json.loads(content).get(OPINION)
    if not isinstance(entry, Mapping):
        return None
    found = tuple((category, probability) for category, probability in entry["findings"])
    return Opinion(**{**entry, "findings": found, "rationale": value_of(parts.text) if parts.text else ""})


async def add_opinion(connection: AsyncConnection, opinion: Opinion, key: ChainKey | None, cipher: PartsCipher) -> None:
    """Append an opinion to the chain.

    Raises ValueError if the record does not exist, has lost its text, or if the opinion names nobody; ConfigError if
    the chain has another key.
    """
    if not opinion.by.strip():
        raise ValueError("a second opinion names nobody: say who asked for it")
    query = select(records.c.sealed_text).where(records.c.id == search_key(opinion.record))
    held = (await connection.execute(query)).one_or_none()
    if held is None or not held.sealed_text:  # a rationale would outlive the text that it speaks of
        raise ValueError(f"the record {opinion.record} or its text was erased")
    text_seal, part = seal(opinion.rationale)
    entry = {**opinion_dict(opinion), "rationale": ""}
    content = json.dumps({OPINION: entry, **record_seal(text_seal)}, separators=(",", ":"))
    appending = await Appending.at_end(connection, key)
    row = {"seq": appending.add(OPINION, content, parts=Parts(part), cipher=cipher), **opinion_values(opinion)}
    await appending.insert(encrypted=cipher.encrypts)
    await connection.execute(insert(opinions), [row])


async def read_opinions(
    connection: AsyncConnection, ids: Sequence[str], cipher: PartsCipher
) -> dict[str, tuple[Opinion, ...]]:
    """Return the opinions on the records with these ids, oldest first. Raises ConfigError if no key decrypts them."""
    columns: tuple[Any, ...] = tuple(records.c["seq", "content", "sealed_text", "sealed_quotes"])
    query = select(*columns).join(opinions, opinions.c.seq == records.c.seq).order_by(records.c.seq)
    found: dict[str, tuple[Opinion, ...]] = {}
    for row in await connection.execute(query.where(opinions.c.record.in_([search_key(name) for name in ids]))):
        opinion = read_opinion(row.content, opened_parts(row, cipher))
        if opinion:
            found[opinion.record] = (*found.get(opinion.record, ()), opinion)
    return found


async def rows_about(connection: AsyncConnection, numbers: Sequence[int]) -> list[int]:
    """Return the numbers of the rows with opinions on the records in these rows."""
    ids = select(records.c.id).where(records.c.seq.in_(listed(connection.dialect.name, numbers)))
    return list(await connection.scalars(select(opinions.c.seq).where(opinions.c.record.in_(ids))))
