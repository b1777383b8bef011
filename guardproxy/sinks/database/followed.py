"""What the alerts need of the store: the records behind a number, and how far each receiver has been told."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import structlog
from sqlalchemy import BigInteger, Column, Float, Integer, MetaData, String, Table, Text, insert, select, update

from guardproxy.alerting import Told
from guardproxy.offload import computed
from guardproxy.sinks.database.append import read_head
from guardproxy.sinks.database.keys import PartsCipher, opened_parts
from guardproxy.sinks.database.schema import records, search_key
from guardproxy.sinks.database.sealed import read_record
from guardproxy.sinks.database.store import AuditStore
from guardproxy.types import Record

_READ = 200  # records in one query

# No part of the chain, as the claims of reviewers: it says what was sent, not what happened.
_metadata = MetaData()
_receivers = Table(
    "guardproxy_receivers",
    _metadata,
    Column("receiver", String, primary_key=True),
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("state", Text, nullable=False),
    Column("holder", String, nullable=False),
    Column("until", Float(53), nullable=False),
)
_READ_COLUMNS = tuple(records.c["seq", "content", "sealed_text", "sealed_quotes"])

_log = structlog.get_logger("guardproxy.alerts")


class FollowedStore(AuditStore):
    """The audit store, read behind its last record, with a place for what each receiver of alerts has been told.

    Several processes may follow one store. For each receiver one of them does: who `seize`s it holds it until a time,
    and must `note` something before that time, or another one may seize it. Times are in seconds since 1970.
    """

    async def begin(self, receivers: Collection[str]) -> None:
        """Note for each receiver that has no place yet that it is to be told of what is stored from now on."""
        async with self._database.writing() as connection:
            await connection.run_sync(_metadata.create_all)
            known = set(await connection.scalars(select(_receivers.c.receiver)))
            seq = (await read_head(connection)).seq
            new = sorted({search_key(name) for name in receivers} - known)
            rows = [{"receiver": name, "seq": seq, "state": "", "holder": "", "until": 0.0} for name in new]
            if rows:
                await connection.execute(insert(_receivers), rows)

    async def seize(self, receiver: str, holder: str, now: float, until: float) -> Told | None:
        """Hold a receiver until a time; return how far it has been told. None if another process holds it `now`.

        Raises LookupError unless the receiver has a place (`begin`).
        """
        row = _receivers.c
        where = row.receiver == search_key(receiver)
        query = select(row.seq, row.state, row.holder, row.until).where(where)
        async with self._database.reading() as connection:  # first: who only reads keeps nobody from writing
            if _is_held((await connection.execute(query)).first(), holder, now):
                return None
        async with self._database.writing() as connection:
            found = (await connection.execute(query)).first()
            if found is None:
                raise LookupError(receiver)
            if _is_held(found, holder, now):
                return None
            await connection.execute(update(_receivers).where(where).values(holder=holder, until=until))
        return Told(found.seq, found.state)

    async def note(self, receiver: str, holder: str, told: Told, until: float) -> bool:
        """Note how far a receiver has been told, and hold it until a time. False if another process holds it."""
        values = {"seq": told.seq, "state": told.state, "until": until}
        return await self._change(receiver, holder, values)

    async def release(self, receiver: str, holder: str) -> None:
        """Let another process seize the receiver at once."""
        await self._change(receiver, holder, {"holder": "", "until": 0.0})

    async def _change(self, receiver: str, holder: str, values: dict[str, object]) -> bool:
        where = (_receivers.c.receiver == search_key(receiver), _receivers.c.holder == holder)
        async with self._database.writing() as connection:
            return (await connection.execute(update(_receivers).where(*where).values(values))).rowcount == 1

    async def behind(self, seq: int, actions: Collection[str] | None) -> tuple[list[tuple[int, Record]], int]:
        """Return the next records behind a number, with theirs, and the number up to which there are no others.

        Those that were erased are left out, and those with another decision than one of `actions`.
        """
        row = records.c
        where = [row.seq > seq, row.action.is_not(None)]
        if actions is not None:
            where.append(row.action.in_(actions))
        async with self._database.reading() as connection:
            head = (await read_head(connection)).seq
            if head <= seq:
                return [], seq
            query = select(*_READ_COLUMNS).where(*where).order_by(row.seq).limit(_READ)
            rows = (await connection.execute(query)).all()
        return await self._records(rows), rows[-1].seq if len(rows) == _READ else head

    async def numbered(self, numbers: Sequence[int]) -> dict[int, Record]:
        """Return the records with these numbers; those that were erased are left out."""
        row = records.c
        async with self._database.reading() as connection:
            query = select(*_READ_COLUMNS).where(row.seq.in_(numbers), row.content.is_not(None))
            rows = (await connection.execute(query)).all()
        return dict(await self._records(rows))

    async def _records(self, rows: Sequence[Any]) -> list[tuple[int, Record]]:
        """The records of rows, many or long ones read on a thread: requests do not wait for it."""
        size = sum(len(part) for row in rows for part in (row.content, row.sealed_text) if part)
        return await computed(size, lambda: list(_readable(rows, self._cipher)))


def _is_held(found: Any, holder: str, now: float) -> bool:
    """Whether somebody else than `holder` holds a receiver."""
    return found is not None and found.holder not in ("", holder) and found.until > now


def _readable(rows: Sequence[Any], cipher: PartsCipher) -> Iterator[tuple[int, Record]]:
    for row in rows:
        if row.content is None:  # erased
            continue
        try:
            yield row.seq, read_record(row.content, opened_parts(row, cipher))
        except (ValueError, KeyError, TypeError) as error:  # `audit verify` reports the row; later ones must be read
            _log.error("audit_row_unreadable", row=row.seq, error=type(error).__name__)
