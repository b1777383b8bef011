"""Append rows to the chain, in a transaction that excludes other writers."""

import secrets
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.sinks.database import chain
from guardproxy.sinks.database.chain import Head
from guardproxy.sinks.database.schema import SEARCH_COLUMNS, records, store

NOTHING = dict.fromkeys(SEARCH_COLUMNS)


class Appending:
    """Seals rows behind the last row of the store, and inserts them."""

    def __init__(self, connection: AsyncConnection, head: Head) -> None:
        self._connection = connection
        self._head = head
        self._rows: list[dict[str, Any]] = []

    @classmethod
    async def at_end(cls, connection: AsyncConnection) -> "Appending":
        """Begin behind the last row."""
        return cls(connection, await read_head(connection))

    def add(self, kind: str, content: str, columns: dict[str, Any] = NOTHING, *, text: str | None = None) -> int:
        """Seal a row with its content and its text as a sealed part; return its number."""
        link = chain.seal(self._head.seq + 1, self._head.hash, content, secrets.token_hex(16))
        chained = {name: getattr(link, name) for name in ("seq", "salt", "content", "content_hash", "previous", "hash")}
        self._rows.append({"kind": kind, **columns, "sealed_text": text, **chained})
        self._head = Head(link.seq, link.hash)
        return link.seq

    async def insert(self) -> None:
        """Insert the rows and note the new head."""
        if self._rows:
            await self._connection.execute(insert(records), self._rows)
            await self._connection.execute(update(store).values(seq=self._head.seq, hash=self._head.hash))


async def read_head(connection: AsyncConnection) -> Head:
    """Return the number and hash of the last row."""
    seq, last_hash = (await connection.execute(select(store.c.seq, store.c.hash))).one()
    return Head(seq, last_hash)
