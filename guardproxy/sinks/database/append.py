"""Append rows to the chain, in a transaction that excludes other writers."""

import secrets
import time
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from guardproxy.errors import ConfigError
from guardproxy.sinks.database import chain
from guardproxy.sinks.database.chain import Head
from guardproxy.sinks.database.inserting import insert_rows
from guardproxy.sinks.database.keys import ChainKey, PartsCipher
from guardproxy.sinks.database.schema import SEARCH_COLUMNS, records, store
from guardproxy.sinks.database.sealed import NO_PARTS, Parts

NOTHING: Mapping[str, Any] = dict.fromkeys(SEARCH_COLUMNS)
_searched = itemgetter(*SEARCH_COLUMNS)
_COLUMNS = (
    *("seq", "kind", *SEARCH_COLUMNS, "content", "salt", "sealed_text", "sealed_quotes"),
    *("content_hash", "previous", "hash"),
)
_WHERE = "set audit.chain_key; for a command, --config FILE or the environment variable GUARDPROXY_AUDIT_CHAIN_KEY"


class Appending:
    """Seals rows behind the last row of the store, and inserts them."""

    def __init__(self, connection: AsyncConnection, head: Head, key: ChainKey | None, *, begins: bool) -> None:
        self._connection = connection
        self._head = head
        self._key = key
        self._begins = begins  # whether the next row is the first with the key
        self._rows: list[tuple[Any, ...]] = []

    @classmethod
    async def at_end(cls, connection: AsyncConnection, key: ChainKey | None) -> "Appending":
        """Begin behind the last row. Raises ConfigError unless the key is that of the chain, or its first one."""
        held = await check_key(connection, key)
        return cls(connection, await read_head(connection), key, begins=key is not None and held is None)

    def add(
        self,
        kind: str,
        content: str,
        columns: Mapping[str, Any] = NOTHING,
        parts: Parts = NO_PARTS,
        cipher: PartsCipher | None = None,
    ) -> int:
        """Seal a row with its content and its sealed parts; return its number. `cipher` encrypts the parts."""
        if self._begins and self._key:
            self._begins = False
            self.add(chain.KEY, chain.key_entry(time.time(), self._key))
        link = chain.seal(self._head.seq + 1, self._head.hash, content, secrets.token_hex(16), self._key)
        closed = [
            part if part is None or cipher is None else cipher.closed(part) for part in (parts.text, parts.quotes)
        ]
        hashes = (link.content_hash, link.previous, link.hash)
        self._rows.append((link.seq, kind, *_searched(columns), link.content, link.salt, *closed, *hashes))
        self._head = Head(link.seq, link.hash)
        return link.seq

    async def insert(self, *, encrypted: bool = False) -> None:
        """Insert the rows and note the new head, and whether rows are encrypted."""
        if not self._rows:
            return
        await self._connection.run_sync(insert_rows, records, _COLUMNS, self._rows)
        noted: dict[str, Any] = {"seq": self._head.seq, "hash": self._head.hash}
        if self._key:
            noted["key_id"] = self._key.id
        if encrypted:
            noted["encrypted"] = True
        await self._connection.execute(update(store).values(noted))


async def check_key(connection: AsyncConnection, key: ChainKey | None) -> str | None:
    """Return the id of the key that the chain has, None if it has none.

    Raises ConfigError if the chain has another key than the given one, or if none is given.
    """
    held: str | None = (await connection.execute(select(store.c.key_id))).scalar_one()
    if held is not None and key is None:
        raise ConfigError(f"the chain of the audit store has a key: {_WHERE}")
    if held is not None and key is not None and held != key.id:
        raise ConfigError(f"the chain of the audit store has another key than the given one: {_WHERE}")
    return held


async def read_head(connection: AsyncConnection) -> Head:
    """Return the number and hash of the last row."""
    seq, last_hash = (await connection.execute(select(store.c.seq, store.c.hash))).one()
    return Head(seq, last_hash)
