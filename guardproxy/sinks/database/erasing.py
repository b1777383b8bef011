"""Erase records, or their texts alone: hashes and seals stay, and an entry in the chain names the erased rows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database import chain
from guardproxy.sinks.database.append import NOTHING, Appending
from guardproxy.sinks.database.keys import ChainKey, PartsCipher, opened_parts
from guardproxy.sinks.database.listed import listed
from guardproxy.sinks.database.opinions import OPINION, rows_about
from guardproxy.sinks.database.schema import labels, opinions, records, scores, store
from guardproxy.sinks.database.sealed import ERASED
from guardproxy.sinks.database.texts import erase_texts
from guardproxy.sinks.database.times import forget_times

HELD = (records.c.kind == "record") & records.c.content.is_not(None)
# A row of version 0.1.0, whose text is in its content; quotation marks in texts are escaped, so this finds the field.
_OLD_TEXT = records.c.sealed_text.is_(None) & ~records.c.content.contains('"text":"",')
HAS_TEXT = HELD & (records.c.sealed_text != ERASED)
_HAS_RATIONALE = (records.c.kind == OPINION) & (records.c.sealed_text != ERASED)
HAS_PARTS = HAS_TEXT | _HAS_RATIONALE | records.c.sealed_quotes.is_not(None)
_ENCRYPT = 200  # rows that one transaction encrypts: proxies wait for it with their records


@dataclass(frozen=True, slots=True)
class Keep:
    """For how many seconds records are kept; None for ever.

    `passed` holds for decisions to pass, `blocked` for all others: to block, rewrite or flag. `text` holds for the text
    of a record alone.
    """

    blocked: float | None = None
    passed: float | None = None
    text: float | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """How many records, and how many texts of other records, were erased."""

    records: int = 0
    texts: int = 0


def expired(keep: Keep, now: float) -> ColumnElement[bool] | None:
    """Return the condition that a record is kept no longer; None if all are kept for ever.

    The text of a row of version 0.1.0 is part of its content, so such a row is erased with its text.
    """
    passed = records.c.action == "pass"
    row_time = records.c.time
    bounds: list[ColumnElement[bool]] = []
    if keep.passed is not None:
        bounds.append(passed & (row_time < now - keep.passed))
    if keep.blocked is not None:
        bounds.append(~passed & (row_time < now - keep.blocked))
    if keep.text is not None:
        bounds.append(_OLD_TEXT & (row_time < now - keep.text))
    if not bounds:
        return None
    return HELD & _any(bounds)


def expired_text(keep: Keep, now: float) -> ColumnElement[bool] | None:
    """Return the condition that the text of a record is kept no longer; None if all are kept as long as the record."""
    return None if keep.text is None else HAS_TEXT & (records.c.time < now - keep.text)


def _any(conditions: Sequence[ColumnElement[bool]]) -> ColumnElement[bool]:
    first, *others = conditions
    for other in others:
        first = first | other
    return first


async def erase_records(connection: AsyncConnection, numbers: Sequence[int], why: str, key: ChainKey | None) -> int:
    """Erase these rows, if they hold records, with their labels and opinions. Return how many there were."""
    found = select(records.c.seq).where(records.c.seq.in_(listed(connection.dialect.name, numbers)), HELD)
    held = sorted(await connection.scalars(found))
    if not held:
        return 0
    rows = listed(connection.dialect.name, held)
    of_labels = labels.c.record.in_(select(records.c.id).where(records.c.seq.in_(rows)))
    label_numbers = list(await connection.scalars(select(labels.c.seq).where(of_labels)))
    of_opinions = await rows_about(connection, held)
    await connection.execute(delete(scores).where(scores.c.seq.in_(rows)))
    await erase_texts(connection, rows)
    await connection.execute(delete(labels).where(labels.c.seq.in_(listed(connection.dialect.name, label_numbers))))
    await connection.execute(delete(opinions).where(opinions.c.seq.in_(listed(connection.dialect.name, of_opinions))))
    every = sorted([*held, *label_numbers, *of_opinions])
    nothing = {**NOTHING, "content": None, "salt": None, "sealed_text": None, "sealed_quotes": None}
    which = records.c.seq.in_(listed(connection.dialect.name, every))
    await connection.execute(update(records).where(which).values(nothing))
    await forget_times(connection, held)
    await _note(connection, chain.erasure_entry(time.time(), why, every), key)
    return len(held)


async def erase_record_texts(
    connection: AsyncConnection, numbers: Sequence[int], why: str, key: ChainKey | None
) -> int:
    """Erase the texts of these rows and the rationales of opinions on them. Return how many texts there were."""
    found = select(records.c.seq).where(records.c.seq.in_(listed(connection.dialect.name, numbers)), HAS_TEXT)
    held = sorted(await connection.scalars(found))
    if not held:
        return 0
    every = sorted([*held, *await rows_about(connection, held)])
    rows = listed(connection.dialect.name, every)
    await erase_texts(connection, rows)
    await connection.execute(update(records).where(records.c.seq.in_(rows)).values(sealed_text=ERASED, same_key=None))
    await _note(connection, chain.erasure_entry(time.time(), why, every, only="text"), key)
    return len(held)


async def encrypt_rows(connection: AsyncConnection, after: int, cipher: PartsCipher) -> list[int]:
    """Encrypt the sealed parts of the next rows behind row `after`, and remove their words from the index of texts.

    Return the numbers of the rows. Raises ConfigError if no key fits.
    """
    columns: tuple[Any, ...] = (records.c.seq, records.c.sealed_text, records.c.sealed_quotes)
    query = select(*columns).where(records.c.seq > after, HAS_PARTS).order_by(records.c.seq).limit(_ENCRYPT)
    rows = (await connection.execute(query)).all()
    changes: list[dict[str, Any]] = []
    for row in rows:
        parts = opened_parts(row, cipher)
        closed = [part and cipher.closed(part) for part in (parts.text, parts.quotes)]
        changes.append({"row": row.seq, "text": closed[0], "quotes": closed[1]})
    if changes:
        change = update(records).where(records.c.seq == bindparam("row"))
        sealed: dict[str, Any] = {"sealed_text": bindparam("text"), "sealed_quotes": bindparam("quotes")}
        await connection.execute(change.values({**sealed, "same_key": None}), changes)
        await erase_texts(connection, listed(connection.dialect.name, [row.seq for row in rows]))
        await connection.execute(update(store).values(encrypted=True))
    return [row.seq for row in rows]


async def _note(connection: AsyncConnection, entry: str, key: ChainKey | None) -> None:
    appending = await Appending.at_end(connection, key)
    appending.add("erasure", entry)
    await appending.insert()
